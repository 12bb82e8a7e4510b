# SPDX-License-Identifier: Apache-2.0
"""Bags played through the node, and the real graph of the demo: recorded, judged, repeated."""

from __future__ import annotations

import glob
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import jsonschema
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed")

import robot  # noqa: F401 - a domain of its own, and images through shared memory
from pages import LATENCY_CHARTS, STAGES, check_charts
from rosbags.rosbag2 import Reader, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from lfm_perception.demo.world import World
from lfm_perception.errors import PerceptionError
from lfm_perception.media.bags import typestore
from lfm_perception.ros.replay import ReplayOptions, replay
from lfm_perception.scene_json import SCHEMA
from lfm_perception.settings import Settings

EPOCH_NS = 1_700_000_000_000_000_000
SETTINGS = Settings().with_values(
    {"sampling.temperature": 0.0, "image.max_tokens": 64, "caption.period": 0.5, "tracker.min_hits": 1}
)


IN_THREAD = SETTINGS.with_values({"engine.isolation": "thread"})
"""Spares the start of a worker process where a test is about anything else."""


def recorded(
    path: Path, *, storage: StoragePlugin, compressed: bool, frames: int = 6, offset_ns: int = 0
) -> Path:
    """A bag of the demo world at 5 Hz, as a camera and `ros2 bag record` would have left it.

    The stamps of the images are `offset_ns` after the time of recording, or 0 where that would be negative.
    """
    types = get_typestore(Stores.LATEST)
    kind = f"sensor_msgs/msg/{'CompressedImage' if compressed else 'Image'}"
    topic = "/camera/image/compressed" if compressed else "/camera/image"
    make = types.types
    world = World(seed=3, width=320, height=240)
    with Writer(path, version=9, storage_plugin=storage) as writer:
        connection = writer.add_connection(topic, kind, typestore=types)
        for index in range(frames):
            stamp_ns = EPOCH_NS + index * 200_000_000
            sec, nanosec = divmod(max(stamp_ns + offset_ns, 0) if offset_ns >= 0 else 0, 10**9)
            stamp = make["builtin_interfaces/msg/Time"](sec=sec, nanosec=nanosec)
            header = make["std_msgs/msg/Header"](stamp=stamp, frame_id="front")
            rgb = world.snapshot(6 * index).frame.image
            if compressed:
                _, jpeg = cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
                message = make[kind](header=header, format="jpeg", data=jpeg.ravel())
            else:
                message = make[kind](
                    header=header, height=240, width=320, encoding="rgb8", is_bigendian=0, step=960,
                    data=np.ascontiguousarray(rgb).reshape(-1),
                )  # fmt: skip
            writer.write(connection, stamp_ns, types.serialize_cdr(message, kind))
    return path


def messages(bag: Path, *topics: str) -> list[tuple[str, bytes]]:
    with Reader(bag) as reader:
        wanted = [each for each in reader.connections if each.topic in topics]
        return [(each.topic, bytes(raw)) for each, _, raw in reader.messages(wanted)]


def read(bag: Path, topic: str) -> list[Any]:
    types = typestore()
    return [types.deserialize_cdr(raw, "vision_msgs/msg/Detection2DArray") for _, raw in messages(bag, topic)]


def stamps(bag: Path, topic: str) -> list[int]:
    return [each.header.stamp.sec * 10**9 + each.header.stamp.nanosec for each in read(bag, topic)]


def boxes(bag: Path, topic: str) -> list[list[tuple[str, str, float, float]]]:
    """For a difference that can be read: id, label, score and place of each box in each message."""
    return [
        [
            (d.id, d.results[0].hypothesis.class_id, d.results[0].hypothesis.score, d.bbox.center.position.x)
            for d in each.detections
        ]
        for each in read(bag, topic)
    ]


@pytest.mark.parametrize(
    ("storage", "compressed"),
    [(StoragePlugin.MCAP, False), (StoragePlugin.SQLITE3, True)],
    ids=["mcap raw", "sqlite3 compressed"],
)
def test_the_same_bag_gives_the_same_messages_byte_for_byte(
    tmp_path: Path, storage: StoragePlugin, compressed: bool
) -> None:
    bag = recorded(tmp_path / "bag", storage=storage, compressed=compressed)
    results = []
    for name in ("first", "second"):
        summary = replay(ReplayOptions(bag), SETTINGS, tmp_path / name)
        assert (summary["images"], summary["answered"], summary["unanswered_stamps"]) == (6, 6, [])
        results.append(tmp_path / name / "perception_bag")
    for topic in ("/detections", "/tracks"):
        first, second = (messages(result, topic) for result in results)
        assert len(first) == 6
        assert boxes(results[0], topic) == boxes(results[1], topic)
        assert first == second
    assert stamps(results[0], "/detections") == [EPOCH_NS + index * 200_000_000 for index in range(6)]
    scenes = [json.loads(line) for line in (tmp_path / "first" / "scenes.jsonl").read_text().splitlines()]
    schema = json.loads(SCHEMA.read_text())
    assert len(scenes) == 6
    for scene in scenes:
        jsonschema.validate(scene, schema)
    assert any(scene["objects"] for scene in scenes)


@pytest.mark.parametrize(
    ("offset_ns", "changes", "answered", "reason"),
    [
        (-EPOCH_NS, {}, 0, "rejected: "),
        (0, {"inference.motion_threshold": 1.0, "inference.max_interval": 3600.0}, 1, "skipped"),
    ],
    ids=["stamp 0", "motion gate closed"],
)
def test_images_without_an_answer_are_passed_over_at_once_with_the_reason(
    tmp_path: Path, offset_ns: int, changes: dict[str, object], answered: int, reason: str
) -> None:
    bag = recorded(tmp_path / "bag", storage=StoragePlugin.MCAP, compressed=False, offset_ns=offset_ns)
    replay(ReplayOptions(bag), IN_THREAD.with_values(changes), tmp_path / "out")
    check_unanswered(tmp_path / "out", answered, reason)


def check_unanswered(out: Path, answered: int, reason: str) -> None:
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["images"], summary["answered"]) == (6, answered)
    assert len(summary["unanswered_stamps"]) == 6 - answered
    assert sum(summary["unanswered_reasons"].values()) == 6 - answered
    assert all(each.startswith(reason) for each in summary["unanswered_reasons"])
    assert summary["wall_s"] < 60.0, "the timeout of an outcome is 30 s for each image"


def test_a_replay_of_stamps_from_the_future_fails_and_names_the_reasons(tmp_path: Path) -> None:
    bag = recorded(tmp_path / "bag", storage=StoragePlugin.MCAP, compressed=False, offset_ns=5 * 10**9)
    done = subprocess.run(
        command("replay", str(bag), "--out", str(tmp_path / "out")), capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "none of 6 images was answered (6 rejected: " in done.stderr.replace("\n", " ")
    assert "Traceback" not in done.stderr
    check_unanswered(tmp_path / "out", 0, "rejected: ")


def test_a_bag_that_starts_over_starts_the_tracks_over_and_nothing_else(tmp_path: Path) -> None:
    bag = recorded(tmp_path / "bag", storage=StoragePlugin.MCAP, compressed=False, frames=4)
    summary = replay(ReplayOptions(bag, loops=2), IN_THREAD, tmp_path / "out")
    assert (summary["images"], summary["answered"]) == (8, 8)
    scenes = [json.loads(line) for line in (tmp_path / "out" / "scenes.jsonl").read_text().splitlines()]
    loops = scenes[:4], scenes[4:]
    for before, after in zip(*loops, strict=True):
        assert before["detections"] == after["detections"]
    ids = [{each["track_id"] for scene in loop for each in scene["objects"]} for loop in loops]
    assert all(ids)
    assert not ids[0] & ids[1]


def test_at_its_recorded_pace_a_bag_takes_its_time(tmp_path: Path) -> None:
    bag = recorded(tmp_path / "bag", storage=StoragePlugin.MCAP, compressed=False)
    summary = replay(ReplayOptions(bag, pace=1.0), IN_THREAD, tmp_path / "out")
    assert summary["wall_s"] >= 1.0
    assert len(stamps(tmp_path / "out" / "perception_bag", "/tracks")) == summary["images"] == 6


def test_what_cannot_be_played_leaves_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(PerceptionError, match="nowhere"):
        replay(ReplayOptions(tmp_path / "nowhere"), SETTINGS, out)
    bag = recorded(tmp_path / "bag", storage=StoragePlugin.MCAP, compressed=False, frames=2)
    wrong = SETTINGS.with_values({"model.path": "/no.gguf", "mmproj.path": "/no.gguf"})
    with pytest.raises(PerceptionError, match="could not be configured"):
        replay(ReplayOptions(bag), wrong, out)
    assert not out.exists()


def command(*words: str) -> Sequence[str]:
    return [sys.executable, "-c", "from lfm_perception.cli import main; main()", *words]


def test_the_demo_shows_the_real_graph_and_judges_it(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    process = subprocess.run(
        command("demo", "--out", str(out), "--seconds", "2"), capture_output=True, text=True
    )
    assert process.returncode == 0, process.stdout + process.stderr
    assert {path.name for path in out.iterdir()} == {
        *("index.html", "overlay.mp4", "overlay.png", "scenes.jsonl", "summary.json", "perception_bag"),
        *("node.log", "camera.log"),
    }
    summary = json.loads((out / "summary.json").read_text())
    assert summary["detections"]["f1"] > 0.5
    assert summary["tracks_hz"] > 10.0
    assert stamps(out / "perception_bag", "/tracks")
    page = (out / "index.html").read_text()
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert 'src="data:video/mp4;base64,' in page
    check_charts(
        out / "index.html",
        {
            "Positions over time": (
                "time (s)",
                "centre x (image widths)",
                "ground truth",
                "track",
                "detection",
            ),
            **LATENCY_CHARTS,
            "Age of tracks": ("age (ms)", "messages", "p95: "),
            "Capture to answer, the last frames": (
                "time (s)",
                "inferred frame",
                "waiting and transport",
                *STAGES,
            ),
        },
    )
    assert not leftovers(out)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP, signal.SIGKILL], ids=lambda n: n.name)
def test_a_signal_ends_the_demo_and_all_its_processes(tmp_path: Path, number: signal.Signals) -> None:
    out = tmp_path / "demo"
    process = subprocess.Popen(
        command("demo", "--out", str(out), "--seconds", "600"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    while not glob.glob(f"{out}/.unfinished-*/camera.log"):  # noqa: PTH207 - the folder may come and go
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode in (1, 128 + number, -number)
    deadline = time.monotonic() + 30.0
    while leftovers(out) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not leftovers(out)


def leftovers(out: Path) -> list[str]:
    """Processes of ours that this test's programs left running."""
    domain = os.environ["ROS_DOMAIN_ID"]
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
            environment = (process / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if f"ROS_DOMAIN_ID={domain}".encode() in environment and b"-m" in words:
            found += [word.decode() for word in words if word.startswith(b"lfm_perception.")]
    return found
