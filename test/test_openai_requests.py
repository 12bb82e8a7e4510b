# SPDX-License-Identifier: Apache-2.0
"""What is sent to a server."""

from __future__ import annotations

import base64
from typing import Any

import cv2
import numpy as np
import pytest
from openai_server import (
    BOX,
    FIND,
    GOOD,
    PLAN,
    Handler,
    client,
    completion,
    say,
    serving,
)

from lfm_perception.backends.openai_transport import ServerError
from lfm_perception.questions import BBOX, BBOX_2D, CAPTION, FramePlan, Question, ask, detect
from lfm_perception.scene import Frame


def asked(question: Question, plan: FramePlan, **values: object) -> dict[str, Any]:
    """The body of the request that a question becomes."""
    text = BOX if question.dialect is BBOX else "[]"
    with serving(say(200, completion(text))) as server:
        with client(server.url, **values) as vlm:
            vlm.describe(Frame(np.full((480, 640, 3), (200, 30, 30), np.uint8), 0), question, plan)
        path, headers, body = server.requests[-1]
    assert path == "/v1/chat/completions"
    assert headers["Content-Type"] == "application/json"
    assert isinstance(body, dict)
    return body


def test_the_request_holds_the_question_the_limits_and_the_model_cards_sampling() -> None:
    caption = asked(ask(CAPTION), PLAN, sampling__temperature=0.1)
    assert (caption["temperature"], caption["min_p"]) == (0.1, 0.15)
    assert caption["repetition_penalty"] == caption["repeat_penalty"] == 1.05
    body = asked(FIND, PLAN, sampling__temperature=0.1)
    assert (body["model"], body["max_tokens"]) == ("demo", 200)
    assert (body["temperature"], body["min_p"]) == (0.0, 0.0), "boxes have a sampling of their own"
    assert body["repetition_penalty"] == body["repeat_penalty"] == 1.0
    assert asked(ask(CAPTION), PLAN, sampling__top_k=50)["top_k"] == 50
    (user,) = body["messages"]
    picture, words = user["content"]
    assert (user["role"], words["text"]) == ("user", FIND.prompt.user)
    head, _, data = picture["image_url"]["url"].partition(",")
    assert head == "data:image/jpeg;base64"
    decoded = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR_RGB)
    assert decoded is not None
    assert decoded.shape == (256, 256, 3), "as it was planned, so that the server need not resize it"
    assert np.abs(decoded.mean((0, 1)) - (200, 30, 30)).max() < 3.0


def test_the_picture_can_be_sent_without_loss() -> None:
    body = asked(FIND, PLAN, openai__jpeg_quality=0)
    head, _, data = body["messages"][0]["content"][0]["image_url"]["url"].partition(",")
    assert head == "data:image/png;base64"
    decoded = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR_RGB)
    assert decoded is not None
    assert (decoded == (200, 30, 30)).all()


def test_the_schema_follows_the_dialect() -> None:
    body = asked(detect(BBOX_2D, ["box"], closed=True), PLAN)
    assert body["messages"][0] == {"role": "system", "content": BBOX_2D.system}
    assert body["response_format"]["type"] == "json_schema"
    item = body["response_format"]["json_schema"]["schema"]["items"]
    assert list(item["properties"]) == item["required"] == ["image_id", "bbox_2d", "label"]
    assert item["properties"]["label"] == {"type": "string", "enum": ["box"]}
    assert item["properties"]["bbox_2d"]["items"] == {"type": "integer"}
    assert "response_format" not in asked(ask(CAPTION), PLAN)
    assert "response_format" not in asked(FIND, PLAN, openai__constraint="none")


def test_the_strictest_response_format_that_the_server_supports_is_used(frame: Frame) -> None:
    def reply(handler: Handler) -> None:
        kind = server.requests[-1][2].get("response_format", {}).get("type")
        refusal = b'{"error": {"message": "body.response_format.type: unknown"}}'
        (GOOD if kind == "json_object" else say(422, refusal))(handler)

    def kinds() -> list[str]:
        return [body["response_format"]["type"] for _, _, body in server.requests]

    with serving(reply) as server:
        with client(server.url) as vlm:
            for _ in range(2):
                assert vlm.describe(frame, FIND, PLAN).detections
        assert kinds() == ["json_schema", "json_object", "json_object"]
        forced = client(server.url, openai__constraint="json_schema")
        with forced as vlm, pytest.raises(ServerError, match=r"answered 422: 'body\.response_format"):
            vlm.describe(frame, FIND, PLAN)


def test_without_a_name_the_first_model_that_is_listed_is_asked(frame: Frame) -> None:
    def reply(handler: Handler) -> None:
        listed = say(200, b'{"data": [{"id": "LFM2.5-VL-450M"}, {"id": "other"}]}')
        (listed if handler.path == "/v1/models" else GOOD)(handler)

    with serving(reply) as server, client(server.url, openai__model="") as vlm:
        vlm.describe(frame, FIND, PLAN)
        assert server.requests[-1][2]["model"] == "LFM2.5-VL-450M"
        assert [path for path, _, _ in server.requests] == ["/v1/models", "/v1/chat/completions"]
