# SPDX-License-Identifier: Apache-2.0
"""Numbers in the words of a command, with their units, as JSON texts.

A number is read only where it stands alone, so that a part of another value is never one: of `1e309`, `-5`,
`1/2`, `10-20`, `1 000`, `5k` and `2 million` nothing is read.
"""

from __future__ import annotations

import re
from decimal import Decimal

UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"
"""Characters of scripts without spaces between words, for a character class."""

_UNITS = (
    ("share", "0.01", "[%％﹪٪]"),
    (
        "share",
        "0.01",
        "percent|per[ -]cent|pct|prozent|pour cent|por ciento|por cento|パーセント|퍼센트|"
        "(?:بال|في ال)(?:مئة|مائة)",
    ),
    (
        "seconds",
        "0.001",
        "ms|msecs?|milliseconds?|millisekunden?|millisecondes?|milisegundos?|ミリ秒|毫秒|밀리초",
    ),
    ("seconds", "1", "s|secs?|seconds?|sekunden?|secondes?|segundos?|秒|초|ثانية|ثوان|ثواني"),
    (
        "seconds",
        "60",
        "min(?! (?:score|confidence))|mins|minutes?|minuten?|minutos?|分(?!之|の[0-9])|分钟|分間|분|"
        "دقيقة|دقائق",
    ),
    ("seconds", "3600", "h|hrs?|hours?|stunden?|heures?|horas?|小时|時間|시간|ساعة|ساعات"),
    (
        "",
        "1",
        "m|k|and a half|dozen|hundred|thousand|million|days?|weeks?|hundert|tausend|tage?|mille|jours?|mil|"
        "d[ií]as?|[万千百天日만천백일]|分[之の][0-9]+",
    ),
)
"""Units in the nine languages of the model: the slot whose values have them, the factor, and the words. Those
without a slot cannot be converted."""

_LETTER = rf"(?:(?![{UNSPACED}])\w)"
_SPACE = "[ \u00a0\u202f]"
_NUMBER = re.compile(
    rf"(?<![^\s{UNSPACED}])(?<!百分之)(?<!分之)(?<![0-9]{_SPACE})(?<![-−–—] )(?<!minus )(?<!negative )"
    rf"(?:[^\W\d]+[:=])?[(\[\"'“„«#、，。：（「]*"
    r"([0-9]{1,9}(?:\.[0-9]{1,6})?)"
    rf"(?!{_SPACE}[0-9]{{3}}(?![0-9]))"
    rf"(?:\s*-?(?:{'|'.join(f'({words})' for _, _, words in _UNITS)})(?!{_LETTER}))?"
    rf"(?:-[^\W\d]+)?[^\w\s]*(?=[\s{UNSPACED}]|$)",
    re.IGNORECASE,
)
_LITERAL = re.compile(r"0|[1-9][0-9]*")


def numbers(words: str, slot: str) -> list[str]:
    """The numbers as values of a slot: those without a unit, and those in a unit of the slot, converted.

    Args:
        slot: `integer`, `seconds` or `share`.
    """
    found = []
    for match in _NUMBER.finditer(words):
        text, *units = match.groups()
        if not _LITERAL.fullmatch(text.partition(".")[0]) or (slot == "integer" and "." in text):
            continue
        of_slot, factor = slot, "1"
        for (unit_slot, unit_factor, _), said in zip(_UNITS, units, strict=True):
            if said:
                of_slot, factor = unit_slot, unit_factor
        if of_slot == slot:
            found.append(text if factor == "1" else f"{(Decimal(text) * Decimal(factor)).normalize():f}")
    return found
