# SPDX-License-Identifier: Apache-2.0
"""Numbers of the reference preprocessing, Transformers' `Lfm2VlProcessor`, for `test/test_parity.py`.

    python -m venv /tmp/reference
    /tmp/reference/bin/pip install torch==2.13.0 torchvision==0.28.0 transformers==5.24.0 \
        gguf==0.19.0 jinja2 matplotlib opencv-python-headless pyyaml ruamel.yaml scikit-image scikit-learn
    PYTHONPATH=.:tools /tmp/reference/bin/python -m parity.reference

Writes image sizes, samples of resized pixels, and whole prompts in the demo model's tokens to `test/data`,
and prints how far resizing here is from the reference on photographs of scikit-image and scikit-learn.
"""

from __future__ import annotations

import csv
import itertools
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
import torch.library
from numpy.typing import NDArray
from PIL import Image

if not torch.cuda.is_available():
    # torchvision's compiled operators need CUDA's libraries; resizing needs none of them
    torch.library.register_fake = lambda *_, **__: lambda function: function

from demo_model import tokenizer as vocabulary
from demo_model.export import CHAT_TEMPLATE
from transformers import PreTrainedTokenizerFast
from transformers.image_utils import SizeDict
from transformers.models.lfm2_vl.image_processing_lfm2_vl import Lfm2VlImageProcessor
from transformers.models.lfm2_vl.processing_lfm2_vl import Lfm2VlProcessor

from lfm_perception.image_plan import ImagePlan
from lfm_perception.planning.resize import resize
from lfm_perception.questions import CAPTION, DIALECTS

DATA = Path(__file__).resolve().parents[2] / "test" / "data"
SIZES = 2000
SAMPLES = 100
RESAMPLE = {"bilinear": 2, "bicubic": 3}

LIMITS: tuple[dict[str, Any], ...] = (
    {"min_tokens": 32, "max_tokens": 256},
    {"min_tokens": 64, "max_tokens": 256},
    {"min_tokens": 64, "max_tokens": 256, "thumbnail": False},
    {"min_tokens": 64, "max_tokens": 256, "pixel_tolerance": 1.5},
    {"min_tokens": 64, "max_tokens": 256, "min_tiles": 1},
    {"min_tokens": 32, "max_tokens": 128, "max_tiles": 4},
    {"min_tokens": 16, "max_tokens": 64, "tile_size": 256, "min_tiles": 3},
    {"min_tokens": 1, "max_tokens": 512, "splitting": False},
)
"""Limits as `ImageLimits` names them, with up to 10 tiles where nothing else is said."""

REFERENCE_NAMES = {
    "min_tokens": "min_image_tokens",
    "max_tokens": "max_image_tokens",
    "thumbnail": "use_thumbnail",
    "pixel_tolerance": "max_pixels_tolerance",
    "splitting": "do_image_splitting",
}

PIXEL_CASES = ((512, 600, 448, 512), (512, 600, 224, 288), (400, 300, 384, 288), (120, 90, 512, 384),
               (512, 96, 256, 64))  # fmt: skip
"""Width and height of the part of the photograph, and those that it is resized to."""

FRAMES = ((256, 256), (640, 480), (1280, 720), (1000, 3000))


def sizes() -> Iterator[tuple[int, ...]]:
    """Limits, width, height; columns, rows, width and height of the single tile or thumbnail."""
    chance = random.Random(13)
    cameras = itertools.product(
        (320, 400, 640, 752, 800, 848, 1024, 1280, 1440, 1600, 1920, 2592, 3840), repeat=2
    )
    common = [(width, height * 3 // 4) for width, height in cameras]
    for index in range(SIZES):
        limits = index % len(LIMITS)
        width, height = chance.choice(common)
        if index % 3:
            width = int(2 ** chance.uniform(4, 12))
            height = max(1, int(width * 2 ** chance.uniform(-2, 2)))
        if index % 5 == 0:  # halves of a token's side
            width, height = width // 32 * 32 + 16, height // 16 * 16
        height = max(height, 1)
        columns, rows, size = layout(LIMITS[limits], width, height)
        yield limits, width, height, columns, rows, size[1], size[0]


def layout(limits: dict[str, Any], width: int, height: int) -> tuple[int, int, tuple[int, int]]:
    """Columns, rows, and height and width of the single tile, by the processor's own methods."""
    names = {REFERENCE_NAMES.get(key, key): value for key, value in limits.items()}
    splitting = names.pop("do_image_splitting", True)
    processor = Lfm2VlImageProcessor()
    default = {
        name: getattr(processor, name)
        for name in (
            "downsample_factor", "min_tiles", "max_tiles", "use_thumbnail", "min_image_tokens",
            "max_image_tokens", "encoder_patch_size", "tile_size", "max_pixels_tolerance",
        )
    }  # fmt: skip
    arguments = default | names | ({} if splitting else {"min_tiles": 1, "max_tiles": 1})
    empty = torch.empty((1, 3, height, width), dtype=torch.uint8, device="meta")
    _, rows, columns, ((tall, wide),) = processor.resize_and_split(empty, resample=2, **arguments)
    return columns[0], rows[0], (tall, wide)


def reference_pixels(image: NDArray[np.uint8], width: int, height: int, resample: str) -> NDArray[np.uint8]:
    """The image as the processor resizes it."""
    tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
    size = SizeDict(height=height, width=width)
    resized = Lfm2VlImageProcessor().resize(tensor, size, resample=RESAMPLE[resample])
    return np.asarray(resized[0].permute(1, 2, 0))


def photograph() -> NDArray[np.uint8]:
    """The photograph that comes with matplotlib, RGB."""
    path = Path(matplotlib.get_data_path(), "sample_data", "grace_hopper.jpg")
    return np.asarray(Image.open(path))


def pixels() -> Iterator[dict[str, Any]]:
    """Samples of resized parts of the photograph."""
    image = photograph()
    for (wide, tall, width, height), resample in itertools.product(PIXEL_CASES, RESAMPLE):
        resized = reference_pixels(image[:tall, :wide], width, height, resample)
        places = np.random.default_rng(0).integers(0, (height, width), (SAMPLES, 2))
        yield {
            "part": [wide, tall],
            "size": [width, height],
            "resample": resample,
            "mean": round(float(resized.mean()), 3),
            "places": places.tolist(),
            "values": resized[places[:, 0], places[:, 1]].tolist(),
        }


def prompts() -> Iterator[dict[str, Any]]:
    """Whole prompts in tokens; -n stands for n image tokens."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=vocabulary.build(),
        bos_token="<|startoftext|>",
        pad_token="<|pad|>",
        image_token="<image>",
        extra_special_tokens={"image_token": "<image>"},
    )
    processor = Lfm2VlProcessor(Lfm2VlImageProcessor(min_image_tokens=32), tokenizer, CHAT_TEMPLATE)
    labels = ("person", "pallet")
    asked = [dialect.prompt(labels) for dialect in DIALECTS.values()] + [CAPTION]
    for prompt, (width, height) in itertools.product(asked, FRAMES):
        system = [{"role": "system", "content": prompt.system}] if prompt.system else []
        content = [{"type": "image"}, {"type": "text", "text": prompt.user}]
        text = processor.apply_chat_template(
            [*system, {"role": "user", "content": content}],
            add_generation_prompt=True,
            bos_token="<|startoftext|>",
        )
        image = np.zeros((height, width, 3), np.uint8)
        (ids,) = processor(images=[image], text=[text], return_tensors=None)["input_ids"]
        runs = [(token, len(list(run))) for token, run in itertools.groupby(ids)]
        tokens: list[int] = []
        for token, count in runs:
            tokens += [-count] if token == vocabulary.IMAGE else [token] * count
        yield {"size": [width, height], "system": prompt.system, "user": prompt.user, "tokens": tokens}


def differences() -> Iterator[str]:
    """How far resizing here is from the reference, for photographs at three sizes and both filters."""
    from skimage import data
    from sklearn.datasets import load_sample_images

    photos = {name: getattr(data, name)() for name in ("astronaut", "chelsea", "coffee", "rocket")}
    photos |= {f"sklearn {index}": image for index, image in enumerate(load_sample_images().images)}
    for name, image in photos.items():
        for (width, height), resample in itertools.product(((576, 416), (256, 192), (1024, 512)), RESAMPLE):
            plan = ImagePlan(width, height, resample=resample)
            here = resize(np.ascontiguousarray(image[..., :3]), plan).astype(int)
            off = np.abs(here - reference_pixels(image[..., :3], width, height, resample))
            yield f"{name:10} {width}x{height} {resample}: mean {off.mean():.4f}, largest {off.max()}"


def main() -> None:
    DATA.mkdir(exist_ok=True)
    with (DATA / "sizes.csv").open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(sizes())
    for name, values in (("limits", LIMITS), ("pixels", pixels()), ("prompts", prompts())):
        lines = ",\n".join(json.dumps(value) for value in values)
        (DATA / f"{name}.json").write_text(f"[\n{lines}\n]\n")
    print(*differences(), sep="\n")


if __name__ == "__main__":
    main()
