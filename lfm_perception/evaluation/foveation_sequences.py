# SPDX-License-Identifier: Apache-2.0
"""Image sequences for the evaluation of foveated inference: the demo world, labelled folders and bags."""

from __future__ import annotations

import functools
import random
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from lfm_perception.demo.bodies import Difficulty, random_body
from lfm_perception.demo.world import World
from lfm_perception.errors import PerceptionError
from lfm_perception.evaluation.foveation import FPS, ImageSequence, stride
from lfm_perception.evaluation.labels import LabelledImage, open_labelled
from lfm_perception.evaluation.pixel_limited import CAST, in_perspective
from lfm_perception.evaluation.sequences import read_motchallenge
from lfm_perception.evaluation.tracking import TrackingSequence, TrueObject
from lfm_perception.media import images
from lfm_perception.media.sources.base import measured_rate
from lfm_perception.media.sources.images import image_files
from lfm_perception.scene import Frame
from lfm_perception.stamps import from_seconds

SMALL = Difficulty(max_objects=10, max_overlap=0.85, far=0.2, near=0.8, max_cut=0.8)
"""A hall deeper than that of the demo, whose smallest objects are still drawn and labelled."""

CACHED_FRAMES = 16


def demo_image_sequence(seed: int, seconds: float, width: int, height: int) -> ImageSequence:
    """The demo world with small objects before a still camera, at half the frame rate: drawing takes time."""
    world = World(seed, width, height, FPS / 2.0, pan=0.0)
    rng = random.Random(f"fovea {seed}")
    world.stage = replace(world.stage, difficulty=SMALL)
    world.bodies = tuple(in_perspective(random_body(rng, label, moving=True), SMALL, rng) for label in CAST)
    snapshot = functools.lru_cache(CACHED_FRAMES)(world.snapshot)
    frames = tuple(
        tuple(TrueObject(each.object_id, each.label, each.box) for each in snapshot(index).objects)
        for index in range(round(seconds * world.fps))
    )
    truth = TrackingSequence(f"demo {seed}", world.fps, width, height, frames)
    return ImageSequence(truth, lambda index: snapshot(index).frame, still=True)


def labelled_sequences(folder: Path) -> list[ImageSequence]:
    """The sequences of a folder in the MOTChallenge format, with their pictures in `img1`.

    Raises:
        PerceptionError: there is no sequence, or its pictures do not go with its labels.
    """
    folders = [path for path in (folder, *sorted(folder.glob("*"))) if (path / "seqinfo.ini").is_file()]
    if not folder.is_dir():
        raise PerceptionError(f"there is no {folder}: give demo, a folder of sequences or a rosbag2")
    if not folders:
        raise PerceptionError(
            f"{folder} holds no sequence: a sequence has seqinfo.ini, gt/gt.txt and pictures in img1"
        )
    return [_labelled_sequence(path) for path in folders]


def _labelled_sequence(folder: Path) -> ImageSequence:
    (truth,), files = read_motchallenge(folder), image_files(str(folder / "img1"))
    if len(files) < len(truth.frames):
        raise PerceptionError(
            f"{folder} has labels of {len(truth.frames)} frames and {len(files)} pictures in img1"
        )

    @functools.lru_cache(CACHED_FRAMES)
    def frame(index: int) -> Frame:
        return Frame(images.read(files[index]), from_seconds(index / truth.fps))

    first = frame(0)
    if (first.width, first.height) != (truth.width, truth.height):
        raise PerceptionError(
            f"{folder}: seqinfo.ini says {truth.width}x{truth.height}, and the first picture is "
            f"{first.width}x{first.height}"
        )
    return ImageSequence(truth, frame)


def labelled_bag(bag: Path, annotations: str | None = None, topic: str | None = None) -> ImageSequence:
    """The labelled images of a rosbag2 as a sequence; arguments as for `open_labelled`.

    The `id` of a box says which object it is: the same in all images.

    Raises:
        PerceptionError: the labels cannot be used, or the images are no sequence.
    """

    def read() -> Iterator[LabelledImage]:
        with open_labelled(bag, annotations, topic=topic) as opened:
            yield from opened.images

    identities, frames, stamps_ns = dict[str, int](), list[tuple[TrueObject, ...]](), list[int]()
    size = (0, 0)
    for image in read():
        where, shape = f"{bag}, {image.name}", (image.frame.width, image.frame.height)
        if frames and (shape != size or image.frame.stamp_ns <= stamps_ns[-1]):
            raise PerceptionError(f"{where}: the size of the images changes, or the time goes back")
        known = [identities.setdefault(each.identity, len(identities)) for each in image.truth]
        if "" in identities or len(set(known)) < len(known):
            raise PerceptionError(
                f"{where}: the id of each box must be the number of its object, the same in all images"
            )
        size = shape
        stamps_ns.append(image.frame.stamp_ns)
        frames.append(
            tuple(
                TrueObject(number, each.label, each.box)
                for number, each in zip(known, image.truth, strict=True)
            )
        )
    fps = measured_rate(stamps_ns, FPS)
    images_in_order = _InOrder(lambda: (image.frame for image in read()), stride(fps) + 1)
    truth = TrackingSequence(str(bag), fps, *size, tuple(frames))
    return ImageSequence(truth, images_in_order, stamps_ns=tuple(stamps_ns))


class _InOrder:
    """Frames by index from an iterator, which is begun again for one that is older than the last `kept`."""

    def __init__(self, read: Callable[[], Iterator[Frame]], kept: int) -> None:
        self._read, self._kept = read, deque[Frame](maxlen=kept)
        self._frames: Iterator[Frame] = iter(())
        self._count = 0

    def __call__(self, index: int) -> Frame:
        if index < self._count - len(self._kept) or not self._count:
            self._frames, self._count = self._read(), 0
            self._kept.clear()
        while self._count <= index:
            self._kept.append(next(self._frames))
            self._count += 1
        return self._kept[index - self._count]
