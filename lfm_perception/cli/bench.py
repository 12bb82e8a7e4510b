# SPDX-License-Identifier: Apache-2.0
"""`lfm-perception bench`: the speed of a model on this machine."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from lfm_perception.cli import options
from lfm_perception.cli.job import progress_bar, running


def bench(
    out: options.Out,
    seconds: Annotated[float, typer.Option(min=1.0, max=86400.0, help="Duration in seconds.")] = 60.0,
    size: Annotated[str, typer.Option(metavar="WxH", help="Camera resolution, in pixels.")] = "640x480",
    settings: options.SettingsFile = None,
    set_: options.Changes = None,
    _: options.Compare = None,
) -> None:
    """Measure the speed of a model on this machine, with images of the demo world.

    Writes `bench.html` (start, stages, percentiles, sustained rate, memory, and temperature and power where
    the board has sensors) and `bench.json`. Run it for some minutes to see whether the machine keeps its
    speed when it is warm.
    """
    from lfm_perception.evaluation.bench import KIND, measures, write_bench_page
    from lfm_perception.evaluation.bench import bench as measure
    from lfm_perception.evaluation.reports import provenance
    from lfm_perception.media.page import drawing
    from lfm_perception.media.staging import staged, write_json, writing

    if not (match := re.fullmatch(r"(\d{2,4})x(\d{2,4})", size)):
        raise typer.BadParameter(f"{size!r} is not a size like 640x480", param_hint="--size")
    width, height = map(int, match.groups())
    chosen = options.load_settings(settings, set_)
    with running(progress_bar()) as job, staged(out) as staging:
        job.begin("inferring", 1.0)
        bench_run = measure(chosen, width, height, seconds, job.set_progress)
        job.require_results(
            len(bench_run.samples) > 1, "fewer than two inferences were measured: give more --seconds"
        )
        found = {"kind": KIND, **measures(bench_run), "camera": size, **provenance(chosen)}
        with writing(out):
            write_json(staging.path / "bench.json", found)
            with drawing("the page"):
                write_bench_page(staging.path / "bench.html", bench_run, found)
            staging.publish()
    options.tell(
        f"inference rate {found['inferences_hz']:.2f} Hz; results in {out}: open {out / 'bench.html'}"
    )
    job.finish(out)
