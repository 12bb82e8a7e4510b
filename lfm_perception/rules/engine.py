# SPDX-License-Identifier: Apache-2.0
"""The rule engine: the tracks of a frame in, the events that begin and end out.

    engine = RuleEngine(read_rules(Path("rules.yaml")))
    for stamp_ns, tracks in recording:
        for event in engine.update(stamp_ns, tracks):
            print(event.rule, event.state)

All conditions and all tracks are evaluated by a few array operations (see `conditions`). A rule about objects
has an event for each object, which is in column 1 + its place; a rule about the scene has one, in column 0.
The state of a track is kept for a while after it is gone, so that it may come back, under another number too.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from struct import pack

import numpy as np

from lfm_perception.geometry import stack
from lfm_perception.rules.answer_times import AnswerTimes, answer_ages_s
from lfm_perception.rules.conditions import ROUNDING_S, Columns, Conditions, Observation
from lfm_perception.rules.drawing import MOMENT_S, RuleDrawer
from lfm_perception.rules.events import Event
from lfm_perception.rules.places import Anchors, Bools, Floats, moved, true_places
from lfm_perception.rules.schema import Objects, RuleFile, leaves
from lfm_perception.scene import AttributeValue, RuleDrawing, Scene, Track
from lfm_perception.settings import RulesSettings
from lfm_perception.stamps import STAMP_RESET_S, from_seconds, to_seconds

MAX_STEP_S = 5.0
"""Maximum time between two frames that counts towards a duration: neither a silent camera nor a forward jump
of the clock fulfils the `for` of a rule."""

KEEP_S = 2.0
"""Time for which a removed track is remembered, beyond the durations of the rules."""

HANDOVER_S = 1.0
"""Maximum time from the last detection of a lost track to the first one of the track that continues it."""

OPPOSED = 0.25
"""Scalar product of opposite velocities, in sizes per second, from which on one track does not continue the
other: of two people who walk past each other, or in and out of a door, one is lost and another one found."""

MAX_COLUMNS = 1000
"""Maximum number of tracks that are remembered beside those of the frame."""

MAX_TRACKS = 20
"""Maximum number of tracks in an event."""

MAX_MOMENTS = 20
"""Maximum number of moments that are remembered to be drawn."""

DEFAULT_RATE = RulesSettings().max_rate
"""Default of `rules.max_rate`: events of a rule that may begin per second."""

MIN_PROBABILITY = 0.5
"""Probability from which on the value of an attribute counts."""


class RuleEngine:
    """Evaluates the rules of a file. Not thread-safe.

    Args:
        file: zones, lines and rules; its problems are the caller's.
        max_rate: events of one rule that may begin per second; further ones are suppressed and counted.
    """

    def __init__(self, file: RuleFile, max_rate: float = DEFAULT_RATE) -> None:
        self._file, self._max_rate, self._drawer = file, max_rate, RuleDrawer(file)
        rules = file.rules
        asked_s = [
            leaf.disappears or 0.0 for r in rules for leaf in leaves(r.when) if isinstance(leaf, Objects)
        ]
        self._keep_s = KEEP_S + max([*asked_s, *(rule.end_after_s for rule in rules)], default=0.0)
        self._of_objects = np.array([rule.of_objects for rule in rules], dtype=bool).reshape(-1, 1)
        self._momentary = np.array([rule.momentary for rule in rules], dtype=bool).reshape(-1, 1)
        self._for_s = np.array([rule.for_s - ROUNDING_S for rule in rules]).reshape(-1, 1)
        self._end_after_s = np.array([rule.end_after_s - ROUNDING_S for rule in rules]).reshape(-1, 1)
        self.suppressed = 0
        """Events that were not published, since the start."""
        self.begun = dict.fromkeys((rule.name for rule in rules), 0)
        """Events that have begun since the start, by rule."""
        self.clock_jumps = 0
        """Times that the stamps went back, or ahead by more than `MAX_STEP_S`, since the start."""
        self._forget()

    def _forget(self) -> None:
        """As at the start, but for the counters."""
        shape = len(self._file.rules), 1
        self._conditions = Conditions(self._file)
        self._ids: list[int] = []
        self._tracks: dict[int, Track] = {}  # in the order of the ids
        self._present = 0
        self._raw: Floats = np.zeros((16, 1))
        self._last_seen_s: Floats = np.full(1, -np.inf)
        self._times = AnswerTimes()
        self._true, self._running, self._begun = np.zeros((3, *shape), dtype=bool)
        self._labelled: tuple[list[str], int] | None = None
        self._since_s, self._last_true_s = np.full((2, *shape), -np.inf)
        self._open: dict[tuple[int, int], Event] = {}
        self._moments = deque[Event](maxlen=MAX_MOMENTS)
        self._last_begin_s: dict[int, float] = {}
        self._unpublished = Counter[int]()
        self._may_begin = np.full(len(self._file.rules), max(self._max_rate, 1.0))
        self._stamp_ns: int | None = None
        self._now_s = self._before_s = 0.0

    @property
    def active_events(self) -> tuple[Event, ...]:
        """The events that have begun and not ended."""
        return tuple(self._open.values())

    def update(
        self,
        stamp_ns: int,
        tracks: Sequence[Track],
        aspect: float = 0.75,
        scene: Scene | None = None,
    ) -> list[Event]:
        """The events of a frame, in the order of the rules; those that end come first.

        A stamp that is not newer than the last one is passed over; one that is older by more than
        `STAMP_RESET_S` ends all events, and everything begins anew.

        Args:
            stamp_ns: stamp of the frame that the tracks are predicted to.
            tracks: those to be published with it.
            aspect: height of the image over its width.
            scene: the latest one, for the attributes of tracks and the alerts of standing questions.
        """
        ended: list[Event] = []
        step_s = 0.0 if self._stamp_ns is None else to_seconds(stamp_ns - self._stamp_ns)
        if step_s > MAX_STEP_S or step_s < -STAMP_RESET_S:
            self.clock_jumps += 1
        if step_s < -STAMP_RESET_S:
            ended = self.end_all()
        elif self._stamp_ns is not None and step_s <= 0.0:
            return []
        else:
            self._now_s += min(step_s, MAX_STEP_S)
        self._stamp_ns = stamp_ns
        more = self._may_begin + self._max_rate * max(step_s, 0.0)
        self._may_begin = np.minimum(more, max(self._max_rate, 1.0))
        ended += self._arrange(tracks)
        seen = self._observation(aspect, scene)
        return [*ended, *self._episodes(self._conditions.update(seen).take(self._conditions.roots, axis=0))]

    def end_all(self) -> list[Event]:
        """End the active events, at the stamp of the last frame, and forget everything."""
        ended = [self._ended(key) for key in list(self._open)]
        self._forget()
        return ended

    def drawing(self) -> RuleDrawing:
        """The zones with the number of objects inside, the lines with those that crossed, and the events."""
        earliest_ns = (self._stamp_ns or 0) - from_seconds(MOMENT_S)
        moments = [event for event in self._moments if event.stamp_ns > earliest_ns]
        inside = self._conditions.inside.sum(axis=1).tolist()
        crossed = self._conditions.crossings.totals.tolist()
        return self._drawer.draw(inside, crossed, [*self.active_events, *moments])

    # --- columns ---------------------------------------------------------------------------------------

    def _arrange(self, tracks: Sequence[Track]) -> list[Event]:
        """Give each track its column, those that are gone behind, and end the events of forgotten ones."""
        if [track.track_id for track in tracks] == self._ids:
            self._tracks, self._present = dict(zip(self._ids, tracks, strict=True)), len(tracks)
            return []
        self._tracks.update(shown := {track.track_id: track for track in tracks})
        ids = list(shown)
        self._present, there = len(ids), shown.keys()
        columns = {track_id: index + 1 for index, track_id in enumerate(self._ids)}
        if not there >= columns.keys():
            gone_s = (self._now_s - self._last_seen_s[1:]).tolist()
            gone = {
                track_id: seconds
                for track_id, seconds in zip(self._ids, gone_s, strict=True)
                if track_id not in there and seconds <= self._keep_s
            }
            for new, old in self._continued([each for each in ids if each not in columns], gone):
                column = columns[new] = columns.pop(old)
                self._times.hand_over(column)
                del gone[old]
                self._hand_over(new, old)
            ids += [*gone][:MAX_COLUMNS]
        if ids == self._ids:
            return []
        source = np.array([0, *(columns.get(each, -1) for each in ids)], dtype=np.intp)
        self._conditions.move(source)
        self._times.move(source, self._now_s)
        self._raw = moved(self._raw, source, 0.0)
        self._true, self._running, self._begun = (
            moved(each, source, 0) for each in (self._true, self._running, self._begun)
        )
        self._since_s, self._last_true_s, self._last_seen_s = (
            moved(each, source, -np.inf) for each in (self._since_s, self._last_true_s, self._last_seen_s)
        )
        self._ids, self._tracks = ids, {track_id: self._tracks[track_id] for track_id in ids}
        return [
            self._ended(key)
            for key in list(self._open)
            if self._of_objects[key[0]] and key[1] not in self._tracks
        ]

    def _continued(self, new: Sequence[int], gone: Mapping[int, float]) -> Iterator[tuple[int, int]]:
        """Pairs of a new track and a lost one that it continues, the nearest first.

        Both have the same label, and they are no further apart than the larger one's size: a tracker that
        loses an object begins another track where it finds it again. An object that starts to move is lost
        where it stood, so the way that it went since is allowed for by the velocity of either track.

        Args:
            new: the tracks that are there for the first time.
            gone: those that are not there any more, and seconds since they were shown.
        """
        ages_s = np.array([self._tracks[each].age_s for each in new])
        soonest_s = HANDOVER_S + max(ages_s, default=0.0)
        lost = [track_id for track_id, seconds in gone.items() if seconds <= soonest_s]
        if not new or not lost:
            return
        coasted_s = np.array([self._tracks[each].time_since_update_s for each in lost])
        missed_s = np.array([gone[each] for each in lost]) + coasted_s
        gaps_s = missed_s - ages_s[:, None]  # from the last detection to the first one
        (now, sizes, own), (last, last_sizes, last_own) = map(self._motion, (new, lost))
        detected = last - last_own * coasted_s[:, None]
        ways = np.array([
            now[:, None] - last,
            now[:, None] - (detected + last_own * missed_s[:, None]),
            now[:, None] - own[:, None] * missed_s[:, None] - detected,
        ])  # fmt: skip
        distances = np.linalg.norm(ways, axis=-1).min(axis=0)
        near = (distances <= np.maximum(sizes[:, None], last_sizes)) & (gaps_s <= HANDOVER_S)
        near &= own @ last_own.T >= -OPPOSED * sizes[:, None] * last_sizes
        pairs = sorted((distances[i, j], i, j) for i, j in np.argwhere(near).tolist())
        used = set[int]()
        for _, i, j in pairs:
            if not used & {new[i], lost[j]} and self._tracks[new[i]].label == self._tracks[lost[j]].label:
                used |= {new[i], lost[j]}
                yield new[i], lost[j]

    def _motion(self, ids: Sequence[int]) -> tuple[Floats, Floats, Floats]:
        """Centres, sizes and velocities in the image of N tracks; shapes (N, 2), (N,) and (N, 2)."""
        boxes = stack(self._tracks[each].box for each in ids)
        velocities = np.array([[(v := self._tracks[each].velocity).x, v.y] for each in ids])
        sides = boxes[:, 2:] - boxes[:, :2]
        return (boxes[:, :2] + boxes[:, 2:]) / 2.0, np.sqrt(np.prod(sides, axis=1)), velocities

    def _hand_over(self, new: int, old: int) -> None:
        """Let the events of a track go on with the one that continues it."""
        for row, track_id in [*self._open]:
            event = self._open[row, track_id]
            tracks = tuple(self._tracks[new] if each.track_id == old else each for each in event.tracks)
            key = (row, new) if track_id == old and self._of_objects[row] else (row, track_id)
            del self._open[row, track_id]
            self._open[key] = replace(event, tracks=tracks)

    def _observation(self, aspect: float, scene: Scene | None) -> Observation:
        shown = [*self._tracks.values()][: self._present]
        if shown:
            self._raw[:, 1 : 1 + len(shown)] = _numbers(shown)
        self._last_seen_s[1 : 1 + len(shown)] = self._now_s
        x1, y1, x2, y2, score, vx, vy = self._raw[:7]
        age_s, missed_s, vx_std, vy_std, distance_m = self._raw[11:]
        size, speed_std = np.sqrt((x2 - x1) * (y2 - y1)), np.maximum(vx_std, vy_std * aspect)
        times, now_s = self._times, self._now_s
        assert self._stamp_ns is not None
        answered_s = now_s - answer_ages_s(scene, self._ids, self._stamp_ns)
        times.update(now_s, self._last_seen_s - missed_s, answered_s, speed_std)
        speed = np.where(times.speed_known, np.hypot(vx, vy * aspect), np.nan)
        return Observation(
            now_s=now_s,
            known_since_s=times.known_since_s,
            columns=self._columns_now(),
            last_detected_s=times.detected_s,
            quantities=(score, speed, size, distance_m),
            speed_std=speed_std,
            anchors=Anchors(self._raw[:4], self._raw[7:11]),
            age_s=age_s,
            attributes=self._attribute_table(scene.attributes if scene else {}),
            aspect=aspect,
            alerts={status.name for status in scene.alerts if status.active} if scene else (),
            active_rules=self._active_rules() if self._conditions.asks_about_rules else (),
        )

    def _columns_now(self) -> Columns:
        """The columns of this frame: the same object as before, unless labels or present tracks changed."""
        labels = [track.label for track in self._tracks.values()]
        if (labels, self._present) != self._labelled:
            self._labelled = labels, self._present
            columns, gone = np.arange(1 + len(labels)), self._present < len(labels)
            present = (columns > 0) & (columns <= self._present)
            self._columns = Columns(self._conditions.label_ids(["", *labels]), present, not gone)
            self._may_be = self._of_objects & (present | (self._momentary & (columns > 0)))
            self._may_be |= ~self._of_objects & (columns == 0)
        return self._columns

    def _active_rules(self) -> set[str]:
        return {self._file.rules[row].name for row, _ in self._open}

    def _attribute_table(self, attributes: Mapping[int, Mapping[str, AttributeValue]]) -> Bools:
        pairs = self._conditions.attributes
        table = np.zeros((len(pairs), 1 + len(self._ids)), dtype=bool)
        if pairs and attributes:
            for column, track_id in enumerate(self._ids, start=1):
                known = attributes.get(track_id)
                for row, (name, value) in enumerate(pairs if known else ()):
                    found = known.get(name) if known else None
                    table[row, column] = (
                        found is not None and found.value == value and found.probability >= MIN_PROBABILITY
                    )
        return table

    # --- events ----------------------------------------------------------------------------------------

    def _episodes(self, true: Bools) -> list[Event]:
        """Follow how long each rule has been true of each column; the events that end and begin by it."""
        true &= self._may_be
        now_s, width = self._now_s, true.shape[1]
        # times are noted where the truth changes, and durations compared where an event may begin or end
        started = np.flatnonzero(true & ~self._running)
        self._since_s.reshape(-1)[started] = self._times.known_since_s[started % width]
        self._last_true_s.reshape(-1)[np.flatnonzero(self._true & ~true)] = self._before_s
        running, begins = true.copy(), true & ~self._begun
        if (pausing := np.flatnonzero(self._running & ~true)).size:
            paused_s = now_s - self._last_true_s.reshape(-1)[pausing]
            running.reshape(-1)[pausing] = paused_s < self._end_after_s[pausing // width, 0]
        if (waiting := np.flatnonzero(begins)).size:
            waited_s = now_s - self._since_s.reshape(-1)[waiting]
            begins.reshape(-1)[waiting] = waited_s >= self._for_s[waiting // width, 0]
        ends = self._begun & ~running
        self._true, self._running, self._before_s = true, running, now_s
        self._begun = (self._begun | begins) & running & ~self._momentary
        keys = [(row, self._ids[column - 1] if column else 0) for row, column in true_places(ends)]
        events = [self._ended(key) for key in keys if key in self._open]
        for row, column in true_places(begins):
            if (event := self._beginning(row, column)) is not None:
                events.append(event)
        return events

    def _beginning(self, row: int, column: int) -> Event | None:
        """The event that begins, or None where it is suppressed."""
        rule, last_s = self._file.rules[row], self._last_begin_s.get(row, -np.inf)
        if self._now_s - last_s < rule.cooldown_s or self._may_begin[row] < 1.0:
            self._unpublished[row] += 1
            self.suppressed += 1
            return None
        self._may_begin[row] -= 1.0
        self._last_begin_s[row] = self._now_s
        assert self._stamp_ns is not None
        track_id = self._ids[column - 1] if column else 0
        columns, values = self._conditions.causes(rule.when, column)
        event = Event(
            event_id=f"{rule.name}-{self._stamp_ns}" + (f"-{track_id}" if column else ""),
            rule=rule.name,
            state="moment" if rule.momentary else "begin",
            stamp_ns=self._stamp_ns,
            begin_ns=self._stamp_ns,
            message=rule.message,
            tracks=tuple(self._tracks[self._ids[each - 1]] for each in columns[:MAX_TRACKS]),
            values=values,
            suppressed=self._unpublished.pop(row, 0),
        )
        self.begun[rule.name] += 1
        if rule.momentary:
            self._moments.append(event)
        else:
            self._open[row, track_id] = event
        return event

    def _ended(self, key: tuple[int, int]) -> Event:
        begun = self._open.pop(key)
        assert self._stamp_ns is not None
        tracks = tuple(self._tracks.get(track.track_id, track) for track in begun.tracks)
        return replace(begun, state="end", stamp_ns=self._stamp_ns, tracks=tracks, suppressed=0)


def _numbers(tracks: Sequence[Track]) -> Floats:
    """Box, score, own velocity, deviations of the sides, times, deviations of the velocity, distance.

    Shape (16, N). `pack` reads a flat list in a third of the time of `array`.
    """
    flat = list[float]()
    for _, _, box, score, (vx, vy), age_s, missed_s, v_std, (cx, cy), std, distance in tracks:
        flat += box.x1, box.y1, box.x2, box.y2, score, vx - cx, vy - cy, *std, age_s, missed_s, *v_std
        flat.append(np.nan if distance is None else distance)
    return np.frombuffer(pack(f"{len(flat)}d", *flat)).reshape(-1, 16).T
