# SPDX-License-Identifier: Apache-2.0
"""What the tests of second opinions share: settings, a frame with a track, and a log of what happens."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import jsonschema
import numpy as np

from lfm_perception.geometry import Box
from lfm_perception.scene import ZERO_VELOCITY, Frame, Scene, Track, Usage
from lfm_perception.second_opinion import Outcome, SecondOpinion, outcome_to_json
from lfm_perception.second_opinion.opinions import SCHEMA
from lfm_perception.settings import Settings

T = TypeVar("T")
PATIENCE_S = 60.0
CAMERA = "front_optical"


def chosen(**values: object) -> Settings:
    """Settings with consent for `CAMERA`, which ask about every box as fast as can be."""
    base: dict[str, object] = {
        "allowed": True,
        "cameras": [CAMERA],
        "ask_below": ["box: 1"],
        "rate": 600.0,
        "timeout": PATIENCE_S,
        **values,
    }
    return Settings().with_values({f"second_opinion.{name}": value for name, value in base.items()})


def shown(stamp_ns: int = 1, width: int = 640, height: int = 480, frame_id: str = CAMERA) -> Frame:
    noise = np.random.default_rng(stamp_ns).integers(0, 255, (height, width, 3), np.uint8)
    return Frame(noise, stamp_ns, frame_id)


def box_track(track_id: int = 1, score: float = 0.5, box: Box | None = None, label: str = "box") -> Track:
    return Track(track_id, label, box or Box(0.4, 0.4, 0.6, 0.7), score, ZERO_VELOCITY, 1.0, 0.0)


def scene_of(frame: Frame, *tracks: Track) -> Scene:
    return Scene(
        frame.stamp_ns, frame.frame_id, frame.width, frame.height, (), tracks, None, False, {}, Usage()
    )


class Log:
    """What a `SecondOpinion` reports."""

    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []
        self.told: list[str] = []
        self.warned: list[str] = []
        self.unexpected: list[Exception] = []

    @property
    def records(self) -> list[dict[str, Any]]:
        schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
        found = [json.loads(json.dumps(outcome_to_json(outcome))) for outcome in self.outcomes]
        for record in found:
            jsonschema.validate(record, schema)
        return found


@contextmanager
def opened(settings: Settings) -> Iterator[tuple[SecondOpinion, Log]]:
    log = Log()
    second = SecondOpinion(
        settings.second_opinion,
        log.outcomes.append,
        log.told.append,
        lambda kind, sentence: log.warned.append(sentence),
        log.unexpected.append,
    )
    try:
        yield second, log
    finally:
        second.close()


def wait(condition: Callable[[], T | None]) -> T:
    """What the condition returns once it is true."""
    deadline = time.monotonic() + PATIENCE_S
    while not (value := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)
    return value


def reply(folder: Path, answer: object) -> None:
    """Answer the question in the folder, once there is one, as a person's program does."""

    def asked() -> Path | None:
        found = [path for path in folder.glob("*.json") if not path.name.endswith(".answer.json")]
        return found[0] if found else None

    question = wait(asked)
    unfinished = question.with_suffix(".mine")
    unfinished.write_text(json.dumps(answer), encoding="utf-8")
    unfinished.replace(question.with_suffix(".answer.json"))
