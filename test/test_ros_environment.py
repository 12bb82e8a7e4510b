# SPDX-License-Identifier: Apache-2.0
"""Environment variables of ROS, read without ROS."""

from __future__ import annotations

import os
import subprocess
import sys


def test_reading_a_domain_uses_no_freed_memory() -> None:
    code = "from lfm_perception.ros.environment import environment_problem; print(environment_problem())"
    # this allocator overwrites what is freed
    variables = {**os.environ, "PYTHONMALLOC": "debug", "ROS_DOMAIN_ID": "000"}
    done = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True)
    assert done.stdout == "None\n", done.stderr
