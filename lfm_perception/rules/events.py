# SPDX-License-Identifier: Apache-2.0
"""Events as values and as JSON. `events.schema.json` beside this file defines the format."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from lfm_perception.scene import Track
from lfm_perception.stamps import split_stamp, to_seconds
from lfm_perception.text import safe_line

SCHEMA = Path(__file__).parent / "events.schema.json"
VERSION = 1

MAX_BYTES = 2000
"""Maximum length of an event as JSON: tracks beyond are left out, and counted."""

FILE_PREFIX = "lfm_event_"
"""Beginning of the names of files about events: no other file is ever deleted."""

MAX_FILE_NAME = 48
"""Characters of a rule's name in the name of a file at most: of up to 4 bytes each, and a name has 255."""

MAX_LABEL = 60
"""Maximum length of a label in an event, characters."""


@dataclass(frozen=True, slots=True)
class Event:
    """The `begin` or the `end` of an event, a `moment`, which has no duration, or an `answer` about it.

    Begin and end have the same `event_id`, which names the rule, the stamp of the beginning and, for a rule
    about objects, the track: a replay gives the same. `tracks` caused it, the first one above all; `values`
    are those that its rule's conditions evaluated. `suppressed` counts the events of this rule since the last
    published one that were not published, because of its cool-down or the limit of the rate. `answer` is that
    to the question of the rule's action, or why there is none.
    """

    event_id: str
    rule: str
    state: str
    stamp_ns: int
    begin_ns: int
    message: str = ""
    tracks: tuple[Track, ...] = ()
    values: Mapping[str, float | str] = field(default_factory=lambda: MappingProxyType({}))
    suppressed: int = 0
    answer: Mapping[str, Any] | None = None


def event_to_json(event: Event, frame_id: str) -> dict[str, Any]:
    """The event by the schema, ready for `event_text`."""
    return {
        "version": VERSION,
        "event_id": event.event_id,
        "rule": event.rule,
        "state": event.state,
        "stamp": _stamp(event.stamp_ns),
        "begin": _stamp(event.begin_ns),
        "duration_s": round(to_seconds(event.stamp_ns - event.begin_ns), 6),
        "frame_id": frame_id,
        "message": event.message,
        "tracks": [_track(track) for track in event.tracks],
        "tracks_left_out": 0,
        "values": {name: _rounded(value) for name, value in event.values.items()},
        "suppressed": event.suppressed,
        **({} if event.answer is None else {"answer": dict(event.answer)}),
    }


def event_text(record: Mapping[str, Any]) -> str:
    """An event as one line of JSON of at most `MAX_BYTES`; tracks that find no room are left out."""
    tracks: Sequence[Any] = record["tracks"]
    for kept in range(len(tracks), -1, -1):
        shortened = {**record, "tracks": tracks[:kept], "tracks_left_out": len(tracks) - kept}
        text = json.dumps(shortened, ensure_ascii=False, allow_nan=False)
        if len(text.encode()) <= MAX_BYTES:
            break
    return text


def file_name(event: Event) -> str:
    """The name under which something about an event is saved, without suffix."""
    rule, number = event.event_id[: len(event.rule)], event.event_id[len(event.rule) :]
    return FILE_PREFIX + re.sub(r"[^\w-]+", "_", rule)[:MAX_FILE_NAME] + number


def _stamp(stamp_ns: int) -> dict[str, int]:
    sec, nanosec = split_stamp(stamp_ns)
    return {"sec": sec, "nanosec": nanosec}


def _track(track: Track) -> dict[str, Any]:
    return {
        "track_id": track.track_id,
        "label": safe_line(track.label, MAX_LABEL),
        "confidence": round(track.score, 4),
        "bbox": [round(side, 4) for side in astuple(track.box)],
    }


def _rounded(value: float | str) -> float | str:
    return safe_line(value, MAX_LABEL) if isinstance(value, str) else round(value, 4)
