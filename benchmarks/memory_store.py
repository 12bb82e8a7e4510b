# SPDX-License-Identifier: Apache-2.0
"""A million events through an encrypted memory that keeps an hour; searches; kill -9 while it writes.

    python benchmarks/memory_store.py --json benchmarks/results/memory_store.json
    python benchmarks/memory_store.py --events 100000 --kills 5

The events are those of rules as the node keeps them, 70 a second of simulated time, one transaction a second:
a million are four hours, of which one is kept. Searches are timed every ten simulated minutes once an hour is
full, and in connections that have read nothing before. Then a process that keeps an event every 2 ms is
killed at random moments, always with the same file; the time lost is that between the oldest event that is
not in the file and the kill.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from lfm_perception.geometry import Box
from lfm_perception.memory import Entry, MemoryStore, Query
from lfm_perception.provenance import versions
from lfm_perception.rules.events import Event, event_text, event_to_json
from lfm_perception.scene import Track, Velocity
from lfm_perception.settings import MemorySettings, Settings
from lfm_perception.stamps import NANOSECONDS

EVENTS_HZ, RETENTION_S = 70, 3600.0
BEGIN_NS = 1_800_000_000 * NANOSECONDS
LABELS = ("person", "forklift", "pallet", "box", "cone", "truck", "trolley", "dog")
PLACES = ("door", "dock", "gate", "shelf", "aisle", "yard")
DONE = ("stands near", "leaves", "crosses", "waits at", "is too close to")
QUERIES = {
    "forklift near door": Query("forklift near door"),
    "forklift near door, 10 min": Query("forklift near door", since_ns=-600 * NANOSECONDS),
    "person": Query("person"),
    "dog crosses gate, oldest 10 min": Query("dog crosses gate", until_ns=-3000 * NANOSECONDS),
    "unicorn": Query("unicorn"),
    "the newest": Query(),
    "captions (none)": Query("person", kind="caption"),
}
"""Searches; their times are relative to the end."""

CHILD = """
import sys, time
from lfm_perception.memory import Entry, MemoryStore, MemoryWriter
from lfm_perception.settings import Settings
chosen = Settings().with_values({"memory.path": sys.argv[1]}).memory
memory = MemoryWriter(MemoryStore(chosen, create=True), chosen, bytes, print, print)
while True:
    at_ns = time.monotonic_ns()
    memory.put(Entry("event", f"loitering begin run {sys.argv[2]}", at_ns))
    print(at_ns, flush=True)
    time.sleep(0.002)
"""


def settings(path: Path) -> MemorySettings:
    values = {"memory.path": str(path), "memory.max_age": RETENTION_S, "memory.max_bytes": 2_000_000_000}
    return Settings().with_values(values).memory


def entry(rng: random.Random, kept_ns: int, number: int) -> Entry:
    label, place, done = rng.choice(LABELS), rng.choice(PLACES), rng.choice(DONE)
    box = Box(rng.uniform(0.0, 0.4), 0.2, rng.uniform(0.5, 1.0), 0.8)
    track = Track(number, label, box, 0.8, Velocity(0.0, 0.0), 3.0, 0.1)
    rule, message = f"{place} {rng.randrange(20)}", f"a {label} {done} the {place}"
    event = Event(f"{rule}-{kept_ns}-{number}", rule, "begin", kept_ns, kept_ns, message, (track,))
    data = event_text(event_to_json(event, "front_optical"))
    return Entry("event", f"{rule} begin {message} {label}", kept_ns, kept_ns, data)


def percentiles(took_s: list[float]) -> dict[str, float]:
    return {f"p{each}_ms": round(float(np.percentile(took_s, each)) * 1e3, 2) for each in (50, 95, 100)}


def timed_searches(store: MemoryStore, now_ns: int, took_s: dict[str, list[float]]) -> None:
    for name, query in QUERIES.items():
        since_ns = query.since_ns if query.since_ns >= 0 else now_ns + query.since_ns
        until_ns = query.until_ns if query.until_ns >= 0 else now_ns + query.until_ns
        asked = Query(query.words, since_ns, until_ns, query.kind, query.limit)
        begun_s = time.perf_counter()
        store.search(asked)
        took_s.setdefault(name, []).append(time.perf_counter() - begun_s)


def kept(path: Path, events: int) -> dict[str, Any]:
    """Keep so many events, with searches among them."""
    rng, written_s, sizes = random.Random(1), list[float](), list[int]()
    warm, cold = dict[str, list[float]](), dict[str, list[float]]()
    with closing(MemoryStore(settings(path), create=True)) as store:
        seconds = events // EVENTS_HZ
        for second in range(1, seconds + 1):
            now_ns = BEGIN_NS + second * NANOSECONDS
            times = (now_ns - NANOSECONDS + k * NANOSECONDS // EVENTS_HZ for k in range(EVENTS_HZ))
            batch = [entry(rng, kept_ns, second) for kept_ns in times]
            begun_s = time.perf_counter()
            store.write(batch, now_ns)
            written_s.append(time.perf_counter() - begun_s)
            sizes.append(path.stat().st_size)
            if second == seconds or (second % 600 == 0 and second >= RETENTION_S):
                timed_searches(store, now_ns, warm)
                print(f"{second} s: {sizes[-1] / 1e6:.1f} MB", flush=True)
        info = store.info()
    for _ in range(5):
        with closing(MemoryStore(settings(path))) as store:
            timed_searches(store, now_ns, cold)
    assert info.oldest_ns is not None
    return {
        "entries": sum(info.entries.values()),
        "oldest_s": round((now_ns - info.oldest_ns) / NANOSECONDS, 3),
        "largest_file_mb": round(max(sizes) / 1e6, 1),
        "bytes_per_entry": round(sizes[-1] / sum(info.entries.values())),
        "transaction": percentiles(written_s[-min(3600, len(written_s)) :]),
        "searches": percentiles([took for each in warm.values() for took in each]),
        "first_searches": percentiles([took for each in cold.values() for took in each]),
        "search_p50_ms": {name: percentiles(each)["p50_ms"] for name, each in warm.items()},
    }


def killed(path: Path, kills: int) -> dict[str, Any]:
    """Kill a process that keeps events, so many times, and look at what is lost and damaged."""
    rng, lost_s, damaged = random.Random(2), list[float](), 0
    for run in range(kills):
        process = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(path), str(run)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(rng.uniform(1.0, 3.0))
        killed_ns = time.monotonic_ns()
        process.send_signal(signal.SIGKILL)
        put = [int(line) for line in process.stdout.read().split()]
        process.wait()
        with closing(MemoryStore(settings(path))) as store:
            found = {each.stamp_ns for each in store.search(Query(f"run {run}", limit=10**6))}
            damaged += store._one("PRAGMA integrity_check") != "ok"
            store._database.execute("INSERT INTO words (words) VALUES ('integrity-check')")
        lost = [at_ns for at_ns in put if at_ns not in found]
        lost_s.append((killed_ns - min(lost)) / NANOSECONDS if lost else 0.0)
    return {"kills": kills, "damaged": damaged, "most_lost_s": round(max(lost_s), 3)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    os.environ["LFM_PERCEPTION_MEMORY_KEY"] = "a key for measurements"
    report: dict[str, Any] = {
        "inputs": {"events": options.events, "events_hz": EVENTS_HZ},
        "versions": versions(),
    }
    with tempfile.TemporaryDirectory(prefix="memory-") as folder:
        if options.events:
            report["kept"] = kept(Path(folder, "memory.db"), options.events)
            print(report["kept"])
        if options.kills:
            report["killed"] = killed(Path(folder, "killed.db"), options.kills)
            print(report["killed"])
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
