# SPDX-License-Identifier: Apache-2.0
"""OpenAI's chat-completions protocol: request bodies, and replies, which may hold anything until checked."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeVar

import cv2

from lfm_perception.answers import TokenLogProb, parse, without_thinking
from lfm_perception.backends.openai_fields import refusal_text
from lfm_perception.backends.openai_transport import Response, ServerError, UnreachableError
from lfm_perception.image_plan import SERVER_MAX_TOKENS, SERVER_MIN_TOKENS, ImagePlan
from lfm_perception.planning.resize import resize
from lfm_perception.questions import Dialect, FramePlan, Question
from lfm_perception.scene import Answer, Frame, Usage
from lfm_perception.settings import SamplingSettings
from lfm_perception.text import MAX_SENTENCE, safe_line

T = TypeVar("T")

CHARACTERS_PER_TOKEN = 32
"""Answers are cut at this many characters per token of `max_tokens`."""

BYTES_PER_TOKEN, OTHER_BYTES = 2_000, 64_000
"""Response size limit: bytes per token with its log-probability, plus a fixed overhead."""

TOP_LOGPROBS = 20
"""`top_logprobs` requested for an answer from options; OpenAI's maximum."""


def max_bytes(tokens: int) -> int:
    """Maximum size in bytes of a response with an answer of up to `tokens` tokens."""
    return OTHER_BYTES + BYTES_PER_TOKEN * tokens


# --- requests ----------------------------------------------------------------------------------------


def data_url(frame: Frame, plan: ImagePlan, jpeg_quality: int) -> str:
    """The frame in the size that a server needs for the plan, as a `data:` URL: JPEG, or PNG (quality 0)."""
    width, height = plan.picture
    bgr = cv2.cvtColor(
        resize(frame.image, ImagePlan(width, height, resample=plan.resample)), cv2.COLOR_RGB2BGR
    )
    kind, options = ("jpeg", [cv2.IMWRITE_JPEG_QUALITY, jpeg_quality]) if jpeg_quality else ("png", [])
    _, encoded = cv2.imencode(f".{kind}", bgr, options)
    return f"data:image/{kind};base64,{base64.b64encode(encoded.tobytes()).decode()}"


def full_request(
    model: str, question: Question, image_url: str, plan: FramePlan, sampling: SamplingSettings
) -> dict[str, Any]:
    """The request body with every field, for a server that knows them all, without `response_format`."""
    system = [{"role": "system", "content": question.prompt.system}] if question.prompt.system else []
    content = [
        {"type": "image_url", "image_url": {"url": image_url}},
        {"type": "text", "text": question.prompt.user},
    ]
    return {
        "model": model,
        "messages": [*system, {"role": "user", "content": content}],
        "max_tokens": plan.answer_tokens,
        "temperature": sampling.temperature,
        "seed": sampling.seed,
        # vLLM's and SGLang's names, then llama.cpp's
        "min_p": sampling.min_p,
        **({"top_k": sampling.top_k} if sampling.top_k else {}),
        "repetition_penalty": sampling.repeat_penalty,
        "repeat_penalty": sampling.repeat_penalty,
        "mm_processor_kwargs": _mm_processor_kwargs(plan.image),
        **({"logprobs": True, "top_logprobs": 1} if question.dialect else {}),
        **({"logprobs": True, "top_logprobs": TOP_LOGPROBS} if question.options else {}),
    }


def text_only(request: Mapping[str, Any]) -> dict[str, Any]:
    """The request without its image and with one token of answer, to count the tokens of the text."""
    *before, user = request["messages"]
    content = [part for part in user["content"] if part["type"] == "text"]
    return {**request, "messages": [*before, {**user, "content": content}], "max_tokens": 1}


def _mm_processor_kwargs(plan: ImagePlan) -> dict[str, Any]:
    """vLLM's options of the image processor, with which it computes exactly the planned image."""
    tiles = plan.columns * plan.rows
    if plan.tiled:
        return {
            "do_image_splitting": True,
            "tile_size": plan.width // plan.columns,
            "min_tiles": tiles,
            "max_tiles": tiles,
            "use_thumbnail": plan.thumbnail_width > 0,
            "min_image_tokens": SERVER_MIN_TOKENS,
            "max_image_tokens": SERVER_MAX_TOKENS,
        }
    return {
        "do_image_splitting": False,
        "min_image_tokens": min(SERVER_MIN_TOKENS, plan.tokens),
        "max_image_tokens": max(SERVER_MAX_TOKENS, plan.tokens),
    }


def response_formats(question: Question) -> dict[str, Any]:
    """The values of `response_format` that constrain the answer to the question's dialect, by kind."""
    if question.dialect is None:
        return {}
    schema = _schema(question.dialect, question.labels if question.closed else ())
    named = {"name": "objects", "schema": schema, "strict": True}
    return {
        "json_schema": {"type": "json_schema", "json_schema": named},
        "json_object": {"type": "json_object", "schema": schema},
    }


def _schema(dialect: Dialect, labels: Sequence[str]) -> dict[str, Any]:
    """JSON Schema of an answer in a dialect; `labels` are the only ones allowed, empty: any."""
    coordinate = {"type": "number" if dialect.decimals else "integer"}
    values: dict[str, dict[str, Any]] = {
        dialect.label_key: {"type": "string", **({"enum": list(labels)} if labels else {})},
        dialect.box_key: {"type": "array", "items": coordinate, "minItems": 4, "maxItems": 4},
    }
    item = {
        "type": "object",
        "properties": {key: values.get(key, {"type": "integer"}) for key in dialect.keys},
        "required": list(dialect.keys),
        "additionalProperties": False,
    }
    return {"type": "array", "items": item}


# --- replies -----------------------------------------------------------------------------------------


def is_retryable(response: Response) -> bool:
    """Whether a retry may succeed: the server is overloaded or failed."""
    return response.status == 429 or response.status >= 500


def response_json(response: Response, url: str) -> Mapping[str, Any]:
    """The JSON object in a response of status 200. Raises ServerError for other content."""
    try:
        reply = json.loads(response.content)
    except (ValueError, RecursionError) as error:
        raise ServerError(f"{url} answered with invalid JSON: {_short(response.content)}") from error
    if not isinstance(reply, dict):
        raise ServerError(f"{url} answered with JSON that is not an object: {_short(response.content)}")
    return reply


def http_error(response: Response, url: str, key_variable: str) -> ServerError:
    """The error for a response with another status than 200."""
    status, message = response.status, _short(refusal_text(response))
    answered = f"{url} answered {status}"
    if 300 <= status < 400:
        target = _short(response.location or "nowhere")
        return ServerError(f"{answered} and redirects to {target}: give the final address in openai.url")
    if status in (401, 403):
        remedy = f"check ${key_variable}" if key_variable else "name its API key in openai.key_variable"
        return ServerError(f"{answered}: authentication failed ({status}): {remedy}")
    if is_retryable(response):
        return UnreachableError(f"{answered}: {message}")
    return ServerError(f"{answered}: {message}")


def first_model(reply: Mapping[str, Any]) -> str:
    """The name of the first model in the reply to GET /models; empty when there is none."""
    return next((_get(model, "id", str) or "" for model in _get(reply, "data", list) or ()), "")


def prompt_tokens(reply: Mapping[str, Any]) -> int:
    """The tokens of the prompt, image included, as the server counted them; 0 when it tells none."""
    return _count(reply, "prompt_tokens")


def answer_of(
    reply: Mapping[str, Any], url: str, question: Question, plan: FramePlan, default_score: float
) -> Answer:
    """The answer in a reply, with token counts. Raises ServerError when the reply holds none."""
    choice = next(iter(_get(reply, "choices", list) or ()), None)
    text = _text(reply, choice, url)
    limit = CHARACTERS_PER_TOKEN * plan.answer_tokens
    truncated = _get(choice, "finish_reason", str) == "length" or len(text) > limit
    text = text[:limit]
    usage = _usage(reply, plan.image)
    if question.dialect is None:
        plain = without_thinking(text).strip()
        if question.options:
            probabilities = _option_probabilities(choice, plain, question.options, default_score)
            if not probabilities:
                raise ServerError(f"{url} answered {_short(plain)}, which is none of the options")
            return Answer(plain, usage=usage, probabilities=probabilities)
        return Answer(plain, truncated=truncated, usage=usage)
    parsed = parse(
        text, question.dialect, labels=question.labels, closed=question.closed, synonyms=question.synonyms
    )
    if not parsed.objects and not parsed.rejects and "[" not in text:
        # an empty list would mean that nothing is visible
        raise ServerError(f"{url} answered with no list of objects: {_short(text)}")
    tokens = _log_probs(choice, text)
    if tokens:
        detections = parsed.scored(tokens)
    else:
        detections = tuple(replace(found, score=default_score) for found in parsed.detections)
    return Answer(text, detections, truncated, parsed.rejects, usage, calibrated=not tokens)


def _option_probabilities(
    choice: Any, text: str, options: Sequence[str], default_score: float
) -> tuple[float, ...]:
    """The probability of each option; empty when the answer is none of them.

    From the likeliest first tokens where each begins one option only, else `default_score` for the option
    that was answered and the rest for the others.
    """
    probabilities = [0.0] * len(options)
    entries = _get(_get(choice, "logprobs", dict), "content", list) or ()
    for entry in _get(next(iter(entries), None), "top_logprobs", list) or ():
        piece, log_prob = _piece(entry).decode(errors="ignore").strip().casefold(), _log_prob(entry)
        begun = [index for index, option in enumerate(options) if option.casefold().startswith(piece)]
        if piece and log_prob is not None and len(begun) == 1:
            probabilities[begun[0]] += math.exp(log_prob)
    answered = [index for index, option in enumerate(options) if option == text.strip()]
    if not answered:
        given = _bare(text)
        answered = [index for index, option in enumerate(options) if _bare(option) == given]
    if not answered:
        return ()
    if len([each for each in probabilities if each]) < 2 or max(probabilities) != probabilities[answered[0]]:
        probabilities = [(1.0 - default_score) / (len(options) - 1)] * len(options)
        probabilities[answered[0]] = default_score
    return tuple(each / sum(probabilities) for each in probabilities)


def _bare(text: str) -> str:
    """An option without the full stop and the case that a model may change."""
    return text.strip(" .\n").casefold()


def _text(reply: Mapping[str, Any], choice: Any, url: str) -> str:
    """The text of a message, whose content may be a list of parts; reasoning is no part of it."""
    message = _get(choice, "message", dict)
    content = _get(message, "content", str)
    if parts := _get(message, "content", list):
        content = "".join(_get(part, "text", str) or "" for part in parts if _is_text(part))
    if content:
        return content
    if _get(message, "reasoning_content", str) or _get(message, "reasoning", str):
        raise ServerError(
            f"{url} answered with reasoning and no text: switch the model's reasoning off on the server"
        )
    if content is None:
        raise ServerError(f"{url} answered without text: {_short(json.dumps(reply))}")
    return content


def _is_text(part: Any) -> bool:
    return _get(part, "type", str) in ("text", "output_text", None)


def _usage(reply: Mapping[str, Any], plan: ImagePlan) -> Usage:
    text = max(0, prompt_tokens(reply) - plan.tokens)
    return Usage(image_tokens=plan.tokens, text_tokens=text, answer_tokens=_count(reply, "completion_tokens"))


def _count(reply: Mapping[str, Any], key: str) -> int:
    """A count of tokens in a reply's usage; 0 where it is missing or implausible."""
    count = _get(_get(reply, "usage", dict), key, int) or 0
    return count if 0 <= count <= MAX_COUNT else 0


MAX_COUNT = 1_000_000
"""Largest plausible count of tokens."""


def _log_probs(choice: Any, text: str) -> list[TokenLogProb]:
    """The log-probabilities of an answer's tokens; empty when the tokens do not spell the answer."""
    tokens: list[TokenLogProb] = []
    raw, position, characters = text.encode(errors="replace"), 0, 0
    for entry in _get(_get(choice, "logprobs", dict), "content", list) or ():
        if position == len(raw):  # the end token
            break
        piece, log_prob = _piece(entry), _log_prob(entry)
        if not piece or log_prob is None or not raw.startswith(piece, position):
            return []
        first = characters - (piece[0] & 0xC0 == 0x80)  # a token may begin inside a character
        position += len(piece)
        characters += sum(byte & 0xC0 != 0x80 for byte in piece)
        tokens.append(TokenLogProb(first, characters, log_prob))
    return tokens if position == len(raw) else []


def _log_prob(entry: Any) -> float | None:
    value = _get(entry, "logprob", (int, float))
    with suppress(TypeError, OverflowError):  # none, or an integer of 400 digits
        return None if math.isnan(value) else min(0.0, float(value))  # type: ignore[arg-type]
    return None


def _piece(entry: Any) -> bytes:
    """The bytes of a token, whose text cannot show a part of a character; empty when it has none."""
    values = _get(entry, "bytes", list)
    if values:
        with suppress(TypeError, ValueError):
            return bytes(values)
        return b""
    return (_get(entry, "token", str) or "").encode(errors="replace")


def _get(value: Any, key: str, kind: type[T] | tuple[type[T], ...]) -> T | None:
    """`value[key]` when it is there and of this kind."""
    found = value.get(key) if isinstance(value, dict) else None
    return found if isinstance(found, kind) and not isinstance(found, bool) else None


def _short(text: str | bytes) -> str:
    """An excerpt on one line, in quotes."""
    decoded = text[:MAX_SENTENCE] if isinstance(text, str) else text[:MAX_SENTENCE].decode(errors="replace")
    return f"'{safe_line(decoded.strip(), EXCERPT)}'"


EXCERPT = 120
"""Characters of a server's message that an error shows."""
