"""The one exception for everything a user can cause and a user can repair."""

from __future__ import annotations


class PerceptionError(Exception):
    """Something the user gave cannot be used. The message is one sentence: what, which value, the way out.

    The command line prints it as one line and exits 1; library callers may show it as it is.
    """
