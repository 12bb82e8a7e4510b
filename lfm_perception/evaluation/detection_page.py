"""The report of `lfm-perception eval detection`: as JSON, as a page, as a table for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from lfm_perception.evaluation.average_precision import RECALLS
from lfm_perception.evaluation.detection_trial import Mistake, Trial, figures
from lfm_perception.media.charts import bars, curves
from lfm_perception.media.page import facts, gallery, grid, heading, model_note, words, write_page

KIND = "detection"
QUALITY = ("objects", "precision", "recall", "f1", "mean_iou", "ap_50", "ap_75", "ap")
HEADS = ("objects", "precision", "recall", "F1", "IoU", "AP50", "AP75", "AP")
OF_WAYS, WAYS_HEADS = (*QUALITY, "success"), (*HEADS, "success")

MOST_CURVES = 8
"""Labels whose curves are drawn: those with the most objects."""

MEANINGS = (
    "A box is right when it overlaps an object of the same label by at least 0.5 (IoU), each used once. IoU: "
    "mean overlap of the right ones. AP: average precision by the rules of COCO, at an overlap of 0.5, of "
    "0.75, and the mean of 0.5 to 0.95; over all: the mean of the labels."
)
STRESS_MEANING = (
    "The same pictures made harder: a tenth to a quarter of the light; smeared by motion; a bar over the "
    "middle of each object; in a grey border three times as wide or high; coarse JPEG with lost rows."
)
BOXES_SHOWN = "Green: what is there. Red: what the model gave."
LANGUAGE_MEANING = "The same question about the same pictures in other languages."
SUCCESS = "Success: pictures answered without a false or a missed box."


def report(
    trial: Trial, labels: Sequence[str], stresses: Sequence[str], codes: Sequence[str]
) -> dict[str, Any]:
    """All figures, ready for `json.dumps`."""
    found = {name: figures(asked, labels, trial.calibration) for name, asked in trial.asked.items()}
    plain = found[trial.ways[0].name]
    return {
        "kind": KIND,
        "labels": list(labels),
        "figures": plain,
        "stress": {name: found[name] for name in stresses},
        "languages": {code: found[code] for code in codes},
        "mistakes": [_as_json(mistake) for mistake in trial.mistakes],
    }


def _as_json(mistake: Mistake) -> dict[str, Any]:
    return {
        "picture": mistake.picture,
        "mistake": "missed" if mistake.score is None else "false",
        "label": mistake.label,
        "box": [round(side, 4) for side in mistake.box.xyxy.tolist()],
        "score": None if mistake.score is None else round(mistake.score, 4),
        "why": mistake.why,
    }


def table(found: Mapping[str, Any]) -> Table:
    """Short, for the terminal: over all, and the hard ways."""
    shown = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    shown.add_column("", style="bold", no_wrap=True)
    for head in WAYS_HEADS:
        shown.add_column(head, justify="right")
    for name, each in _ways(found):
        shown.add_row(name, *_cells(each, OF_WAYS))
    return shown


def _ways(found: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    yield "over all", found["figures"]
    yield from found["stress"].items()
    yield from found["languages"].items()


def _cells(figures: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    return [_text(figures[name]) for name in names]


def _text(value: float | None) -> str:
    return "-" if value is None else str(value) if isinstance(value, int) else f"{value:.3f}"


def write_detection_page(
    path: Path, found: Mapping[str, Any], trial: Trial, lines: Mapping[str, str]
) -> None:
    """Write the page to `path`; `lines` tell of the source, the model and the machine."""
    plain = found["figures"]
    parts = [
        facts(_facts(plain)),
        heading("By label"),
        words(MEANINGS, "quiet"),
        grid(
            ("", *HEADS),
            [
                ("over all", *_cells(plain, QUALITY)),
                *((label, *_cells(each, QUALITY)) for label, each in plain["by_label"].items()),
            ],
        ),
        *_label_bars(plain),
        *_curves(plain),
    ]
    if found["stress"]:
        parts += [
            heading("How far quality falls on hard pictures"),
            words(f"{STRESS_MEANING} {SUCCESS}", "quiet"),
        ]
        parts += _compared({"as they are": plain, **found["stress"]})
        shown = {"as it is": trial.asked[trial.ways[0].name], **{n: trial.asked[n] for n in found["stress"]}}
        parts += [
            words(BOXES_SHOWN, "quiet"),
            gallery((each.example, name) for name, each in shown.items() if each.example is not None),
        ]
    if found["languages"]:
        parts += [heading("By language"), words(f"{LANGUAGE_MEANING} {SUCCESS}", "quiet")]
        parts += _compared(found["languages"])
    for missed, title in ((False, "False boxes"), (True, "Missed objects")):
        worst = trial.worst(missed=missed)
        total = sum((mistake.score is None) == missed for mistake in trial.mistakes)
        parts.append(heading(f"{title}: {total}"))
        parts.append(words(_shown(len(worst), total, missed), "quiet"))
        parts.append(gallery((m.thumbnail, _caption(m)) for m in worst if m.thumbnail is not None))
    parts += [heading("What was measured"), facts(lines.items())]
    write_page(path, "How well the model finds things", model_note(found), *parts)


def _facts(plain: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    times = plain["latency_ms"]
    rows = [
        ("found", _text(plain["recall"]), f"recall: {plain['hits']} of {plain['objects']} objects"),
        ("right", _text(plain["precision"]), f"precision: {plain['hits']} of {plain['detections']} boxes"),
        ("F1", _text(plain["f1"]), f"{_text(plain['f1_at_75'])} where an overlap of 0.75 is asked for"),
        ("AP50", _text(plain["ap_50"]), f"AP by the rules of COCO, 0.5 to 0.95: {_text(plain['ap'])}"),
        ("success", f"{plain['success']:.1%}", "of the pictures: nothing false, nothing missed"),
        (
            "scores",
            f"off by {plain['calibration_error']:.3f}",
            "mean distance of score and share of right boxes",
        ),
        ("one answer", f"{times['p50']:.0f} ms", f"median; p95 {times['p95']:.0f} ms"),
    ]
    if plain["rejects"]:
        counts = ", ".join(f"{count} {name}" for name, count in plain["rejects"].items())
        rows.append(("dropped", str(sum(plain["rejects"].values())), counts))
    if plain["truncated"]:
        rows.append(("cut off", str(plain["truncated"]), "answers reached their limit of tokens or time"))
    return rows


def _label_bars(plain: Mapping[str, Any]) -> list[str]:
    there = {label: each for label, each in plain["by_label"].items() if each["ap"] is not None}
    if not there:
        return []
    series = {
        "AP50": [each["ap_50"] for each in there.values()],
        "AP": [each["ap"] for each in there.values()],
    }
    return [bars(series, list(there), "average precision", "average precision by label")]


def _curves(plain: Mapping[str, Any]) -> list[str]:
    parts = []
    known, by_label = plain["curves"], plain["by_label"]
    if known:
        most = sorted(known, key=lambda label: -by_label[label]["objects"])[:MOST_CURVES]
        mean = [sum(column) / len(known) for column in zip(*known.values(), strict=True)]
        lines = {"mean of all": mean, **{label: known[label] for label in most}}
        recalls = RECALLS.tolist()
        parts += [
            heading("Precision at each recall"),
            words(
                "At an overlap of 0.5: how many boxes are right, if so many objects are to be found.", "quiet"
            ),
            curves(
                {name: (recalls, line) for name, line in lines.items()}, ("recall", "precision"), "curves"
            ),
        ]
    if plain["reliability"]:
        bins = plain["reliability"]
        places = [each["mean_score"] for each in bins], [each["hit_rate"] for each in bins]
        parts += [
            heading("Whether scores can be trusted"),
            words("How often boxes are right, by their score; on the grey line it is the same.", "quiet"),
            words(fit_in_words(plain), "quiet"),
            curves({"": places}, ("score", "share of right boxes"), "reliability", diagonal=True),
        ]
    return parts


def fit_in_words(plain: Mapping[str, Any]) -> str:
    """The calibration of the scores that suits these pictures."""
    fitted, unseen = plain["fitted"], plain["unseen_calibration_error"]
    left = "" if unseen is None else f": off by {unseen:.3f} then, on pictures it was not fitted to"
    return (
        f"These pictures ask for detect.score_gain {fitted['score_gain']:g} and "
        f"detect.score_bias {fitted['score_bias']:g}{left}."
    )


def _compared(ways: Mapping[str, Mapping[str, Any]]) -> list[str]:
    rows = [(name, *_cells(each, OF_WAYS)) for name, each in ways.items()]
    series = {
        "F1": [each["f1"] or 0.0 for each in ways.values()],
        "AP50": [each["ap_50"] or 0.0 for each in ways.values()],
    }
    return [grid(("", *WAYS_HEADS), rows), bars(series, list(ways), "F1, average precision", "quality")]


def _shown(shown: int, total: int, missed: bool) -> str:
    if not total:
        return "None."
    which = "the largest" if missed else "those with the highest scores"
    some = f" Of {total}, {which} are shown." if total > shown else ""
    return f"{BOXES_SHOWN}{some}"


def _caption(mistake: Mistake) -> str:
    score = "" if mistake.score is None else f" {mistake.score:.0%}"
    return f"{mistake.label}{score}: {mistake.why} ({mistake.picture})"
