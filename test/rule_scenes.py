# SPDX-License-Identifier: Apache-2.0
"""Rules and tracks for them: what the tests of the rules share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from lfm_perception.geometry import Box
from lfm_perception.rules import Event, Known, RuleEngine, RuleFile, parse_rules
from lfm_perception.scene import CoordinateStd, Scene, Track, Velocity
from lfm_perception.stamps import from_seconds

PLACES = """
zones:
  dock: [[0.5, 0.5], [1, 0.5], [1, 1], [0.5, 1]]
  pit: [[0, 0], [0.3, 0], [0.3, 0.3]]
lines:
  door: [[0.5, 1], [0.5, 0.5]]
rules:
"""

RATE_HZ = 10.0


def rules(text: str, known: Known | None = None) -> RuleFile:
    """The rules of a text, with the zones and lines of `PLACES`; there must be no problem."""
    file = parse_rules(PLACES + text, known)
    assert not file.problems, file.problems
    return file


def track(track_id: int, x: float, foot: float = 0.8, label: str = "person", **about: Any) -> Track:
    """A track 0.1 wide and 0.2 tall whose foot is at (x, foot), cut at the image's edge."""
    sides = (x - 0.05, foot - 0.2, x + 0.05, foot)
    box = Box(*(min(max(side, 0.0), 1.0) for side in sides))
    velocity = Velocity(about.pop("vx", 0.0), about.pop("vy", 0.0))
    std = about.pop("std", 0.0)
    times = about.pop("age", 0.0), about.pop("missed", 0.0)
    return Track(track_id, label, box, about.pop("score", 0.9), velocity, *times,
                 box_std=CoordinateStd(std, std, std, std), **about)  # fmt: skip


def happened(
    file: RuleFile, frames: Iterable[Sequence[Track]], scenes: Sequence[Scene] = (), **about: Any
) -> list[tuple[str, str, float, int]]:
    """Rule, state, second and track (0: none) of every event of tracks that are seen at `RATE_HZ`.

    `scenes` are those with the answers, one for each frame where there are any.
    """
    engine = RuleEngine(file, max_rate=1000.0)
    return [
        (event.rule, event.state, round(index / RATE_HZ, 3), event.tracks[0].track_id if event.tracks else 0)
        for index, tracks in enumerate(frames)
        for event in engine.update(
            from_seconds(1 + index / RATE_HZ), tracks, scene=scenes[index] if scenes else None, **about
        )
    ]


def events(engine: RuleEngine, seconds: float, tracks: Sequence[Track], **about: Any) -> list[Event]:
    return engine.update(from_seconds(seconds), tracks, **about)
