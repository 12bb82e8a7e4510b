# SPDX-License-Identifier: Apache-2.0
"""Standing questions about tracks: asked on their crops, with one alert for all."""

from __future__ import annotations

import json
from dataclasses import replace

import jsonschema
import numpy as np
import pytest

from lfm_perception.backends.llama_vlm import LlamaVlm
from lfm_perception.demo.world import World
from lfm_perception.errors import PerceptionError
from lfm_perception.perception import Perception
from lfm_perception.planning.question_schedule import QuestionSchedule
from lfm_perception.scene_json import SCHEMA, scene_from_json, scene_to_json
from lfm_perception.settings import Settings
from lfm_perception.stamps import from_seconds
from lfm_perception.standing_questions import StandingQuestion
from lfm_perception.tracking import open_tracker
from lfm_perception.typed_questions import TypedQuestion

HELMET = StandingQuestion.from_text(
    '{name: helmet, question: "Does the {label} wear a helmet?", about: person, answer: no, threshold: 0.7}'
)


def test_a_question_about_a_label_is_an_attribute_of_its_tracks() -> None:
    attribute = HELMET.attribute
    assert attribute is not None
    assert (attribute.values, attribute.labels) == (("yes", "no"), ("person",))
    assert attribute.question("person").text == "Does the person wear a helmet?"
    every = replace(HELMET, about="track").attribute
    assert every is not None
    assert every.applies_to("cone")
    assert StandingQuestion.from_text("{name: door, question: Open}").attribute is None


def test_the_likeliest_track_decides_and_an_alert_without_tracks_is_off() -> None:
    schedule = QuestionSchedule()
    schedule.reconfigure([HELMET], duty_cycle=1.0)
    assert schedule.due(0.0) is None  # it is no question about the frame
    schedule.update_tracks({1, 2}, 0)
    assert not schedule.statuses

    def status(stamp_s: float, shown: set[int], **answers: float) -> tuple[float, bool, int | None]:
        for track, bare in answers.items():
            shares = {"yes": 1.0 - bare, "no": bare}
            schedule.record_track("helmet", int(track[1:]), shares, from_seconds(stamp_s))
        schedule.record_track("colour", 1, {"red": 1.0}, from_seconds(stamp_s))  # another attribute
        schedule.update_tracks(shown, from_seconds(stamp_s))
        (found,) = schedule.statuses
        return round(found.probability, 3), found.active, found.track_id

    assert status(0.0, {1, 2}, t1=0.2, t2=0.4) == (0.4, False, 2)
    assert status(1.0, {1, 2}, t1=0.9) == (0.9, True, 1)
    assert status(2.0, {1, 2}) == (0.9, True, 1)
    assert schedule.statuses[0].stamp_ns == from_seconds(1.0)
    assert status(3.0, {2}) == (0.4, False, 2)
    assert status(4.0, {2}, t2=0.8) == (0.8, True, 2)
    assert status(5.0, set()) == (0.0, False, 2)


@pytest.mark.parametrize("options", [["brown", "blue"], ["Yes", "No"]], ids=lambda options: options[0])
def test_scenes_carry_the_alert_the_track_and_its_attribute(vlm: LlamaVlm, options: list[str]) -> None:
    entry = {"name": "colour", "question": "What colour?", "options": options, "answer": options[1]}
    values = {
        "caption.enabled": False, "sampling.temperature": 0.0, "tracker.min_hits": 1,
        "questions.duty_cycle": 1.0, "questions.standing": [json.dumps({**entry, "about": "track"})],
    }  # fmt: skip
    settings = Settings().with_values(values)
    perception = Perception(settings, vlm, open_tracker(settings.tracker))
    scene = perception.infer(World(seed=4, width=512, height=512).snapshot(0).frame)
    (status,) = scene.alerts
    assert status.track_id in {track.track_id for track in scene.tracks}
    assert status.track_id is not None
    assert sum(status.probabilities.values()) == pytest.approx(1.0)
    assert scene.attributes[status.track_id]["colour"].value == status.value
    assert set(status.probabilities) == set(options)
    record = json.loads(json.dumps(scene_to_json(scene)))
    jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text())).validate(record)
    assert scene_from_json(record).alerts[0].track_id == status.track_id


def test_an_attribute_and_an_alert_have_names_of_their_own() -> None:
    with pytest.raises(PerceptionError, match=r"'helmet': detect\.attributes has this name too"):
        Settings().with_values(
            {
                "detect.attributes": ["{name: helmet, values: [yes, no]}"],
                "questions.standing": ["{name: helmet, question: Helmet, about: person}"],
            }
        )


def test_a_question_may_be_about_one_track(vlm: LlamaVlm) -> None:
    settings = Settings().with_values({"caption.enabled": False, "tracker.min_hits": 1})
    perception = Perception(settings, vlm, open_tracker(settings.tracker))
    frame = World(seed=4, width=512, height=512).snapshot(0).frame
    track = perception.infer(frame).tracks[0]
    asked = TypedQuestion("What colour is it?", "choice", ("brown", "blue"), track=track.track_id)
    assert TypedQuestion.from_json(asked.to_json()) == asked
    about_track = perception.answer(frame, asked)
    whole = perception.answer(frame, replace(asked, track=None))
    assert (about_track.track_id, whole.track_id) == (track.track_id, None)
    assert about_track.to_json()["track"] == track.track_id
    assert "track" not in whole.to_json()
    assert about_track.usage.image_tokens < whole.usage.image_tokens
    assert about_track.probabilities != whole.probabilities
    tiny = replace(frame, image=np.ascontiguousarray(frame.image[::64, ::64]))
    with pytest.raises(PerceptionError, match="too few to ask about"):
        perception.answer(tiny, asked)
    words = TypedQuestion("What is it?", track=track.track_id)
    assert TypedQuestion.from_json(words.to_json()) == words
    assert perception.answer(frame, words).track_id == track.track_id


def test_a_track_that_is_not_there_is_named_and_no_alert_is_about_one(vlm: LlamaVlm) -> None:
    settings = Settings()
    perception = Perception(settings, vlm, open_tracker(settings.tracker))
    frame = World(seed=4, width=256, height=256).snapshot(0).frame
    with pytest.raises(PerceptionError, match="there is no track 7 now, only: none"):
        perception.answer(frame, TypedQuestion("Open?", "yes_no", track=7))
    with pytest.raises(PerceptionError, match="'track' of a question must be a whole number, got true"):
        TypedQuestion.from_json('{"question": "Open?", "track": true}')
    with pytest.raises(PerceptionError, match="a track ends, so name none"):
        StandingQuestion.from_text("{name: door, question: Open, track: 7}")
