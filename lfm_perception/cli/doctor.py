# SPDX-License-Identifier: Apache-2.0
"""`lfm-perception doctor`: a check of this computer."""

from __future__ import annotations

from typing import Annotated

import typer

from lfm_perception.cli import options
from lfm_perception.errors import PerceptionError


def doctor(
    settings: options.SettingsFile = None,
    set_: options.Changes = None,
    camera: Annotated[
        str | None,
        typer.Option(help="Also measure the frame rate of this camera (`0`) or topic (`/image_raw`)."),
    ] = None,
) -> None:
    """Check whether this computer can run perception, and print a remedy for each problem.

    Checks versions, model files and their checksums, use of the GPU (`--set engine.n_gpu_layers=-1`), the
    time of an inference, camera images through DDS, and the frame rate of a camera.
    """
    from lfm_perception.doctor import examine

    problems = 0
    for finding in examine(options.load_settings(settings, set_), camera):
        print(finding)
        problems += finding.is_problem
    if problems:
        raise PerceptionError(
            f"{problems} problem{'s' if problems > 1 else ''} must be fixed; the remedies are above"
        )
