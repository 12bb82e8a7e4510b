# SPDX-License-Identifier: Apache-2.0
"""What the rules add to annotated images: zones and lines with their counts, and the events of the moment."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from heapq import nlargest

from lfm_perception.rules.events import Event
from lfm_perception.rules.schema import Condition, Count, Objects, RuleFile, leaves
from lfm_perception.scene import RuleDrawing, Shape

MOMENT_S = 1.0
"""Time for which a moment, such as a crossing, stays in the annotated images."""

MAX_EVENTS = 3
"""Maximum number of events that are listed."""

MAX_TRACKS = 2
"""Maximum number of tracks that the text of an event names."""


class RuleDrawer:
    """Draws the zones and lines of one file."""

    def __init__(self, file: RuleFile) -> None:
        self._file = file
        self._places = {rule.name: frozenset(_places(rule.when)) for rule in file.rules}

    def draw(
        self, inside: Sequence[int], crossed: Sequence[Sequence[int]], events: Sequence[Event]
    ) -> RuleDrawing:
        """The drawing of a frame.

        Args:
            inside: number of objects in each zone.
            crossed: number of objects that crossed each line, to its left and to its right.
            events: those that are shown: active ones, and moments of the last `MOMENT_S`.
        """
        rules = {event.rule for event in events}
        used = frozenset[tuple[str, str]]().union(*(self._places[rule] for rule in rules))
        zones = [
            Shape(zone.points, True, f"{zone.name}: {count}", ("zone", zone.name) in used)
            for zone, count in zip(self._file.zones, inside, strict=True)
        ]
        lines = [
            Shape(
                (line.start, line.end), False, f"{line.name}: {left} left, {right} right",
                ("line", line.name) in used,
            )
            for line, (left, right) in zip(self._file.lines, crossed, strict=True)
        ]  # fmt: skip
        newest = nlargest(MAX_EVENTS, events, key=lambda event: event.begin_ns)
        return RuleDrawing((*zones, *lines), tuple(map(_text, newest)), len(events) - len(newest))


def _places(when: Condition) -> Iterator[tuple[str, str]]:
    """The zones that objects are inside of, and the lines that they cross, in a condition: kind and name."""
    for leaf in leaves(when):
        objects = leaf.objects if isinstance(leaf, Count) else leaf
        if isinstance(objects, Objects):
            yield from (("zone", name) for name in objects.inside)
            if objects.crosses:
                yield "line", objects.crosses


def _text(event: Event) -> str:
    """An event in words: its message, or the name of its rule, and its tracks."""
    tracks = ", ".join(f"{track.label} #{track.track_id}" for track in event.tracks[:MAX_TRACKS])
    more = len(event.tracks) - MAX_TRACKS
    rest = f" and {more} more" if more > 0 else ""
    return (event.message or event.rule) + (f": {tracks}{rest}" if tracks else "")
