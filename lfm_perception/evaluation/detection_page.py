# SPDX-License-Identifier: Apache-2.0
"""The report of `lfm-perception eval detection`: as JSON, as a page, as a table for the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from lfm_perception.calibration import PlattScaling
from lfm_perception.evaluation.average_precision import RECALLS
from lfm_perception.evaluation.detection import calibration_advice
from lfm_perception.evaluation.detection_details import best_threshold, by_size, by_threshold, confusion
from lfm_perception.evaluation.detection_trial import Trial, figures, shares
from lfm_perception.evaluation.tables import new_table
from lfm_perception.media.charts import COLOURS, DASHES, INK, Line, bars, curves, matrix, reliability_chart
from lfm_perception.media.latency import latency_section
from lfm_perception.media.page import Chart, Picture, Section, picture, write_report

KIND = "detection"
QUALITY = ("objects", "precision", "recall", "f1", "mean_iou", "ap_50", "ap_75", "ap")
HEADS = ("objects", "precision", "recall", "F1", "IoU", "AP50", "AP75", "AP")
OF_VARIANTS, VARIANT_HEADS = (*QUALITY, "success"), (*HEADS, "success")

MISTAKES = (
    ("false_positive", "False positives", "those with the highest confidence"),
    ("false_negative", "False negatives", "the largest"),
)
"""Kinds of mistakes with the title of their gallery and the order of its images."""

CURVES = (("F1", "f1"), ("precision", "precision"), ("recall", "recall"))

MAX_CURVES = len(COLOURS)
"""Number of labels whose precision-recall curves are drawn: those with the most objects."""

MATCHED = (
    "A detection is a true positive when it overlaps an object of the same label by an IoU of at least "
    "0.5, each used once. IoU: mean over the true positives. AP: average precision by the rules of COCO, "
    "at an IoU of 0.5, of 0.75, and the mean of 0.5 to 0.95; over all: the mean of the labels."
)
CONFUSED = (
    "Rows of the matrix are the labels of objects, columns those of the detections on them; colours are "
    "shares of a row. The last row are detections of nothing, the last column objects without a "
    "detection. Sizes are areas in the image."
)
SUCCESS = "Success: images without a false positive or a false negative."
DEGRADED = (
    "The same images degraded: a tenth to a quarter of the light; motion blur; a bar over the middle of each "
    f"object; a grey border three times as wide or high; coarse JPEG with lost rows. {SUCCESS}"
)
BOXES = "Blue: ground truth. Orange: detections of the model."


def report(
    trial: Trial, labels: Sequence[str], stresses: Sequence[str], codes: Sequence[str]
) -> dict[str, Any]:
    """All figures, ready for `json.dumps`."""
    found = {name: figures(each, labels, trial.calibration) for name, each in trial.results.items()}
    plain = trial.results[trial.variants[0].name]
    sizes = by_size(plain.scenes, plain.sizes_px)
    return {
        "kind": KIND,
        "labels": list(labels),
        "figures": {
            **found[trial.variants[0].name],
            "by_size": {name: shares(counts) for name, counts in sizes.items()},
            "thresholds": by_threshold(plain.scenes),
            "confusion": confusion(plain.scenes, labels),
        },
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


def write_detection_page(path: Path, found: Mapping[str, Any], trial: Trial) -> None:
    """Write the page to `path`; `found` is the report with its provenance."""
    plain, min_score = found["figures"], found["settings"]["detect.min_score"]
    sections = [
        Section("", facts=_figures(plain)),
        Section(
            "By label",
            notes=[MATCHED],
            heads=("", *HEADS),
            rows=_rows({"over all": plain, **plain["by_label"]}, QUALITY),
            charts=[*_label_charts(plain)],
        ),
        Section(
            "By confidence",
            notes=[
                *filter(None, [best_threshold(plain["thresholds"], min_score)]),
                platt_scaling_advice(plain),
            ],
            charts=[*_confidence_charts(plain)],
        ),
        Section(
            "Confusions, and sizes of objects",
            notes=[CONFUSED],
            heads=("", "objects", "precision", "recall", "F1"),
            rows=_rows(plain["by_size"], ("objects", "precision", "recall", "f1")),
            charts=[*_detail_charts(plain)],
        ),
        *_variant_sections(found, trial),
        *_mistake_sections(plain, trial),
        latency_section(
            [usage.total_s for usage in trial.results[trial.variants[0].name].usages],
            {name: results.usages for name, results in trial.results.items()},
        ),
    ]
    if found["notes"]:
        sections.append(Section("Notes on the images", notes=found["notes"]))
    write_report(path, "Detection quality", sections, found)


def _variant_sections(found: Mapping[str, Any], trial: Trial) -> Iterator[Section]:
    plain = found["figures"]
    if found["stress"]:
        examples = {name: trial.results[name].example for name in (trial.variants[0].name, *found["stress"])}
        pictures = [picture(image, name) for name, image in examples.items() if image is not None]
        yield _variants("Degraded images", [DEGRADED, BOXES], {"plain": plain, **found["stress"]}, pictures)
    if found["languages"]:
        note = f"The same question about the same images in other languages. {SUCCESS}"
        yield _variants("By language", [note], found["languages"], [])


def _variants(
    title: str, notes: Sequence[str], found: Mapping[str, Mapping[str, Any]], pictures: Sequence[Picture]
) -> Section:
    shown = (("F1", "f1"), ("AP50", "ap_50"))
    series = {name: [_number(each[key]) for each in found.values()] for name, key in shown}
    chart = bars(title, series, list(found), "F1, AP50 (0 to 1)")
    rows = _rows(found, OF_VARIANTS)
    return Section(title, notes, heads=("", *VARIANT_HEADS), rows=rows, charts=[chart], pictures=pictures)


def _mistake_sections(plain: Mapping[str, Any], trial: Trial) -> Iterator[Section]:
    for kind, title, order in MISTAKES:
        worst, total = trial.mistakes.examples(kind), plain[f"{kind}s"]
        some = f" Of {total}, {order} are shown." if total > len(worst) else ""
        pictures = [picture(each.thumbnail, each.caption()) for each in worst if each.thumbnail is not None]
        yield Section(f"{title}: {total}", notes=[BOXES + some] if total else ["None."], pictures=pictures)


def _figures(plain: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    times, found = plain["latency_s"], plain["true_positives"]
    rows = [
        ("recall", _text(plain["recall"]), f"{found} of {plain['objects']} objects were detected"),
        ("precision", _text(plain["precision"]), f"{found} of {plain['detections']} detections are true"),
        ("F1", _text(plain["f1"]), f"{_text(plain['f1_at_75'])} at an IoU of 0.75"),
        ("AP50", _text(plain["ap_50"]), f"AP by the rules of COCO, 0.5 to 0.95: {_text(plain['ap'])}"),
        ("success", f"{plain['success']:.1%}", "images without a false positive or a false negative"),
        ("calibration error", _text(plain["calibration_error"]), "mean of |confidence - precision|"),
        ("latency", f"p50 {1e3 * times['p50']:.0f} ms", f"p95 {1e3 * times['p95']:.0f} ms, of one answer"),
    ]
    if plain["rejects"]:
        counts = ", ".join(f"{count} {reason}" for reason, count in plain["rejects"].items())
        rows.append(("objects rejected", str(sum(plain["rejects"].values())), counts))
    if plain["truncated"]:
        rows.append(("answers truncated", str(plain["truncated"]), "reached their limit of tokens or time"))
    return rows


def _label_charts(plain: Mapping[str, Any]) -> Iterator[Chart]:
    there = {label: each for label, each in plain["by_label"].items() if each["ap"] is not None}
    if there:
        shown = (("AP50", "ap_50"), ("AP", "ap"))
        series = {name: [each[key] for each in there.values()] for name, key in shown}
        yield bars("Average precision by label", series, list(there), "average precision (0 to 1)")
    by_label: Mapping[str, Sequence[float]] = plain["curves"]
    if by_label:
        recalls = RECALLS.tolist()
        mean = [sum(column) / len(by_label) for column in zip(*by_label.values(), strict=True)]
        most = sorted(by_label, key=lambda label: -plain["by_label"][label]["objects"])[:MAX_CURVES]
        drawn = [Line(recalls, mean, INK, "mean of all", 2.4)]
        drawn += [
            Line(recalls, by_label[name], COLOURS[index], name, dashes=DASHES[index % len(DASHES)])
            for index, name in enumerate(most)
        ]
        yield curves("Precision-recall curves, IoU 0.5", drawn, ("recall", "precision"))


def _confidence_charts(plain: Mapping[str, Any]) -> Iterator[Chart]:
    if found := plain["thresholds"]:
        best = found["best"]
        drawn = [
            Line(found["threshold"], [_number(each) for each in found[key]], colour, name, 2.0, dashes=dashes)
            for (name, key), colour, dashes in zip(CURVES, COLOURS, DASHES, strict=False)
        ]
        label = f"best threshold, {best['threshold']:.2f}"
        drawn.append(Line([best["threshold"]] * 2, [0.0, 1.02], INK, label, 1.2, dashes=":"))
        title = "F1, precision and recall against the confidence threshold"
        yield curves(title, drawn, ("confidence threshold", "F1, precision, recall"))
    if bins := plain["reliability"]:
        points = [(each["mean_confidence"], each["precision"], each["count"]) for each in bins]
        yield reliability_chart("Reliability diagram", points, "detections")


def _detail_charts(plain: Mapping[str, Any]) -> Iterator[Chart]:
    found = plain["confusion"]
    yield matrix("Confusion matrix", found["counts"], found["names"], ("detected label", "true label"))
    sizes = {name: each for name, each in plain["by_size"].items() if each["objects"]}
    series = {name: [_number(each[key]) for each in sizes.values()] for name, key in CURVES}
    yield bars("Quality by object size", series, list(sizes), "F1, precision, recall (0 to 1)")


def _number(value: float | None) -> float:
    """The value for a chart, where NaN leaves a gap."""
    return math.nan if value is None else value


def platt_scaling_advice(plain: Mapping[str, Any]) -> str:
    """Whether to use the Platt scaling fitted to these images, in a sentence with the reason."""
    return calibration_advice(
        "detect",
        PlattScaling(plain["fitted"]["score_gain"], plain["fitted"]["score_bias"]),
        sum(each["count"] for each in plain["reliability"]),
        plain["held_out_calibration_error_before"],
        plain["held_out_calibration_error"],
    )
