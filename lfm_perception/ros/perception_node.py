# SPDX-License-Identifier: Apache-2.0
"""The program of the perception node: `ros2 run lfm_perception perception_node`.

The model's worker process starts first, so that it imports the engine beside the node's own imports.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

from lfm_perception.interruption import quiet_interruption

OTHER_BACKEND = re.compile(r"backend\W+(openai|recorded)")
AUTOSTART = re.compile(r"autostart\W+true", re.IGNORECASE)

GENERATOR = "rosidl_generator_py.generate_py_impl"
"""The generator of ROS's interface code, and with it a parser, which the first message type imports: a tenth
of a second. rosidl_generator_py does without where it is missing."""


def loads_at_once(arguments: Sequence[str]) -> bool:
    """Whether a node with these arguments seems to load a model with llama.cpp as soon as it runs.

    A guess from the text of the arguments and parameter files. A wrong one costs a process that ends unused.
    """
    text = list(arguments)
    for option, value in pairwise(arguments):
        with suppress(OSError, UnicodeDecodeError):
            if option == "--params-file" and Path(value).is_file():  # a pipe can be read only once
                text.append(Path(value).read_text("utf-8"))
    return any(map(AUTOSTART.search, text)) and not any(map(OTHER_BACKEND.search, text))


def main() -> None:
    """Run until SIGINT, SIGTERM or the shutdown of the context."""
    with quiet_interruption():
        from lfm_perception import worker_process
        from lfm_perception.parent import end_with_starter

        sys.modules[GENERATOR] = None  # type: ignore[assignment]  # imports as if it were missing
        end_with_starter()
        if loads_at_once(sys.argv):
            worker_process.start_ahead()
        from lfm_perception.ros.run_node import run

        run()


if __name__ == "__main__":
    main()
