# SPDX-License-Identifier: Apache-2.0
"""Events as values and as JSON. `events.schema.json` beside this file defines the format."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import astuple, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from lfm_perception.errors import PerceptionError, shown
from lfm_perception.files import json_problem, typed
from lfm_perception.scene import Track
from lfm_perception.scene_json import score_from_json
from lfm_perception.stamps import join_stamp, split_stamp, to_seconds
from lfm_perception.text import safe_line

SCHEMA = Path(__file__).parent / "events.schema.json"
VERSION = 1

MAX_BYTES = 2000
"""Maximum length of an event as JSON, bytes. A longer one is shortened: tracks are left out and counted, then
the values, then texts are cut."""

SHORT = 30
"""Length to which the texts of an event are cut that is too long without tracks and values, characters."""

FILE_PREFIX = "lfm_event_"
"""Beginning of the names of files about events: no other file is ever deleted."""

MAX_FILE_NAME = 48
"""Maximum number of characters of a rule's name in a file name, which may have 255 bytes, 4 a character."""

MAX_LABEL = 60
"""Maximum length of a label in an event, characters."""


MAX_NAME = 130
"""Maximum length of the name of a rule and of the id of an event that others publish, characters."""

MAX_TRACKS = 50
"""Number of tracks that never fit into an event: shortening begins below it."""

STATES = ("begin", "end", "moment", "answer")

_TYPES: dict[str, type[Any]] = {
    "version": int,
    "event_id": str,
    "rule": str,
    "state": str,
    "stamp": dict,
    "begin": dict,
    "duration_s": float,
    "frame_id": str,
    "message": str,
    "tracks": list,
    "tracks_left_out": int,
    "values": dict,
    "suppressed": int,
}
"""The types of an event's keys in JSON."""


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

    @property
    def begins(self) -> bool:
        """Whether the event begins here. A moment begins and has no end."""
        return self.state in ("begin", "moment")


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
    """An event as one line of JSON of at most `MAX_BYTES`; what finds no room is left out."""
    for shorter in _shorter(record):
        text = json.dumps(shorter, ensure_ascii=False, allow_nan=False)
        if len(text.encode()) <= MAX_BYTES:
            break
    return text


def _shorter(record: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The event, and the same with ever less in it."""
    tracks, left_out = record["tracks"], record["tracks_left_out"]
    for kept in range(min(len(tracks), MAX_TRACKS), -1, -1):
        yield {**record, "tracks": tracks[:kept], "tracks_left_out": left_out + len(tracks) - kept}
    bare = {**record, "tracks": [], "tracks_left_out": left_out + len(tracks), "values": {}}
    yield bare
    last = {**bare, **{key: safe_line(record[key], SHORT) for key in ("message", "frame_id")}}
    if "answer" in record:
        last["answer"] = {
            key: safe_line(value, SHORT) if isinstance(value, str) else value
            for key, value in record["answer"].items()
        }
    yield last


def event_from_json(record: object) -> dict[str, Any]:
    """An event as others publish it, checked by the schema.

    Raises PerceptionError for what is none.
    """
    try:
        fields = typed(record, dict)
        found = {key: typed(fields[key], kind) for key, kind in _TYPES.items()}
        if fields.keys() - {"answer"} != _TYPES.keys() or found["version"] != VERSION:
            raise ValueError("it has other keys, or another version")
        if found["state"] not in STATES:
            raise ValueError(f"there is no state {shown(found['state'])}")
        if max(len(found[key]) for key in ("event_id", "rule")) > MAX_NAME:
            raise ValueError("the name of its rule is too long")
        if min(found[key] for key in ("duration_s", "tracks_left_out", "suppressed")) < 0:
            raise ValueError("a count or a duration is negative")
        if not all(type(value) in (int, float, str) for value in found["values"].values()):
            raise ValueError("its values are not numbers and texts")
        for key in ("stamp", "begin"):
            found[key] = _stamp(join_stamp(*(typed(found[key][part], int) for part in ("sec", "nanosec"))))
        found["tracks"] = [_checked_track(track) for track in found["tracks"]]
        if "answer" in fields:
            found["answer"] = _checked_answer(fields["answer"])
    except (KeyError, TypeError, ValueError) as error:
        raise PerceptionError(f"not an event: {json_problem(error)}") from error
    return found


def _checked_answer(entry: object) -> dict[str, Any]:
    fields = typed(entry, dict)
    if not {"question"} <= fields.keys() <= {"question", "value", "refused", "probability"}:
        raise ValueError("its answer has other keys")
    return {
        key: score_from_json(value) if key == "probability" else typed(value, str)
        for key, value in fields.items()
    }


def _checked_track(entry: object) -> dict[str, Any]:
    fields = typed(entry, dict)
    sides = [score_from_json(side) for side in typed(fields["bbox"], list)]
    if len(sides) != 4:
        raise ValueError(f"expected a box of 4 sides, got {len(sides)}")
    return {
        "track_id": typed(fields["track_id"], int),
        "label": safe_line(typed(fields["label"], str), MAX_LABEL),
        "confidence": score_from_json(fields["confidence"]),
        "bbox": sides,
    }


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
