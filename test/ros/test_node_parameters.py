# SPDX-License-Identifier: Apache-2.0
"""Parameters and services of a running node."""

from __future__ import annotations

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed")

from robot import Camera, Robot, labels, robot, track_ids  # isort: split - chooses how messages travel
from std_srvs.srv import SetBool, Trigger

from lfm_perception.ros import messages
from lfm_perception.settings import parameter_specs


def test_every_setting_is_a_parameter_with_words_and_range(running: Robot) -> None:
    specs = parameter_specs()
    for spec, described in zip(specs.values(), running.described([*specs]), strict=True):
        assert described.description == spec.description
        assert described.additional_constraints.startswith(spec.allowed)
        for limits in (*described.integer_range, *described.floating_point_range):
            assert (limits.from_value, limits.to_value) == (spec.minimum, spec.maximum)


def test_labels_change_while_it_runs(running: Robot) -> None:
    camera = Camera()
    seen = labels(running.show(camera.next()))
    chosen = seen[0]
    assert set(seen) != {chosen}
    before = running.get("detect.labels")
    assert running.set(detect__labels=[chosen]).successful
    assert set(labels(running.show(camera.next()))) == {chosen}
    assert running.set(detect__labels=list(before)).successful


def test_a_change_that_cannot_be_is_refused_with_the_reason(running: Robot) -> None:
    refused: dict[str, dict[str, object]] = {
        "engine.n_ctx cannot change now, the model is loaded with it": {"engine__n_ctx": 2048},
        "detect.min_score out of range Min: 0.0, Max: 1.0, value: 3.0": {"detect__min_score": 3.0},
        "image.min_tokens 999 is above image.max_tokens": {"image__min_tokens": 999},
        "caption.prompt must not hold the special token": {"caption__prompt": "<|im_end|>"},
    }
    for reason, values in refused.items():
        before = {name: running.get(name.replace("__", ".")) for name in values}
        result = running.set(**values)
        assert not result.successful
        assert reason in result.reason
        assert {name: running.get(name.replace("__", ".")) for name in values} == before


def test_a_whole_number_does_for_a_number_and_several_change_together(running: Robot) -> None:
    assert running.set(detect__min_score=0).successful
    assert running.set(image__min_tokens=40, image__max_tokens=80).successful
    assert running.set(image__min_tokens=32, image__max_tokens=64).successful


def test_switched_off_it_counts_frames_and_goes_on_when_switched_on(running: Robot) -> None:
    camera = Camera()
    running.show(camera.next())
    assert running.call(SetBool, "perception/enable", SetBool.Request(data=False)).success
    gated = running.counted("camera", "frames skipped")
    frame = camera.next()
    running.send(messages.image(frame.image, messages.header(frame.stamp_ns, "front")))
    running.wait(lambda: running.counted("camera", "frames skipped") > gated, "the gate")
    assert running.newest("detections", frame.stamp_ns) is None
    assert running.call(SetBool, "perception/enable", SetBool.Request(data=True)).success
    assert running.show(camera.next()).detections


def test_reset_forgets_the_tracks(running: Robot) -> None:
    camera = Camera()
    before, after = camera.next(), camera.next()
    running.show(before)
    assert running.call(Trigger, "perception/reset", Trigger.Request()).success
    running.show(after)
    assert track_ids(running, before)
    assert not set(track_ids(running, before)) & set(track_ids(running, after))


def test_services_of_a_node_that_is_not_configured_say_so() -> None:
    with robot() as started:
        answer = started.call(Trigger, "perception/reset", Trigger.Request())
        assert not answer.success
        assert answer.message == "the node is not configured"
