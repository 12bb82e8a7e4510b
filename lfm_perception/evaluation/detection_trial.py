# SPDX-License-Identifier: Apache-2.0
"""Asking a model about labelled images in several variants, and the figures of each variant.

The first variant is the plain one; others degrade the image or translate the question. All run within the
same image settings and budgets as on the robot.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from lfm_perception.calibration import IDENTITY, PlattScaling
from lfm_perception.evaluation.average_precision import AveragePrecision, average_precision, mean_precision
from lfm_perception.evaluation.detection import (
    Counts,
    DetectionReport,
    LabelledBox,
    count_matches,
    evaluate,
    match,
    only_label,
)
from lfm_perception.evaluation.labels import LabelledImage
from lfm_perception.evaluation.languages import Language
from lfm_perception.evaluation.mistakes import Mistakes, thumbnail
from lfm_perception.evaluation.object_size import SizedObjects
from lfm_perception.evaluation.stress import Stress
from lfm_perception.geometry import WHOLE, stack
from lfm_perception.media.latency import distribution
from lfm_perception.media.page import drawing
from lfm_perception.planning.inference import Inferencer
from lfm_perception.postprocessing import postprocess
from lfm_perception.questions import Question, detect
from lfm_perception.scene import Detection, Frame, Image, Usage, View
from lfm_perception.settings import Settings
from lfm_perception.vlm import Vlm

PLAIN = "plain"


@dataclass(frozen=True, slots=True)
class Variant:
    """One variant of the trial. `degrade` changes the image; `label_of` maps names in answers to labels."""

    name: str
    question: Question
    degrade: Stress | None = None
    label_of: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class VariantResults:
    """Results of one variant, image by image; `example` is the first image with objects, annotated.

    `sized`: size in picture pixels of every object, and whether it was detected. `sizes_px`: width and height
    of the images. `usages`: cost of the answers.
    """

    scenes: list[tuple[Sequence[Detection], Sequence[LabelledBox]]] = field(default_factory=list)
    sized: list[tuple[float, bool]] = field(default_factory=list)
    sizes_px: list[tuple[int, int]] = field(default_factory=list)
    usages: list[Usage] = field(default_factory=list)
    rejects: Counter[str] = field(default_factory=Counter)
    truncated: int = 0
    example: Image | None = None


def plain_variant(
    settings: Settings, labels: Sequence[str], name: str = PLAIN, degrade: Stress | None = None
) -> Variant:
    """The question of the robot, about the image as it is or degraded."""
    chosen = settings.detect
    question = detect(settings.dialect, labels, closed=chosen.closed, synonyms=chosen.synonyms)
    return Variant(name, question, degrade, {label.casefold(): label for label in labels})


def translated_variant(settings: Settings, labels: Sequence[str], language: Language) -> Variant:
    """The question in another language; answers may use the label or its translation."""
    names = [language.translate(label) for label in labels]
    question = detect(language.dialect, names, closed=settings.detect.closed)
    label_of = {label.casefold(): label for label in labels}
    label_of |= {name.casefold(): label for name, label in zip(names, labels, strict=True)}
    return Variant(language.code, question, label_of=label_of)


class Trial:
    """Asks a model about images in all `variants`, and collects the mistakes of the first."""

    def __init__(
        self, vlm: Vlm, settings: Settings, labels: Sequence[str], variants: Sequence[Variant], seed: int
    ) -> None:
        self._settings, self._seed = settings, seed
        self._labels = frozenset(labels)
        self._inferencer = Inferencer(settings, vlm)
        self.variants = tuple(variants)
        self.results = {variant.name: VariantResults() for variant in variants}
        self.mistakes = Mistakes()
        self.calibration = PlattScaling(settings.detect.score_gain, settings.detect.score_bias)
        """The Platt scaling of the confidences."""

    @property
    def images(self) -> int:
        """Number of images that the model was asked about in all variants."""
        return min(len(results.scenes) for results in self.results.values())

    def run(self, image: LabelledImage) -> None:
        """Ask about an image. Raises PerceptionError when it cannot be encoded, or the model fails."""
        wanted = tuple(item for item in image.truth if item.label in self._labels)
        for variant in self.variants:
            frame, truth = image.frame, wanted
            if variant.degrade is not None:
                rng = random.Random(f"{self._seed} {variant.name} {image.name}")
                degraded, truth = variant.degrade(rng, frame.image, wanted)
                frame = Frame(degraded, frame.stamp_ns, frame.frame_id)
            self._inferencer.profile_latency(variant.question)
            answer, plan = self._inferencer.infer(frame, variant.question, self._settings.detect.max_tokens)
            found, rejects = postprocess(answer, self._settings.detect)
            detections = tuple(
                replace(each, label=variant.label_of.get(each.label.casefold(), each.label)) for each in found
            )
            results = self.results[variant.name]
            results.scenes.append((detections, truth))
            found_rows = {pair.truth for pair in match(detections, truth)}
            picture = View(WHOLE, plan.image.width, plan.image.height, 0.0)
            sizes = picture.sizes(stack(item.box for item in truth)).tolist()
            results.sized += [(size, row in found_rows) for row, size in enumerate(sizes)]
            results.sizes_px.append((frame.width, frame.height))
            results.usages.append(answer.usage)
            results.rejects.update(rejects)
            results.truncated += answer.truncated
            with drawing(f"image {image.name}"):
                if results.example is None and truth:
                    results.example = thumbnail(frame.image, WHOLE, detections, truth)
                if variant is self.variants[0]:
                    self.mistakes.add(image.name, frame.image, detections, truth)


def figures(
    results: VariantResults, labels: Sequence[str], calibration: PlattScaling = IDENTITY
) -> dict[str, Any]:
    """The figures of a variant, ready for `json.dumps`; times are seconds.

    `calibration` is the Platt scaling that the confidences have.
    """
    scenes = results.scenes
    precisions = average_precision(scenes)
    of_label = {
        label: [(only_label(found, label), only_label(truth, label)) for found, truth in scenes]
        for label in labels
    }
    counts = [count_matches(detections, truth) for detections, truth in scenes]
    whole = evaluate(scenes, calibration)
    return {
        "images": len(scenes),
        **quality(whole, mean_precision(list(precisions.values()))),
        "success": round(float(np.mean([c.detections == c.objects == c.true_positives for c in counts])), 4),
        "f1_at_75": round(whole.at_75.f1, 4),
        "calibration_error": round(whole.calibration_error, 4),
        "auroc": None if whole.auroc is None else round(whole.auroc, 4),
        "fitted": {"score_gain": round(whole.fitted.gain, 2), "score_bias": round(whole.fitted.bias, 2)},
        "held_out_calibration_error": whole.held_out_error and round(whole.held_out_error, 4),
        "held_out_calibration_error_before": whole.held_out_error_before
        and round(whole.held_out_error_before, 4),
        "latency_s": distribution([usage.total_s for usage in results.usages]),
        "truncated": results.truncated,
        "rejects": dict(results.rejects.most_common()),
        "min_object_size": SizedObjects.of(results.sized).smallest_seen(),
        "by_label": {
            label: quality(evaluate(of_one), precisions.get(label)) for label, of_one in of_label.items()
        },
        "reliability": [asdict(each) for each in whole.reliability],
        "curves": {label: [round(p, 4) for p in each.curve] for label, each in precisions.items()},
    }


def quality(report: DetectionReport, precision: AveragePrecision | None) -> dict[str, Any]:
    """The counts, the shares made of them, and average precision. Ratios without any case are None."""
    return {
        **shares(report.at_50),
        "mean_iou": round(report.mean_iou, 4) if report.at_50.true_positives else None,
        "ap": round(precision.overall, 4) if precision else None,
        "ap_50": round(precision.at_50, 4) if precision else None,
        "ap_75": round(precision.at_75, 4) if precision else None,
    }


def shares(counts: Counts) -> dict[str, Any]:
    """Counts with precision, recall and F1; a ratio without any case is None."""
    return {
        "objects": counts.objects,
        "detections": counts.detections,
        **asdict(counts),
        "precision": round(counts.precision, 4) if counts.detections else None,
        "recall": round(counts.recall, 4) if counts.objects else None,
        "f1": round(counts.f1, 4) if counts.objects or counts.detections else None,
    }
