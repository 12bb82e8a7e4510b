# SPDX-License-Identifier: Apache-2.0
"""Servers that refuse parts of a request, answer in other shapes, or give the API key away."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from openai_server import BOX, GOOD, PATIENCE_S, PLAN, Handler, chosen, client, completion, say, serving

from lfm_perception.backends.openai import OpenaiVlm
from lfm_perception.backends.openai_fields import MAX_BARE_FAILURES, OPTIONAL
from lfm_perception.backends.openai_transport import Endpoint, ServerError
from lfm_perception.demo.world import World
from lfm_perception.errors import PerceptionError
from lfm_perception.image_plan import ImagePlan
from lfm_perception.perception import Perception
from lfm_perception.questions import BBOX, CAPTION, FramePlan, ask, detect
from lfm_perception.scene import Frame
from lfm_perception.tracking import open_tracker

FRAME = World(seed=1, width=256, height=256).snapshot(0).frame
FIND = detect(BBOX, ["box"])
REQUIRED = {"model", "messages", "max_tokens"}
SENT = [name for name in OPTIONAL if name != "top_k"]
KEY = "sk-SECRET-0123456789"

Refusal = Callable[[list[str]], tuple[int, Any]]

REFUSALS: dict[str, Refusal] = {
    "pydantic": lambda names: (
        422,
        {
            "detail": [
                {"type": "extra_forbidden", "loc": ["body", n], "msg": "Extra inputs are not permitted"}
                for n in names
            ]
        },
    ),
    "the first one": lambda names: (400, {"error": {"message": f"unknown field: {names[0]}"}}),
    "param": lambda names: (400, {"error": {"message": "Unrecognized argument", "param": names[0]}}),
    "an exception": lambda names: (500, {"error": {"message": f"'{names[0]}' is not supported here"}}),
    "no name": lambda names: (422, {"error": {"message": "bad request"}}),
}


def refusing(names: set[str], refusal: Refusal, known: set[str] | None = None) -> Callable[[Handler], None]:
    """A server that refuses fields: those named, or all but those known."""

    def reply(handler: Handler) -> None:
        body = handler.server.requests[-1][2]
        refused = sorted(set(body) & names if known is None else set(body) - known)
        if refused:
            status, content = refusal(refused)
            say(status, json.dumps(content).encode())(handler)
        else:
            GOOD(handler)

    return reply


@pytest.mark.parametrize("refusal", REFUSALS)
def test_a_server_that_knows_no_optional_field_answers_every_frame(refusal: str) -> None:
    told: list[str] = []
    with (
        serving(refusing(set(), REFUSALS[refusal], REQUIRED)) as server,
        closing(OpenaiVlm(chosen(server.url, openai__timeout=5.0), told.append)) as vlm,
    ):
        plan = FramePlan(ImagePlan(256, 256), 200)
        for _ in range(3):
            assert vlm.describe(FRAME, FIND, plan).detections
        assert set(server.requests[-1][2]) == REQUIRED
        first = len(server.requests)
        assert vlm.describe(FRAME, FIND, plan).detections
        assert len(server.requests) == first + 1, "what was refused is remembered"
    assert any("the server refuses" in sentence and "min_p" in sentence for sentence in told)


@pytest.mark.parametrize("refusal", REFUSALS)
@pytest.mark.parametrize("name", [*SENT, "response_format"])
def test_a_server_that_refuses_one_field_gets_the_request_without_it(name: str, refusal: str) -> None:
    with (
        serving(refusing({name}, REFUSALS[refusal])) as server,
        client(server.url, openai__timeout=5.0) as vlm,
    ):
        plan = FramePlan(ImagePlan(256, 256), 200)
        for _ in range(2):
            assert vlm.describe(FRAME, FIND, plan).detections
        body = server.requests[-1][2]
        assert name not in body
        if refusal != "no name":
            assert set(SENT) - set(body) == {name} - {"response_format"}, "nothing else is left out"


def test_the_limit_on_the_answer_has_two_names() -> None:
    for refusal in ({"error": {"message": "use 'max_completion_tokens' instead of max_tokens"}}, {"e": 1}):
        with (
            serving(refusing({"max_tokens"}, lambda _, said=refusal: (400, said))) as server,  # type: ignore[misc]
            client(server.url, openai__timeout=5.0) as vlm,
        ):
            for _ in range(2):
                assert vlm.describe(FRAME, FIND, FramePlan(ImagePlan(256, 256), 77)).detections
            assert server.requests[-1][2]["max_completion_tokens"] == 77


def test_a_refusal_that_concerns_no_field_is_the_error_and_soon_not_tried_again() -> None:
    with serving(say(400, b'{"error": "no images here"}')) as server, client(server.url) as vlm:
        for _ in range(MAX_BARE_FAILURES + 2):
            with pytest.raises(ServerError, match="no images here"):
                vlm.describe(FRAME, FIND, PLAN)
        before = len(server.requests)
        with pytest.raises(ServerError):
            vlm.describe(FRAME, FIND, PLAN)
        assert len(server.requests) == before + 1
        server.reply = GOOD
        vlm.describe(FRAME, FIND, PLAN)
        assert set(SENT) <= set(server.requests[-1][2])


# --- shapes of answers -------------------------------------------------------------------------------


def answered(content: object, **more: object) -> Any:
    reply = json.dumps({"choices": [{"message": {"content": content, **more}, "finish_reason": "stop"}]})
    with serving(say(200, reply.encode())) as server, client(server.url) as vlm:
        return vlm.describe(FRAME, FIND, PLAN)


def test_the_parts_of_a_message_are_joined_and_reasoning_is_no_part_of_it() -> None:
    half = len(BOX) // 2
    parts = [
        {"type": "thinking", "text": '[{"label": "box", "bbox": [0.5, 0.5, 0.9, 0.9]}]'},
        {"type": "text", "text": BOX[:half]},
        {"text": BOX[half:]},
    ]
    assert answered(parts).text == BOX
    assert answered(BOX, reasoning_content="[no]").text == BOX
    nothing: tuple[object, ...] = (None, "", [])
    for content in nothing:
        with pytest.raises(ServerError, match="with reasoning and no text"):
            answered(content, reasoning_content="A box. " + BOX)


def test_thoughts_before_a_caption_are_left_out() -> None:
    reply = say(200, completion("<think>Is it\na box?</think>\nA box."))
    with serving(reply) as server, client(server.url) as vlm:
        assert vlm.describe(FRAME, ask(CAPTION), PLAN).text.strip() == "A box."


def test_without_log_probabilities_the_score_of_the_setting_is_published_as_it_is() -> None:
    with serving(GOOD) as server, client(server.url, caption__enabled=False) as vlm:
        settings = chosen(server.url, openai__score=0.5, caption__enabled=False)
        (found,) = Perception(settings, vlm, open_tracker(settings.tracker)).infer(FRAME).detections
    assert found.score == 0.5


def test_an_answer_is_read_as_far_as_its_tokens_can_reach() -> None:
    with serving(say(200, completion("[" + "{" * 50_000))) as server, client(server.url) as vlm:
        answer = vlm.describe(FRAME, FIND, FramePlan(ImagePlan(256, 256), 20))
    assert len(answer.text) <= 20 * 32
    assert answer.truncated


@pytest.mark.parametrize(
    "entry",
    [
        {"logprob": -1.0},
        {"token": BOX, "logprob": -(10**400)},
        {"token": "x", "bytes": 10**11, "logprob": -1},
        {"token": "x", "bytes": [10**11], "logprob": -1},
        {"token": "\ud800", "logprob": -1},
        {"token": None, "bytes": {"a": 1}, "logprob": -1},
    ],
)
def test_an_odd_log_probability_costs_the_scores_and_not_the_frame(entry: object) -> None:
    counted = json.dumps({"prompt_tokens": float("nan"), "completion_tokens": 10**400})
    reply = completion(BOX, logprobs={"content": [entry]})[:-1] + b', "usage": ' + counted.encode() + b"}"
    with serving(say(200, reply)) as server, client(server.url, openai__score=0.3) as vlm:
        answer = vlm.describe(FRAME, FIND, PLAN)
    assert answer.detections[0].score == 0.3
    assert answer.usage.answer_tokens == 0


# --- the key -----------------------------------------------------------------------------------------


def echo(handler: Handler) -> None:
    """Gives the request's headers back, as some gateways do in their errors, and the key in many forms."""
    headers = {"key": f"Bearer {KEY}", "again": KEY.lower(), "cut": KEY[:12], **dict(handler.headers)}
    content = json.dumps({"error": {"message": f"bad header {headers}"}}).encode()
    say(400, content.replace(b"sk-S", b"sk-\\u0053"), Location=f"http://x/{KEY}")(handler)


@pytest.mark.parametrize("status", [200, 302, 400])
def test_the_key_appears_in_no_sentence_and_no_answer(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LFM_PERCEPTION_KEY", KEY)
    told: list[str] = []

    def reply(handler: Handler) -> None:
        if status == 400:
            echo(handler)
        elif status == 302:
            say(302, b"", Location=f"http://x/?key={KEY}")(handler)
        else:
            say(200, completion(f"a caption with {KEY}"))(handler)

    with serving(reply) as server:
        settings = chosen(server.url, openai__key_variable="LFM_PERCEPTION_KEY", openai__model="")
        with closing(OpenaiVlm(settings, told.append)) as vlm:
            try:
                told.append(vlm.describe(FRAME, ask(CAPTION), PLAN).text)
            except ServerError as error:
                told.append(str(error))
            told.append(vlm.health().problem)
        assert all(headers["Authorization"] == f"Bearer {KEY}" for _, headers, _ in server.requests)
    assert any("***" in text for text in told) or status == 200
    assert not any("secret" in text.lower() for text in told)
    assert KEY not in repr(Endpoint.of(settings.openai))


@pytest.mark.parametrize(
    "form",
    [
        KEY,
        KEY[6:],
        "".join(f"\\u{ord(each):04x}" for each in KEY),
        "".join(f"\\u{ord(each):04X}" for each in KEY),
        "".join(f"%{ord(each):02X}" for each in KEY),
        KEY.replace("-", "%2d"),
    ],
)
def test_the_key_is_masked_in_every_form(form: str) -> None:
    masked = Endpoint("https://fleet/v1", KEY).masked(b'{"message": "bad %s here"}' % form.encode())
    assert masked == b'{"message": "bad *** here"}' or (form == KEY[6:] and KEY[6:18].encode() not in masked)


@pytest.mark.parametrize("name", ["HOME", "AWS_SECRET_ACCESS_KEY", "LFM_PERCEPTION_", "LFM_PERCEPTION_A B"])
def test_a_key_comes_only_from_a_variable_with_the_prefix(name: str) -> None:
    with pytest.raises(PerceptionError, match="must be a name that begins with LFM_PERCEPTION_"):
        chosen("https://fleet/v1", openai__key_variable=name)


def test_a_picture_is_never_sent_larger_than_its_plan_needs() -> None:
    with serving(GOOD) as server, client(server.url) as vlm:
        patient = replace(PLAN, deadline_s=PATIENCE_S)  # the first picture of a process takes long
        vlm.describe(Frame(np.zeros((720, 1280, 3), np.uint8), 0), FIND, patient)
        kwargs = server.requests[-1][2]["mm_processor_kwargs"]
    assert kwargs == {"do_image_splitting": False, "min_image_tokens": 64, "max_image_tokens": 256}
