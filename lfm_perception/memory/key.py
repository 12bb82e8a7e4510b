# SPDX-License-Identifier: Apache-2.0
"""The key of an encrypted memory: from the environment, or from a file that only its owner may read."""

from __future__ import annotations

import os

from lfm_perception.errors import PerceptionError
from lfm_perception.files import read_secret, user_path
from lfm_perception.settings import MemorySettings

MIN_LENGTH, MAX_LENGTH = 16, 1024
"""Length of a key, characters. `openssl rand -hex 32` makes one of 64."""


def read_key(settings: MemorySettings) -> str:
    """The key that the settings name.

    Raises:
        PerceptionError: it is missing, too short, or others may read its file. Never quotes the key.
    """
    if settings.key_file:
        key, source = _from_file(settings.key_file), settings.key_file
    else:
        source = f"${settings.key_variable}"
        key = os.environ.get(settings.key_variable, "")
        if not key:
            raise PerceptionError(
                f"the memory is encrypted and {source} is not set: export its key, "
                "or name a file in memory.key_file"
            )
    if not MIN_LENGTH <= len(key) <= MAX_LENGTH or not key.isprintable():
        raise PerceptionError(
            f"the key in {source} must be one line of {MIN_LENGTH} to {MAX_LENGTH} characters, "
            f"got {len(key)}: make one with openssl rand -hex 32"
        )
    return key


def _from_file(name: str) -> str:
    try:
        return read_secret(user_path(name), "memory.key_file").decode()
    except UnicodeDecodeError as error:
        raise PerceptionError(f"the key in {name} is no text: make one with openssl rand -hex 32") from error
