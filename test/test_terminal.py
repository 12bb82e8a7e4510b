# SPDX-License-Identifier: Apache-2.0
"""What commands print: tables on terminals and in pipes, and rates of short runs."""

from __future__ import annotations

import re

import pytest
from rich.progress import Progress

from lfm_perception.cli import options
from lfm_perception.cli.job import FrameRate
from lfm_perception.evaluation.tables import new_table
from lfm_perception.live import statistics
from lfm_perception.planning.thermal import DegradationLevel

NAME = "figures.by_label.a very long name of a label, which no terminal is wide enough for"
FIGURES = ("0.9833", "-0.0166", "1234.56")


def show() -> None:
    table = new_table("figure", ("A", "B", "change"))
    table.add_row(NAME, *FIGURES)
    options.show_table(table)


def test_a_table_in_a_pipe_is_whole_and_plain(capsys: pytest.CaptureFixture[str]) -> None:
    show()
    out = capsys.readouterr().out
    assert [line.split() for line in out.splitlines()][1] == [*NAME.split(), *FIGURES]
    assert "\x1b" not in out
    assert not any(line.endswith(" ") for line in out.splitlines())


@pytest.mark.parametrize("width", [50, 120])
def test_a_table_follows_the_width_of_the_terminal(
    width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    show()
    lines = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).splitlines()
    assert max(map(len, lines)) <= width
    assert all(any(figure in line.split() for line in lines) for figure in FIGURES)
    assert (len(lines) > 2) == (width < 120)


def test_the_rate_of_a_run_is_right_from_its_first_frame_on() -> None:
    now_s = 100.0
    progress = Progress(get_time=lambda: now_s)
    task_id = progress.add_task("inferring", total=2)
    assert FrameRate().render(progress.tasks[0]).plain == "0.00 frames/s"
    for now_s, rate in ((102.0, "0.50"), (102.5, "0.80")):  # noqa: B007 - read by the clock
        progress.advance(task_id)
        assert FrameRate().render(progress.tasks[0]).plain == f"{rate} frames/s"
    now_s = 200.0  # the rate of a finished run stays
    assert FrameRate().render(progress.tasks[0]).plain == "0.80 frames/s"


def test_the_rate_of_a_camera_is_right_before_its_window_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.monotonic", lambda: 50.0)
    recorder = statistics.StatisticsRecorder()
    for index in range(15):
        recorder.record_frame(50.0 + index / 30, index)
    monkeypatch.setattr("time.monotonic", lambda: 50.5)
    assert recorder.snapshot(True, DegradationLevel.NONE, 0).input_hz == pytest.approx(30.0)
