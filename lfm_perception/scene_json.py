"""Scenes and detections as JSON, and back. `scene.schema.json` beside this file defines the format."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lfm_perception.geometry import Box
from lfm_perception.scene import CoordinateStd, Detection, Scene, Track, Usage, Velocity
from lfm_perception.stamps import from_seconds, join_stamp, split_stamp, to_seconds

SCHEMA = Path(__file__).parent / "scene.schema.json"
VERSION = 1


def scene_to_json(scene: Scene, index: int | None = None) -> dict[str, Any]:
    """The scene by the schema, ready for `json.dumps`; `index` is the frame's number in its recording."""
    described_ns = scene.caption_stamp_ns
    sec, nanosec = split_stamp(scene.stamp_ns)
    return {
        "version": VERSION,
        **({} if index is None else {"index": index}),
        "stamp": {"sec": sec, "nanosec": nanosec},
        "frame_id": scene.frame_id,
        "width": scene.width,
        "height": scene.height,
        "objects": [_object(track, scene.width, scene.height) for track in scene.tracks],
        "detections": [detection_to_json(found, decimals=5) for found in scene.detections],
        "global_caption": scene.caption,
        "caption_age_s": None
        if described_ns is None
        else round(to_seconds(scene.stamp_ns - described_ns), 6),
        "truncated": scene.truncated,
        "over_latency_budget": scene.over_latency_budget,
        "rejects": dict(scene.rejects),
        "usage": {
            "detect": _usage(scene.usage),
            "caption": None if scene.caption_usage is None else _usage(scene.caption_usage),
        },
    }


def scene_from_json(record: Mapping[str, Any]) -> Scene:
    """The scene that `scene_to_json` wrote, up to its rounding."""
    stamp_ns = join_stamp(record["stamp"]["sec"], record["stamp"]["nanosec"])
    caption_age_s = record["caption_age_s"]
    caption_usage = record["usage"]["caption"]
    return Scene(
        stamp_ns=stamp_ns,
        frame_id=record["frame_id"],
        width=record["width"],
        height=record["height"],
        detections=tuple(map(detection_from_json, record["detections"])),
        tracks=tuple(_as_track(entry) for entry in record["objects"]),
        caption=record["global_caption"],
        truncated=record["truncated"],
        over_latency_budget=record["over_latency_budget"],
        rejects=record["rejects"],
        usage=Usage(**record["usage"]["detect"]),
        caption_stamp_ns=None if caption_age_s is None else stamp_ns - from_seconds(caption_age_s),
        caption_usage=None if caption_usage is None else Usage(**caption_usage),
    )


def detection_to_json(detection: Detection, *, decimals: int | None = None) -> dict[str, Any]:
    """One entry of the schema's `detections`; numbers keep all digits unless `decimals` limits them."""
    std = detection.std
    return {
        "label": detection.label,
        "confidence": _rounded((detection.score,), decimals)[0],
        "bbox": _rounded(dataclasses.astuple(detection.box), decimals),
        "bbox_std": None if std is None else _rounded(dataclasses.astuple(std), decimals),
    }


def detection_from_json(entry: Mapping[str, Any]) -> Detection:
    """The detection that `detection_to_json` wrote.

    Raises KeyError, TypeError, ValueError or PerceptionError when the entry is not one.
    """
    std = entry["bbox_std"]
    return Detection(
        label=str(entry["label"]),
        box=Box(*map(float, entry["bbox"])),
        score=float(entry["confidence"]),
        std=None if std is None else CoordinateStd(*map(float, std)),
    )


def _as_track(entry: Mapping[str, Any]) -> Track:
    return Track(
        track_id=entry["track_id"],
        label=entry["label"],
        box=Box(*entry["bbox"]),
        score=entry["confidence"],
        velocity=Velocity(*entry["velocity"]),
        age_s=entry["age_s"],
        time_since_update_s=entry["time_since_update_s"],
        velocity_std=Velocity(*entry["velocity_std"]),
    )


def _object(track: Track, width: int, height: int) -> dict[str, Any]:
    return {
        "track_id": track.track_id,
        "label": track.label,
        "confidence": round(track.score, 5),
        "bbox": _rounded(dataclasses.astuple(track.box)),
        "velocity": _rounded(track.velocity),
        "velocity_std": _rounded(track.velocity_std),
        "velocity_px": _rounded(track.velocity.in_pixels(width, height), 1),
        "velocity_std_px": _rounded(track.velocity_std.in_pixels(width, height), 1),
        "age_s": round(track.age_s, 6),
        "time_since_update_s": round(track.time_since_update_s, 6),
    }


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        key: round(value, 6) if isinstance(value, float) else value
        for key, value in dataclasses.asdict(usage).items()
    }


def _rounded(numbers: tuple[float, ...], decimals: int | None = 5) -> list[float]:
    return [*numbers] if decimals is None else [round(number, decimals) for number in numbers]
