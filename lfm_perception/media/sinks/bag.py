# SPDX-License-Identifier: Apache-2.0
"""Sink of a rosbag2 (mcap): detections, tracks, caption, scene and overlay, each with its own type."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.rosbag2 import StoragePlugin, Writer

from lfm_perception.media import images
from lfm_perception.media.bags import BOXES_TYPE, typestore
from lfm_perception.media.sinks.base import AnnotatedFrame, Sink
from lfm_perception.scene import Detection, Frame, Track
from lfm_perception.scene_json import scene_to_json
from lfm_perception.stamps import split_stamp

BAG = "perception_bag"
TOPICS = {
    "detections": BOXES_TYPE,
    "tracks": BOXES_TYPE,
    "caption": "std_msgs/msg/String",
    "scene": "std_msgs/msg/String",
    "overlay/compressed": "sensor_msgs/msg/CompressedImage",
}


class BagSink(Sink, file=BAG, optional=True):
    """A bag; boxes are in pixels of the frame, messages are logged at the stamp of their frame."""

    def __init__(self, path: Path, rate: float) -> None:
        super().__init__(path, rate)
        self._types = typestore()
        # Version 8 of the metadata, the older of the two on offer, is read by more distributions.
        self._writer = Writer(path, version=8, storage_plugin=StoragePlugin.MCAP)
        self._writer.open()
        self._connections = {
            topic: self._writer.add_connection(f"/{topic}", kind, typestore=self._types)
            for topic, kind in TOPICS.items()
        }

    def write(self, annotated: AnnotatedFrame) -> None:
        frame, scene = annotated.frame, annotated.scene
        if scene is not None:
            self._write_boxes("detections", frame, scene.detections)
            record = scene_to_json(scene, annotated.index)
            self._write("scene", frame, data=json.dumps(record, ensure_ascii=False, allow_nan=False))
            if scene.caption_usage is not None:
                self._write("caption", frame, data=scene.caption or "")
        self._write_boxes("tracks", frame, annotated.tracks)
        jpeg = np.frombuffer(images.encode(annotated.image, ".jpg"), np.uint8)
        self._write("overlay/compressed", frame, header=self._header(frame), format="jpeg", data=jpeg)

    def finish(self, summary: Mapping[str, Any]) -> None:
        self._writer.close()

    def abort(self) -> None:
        self._writer.abort()

    def _write_boxes(self, topic: str, frame: Frame, items: Sequence[Detection | Track]) -> None:
        header = self._header(frame)
        boxes = [self._detection(header, item, frame.width, frame.height) for item in items]
        self._write(topic, frame, header=header, detections=boxes)

    def _write(self, topic: str, frame: Frame, **fields: Any) -> None:
        kind = TOPICS[topic]
        raw = self._types.serialize_cdr(self._make(kind, **fields), kind)
        self._writer.write(
            self._connections[topic], max(frame.stamp_ns, 0), raw
        )  # the log has no time before 1970

    def _header(self, frame: Frame) -> Any:
        # a header stamp of 0 means that there is none; the first frame of a video or the demo world has it
        sec, nanosec = split_stamp(frame.stamp_ns or 1)
        stamp = self._make("builtin_interfaces/msg/Time", sec=sec, nanosec=nanosec)
        return self._make("std_msgs/msg/Header", stamp=stamp, frame_id=frame.frame_id)

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
