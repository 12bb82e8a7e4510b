# SPDX-License-Identifier: Apache-2.0
"""Depth images of a running node: from `input_depth` to the distances of its tracks, and their diagnostics.

Nothing waits for a depth image: tracks take the one that is nearest by its stamp, and have no distance where
none is near enough.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from rclpy.callback_groups import CallbackGroup
from rclpy.node import Node
from rclpy.subscription import Subscription

from lfm_perception import cdr
from lfm_perception.depth import DepthImage, DepthImages, with_distances
from lfm_perception.errors import PerceptionError, shown
from lfm_perception.media import depth_images
from lfm_perception.ros.camera_watch import stamp_problem
from lfm_perception.ros.diagnostics import OK, WARN, PartStatus
from lfm_perception.ros.endpoints import subscribe
from lfm_perception.ros.topics import DEPTH
from lfm_perception.ros.unexpected import UnexpectedErrors
from lfm_perception.scene import Scene, Track
from lfm_perception.settings import Settings
from lfm_perception.stamps import StampFilter


class DepthInput:
    """Subscribes to depth images between `start` and `stop`. Tracks for any thread.

    Args:
        settings: returns the settings in force.
        warn: called as `warn(kind, sentence)` about images that are rejected; tracks go on without them.
        unexpected: records what only a bug can cause.
    """

    def __init__(
        self,
        node: Node,
        settings: Callable[[], Settings],
        warn: Callable[..., None],
        unexpected: UnexpectedErrors,
    ) -> None:
        self._node, self._settings, self._warn, self._unexpected = node, settings, warn, unexpected
        (self._declared,) = DEPTH.subscriptions
        self._topic = node.resolve_topic_name(self._declared.name)
        self._subscription: Subscription[Any] | None = None
        self._images, self._stamps = DepthImages(), StampFilter()
        self._received = self._missing = self._last_missing = self._last_rejected = 0
        self._rejected = Counter[str]()
        self._problem = ""

    def start(self, group: CallbackGroup) -> None:
        """Subscribe, in the callback group of the camera."""
        callback = self._unexpected.guarded(self._declared.name, self._on_image)
        self._subscription = subscribe(self._node, self._declared, callback, group)

    def stop(self) -> None:
        """Unsubscribe."""
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            self._node.destroy_subscription(subscription)

    def reset(self) -> None:
        """Forget the images, and accept any stamp next: the clock was set back."""
        self._images = DepthImages()
        self._stamps.reset()

    def _on_image(self, raw: bytes) -> None:
        if self._subscription is None:
            return  # the callback was scheduled before the subscription was stopped
        self._received += 1
        try:
            header = cdr.image_header(raw, self._topic, compressed=False)
            fields = cdr.image_fields(raw, header, self._topic)
            millimetres = depth_images.from_message(fields, f"an image on {self._topic}")
        except PerceptionError as error:
            self._reject("unreadable", str(error))
            return
        now_ns = self._node.get_clock().now().nanoseconds
        rejection = stamp_problem(header.stamp_ns, now_ns, self._settings().node.future_tolerance)
        if rejection := rejection or self._stamps.check(header.stamp_ns)[0]:
            self._reject(*rejection)
        else:
            self._images.add(DepthImage(millimetres, header.stamp_ns, header.frame_id))

    def _reject(self, reason: str, problem: str) -> None:
        self._rejected[reason] += 1
        self._problem = problem
        self._warn("depth", f"{self._topic}: {problem}")

    def on_frame(self, tracks: Sequence[Track], stamp_ns: int, frame_id: str) -> tuple[Track, ...]:
        """The tracks of a new camera frame, with their distances where they are known.

        A frame for which there is no depth image is counted.
        """
        image = self._nearest(stamp_ns)
        if image is None:
            self._missing += 1
        elif image.frame_id != frame_id:
            self._reject(
                "not aligned",
                f"depth in the frame {shown(image.frame_id)} is not aligned to the camera's images in "
                f"{shown(frame_id)}: use the driver's topic of aligned (registered) depth",
            )
        return _measured(tracks, image, frame_id)

    def on_scene(self, scene: Scene) -> Scene:
        """The scene of a frame of the last seconds, with the distances of its tracks where they are known."""
        return replace(scene, tracks=_measured(scene.tracks, self._nearest(scene.stamp_ns), scene.frame_id))

    def _nearest(self, stamp_ns: int) -> DepthImage | None:
        return self._images.nearest(stamp_ns, self._settings().node.depth_tolerance)

    def status(self) -> PartStatus:
        """The diagnostics of the depth images."""
        rejected, missing = sum(self._rejected.values()), self._missing
        level, message = OK, f"{self._received} depth images"
        if rejected > self._last_rejected:
            level, message = WARN, f"{rejected - self._last_rejected} rejected; the last: {self._problem}"
        elif missing > self._last_missing:
            level = WARN
            message = f"frames without a depth image: {missing - self._last_missing}; {self._hint()}"
        self._last_rejected, self._last_missing = rejected, missing
        values = {
            "topic": self._topic,
            "depth images received": self._received,
            **{f"depth images rejected: {reason}": count for reason, count in self._rejected.items()},
            "frames without a depth image": missing,
        }
        return PartStatus("depth", level, message, values)

    def _hint(self) -> str:
        if not self._node.count_publishers(self._topic):
            return f"nothing publishes {self._topic}: check the topic's name"
        if not self._received:
            return f"no image comes on {self._topic}: check that it carries {self._declared.type}"
        return (
            f"the stamps on {self._topic} and those of the camera differ by more than node.depth_tolerance "
            f"({self._settings().node.depth_tolerance:g} s), or depth images do not come any more"
        )


def _measured(tracks: Sequence[Track], image: DepthImage | None, frame_id: str) -> tuple[Track, ...]:
    """The tracks with their distances in an image, if there is one and it is of the camera's frame."""
    if image is None or image.frame_id != frame_id:
        return tuple(tracks)
    return with_distances(tracks, image.millimetres)
