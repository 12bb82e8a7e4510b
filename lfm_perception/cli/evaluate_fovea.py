# SPDX-License-Identifier: Apache-2.0
"""`lfm-perception eval fovea`: foveated inference, compared with whole frames."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from lfm_perception.cli import options
from lfm_perception.cli.job import frame_progress


def fovea(
    source: Annotated[
        str,
        typer.Argument(
            help="`demo` (the demo world, drawn, with small objects), a folder of labelled sequences in the "
            "MOTChallenge format with their pictures in `img1`, or a rosbag2 with its labels, each box with "
            "the number of its object in `id`."
        ),
    ] = "demo",
    tokens: Annotated[
        list[int] | None,
        typer.Option(
            min=1, max=1024, help="A limit of image tokens; by default 60, 120 and 252. Repeatable."
        ),
    ] = None,
    sequences: Annotated[
        int, typer.Option(min=1, max=1000, help="Number of sequences of the demo world.")
    ] = 3,
    seconds: Annotated[float, typer.Option(min=2.0, max=600.0, help="Duration of each of them.")] = 12.0,
    width: Annotated[int, typer.Option(min=320, max=3840, help="Their width in pixels.")] = 1280,
    height: Annotated[int, typer.Option(min=240, max=2160, help="Their height in pixels.")] = 720,
    annotations: options.Annotations = None,
    topic: options.Topic = None,
    settings: options.SettingsFile = None,
    set_: options.Changes = None,
    out: options.OptionalOut = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first sequence.")] = 0,
) -> None:
    """Compare foveated inference (`fovea.mode: on`) with whole frames, at several budgets.

    A frame is inferred every 240 ms, and its answer known 240 ms later. HOTA, precision and recall of the
    tracks at every frame, recall by object size, and the time until 90% of the new objects have a track, over
    tokens and compute per second. Says whether the model sees by picture pixels, and fits
    `fovea.min_object_size`. With `--out` it writes `fovea.html` and `fovea.json`.
    """
    from lfm_perception.backends import open_vlm
    from lfm_perception.evaluation.detection_run import selected_labels
    from lfm_perception.evaluation.foveation_sequences import (
        demo_image_sequence,
        labelled_bag,
        labelled_sequences,
    )
    from lfm_perception.evaluation.foveation_trials import FoveaTrials
    from lfm_perception.evaluation.reports import provenance, write_results
    from lfm_perception.media.bags import is_bag

    options.check_folder(out)
    chosen = options.load_settings(settings, set_)
    budgets = tokens or [60, 120, 252]
    if is_bag(Path(source)):
        opened = [labelled_bag(Path(source), annotations, topic)]
        labels = selected_labels(opened[0].truth.labels, None)
        chosen = chosen.with_values({"detect.labels": labels})
    elif annotations or topic:
        raise typer.BadParameter("--annotations and --topic are for a bag")
    elif source == "demo":
        opened = [demo_image_sequence(seed + index, seconds, width, height) for index in range(sequences)]
    else:
        opened = labelled_sequences(Path(source))
    with closing(open_vlm(chosen)) as vlm, frame_progress() as progress:
        task = progress.add_task("inferring", total=2 * len(opened) * len(budgets))
        trials = FoveaTrials.run(opened, lambda _: vlm, chosen, budgets, lambda: progress.advance(task))
    options.show_table(trials.table())
    for line in trials.remarks():
        print(line)
    if out:
        found = {"source": source, "seed": seed, **provenance(chosen), **trials.as_json()}
        options.tell(write_results(out, "fovea", "Foveated inference", trials.sections(), found))
