# SPDX-License-Identifier: Apache-2.0
"""What is done with an input of rules and of what comes of them: see `targets.py`."""

from __future__ import annotations

import functools
import json
from pathlib import Path

from targets import Read


def rules(folder: Path) -> Read:
    """Rules that are accepted must also run; what is wrong with others is a sentence each."""
    from lfm_perception.errors import PerceptionError
    from lfm_perception.geometry import Box
    from lfm_perception.rules import RuleEngine, read_rules
    from lfm_perception.scene import ZERO_VELOCITY, Track

    box = Box(0.6, 0.3, 0.8, 0.9)
    frames = [
        [Track(1, "person", box, 0.9, ZERO_VELOCITY, 1.0, 0.0)],
        [],
        [Track(2, "box", box, 0.9, ZERO_VELOCITY, 1.0, 0.0)],
    ]

    def read(file: Path) -> object:
        found = read_rules(file)
        engine = RuleEngine(found)
        for second, tracks in enumerate(frames, start=1):
            engine.update(second * 10**9, tracks)
        engine.drawing()
        if found.problems:
            raise PerceptionError(found.problems[0])
        return found

    return read


def event(folder: Path) -> Read:
    """Events that are accepted must be valid by their schema, and short enough."""
    import jsonschema

    from lfm_perception.mqtt.payloads import event_payload
    from lfm_perception.rules.events import MAX_BYTES, SCHEMA

    valid = jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text()))

    def read(data: bytes) -> object:
        payload = event_payload(data.decode(errors="replace"))
        assert len(payload) <= MAX_BYTES
        valid.validate(json.loads(payload))
        return payload

    return read


def drift(folder: Path) -> Read:
    """Baselines that are accepted must also serve."""
    from lfm_perception.drift import DriftMonitor, Samples, read_baseline

    samples: Samples = {"scores": [0.1] * 60, "labels": ["box", "cone"] * 30, "detections": [2.0, 3.0] * 30}

    def read(file: Path) -> object:
        baseline = read_baseline(file)
        monitor = DriftMonitor(baseline, ("person", "box"), 10.0, 0.25)
        for second in range(0, 60, 5):
            monitor.add(float(second), samples)
        return baseline.to_json(), monitor.state

    return read


def memory(folder: Path) -> Read:
    """A memory is also searched, written and emptied."""
    from contextlib import closing

    from lfm_perception.memory import Entry, MemoryStore, Query
    from lfm_perception.settings import Settings

    def read(file: Path) -> object:
        settings = Settings().with_values({"memory.path": str(file), "memory.encrypted": False}).memory
        with closing(MemoryStore(settings)) as store:
            found = [store.search(query) for query in (Query(), Query("forklift door"), Query(kind="event"))]
            store.info()
            store.write([Entry("event", "a box", 1, 3 * 10**9)], 4 * 10**9)
            store.delete(2 * 10**9)
            return found

    return read


@functools.cache
def memory_file() -> bytes:
    """A memory with entries of each kind that is not encrypted."""
    import tempfile
    from contextlib import closing

    from lfm_perception.memory import Entry, MemoryStore
    from lfm_perception.settings import Settings

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "m.db")
        settings = Settings().with_values({"memory.path": str(path), "memory.encrypted": False}).memory
        kinds = ("caption", "event", "count")
        entries = [Entry(kinds[n % 3], f"a forklift at door {n}", n, 10**9 + n, "{}") for n in range(90)]
        with closing(MemoryStore(settings, create=True)) as store:
            store.write([*entries, Entry("event", "a forklift", 1, 2 * 10**9, "x" * 4000)], 2 * 10**9)
        return path.read_bytes()
