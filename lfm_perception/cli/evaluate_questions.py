# SPDX-License-Identifier: Apache-2.0
"""`lfm-perception eval questions`: typed questions about scenes of the demo world."""

from __future__ import annotations

from contextlib import closing
from typing import Annotated

import typer

from lfm_perception.cli import options
from lfm_perception.cli.job import frame_progress
from lfm_perception.errors import PerceptionError, shown


def questions(
    scenes: Annotated[int, typer.Option(min=1, help="Number of new scenes.")] = 200,
    most: Annotated[
        int | None, typer.Option(min=1, help="Maximum number of questions of each kind; no limit by default.")
    ] = None,
    languages: Annotated[
        str | None, typer.Option(help="Also ask in these languages: `de,fr`, or `all` of the model's.")
    ] = None,
    settings: options.SettingsFile = None,
    set_: options.Changes = None,
    out: options.OptionalOut = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the scenes.")] = 0,
) -> None:
    """Ask the model typed questions about new scenes of the demo world, and compare with the ground truth.

    At most one question of each kind about each scene, in wordings that the demo model was not trained on.
    The calibration error is the expected one of the probability of yes. In other languages, questions of
    some kinds are asked. With `--out` it writes `questions.html` and `questions.json`.
    """
    import math
    from dataclasses import asdict

    from lfm_perception.backends import open_vlm
    from lfm_perception.demo.scene_questions import TRANSLATIONS
    from lfm_perception.evaluation.demo_questions import (
        advice,
        evaluate_questions,
        languages_table,
        run_questions,
        sections,
        table,
    )
    from lfm_perception.evaluation.reports import provenance, write_results

    options.check_folder(out)
    chosen = options.load_settings(settings, set_)
    known = ["en", *TRANSLATIONS]
    codes = known if languages == "all" else list(dict.fromkeys(["en", *options.split(languages or "")]))
    for code in codes:
        if code not in known:
            raise PerceptionError(
                f"there are no questions in the language {shown(code)}, only in: {', '.join(known)}"
            )
    limit = most or math.inf
    with closing(open_vlm(chosen)) as vlm, frame_progress() as progress:
        asked = {
            code: list(
                progress.track(
                    run_questions(vlm, chosen.questions, scenes, seed, code, limit), description=code
                )
            )
            for code in codes
        }
    reports = {code: evaluate_questions(answers) for code, answers in asked.items()}
    options.show_table(table(reports["en"]))
    print(advice(asked["en"], chosen.questions))
    if len(codes) > 1:
        options.show_table(languages_table(reports))
    if out:
        kinds = {code: {each.kind: asdict(each) for each in given} for code, given in reports.items()}
        figures = {"kinds": kinds.pop("en"), "languages": kinds}
        found = {**provenance(chosen), "seed": seed, "scenes": scenes, "most": most, **figures}
        parts = sections(asked["en"], chosen.questions, reports)
        options.tell(write_results(out, "questions", "Answers about the demo world", parts, found))
