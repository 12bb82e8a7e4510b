# SPDX-License-Identifier: Apache-2.0
"""Attributes of tracks: what is accepted, when they are asked, and where their values go."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lfm_perception.attributes import Attribute, attributes
from lfm_perception.backends.llama_vlm import LlamaVlm
from lfm_perception.demo.world import World
from lfm_perception.errors import PerceptionError
from lfm_perception.geometry import Box
from lfm_perception.perception import Perception
from lfm_perception.planning.attribute_schedule import AttributeSchedule, surroundings
from lfm_perception.scene import ZERO_VELOCITY, AttributeValue, Frame, Track
from lfm_perception.scene_json import scene_from_json, scene_to_json
from lfm_perception.settings import Settings
from lfm_perception.stamps import from_seconds
from lfm_perception.tracking import open_tracker

HELMET = Attribute("helmet", ("yes", "no"), ("person",))
PERSON = Track(7, "person", Box(0.2, 0.2, 0.4, 0.8), 0.9, ZERO_VELOCITY, 1.0, 0.0)


def frame(seconds: float, gray: int = 90) -> Frame:
    return Frame(np.full((100, 100, 3), gray, np.uint8), from_seconds(seconds))


def test_an_entry_is_a_mapping_in_yaml_or_json() -> None:
    assert Attribute.from_text("{name: helmet, values: [yes, no], labels: [person]}") == HELMET
    assert HELMET.question("person").text == "Is the person wearing a helmet?"
    colour = Attribute.from_text('{"name": "colour", "values": ["red", "blue"], "period": 3}')
    assert colour.question("box").text == "What is the colour of the box?"
    assert (colour.question("box").answers, colour.period_s) == (("red", "blue"), 3.0)
    door = Attribute.from_text(
        '{name: state, values: [open, shut], question: "Is the {label} open or shut?"}'
    )
    assert door.question("door").text == "Is the door open or shut?"


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ("helmet", "is a mapping with 'name' and 'values'"),
        ("{name: Helmet, values: [yes, no]}", "lower-case letters"),
        ("{name: helmet}", "2 to 100 options, got 0"),
        ("{name: helmet, values: [a]}", "2 to 100 options, got 1"),
        ("{name: helmet, values: [a, a]}", "more than once"),
        ("{name: helmet, values: [a, 1]}", "must be a list of texts"),
        ("{name: helmet, values: a}", "must be a list"),
        ("{name: helmet, values: [a, b], period: -1}", "'period' must be a number"),
        ("{name: helmet, values: [a, b], question: 5}", "'question' must be text"),
        ("{name: helmet, values: [a, b], question: <|im_end|>}", "special token"),
        ("{name: helmet, values: [a, b], every: 5}", "has no 'every'"),
        ("{name: helmet, values: [a, b], labels: [persn]}", "did you mean 'person'"),
        ("{name: helmet, values: [", "not valid YAML"),
    ],
)
def test_an_entry_that_cannot_be_asked_is_one_sentence(entry: str, reason: str) -> None:
    with pytest.raises(PerceptionError, match=reason) as caught:
        Settings().with_values({"detect.attributes": (entry,)})
    assert len(str(caught.value)) < 300


def test_names_are_unique_and_few() -> None:
    with pytest.raises(PerceptionError, match="more than once"):
        attributes(["{name: a, values: [b, c]}"] * 2)
    with pytest.raises(PerceptionError, match="more than 16"):
        attributes([f"{{name: a{number}, values: [b, c]}}" for number in range(17)])


def test_a_value_is_asked_again_after_its_period_or_when_the_crop_changed() -> None:
    schedule = AttributeSchedule()
    schedule.reconfigure([replace(HELMET, period_s=5.0)])
    box = PERSON._replace(track_id=8, label="box")

    def asked(seconds: float, gray: int = 90, track: Track = PERSON) -> bool:
        shown = frame(seconds, gray)
        shown.image[40:60, 22:38] = 255 - gray
        found = list(schedule.due(shown, [track, box]))
        for one, attribute, region in found:
            assert (one.track_id, attribute.name, region) == (7, "helmet", surroundings(PERSON.box))
            value = AttributeValue("yes", 0.9, shown.stamp_ns)
            schedule.record(shown, one, attribute, region, value)
        return bool(found)

    assert asked(0.0)
    assert not asked(1.0)
    assert asked(1.5, gray=255)
    assert not asked(6.0, gray=255)
    assert asked(6.5, gray=255)
    assert not asked(20.0, track=PERSON._replace(time_since_update_s=0.5))  # not detected in this frame
    assert not asked(20.0, track=PERSON._replace(box=Box(0.2, 0.2, 0.3, 0.3)))  # 10 pixels
    assert schedule.values([PERSON])[7]["helmet"].stamp_ns == from_seconds(6.5)
    assert asked(100.0)  # forgotten meanwhile
    schedule.reset()
    assert not schedule.values([PERSON])


def test_crops_stay_within_the_frame() -> None:
    assert surroundings(Box(0.0, 0.5, 0.2, 1.0)) == Box(0.0, 0.375, 0.25, 1.0)


def test_scenes_carry_attributes_and_detection_is_unchanged(vlm: LlamaVlm) -> None:
    plain = Settings().with_values(
        {"caption.enabled": False, "sampling.temperature": 0.0, "tracker.min_hits": 1, "budget.tokens": 512}
    )
    entry = "{name: colour, values: [brown, blue, grey]}"
    asking = plain.with_values({"detect.attributes": [entry], "questions.duty_cycle": 1.0})
    frames = [World(seed=4, width=512, height=512).snapshot(index).frame for index in range(3)]
    scenes = []
    for settings in (plain, asking):
        perception = Perception(settings, vlm, open_tracker(settings.tracker))
        scenes.append([perception.infer(frame) for frame in frames])
        assert not perception.question_problem
    for before, after in zip(*scenes, strict=True):
        assert (before.text, before.tracks) == (after.text, after.tracks)
        assert after.attributes
        assert not before.attributes
        for values in after.attributes.values():
            assert values["colour"].value in ("brown", "blue", "grey")
            assert 1 / 3 <= values["colour"].probability <= 1.0
        read = scene_from_json(scene_to_json(after))
        assert {key: set(values) for key, values in read.attributes.items()} == {
            key: {"colour"} for key in after.attributes
        }
