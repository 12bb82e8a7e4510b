"""Results as a rosbag2 (mcap): detections, tracks, caption, scene and overlay, each with its own type."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from lfm_perception.scene import Detection, Frame, Image, Scene, Track

VISION_MSGS = {
    "Point2D": "float64 x\nfloat64 y",
    "Pose2D": "vision_msgs/Point2D position\nfloat64 theta",
    "BoundingBox2D": "vision_msgs/Pose2D center\nfloat64 size_x\nfloat64 size_y",
    "ObjectHypothesis": "string class_id\nfloat64 score",
    "ObjectHypothesisWithPose": "ObjectHypothesis hypothesis\ngeometry_msgs/PoseWithCovariance pose",
    "Detection2D": (
        "std_msgs/Header header\nObjectHypothesisWithPose[] results\nBoundingBox2D bbox\nstring id"
    ),
    "Detection2DArray": "std_msgs/Header header\nDetection2D[] detections",
}
"""The messages of vision_msgs 4 that are written, which rosbags does not know by itself."""

TOPICS = {
    "detections": "vision_msgs/msg/Detection2DArray",
    "tracks": "vision_msgs/msg/Detection2DArray",
    "caption": "std_msgs/msg/String",
    "scene": "std_msgs/msg/String",
    "overlay/compressed": "sensor_msgs/msg/CompressedImage",
}

JPEG_QUALITY = 85


def typestore() -> Typestore:
    """The types of ROS 2 and those of vision_msgs."""
    store = get_typestore(Stores.LATEST)
    for name, text in VISION_MSGS.items():
        store.register(get_types_from_msg(text, f"vision_msgs/msg/{name}"))
    return store


class BagSink:
    """Writes a new bag into the folder `path`, which must not exist.

    Boxes are in pixels of the frame; messages are logged at the stamp of their frame. The bag can be
    read once `close` has returned.
    """

    def __init__(self, path: Path) -> None:
        self._types = typestore()
        # Version 8 of the metadata, the older of the two on offer, is read by more distributions.
        self._writer = Writer(path, version=8, storage_plugin=StoragePlugin.MCAP)
        self._writer.open()
        self._connections = {
            topic: self._writer.add_connection(f"/{topic}", kind, typestore=self._types)
            for topic, kind in TOPICS.items()
        }

    def write_scene(self, scene: Scene, record: str) -> None:
        """The detections of an inferred frame, the scene as JSON, and the caption if it is new."""
        self._write_boxes("detections", scene, scene.width, scene.height, scene.detections)
        self._write("scene", scene.stamp_ns, data=record)
        if scene.caption_usage is not None:
            self._write("caption", scene.stamp_ns, data=scene.caption or "")

    def write_frame(self, frame: Frame, tracks: Sequence[Track], picture: Image) -> None:
        """The tracks at a frame, inferred or not, and the picture (RGB) that shows them."""
        self._write_boxes("tracks", frame, frame.width, frame.height, tracks)
        _, jpeg = cv2.imencode(
            ".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), (cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY)
        )
        header = self._header(frame)
        self._write("overlay/compressed", frame.stamp_ns, header=header, format="jpeg", data=jpeg.ravel())

    def close(self) -> None:
        """Write index and metadata."""
        self._writer.close()

    def abort(self) -> None:
        """Let go of the files; what was written cannot be read."""
        self._writer.abort()

    def _write_boxes(
        self, topic: str, source: Frame | Scene, width: int, height: int, items: Sequence[Detection | Track]
    ) -> None:
        header = self._header(source)
        boxes = [self._detection(header, item, width, height) for item in items]
        self._write(topic, source.stamp_ns, header=header, detections=boxes)

    def _write(self, topic: str, stamp_ns: int, **fields: Any) -> None:
        kind = TOPICS[topic]
        raw = self._types.serialize_cdr(self._make(kind, **fields), kind)
        self._writer.write(self._connections[topic], stamp_ns, raw)

    def _header(self, source: Frame | Scene) -> Any:
        stamp = self._make(
            "builtin_interfaces/msg/Time", sec=source.stamp_ns // 10**9, nanosec=source.stamp_ns % 10**9
        )
        return self._make("std_msgs/msg/Header", stamp=stamp, frame_id=source.frame_id)

    def _detection(self, header: Any, item: Detection | Track, width: int, height: int) -> Any:
        x1, y1, x2, y2 = item.box.in_pixels(width, height).tolist()
        hypothesis = self._make("vision_msgs/msg/ObjectHypothesis", class_id=item.label, score=item.score)
        centre = self._make("vision_msgs/msg/Point2D", x=(x1 + x2) / 2, y=(y1 + y2) / 2)
        box = self._make(
            "vision_msgs/msg/BoundingBox2D",
            center=self._make("vision_msgs/msg/Pose2D", position=centre, theta=0.0),
            size_x=x2 - x1,
            size_y=y2 - y1,
        )
        result = self._make(
            "vision_msgs/msg/ObjectHypothesisWithPose", hypothesis=hypothesis, pose=self._no_pose()
        )
        track_id = str(item.track_id) if isinstance(item, Track) else ""
        return self._make(
            "vision_msgs/msg/Detection2D", header=header, results=[result], bbox=box, id=track_id
        )

    def _no_pose(self) -> Any:
        pose = self._make(
            "geometry_msgs/msg/Pose",
            position=self._make("geometry_msgs/msg/Point", x=0.0, y=0.0, z=0.0),
            orientation=self._make("geometry_msgs/msg/Quaternion", x=0.0, y=0.0, z=0.0, w=1.0),
        )
        return self._make("geometry_msgs/msg/PoseWithCovariance", pose=pose, covariance=np.zeros(36))

    def _make(self, kind: str, **fields: Any) -> Any:
        return self._types.types[kind](**fields)
