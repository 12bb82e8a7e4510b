# SPDX-License-Identifier: Apache-2.0
"""Which dialect suits a model: labelled images asked in each, with the uncertainty of the figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from lfm_perception.answers import REJECTS, RESCALED
from lfm_perception.evaluation.detection import count_matches
from lfm_perception.evaluation.labels import LabelledImage
from lfm_perception.evaluation.tables import new_table
from lfm_perception.media.charts import bars
from lfm_perception.media.page import Section
from lfm_perception.planning.inference import Inferencer
from lfm_perception.postprocessing import postprocess
from lfm_perception.questions import Dialect, Question, detect
from lfm_perception.scene import Detection
from lfm_perception.settings import Settings
from lfm_perception.vlm import Vlm

RESAMPLES = 2000
"""Bootstrap samples of the images."""

COLUMNS = ("F1", "± s.e.", "precision", "recall", "rejected", "p50 ms", "behind")


@dataclass(slots=True)
class _Results:
    """True positives, false positives, false negatives and seconds of each image, and rejects."""

    counts: list[tuple[int, int, int]] = field(default_factory=list)
    rejects: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)


class Wordings:
    """Asks a model for `labels` in each dialect. A dialect for one expression is asked label by label.

    Raises PerceptionError when a dialect cannot ask for the labels.
    """

    def __init__(self, vlm: Vlm, settings: Settings, labels: Sequence[str], names: Sequence[str]) -> None:
        self._settings, self._labels = settings, frozenset(labels)
        self._inferencer = Inferencer(settings, vlm)
        self._questions = {name: self._questions_in(settings.known_dialects[name], labels) for name in names}
        self._results = {name: _Results() for name in names}

    @property
    def images(self) -> int:
        """Number of images that the model was asked about in every dialect."""
        return min(len(each.counts) for each in self._results.values())

    def run(self, image: LabelledImage) -> None:
        """Ask about an image. Raises PerceptionError when the model fails; earlier results are kept."""
        truth = [item for item in image.truth if item.label in self._labels]
        for name, questions in self._questions.items():
            found: list[Detection] = []
            seconds, results = 0.0, self._results[name]
            for question in questions:
                self._inferencer.profile_latency(question)
                answer, _ = self._inferencer.infer(image.frame, question, self._settings.detect.max_tokens)
                detections, rejects = postprocess(answer, self._settings.detect)
                found += detections
                seconds += answer.usage.total_s
                results.rejects.update(rejects)
            counts = count_matches(found, truth)
            results.counts.append((counts.true_positives, counts.false_positives, counts.false_negatives))
            results.seconds.append(seconds)

    def figures(self, seed: int) -> dict[str, Any]:
        """The figures of each dialect, the best by F1 first, ready for `json.dumps`.

        `standard_error` is that of F1 over bootstrap samples of the images. `behind_best` is the difference
        of F1 to the best dialect on the same samples, with its own standard error.
        """
        chosen = np.random.default_rng(seed).integers(0, self.images, (RESAMPLES, self.images))
        counts = {name: np.array(each.counts[: self.images]) for name, each in self._results.items()}
        samples = {name: _f1(each[chosen].sum(axis=1)) for name, each in counts.items()}
        whole = {name: float(_f1(each.sum(axis=0))) for name, each in counts.items()}
        order = sorted(whole, key=lambda name: -whole[name])
        return {
            name: {
                "f1": round(whole[name], 4),
                "standard_error": round(float(samples[name].std()), 4),
                "precision": _share(counts[name].sum(axis=0), 1),
                "recall": _share(counts[name].sum(axis=0), 2),
                "behind_best": round(whole[order[0]] - whole[name], 4),
                "behind_best_standard_error": round(float((samples[order[0]] - samples[name]).std()), 4),
                "latency_s": round(float(np.median(self._results[name].seconds)), 4),
                "rejects": dict(self._results[name].rejects.most_common()),
            }
            for name in order
        }

    def _questions_in(self, dialect: Dialect, labels: Sequence[str]) -> list[Question]:
        chosen = self._settings.detect
        groups = [[label] for label in labels] if dialect.single else [list(labels)]
        return [detect(dialect, group, closed=chosen.closed, synonyms=chosen.synonyms) for group in groups]


def table(figures: Mapping[str, Any]) -> Table:
    """One row for each dialect, the best first."""
    shown = new_table("dialect", COLUMNS)
    for row in _rows(figures):
        shown.add_row(*row)
    return shown


def sections(figures: Mapping[str, Any]) -> Iterator[Section]:
    """The sections of the page: the verdict, and the dialects with their uncertainty."""
    f1 = {"F1": [each["f1"] for each in figures.values()]}
    errors = {"F1": [each["standard_error"] for each in figures.values()]}
    times = {"latency": [1e3 * each["latency_s"] for each in figures.values()]}
    yield Section(
        "",
        notes=[verdict(figures), FIGURES_NOTE],
        heads=("dialect", *COLUMNS),
        rows=_rows(figures),
        charts=[
            bars("F1 by dialect, with its standard error", f1, list(figures), "F1 (0 to 1)", errors=errors),
            bars("Median latency by dialect", times, list(figures), "time for one image (ms)"),
        ],
    )
    reasons = [
        (name, REJECTS.get(reason, reason), str(count))
        for name, each in figures.items()
        for reason, count in each["rejects"].items()
        if reason != RESCALED
    ]
    if reasons:
        yield Section("Rejected objects", heads=("dialect", "reason", "objects"), rows=reasons, texts=True)


FIGURES_NOTE = (
    "Detections match at an IoU of 0.5. The standard error of F1 (± s.e.) comes from resampling the images; "
    "behind: difference of F1 to the best dialect on the same samples. p50: median time for one image."
)


def _rows(figures: Mapping[str, Any]) -> list[tuple[str, ...]]:
    return [
        (
            name,
            *(f"{each[key]:.3f}" for key in ("f1", "standard_error", "precision", "recall")),
            str(sum(count for reason, count in each["rejects"].items() if reason != RESCALED)),
            f"{1e3 * each['latency_s']:.0f}",
            f"{each['behind_best']:.3f} ± {each['behind_best_standard_error']:.3f}"
            if each["behind_best"]
            else "",
        )
        for name, each in figures.items()
    ]


def verdict(figures: Mapping[str, Any]) -> str:
    """One sentence: the best dialect, and whether it is better than the next beyond chance."""
    best, *others = figures
    if not others:
        return f"{best} is the only dialect that was asked."
    lead, error = figures[others[0]]["behind_best"], figures[others[0]]["behind_best_standard_error"]
    if lead > 2.0 * error:
        return f"{best} is best, {lead:.3f} ± {error:.3f} before {others[0]}: set detect.dialect to {best}."
    return (
        f"{best} is best, but not beyond chance: {lead:.3f} ± {error:.3f} before {others[0]}; "
        "more images would tell."
    )


def _f1(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """F1 of counts of true positives, false positives and false negatives, shape (..., 3); 1 without any."""
    cases = counts @ np.array([2, 1, 1])
    f1: NDArray[np.float64] = np.where(cases, 2.0 * counts[..., 0] / np.maximum(cases, 1), 1.0)
    return f1


def _share(counts: NDArray[np.int64], other: int) -> float:
    cases = counts[0] + counts[other]
    return round(float(counts[0] / cases), 4) if cases else 1.0
