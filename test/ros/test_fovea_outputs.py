# SPDX-License-Identifier: Apache-2.0
"""The view of an inference in the scene's JSON, on the overlay, in the statistics and in the diagnostics."""

from __future__ import annotations

import json

import jsonschema
import numpy as np
import pytest

from lfm_perception.board import BoardState
from lfm_perception.errors import PerceptionError
from lfm_perception.geometry import WHOLE, Box
from lfm_perception.live.statistics import StatisticsRecorder
from lfm_perception.media import overlay
from lfm_perception.planning.thermal import DegradationLevel
from lfm_perception.ros.diagnostics import NodeStatus, part_statuses
from lfm_perception.scene import Frame, Scene, Usage, View
from lfm_perception.scene_json import SCHEMA, scene_from_json, scene_to_json
from lfm_perception.settings import NodeSettings
from lfm_perception.vlm import Health

REGION = View(Box(0.5, 0.25, 1.0, 0.75), 640.0, 384.0, 14.0, "small objects")
WHOLE_FRAME = View(WHOLE, 320.0, 192.0, 14.0, "whole frame")


def scene(view: View | None) -> Scene:
    return Scene(0, "camera", 640, 360, (), (), None, False, {}, Usage(), view=view)


@pytest.mark.parametrize("view", [REGION, WHOLE_FRAME, None])
def test_a_view_is_written_by_the_schema_and_read_back(view: View | None) -> None:
    record = json.loads(json.dumps(scene_to_json(scene(view))))
    jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text())).validate(record)
    assert ("view" in record) == (view is not None)
    assert scene_from_json(record).view == view


@pytest.mark.parametrize("broken", [None, {}, {"bbox": [0, 0, 2, 2], "picture_px": [1, 1], "reason": ""}])
def test_a_view_that_is_none_is_refused(broken: object) -> None:
    record = {**scene_to_json(scene(REGION)), "view": broken}
    with pytest.raises(PerceptionError, match="not a scene"):
        scene_from_json(record)


def test_the_overlay_marks_the_corners_of_a_region() -> None:
    frame = Frame(np.zeros((360, 640, 3), np.uint8), 0)

    def drawn(view: View | None) -> np.ndarray:
        shown = overlay.View(frame, 0.0, (), scene(view), 0.1)
        return overlay.Overlay(640, 360, panel="").draw(shown)

    plain = drawn(None)
    assert np.array_equal(drawn(WHOLE_FRAME), plain)
    rows, columns = np.nonzero((drawn(REGION) != plain).any(axis=2))
    assert (columns.min(), columns.max()) == pytest.approx((320, 639), abs=2)
    assert (rows.min(), rows.max()) == pytest.approx((90, 269), abs=2)
    assert not (drawn(REGION) != plain)[140:220, 400:560].any()


def test_statistics_and_diagnostics_tell_of_the_last_view() -> None:
    def values(*views: View | None) -> dict[str, object]:
        recorder = StatisticsRecorder()
        for view in views:
            recorder.record_inference(scene(view), 0.1, 0.0)
        live = recorder.snapshot(True, DegradationLevel.NONE, 0)
        now = NodeStatus(True, "image_raw", "m", 0, 0.0, "", live, Health(), BoardState())
        model = next(part for part in part_statuses(now, None, NodeSettings()) if part.part == "model")
        return dict(model.values)

    assert "view" not in values(None)
    told = values(WHOLE_FRAME, REGION)
    assert told["view"] == "small objects: x 0.50 to 1.00, y 0.25 to 0.75"
    assert told["regions inferred"] == 1
