# SPDX-License-Identifier: Apache-2.0
"""Ground truth of the TUD sequences and of folders in the MOTChallenge format."""

from __future__ import annotations

import configparser
import math
from collections import defaultdict
from importlib.util import find_spec
from pathlib import Path

from lfm_perception.errors import PerceptionError
from lfm_perception.evaluation.tracking import TrackingSequence, TrueObject
from lfm_perception.files import MAX_DATA_BYTES, read_text
from lfm_perception.geometry import Box
from lfm_perception.scene import check_size

TUD = ("TUD-Campus", "TUD-Stadtmitte")
"""Two street scenes with annotated pedestrians (Andriluka et al. 2008, 2010; CC BY-NC-SA), 640 x 480 at 25
Hz, whose ground truth is read from the package `motmetrics`."""

MAX_FRAMES = 1_000_000
"""Maximum number of frames in a sequence: eleven hours at 25 Hz."""

MAX_FPS = 1000.0
"""Maximum frame rate of a sequence, frames per second."""

PEDESTRIAN = 1
"""Class number of the MOTChallenge from 2016 on, whose lines have nine numbers. Earlier lines have ten, and
are pedestrians."""


def read_tud() -> tuple[TrackingSequence, ...]:
    """Both sequences; raises PerceptionError when motmetrics is not installed."""
    spec = find_spec("motmetrics")
    if spec is None or not spec.submodule_search_locations:
        raise PerceptionError("the TUD sequences are in the package motmetrics: install the extra 'eval'")
    data = Path(spec.submodule_search_locations[0]) / "data"
    return tuple(_read_truth(name, data / name / "gt.txt", 25.0, 640, 480) for name in TUD)


def read_motchallenge(folder: Path) -> tuple[TrackingSequence, ...]:
    """The sequences of a folder: itself, or each folder in it, that holds `seqinfo.ini` and `gt/gt.txt`.

    Raises:
        PerceptionError: there is no sequence, or one cannot be read.
    """
    if not folder.is_dir():
        raise PerceptionError(f"there is no {folder}: give tud, demo, synthetic or a folder of sequences")
    folders = [folder, *sorted(path for path in folder.iterdir() if path.is_dir())]
    sequences = [_read_sequence(each) for each in folders if (each / "seqinfo.ini").is_file()]
    if not sequences:
        raise PerceptionError(f"{folder} holds no sequence: a sequence has seqinfo.ini and gt/gt.txt")
    return tuple(sequences)


def _read_sequence(folder: Path) -> TrackingSequence:
    file, parser = folder / "seqinfo.ini", configparser.ConfigParser()
    try:
        parser.read_string(read_text(file))
        info = parser["Sequence"]
        fps, width, height = info.getfloat("frameRate"), info.getint("imWidth"), info.getint("imHeight")
    except (configparser.Error, KeyError, ValueError, PerceptionError) as error:
        raise PerceptionError(f"{file} cannot be read: {error}") from error
    if not fps or not width or not height:
        raise PerceptionError(f"{file} must give frameRate, imWidth and imHeight in [Sequence]")
    if not 0.0 < fps <= MAX_FPS:  # also refuses NaN
        raise PerceptionError(f"{file}: frameRate must be above 0 and at most {MAX_FPS:g}, got {fps:g}")
    check_size(width, height, f"{file}: the image")
    return _read_truth(folder.name, folder / "gt" / "gt.txt", fps, width, height)


def _read_truth(name: str, file: Path, fps: float, width: int, height: int) -> TrackingSequence:
    """Reads frame, id, left, top, width, height, considered, class; pixels, frames and corners from 1."""
    frames: dict[int, list[TrueObject]] = defaultdict(list)
    try:
        lines = read_text(file, MAX_DATA_BYTES).splitlines()
    except PerceptionError as error:
        raise PerceptionError(f"{file}: {error}") from error
    for number, line in enumerate(lines, start=1):
        try:
            if not all(map(math.isfinite, map(float, line.split(",")))):
                raise ValueError("not finite")
            frame, identity, left, top, wide, high, considered, kind, *rest = map(float, line.split(","))
        except ValueError as error:
            raise PerceptionError(
                f"{file}, line {number}: expected eight numbers or more, got {line[:60]!r}"
            ) from error
        if not 1 <= frame <= MAX_FRAMES:
            raise PerceptionError(f"{file}, line {number}: the frame is {frame:g}, not 1 to {MAX_FRAMES}")
        if considered == 0.0 or (len(rest) == 1 and kind != PEDESTRIAN):
            continue
        x1, x2 = (min(max((side - 1) / width, 0.0), 1.0) for side in (left, left + wide))
        y1, y2 = (min(max((side - 1) / height, 0.0), 1.0) for side in (top, top + high))
        if x1 < x2 and y1 < y2:
            frames[int(frame)].append(TrueObject(int(identity), "person", Box(x1, y1, x2, y2)))
    if not frames:
        raise PerceptionError(f"{file} holds no box of a pedestrian")
    truth = tuple(tuple(frames[index]) for index in range(1, max(frames) + 1))
    return TrackingSequence(name, fps, width, height, truth)
