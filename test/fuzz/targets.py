"""What is done with an input: the functions that `readers.py` lists.

Each makes, in an empty folder, a function that gets the path of the input's file or its bytes.
"""

from __future__ import annotations

import functools
import json
import random
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from mutations import VALUES
from seeds import DETECTION, REPORT, SEQUENCE, TRUTH, USAGE

Read = Callable[[Any], object]

# --- settings ---------------------------------------------------------------------------------------


def settings(folder: Path) -> Read:
    from lfm_perception.settings import Settings

    return lambda file: Settings.load(file).dialect


def changes(folder: Path) -> Read:
    import typer

    from lfm_perception.cli.options import load_settings
    from lfm_perception.errors import PerceptionError

    def read(data: bytes) -> object:
        try:
            return load_settings(None, [data.decode(errors="surrogateescape")])
        except typer.BadParameter as error:  # the command line's own, which it prints in a frame
            raise PerceptionError(str(error)) from error

    return read


def values(folder: Path) -> Read:
    """Values as ROS parameters and Python callers give them; the input chooses name and value."""
    from lfm_perception.settings import Settings, parameter_specs

    names = list(parameter_specs())
    values = (*VALUES, b"x", (1,), ("\ud800",), object(), complex(1, 2), range(3), ["a"] * 3000, "x" * 10**5)

    def read(data: bytes) -> object:
        rng = random.Random(data)
        return Settings().with_values(
            {rng.choice(names): rng.choice(values) for _ in range(rng.randint(1, 2))}
        )

    return read


# --- models -----------------------------------------------------------------------------------------


def registry(folder: Path) -> Read:
    from lfm_perception.models.registry import Registry

    return lambda file: [model.mmproj(None) for model in Registry(file)]


def store(folder: Path) -> Read:
    from lfm_perception.models.store import Store

    (folder / "m").mkdir()
    for name in ("a.gguf", "b.gguf"):
        (folder / "m" / name).write_bytes(b"abc")

    def read(file: Path) -> object:
        store = Store(folder)
        store.find("m").check()
        return store.names()

    return read


def gguf(index: int) -> Callable[[Path], Read]:
    """Checks of a pair of model files, one with a mutated header and a hole in place of its tensors."""

    def prepare(folder: Path) -> Read:
        from lfm_perception.backends.llama import model_files
        from lfm_perception.engine import gguf_checks
        from lfm_perception.errors import PerceptionError
        from lfm_perception.settings import Settings

        pair = list(model_files(Settings()))
        size = pair[index].stat().st_size

        def read(file: Path) -> object:
            if file.is_file() and file.stat().st_size > 64:
                with file.open("r+b") as handle:
                    handle.truncate(size)
            pair[index] = file
            with suppress(PerceptionError):  # it is none
                gguf_checks.check_adapter(file, pair[0])
            gguf_checks.check_pair(*pair)
            return None

        return read

    return prepare


@functools.cache
def gguf_header(index: int) -> bytes:
    from lfm_perception.backends.llama import model_files
    from lfm_perception.engine.gguf import read_header
    from lfm_perception.settings import Settings

    file = model_files(Settings())[index]
    header = read_header(file)
    with file.open("rb") as handle:
        return handle.read(min(tensor.offset for tensor in header.tensors.values()))


# --- answers ----------------------------------------------------------------------------------------


@functools.cache
def recorded_line() -> Any:
    import numpy as np

    from lfm_perception.backends.recorded import image_hash
    from lfm_perception.questions import BBOX
    from lfm_perception.scene import Frame

    prompt, frame = BBOX.prompt(("person",)), Frame(np.zeros((48, 64, 3), np.uint8), 10**9)
    return {
        "image": image_hash(frame),
        "stamp_ns": 10**9,
        "frame_id": "c",
        "system": prompt.system,
        "user": prompt.user,
        "dialect": BBOX.name,
        "labels": ["person"],
        "closed": False,
        "text": "[]",
        "truncated": False,
        "rejects": {"no_box": 1},
        "detections": [DETECTION, {**DETECTION, "bbox_std": None}],
        "usage": USAGE,
    }


def recorded(folder: Path) -> Read:
    """Recorded answers, used: one frame inferred, its tracks predicted and everything written as JSON."""
    import numpy as np

    from lfm_perception.backends.recorded import RecordedVlm
    from lfm_perception.perception import Perception
    from lfm_perception.scene import Frame
    from lfm_perception.scene_json import scene_to_json
    from lfm_perception.settings import Settings
    from lfm_perception.tracking import open_tracker

    frame = Frame(np.zeros((48, 64, 3), np.uint8), 10**9)

    def read(file: Path) -> object:
        values = {"engine.backend": "recorded", "recorded.path": str(file), "caption.enabled": False}
        settings = Settings().with_values({**values, "detect.labels": ["person"]})
        perception = Perception(settings, RecordedVlm(settings), open_tracker(settings.tracker))
        scene = perception.infer(frame)
        return json.dumps(scene_to_json(scene), ensure_ascii=False, allow_nan=False).encode("utf-8")

    return read


def scene(folder: Path) -> Read:
    from lfm_perception.files import parse_json
    from lfm_perception.scene_json import scene_from_json, scene_to_json

    def read(data: bytes) -> object:
        scene = scene_from_json(parse_json(data.decode(errors="replace")))
        return json.dumps(scene_to_json(scene), ensure_ascii=False, allow_nan=False).encode("utf-8")

    return read


def answers(folder: Path) -> Read:
    from lfm_perception.answers import parse
    from lfm_perception.questions import DIALECTS

    def read(data: bytes) -> object:
        text = data.decode(errors="surrogatepass")
        return [parse(text, dialect, labels=("person", "box")).detections for dialect in DIALECTS.values()]

    return read


def reply(folder: Path) -> Read:
    from lfm_perception.backends import openai_protocol
    from lfm_perception.backends.openai_transport import Response
    from lfm_perception.image_plan import ImagePlan
    from lfm_perception.questions import BBOX, CAPTION, FramePlan, Question, ask

    plan, url = FramePlan(ImagePlan(64, 64), 500), "http://host/v1"
    questions = (ask(CAPTION), Question(BBOX.prompt(("box",)), BBOX, ("box",)))

    def read(data: bytes) -> object:
        reply = openai_protocol.reply_of(Response(200, data), url)
        openai_protocol.first_model(reply)
        found = [openai_protocol.answer_of(reply, url, question, plan, 0.5) for question in questions]
        return [detection.label.encode() for answer in found for detection in answer.detections]

    return read


def refusal(folder: Path) -> Read:
    """Answers of servers that refuse a request: what they refuse is learned, and told."""
    from lfm_perception.backends.openai_fields import RequestFields
    from lfm_perception.backends.openai_protocol import refusal_of
    from lfm_perception.backends.openai_transport import Response

    def read(data: bytes) -> object:
        response = Response(400, data)
        RequestFields("auto", lambda notice: None).learn(
            {"seed": 1, "max_tokens": 9, "response_format": {}}, response
        )
        raise refusal_of(response, "http://host/v1", "LFM_PERCEPTION_KEY")

    return read


# --- labels and reports -----------------------------------------------------------------------------


def labels(**files: str) -> Callable[[Path], Read]:
    """Labelled images of a folder with one image and these files beside the input."""

    def prepare(folder: Path) -> Read:
        import cv2
        import numpy as np

        from lfm_perception.evaluation.labels import open_labelled

        cv2.imwrite(str(folder / "a.png"), np.zeros((48, 64, 3), np.uint8))
        for name, text in files.items():
            (folder / name.replace("_", ".")).write_text(text)

        def read(file: Path) -> object:
            with open_labelled(folder) as opened:
                return [image.truth for image in opened.images], opened.notes

        return read

    return prepare


def sequence(folder: Path) -> Read:
    from lfm_perception.evaluation.sequences import read_motchallenge

    (folder / "gt").mkdir()
    for file, text in (("seqinfo.ini", SEQUENCE), ("gt/gt.txt", TRUTH)):
        (folder / file).write_text(text)
    return lambda file: read_motchallenge(folder)


def words(folder: Path) -> Read:
    from lfm_perception.evaluation.languages import languages
    from lfm_perception.questions import BBOX

    return lambda file: languages(["de", "no"], BBOX, ["person", "box"], file)


def compare(folder: Path) -> Read:
    """Two reports compared: the table as the terminal shows it, and the page with its charts."""
    from rich.console import Console

    from lfm_perception.evaluation.compare import compare, table, write_compare_page

    other = folder / "B.json"
    other.write_text(json.dumps(REPORT))
    page = folder / "page.html"

    def read(file: Path) -> object:
        reports = compare(file, other)
        try:
            write_compare_page(page, *reports)
        finally:
            page.unlink(missing_ok=True)
        with Console(markup=False, quiet=True) as console:
            console.print(table(*reports))
        return None

    return read


# --- images and bags --------------------------------------------------------------------------------


@functools.cache
def pictures() -> tuple[bytes, ...]:
    import cv2
    import numpy as np

    pixels = np.arange(16 * 24 * 3, dtype=np.uint8).reshape(16, 24, 3)
    return tuple(
        cv2.imencode(f".{kind}", pixels)[1].tobytes() for kind in ("jpg", "png", "bmp", "webp", "tiff", "ppm")
    )


def image(folder: Path) -> Read:
    from lfm_perception.media import images

    return lambda file: images.read(file).shape


def string(text: bytes) -> bytes:
    return struct.pack("<I", len(text) + 1) + text + b"\0"


def padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)


@functools.cache
def messages(compressed: bool) -> tuple[bytes, ...]:
    start = padded(b"\0\1\0\0" + struct.pack("<iI", 5, 7) + string(b"camera"))
    if compressed:
        return tuple(
            padded(start + string(name)) + struct.pack("<I", len(data)) + data
            for name, data in zip((b"jpeg", b"rgb8; png compressed bgr8"), pictures(), strict=False)
        )
    made = []
    for encoding, channels in (
        (b"rgb8", 3),
        (b"mono16", 2),
        (b"bayer_rggb8", 1),
        (b"yuv422_yuy2", 2),
        (b"nv12", 1),
    ):
        height, width = 12, 8
        data = bytes(height * width * channels)
        fields = start + struct.pack("<II", height, width) + string(encoding)
        made.append(padded(fields + b"\0") + struct.pack("<II", width * channels, len(data)) + data)
    return tuple(made)


def message(compressed: bool) -> Callable[[Path], Read]:
    def prepare(folder: Path) -> Read:
        from lfm_perception.cdr import header_stamp_ns, image_fields, image_header
        from lfm_perception.media.images import from_message

        def read(data: bytes) -> object:
            header_stamp_ns(data)
            header = image_header(data, "/image", compressed=compressed)
            image = from_message(image_fields(data, header, "/image"), "an image", 4)
            return image.shape, header.frame_id.encode()

        return read

    return prepare


@functools.cache
def bag_file(name: str) -> bytes:
    """A file of a bag with two images and their detections."""
    import tempfile

    import numpy as np

    from lfm_perception.geometry import Box
    from lfm_perception.media.sinks import AnnotatedFrame
    from lfm_perception.media.sinks.bag import BagSink
    from lfm_perception.scene import Detection, Frame, Scene, Usage

    with tempfile.TemporaryDirectory() as folder:
        sink = BagSink(Path(folder) / "bag", 10.0)
        for index in range(2):
            image, stamp_ns = np.zeros((16, 24, 3), np.uint8), 10**9 + index * 10**8
            found = (Detection("box", Box(0.1, 0.1, 0.5, 0.5), 0.9),)
            scene = Scene(stamp_ns, "camera", 24, 16, found, (), None, False, {}, Usage())
            sink.write(AnnotatedFrame(index, Frame(image, stamp_ns), (), image, scene))
        sink.finish({})
        return next(Path(folder, "bag").glob(name)).read_bytes()


def bag(folder: Path) -> Read:
    from lfm_perception.evaluation.labels import open_labelled
    from lfm_perception.media.sources import open_source

    folder = folder / "bag"
    folder.mkdir()
    (folder / "bag.mcap").write_bytes(bag_file("*.mcap"))

    def read(file: Path) -> object:
        source = folder if file.name == "metadata.yaml" else file
        with open_source(str(source)) as opened:
            frames = [(frame.stamp_ns, frame.frame_id) for frame in opened.frames]
        with open_labelled(source, "/detections") as labelled:
            return frames, [image.truth for image in labelled.images]

    return read
