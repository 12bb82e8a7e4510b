# SPDX-License-Identifier: Apache-2.0
"""The one exception for everything a user can cause and repair, and values as its messages show them."""

from __future__ import annotations

import reprlib

from lfm_perception.text import sentence


class PerceptionError(Exception):
    """An input that cannot be used. The message is one sentence: the name, the value, the way out.

    The command line prints it as one line and exits with 1; library callers may show it as it is: whatever
    the value, it is printable, on one line and at most `text.MAX_SENTENCE` characters long.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(sentence(str(message)))


def os_reason(error: OSError) -> str:
    """The operating system's reason for an error in lower case: `no such file or directory`."""
    return (error.strerror or str(error)).lower()


def shown(value: object) -> str:
    """A value as the user wrote it, on one line and short."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    try:
        return reprlib.repr(value)
    except ValueError:  # Python refuses to write integers of thousands of digits
        return f"a {type(value).__name__} of thousands of digits"
