# SPDX-License-Identifier: Apache-2.0
"""The strict half: whole objects as the dialect writes them, wherever they stand in a text."""

from __future__ import annotations

import json
import re
from functools import lru_cache

from lfm_perception.questions import Dialect

NUMBER = r"[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?"

SIDES = ("x1", "y1", "x2", "y2")


@lru_cache(maxsize=32)
def object_pattern(dialect: Dialect) -> re.Pattern[str]:
    """The pattern of one object, with groups `label`, `x1`, `y1`, `x2`, `y2`. Matches in linear time."""
    sides = (rf"\s* (?P<{side}> {NUMBER} ) \s*" for side in SIDES)
    values = {
        dialect.label_key: r'" (?P<label> [^"\\\n\[\](){}]* ) "',
        dialect.box_key: rf"\[ {' , '.join(sides)} \]",
    }
    members = (
        rf"{re.escape(json.dumps(key))} \s*:\s* {values.get(key, '[-+.0-9]+')}" for key in dialect.keys
    )
    return re.compile(r"\{ \s*" + r" \s*,\s* ".join(members) + r" \s* \}", re.VERBOSE)
