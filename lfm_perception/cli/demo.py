# SPDX-License-Identifier: Apache-2.0
"""`lfm-perception demo`: the ROS graph on the demo world, compared with the ground truth."""

from __future__ import annotations

from typing import Annotated

import typer

from lfm_perception.cli import options
from lfm_perception.cli.job import progress_bar, running


def demo(
    out: options.Out,
    seconds: Annotated[
        float, typer.Option(min=1.0, max=3600.0, help="Duration after the first inference, in seconds.")
    ] = 20.0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the demo world.")] = 0,
    settings: options.SettingsFile = None,
    set_: options.Changes = None,
) -> None:
    """Run the ROS graph: the demo world's camera at 30 Hz, the perception node, and the ground truth.

    Writes `index.html` (one page with the video and all figures), `overlay.mp4` and `overlay.png`,
    `scenes.jsonl`, `summary.json`, `perception_bag` (mcap: images, ground truth and the node's outputs) and
    the logs.
    """
    options.require_ros()
    from lfm_perception.evaluation.live_page import figures
    from lfm_perception.evaluation.reports import provenance
    from lfm_perception.ros.demo import DemoOptions, run_demo

    options.check_folder(out)
    chosen = options.load_settings(settings, set_)
    with running(progress_bar()) as job:
        job.begin("starting", 1.0)
        report, _ = run_demo(
            DemoOptions(seconds, seed),
            chosen,
            out,
            about=provenance(chosen),
            on_progress=lambda step, share: job.set_progress(share, step),
        )
    options.show_rows(figures(report))
    options.tell(f"results in {out}: open {out / 'index.html'}")
    job.finish(out)
