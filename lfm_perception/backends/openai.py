# SPDX-License-Identifier: Apache-2.0
"""The `openai` backend: a model on a server with OpenAI's API (vLLM, SGLang, llama-server, llama-cpp-python).

    describe() ──image, prompt──► thread `server` ──POST /chat/completions──► server
               ◄── answer, or an error when the deadline has passed

The caller waits until its deadline at most, whatever the server or the network do; then the request is ended.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Coroutine, Mapping
from concurrent.futures import CancelledError as FutureCancelledError
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeVar
from urllib.parse import urlsplit

from lfm_perception.answers import RESCALED
from lfm_perception.backends import Backend, Notify, register_backend
from lfm_perception.backends import openai_protocol as protocol
from lfm_perception.backends.openai_fields import RequestFields
from lfm_perception.backends.openai_transport import (
    Endpoint,
    Response,
    ServerError,
    Transport,
    UnreachableError,
)
from lfm_perception.errors import PerceptionError
from lfm_perception.image_plan import ImagePlan
from lfm_perception.questions import FramePlan, Prompt, Question
from lfm_perception.scene import Answer, Frame
from lfm_perception.settings import Settings
from lfm_perception.vlm import CancelledError, Health

T = TypeVar("T")

MIN_BACKOFF_S = 0.05
"""Delay before the first retry of a request; doubled before each further one."""

CONNECT_TIMEOUT_S = 2.0
"""Longest wait for the server when the backend opens. A server that starts later is used from then on."""

UNNAMED_REFUSALS = (400, 422)
"""Statuses of a refusal that may be of a field without naming it."""

MAX_COUNTED = 64
"""Most prompts whose text tokens are remembered."""


class OpenaiVlm:
    """A `Vlm` on a server. Safe to use from several threads.

    A timeout, a failing server and an unusable reply raise ServerError. In `Usage`, `encode_s` is the time of
    the JPEG encoding and `decode_s` that of the request; the image tokens are those that the server counted.

    Args:
        settings: Without `openai.model`, the first model that the server lists is used.
        notify: Receives a sentence when the server is unreachable at the start, when it answers again, and
            when it refuses a part of the requests.

    Raises:
        PerceptionError: Address, key or certificate in the settings cannot be used.
    """

    def __init__(self, settings: Settings, notify: Notify = lambda sentence: None) -> None:
        self._settings, self._notify = settings.openai, notify
        self._sampling, self._box_sampling = settings.sampling, settings.box_sampling
        self._rescaled = False
        self._transport = Transport(Endpoint.of(settings.openai))
        self._health = Health()
        self._model = settings.openai.model
        self._fields = RequestFields(settings.openai.constraint, notify)
        self._text_tokens: dict[Prompt, int] = {}
        self._counting: asyncio.Task[None] | None = None
        try:
            self._run(self._model_name(), CONNECT_TIMEOUT_S)
        except ServerError as error:
            notify(f"{error}; every frame tries again")

    def describe(self, frame: Frame, question: Question, plan: FramePlan) -> Answer:
        """See `Vlm.describe`. Raises ServerError when the server gave no answer that could be used."""
        if plan.answer_tokens < 1:
            raise PerceptionError(
                f"the plan leaves {plan.answer_tokens} tokens for the answer: raise the budget"
            )
        limit_s = self._settings.timeout
        if plan.deadline_s is not None:
            limit_s = min(limit_s, plan.deadline_s)
        started_s = time.monotonic()
        image_url = protocol.data_url(frame, plan.image, self._settings.jpeg_quality)
        encode_s = time.monotonic() - started_s
        return self._run(self._answer(image_url, question, plan, encode_s), limit_s, encode_s)

    def cancel(self) -> None:
        """See `Vlm.cancel`."""
        self._transport.cancel()

    def health(self) -> Health:
        """See `Vlm.health`."""
        return self._health

    def close(self) -> None:
        """See `Vlm.close`."""
        self._transport.close()

    def _run(self, job: Coroutine[Any, Any, T], limit_s: float, spent_s: float = 0.0) -> T:
        """Run a job on the thread; returns or raises within `limit_s`, of which `spent_s` have passed."""
        try:
            result = self._transport.run(job, limit_s - spent_s)
        except FutureCancelledError as error:
            raise CancelledError("the question was cancelled") from error
        except TimeoutError:
            late = ServerError(f"{self._transport.url} gave no answer within {limit_s:.3g} s")
            self._failed(late)
            raise late from None
        except ServerError as error:
            self._failed(error)
            raise
        if not self._health.ready:
            self._health = Health()
            self._notify(f"{self._transport.url} answers again")
        return result

    def _failed(self, error: ServerError) -> None:
        self._health = replace(self._health, ready=False, problem=str(error))

    # --- on the thread -------------------------------------------------------------------------------

    async def _model_name(self) -> str:
        """The name of the model on the server."""
        if not self._model:
            response = await self._exchange("GET", "/models", None, protocol.max_bytes(0))
            self._model = protocol.first_model(self._reply(response))
            if not self._model:
                raise ServerError(f"{self._transport.url} lists no model: name one in openai.model")
        return self._model

    async def _answer(self, image_url: str, question: Question, plan: FramePlan, encode_s: float) -> Answer:
        started_s = time.monotonic()
        model = await self._model_name()
        sampling = self._box_sampling if question.dialect else self._sampling
        request = protocol.full_request(model, question, image_url, plan, sampling)
        reply = await self._complete(request, protocol.response_formats(question))
        answer = protocol.answer_of(reply, self._transport.url, question, plan, self._settings.score)
        self._tell_rescaled(question, answer)
        image_tokens = self._image_tokens(request, question, plan.image, reply)
        usage = replace(
            answer.usage,
            image_tokens=image_tokens,
            text_tokens=max(0, protocol.prompt_tokens(reply) - image_tokens),
            encode_s=encode_s,
            decode_s=time.monotonic() - started_s,
        )
        return replace(answer, usage=usage)

    def _tell_rescaled(self, question: Question, answer: Answer) -> None:
        """Notify once that the model writes coordinates in another unit than the dialect's."""
        if RESCALED in answer.rejects and question.dialect and not self._rescaled:
            self._rescaled = True
            self._notify(
                f"the model answers dialect {question.dialect.name} in another unit than 0 to "
                f"{question.dialect.coordinate_range}: boxes are converted, another detect.dialect may fit"
            )

    def _image_tokens(
        self, request: Mapping[str, Any], question: Question, plan: ImagePlan, reply: Mapping[str, Any]
    ) -> int:
        """The image's tokens as the server counted them, without markers; the plan's where that is unknown.

        The server counts image and text together. The text alone is counted once for each prompt for boxes,
        after its first answer.
        """
        together, text = protocol.prompt_tokens(reply), self._text_tokens.get(question.prompt)
        if text is None and together and question.dialect and len(self._text_tokens) < MAX_COUNTED:
            self._text_tokens[question.prompt] = 0
            self._counting = asyncio.create_task(self._count_text(request, question.prompt))
        counted = together - (text or 0) - plan.marker_tokens
        return counted if text and counted > 0 else plan.tokens

    async def _count_text(self, request: Mapping[str, Any], prompt: Prompt) -> None:
        with suppress(ServerError):  # then the plan's tokens are used
            reply = await self._complete(protocol.text_only(request), {})
            self._text_tokens[prompt] = protocol.prompt_tokens(reply)

    async def _complete(self, request: Mapping[str, Any], formats: Mapping[str, Any]) -> Mapping[str, Any]:
        """Request a completion with those fields of the request that the server takes."""
        limit = protocol.max_bytes(request["max_tokens"])

        async def post(body: Mapping[str, Any]) -> Response:
            return await self._exchange("POST", "/chat/completions", body, limit)

        while True:
            body = self._fields.body(request, formats)
            response = await post(body)
            if response.status == 200:
                return self._reply(response)
            if not self._fields.learn(body, response):
                break
        if response.status in UNNAMED_REFUSALS:
            for bare in self._fields.bare(body):
                other = await post(bare)
                if other.status == 200:
                    self._fields.accepted(body, bare)
                    return self._reply(other)
        return self._reply(response)

    async def _exchange(
        self, method: str, path: str, body: Mapping[str, Any] | None, max_bytes: int
    ) -> Response:
        """The server's response, after at most `openai.retries` retries of errors that are retryable."""
        content = None if body is None else json.dumps(body).encode()
        for retry in range(self._settings.retries + 1):
            if retry:
                await asyncio.sleep(MIN_BACKOFF_S * 2.0 ** (retry - 1))
            last = retry == self._settings.retries
            try:
                response = await self._transport.send(method, path, content, max_bytes)
            except UnreachableError:
                if last:
                    raise
                continue
            if last or not protocol.is_retryable(response) or self._fields.named(body or {}, response):
                return response
        raise AssertionError("unreachable")

    def _reply(self, response: Response) -> Mapping[str, Any]:
        if response.status != 200:
            raise protocol.http_error(response, self._transport.url, self._settings.key_variable)
        return protocol.response_json(response, self._transport.url)


def _display_name(settings: Settings) -> str:
    server = urlsplit(settings.openai.url).netloc
    return f"{settings.openai.model} at {server}" if settings.openai.model else server


def _check(settings: Settings) -> str:
    Endpoint.of(settings.openai)
    return f"address, API key and certificates for {settings.openai.url} are valid"


register_backend(
    Backend(
        name="openai",
        open=OpenaiVlm,
        display_name=_display_name,
        provenance=lambda settings: {"server": settings.openai.url, "name": settings.openai.model},
        check=_check,
        remedy="make sure that the server runs, and check openai.url and openai.model",
    )
)
