# SPDX-License-Identifier: Apache-2.0
"""The memory of a running node: what is kept of scenes and events, and its diagnostics."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable

from lfm_perception.downscaling import downscale_to_width
from lfm_perception.errors import PerceptionError
from lfm_perception.media.images import encode
from lfm_perception.memory import Entry, MemoryQuestion, MemoryStore, MemoryWriter
from lfm_perception.ros.diagnostics import OK, WARN, PartStatus
from lfm_perception.rules import Event
from lfm_perception.rules.events import event_text, event_to_json
from lfm_perception.scene import Frame, Image, Scene
from lfm_perception.settings import MemorySettings
from lfm_perception.stamps import to_seconds

COUNT_PERIOD_S = 1.0
"""Least time between two entries of counts; the highest count of each label within it is kept."""

REPEAT_S = 10.0
"""Time after which a caption or counts are kept again although they have not changed."""

THUMBNAIL_WIDTH, THUMBNAIL_QUALITY = 160, 70
"""Width of a thumbnail, pixels, and its JPEG quality."""


class NodeMemory:
    """Keeps captions, counts and events, and answers questions about them. To be closed. For any thread.

    Args:
        warn: called as `warn(kind, sentence)`.
        on_error: receives unexpected exceptions.

    Raises:
        PerceptionError: the file cannot be opened, with the reason: a wrong key, for example.
    """

    def __init__(
        self,
        settings: MemorySettings,
        warn: Callable[..., None],
        on_error: Callable[[Exception], None],
    ) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._image: Image | None = None
        self._caption, self._caption_ns = "", 0
        self._counts, self._peak = Counter[str](), Counter[str]()
        self._counts_ns = self._period_ns = 0
        self._last_lost = self._last_jumps = 0
        store = MemoryStore(settings, create=True)
        self._writer = MemoryWriter(store, settings, self._thumbnail, warn, on_error)
        self.close = self._writer.close

    def on_scene(self, scene: Scene, frame: Frame) -> None:
        """Keep the counts of the tracks by label, and a new caption, as far as they changed."""
        if self._settings.thumbnails:
            with self._lock:
                self._image = frame.image
        self._keep_counts(scene)
        if scene.caption_usage is not None and scene.caption:
            repeated = scene.caption == self._caption
            if not repeated or _apart_s(scene.stamp_ns, self._caption_ns) >= REPEAT_S:
                self._caption, self._caption_ns = scene.caption, scene.stamp_ns
                self._put("caption", scene.caption, scene.stamp_ns, {"frame_id": scene.frame_id})

    def on_event(self, event: Event, frame_id: str) -> None:
        """Keep what is published of an event."""
        labels = ", ".join(dict.fromkeys(track.label for track in event.tracks))
        said = "; ".join(filter(None, ((event.answer or {}).get("value", ""), event.message)))
        text = (
            f"{event.rule} {event.state}" + (f": {said}" if said else "") + (f" ({labels})" if labels else "")
        )
        record = event_text(event_to_json(event, frame_id))
        self._writer.put(Entry("event", text, event.stamp_ns, data=record))

    def ask(self, text: str, answer: Callable[[str], None], refuse: Callable[[str, str], None]) -> bool:
        """Answer or refuse a text on `input_query`, soon; False if it is no question to the memory."""
        try:
            question = MemoryQuestion.parse(text)
        except PerceptionError as error:
            refuse("", str(error))
            return True
        if question is None:
            return False
        self._writer.ask(question, answer, refuse)
        return True

    def status(self) -> PartStatus:
        """The diagnostics of the memory."""
        now = self._writer.status()
        level, message = OK, f"{now.kept} entries kept"
        if now.problem:
            level, message = WARN, now.problem
        elif now.lost > self._last_lost:
            level, message = WARN, f"{now.lost - self._last_lost} entries were lost: more than can be written"
        elif now.clock_jumps > self._last_jumps:
            level, message = WARN, "the clock has jumped: the ages in memory are wrong by this"
        self._last_lost, self._last_jumps = now.lost, now.clock_jumps
        values = {
            "file": self._settings.path,
            "encrypted": self._settings.encrypted,
            "entries kept": now.kept,
            "entries lost": now.lost,
            "entries waiting": now.waiting,
            "clock jumps": now.clock_jumps,
        }
        return PartStatus("memory", level, message, values)

    def _keep_counts(self, scene: Scene) -> None:
        self._peak |= Counter(track.label for track in scene.tracks)
        if _apart_s(scene.stamp_ns, self._period_ns) < COUNT_PERIOD_S:
            return
        peak, self._peak, self._period_ns = self._peak, Counter(), scene.stamp_ns
        if peak != self._counts or (peak and _apart_s(scene.stamp_ns, self._counts_ns) >= REPEAT_S):
            self._counts, self._counts_ns = peak, scene.stamp_ns
            counts = dict(sorted(peak.items()))
            text = ", ".join(f"{count} {label}" for label, count in counts.items()) or "no objects"
            self._put("count", text, scene.stamp_ns, {"frame_id": scene.frame_id, "counts": counts})

    def _put(self, kind: str, text: str, stamp_ns: int, data: object) -> None:
        self._writer.put(Entry(kind, text, stamp_ns, data=json.dumps(data, ensure_ascii=False)))

    def _thumbnail(self) -> bytes:
        with self._lock:
            image, self._image = self._image, None
        if image is None:
            return b""
        return encode(downscale_to_width(image, THUMBNAIL_WIDTH), ".jpg", THUMBNAIL_QUALITY)


class UnopenedMemory:
    """Stands for a memory that cannot be opened: its diagnostics say why, and perception goes on."""

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def status(self) -> PartStatus:
        """The diagnostics of the memory."""
        return PartStatus("memory", WARN, f"nothing is kept: {self._reason}", {})


def _apart_s(stamp_ns: int, other_ns: int) -> float:
    """Seconds between two stamps, in whichever order: a camera's clock may be set back."""
    return abs(to_seconds(stamp_ns - other_ns))
