# SPDX-License-Identifier: Apache-2.0
"""Typed questions to a server: probabilities where it tells them, its words otherwise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from openai_server import PLAN, client, completion, say, serving

from lfm_perception.backends.openai_transport import ServerError
from lfm_perception.scene import Frame
from lfm_perception.typed_questions import TypedQuestion

FRAME = Frame(np.full((64, 64, 3), 90, np.uint8), 1)
OPEN = TypedQuestion("Is the door open?", "yes_no")
COLOUR = TypedQuestion("Which colour?", "choice", ("red", "dark red", "blue"))

GATE = TypedQuestion("Which gate?", "choice", ("a", "A", "none."))


def logprobs(**tokens: float) -> dict[str, object]:
    top = [{"token": token.replace("_", " "), "logprob": math.log(share)} for token, share in tokens.items()]
    return {"logprobs": {"content": [{**top[0], "top_logprobs": top}]}}


@pytest.mark.parametrize(
    ("question", "text", "told", "expected"),
    [
        (OPEN, "Yes", logprobs(Yes=0.6, No=0.2, Maybe=0.2), (0.75, 0.25)),
        (OPEN, "no.", logprobs(no=0.5, yes=0.3, _No=0.2), (0.3, 0.7)),
        (COLOUR, "dark red", logprobs(dark=0.7, red=0.1, bl=0.2), (0.1, 0.7, 0.2)),
        (OPEN, "Yes", {}, (0.9, 0.1)),
        (COLOUR, "blue", {}, (0.05, 0.05, 0.9)),
        (OPEN, "No", logprobs(Yes=0.6, No=0.4), (0.1, 0.9)),  # the server sampled the less likely one
        (OPEN, "Yes", {"logprobs": {"content": [{"top_logprobs": [{"token": 5}, None, {}]}]}}, (0.9, 0.1)),
        (OPEN, "Yes", {"logprobs": {"content": [5]}}, (0.9, 0.1)),
        (GATE, "A", {}, (0.05, 0.9, 0.05)),  # case alone tells it from another option
        (GATE, "None.", {}, (0.05, 0.05, 0.9)),  # its full stop is part of the option
    ],
)
def test_options_get_the_probabilities_that_the_server_tells(
    question: TypedQuestion, text: str, told: dict[str, object], expected: tuple[float, ...]
) -> None:
    with serving(say(200, completion(text, **told))) as server, client(server.url, openai__score=0.9) as vlm:
        answer = vlm.describe(FRAME, question.question, PLAN)
        assert answer.probabilities == pytest.approx(expected)
        asked = server.requests[-1][2]
        assert (asked["logprobs"], asked["top_logprobs"]) == (True, 20)
        assert question.question.prompt.user in str(asked["messages"])


def test_words_that_are_no_option_are_an_error() -> None:
    reply = say(200, completion("It depends."))
    with serving(reply) as server, client(server.url) as vlm, pytest.raises(ServerError, match="none of the"):
        vlm.describe(FRAME, OPEN.question, PLAN)
