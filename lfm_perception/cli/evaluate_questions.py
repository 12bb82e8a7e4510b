# SPDX-License-Identifier: Apache-2.0
"""`lfm-perception eval questions`: typed questions about scenes of the demo world."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from lfm_perception.cli import options
from lfm_perception.cli.job import frame_progress


def questions(
    scenes: Annotated[int, typer.Option(min=1, help="Number of new scenes.")] = 200,
    settings: options.SettingsFile = None,
    set_: options.Changes = None,
    json_: Annotated[Path | None, typer.Option("--json", help="File for all figures.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the scenes.")] = 0,
) -> None:
    """Ask the model typed questions about new scenes of the demo world, and compare with the ground truth.

    A question of each kind about each scene, in wordings that the demo model was not trained on. The
    calibration error is the expected one of the probability of yes.
    """
    from dataclasses import asdict

    from lfm_perception.backends import open_vlm
    from lfm_perception.evaluation.demo_questions import advice, evaluate_questions, run_questions
    from lfm_perception.evaluation.reports import provenance
    from lfm_perception.evaluation.tables import questions_table
    from lfm_perception.media.staging import write_json

    options.check_file(json_)
    chosen = options.load_settings(settings, set_)
    with closing(open_vlm(chosen)) as vlm, frame_progress() as progress:
        asked = list(progress.track(run_questions(vlm, chosen.questions, scenes, seed)))
    reports = evaluate_questions(asked)
    options.show_table(questions_table(reports))
    print(advice(asked, chosen.questions))
    if json_:
        kinds = {report.kind: asdict(report) for report in reports}
        write_json(json_, {**provenance(chosen), "scenes": scenes, "kinds": kinds})
        print(f"all figures in {json_}")
