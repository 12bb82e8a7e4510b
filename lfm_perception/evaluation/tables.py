# SPDX-License-Identifier: Apache-2.0
"""Results of the trials as tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple

from rich.table import Table

from lfm_perception.evaluation.demo import DEMO_COLUMNS, TrialReport, demo_row
from lfm_perception.evaluation.tracking import TrackingMetrics

TRACKING_COLUMNS = ("HOTA", "DetA", "AssA", "MOTA", "IDF1", "IDSW", "FP", "FN")


def tracking_table(metrics: Mapping[str, TrackingMetrics]) -> Table:
    """One row for each protocol."""
    table = new_table("protocol", TRACKING_COLUMNS)
    for row in tracking_rows(metrics):
        table.add_row(*row)
    return table


def tracking_rows(metrics: Mapping[str, TrackingMetrics]) -> list[tuple[str, ...]]:
    """The name of each protocol, and its metrics in the order of `TRACKING_COLUMNS`."""
    return [(name, *(f"{value:.1f}" for value in astuple(each))) for name, each in metrics.items()]


def demo_table(reports: Sequence[TrialReport]) -> Table:
    """One row for each trial on the demo world."""
    table = new_table("trial", DEMO_COLUMNS, caption="encode, prefill, decode: median ms")
    for report in reports:
        table.add_row(*demo_row(report))
    return table


def new_table(first: str, columns: Sequence[str], caption: str | None = None) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), caption=caption)
    table.add_column(
        first, style="bold", overflow="fold"
    )  # names give way on a narrow terminal, figures do not
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table
