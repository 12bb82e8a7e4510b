# SPDX-License-Identifier: Apache-2.0
"""The report of `lfm-perception eval detection`: as JSON, as a page, as a table for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from lfm_perception.calibration import PlattScaling
from lfm_perception.evaluation.average_precision import RECALLS
from lfm_perception.evaluation.detection import calibration_advice
from lfm_perception.evaluation.detection_trial import Trial, figures
from lfm_perception.evaluation.tables import new_table
from lfm_perception.media.charts import COLOURS, INK, Line, bars, curves
from lfm_perception.media.page import write_page

KIND = "detection"
QUALITY = ("objects", "precision", "recall", "f1", "mean_iou", "ap_50", "ap_75", "ap")
HEADS = ("objects", "precision", "recall", "F1", "IoU", "AP50", "AP75", "AP")
OF_VARIANTS, VARIANT_HEADS = (*QUALITY, "success"), (*HEADS, "success")

MISTAKES = (
    ("false_positive", "False positives", "those with the highest confidence"),
    ("false_negative", "False negatives", "the largest"),
)
"""Kinds of mistakes with the title of their gallery and the order of its images."""

MAX_CURVES = 8
"""Number of labels whose precision-recall curves are drawn: those with the most objects."""


def report(
    trial: Trial, labels: Sequence[str], stresses: Sequence[str], codes: Sequence[str]
) -> dict[str, Any]:
    """All figures, ready for `json.dumps`."""
    found = {name: figures(each, labels, trial.calibration) for name, each in trial.results.items()}
    return {
        "kind": KIND,
        "labels": list(labels),
        "figures": found[trial.variants[0].name],
        "stress": {name: found[name] for name in stresses},
        "languages": {code: found[code] for code in codes},
        "mistakes": [mistake.as_json() for mistake in trial.mistakes.all],
    }


def table(found: Mapping[str, Any]) -> Table:
    """Short, for the terminal: over all, and the other variants."""
    shown = new_table("", VARIANT_HEADS)
    for row in _rows({"over all": found["figures"], **found["stress"], **found["languages"]}, OF_VARIANTS):
        shown.add_row(*row)
    return shown


def _rows(found: Mapping[str, Mapping[str, Any]], names: Sequence[str]) -> list[tuple[str, ...]]:
    return [(name, *(_text(each[figure]) for figure in names)) for name, each in found.items()]


def _text(value: float | None) -> str:
    return "-" if value is None else str(value) if isinstance(value, int) else f"{value:.3f}"


def write_detection_page(
    path: Path, found: Mapping[str, Any], trial: Trial, setup: Mapping[str, str]
) -> None:
    """Write the page to `path`; `setup` has lines about the source, the model and the machine."""
    plain = found["figures"]
    shown = {name: trial.results[name].example for name in (trial.variants[0].name, *found["stress"])}
    examples = [(example, name) for name, example in shown.items() if example is not None]
    write_page(
        path,
        "detection.html",
        about=found,
        figures=_figures(plain),
        heads=("", *HEADS),
        by_label=_rows({"over all": plain, **plain["by_label"]}, QUALITY),
        label_chart=_label_chart(plain),
        recall_chart=_recall_chart(plain),
        reliability_chart=_reliability_chart(plain),
        calibration=platt_scaling_advice(plain),
        variant_heads=("", *VARIANT_HEADS),
        stress=found["stress"] and {**_variants({"plain": plain, **found["stress"]}), "examples": examples},
        languages=found["languages"] and _variants(found["languages"]),
        mistakes=[
            (title, order, plain[f"{kind}s"], [(m.thumbnail, m.caption()) for m in worst])
            for kind, title, order in MISTAKES
            for worst in [trial.mistakes.examples(kind)]
        ],
        setup=setup,
    )


def _figures(plain: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    times, found = plain["latency_ms"], plain["true_positives"]
    rows = [
        ("recall", _text(plain["recall"]), f"{found} of {plain['objects']} objects were detected"),
        ("precision", _text(plain["precision"]), f"{found} of {plain['detections']} detections are true"),
        ("F1", _text(plain["f1"]), f"{_text(plain['f1_at_75'])} at an IoU of 0.75"),
        ("AP50", _text(plain["ap_50"]), f"AP by the rules of COCO, 0.5 to 0.95: {_text(plain['ap'])}"),
        ("success", f"{plain['success']:.1%}", "images without a false positive or a false negative"),
        ("calibration error", _text(plain["calibration_error"]), "mean of |confidence - precision|"),
        ("inference", f"{times['p50']:.0f} ms", f"median; p95 {times['p95']:.0f} ms"),
    ]
    if plain["rejects"]:
        counts = ", ".join(f"{count} {reason}" for reason, count in plain["rejects"].items())
        rows.append(("rejects", str(sum(plain["rejects"].values())), counts))
    if plain["truncated"]:
        rows.append(("truncated", str(plain["truncated"]), "answers reached their limit of tokens or time"))
    return rows


def _label_chart(plain: Mapping[str, Any]) -> str:
    there = {label: each for label, each in plain["by_label"].items() if each["ap"] is not None}
    series = {name: [each[key] for each in there.values()] for name, key in (("AP50", "ap_50"), ("AP", "ap"))}
    return bars(series, list(there), "average precision") if there else ""


def _recall_chart(plain: Mapping[str, Any]) -> str:
    by_label: Mapping[str, Sequence[float]] = plain["curves"]
    if not by_label:
        return ""
    recalls = RECALLS.tolist()
    mean = [sum(column) / len(by_label) for column in zip(*by_label.values(), strict=True)]
    most = sorted(by_label, key=lambda label: -plain["by_label"][label]["objects"])[:MAX_CURVES]
    drawn = [Line(recalls, mean, INK, "mean of all", 2.4)]
    drawn += [
        Line(recalls, by_label[name], colour, name) for name, colour in zip(most, COLOURS, strict=False)
    ]
    return curves(drawn, ("recall", "precision"))


def _reliability_chart(plain: Mapping[str, Any]) -> str:
    bins = plain["reliability"]
    if not bins:
        return ""
    points = Line(
        [each["mean_confidence"] for each in bins], [each["precision"] for each in bins], marker="o"
    )
    return curves([points], ("confidence", "precision"), diagonal=True)


def platt_scaling_advice(plain: Mapping[str, Any]) -> str:
    """Whether to use the Platt scaling fitted to these images, in a sentence with the reason."""
    return calibration_advice(
        "detect",
        PlattScaling(plain["fitted"]["score_gain"], plain["fitted"]["score_bias"]),
        sum(each["count"] for each in plain["reliability"]),
        plain["held_out_calibration_error_before"],
        plain["held_out_calibration_error"],
    )


def _variants(found: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Figures of variants as a grid and as a chart."""
    series = {
        name: [each[key] or 0.0 for each in found.values()] for name, key in (("F1", "f1"), ("AP50", "ap_50"))
    }
    chart = bars(series, list(found), "F1, average precision")
    return {"rows": _rows(found, OF_VARIANTS), "chart": chart}
