# SPDX-License-Identifier: Apache-2.0
"""A long-running command: progress bar, end by a signal, and errors deferred until results are written."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from lfm_perception.errors import PerceptionError


def progress_bar(*columns: ProgressColumn) -> Progress:
    """A description, a bar and `columns` for each task, on standard error."""
    return Progress(
        TextColumn("{task.description}", markup=False), BarColumn(), *columns, console=Console(stderr=True)
    )


class FrameRate(ProgressColumn):
    """The rate since the stage began: unlike rich's speed, it is right from the first frame on."""

    def render(self, task: Task) -> Text:
        elapsed_s = task.finished_time or task.elapsed
        rate = task.completed / elapsed_s if elapsed_s else 0.0
        return Text(f"{rate:.{1 if rate >= 1.0 else 2}f} frames/s")


def frame_progress() -> Progress:
    """A progress bar that counts frames, with their rate and the remaining time."""
    return progress_bar(MofNCompleteColumn(), FrameRate(), TimeRemainingColumn())


class Job:
    """A running command with one progress bar; see `running`."""

    def __init__(self, progress: Progress) -> None:
        self.signal = 0
        """Number of the first signal, after which the job ends with the current frame; 0: none."""
        self._progress, self._task = progress, progress.add_task("", total=None)
        self._error: PerceptionError | None = None

    def begin(self, stage: str, total: float | None = None) -> None:
        """Start a stage with the bar at zero; without `total`, that of the previous stage holds."""
        self._progress.start()
        self._progress.reset(self._task, description=stage, total=total)

    def advance(self) -> bool:
        """Count a frame. Returns False when the job is to end."""
        self._progress.advance(self._task)
        return not self.signal

    def set_progress(self, fraction: float, stage: str | None = None) -> bool:
        """Set the completed fraction of the stage, 0 to 1. Returns False when the job is to end."""
        self._progress.update(self._task, completed=fraction, description=stage)
        return not self.signal

    @contextmanager
    def deferring_errors(self) -> Iterator[None]:
        """Defer a PerceptionError to `finish`, so that the results until then are written."""
        try:
            yield
        except PerceptionError as error:
            self._error = error

    def require_results(self, results: int, message: str) -> None:
        """Exit when there are no results: with the signal's code, the deferred error, or `message`."""
        if not results:
            self._exit_if_stopped()
            raise self._error or PerceptionError(message)

    @property
    def outcome(self) -> str:
        """How the job ended: `complete`, `interrupted`, or the error."""
        return str(self._error) if self._error else "interrupted" if self.signal else "complete"

    def finish(self, out: Path) -> None:
        """Raise the deferred error, or exit with the signal's code; the results are in `out`."""
        if self._error:
            raise PerceptionError(f"{self._error}; the results until then are in {out}")
        self._exit_if_stopped()

    def _exit_if_stopped(self) -> None:
        if self.signal:
            raise typer.Exit(128 + self.signal)

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        if self.signal:
            raise KeyboardInterrupt
        self.signal = number


@contextmanager
def running(progress: Progress | None = None) -> Iterator[Job]:
    """A job that the first Ctrl-C, SIGTERM or SIGHUP ends after the current frame, and a second one at once.

    `progress` counts frames by default.
    """
    progress = progress or frame_progress()
    job = Job(progress)
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, job._on_signal) for number in numbers}
    try:
        yield job
    except KeyboardInterrupt:
        raise typer.Exit(128 + signal.SIGINT) from None
    finally:
        progress.stop()
        for number, handler in before.items():
            signal.signal(number, handler)
