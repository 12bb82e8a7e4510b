# SPDX-License-Identifier: Apache-2.0
"""Wordings of questions and commands, from YAML files beside this module."""

from __future__ import annotations

import random
import re
from importlib.resources import files
from typing import Any

from lfm_perception.files import parse_yaml

SETS = ("trained", "held_out")
"""Names of the two sets of wordings in the files: those of the training, and those that measure."""


def read_wordings(name: str) -> Any:
    """The content of a file of wordings."""
    return parse_yaml(files(__package__).joinpath(name).read_text(encoding="utf-8"))


def alternative(rng: random.Random, wording: str) -> str:
    """The wording with one of the alternatives of each `(a|b)`."""
    return re.sub(r"\(([^()]*\|[^()]*)\)", lambda found: rng.choice(found[1].split("|")), wording)
