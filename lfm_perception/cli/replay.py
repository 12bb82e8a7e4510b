# SPDX-License-Identifier: Apache-2.0
"""`lfm-perception replay`: a bag through the ROS node."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lfm_perception.cli import options
from lfm_perception.cli.job import running
from lfm_perception.errors import PerceptionError


def replay(
    bag: Annotated[Path, typer.Argument(help="A rosbag2 with images: folder, .mcap or .db3.")],
    out: options.Out,
    topic: options.Topic = None,
    pace: Annotated[
        float,
        typer.Option(
            min=0.0,
            max=100.0,
            help="Playback speed: 1 as recorded, 2 twice as fast. 0: each image waits for the inference of "
            "the previous one, so that a replay can be repeated exactly.",
        ),
    ] = 0.0,
    loops: Annotated[int, typer.Option(min=1, help="Number of times the bag is played.")] = 1,
    frames: Annotated[int | None, typer.Option(min=1, help="Maximum number of images per loop.")] = None,
    settings: options.SettingsFile = None,
    set_: options.Changes = None,
    node: Annotated[str | None, typer.Option(help="Play to this running node: `/cam1/perception`.")] = None,
) -> None:
    """Play a bag through the ROS node, with /clock, and record the node's outputs.

    Writes `perception_bag` (mcap: detections, tracks, scene, caption, answers, diagnostics), `scenes.jsonl`,
    `summary.json` and the node's log. At pace 0 and with `--set sampling.temperature=0`, the same bag gives
    the same detections and tracks, byte for byte.
    """
    options.require_ros()
    from lfm_perception.ros.replay import ReplayOptions
    from lfm_perception.ros.replay import replay as play

    if node is not None and (settings or set_):
        raise typer.BadParameter(
            "a running node has its own settings: leave out --settings and --set", param_hint="--node"
        )
    chosen = options.load_settings(settings, set_)
    options.check_apart(str(bag), out)
    with running() as job:
        job.begin("loading the model")
        playback = ReplayOptions(bag, topic, pace, loops, frames)
        summary = play(playback, chosen, out, node=node, on_progress=job.advance)
    options.tell(f"{summary['answered']} of {summary['images']} images answered; results in {out}")
    reasons = ", ".join(f"{count} {reason}" for reason, count in summary["unanswered_reasons"].items())
    if reasons:
        options.tell(f"images without an answer: {reasons}")
    job.finish(out)
    if not summary["answered"]:
        raise PerceptionError(
            f"none of {summary['images']} images was answered ({reasons or 'the node gives no reason'}): "
            f"see {out / 'node.log' if node is None else 'the log of the node'}"
        )
