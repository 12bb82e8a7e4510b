"""A scene as JSON. The format is `lfm_perception/scene.schema.json`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lfm_perception.scene import Detection, Scene, Track, Usage

SCHEMA = Path(__file__).parent.parent / "scene.schema.json"
VERSION = 1


def as_json(scene: Scene, index: int | None = None) -> Mapping[str, Any]:
    """The scene as the schema has it, ready for `json.dumps`; `index` is the frame's in its recording."""
    described_ns = scene.caption_stamp_ns
    return {
        "version": VERSION,
        **({} if index is None else {"index": index}),
        "stamp": {"sec": scene.stamp_ns // 10**9, "nanosec": scene.stamp_ns % 10**9},
        "frame_id": scene.frame_id,
        "width": scene.width,
        "height": scene.height,
        "objects": [_object(track) for track in scene.tracks],
        "detections": [_detection(detection) for detection in scene.detections],
        "global_caption": scene.caption,
        "caption_age_s": None if described_ns is None else round((scene.stamp_ns - described_ns) / 1e9, 6),
        "truncated": scene.truncated,
        "rejects": dict(scene.rejects),
        "usage": {
            "detect": _usage(scene.usage),
            "caption": None if scene.caption_usage is None else _usage(scene.caption_usage),
        },
    }


def _object(track: Track) -> dict[str, Any]:
    return {
        "track_id": track.track_id,
        "label": track.label,
        "confidence": round(track.score, 5),
        "bbox": _rounded(dataclasses.astuple(track.box)),
        "velocity": _rounded((track.velocity.x, track.velocity.y)),
        "age_s": round(track.age_s, 6),
        "unseen_s": round(track.unseen_s, 6),
    }


def _detection(detection: Detection) -> dict[str, Any]:
    std = detection.std
    return {
        "label": detection.label,
        "confidence": round(detection.score, 5),
        "bbox": _rounded(dataclasses.astuple(detection.box)),
        "bbox_std": None if std is None else _rounded(dataclasses.astuple(std)),
    }


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        key: round(value, 6) if isinstance(value, float) else value
        for key, value in dataclasses.asdict(usage).items()
    }


def _rounded(numbers: tuple[float, ...]) -> list[float]:
    return [round(number, 5) for number in numbers]
