# SPDX-License-Identifier: Apache-2.0
"""Payloads of MQTT: events as they are published, and summaries, which `summary.schema.json` defines."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lfm_perception.errors import PerceptionError
from lfm_perception.files import parse_json
from lfm_perception.mqtt.outbox import MAX_PAYLOAD
from lfm_perception.rules.events import event_from_json, event_text
from lfm_perception.scene import Scene
from lfm_perception.stamps import split_stamp, to_seconds
from lfm_perception.text import safe_line

SCHEMA = Path(__file__).parent / "summary.schema.json"
VERSION = 1

MAX_EVENT = 100_000
"""Maximum length of a message on `events` that is read, characters: 10 MB would take seconds."""

MAX_LABELS = 1000
"""Maximum number of labels, and of rules, that are counted for a summary; further ones are not."""

MAX_TRACKS = 10_000
"""Maximum number of tracks of one label that a summary counts."""

MAX_NAME, MAX_PROBLEM = 60, 150
"""Maximum length of names and of problems in a summary, characters."""

LEVELS = ("ok", "warn", "error", "stale")
"""Levels of a status, in the order of `diagnostic_msgs/DiagnosticStatus`."""


def event_payload(text: str) -> bytes:
    """The payload of a message on `events`: the same JSON, shortened where it is too long.

    Raises PerceptionError for what is no event, is far too long, or has a name that takes too much room.
    """
    if len(text) > MAX_EVENT:
        raise PerceptionError(f"an event has at most {MAX_EVENT} characters, not {len(text)}")
    payload = event_text(event_from_json(parse_json(text))).encode()
    if len(payload) > MAX_PAYLOAD:
        raise PerceptionError(f"an event of {len(payload)} bytes cannot be shortened to {MAX_PAYLOAD}")
    return payload


class Activity:
    """Counts of a node's scenes, tracks and events since the last summary. Not thread-safe."""

    def __init__(self, node: str) -> None:
        self._node = node
        self._health: Mapping[str, tuple[int, str]] = {}
        self._now = Counter[str]()
        self._begin_ns = 0
        self._start(0)

    def _start(self, now_ns: int) -> None:
        self._begin_ns = now_ns
        self._scenes = 0
        self._seen: defaultdict[str, set[int]] = defaultdict(set)
        self._events = Counter[str]()

    def add_scene(self, scene: Scene) -> None:
        """An inferred frame: its tracks are there now."""
        self._scenes += 1
        labels = [safe_line(track.label, MAX_NAME) for track in scene.tracks]
        self._now = Counter(labels)
        for label, track in zip(labels, scene.tracks, strict=True):
            if label in self._seen or len(self._seen) < MAX_LABELS:
                tracks = self._seen[label]
                if len(tracks) < MAX_TRACKS:
                    tracks.add(track.track_id)

    def add_event(self, payload: bytes) -> None:
        """An event that is sent: those that begin, and moments, are counted."""
        event = json.loads(payload)
        rule = safe_line(event["rule"], MAX_NAME)
        if event["state"] in ("begin", "moment") and (rule in self._events or len(self._events) < MAX_LABELS):
            self._events[rule] += 1

    def set_health(self, health: Mapping[str, tuple[int, str]]) -> None:
        """The level and the message of each part of the node in its diagnostics; empty while none arrive."""
        self._health = health

    def summary(self, now_ns: int, queue: Mapping[str, int]) -> bytes:
        """The summary since the last one, as JSON of at most `MAX_PAYLOAD` bytes. Begins the next.

        Args:
            queue: counts of the outbox: messages that wait, and messages dropped.
        """
        sec, nanosec = split_stamp(now_ns)
        problems = [
            {
                "part": safe_line(part, MAX_NAME),
                "level": LEVELS[level],
                "message": safe_line(said, MAX_PROBLEM),
            }
            for part, (level, said) in sorted(self._health.items(), key=lambda item: -item[1][0])
            if level
        ]
        worst = max((level for level, _ in self._health.values()), default=LEVELS.index("stale"))
        record = {
            "version": VERSION,
            "node": safe_line(self._node, MAX_NAME),
            "stamp": {"sec": sec, "nanosec": nanosec},
            "period_s": round(max(to_seconds(now_ns - self._begin_ns), 0.0), 3) if self._begin_ns else 0.0,
            "scenes": self._scenes,
            "tracks_now": dict(self._now.most_common()),
            "tracks_seen": dict(Counter({each: len(ids) for each, ids in self._seen.items()}).most_common()),
            "events": dict(self._events.most_common()),
            "health": LEVELS[worst],
            "problems": problems,
            "queue": dict(queue),
            "left_out": 0,
        }
        self._start(now_ns)
        for shorter in _shorter(record):
            text = json.dumps(shorter, ensure_ascii=False).encode()
            if len(text) <= MAX_PAYLOAD:
                break
        return text


def _shorter(record: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The summary, and the same with ever fewer entries in its lists, the last of which go first."""
    lists = ("problems", "events", "tracks_seen", "tracks_now")
    longest = max(len(record[key]) for key in lists)
    for kept in sorted({longest, *(n for n in (30, 20, 10, 5, 3, 1, 0) if n < longest)}, reverse=True):
        cut = {key: _first(record[key], kept) for key in lists}
        yield {**record, **cut, "left_out": sum(len(record[key]) - len(cut[key]) for key in lists)}


def _first(entries: Mapping[str, Any] | Sequence[Any], count: int) -> Any:
    return dict(list(entries.items())[:count]) if isinstance(entries, Mapping) else list(entries)[:count]
