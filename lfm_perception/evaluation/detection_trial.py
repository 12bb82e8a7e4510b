"""How well a model finds what is labelled: every picture is asked about in several ways, and judged.

Plainly first; then, where wanted, with the picture made harder, and in other languages. All within the same
image settings and budgets as on the robot.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import count
from typing import Any

import cv2
import numpy as np

from lfm_perception.calibration import IDENTITY, PlattScaling, calibrated
from lfm_perception.evaluation.average_precision import AveragePrecision, average_precision, mean_precision
from lfm_perception.evaluation.detection import Annotation, DetectionReport, TrueBox, evaluate, match
from lfm_perception.evaluation.labels import Labelled
from lfm_perception.evaluation.stress import Stress
from lfm_perception.evaluation.wordings import Language
from lfm_perception.geometry import Box, iou_matrix, stack
from lfm_perception.planning.inference import Inferencer
from lfm_perception.questions import Question, detect
from lfm_perception.scene import Detection, Frame, Image
from lfm_perception.settings import Settings
from lfm_perception.vlm import Vlm

PLAIN = "plain"

SAME_PLACE = 0.5
"""Overlap (IoU) from which on two boxes show the same thing..."""

NEAR = 0.1
"""...and from which on one is a bad box of the other."""

MOST_SHOWN = 24
"""False boxes, and missed objects, that are kept as pictures."""

THUMBNAIL = 300
"""Pixels of its longer side."""

AROUND = 0.6
"""How much of a box's size is shown around it on each side."""

WHOLE = Box(0.0, 0.0, 1.0, 1.0)
TRUE, FOUND = (64, 200, 96), (235, 72, 72)
"""Colours of boxes that are there, and of those the model gave."""


@dataclass(frozen=True, slots=True)
class Way:
    """One way of asking. `harder` changes the picture; `meant`: labels by what the answer may call them."""

    name: str
    question: Question
    harder: Stress | None = None
    meant: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Mistake:
    """A false box with its `score`, or a missed object, with None; `why` in words; `thumbnail` shows it."""

    picture: str
    label: str
    box: Box
    score: float | None
    why: str
    thumbnail: Image | None = None


@dataclass(slots=True)
class Asked:
    """What came of one way of asking, picture by picture; `example` shows the first with objects."""

    scenes: list[tuple[Sequence[Detection], Sequence[TrueBox]]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    rejects: Counter[str] = field(default_factory=Counter)
    truncated: int = 0
    example: Image | None = None


def plainly(settings: Settings, labels: Sequence[str]) -> Way:
    """As the robot asks."""
    question = detect(settings.dialect, labels, closed=settings.detect.closed)
    return Way(PLAIN, question, meant={label.casefold(): label for label in labels})


def stressed(settings: Settings, labels: Sequence[str], name: str, harder: Stress) -> Way:
    """The same about a harder picture."""
    plain = plainly(settings, labels)
    return Way(name, plain.question, harder, plain.meant)


def translated(settings: Settings, labels: Sequence[str], language: Language) -> Way:
    """The same in another language; an answer may name things in either."""
    words = [language.word(label) for label in labels]
    question = detect(language.dialect, words, closed=settings.detect.closed)
    meant = {label.casefold(): label for label in labels}
    meant |= {word.casefold(): label for word, label in zip(words, labels, strict=True)}
    return Way(language.code, question, meant=meant)


class Trial:
    """Asks about pictures, one after the other, in all `ways`; the mistakes of the first are kept."""

    def __init__(
        self, vlm: Vlm, settings: Settings, labels: Sequence[str], ways: Sequence[Way], seed: int
    ) -> None:
        self._settings, self._seed = settings, seed
        self._labels = frozenset(labels)
        self._inferencer = Inferencer(settings, vlm)
        self._worst: dict[bool, list[tuple[float, int, Mistake]]] = {True: [], False: []}
        self._number = count()
        self.ways = tuple(ways)
        self.asked = {way.name: Asked() for way in ways}
        self.mistakes: list[Mistake] = []
        """All of them, without pictures."""

    def show(self, picture: Labelled) -> None:
        """Ask about a picture. Raises PerceptionError when it cannot be shown, or the model fails."""
        wanted = tuple(item for item in picture.truth if item.label in self._labels)
        for way in self.ways:
            frame, truth = picture.frame, wanted
            if way.harder is not None:
                rng = random.Random(f"{self._seed} {way.name} {picture.name}")
                image, truth = way.harder(rng, frame.image, wanted)
                frame = Frame(image, frame.stamp_ns, frame.frame_id)
            self._inferencer.calibrate(way.question)
            max_tokens = self._settings.detect.max_tokens
            answer, _ = self._inferencer.infer(frame, way.question, max_tokens)
            found = calibrated(answer.detections, self._settings.detect)
            detections = tuple(self._meant(way, detection) for detection in found)
            asked = self.asked[way.name]
            asked.scenes.append((detections, truth))
            asked.seconds.append(answer.usage.total_s)
            asked.rejects.update(answer.rejects)
            asked.truncated += answer.truncated
            if asked.example is None and truth:
                asked.example = _drawn(frame.image, WHOLE, detections, truth)
            if way is self.ways[0]:
                self._keep_mistakes(picture, detections, truth)

    @property
    def calibration(self) -> PlattScaling:
        """That of the scores."""
        return PlattScaling(self._settings.detect.score_gain, self._settings.detect.score_bias)

    @property
    def shown(self) -> int:
        """How many pictures were asked about."""
        return len(self.asked[self.ways[0].name].scenes)

    def worst(self, *, missed: bool) -> list[Mistake]:
        """With pictures: the false boxes the model was surest of, or the largest objects it missed."""
        return [mistake for _, _, mistake in sorted(self._worst[missed], key=lambda each: -each[0])]

    def _meant(self, way: Way, detection: Detection) -> Detection:
        label = way.meant.get(detection.label.casefold(), detection.label)
        return Detection(label, detection.box, detection.score, detection.std)

    def _keep_mistakes(
        self, picture: Labelled, detections: Sequence[Detection], truth: Sequence[Annotation]
    ) -> None:
        pairs = match(detections, truth, SAME_PLACE)
        right, seen = {pair.detection for pair in pairs}, {pair.truth for pair in pairs}
        for mistake in (
            *_false(picture.name, detections, truth, right, seen),
            *_missed(picture.name, detections, truth, right, seen),
        ):
            self.mistakes.append(mistake)
            missed = mistake.score is None
            weight = mistake.box.area if mistake.score is None else mistake.score
            worst = self._worst[missed]
            if len(worst) < MOST_SHOWN or weight > worst[0][0]:
                thumbnail = _drawn(picture.frame.image, mistake.box, detections, truth)
                shown = replace(mistake, thumbnail=thumbnail)
                keep = heapq.heappush if len(worst) < MOST_SHOWN else heapq.heapreplace
                keep(worst, (weight, next(self._number), shown))


def _false(
    name: str, detections: Sequence[Detection], truth: Sequence[Annotation], right: set[int], seen: set[int]
) -> Iterator[Mistake]:
    overlap = iou_matrix(stack(d.box for d in detections), stack(t.box for t in truth))
    for index, detection in enumerate(detections):
        if index in right:
            continue
        there = int(overlap[index].argmax()) if truth else -1
        iou = float(overlap[index, there]) if truth else 0.0
        if iou < NEAR:
            why = "nothing is there"
        elif truth[there].label != detection.label:
            why = f"is a {truth[there].label}" if iou >= SAME_PLACE else f"on a {truth[there].label}"
        elif there in seen:
            why = "named twice"
        else:
            why = f"badly placed, IoU {iou:.2f}"
        yield Mistake(name, detection.label, detection.box, detection.score, why)


def _missed(
    name: str, detections: Sequence[Detection], truth: Sequence[Annotation], right: set[int], seen: set[int]
) -> Iterator[Mistake]:
    overlap = iou_matrix(stack(t.box for t in truth), stack(d.box for d in detections))
    for index, true in enumerate(truth):
        if index in seen:
            continue
        free = [i for i in range(len(detections)) if i not in right]
        nearest = max(free, key=lambda i: overlap[index, i], default=None)
        if nearest is None or overlap[index, nearest] < NEAR:
            why = "not named"
        elif detections[nearest].label != true.label:
            why = f"taken for a {detections[nearest].label}"
        else:
            why = f"badly placed, IoU {overlap[index, nearest]:.2f}"
        yield Mistake(name, true.label, true.box, None, why)


def _drawn(image: Image, box: Box, detections: Sequence[Detection], truth: Sequence[TrueBox]) -> Image:
    """The box's surroundings with all boxes: in green what is there, in red what the model gave."""
    height, width = image.shape[:2]
    x1, y1, x2, y2 = box.in_pixels(width, height)
    reach = max(AROUND * max(x2 - x1, y2 - y1), 0.08 * max(width, height))
    left, top = max(0, int(x1 - reach)), max(0, int(y1 - reach))
    right, bottom = min(width, int(x2 + reach) + 1), min(height, int(y2 + reach) + 1)
    scale = THUMBNAIL / max(right - left, bottom - top)
    size = max(1, round((right - left) * scale)), max(1, round((bottom - top) * scale))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    canvas = np.array(cv2.resize(image[top:bottom, left:right], size, interpolation=method), np.uint8)
    for items, colour in ((truth, TRUE), (detections, FOUND)):
        for item in items:
            corners = (item.box.in_pixels(width, height) - (left, top, left, top)) * scale
            a, b, c, d = np.rint(corners).astype(int).tolist()
            thickness = 4 if item.box == box else 2
            cv2.rectangle(canvas, (a, b), (c, d), colour, thickness, cv2.LINE_AA)
    return canvas


# --- figures ---------------------------------------------------------------------------------------


def figures(asked: Asked, labels: Sequence[str], calibration: PlattScaling = IDENTITY) -> dict[str, Any]:
    """What one way of asking came to, ready for `json.dumps`; times are milliseconds.

    `calibration` is the one that the scores have.
    """
    precisions = average_precision(asked.scenes)
    of_label = {label: _only(asked.scenes, label) for label in labels}
    faultless = [
        len(match(detections, truth)) == len(detections) == len(truth) for detections, truth in asked.scenes
    ]
    whole = evaluate(asked.scenes, calibration)
    times = 1e3 * np.array(asked.seconds)
    return {
        "images": len(asked.scenes),
        **_quality(whole, mean_precision(list(precisions.values()))),
        "success": round(float(np.mean(faultless)), 4),
        "f1_at_75": round(whole.at_75.f1, 4),
        "calibration_error": round(whole.calibration_error, 4),
        "auroc": None if whole.auroc is None else round(whole.auroc, 4),
        "fitted": {"score_gain": round(whole.fitted.gain, 2), "score_bias": round(whole.fitted.bias, 2)},
        "unseen_calibration_error": whole.unseen_error and round(whole.unseen_error, 4),
        "latency_ms": {f"p{p}": round(float(np.percentile(times, p)), 2) for p in (50, 95, 99)},
        "truncated": asked.truncated,
        "rejects": dict(asked.rejects.most_common()),
        "by_label": {
            label: _quality(evaluate(scenes), precisions.get(label)) for label, scenes in of_label.items()
        },
        "reliability": [asdict(score_bin) for score_bin in whole.reliability],
        "curves": {label: [round(p, 4) for p in each.curve] for label, each in precisions.items()},
    }


def _only(
    scenes: Sequence[tuple[Sequence[Detection], Sequence[TrueBox]]], label: str
) -> list[tuple[Sequence[Detection], Sequence[TrueBox]]]:
    return [
        ([d for d in detections if d.label == label], [t for t in truth if t.label == label])
        for detections, truth in scenes
    ]


def _quality(report: DetectionReport, precision: AveragePrecision | None) -> dict[str, Any]:
    """Ratios without any case are None."""
    tally = report.at_50
    objects, found = tally.hits + tally.missed, tally.hits + tally.false
    return {
        "objects": objects,
        "detections": found,
        "hits": tally.hits,
        "precision": round(tally.precision, 4) if found else None,
        "recall": round(tally.recall, 4) if objects else None,
        "f1": round(tally.f1, 4) if objects or found else None,
        "mean_iou": round(report.mean_iou, 4) if tally.hits else None,
        "ap": round(precision.overall, 4) if precision else None,
        "ap_50": round(precision.at_50, 4) if precision else None,
        "ap_75": round(precision.at_75, 4) if precision else None,
    }
