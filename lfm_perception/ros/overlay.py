# SPDX-License-Identifier: Apache-2.0
"""The overlay that the node publishes: drawn on a thread of its own, always for the newest camera frame."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sensor_msgs.msg import Image

from lfm_perception.live import LatestWorker
from lfm_perception.ros import messages
from lfm_perception.scene import NO_DRAWING, Frame, RuleDrawing, Scene, Track
from lfm_perception.stamps import to_seconds

if TYPE_CHECKING:
    from lfm_perception.media.overlay import Overlay


@dataclass(frozen=True, slots=True)
class OverlayInput:
    """A serialized image, the tracks at its stamp, the latest scene and the latency of its inference."""

    raw: bytes
    tracks: Sequence[Track]
    scene: Scene | None
    latency_s: float
    rules: RuleDrawing = NO_DRAWING


class OverlayThread:
    """Draws the newest input and passes the image to `publish`; `on_error` receives unexpected exceptions."""

    def __init__(
        self,
        badge: str,
        decode: Callable[[bytes, int | None], Frame],
        publish: Callable[[Image], None],
        on_error: Callable[[Exception], None],
        *,
        strip: bool,
    ) -> None:
        self._badge, self._decode, self._panel = badge, decode, "strip" if strip else "line"
        self._overlay: Overlay | None = None
        self._size = (0, 0)
        self._first_stamp_ns: int | None = None
        worker = LatestWorker[OverlayInput]("overlay", lambda item: publish(self._draw(item)), on_error)
        self.submit, self.close = worker.submit, worker.close

    def _draw(self, item: OverlayInput) -> Image:
        from lfm_perception.media.overlay import Overlay, View  # here: most nodes have no overlay

        frame = self._decode(item.raw, None)
        if self._overlay is None or self._size != (frame.width, frame.height):
            self._overlay = Overlay(frame.width, frame.height, self._badge, panel=self._panel)
            self._size = frame.width, frame.height
        self._first_stamp_ns = self._first_stamp_ns or frame.stamp_ns
        seconds = to_seconds(frame.stamp_ns - self._first_stamp_ns)
        rgb = self._overlay.draw(View(frame, seconds, item.tracks, item.scene, item.latency_s, item.rules))
        return messages.image(rgb, messages.header(frame.stamp_ns, frame.frame_id))
