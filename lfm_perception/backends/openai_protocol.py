"""OpenAI's chat-completions protocol: request bodies, and replies, which may hold anything until checked."""

from __future__ import annotations

import base64
import json
import math
import reprlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeVar

import cv2

from lfm_perception.answers import TokenLogProb, parse
from lfm_perception.backends.openai_transport import Response, ServerError, UnreachableError
from lfm_perception.image_plan import ImagePlan
from lfm_perception.planning.resize import resize
from lfm_perception.questions import Dialect, Question
from lfm_perception.scene import Answer, Frame, Usage
from lfm_perception.settings import SamplingSettings

T = TypeVar("T")

CONSTRAINTS = ("json_schema", "json_object", "none")
"""Kinds of `response_format`, the strictest first; `openai.constraint` auto takes the first that works."""


class ConstraintError(ServerError):
    """The server does not support this kind of `response_format`."""


# --- requests ----------------------------------------------------------------------------------------


def data_url(frame: Frame, plan: ImagePlan, jpeg_quality: int) -> str:
    """The frame at its planned size as a `data:` URL: JPEG, or PNG for quality 0."""
    bgr = cv2.cvtColor(resize(frame.image, plan), cv2.COLOR_RGB2BGR)
    kind, options = ("jpeg", [cv2.IMWRITE_JPEG_QUALITY, jpeg_quality]) if jpeg_quality else ("png", [])
    _, encoded = cv2.imencode(f".{kind}", bgr, options)
    return f"data:image/{kind};base64,{base64.b64encode(encoded.tobytes()).decode()}"


def completion_body(
    model: str, question: Question, image_url: str, max_tokens: int, sampling: SamplingSettings
) -> dict[str, Any]:
    """The body of a chat-completions request, without `response_format`."""
    system = [{"role": "system", "content": question.prompt.system}] if question.prompt.system else []
    content = [
        {"type": "image_url", "image_url": {"url": image_url}},
        {"type": "text", "text": question.prompt.user},
    ]
    return {
        "model": model,
        "messages": [*system, {"role": "user", "content": content}],
        "max_tokens": max_tokens,
        "temperature": sampling.temperature,
        "seed": sampling.seed,
        # vLLM's and SGLang's names, then llama.cpp's; servers ignore names that they do not know
        "min_p": sampling.min_p,
        "repetition_penalty": sampling.repeat_penalty,
        "repeat_penalty": sampling.repeat_penalty,
        **({} if question.dialect is None else {"logprobs": True, "top_logprobs": 1}),
    }


def response_format(kind: str, question: Question) -> dict[str, Any]:
    """The part of the request that constrains the answer to the question's dialect; empty for `none`."""
    if question.dialect is None or kind == "none":
        return {}
    schema = _schema(question.dialect, question.labels if question.closed else ())
    if kind == "json_schema":
        named = {"name": "objects", "schema": schema, "strict": True}
        return {"response_format": {"type": "json_schema", "json_schema": named}}
    return {"response_format": {"type": "json_object", "schema": schema}}


def _schema(dialect: Dialect, labels: Sequence[str]) -> dict[str, Any]:
    """JSON Schema of an answer in a dialect; `labels` are the only ones allowed, empty: any."""
    side = {"type": "number" if dialect.decimals else "integer"}
    values: dict[str, dict[str, Any]] = {
        dialect.label_key: {"type": "string", **({"enum": list(labels)} if labels else {})},
        dialect.box_key: {"type": "array", "items": side, "minItems": 4, "maxItems": 4},
    }
    item = {
        "type": "object",
        "properties": {key: values.get(key, {"type": "integer"}) for key in dialect.keys},
        "required": list(dialect.keys),
        "additionalProperties": False,
    }
    return {"type": "array", "items": item}


# --- replies -----------------------------------------------------------------------------------------


def reply_of(response: Response, url: str, key_variable: str) -> Mapping[str, Any]:
    """The JSON object in a response. Raises ServerError for any other status than 200 and other content."""
    if response.status != 200:
        raise _refusal(response, f"{url} answered {response.status}", key_variable)
    try:
        reply = json.loads(response.content)
    except (ValueError, RecursionError) as error:
        raise ServerError(f"{url} answered with invalid JSON: {_short(response.content)}") from error
    if not isinstance(reply, dict):
        raise ServerError(f"{url} answered with JSON that is not an object: {_short(response.content)}")
    return reply


def first_model(reply: Mapping[str, Any]) -> str:
    """The name of the first model in the reply to GET /models; empty when there is none."""
    return next((_get(model, "id", str) or "" for model in _get(reply, "data", list) or ()), "")


def answer_of(
    reply: Mapping[str, Any], url: str, question: Question, plan: ImagePlan, default_score: float
) -> Answer:
    """The answer in a reply, with token counts. Raises ServerError when the reply holds none."""
    choice = next(iter(_get(reply, "choices", list) or ()), None)
    text = _get(_get(choice, "message", dict), "content", str)
    if text is None:
        raise ServerError(f"{url} answered without text: {_short(json.dumps(reply))}")
    usage = _usage(reply, plan)
    truncated = _get(choice, "finish_reason", str) == "length"
    if question.dialect is None:
        return Answer(text, truncated=truncated, usage=usage)
    parsed = parse(text, question.dialect, labels=question.labels, closed=question.closed)
    if not parsed.objects and not parsed.rejects and "[" not in text:
        # an empty list would mean that nothing is visible
        raise ServerError(f"{url} answered with no list of objects: {_short(text)}")
    if tokens := _log_probs(choice, text):
        detections = parsed.scored(tokens)
    else:
        detections = tuple(replace(found, score=default_score) for found in parsed.detections)
    return Answer(text, detections, truncated, parsed.rejects, usage)


def _usage(reply: Mapping[str, Any], plan: ImagePlan) -> Usage:
    counts = _get(reply, "usage", dict)
    prompt, answer = (max(0, _get(counts, key, int) or 0) for key in ("prompt_tokens", "completion_tokens"))
    text = max(0, prompt - plan.tokens)
    return Usage(image_tokens=plan.tokens, text_tokens=text, answer_tokens=answer)


def _log_probs(choice: Any, text: str) -> list[TokenLogProb]:
    """The log-probabilities of an answer's tokens; empty when the tokens do not spell the answer."""
    tokens: list[TokenLogProb] = []
    raw, position, characters = text.encode(errors="replace"), 0, 0
    for entry in _get(_get(choice, "logprobs", dict), "content", list) or ():
        if position == len(raw):  # the end token
            break
        piece = _piece(entry)
        log_prob = _get(entry, "logprob", (int, float))
        if not piece or log_prob is None or math.isnan(log_prob) or not raw.startswith(piece, position):
            return []
        first = characters - (piece[0] & 0xC0 == 0x80)  # a token may begin inside a character
        position += len(piece)
        characters += sum(byte & 0xC0 != 0x80 for byte in piece)
        tokens.append(TokenLogProb(first, characters, min(0.0, float(log_prob))))
    return tokens if position == len(raw) else []


def _piece(entry: Any) -> bytes:
    """The bytes of a token, whose text cannot show a part of a character."""
    with suppress(TypeError, ValueError, AttributeError):
        return bytes(entry["bytes"]) if entry.get("bytes") else str(entry["token"]).encode()
    return b""


def _refusal(response: Response, answered: str, key_variable: str) -> ServerError:
    status, message = response.status, _error_message(response.content)
    if 300 <= status < 400:
        target = _short(response.headers.get("Location", "nowhere"))
        return ServerError(f"{answered} and redirects to {target}: give the final address in openai.url")
    if status in (401, 403):
        remedy = f"check ${key_variable}" if key_variable else "name its API key in openai.key_variable"
        return ServerError(f"{answered}: authentication failed ({status}): {remedy}")
    if "response_format" in message or "json_schema" in message:
        return ConstraintError(f"{answered} to openai.constraint: {_short(message)}")
    if status == 429 or status >= 500:
        return UnreachableError(f"{answered}: {_short(message)}")
    return ServerError(f"{answered}: {_short(message)}")


def _error_message(content: bytes) -> str:
    """The message of an error response, which servers wrap in different ways."""
    text = content.decode(errors="replace")
    with suppress(ValueError, RecursionError):
        reply = json.loads(text)
        error = reply.get("error", reply) if isinstance(reply, dict) else reply
        return _get(error, "message", str) or _get(error, "detail", str) or text
    return text


def _get(value: Any, key: str, kind: type[T] | tuple[type[T], ...]) -> T | None:
    """`value[key]` when it is there and of this kind."""
    found = value.get(key) if isinstance(value, dict) else None
    return found if isinstance(found, kind) and not isinstance(found, bool) else None


_EXCERPT = reprlib.Repr()
_EXCERPT.maxstring = 160


def _short(text: str | bytes) -> str:
    """An excerpt on one line."""
    decoded = text if isinstance(text, str) else text[:1000].decode(errors="replace")
    return _EXCERPT.repr(" ".join(decoded[:1000].split()))
