# SPDX-License-Identifier: Apache-2.0
"""Films with pictures for the evaluation of foveated inference: the demo world, and labelled films."""

from __future__ import annotations

import functools
import random
from dataclasses import replace
from pathlib import Path

from lfm_perception.demo.bodies import Difficulty, random_body
from lfm_perception.demo.world import World
from lfm_perception.errors import PerceptionError
from lfm_perception.evaluation.foveation import FPS, Film
from lfm_perception.evaluation.pixel_limited import CAST, in_perspective
from lfm_perception.evaluation.sequences import read_motchallenge
from lfm_perception.evaluation.tracking import TrackingSequence, TrueObject
from lfm_perception.media import images
from lfm_perception.media.sources.images import image_files
from lfm_perception.scene import Frame
from lfm_perception.stamps import from_seconds

SMALL = Difficulty(max_objects=10, max_overlap=0.85, far=0.2, near=0.8, max_cut=0.8)
"""A hall deeper than that of the demo, whose smallest objects are still drawn and labelled."""

CACHED_FRAMES = 16


def demo_film(seed: int, seconds: float, width: int, height: int) -> Film:
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
    sequence = TrackingSequence(f"demo {seed}", world.fps, width, height, frames)
    return Film(sequence, lambda index: snapshot(index).frame, still=True)


def labelled_films(folder: Path) -> list[Film]:
    """The films of a folder in the MOTChallenge format, with their pictures in `img1`.

    Raises:
        PerceptionError: there is no film, or its pictures do not go with its labels.
    """
    folders = [path for path in (folder, *sorted(folder.glob("*"))) if (path / "seqinfo.ini").is_file()]
    if not folders:
        raise PerceptionError(
            f"{folder} holds no film: a film has seqinfo.ini, gt/gt.txt and pictures in img1"
        )
    return [_labelled_film(path) for path in folders]


def _labelled_film(folder: Path) -> Film:
    (sequence,), files = read_motchallenge(folder), image_files(str(folder / "img1"))
    if len(files) < len(sequence.frames):
        raise PerceptionError(
            f"{folder} has labels of {len(sequence.frames)} frames and {len(files)} pictures in img1"
        )

    @functools.lru_cache(CACHED_FRAMES)
    def frame(index: int) -> Frame:
        return Frame(images.read(files[index]), from_seconds(index / sequence.fps))

    first = frame(0)
    if (first.width, first.height) != (sequence.width, sequence.height):
        raise PerceptionError(
            f"{folder}: seqinfo.ini says {sequence.width}x{sequence.height}, and the first picture is "
            f"{first.width}x{first.height}"
        )
    return Film(sequence, frame)
