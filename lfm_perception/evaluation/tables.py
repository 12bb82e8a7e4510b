# SPDX-License-Identifier: Apache-2.0
"""Results of the trials as tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple

from rich.table import Table

from lfm_perception.evaluation.demo import TrialReport
from lfm_perception.evaluation.demo_questions import KindReport
from lfm_perception.evaluation.tracking import TrackingMetrics

TRACKING_COLUMNS = ("HOTA", "DetA", "AssA", "MOTA", "IDF1", "IDSW", "FP", "FN")
DEMO_COLUMNS = ("prec", "recall", "F1", "IoU", "count", "correct", "encode", "prefill", "decode")


def tracking_table(metrics: Mapping[str, TrackingMetrics]) -> Table:
    """One row for each protocol."""
    table = new_table("protocol", TRACKING_COLUMNS)
    for name, each in metrics.items():
        table.add_row(name, *(f"{value:.1f}" for value in astuple(each)))
    return table


def demo_table(reports: Sequence[TrialReport]) -> Table:
    """One row for each trial on the demo world."""
    table = new_table("trial", DEMO_COLUMNS, caption="encode, prefill, decode: median ms")
    for report in reports:
        d, usage = report.detection, report.usage
        measures = (d.at_50.precision, d.at_50.recall, d.at_50.f1, d.mean_iou, d.count_exact) if d else ()
        table.add_row(
            report.name,
            *(f"{measure:.3f}" for measure in measures),
            *([""] * (5 - len(measures))),
            f"{report.correct:.3f}",
            *(f"{1000 * stage:.0f}" for stage in (usage.encode_s, usage.prefill_s, usage.decode_s)),
        )
    return table


def questions_table(reports: Sequence[KindReport]) -> Table:
    """One row for each kind of question about the demo world."""
    table = new_table("question", ("asked", "right", "within one", "error"))
    for report in reports:
        measures = (report.correct, report.within_one, report.calibration_error)
        shown = ("" if measure is None else f"{measure:.3f}" for measure in measures)
        table.add_row(report.kind, str(report.questions), *shown)
    return table


def new_table(first: str, columns: Sequence[str], caption: str | None = None) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), caption=caption)
    table.add_column(first, style="bold", no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right")
    return table
