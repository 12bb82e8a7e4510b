# SPDX-License-Identifier: Apache-2.0
"""Foveated inference against whole frames: sequences under one plan, and their figures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lfm_perception.errors import PerceptionError
from lfm_perception.evaluation.detection import match
from lfm_perception.evaluation.object_size import SizedObjects
from lfm_perception.evaluation.tracking import TrackingSequence, evaluate_tracks
from lfm_perception.geometry import WHOLE, Box, iou_matrix, shares_inside, stack
from lfm_perception.perception import Perception
from lfm_perception.scene import Frame, Scene, Track, View
from lfm_perception.settings import Settings
from lfm_perception.stamps import from_seconds
from lfm_perception.tracking import open_tracker
from lfm_perception.vlm import Vlm

FPS = 25.0
"""Frames per second of sequences that are made here."""

INFERENCE_S = 0.24
"""Time from one inference to the next, and from an inferred frame to its answer."""

SIZES = (0, 24, 40, 64, 100)
"""Lower bounds of the classes of object size, pixels of the frame."""

MIN_IOU = 0.5
"""IoU from which on a track is on an object."""

MIN_VISIBLE_S = 1.0
"""Time for which an object must be there to count among the new ones."""


@dataclass(frozen=True, slots=True)
class ImageSequence:
    """The frames of a sequence, which are asked for in about their order, and its ground truth.

    `still`: the camera does not move, and its motion need not be estimated. `stamps_ns` of the frames where
    they are not evenly spaced.
    """

    truth: TrackingSequence
    frame: Callable[[int], Frame]
    still: bool = False
    stamps_ns: tuple[int, ...] = ()

    def stamp_ns(self, index: int) -> int:
        """The stamp of a frame."""
        return self.stamps_ns[index] if self.stamps_ns else from_seconds(index / self.truth.fps)


def stride(fps: float) -> int:
    """Frames from one inference to the next."""
    return max(round(INFERENCE_S * fps), 1)


@dataclass(frozen=True, slots=True)
class SequenceRun:
    """A sequence's ground truth, its inferred frames (index, scene, view), and the tracks at every frame."""

    truth: TrackingSequence
    inferred: Sequence[tuple[int, Scene, View]]
    tracks: Sequence[Sequence[Track]]


def run_sequence(sequence: ImageSequence, vlm: Vlm, settings: Settings) -> SequenceRun:
    """Infers a frame every `INFERENCE_S`; its answer is known when the next one is inferred.

    Raises:
        PerceptionError: the sequence is too short, or the model fails.
    """
    perception = Perception(settings, vlm, open_tracker(settings.tracker))
    truth, tracks = sequence.truth, list[Sequence[Track]]()
    inferred = list[tuple[int, Scene, View]]()
    step = stride(truth.fps)
    for index in range(len(truth.frames)):
        if index >= step and index % step == 0:
            scene = perception.infer(sequence.frame(index - step))
            assert perception.plan is not None
            image = perception.plan.image
            inferred.append((index - step, scene, scene.view or View(WHOLE, image.width, image.height, 0.0)))
        if not sequence.still:
            perception.update_ego_motion(sequence.frame(index))
        tracks.append(perception.tracks(sequence.stamp_ns(index)))
    if not inferred:
        raise PerceptionError(f"{truth.name} has {len(truth.frames)} frames, too few for an inference")
    return SequenceRun(truth, inferred, tracks)


@dataclass(frozen=True, slots=True)
class FoveaFigures:
    """Figures of sequences under one plan.

    HOTA with its parts, precision and recall in per cent, of the tracks at every frame; `recall_by_size` by
    the classes of `SIZES`, of which `share_by_size` are the shares of the objects. Times in seconds until a
    new object has a track, infinite where it never has: median and 90th percentile. Tokens, milliseconds of
    compute and calls of llama_decode are means of the inferences.
    """

    hota: float
    deta: float
    assa: float
    precision: float
    recall: float
    recall_by_size: tuple[float | None, ...]
    share_by_size: tuple[float, ...]
    first_detection_p50_s: float
    first_detection_p90_s: float
    never_detected: float
    image_tokens: float
    answer_tokens: float
    compute_ms: float
    decode_calls: float

    def as_json(self) -> dict[str, Any]:
        """The figures, rounded; infinite times are None."""
        return {name: _rounded(getattr(self, name)) for name in self.__slots__}


def _rounded(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_rounded(each) for each in value]
    return None if value is None or np.isinf(value) else round(float(value), 2)


def figures(runs: Sequence[SequenceRun]) -> FoveaFigures:
    """The figures of several sequences together.

    Raises:
        PerceptionError: the packages of the extra `eval` are missing.
    """
    metrics = evaluate_tracks(
        {f"{row} {run.truth.name}": (run.truth, run.tracks) for row, run in enumerate(runs)}
    )
    sightings = [sighting for run in runs for sighting in _sightings(run)]
    hits, totals = np.zeros(len(SIZES)), np.zeros(len(SIZES))
    for each in sightings:
        hits[each.size] += each.is_hit
        totals[each.size] += 1
    delays = [delay for run in runs for delay in _delays_s(run)]
    boxes = sum(len(tracks) for run in runs for tracks in run.tracks)
    usages = [scene.usage for run in runs for _, scene, _ in run.inferred]
    return FoveaFigures(
        hota=metrics.hota,
        deta=metrics.deta,
        assa=metrics.assa,
        precision=100.0 * sum(map(_correct, runs)) / max(boxes, 1),
        recall=100.0 * float(hits.sum() / max(totals.sum(), 1.0)),
        recall_by_size=tuple(
            100.0 * hit / total if total else None for hit, total in zip(hits, totals, strict=True)
        ),
        share_by_size=tuple((100.0 * totals / max(totals.sum(), 1.0)).tolist()),
        first_detection_p50_s=_quantile(delays, 0.5),
        first_detection_p90_s=_quantile(delays, 0.9),
        never_detected=100.0 * float(np.isinf(delays).mean()) if delays else 0.0,
        image_tokens=float(np.mean([usage.image_tokens for usage in usages])),
        answer_tokens=float(np.mean([usage.answer_tokens for usage in usages])),
        compute_ms=1000.0 * float(np.mean([usage.total_s for usage in usages])),
        decode_calls=float(np.mean([usage.decode_calls for usage in usages])),
    )


@dataclass(frozen=True, slots=True)
class _Sighting:
    """An object in one frame, by its class of size, and whether a track is on it."""

    identity: int
    index: int
    size: int
    is_hit: bool


def _sightings(run: SequenceRun) -> Iterator[_Sighting]:
    area = run.truth.width * run.truth.height
    for index, (truth, on) in enumerate(zip(run.truth.frames, _on_objects(run), strict=True)):
        hits: list[bool] = np.any(on, axis=1).tolist()
        for each, is_hit in zip(truth, hits, strict=True):
            size = int(np.searchsorted(SIZES, np.sqrt(each.box.area * area), side="right")) - 1
            yield _Sighting(each.identity, index, size, is_hit)


def _on_objects(run: SequenceRun) -> Iterator[NDArray[np.bool_]]:
    """Which tracks are on which objects, frame by frame, shape (objects, tracks)."""
    for truth, tracks in zip(run.truth.frames, run.tracks, strict=True):
        overlap = iou_matrix(stack(each.box for each in truth), stack(each.box for each in tracks))
        yield np.asarray(overlap >= MIN_IOU)


def _correct(run: SequenceRun) -> int:
    """Number of tracks on an object, over all frames."""
    return sum(int(on.any(axis=0).sum()) for on in _on_objects(run))


def _delays_s(run: SequenceRun) -> Iterator[float]:
    """Seconds from the first frame of each object that stays to the first one with a track on it."""
    objects: dict[int, list[_Sighting]] = {}
    for each in _sightings(run):
        objects.setdefault(each.identity, []).append(each)
    for frames in objects.values():
        first, last = frames[0].index, frames[-1].index
        if last - first >= MIN_VISIBLE_S * run.truth.fps:
            yield next(((each.index - first) / run.truth.fps for each in frames if each.is_hit), np.inf)


def _quantile(values: Sequence[float], share: float) -> float:
    """An element, because some are infinite."""
    return float(np.quantile(values, share, method="lower")) if values else 0.0


def sized_objects(runs: Sequence[SequenceRun]) -> tuple[SizedObjects, SizedObjects]:
    """Every object wholly inside a view, by its size in the picture, and whether it was detected.

    Those in views of the whole frame, and those in regions.
    """
    objects: dict[bool, list[tuple[float, bool]]] = {True: [], False: []}
    for run in runs:
        for index, scene, view in run.inferred:
            truth = [each for each in run.truth.frames[index] if _is_inside(each.box, view)]
            matched = {pair.truth for pair in match(scene.detections, truth, MIN_IOU)}
            sizes = view.sizes(stack(each.box for each in truth)).tolist()
            objects[view.region == WHOLE] += [(size, row in matched) for row, size in enumerate(sizes)]
    return SizedObjects.of(objects[True]), SizedObjects.of(objects[False])


def _is_inside(box: Box, view: View) -> bool:
    return bool(shares_inside(stack([box]), view.region.xyxy[None])[0, 0] >= 1.0)
