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

_LETTER = rf"(?:(?![{UNSPACED}0-9])\w)"
_SPACE = "[ \u00a0\u202f]"
_NUMBER = re.compile(
    rf"(?<![^\s{UNSPACED}])(?<!百分之)(?<!分之)(?<![0-9]{_SPACE})(?<![-−–—] )(?<!minus )(?<!negative )"
    rf"(?:[^\W\d]+[:=])?[(\[\"'“„«#、，。：（「]*"
    r"([0-9]{1,9}(?:\.[0-9]{1,6})?)"
    rf"(?!{_SPACE}[0-9]{{3}}(?![0-9]))"
    rf"(?:\s*-?(?:{'|'.join(f'({words})' for _, _, words in _UNITS)})(?!{_LETTER}))?"
    rf"(?:-[^\W\d]+)?[^\w\s]*(?=[\s{UNSPACED}]|$|(?<=[{UNSPACED}])[0-9])",
    re.IGNORECASE,
)
_JOINED = re.compile(r"\s*(?:and |und |et |y |e )?", re.IGNORECASE)
_LITERAL = re.compile(r"0|[1-9][0-9]*")


def numbers(words: str, slot: str) -> list[str]:
    """The numbers as values of a slot: those without a unit, and those in a unit of the slot, converted.

    A time in two units, such as `1 min 30 s`, is one number.

    Args:
        slot: `integer`, `seconds` or `share`.
    """
    found: list[str] = []
    last_end, last_factor = 0, Decimal(0)
    for match in _NUMBER.finditer(words):
        text, *units = match.groups()
        if not _LITERAL.fullmatch(text.partition(".")[0]) or (slot == "integer" and "." in text):
            continue
        of_slot, factor = slot, Decimal(1)
        for (unit_slot, unit_factor, _), said in zip(_UNITS, units, strict=True):
            if said:
                of_slot, factor = unit_slot, Decimal(unit_factor)
        if of_slot != slot:
            continue
        value = Decimal(text) * factor
        if any(units) and factor < last_factor and _JOINED.fullmatch(words, last_end, match.start()):
            value += Decimal(found.pop())
        found.append(text if value == Decimal(text) else f"{value.normalize():f}")
        last_end, last_factor = match.end(), factor if any(units) else Decimal(0)
    return found
