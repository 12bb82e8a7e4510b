# SPDX-License-Identifier: Apache-2.0
"""Sink of the events of the rules, and their part of the page: a timeline and a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lfm_perception.media.charts import Span, timeline
from lfm_perception.media.page import Section
from lfm_perception.media.report import counted_events
from lfm_perception.media.sinks.base import AnnotatedFrame, Sink
from lfm_perception.media.staging import write_json
from lfm_perception.stamps import to_seconds

if TYPE_CHECKING:
    from lfm_perception.rules import Event

EVENTS = "events.json"

MAX_ROWS, MAX_RULES = 300, 30
"""Maximum number of events in the table of a page, and of rules in its timeline."""

MIN_SHARE = 0.003
"""Minimum width of an event on the timeline, as a share of the video."""


class EventsFile(Sink, file=EVENTS, optional=True, media="video"):
    """The events in the order of their frames; the format is `lfm_perception/rules/events.schema.json`.

    `open` are the ids of those that have not ended at the end of the video.
    """

    def __init__(self, path: Path, rate: float) -> None:
        super().__init__(path, rate)
        self._records: list[dict[str, Any]] = []

    def write(self, annotated: AnnotatedFrame) -> None:
        if annotated.events:
            from lfm_perception.rules.events import event_to_json

            frame_id = annotated.frame.frame_id
            self._records += [event_to_json(event, frame_id) for event in annotated.events]

    def finish(self, summary: Mapping[str, Any]) -> None:
        begun, ended = (
            dict.fromkeys(record["event_id"] for record in self._records if record["state"] == state)
            for state in ("begin", "end")
        )
        under_way = [event_id for event_id in begun if event_id not in ended]
        write_json(self._path, {"source": summary.get("source"), "events": self._records, "open": under_way})


def events_section(
    events: Sequence[Event], first_ns: int, last_ns: int, rules: Iterable[str] = ()
) -> Section:
    """When the events of a video took place. Those that have not ended at its end last until then.

    Args:
        events: in the order of their frames.
        first_ns, last_ns: stamps of the video's first and last frames.
        rules: names of all rules, for those without an event.
    """
    begun = [event for event in events if event.begins]
    end_ns = {event.event_id: event.stamp_ns for event in events}
    video_s = to_seconds(last_ns - first_ns)
    spans: dict[str, list[Span]] = {}
    rows = []
    for event in begun:
        until_ns = end_ns[event.event_id] if _has_ended(event, end_ns) else last_ns
        start_s, seconds = to_seconds(event.begin_ns - first_ns), to_seconds(until_ns - event.begin_ns)
        part = "moment" if event.state == "moment" else "event"
        row = spans.setdefault(event.rule, [Span(0.0, video_s, "video")])
        row.append(Span(start_s, max(seconds, MIN_SHARE * video_s), part))
        duration = "" if part == "moment" else f"{seconds:.2f}"
        tracks = ", ".join(f"{track.label} #{track.track_id}" for track in event.tracks)
        values = ", ".join(f"{name} {_text(value)}" for name, value in event.values.items())
        rows.append((event.rule, f"{start_s:.2f}", duration, tracks, values, event.message))
    left = len(rows) - MAX_ROWS
    counts = Counter(event.rule for event in begun)
    silent = {rule: 0 for rule in rules if rule not in counts}
    notes = [f"Events: {counted_events({**counts, **silent})}."]
    if left > 0:
        notes.append(
            f"The table ends with the first {MAX_ROWS} of {len(rows)} events; events.json holds all."
        )
    shown = dict(list(spans.items())[:MAX_RULES])
    return Section(
        "Events",
        notes=notes,
        charts=[timeline("Events of the rules", shown, ("time (s)", "rule"))] if shown else [],
        heads=("rule", "begin (s)", "duration (s)", "tracks", "values", "message") if rows else (),
        rows=rows[:MAX_ROWS],
        texts=True,
    )


def _has_ended(event: Event, end_ns: Mapping[str, int]) -> bool:
    return event.state == "moment" or end_ns[event.event_id] != event.stamp_ns


def _text(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.3g}"
