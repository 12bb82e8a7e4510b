# SPDX-License-Identifier: Apache-2.0
"""The command line, one module for each command.

Exit codes: 0 success; 1 unusable input or model; 2 wrong usage; 130 ended by Ctrl-C, 143 by SIGTERM. Commands
import slow modules inside their functions, so that `--help` answers at once.
"""

from __future__ import annotations

from collections.abc import Sequence

from lfm_perception.interruption import quiet_interruption


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit; `arguments` default to the process's own."""
    with quiet_interruption():
        from lfm_perception.cli.application import run_application
    run_application(arguments)
