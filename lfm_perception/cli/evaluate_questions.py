# SPDX-License-Identifier: Apache-2.0
"""`lfm-perception eval questions`: typed questions about scenes of the demo world."""

from __future__ import annotations

from contextlib import closing
from typing import Annotated

import typer

from lfm_perception.cli import options
from lfm_perception.cli.job import frame_progress


def questions(
    scenes: Annotated[int, typer.Option(min=1, help="Number of new scenes.")] = 200,
    settings: options.SettingsFile = None,
    set_: options.Changes = None,
    out: options.OptionalOut = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the scenes.")] = 0,
) -> None:
    """Ask the model typed questions about new scenes of the demo world, and compare with the ground truth.

    A question of each kind about each scene, in wordings that the demo model was not trained on. The
    calibration error is the expected one of the probability of yes. With `--out` it writes `questions.html`
    and `questions.json`.
    """
    from dataclasses import asdict

    from lfm_perception.backends import open_vlm
    from lfm_perception.evaluation.demo_questions import (
        advice,
        evaluate_questions,
        run_questions,
        sections,
        table,
    )
    from lfm_perception.evaluation.reports import provenance, write_results

    options.check_folder(out)
    chosen = options.load_settings(settings, set_)
    with closing(open_vlm(chosen)) as vlm, frame_progress() as progress:
        asked = list(progress.track(run_questions(vlm, chosen.questions, scenes, seed)))
    reports = evaluate_questions(asked)
    options.show_table(table(reports))
    print(advice(asked, chosen.questions))
    if out:
        kinds = {report.kind: asdict(report) for report in reports}
        found = {**provenance(chosen), "seed": seed, "scenes": scenes, "kinds": kinds}
        shown = sections(asked, chosen.questions)
        print(write_results(out, "questions", "Answers about the demo world", shown, found))
