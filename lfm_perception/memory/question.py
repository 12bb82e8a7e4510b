# SPDX-License-Identifier: Apache-2.0
"""Questions to the memory, in words and as JSON, and their answers; times and ages as people write them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar

from lfm_perception.errors import PerceptionError, shown
from lfm_perception.files import parse_json
from lfm_perception.memory.store import KINDS, MAX_ID, Entry, Query
from lfm_perception.stamps import from_seconds, to_seconds

MAX_LENGTH = 200
"""Maximum length of a question, characters."""

MAX_ENTRIES = 20
"""Maximum number of entries in an answer in JSON."""

_LAST_SEEN = re.compile(
    r"when (?:did (?:you|we|it|the robot) last (?:see|notice) (?P<seen>.+?)"
    r"|(?:was|were) (?P<was>.+?) last (?:seen|noticed))\s*\??",
    re.IGNORECASE,
)
_ARTICLE = re.compile(r"(?:an?|the|any|some)\s+", re.IGNORECASE)
_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,3})?)\s*(s|min|m|h|d)?")
_UNITS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400}


@dataclass(frozen=True, slots=True)
class MemoryQuestion:
    """Words to search the memory for; `text` is the question as it was asked.

    `since` and `until` are times as `moment_ns` reads them, `kind` is one of `KINDS`; empty: any. An
    answer to a question in JSON is JSON.
    """

    type: ClassVar[str] = "memory"
    text: str
    words: str
    since: str = ""
    until: str = ""
    kind: str = ""
    as_json: bool = True

    def query(self, now_ns: int) -> Query:
        """The search for it. Raises PerceptionError for a kind that is none, and times that leave no time."""
        if self.kind and self.kind not in KINDS:
            raise PerceptionError(
                f"the kind of an entry is one of {', '.join(KINDS)}, got {shown(self.kind)}"
            )
        since = moment_ns(self.since, now_ns) if self.since else 0
        until = moment_ns(self.until, now_ns) if self.until else MAX_ID
        if since > until:
            raise PerceptionError(
                f"since {shown(self.since)} is after until {shown(self.until)}: nothing lies between "
                "them, swap the two"
            )
        return Query(self.words, since, until, self.kind, MAX_ENTRIES if self.as_json else 1)

    def to_json(self) -> str:
        """The question as `parse` reads it."""
        entry = {"question": self.text, "type": "memory", "since": self.since, "until": self.until}
        return json.dumps({**entry, "kind": self.kind}, ensure_ascii=False)

    @classmethod
    def parse(cls, text: str) -> MemoryQuestion | None:
        """The question in a text on `input_query`; None for one that is not about the memory.

        `When did you last see a forklift?`, `When was the red box last seen?`, and the JSON object
        `{"question": "forklift door", "type": self.type, "since": "10m"}`.

        Raises PerceptionError for JSON of this type that is no question.
        """
        if text.lstrip().startswith("{"):
            entry: Any = None
            with suppress(PerceptionError):  # which is reported where other questions are read
                entry = parse_json(text)
            about_memory = isinstance(entry, Mapping) and entry.get("type") == cls.type
            return _from_mapping(entry) if about_memory else None
        found = _LAST_SEEN.fullmatch(text.strip()) if len(text) <= MAX_LENGTH else None
        if found is None:
            return None
        words = found["seen"] or found["was"]
        return cls(
            text.strip(), _ARTICLE.sub("", words, 1) if _ARTICLE.match(words) else words, as_json=False
        )

    def answer(self, entries: Sequence[Entry], oldest_ns: int | None, now_ns: int) -> str:
        """The answer: the newest entry, with its age and time, in words; or JSON with all entries."""
        said = self._words(entries[0] if entries else None, oldest_ns, now_ns)
        if not self.as_json:
            return said
        found = [entry_to_json(entry, now_ns) for entry in entries]
        return json.dumps(
            {"question": self.text, "type": self.type, "value": said, "entries": found}, ensure_ascii=False
        )

    def _words(self, entry: Entry | None, oldest_ns: int | None, now_ns: int) -> str:
        if entry is not None:
            age, when = ago_text(now_ns - entry.kept_ns), time_text(entry.kept_ns)
            return f"{self.words}: {age}, at {when} ({entry.kind}: {entry.text})"
        if oldest_ns is None:
            return f"{self.words}: not in memory, which is empty"
        return f"{self.words}: not in memory, which goes back {age_text(now_ns - oldest_ns)}"


def _from_mapping(entry: Mapping[str, Any]) -> MemoryQuestion:
    known = ("question", "type", "since", "until", "kind")
    for key, value in entry.items():
        if key not in known or not isinstance(value, str) or len(value) > MAX_LENGTH:
            raise PerceptionError(
                f"a question to the memory has texts of up to {MAX_LENGTH} characters under "
                f"{', '.join(known)}, got {shown(key)}: {shown(value)}"
            )
    words = entry.get("question", "")
    return MemoryQuestion(words, words, *(entry.get(key, "") for key in known[2:]))


def entry_to_json(entry: Entry, now_ns: int) -> dict[str, Any]:
    """An entry as a JSON object, without its thumbnail."""
    data: Any = entry.data
    with suppress(PerceptionError):
        data = parse_json(entry.data)
    return {
        "kind": entry.kind,
        "text": entry.text,
        "kept_ns": entry.kept_ns,
        "age_s": round(to_seconds(now_ns - entry.kept_ns), 3),
        "stamp_ns": entry.stamp_ns,
        "data": data,
    }


def moment_ns(text: str, now_ns: int) -> int:
    """A time: an age such as `90`, `90s`, `10m`, `2h` or `7d`, or a date and time in ISO 8601, local if bare.

    Raises PerceptionError.
    """
    if found := _DURATION.fullmatch(text.strip()):
        return max(0, now_ns - from_seconds(float(found[1]) * _UNITS[found[2] or "s"]))
    try:
        seconds = datetime.fromisoformat(text.strip()).timestamp()
    except (ValueError, OverflowError, OSError) as error:
        raise PerceptionError(
            f"{shown(text)} is no time: give an age such as 10m or 2h, or a date and time such as "
            "2026-05-01T08:00"
        ) from error
    return min(max(0, from_seconds(seconds)), MAX_ID)


def time_text(time_ns: int) -> str:
    """A time of the wall clock in local time: `2026-05-01 08:00:00+02:00`."""
    try:
        return datetime.fromtimestamp(to_seconds(time_ns)).astimezone().isoformat(" ", "seconds")
    except (ValueError, OverflowError, OSError):  # from a file
        return f"{time_ns} ns"


def ago_text(age_ns: int) -> str:
    """How long ago something of this age was: `2 min 5 s ago`, or `now` in its first second."""
    age = age_text(age_ns)
    return "now" if age == age_text(0) else f"{age} ago"


def age_text(age_ns: int) -> str:
    """An age in its two largest units: `2 min 5 s`."""
    seconds = max(0, int(to_seconds(age_ns)))
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86_400
    if days:
        return f"{days} d {hours % 24} h"
    if hours:
        return f"{hours} h {minutes % 60} min"
    return f"{minutes} min {seconds % 60} s" if minutes else f"{seconds} s"
