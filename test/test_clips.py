# SPDX-License-Identifier: Apache-2.0
"""Recordings of events: the images around them in bags, bounded in memory and on disk."""

from __future__ import annotations

import json
import resource
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from rosbags.rosbag2 import Reader

from lfm_perception.errors import PerceptionError
from lfm_perception.media import images
from lfm_perception.media.bags import typestore
from lfm_perception.media.clips import MAX_CLIPS, ClipRecorder, make_room
from lfm_perception.media.sources import open_source
from lfm_perception.rules.events import Event, file_name
from lfm_perception.scene import Frame
from lfm_perception.settings import Settings
from lfm_perception.stamps import from_seconds, split_stamp

EPOCH_NS = 1_700_000_000 * 10**9
TOPICS = ("/camera/image_raw/compressed", "/events")
SHORT = {"rules.clip_before": 1.0, "rules.clip_after": 1.0}


def stamp(seconds: float) -> int:
    return EPOCH_NS + from_seconds(seconds)


class Recording:
    """A recorder of raw images whose pixels are the noise of their stamp, and what it warns of."""

    def __init__(self, folder: Path, **settings: float) -> None:
        chosen = Settings().with_values({"rules.clips": str(folder), **SHORT, **settings}).rules
        self.counts, self.warnings, self.errors = Counter[str](), list[str](), list[Exception]()
        self.recorder = ClipRecorder(
            chosen, TOPICS, self._decode, lambda kind, said: self.warnings.append(said), self.errors.append,
            self.counts,
        )  # fmt: skip
        self.folder = folder

    def _decode(self, raw: bytes, width: int | None) -> Frame:
        pixels = np.random.default_rng(int(raw)).integers(0, 255, (120, 160, 3), np.uint8)
        return Frame(pixels, int(raw), "camera")

    def show(self, seconds: Sequence[float]) -> None:
        for each in seconds:
            self.recorder.submit(stamp(each), "camera", str(stamp(each)).encode())
            self.recorder._worker.wait_idle()

    def wait(self, condition: Callable[[], object]) -> None:
        until = time.monotonic() + 20.0
        while not condition():
            assert time.monotonic() < until
            time.sleep(0.01)
        assert not self.errors


@contextmanager
def recording(folder: Path, **settings: float) -> Iterator[Recording]:
    made = Recording(folder, **settings)
    yield made
    made.recorder.close()
    made.wait(lambda: all(each.name != "clips" for each in threading.enumerate()))


def frames(bag: Path) -> list[float]:
    with open_source(str(bag)) as source:
        return [round((frame.stamp_ns - EPOCH_NS) / 1e9, 3) for frame in source.frames]


def texts(bag: Path) -> list[str]:
    types = typestore()
    with Reader(bag) as reader:
        found = [each for each in reader.connections if each.topic == "/events"]
        return [
            str(types.deserialize_cdr(raw, connection.msgtype).data)  # type: ignore[attr-defined]
            for connection, _, raw in reader.messages(connections=found)
        ]


def test_a_bag_holds_the_seconds_before_and_after_and_the_events_meanwhile(tmp_path: Path) -> None:
    with recording(tmp_path / "clips") as made:
        made.show(np.arange(0.0, 3.05, 0.1).tolist())
        made.recorder.record("lfm_event_first", stamp(3.0), '{"rule": "first"}')
        made.show(np.arange(3.1, 3.55, 0.1).tolist())
        made.recorder.record("lfm_event_second", stamp(3.5), '{"rule": "second"}')
        made.show(np.arange(3.6, 4.75, 0.1).tolist())
        bag = made.folder / "lfm_event_first"
        made.wait(bag.exists)
    assert [each.name for each in made.folder.iterdir()] == ["lfm_event_first"]
    found = frames(bag)
    assert (found[0], found[-1], len(found)) == (2.0, 4.5, 26)
    assert [json.loads(text)["rule"] for text in texts(bag)] == ["first", "second"]
    assert (made.counts["clips"], made.counts["clips lost"], made.warnings) == (1, 0, [])


def test_a_storm_of_events_makes_a_bag_of_twice_the_seconds_after_at_most(tmp_path: Path) -> None:
    with recording(tmp_path / "clips") as made:
        for at in np.arange(0.0, 8.0, 0.1).tolist():
            made.show([at])
            for number in range(30):
                made.recorder.record(f"lfm_event_{at:.1f}_{number}", stamp(at), "{}")
    bags = sorted(made.folder.iterdir())
    assert 3 <= len(bags) <= 5
    assert all(len(frames(bag)) <= 33 for bag in bags)
    assert all(len(texts(bag)) <= 100 for bag in bags)


def test_the_rate_and_the_memory_of_images_are_bounded(tmp_path: Path) -> None:
    limits = {"rules.clip_memory": 1.0, "rules.clip_before": 60.0, "rules.clip_rate": 5.0}
    with recording(tmp_path / "clips", **limits) as made:
        made.show(np.arange(0.0, 30.0, 1 / 30).tolist())
        kept = [image.stamp_ns for image in made.recorder._images]
        assert sum(len(image.data) for image in made.recorder._images) <= 1_000_000
        assert made.counts["clip images left out"] + len(kept) <= 151
        assert kept[-1] - kept[0] > 5 * 10**9
        made.recorder.record("lfm_event_a", stamp(30.0), "{}")
    made.wait((made.folder / "lfm_event_a").exists)
    assert len(frames(made.folder / "lfm_event_a")) == len(kept)


def test_a_clock_that_is_set_back_ends_a_recording(tmp_path: Path) -> None:
    with recording(tmp_path / "clips") as made:
        made.show([100.0, 100.5])
        made.recorder.record("lfm_event_a", stamp(100.5), "{}")
        made.show([5.0])
        assert frames(made.folder / "lfm_event_a") == [100.0, 100.5]
        made.show([5.5])
        made.recorder.record("lfm_event_b", stamp(5.5), "{}")
    made.wait((made.folder / "lfm_event_b").exists)
    assert frames(made.folder / "lfm_event_b") == [5.0, 5.5]


def test_a_full_disk_is_told_and_counted_and_leaves_nothing(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with recording(tmp_path / "clips") as made:
        made.show([1.0, 1.5])
        made.recorder.record("lfm_event_a", stamp(1.5), "{}")
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
        try:
            made.show([3.0])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert made.warnings == [f"rules.clips: cannot write to {made.folder}: file too large"]
        assert (made.counts["clips"], made.counts["clips lost"]) == (0, 1)
        assert not made.folder.exists()
        made.recorder.record("lfm_event_b", stamp(3.0), "{}")
    made.wait((made.folder / "lfm_event_b").exists)


def test_the_oldest_recordings_make_room_and_nothing_else_does(tmp_path: Path) -> None:
    for index in range(MAX_CLIPS):
        clip = tmp_path / f"lfm_event_{index:03}"
        clip.mkdir()
        (clip / "metadata.yaml").write_bytes(b"x" * 1000)
    for other in ("mine", "lfm_event_mine"):
        (tmp_path / other).mkdir()
        (tmp_path / other / "photo.jpg").write_bytes(b"x" * 10**6)
    make_room(tmp_path, 10**6)
    assert not (tmp_path / "lfm_event_000").exists(), "there is room for one more"
    assert (tmp_path / "lfm_event_001").exists()
    make_room(tmp_path, 10_500)
    assert len([*tmp_path.glob("lfm_event_*/metadata.yaml")]) == 10
    assert (tmp_path / "lfm_event_199").exists()
    (tmp_path / "mine" / "metadata.yaml").write_bytes(b"")
    (tmp_path / "lfm_event_link").symlink_to(tmp_path / "mine")
    make_room(tmp_path, -1)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["lfm_event_link", "lfm_event_mine", "mine"]


def test_a_damaged_image_costs_itself(tmp_path: Path) -> None:
    with recording(tmp_path / "clips") as made:
        good = made.recorder._decode

        def decode(raw: bytes, width: int | None) -> Frame:
            if raw == str(stamp(1.0)).encode():
                raise PerceptionError("damaged")
            assert good is not None
            return good(raw, width)

        made.recorder._decode = decode
        made.show([0.5, 1.0, 1.5])
        made.recorder.record("lfm_event_a", stamp(1.5), "{}")
    made.wait((made.folder / "lfm_event_a").exists)
    assert frames(made.folder / "lfm_event_a") == [0.5, 1.5]


def test_compressed_images_are_kept_as_they_came(tmp_path: Path) -> None:
    types = typestore()
    make, kind = types.types, "sensor_msgs/msg/CompressedImage"
    png = images.encode(np.zeros((12, 16, 3), np.uint8), ".png")
    raw = {}
    with recording(tmp_path / "clips") as made:
        made.recorder._decode = None
        for seconds in (1.0, 1.5):
            sec, nanosec = split_stamp(stamp(seconds))
            time_message = make["builtin_interfaces/msg/Time"](sec=sec, nanosec=nanosec)
            header = make["std_msgs/msg/Header"](stamp=time_message, frame_id="camera")
            message = make[kind](header=header, format="png", data=np.frombuffer(png, np.uint8))
            raw[stamp(seconds)] = bytes(types.serialize_cdr(message, kind))
            made.recorder.submit(stamp(seconds), "camera", raw[stamp(seconds)])
            made.recorder._worker.wait_idle()
        made.recorder.record("lfm_event_a", stamp(1.5), "{}")
    made.wait((made.folder / "lfm_event_a").exists)
    with Reader(made.folder / "lfm_event_a") as reader:
        pictures = [each for each in reader.connections if each.topic == TOPICS[0]]
        assert {at: bytes(data) for _, at, data in reader.messages(connections=pictures)} == raw


def test_names_of_files_fit_any_disk() -> None:
    event = Event("𠀀" * 64 + "-1700000000123456789-1234567890", "𠀀" * 64, "begin", 0, 0)
    assert len(f".{file_name(event)}.part".encode()) <= 255
    assert file_name(event).endswith("-1700000000123456789-1234567890")
    assert file_name(Event("a/../b-1-2", "a/../b", "begin", 0, 0)) == "lfm_event_a_b-1-2"
