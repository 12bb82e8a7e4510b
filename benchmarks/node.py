# SPDX-License-Identifier: Apache-2.0
"""The perception node under a camera's load, under failures and over its lifecycle, on real DDS.

    python benchmarks/node.py [--only camera,losses,cycles,replay,recorded,start] [--seconds 60] [--kills 20]
                              [--stops 5] [--cycles 1000] [--starts 7]

`camera`: 1280x720 bgr8 at 30 Hz from another process, with the engine busy on one core. `losses`: the same,
while the worker process is killed and stopped repeatedly. `cycles`: configure, activate, infer a frame,
deactivate, cleanup. `replay`: one bag twice, compared byte for byte. `recorded`, `start`: start with recorded
answers, without a model, and with the demo model. The figures are compared with their limits and written to
`benchmarks/results/node.json`, where parts that were not run keep theirs. Exits 1 when a limit is exceeded.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from lifecycle_msgs.msg import Transition
from node_fixture import (
    HEIGHT,
    RATE,
    RELIABLE,
    WIDTH,
    Camera,
    Listener,
    Process,
    Section,
    at_least,
    at_most,
    percentiles,
    running,
)
from node_start import recorded, start
from rclpy.serialization import serialize_message
from rosbags.rosbag2 import Reader, StoragePlugin, Writer
from sensor_msgs.msg import Image

from lfm_perception.demo.world import World
from lfm_perception.media.bags import typestore
from lfm_perception.media.sinks.bag import BAG
from lfm_perception.ros import messages, transport
from lfm_perception.ros.lifecycle import LifecycleClient, bring_up
from lfm_perception.ros.processes import wait_for
from lfm_perception.ros.replay import ReplayOptions, replay
from lfm_perception.settings import Settings
from lfm_perception.stamps import to_seconds

RESULTS = Path(__file__).with_name("results") / "node.json"
NODE = "/perception"
SETTINGS = Settings().with_values({"engine.n_threads": 1, "node.diagnostics_period": 0.5})
TIMEOUT_S = 60.0
SETTLE_S = 3.0
WARM_UP = 20
"""Cycles before memory is measured, or a tenth of a shorter run."""

KEPT_SHARED_MEMORY = ("fastdds_port", "lttng-ust-wait")
"""Prefixes of shared memory that stays when a DDS participant leaves, and that the next one uses again."""


# --- the parts ----------------------------------------------------------------------------------------


def camera(options: argparse.Namespace) -> Section:
    """A minute at 30 Hz."""
    with running(SETTINGS) as (perception, node):
        listener = Listener(node)
        bring_up(node, NODE, [perception])
        source = Camera()
        wait_for(lambda: len(listener.detections) > 5, TIMEOUT_S, "answers", [perception])
        time.sleep(SETTLE_S)
        node_process = Process(perception.pid)
        (worker,) = map(Process, node_process.children())
        processes = {"node": node_process, "worker": worker, "camera": source.process}
        before = {name: process.cpu_s() for name, process in processes.items()}
        begun_ns, heard_before = time.time_ns(), len(listener.diagnostics)
        time.sleep(options.seconds)
        ended_ns = time.time_ns()
        seconds = to_seconds(ended_ns - begun_ns)
        cpu = {name: 100 * (each.cpu_s() - before[name]) / seconds for name, each in processes.items()}
        diagnostics = listener.diagnostics[heard_before:]
        sent = source.stop()
        time.sleep(1.0)
    last = listener.diagnostics[-1]
    tracks = [heard for heard in listener.tracks if begun_ns <= heard.arrived_ns < ended_ns]
    answers = [heard for heard in listener.detections if begun_ns <= heard.arrived_ns < ended_ns]
    ages_ms = [(heard.arrived_ns - heard.stamp_ns) / 1e6 for heard in tracks]
    stamps = [heard.stamp_ns for heard in listener.detections]
    waiting = max(int(each["frames waiting"]) for each in diagnostics)
    input_hz = [float(each["input rate (Hz)"]) for each in diagnostics]
    counted = ("frames inferred", "frames dropped", "frames skipped", "frames waiting",
               "frames rejected", "frames failed")  # fmt: skip
    elsewhere = int(last["frames received"]) - sum(int(last[name]) for name in counted)
    strangers = len(set(stamps) - set(sent))
    disorder = sum(later <= earlier for earlier, later in pairwise(stamps))
    figures = {
        "seconds": round(seconds, 1),
        "frames_sent_hz": round(sum(begun_ns <= stamp < ended_ns for stamp in sent) / seconds, 2),
        "frames_received_hz": round(float(np.mean(input_hz)), 2),
        "tracks_hz": round(len(tracks) / seconds, 2),
        "track_age_ms": percentiles(ages_ms),
        "answers_hz": round(len(answers) / seconds, 2),
        "answer_age_ms": percentiles([(heard.arrived_ns - heard.stamp_ns) / 1e6 for heard in answers]),
        "cpu_percent_of_one_core": {name: round(share, 1) for name, share in cpu.items()},
        "most_frames_waiting": waiting,
        "frames_elsewhere": elsewhere,
        "detections": len(stamps),
        "detections_of_no_frame_sent": strangers,
        "detections_repeated_or_out_of_order": disorder,
    }
    return Section(
        inputs={"image": f"{WIDTH}x{HEIGHT} bgr8", "rate_hz": RATE, "engine.n_threads": 1},
        figures=figures,
        claims=[
            at_least("tracks (Hz)", len(tracks) / seconds, 29.0),
            at_most("age of tracks, p95 (ms)", float(np.percentile(ages_ms, 95)), 50.0),
            at_most("CPU of the node (% of a core)", cpu["node"], 35.0),
            at_least("CPU of the busy worker (% of a core)", cpu["worker"], 80.0),
            at_most("frames waiting", waiting, 1),
            at_most("frames elsewhere (one is being inferred)", elsewhere, 1),
            at_most("detections whose stamp was not sent", strangers, 0),
            at_most("detections repeated or out of order", disorder, 0),
        ],
    )


def losses(options: argparse.Namespace) -> Section:
    """Repeated loss of the worker process."""
    signals = [signal.SIGKILL] * options.kills + [signal.SIGSTOP] * options.stops
    np.random.default_rng(0).shuffle(signals)  # type: ignore[arg-type]
    recoveries: dict[str, list[float]] = {"SIGKILL": [], "SIGSTOP": []}
    workers: list[Process] = []
    with running(SETTINGS) as (perception, node):
        listener = Listener(node)
        bring_up(node, NODE, [perception])
        source = Camera()
        wait_for(lambda: len(listener.detections) > 5, TIMEOUT_S, "answers", [perception])
        time.sleep(SETTLE_S)
        node_process = Process(perception.pid)
        memory = node_process.shared_memory()
        begun_ns = time.time_ns()
        moments = np.random.default_rng(1)
        for number in signals:
            time.sleep(moments.uniform(0.5, 1.0))
            (worker,) = map(Process, node_process.children())
            workers.append(worker)
            lost_ns = time.time_ns()
            os.kill(worker.pid, number)
            answer = wait_for(
                lambda since=lost_ns: listener.next_answer(since), TIMEOUT_S, "the recovery", [perception]
            )
            recoveries[number.name].append(to_seconds(answer.arrived_ns - lost_ns))
        workers += map(Process, node_process.children())
        memory |= node_process.shared_memory()
        ended_ns = time.time_ns()
        time.sleep(2.0)
        restarts = int(listener.diagnostics[-1]["worker restarts"])
        source.stop()
        perception.check()
    tracks_ns = [heard.arrived_ns for heard in listener.tracks if begun_ns <= heard.arrived_ns < ended_ns]
    gap_s = to_seconds(max(later - earlier for earlier, later in pairwise(tracks_ns)))
    processes_left = sum(process.runs() for process in (node_process, *workers))
    memory_left = sorted(
        name for name in memory if Path(name).exists() and not Path(name).name.startswith(KEPT_SHARED_MEMORY)
    )
    slowest = {name: max(times, default=0.0) for name, times in recoveries.items()}
    figures = {
        "recovery_s": {name: percentiles(times) for name, times in recoveries.items() if times},
        "restarts": restarts,
        "tracks_hz": round(len(tracks_ns) / to_seconds(ended_ns - begun_ns), 2),
        "longest_gap_between_tracks_s": round(gap_s, 3),
        "processes_left": processes_left,
        "shared_memory_left": memory_left,
    }
    return Section(
        inputs={"SIGKILL": options.kills, "SIGSTOP": options.stops, "image": f"{WIDTH}x{HEIGHT} bgr8"},
        figures=figures,
        claims=[
            at_most("slowest recovery from SIGKILL (s)", slowest["SIGKILL"], 3.0),
            at_most("slowest recovery from SIGSTOP (s)", slowest["SIGSTOP"], 3.0),
            at_most("longest gap between tracks (s)", gap_s, 0.2),
            at_most("losses without a restart", len(signals) - restarts, 0),
            at_most("processes left", processes_left, 0),
            at_most("shared memory left", len(memory_left), 0),
        ],
    )


def cycles(options: argparse.Namespace) -> Section:
    """From unconfigured to active and back, with one inference each time."""
    warm_up = min(WARM_UP, options.cycles // 10)
    frames = [World(seed=3).snapshot(index).frame.image for index in range(10)]
    resident_mib, seconds = [], []
    with running(SETTINGS) as (perception, node):
        listener = Listener(node)
        publisher = node.create_publisher(Image, "image_raw", RELIABLE)
        lifecycle = LifecycleClient(node, NODE, [perception])
        process = Process(perception.pid)

        def seen() -> bool:
            if not publisher.get_subscription_count():
                return False
            stamp_ns = time.time_ns()
            publisher.publish(messages.image(frames[stamp_ns % 10], messages.header(stamp_ns, "camera")))
            time.sleep(0.05)
            return bool(listener.next_answer(begun_ns))

        files = threads = 0
        for number in range(warm_up + options.cycles):
            begun_ns = time.time_ns()
            lifecycle.change_state(Transition.TRANSITION_CONFIGURE, "configured")
            lifecycle.change_state(Transition.TRANSITION_ACTIVATE, "activated")
            wait_for(seen, TIMEOUT_S, "an answer", [perception])
            lifecycle.change_state(Transition.TRANSITION_DEACTIVATE, "deactivated")
            lifecycle.change_state(Transition.TRANSITION_CLEANUP, "cleaned up")
            if number >= warm_up - 1:
                seconds.append(to_seconds(time.time_ns() - begun_ns))
                resident_mib.append(process.resident_mib())
            if number == warm_up - 1:
                files, threads = process.files(), process.threads()
            if number % max(1, options.cycles // 20) == 0:
                print(f"{number:>6} cycles  {process.resident_mib():8.1f} MiB", flush=True)
        more_files, more_threads = process.files() - files, process.threads() - threads
        children = len(process.children())
    growth = 100 * (resident_mib[-1] / resident_mib[0] - 1)
    figures = {
        "cycles": options.cycles,
        "after_warm_up_of": warm_up,
        "resident_mib": [round(each, 1) for each in resident_mib[:: max(1, options.cycles // 20)]],
        "growth_percent": round(growth, 2),
        "seconds_per_cycle": percentiles(seconds),
        "threads": threads,
        "files": files,
    }
    return Section(
        inputs={"cycles": options.cycles, "frames": "one of 640x480 in each cycle"},
        figures=figures,
        claims=[
            at_most("growth of memory (%)", growth, 5.0),
            at_most("more open files", more_files, 0),
            at_most("more threads", more_threads, 0),
            at_most("processes left", children, 0),
        ],
    )


def played_twice(options: argparse.Namespace) -> Section:
    """One bag, two replays."""
    settings = SETTINGS.with_values({"sampling.temperature": 0.0})
    results = []
    with tempfile.TemporaryDirectory() as folder:
        bag = Path(folder, "bag")
        _record(bag, options.frames)
        for name in ("first", "second"):
            summary = replay(ReplayOptions(bag), settings, Path(folder, name))
            results.append(
                {topic: _raw(Path(folder, name, BAG), topic) for topic in ("/detections", "/tracks")}
            )
    differing = {
        topic: sum(one != other for one, other in zip(first, results[1][topic], strict=True))
        for topic, first in results[0].items()
    }
    boxes = sum(map(len, results[0]["/detections"]))
    return Section(
        inputs={"frames": options.frames, "image": "640x480 rgb8", "sampling.temperature": 0.0},
        figures={
            "messages": {topic: len(first) for topic, first in results[0].items()},
            "bytes_of_detections": boxes,
            "differing": differing,
            "seconds": summary["wall_s"],
        },
        claims=[
            at_least("messages on /detections", len(results[0]["/detections"]), options.frames),
            at_least("messages on /tracks", len(results[0]["/tracks"]), options.frames),
            at_most("messages that differ", sum(differing.values()), 0),
        ],
    )


def _record(bag: Path, frames: int) -> None:
    """Record the demo world at 10 Hz, as `ros2 bag record` would."""
    world, types = World(seed=3), typestore()
    with Writer(bag, version=8, storage_plugin=StoragePlugin.MCAP) as writer:
        connection = writer.add_connection("/camera/image", "sensor_msgs/msg/Image", typestore=types)
        for index in range(frames):
            frame = world.snapshot(3 * index).frame
            stamp_ns = 1_700_000_000_000_000_000 + index * 100_000_000
            message = messages.image(frame.image, messages.header(stamp_ns, "camera"))
            writer.write(connection, stamp_ns, serialize_message(message))


def _raw(bag: Path, topic: str) -> list[bytes]:
    with Reader(bag) as reader:
        wanted = [each for each in reader.connections if each.topic == topic]
        return [bytes(raw) for _, _, raw in reader.messages(wanted)]


PARTS: Mapping[str, Callable[[argparse.Namespace], Section]] = {
    "camera": camera,
    "losses": losses,
    "cycles": cycles,
    "replay": played_twice,
    "recorded": recorded,
    "start": start,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", default=",".join(PARTS), help="parts to run, with commas")
    parser.add_argument("--seconds", type=float, default=60.0, help="of the part camera")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--stops", type=int, default=5)
    parser.add_argument("--cycles", type=int, default=1000)
    parser.add_argument("--frames", type=int, default=60, help="of the part replay")
    parser.add_argument("--starts", type=int, default=7, help="of the parts recorded and start")
    parser.add_argument("--json", type=Path, default=RESULTS, help="where the figures go")
    options = parser.parse_args()
    os.environ.setdefault("ROS_DOMAIN_ID", str(1 + os.getpid() % 100))
    transport.use_localhost()
    report: dict[str, Any] = json.loads(options.json.read_text()) if options.json.exists() else {}
    broken = 0
    for name in options.only.split(","):
        print(f"{name}: {PARTS[name].__doc__}", flush=True)
        section = PARTS[name](options)
        report[name] = {
            "command": f"python benchmarks/node.py {' '.join(sys.argv[1:])}".strip(),
            "machine": _machine(),
            **asdict(section),
        }
        options.json.parent.mkdir(exist_ok=True)
        options.json.write_text(json.dumps(report, indent=2) + "\n")
        for claim in section.claims:
            verdict = "" if claim.holds else "  MISSED"
            print(f"  {claim.what:<50}{claim.figure:>10g}  {claim.limit}{verdict}", flush=True)
            broken += not claim.holds
    return int(broken > 0)


def _machine() -> dict[str, str]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "")
    packages = ("lfm_perception", "llama-cpp-python", "numpy", "ros-rclpy")
    return {
        "cores": f"{os.cpu_count()} x {model or platform.machine()}",
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }


if __name__ == "__main__":
    sys.exit(main())
