# SPDX-License-Identifier: Apache-2.0
"""Scenes and detections as JSON, and back. `scene.schema.json` beside this file defines the format."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lfm_perception.errors import PerceptionError, shown
from lfm_perception.files import json_problem, typed
from lfm_perception.geometry import Box
from lfm_perception.scene import (
    AlertStatus,
    AttributeValue,
    CoordinateStd,
    Detection,
    Opinion,
    Scene,
    Track,
    Usage,
    Velocity,
    View,
)
from lfm_perception.stamps import from_seconds, join_stamp, split_stamp, to_seconds
from lfm_perception.text import safe_line

SCHEMA = Path(__file__).parent / "scene.schema.json"
VERSION = 1


MAX_NUMBER = 1e12
"""Largest magnitude of a number that is read: sums and squares of such numbers stay finite."""


def scene_to_json(scene: Scene, index: int | None = None) -> dict[str, Any]:
    """The scene by the schema, ready for `json.dumps`; `index` is the frame's number in its recording."""
    described_ns = scene.caption_stamp_ns
    sec, nanosec = split_stamp(scene.stamp_ns)
    return {
        "version": VERSION,
        **({} if index is None else {"index": index}),
        **({"file": scene.file} if scene.file else {}),
        "stamp": {"sec": sec, "nanosec": nanosec},
        "frame_id": scene.frame_id,
        "width": scene.width,
        "height": scene.height,
        "objects": [_object(track, scene) for track in scene.tracks],
        "detections": [detection_to_json(found, decimals=5) for found in scene.detections],
        "global_caption": scene.caption,
        "caption_age_s": None
        if described_ns is None
        else round(to_seconds(scene.stamp_ns - described_ns), 6),
        "truncated": scene.truncated,
        "over_latency_budget": scene.over_latency_budget,
        "rejects": dict(scene.rejects),
        **({"alerts": [_alert(each, scene.stamp_ns) for each in scene.alerts]} if scene.alerts else {}),
        **({"opinions": [_opinion(each, scene) for each in scene.opinions]} if scene.opinions else {}),
        "usage": {
            "detect": _usage(scene.usage),
            "caption": None if scene.caption_usage is None else _usage(scene.caption_usage),
        },
        **({} if scene.view is None else {"view": _view_to_json(scene.view)}),
    }


def scene_from_json(record: object) -> Scene:
    """The scene that `scene_to_json` wrote, up to its rounding.

    Raises PerceptionError when it is not one.
    """
    try:
        return _scene(typed(record, dict))
    except (KeyError, TypeError, ValueError) as error:
        raise PerceptionError(f"not a scene: {json_problem(error)}") from error


def _scene(record: Mapping[str, Any]) -> Scene:
    stamp, usage = typed(record["stamp"], dict), typed(record["usage"], dict)
    stamp_ns = join_stamp(typed(stamp["sec"], int), typed(stamp["nanosec"], int))
    caption, caption_age_s, caption_usage = (
        record["global_caption"],
        record["caption_age_s"],
        usage["caption"],
    )
    return Scene(
        stamp_ns=stamp_ns,
        frame_id=safe_line(typed(record["frame_id"], str)),
        width=typed(record["width"], int),
        height=typed(record["height"], int),
        detections=tuple(map(detection_from_json, typed(record["detections"], list))),
        tracks=tuple(map(_as_track, typed(record["objects"], list))),
        caption=None if caption is None else typed(caption, str),
        truncated=typed(record["truncated"], bool),
        over_latency_budget=typed(record["over_latency_budget"], bool),
        rejects=counts_from_json(record["rejects"]),
        usage=usage_from_json(usage["detect"]),
        caption_stamp_ns=None if caption_age_s is None else stamp_ns - from_seconds(_float(caption_age_s)),
        caption_usage=None if caption_usage is None else usage_from_json(caption_usage),
        file=safe_line(typed(record.get("file", ""), str)),
        view=_as_view(record["view"]) if "view" in record else None,
        alerts=tuple(_as_alert(entry, stamp_ns) for entry in typed(record.get("alerts", []), list)),
        attributes={
            track_id: values
            for track_id, values in (_as_attributes(entry, stamp_ns) for entry in record["objects"])
            if values
        },
        opinions=tuple(_as_opinion(entry, stamp_ns) for entry in typed(record.get("opinions", []), list)),
    )


def detection_to_json(detection: Detection, *, decimals: int | None = None) -> dict[str, Any]:
    """One entry of the schema's `detections`; numbers keep all digits unless `decimals` limits them."""
    std = detection.std
    return {
        "label": detection.label,
        "confidence": _rounded((detection.score,), decimals)[0],
        "bbox": _rounded(dataclasses.astuple(detection.box), decimals),
        "bbox_std": None if std is None else _rounded(std, decimals),
        "phrase": detection.phrase or None,
    }


def detection_from_json(entry: object) -> Detection:
    """The detection that `detection_to_json` wrote.

    Raises KeyError, TypeError or ValueError when the entry is not one.
    """
    fields = typed(entry, dict)
    std = fields["bbox_std"]
    return Detection(
        label=_label(fields["label"]),
        box=Box(*_numbers(fields["bbox"], 4)),
        score=score_from_json(fields["confidence"]),
        std=None if std is None else CoordinateStd(*map(abs, _numbers(std, 4))),
        phrase=safe_line(typed(fields.get("phrase") or "", str)),
    )


def usage_from_json(entry: object) -> Usage:
    """The usage that `dataclasses.asdict` gave; unknown keys are passed over, missing ones are 0.

    Raises TypeError or ValueError.
    """
    fields, kinds = typed(entry, dict), dataclasses.asdict(Usage())
    values = {key: typed(fields[key], type(zero)) for key, zero in kinds.items() if key in fields}
    if any(not 0 <= value <= MAX_NUMBER for value in values.values()):
        raise ValueError(f"expected counts and seconds from 0 to {MAX_NUMBER:g}, got {shown(fields)}")
    return Usage(**values)


def counts_from_json(entry: object) -> dict[str, int]:
    """Counts by name. Raises TypeError."""
    return {safe_line(name): typed(count, int) for name, count in typed(entry, dict).items()}


def _view_to_json(view: View) -> dict[str, Any]:
    return {
        "bbox": _rounded(dataclasses.astuple(view.region)),
        "picture_px": _rounded((view.width, view.height), 1),
        "min_object_size": view.min_size,
        "reason": view.reason,
    }


def _as_view(entry: object) -> View:
    fields = typed(entry, dict)
    width, height = _numbers(fields["picture_px"], 2)
    return View(
        region=Box(*_numbers(fields["bbox"], 4)),
        width=width,
        height=height,
        min_size=_float(fields["min_object_size"]),
        reason=safe_line(typed(fields["reason"], str)),
    )


def _as_track(entry: object) -> Track:
    fields = typed(entry, dict)
    return Track(
        track_id=typed(fields["track_id"], int),
        label=_label(fields["label"]),
        box=Box(*_numbers(fields["bbox"], 4)),
        score=score_from_json(fields["confidence"]),
        velocity=Velocity(*_numbers(fields["velocity"], 2)),
        age_s=_float(fields["age_s"]),
        time_since_update_s=_float(fields["time_since_update_s"]),
        velocity_std=Velocity(*_numbers(fields["velocity_std"], 2)),
        distance=_float(fields["distance_m"]) if "distance_m" in fields else None,
    )


def _alert(status: AlertStatus, stamp_ns: int) -> dict[str, Any]:
    return {
        "name": status.name,
        "value": status.value,
        "probabilities": {text: round(share, 5) for text, share in status.probabilities.items()},
        "probability": round(status.probability, 5),
        "active": status.active,
        "age_s": round(to_seconds(stamp_ns - status.stamp_ns), 6),
        **({} if status.track_id is None else {"track_id": status.track_id}),
    }


def _as_alert(entry: object, stamp_ns: int) -> AlertStatus:
    fields = typed(entry, dict)
    return AlertStatus(
        name=safe_line(typed(fields["name"], str)),
        probabilities=_shares(fields["probabilities"]),
        probability=score_from_json(fields["probability"]),
        active=typed(fields["active"], bool),
        stamp_ns=stamp_ns - from_seconds(_float(fields["age_s"])),
        track_id=typed(fields["track_id"], int) if "track_id" in fields else None,
    )


def _opinion(opinion: Opinion, scene: Scene) -> dict[str, Any]:
    confidence = opinion.confidence
    return {
        "track_id": opinion.track_id,
        "question": opinion.question,
        "answer": opinion.answer,
        "source": opinion.source,
        "confidence": None if confidence is None else round(confidence, 5),
        "age_s": round(to_seconds(scene.stamp_ns - opinion.stamp_ns), 6),
        "latency_s": round(opinion.latency_s, 6),
    }


def _as_opinion(entry: object, stamp_ns: int) -> Opinion:
    fields = typed(entry, dict)
    confidence = fields["confidence"]
    return Opinion(
        track_id=typed(fields["track_id"], int),
        question=typed(fields["question"], str),
        answer=typed(fields["answer"], str),
        source=typed(fields["source"], str),
        stamp_ns=stamp_ns - from_seconds(_float(fields["age_s"])),
        confidence=None if confidence is None else score_from_json(confidence),
        latency_s=_float(fields["latency_s"]),
    )


def _shares(entry: object) -> dict[str, float]:
    shares = {safe_line(text): score_from_json(share) for text, share in typed(entry, dict).items()}
    if not shares:
        raise ValueError("expected the probability of an answer, got none")
    return shares


def _label(value: object) -> str:
    if not (label := safe_line(typed(value, str))):
        raise ValueError("expected a label, got blank text")
    return label


def score_from_json(value: object) -> float:
    """A confidence or probability from 0 to 1. Raises ValueError for any other value."""
    score = _float(value)
    if not 0.0 <= score <= 1.0:
        raise ValueError(f"expected a confidence from 0 to 1, got {score:g}")
    return score


def _float(value: object) -> float:
    number = typed(value, float)
    if abs(number) > MAX_NUMBER:
        raise ValueError(f"expected a number up to {MAX_NUMBER:g}, got {number:g}")
    return number


def _numbers(value: object, count: int) -> list[float]:
    numbers = [_float(number) for number in typed(value, list)]
    if len(numbers) != count:
        raise ValueError(f"expected {count} numbers, got {shown(value)}")
    return numbers


def _object(track: Track, scene: Scene) -> dict[str, Any]:
    width, height, known = scene.width, scene.height, scene.attributes.get(track.track_id)
    attributes = {name: _attribute(value, scene.stamp_ns) for name, value in (known or {}).items()}
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
        **({} if track.distance is None else {"distance_m": round(track.distance, 3)}),
        **({"attributes": attributes} if attributes else {}),
    }


def _attribute(value: AttributeValue, stamp_ns: int) -> dict[str, Any]:
    return {
        "value": value.value,
        "probability": round(value.probability, 5),
        "age_s": round(to_seconds(stamp_ns - value.stamp_ns), 6),
    }


def _as_attributes(entry: object, stamp_ns: int) -> tuple[int, dict[str, AttributeValue]]:
    """The attributes of an object, by its track id."""
    fields = typed(entry, dict)
    values = {
        safe_line(name): AttributeValue(
            value=safe_line(typed(value["value"], str)),
            probability=score_from_json(value["probability"]),
            stamp_ns=stamp_ns - from_seconds(_float(value["age_s"])),
        )
        for name, value in typed(fields.get("attributes", {}), dict).items()
    }
    return typed(fields["track_id"], int), values


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        key: round(value, 6) if isinstance(value, float) else value
        for key, value in dataclasses.asdict(usage).items()
    }


def _rounded(numbers: tuple[float, ...], decimals: int | None = 5) -> list[float]:
    return [*numbers] if decimals is None else [round(number, decimals) for number in numbers]
