# SPDX-License-Identifier: Apache-2.0
"""Answers of servers: scores, shapes, and anything at all."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai_server import (
    BOX,
    FIND,
    GOOD,
    PLAN,
    client,
    completion,
    say,
    serving,
)

from lfm_perception.backends.openai_transport import ServerError
from lfm_perception.image_plan import ImagePlan
from lfm_perception.questions import CAPTION, FramePlan, Question, ask
from lfm_perception.scene import Frame


def answered(content: object, question: Question = FIND, **choice: object) -> Any:
    black = Frame(np.zeros((256, 256, 3), np.uint8), 0)
    reply = say(200, completion(content, **choice))
    with serving(reply) as server, client(server.url, openai__score=0.3) as vlm:
        return vlm.describe(black, question, PLAN)


def pieces(*tokens: tuple[str | bytes, float]) -> dict[str, Any]:
    content = [
        {
            "token": piece if isinstance(piece, str) else piece.decode(errors="replace"),
            "bytes": list(piece if isinstance(piece, bytes) else piece.encode()),
            "logprob": log_prob,
        }
        for piece, log_prob in tokens
    ]
    return {"content": content}


def test_scores_come_from_log_probabilities_where_the_server_returns_them() -> None:
    opening, label, between, numbers, end = '[{"label": "', "bøx", '", "bbox": [', "0.1, 0.2, 0.3, 0.4", "]}]"
    text = opening + label + between + numbers + end
    raw = label.encode()
    told = pieces(
        (opening, -0.1), (raw[:2], -0.2), (raw[2:], -0.4), (between, 0.0), (numbers, -0.5), (end, 0.0),
        ("<|im_end|>", -3.0),
    )  # fmt: skip
    (found,) = answered(text, logprobs=told).detections
    assert found.label == "bøx"
    assert found.score == pytest.approx(np.exp(-0.1 - 0.3 - 0.5))


@pytest.mark.parametrize(
    "told",
    [
        None,
        {"content": None},
        {"content": [3]},
        pieces(("other words", -0.1)),
        pieces((BOX[:10], -0.1)),
        {"content": [{"token": BOX, "logprob": "likely"}]},
        {"content": [{"token": BOX, "logprob": float("nan")}]},
        {"content": [{"token": BOX, "bytes": [1000], "logprob": -0.1}]},
    ],
)
def test_without_probabilities_the_score_is_the_setting(told: object) -> None:
    (found,) = answered(BOX, logprobs=told).detections
    assert found.score == 0.3


def test_any_shape_of_answer_is_read_as_everywhere() -> None:
    fenced = '```json\n[{"label": "box", "bbox": [0.1, 0.2, 0.3, 0.4]}, {"label": "cone", "bbox": [5]}]\n```'
    answer = answered(fenced, finish_reason="length")
    assert [found.label for found in answer.detections] == ["box"]
    assert answer.rejects == {"not_four_numbers": 1}
    assert answer.truncated
    assert answered("[]").detections == ()
    assert answered("A box. ", ask(CAPTION)).text.strip() == "A box."


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
replies = st.one_of(
    json_values,
    st.fixed_dictionaries(
        {"choices": st.lists(json_values, max_size=2), "usage": json_values, "error": json_values}
    ),
    st.fixed_dictionaries(
        {
            "choices": st.lists(
                st.fixed_dictionaries(
                    {
                        "message": st.fixed_dictionaries({"content": json_values}),
                        "logprobs": st.fixed_dictionaries({"content": json_values}),
                    }
                ),
                min_size=1,
                max_size=1,
            ),
            "usage": st.fixed_dictionaries({"prompt_tokens": json_values, "completion_tokens": json_values}),
        }
    ),
)


def test_no_reply_is_too_strange(frame: Frame) -> None:
    with serving(GOOD) as server, client(server.url) as vlm:

        @settings(max_examples=100)
        @given(reply=replies, status=st.sampled_from([200, 400, 500]))
        def check(reply: object, status: int) -> None:
            server.reply = say(status, json.dumps(reply).encode())
            try:
                answer = vlm.describe(frame, FIND, FramePlan(ImagePlan(256, 256), 10))
            except ServerError:
                assert "\n" not in vlm.health().problem
            else:
                assert all(0.0 <= found.score <= 1.0 for found in answer.detections)

        check()
