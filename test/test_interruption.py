# SPDX-License-Identifier: Apache-2.0
"""Signals that end a program, in processes of their own."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import random, signal
from lfm_perception.interruption import EndRequest

for _ in range(300):
    ending = EndRequest(signal.SIGALRM)
    signal.setitimer(signal.ITIMER_REAL, random.uniform(5e-6, 40e-6))
    ending.wait()
    assert ending.is_there
"""


def test_a_signal_just_before_or_in_a_wait_is_not_missed() -> None:
    assert subprocess.run([sys.executable, "-c", PROGRAM], timeout=60).returncode == 0


def run(code: str) -> int:
    code = f"import signal, time; from lfm_perception.interruption import *; {code}"
    return subprocess.run([sys.executable, "-c", code], timeout=60).returncode


def test_a_second_signal_ends_the_process_where_it_comes_long_after_the_first() -> None:
    begin = "end = EndRequest(signal.SIGINT); [signal.raise_signal(signal.SIGINT) for _ in range(2)]"
    assert run(f"{begin}; end.wait()") == 0
    assert run(f"{begin}; time.sleep(1.1); signal.raise_signal(signal.SIGINT); end.wait()") == 1


@pytest.mark.parametrize(
    ("before", "code"),
    [("signal.default_int_handler", 130), ("signal.SIG_IGN", 0)],
)
def test_an_interruption_of_a_start_ends_it_at_once_unless_it_is_ignored(before: str, code: int) -> None:
    begin = f"signal.signal(signal.SIGINT, {before})"
    assert run(f"{begin}\nwith quiet_interruption(): signal.raise_signal(signal.SIGINT)") == code
    assert run(f"{begin}\nwith quiet_interruption(): pass\nassert signal.getsignal(2) is {before}") == 0
