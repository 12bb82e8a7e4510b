# SPDX-License-Identifier: Apache-2.0
"""CPU time of the rules for a camera frame: 200 rules of all kinds over 50 moving tracks.

    python benchmarks/rules.py --json benchmarks/results/rules.json
    python benchmarks/rules.py --hours 10

Each rule has a label and most have a zone; zones have 6 corners and cover 9% of the image. All tracks move,
all the time. The time is that of the thread, so that other work on the machine lengthens it only by spoiling
caches; compare it with that of `benchmarks/tracking.py`. With `--hours`, the memory of the process after each
hour of simulated time, in which every track lives for 20 frames and then gets another id.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import time
from pathlib import Path
from typing import Any

import numpy as np

from lfm_perception.geometry import Box
from lfm_perception.provenance import versions
from lfm_perception.rules import RuleEngine, parse_rules
from lfm_perception.scene import CoordinateStd, Track, Velocity
from lfm_perception.stamps import from_seconds

RULES, TRACKS, FRAMES, RATE_HZ = 200, 50, 600, 30.0
PLACES = (10, 20, 200)
"""Numbers of different zones, and of lines, that the rules share."""

CONDITIONS = (
    "{label: person, inside: zone%d}",
    "{label: [person, box], inside: zone%d, speed: {above: 0.05, hysteresis: 0.02}}",
    "{count: {label: person, inside: zone%d}, more_than: 3, hysteresis: 1}",
    "{label: person, crosses: {line: line%d, to: left}}",
    "{label: person, near: {label: forklift, within: 0.1}, inside: zone%d}",
    "{all: [{label: person, outside: zone%d}, {not: {count: {label: forklift}, more_than: 2}}]}",
    "{label: box, disappears: 1, inside: zone%d}",
    "{label: person, score: {above: 0.5}, size: {above: 0.02}, inside: zone%d}",
)


def rule_file(places: int) -> str:
    rng = random.Random(1)
    zones, lines = ["zones:"], ["lines:"]
    for index in range(places):
        x, y = rng.uniform(0.0, 0.7), rng.uniform(0.0, 0.7)
        corners = ((0, 0), (0.15, 0.02), (0.3, 0), (0.3, 0.3), (0.15, 0.28), (0, 0.3))
        zones.append(f"  zone{index}: {[[x + dx, y + dy] for dx, dy in corners]}")
        lines.append(f"  line{index}: {[[rng.random(), rng.random()] for _ in range(2)]}")
    conditions = [
        CONDITIONS[index % len(CONDITIONS)] % (index // len(CONDITIONS) % places) for index in range(RULES)
    ]
    rules = ["rules:", *(f"  rule{index}: {{when: {each}}}" for index, each in enumerate(conditions))]
    return "\n".join([*zones, *lines, *rules])


def tracks(seconds: float, generation: int = 0) -> list[Track]:
    """The tracks at a time; their ids are others in each generation."""
    found = []
    for index in range(TRACKS):
        rng = random.Random(index)
        phase, pace = rng.uniform(0.0, 6.0), rng.uniform(0.02, 0.3)
        x, y = 0.5 + 0.4 * math.sin(phase + pace * seconds), 0.5 + 0.35 * math.cos(2 * phase + pace * seconds)
        box, std = Box(x - 0.03, y - 0.1, x + 0.03, y + 0.1), CoordinateStd(0.005, 0.005, 0.005, 0.005)
        velocity = Velocity(0.4 * pace * math.cos(phase + pace * seconds), 0.0)
        label = ("person", "box", "forklift")[index % 3]
        found.append(
            Track(index + 1 + TRACKS * generation, label, box, 0.8, velocity, seconds, 0.0, box_std=std)
        )
    return found


def measured(places: int) -> dict[str, Any]:
    file = parse_rules(rule_file(places))
    assert not file.problems, file.problems
    engine, took_s, events = RuleEngine(file), [], 0
    for index in range(FRAMES):
        seconds = 1.0 + index / RATE_HZ
        seen = tracks(seconds)
        begun_s = time.thread_time()
        events += len(engine.update(from_seconds(seconds), seen))
        took_s.append(time.thread_time() - begun_s)
    took_ms = np.array(took_s[10:]) * 1e3
    figures = {f"p{each}_ms": round(float(np.percentile(took_ms, each)), 3) for each in (50, 95)}
    return {"zones": places, "lines": places, "events": events, **figures}


def memory_mb(hours: int) -> list[float]:
    """Resident memory of the process after each hour of simulated time, at 1 frame per second."""
    engine, found = RuleEngine(parse_rules(rule_file(PLACES[0]))), []
    for index in range(hours * 3600):
        engine.update(from_seconds(1.0 + index), tracks(index / RATE_HZ, index // 20))
        if (index + 1) % 3600 == 0:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            found.append(round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1))
            print(f"{len(found)} h: {found[-1]} MB", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument("--hours", type=int, help="hours of simulated time, for the memory")
    options = parser.parse_args()
    if options.hours:
        memory_mb(options.hours)
        return
    rows = [measured(places) for places in PLACES]
    for row in rows:
        print(row)
    if options.json:
        inputs = {"rules": RULES, "tracks": TRACKS, "frames": FRAMES, "rate_hz": RATE_HZ}
        report = {"inputs": inputs, "versions": versions(), "rows": rows}
        options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
