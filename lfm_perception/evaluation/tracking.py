"""How well objects are followed, measured by the rules of the tracking benchmarks.

A `Film` is the truth: who is where in every frame. A `Detector` says what a slow model makes of it: which
frames it looks at, how late each answer comes, and how its boxes err. A `Follower` is told the answers when
they arrive and is asked at every frame where things are now: `follow` plays a film to it, and `judge`
compares what it showed with the truth by HOTA, MOTA and IDF1, which the package `trackeval` computes.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from lfm_perception.errors import PerceptionError
from lfm_perception.geometry import Box, iou_matrix, stack
from lfm_perception.scene import Detection, Image, Track
from lfm_perception.tracking import Tracker
from lfm_perception.tracking.ego_motion import EgoMotionEstimator


@dataclass(frozen=True, slots=True)
class Figure:
    """Someone or something in a frame of a film; `identity` stays the same throughout."""

    identity: int
    label: str
    box: Box


@dataclass(frozen=True, slots=True)
class Film:
    """The truth of a sequence, frame by frame; `width` and `height` in pixels."""

    name: str
    fps: float
    width: int
    height: int
    frames: tuple[tuple[Figure, ...], ...]


@dataclass(frozen=True, slots=True)
class Noise:
    """How the boxes of a vision-language model err.

    `jitter`: standard deviation of each side, in widths (heights) of the box. `drops`: share of objects not
    named. `ghosts`: boxes of nothing, per object. `flips`: share of wrong labels. `decimals` of a coordinate.
    """

    jitter: float = 0.03
    drops: float = 0.15
    ghosts: float = 0.05
    flips: float = 0.05
    decimals: int = 2


VLM = Noise()
CLEAN = Noise(jitter=0.0, drops=0.0, ghosts=0.0, flips=0.0, decimals=6)


@dataclass(frozen=True, slots=True)
class Detector:
    """A protocol: how a detector sees a film.

    It looks at every `every`-th frame and answers `delay` frames later. With `slowest` it looks at the next
    frame when it has answered, which takes from `delay` to `slowest` frames (one request in flight,
    jittered).
    """

    name: str
    every: int
    delay: int
    slowest: int = 0
    noise: Noise = VLM

    def looks(self, frames: int, rng: random.Random) -> Iterator[tuple[int, int]]:
        """(frame looked at, frame at which the answer is there), in order."""
        looked = 0
        while looked < frames:
            delay = rng.randint(self.delay, self.slowest) if self.slowest else self.delay
            yield looked, looked + delay
            looked += delay if self.slowest else self.every


DETECTORS = {
    detector.name: detector
    for detector in (
        Detector("sparse-late", every=6, delay=6),
        Detector("jittered", every=6, delay=5, slowest=11),
        Detector("sparse", every=6, delay=0),
        Detector("every-frame", every=1, delay=0),
        Detector("every-frame-clean", every=1, delay=0, noise=CLEAN),
        Detector("sparse-late-clean", every=6, delay=6, noise=CLEAN),
    )
}
"""The named protocols. At 25 frames per second 6 frames are 240 ms."""

FLIPPED = "something else"
SCORE = 0.9
"""Of all detections made from the truth, right or wrong, so that no tracker learns from it which is which."""


class Shown(Protocol):
    """What is said to be somewhere."""

    @property
    def track_id(self) -> int: ...

    @property
    def box(self) -> Box: ...


S = TypeVar("S", bound=Shown)
S_co = TypeVar("S_co", bound=Shown, covariant=True)


class Follower(Protocol[S_co]):
    """What is judged. `lfm_perception.tracking.Tracker` is one."""

    def update(self, detections: Sequence[Detection], stamp_s: float) -> object:
        """The answer about the frame at `stamp_s` has arrived."""
        ...

    def predict(self, stamp_s: float) -> Sequence[S_co]:
        """Where things are; asked once per frame, in order."""
        ...


def noisy(figures: Sequence[Figure], noise: Noise, rng: random.Random) -> list[tuple[Detection, int | None]]:
    """Detections of a frame as a model might name them, with the identity behind each; None for ghosts."""
    seen: list[tuple[Detection, int | None]] = []
    for figure in figures:
        if rng.random() >= noise.drops:
            label = FLIPPED if rng.random() < noise.flips else figure.label
            wide, high = figure.box.width * noise.jitter, figure.box.height * noise.jitter
            sides = [
                side + rng.gauss(0.0, spread)
                for side, spread in zip(figure.box.xyxy.tolist(), (wide, high, wide, high), strict=True)
            ]
            if (box := _box(sides, noise.decimals)) is not None:
                seen.append((Detection(label, box, SCORE), figure.identity))
        if rng.random() < noise.ghosts:
            wide, high = figure.box.width * rng.uniform(0.7, 1.3), figure.box.height * rng.uniform(0.7, 1.3)
            left, top = rng.uniform(0.0, 1.0 - min(wide, 0.9)), rng.uniform(0.0, 1.0 - min(high, 0.9))
            if (box := _box([left, top, left + wide, top + high], noise.decimals)) is not None:
                seen.append((Detection(figure.label, box, SCORE), None))
    rng.shuffle(seen)
    return seen


def _box(sides: Sequence[float], decimals: int) -> Box | None:
    x1, y1, x2, y2 = (min(max(round(side, decimals), 0.0), 1.0) for side in sides)
    return Box(x1, y1, x2, y2) if x1 < x2 and y1 < y2 else None


Look = Callable[[int], Sequence[Detection]]
"""What is seen in the frame of that index."""


def from_truth(film: Film, noise: Noise, seed: int) -> Look:
    """Detections made of the truth."""
    rng = random.Random(f"{seed} {film.name} noise")
    return lambda index: [detection for detection, _ in noisy(film.frames[index], noise, rng)]


def follow(
    film: Film, detector: Detector, follower: Follower[S], seed: int, look: Look | None = None
) -> list[Sequence[S]]:
    """What the follower shows at each frame of the film. Without `look` the truth is seen, with noise."""
    look = look or from_truth(film, detector.noise, seed)
    rng = random.Random(f"{seed} {film.name}")
    looks = detector.looks(len(film.frames), rng)
    looked, arrives = next(looks, (0, len(film.frames)))
    shown: list[Sequence[S]] = []
    for index in range(len(film.frames)):
        while arrives <= index:
            follower.update(look(looked), looked / film.fps)
            looked, arrives = next(looks, (0, len(film.frames)))
        shown.append(follower.predict(index / film.fps))
    return shown


class Watching:
    """A tracker that is also shown every picture, for the camera's motion."""

    def __init__(self, tracker: Tracker, picture: Callable[[int], Image], fps: float) -> None:
        self._tracker, self._picture, self._fps = tracker, picture, fps
        self._camera = EgoMotionEstimator()

    def update(self, detections: Sequence[Detection], stamp_s: float) -> object:
        return self._tracker.update(detections, stamp_s)

    def predict(self, stamp_s: float) -> Sequence[Track]:
        picture = self._picture(round(stamp_s * self._fps))
        view = self._camera.measure(picture, self._tracker.moving_boxes(stamp_s))
        self._tracker.add_ego_motion(view, stamp_s)
        return self._tracker.predict(stamp_s)


@dataclass(frozen=True, slots=True)
class Figures:
    """HOTA and its halves, MOTA and IDF1 in per cent; numbers of switched ids, false and missed boxes."""

    hota: float
    deta: float
    assa: float
    mota: float
    idf1: float
    switches: float
    false: float
    missed: float


def mean(figures: Sequence[Figures]) -> Figures:
    """The mean of each figure, over seeds for example."""
    return Figures(*(float(np.mean([getattr(f, field.name) for f in figures])) for field in fields(Figures)))


def judge(runs: Mapping[str, tuple[Film, Sequence[Sequence[Shown]]]]) -> Figures:
    """The figures of all runs together, by name of the film.

    Raises PerceptionError when the packages that count are missing.
    """
    try:
        from trackeval.metrics import CLEAR, HOTA, Identity
    except ImportError as error:
        raise PerceptionError(
            f"this needs {error.name}: install the extra 'eval' and then `pip install --no-deps trackeval`"
        ) from error
    quiet = {"PRINT_CONFIG": False}
    data = {name: _trackeval_data(film, shown) for name, (film, shown) in runs.items()}
    totals = [
        metric.combine_sequences({name: metric.eval_sequence(entry) for name, entry in data.items()})
        for metric in (HOTA(), CLEAR(dict(quiet)), Identity(dict(quiet)))
    ]
    hota, clear, identity = totals
    return Figures(
        hota=100.0 * float(np.mean(hota["HOTA"])),
        deta=100.0 * float(np.mean(hota["DetA"])),
        assa=100.0 * float(np.mean(hota["AssA"])),
        mota=100.0 * float(clear["MOTA"]),
        idf1=100.0 * float(identity["IDF1"]),
        switches=float(clear["IDSW"]),
        false=float(clear["CLR_FP"]),
        missed=float(clear["CLR_FN"]),
    )


def _trackeval_data(film: Film, shown: Sequence[Sequence[Shown]]) -> dict[str, Any]:
    """A run in the form that trackeval's metrics take: identities counted from 0, overlaps frame by frame."""
    true_ids, true_count = _counted([[figure.identity for figure in frame] for frame in film.frames])
    shown_ids, shown_count = _counted([[track.track_id for track in frame] for frame in shown])
    overlaps = [
        iou_matrix(stack(figure.box for figure in figures), stack(track.box for track in tracks))
        for figures, tracks in zip(film.frames, shown, strict=True)
    ]
    return {
        "num_timesteps": len(film.frames),
        "num_gt_ids": true_count,
        "num_tracker_ids": shown_count,
        "num_gt_dets": sum(map(len, true_ids)),
        "num_tracker_dets": sum(map(len, shown_ids)),
        "gt_ids": true_ids,
        "tracker_ids": shown_ids,
        "similarity_scores": overlaps,
    }


def _counted(identities: Sequence[Sequence[int]]) -> tuple[list[NDArray[np.int64]], int]:
    """The identities renamed to 0, 1, 2..., and how many there are."""
    number: dict[int, int] = {}
    for frame in identities:
        for identity in frame:
            number.setdefault(identity, len(number))
    return [np.array([number[i] for i in frame], dtype=np.int64) for frame in identities], len(number)
