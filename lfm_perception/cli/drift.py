# SPDX-License-Identifier: Apache-2.0
"""`lfm-perception drift`: records baselines, and compares a source with one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lfm_perception.cli import options
from lfm_perception.cli.job import Job, running
from lfm_perception.errors import PerceptionError
from lfm_perception.files import check_new_file

if TYPE_CHECKING:
    from lfm_perception.evaluation.drift import Stamped
    from lfm_perception.settings import Settings

NODE_SECONDS = 1800.0
"""Default duration of a recording of a running node: a baseline needs three times drift.window."""

app = typer.Typer(no_args_is_help=True)

Every = Annotated[int | None, typer.Option(min=1, help="Infer every n-th frame; by default about 5 Hz.")]


@app.callback()
def _options() -> None:
    """Drift of scores, labels and images against a baseline."""


@app.command()
def baseline(
    source: Annotated[
        str,
        typer.Argument(
            help="As for `run`, or the folder of its results; or `node`, the running node, "
            "`node:/cam1/perception` by its name."
        ),
    ],
    out: Annotated[Path, typer.Option(help="File for the baseline; replaced if it exists.")],
    settings: options.SettingsFile = None,
    set_: options.Changes = None,
    labels: options.Labels = None,
    seconds: options.Seconds = None,
    every: Every = None,
    topic: options.Topic = None,
    rate: options.Rate = None,
    seed: options.Seed = 0,
) -> None:
    """Record a baseline: scores, labels, rejected objects, truncated answers, light, sharpness and motion.

    A running node is recorded for half an hour, or --seconds, at its inference rate; Ctrl-C ends the
    recording early and keeps the samples so far.
    """
    from lfm_perception.backends import log_warning
    from lfm_perception.drift import BaselineRecorder, DriftMonitor

    check_new_file(out)
    chosen = options.load_settings(settings, set_, labels=labels, seed=seed)
    recorder = BaselineRecorder()
    asked = chosen.detect.labels
    with running() as job:
        name = options.node_name(source)
        if name is None:
            with _samples(job, source, chosen, seconds, every, topic, rate, seed) as samples:
                for stamp_s, each in samples:
                    recorder.add(stamp_s, each)
        else:
            if labels or every or rate:
                raise PerceptionError(
                    "--labels, --every and --rate are for other sources: a running node has its own"
                )
            options.require_ros()
            from lfm_perception.ros.drift_samples import node_samples

            seconds = seconds or NODE_SECONDS
            job.begin("recording the node")
            with node_samples(name, topic, seconds) as (asked, samples):
                for stamp_s, each in samples:
                    recorder.add(stamp_s, each)
                    if not job.advance():
                        break
        made = recorder.baseline(asked, source)
    made.write(out)
    try:
        DriftMonitor(made, asked, chosen.drift.window, chosen.drift.warn_psi)
    except PerceptionError as error:  # it may be long enough for a shorter window
        log_warning(str(error))
    options.tell(f"a baseline of {made.seconds:.0f} s in {out}: set drift.baseline to this file")
    job.finish(out)


@app.command()
def report(
    baseline: Annotated[Path, typer.Argument(help="File that `drift baseline` wrote.")],
    source: Annotated[str, typer.Argument(help="As for `run`, or the folder of its results.")],
    out: options.Out = Path("out/drift"),
    settings: options.SettingsFile = None,
    set_: options.Changes = None,
    labels: options.Labels = None,
    seconds: options.Seconds = None,
    every: Every = None,
    topic: options.Topic = None,
    rate: options.Rate = None,
    force: options.Force = False,
    seed: options.Seed = 0,
) -> None:
    """Compare a source with a baseline: `drift.json`, and `drift.html` with a chart for each quantity."""
    from lfm_perception.drift import DriftMonitor, read_baseline
    from lfm_perception.evaluation.drift import Course, drift_sections
    from lfm_perception.evaluation.reports import provenance, write_results

    options.check_new(out, ("drift.json", "drift.html"), force=force)
    options.check_folder(out)
    chosen = options.load_settings(settings, set_, labels=labels, seed=seed)
    expected = read_baseline(baseline)
    monitor = DriftMonitor(expected, chosen.detect.labels, chosen.drift.window, chosen.drift.warn_psi)
    with (
        running() as job,
        _samples(job, source, chosen, seconds, every, topic, rate, seed) as samples,
    ):
        course = Course.of(samples, monitor)
    figures = {"kind": "drift", "source": source, "baseline": str(baseline), **course.to_json()}
    options.show_rows(course.rows())
    sections = drift_sections(course, expected)
    print(write_results(out, "drift", "Drift", sections, {**figures, **provenance(chosen)}))
    job.finish(out)


@contextmanager
def _samples(
    job: Job,
    source: str,
    settings: Settings,
    seconds: float | None,
    every: int | None,
    topic: str | None,
    rate: float | None,
    seed: int,
) -> Iterator[Stamped]:
    """The samples of a source, inferred now, or of the scenes in the results of an earlier run."""
    from lfm_perception.evaluation.drift import inferred_samples, recorded_samples
    from lfm_perception.media.sinks.json_files import SCENES
    from lfm_perception.media.sources import open_source
    from lfm_perception.perception import open_perception

    if (Path(source) / SCENES).is_file():
        yield recorded_samples(Path(source))
        return
    limits = options.limits(source, None, seconds)
    settings = settings.with_values({"caption.enabled": False})
    with (
        open_source(
            source, topic=topic, rate=rate, seed=seed, bit_depth=settings.image.bit_depth, is_sequence=True
        ) as opened,
        open_perception(settings) as perception,
    ):
        job.begin("inferring", limits.total(opened))
        yield inferred_samples(opened, perception, every or opened.every, limits, job.advance)
