# SPDX-License-Identifier: Apache-2.0
"""Recordings of events: the camera's images of the seconds before and after, each a small rosbag2 (mcap).

A ring of compressed images is kept in memory, bounded in bytes. Once the seconds after an event are over, its
images are written to a bag, on a thread of their own. Events that begin meanwhile are in the same recording.
"""

from __future__ import annotations

import shutil
import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.rosbag2 import StoragePlugin, Writer

from lfm_perception.errors import PerceptionError
from lfm_perception.files import oldest_first, user_path
from lfm_perception.live import LatestWorker
from lfm_perception.media import images
from lfm_perception.media.bags import COMPRESSED_TYPE, typestore
from lfm_perception.media.staging import staged, writing
from lfm_perception.rules.events import FILE_PREFIX
from lfm_perception.scene import Frame
from lfm_perception.settings import RulesSettings
from lfm_perception.stamps import from_seconds, split_stamp

MAX_CLIPS = 200
"""Maximum number of recordings in the folder; the oldest are deleted."""

MAX_EVENTS = 100
"""Maximum number of events in a recording."""

MEGABYTE = 1_000_000


@dataclass(frozen=True, slots=True)
class KeptImage:
    """A serialized sensor_msgs/CompressedImage, or a raw image that becomes one."""

    stamp_ns: int
    frame_id: str
    data: bytes


@dataclass(slots=True)
class Clip:
    """A recording that is under way: its name, the stamps that it spans, and its events as JSON."""

    name: str
    begin_ns: int
    end_ns: int
    latest_end_ns: int
    events: list[tuple[int, str]] = field(default_factory=list)


class ClipRecorder:
    """Keeps images, and writes those around events. To be closed. For any thread.

    Args:
        settings: folder, durations and limits.
        topics: names of the images and of the events in the bags.
        decode: makes a frame of a serialized raw image; None where images are compressed already.
        warn: called as `warn(kind, sentence)`.
        on_error: receives unexpected exceptions.
        counts: counts the recordings, those lost, and the images left out.
    """

    def __init__(
        self,
        settings: RulesSettings,
        topics: tuple[str, str],
        decode: Callable[[bytes, int | None], Frame] | None,
        warn: Callable[..., None],
        on_error: Callable[[Exception], None],
        counts: Counter[str],
    ) -> None:
        self._settings, self._topics, self._decode = settings, topics, decode
        self._warn, self._counts = warn, counts
        self._folder = user_path(settings.clips)
        self._disk = round(settings.clip_disk * MEGABYTE)
        self._memory = min(round(settings.clip_memory * MEGABYTE), self._disk)
        self._before_ns, self._after_ns = map(from_seconds, (settings.clip_before, settings.clip_after))
        # images come a little early or late; a tenth of the period is no reason to leave one out
        self._period_ns = from_seconds(0.9 / settings.clip_rate)
        self._types = typestore()
        self._lock = threading.Lock()
        self._images = deque[KeptImage]()
        self._bytes = self._last_ns = 0
        self._clip: Clip | None = None
        self._worker = LatestWorker[KeptImage]("clips", self._keep, on_error)

    def submit(self, stamp_ns: int, frame_id: str, raw: bytes) -> None:
        """Keep a serialized image, as far as `rules.clip_rate` asks for it; takes microseconds."""
        if 0 <= stamp_ns - self._last_ns < self._period_ns:
            return
        self._last_ns = stamp_ns
        self._counts["clip images left out"] += self._worker.submit(KeptImage(stamp_ns, frame_id, raw))

    def record(self, name: str, stamp_ns: int, text: str) -> None:
        """Record the seconds around an event that begins, or add it to the recording that is under way.

        Args:
            name: of the recording.
            text: the event as JSON.
        """
        with self._lock:
            end_ns = stamp_ns + self._after_ns
            if self._clip is None:
                self._clip = Clip(name, stamp_ns - self._before_ns, end_ns, end_ns + self._after_ns)
            self._clip.end_ns = min(max(self._clip.end_ns, end_ns), self._clip.latest_end_ns)
            if len(self._clip.events) < MAX_EVENTS:
                self._clip.events.append((stamp_ns, text))

    def close(self) -> None:
        """End, after what is under way is written; that does not block the caller."""
        threading.Thread(target=self._close, name="clips").start()

    def _close(self) -> None:
        self._worker.close()
        self._finish()

    def _keep(self, image: KeptImage) -> None:
        """Add an image to the ring, after the recording that ends before it is written."""
        back = bool(self._images) and image.stamp_ns <= self._images[-1].stamp_ns
        clip = self._clip
        if clip is not None and (back or image.stamp_ns > clip.end_ns):
            self._finish()
        if self._decode is not None:
            image = self._compressed(image, self._decode(image.data, None))
        with self._lock:
            if back:
                self._images.clear()
                self._bytes = 0
            self._images.append(image)
            self._bytes += len(image.data)
            oldest_ns = image.stamp_ns - self._before_ns
            if self._clip is not None:
                oldest_ns = min(oldest_ns, self._clip.begin_ns)
            while self._images and (self._images[0].stamp_ns < oldest_ns or self._bytes > self._memory):
                dropped = self._images.popleft()
                self._bytes -= len(dropped.data)
                self._counts["clip images left out"] += dropped.stamp_ns >= oldest_ns

    def _compressed(self, image: KeptImage, frame: Frame) -> KeptImage:
        make = self._types.types
        sec, nanosec = split_stamp(image.stamp_ns)
        stamp = make["builtin_interfaces/msg/Time"](sec=sec, nanosec=nanosec)
        header = make["std_msgs/msg/Header"](stamp=stamp, frame_id=image.frame_id)
        jpeg = np.frombuffer(images.encode(frame.image, ".jpg"), np.uint8)
        message = make[COMPRESSED_TYPE](header=header, format="jpeg", data=jpeg)
        data = bytes(self._types.serialize_cdr(message, COMPRESSED_TYPE))
        return KeptImage(image.stamp_ns, image.frame_id, data)

    def _finish(self) -> None:
        """Write the recording that is under way, if there is one."""
        with self._lock:
            clip, self._clip = self._clip, None
            kept = [] if clip is None else [
                each for each in self._images if clip.begin_ns <= each.stamp_ns <= clip.end_ns
            ]  # fmt: skip
        if clip is None:
            return
        try:
            make_room(self._folder, self._disk - sum(len(each.data) for each in kept))
            self._write(clip, kept)
            self._counts["clips"] += 1
        except PerceptionError as error:
            self._counts["clips lost"] += 1
            self._warn("clips", f"rules.clips: {error}")

    def _write(self, clip: Clip, kept: Sequence[KeptImage]) -> None:
        """Write a bag, which appears complete or not at all. Raises PerceptionError."""
        string: Any = self._types.types["std_msgs/msg/String"]
        with staged(self._folder) as staging:
            path = staging.path / clip.name
            # Version 8 of the metadata, the older of the two on offer, is read by more distributions.
            with writing(self._folder), Writer(path, version=8, storage_plugin=StoragePlugin.MCAP) as bag:
                pictures, events = (
                    bag.add_connection(topic, kind, typestore=self._types)
                    for topic, kind in zip(
                        self._topics, (COMPRESSED_TYPE, "std_msgs/msg/String"), strict=True
                    )
                )
                for image in kept:
                    bag.write(pictures, max(image.stamp_ns, 0), image.data)
                for stamp_ns, text in clip.events:
                    raw = self._types.serialize_cdr(string(data=text), "std_msgs/msg/String")
                    bag.write(events, max(stamp_ns, 0), raw)
            with writing(self._folder):
                staging.publish()


def make_room(folder: Path, room: int) -> None:
    """Delete the oldest recordings beyond `MAX_CLIPS`, and until the others take at most `room` bytes."""
    with writing(folder):
        clips = oldest_first(path.parent for path in folder.glob(f"{FILE_PREFIX}*/metadata.yaml"))
        sizes = [_size(clip) for clip in clips]
        while clips and (len(clips) >= MAX_CLIPS or sum(sizes) > room):
            with suppress(FileNotFoundError):  # another node deletes it too
                shutil.rmtree(clips.pop(0))
            del sizes[0]


def _size(clip: Path) -> int:
    """Bytes of a recording; 0 if another node deletes it meanwhile."""
    try:
        return sum(file.lstat().st_size for file in clip.iterdir())
    except FileNotFoundError:
        return 0
