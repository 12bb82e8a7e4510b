"""The `openai` backend: a model on a server with OpenAI's API (vLLM, SGLang, llama-server, llama-cpp-python).

    describe() ──image, prompt──► thread `server` ──POST /chat/completions──► server
               ◄── answer, or an error when the deadline has passed

The caller waits until its deadline at most; then its thread shuts the
connection down.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import replace
from typing import Any, TypeVar
from urllib.parse import urlsplit

from lfm_perception.backends import Backend, Notify, register
from lfm_perception.backends import openai_protocol as protocol
from lfm_perception.backends.openai_transport import InFlight, ServerError, Transport, UnreachableError
from lfm_perception.errors import PerceptionError
from lfm_perception.questions import FramePlan, Question
from lfm_perception.scene import Answer, Frame
from lfm_perception.settings import Settings
from lfm_perception.vlm import CancelledError, Health

T = TypeVar("T")

MIN_BACKOFF_S = 0.05
"""Delay before the first retry of a request; doubled before each further one."""

CONNECT_TIMEOUT_S = 2.0
"""Longest wait for the server when the backend opens. A server that starts later is used from then on."""


class OpenaiVlm:
    """A `Vlm` on a server. Safe to use from several threads; questions are answered one by one.

    A timeout, a failing server and an unusable reply raise ServerError. In `Usage`, `encode_s` is the time of
    the JPEG encoding and `decode_s` that of the request.

    Args:
        settings: Without `openai.model`, the first model that the server lists is used.
        notify: Receives a sentence when the server is unreachable at the start, and when it answers again.

    Raises:
        PerceptionError: Address, key or certificate in the settings cannot be used.
    """

    def __init__(self, settings: Settings, notify: Notify = lambda sentence: None) -> None:
        self._settings, self._sampling, self._notify = settings.openai, settings.sampling, notify
        self._transport = Transport(settings.openai)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="server")
        self._in_flight: set[InFlight] = set()
        self._health = Health()
        self._model = settings.openai.model
        constraint = settings.openai.constraint
        self._constraints = list(protocol.CONSTRAINTS if constraint == "auto" else (constraint,))
        try:
            self._run(self._model_name, CONNECT_TIMEOUT_S)
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
        return self._run(lambda request: self._answer(frame, question, plan, request), limit_s)

    def cancel(self) -> None:
        """See `Vlm.cancel`."""
        for request in tuple(self._in_flight):
            request.stop(cancelled=True)

    def health(self) -> Health:
        """See `Vlm.health`."""
        return self._health

    def close(self) -> None:
        """See `Vlm.close`."""
        self.cancel()
        self._thread.shutdown(wait=False)
        self._transport.close()

    def _run(self, job: Callable[[InFlight], T], limit_s: float) -> T:
        """Run a job on the thread; returns its result or raises within `limit_s`."""
        request = InFlight(self._transport, time.monotonic() + limit_s)
        self._in_flight.add(request)
        try:
            result = self._submit(job, request).result(max(0.0, limit_s))
        except FutureTimeoutError:
            request.stop()
            late = ServerError(f"{self._transport.url} gave no answer within {limit_s:.3g} s")
            self._failed(late)
            raise late from None
        except ServerError as error:
            if request.cancelled:
                raise CancelledError("the question was cancelled") from error
            self._failed(error)
            raise
        finally:
            self._in_flight.discard(request)
        if not self._health.ready:
            self._health = Health()
            self._notify(f"{self._transport.url} answers again")
        return result

    def _submit(self, job: Callable[[InFlight], T], request: InFlight) -> Future[T]:
        try:
            return self._thread.submit(job, request)
        except RuntimeError as error:
            raise PerceptionError("the model has been closed: open it again before asking") from error

    def _failed(self, error: ServerError) -> None:
        self._health = replace(self._health, ready=False, problem=str(error))

    # --- on the thread -------------------------------------------------------------------------------

    def _model_name(self, request: InFlight) -> str:
        """The name of the model on the server."""
        if not self._model:
            self._model = protocol.first_model(self._exchange(request, "GET", "/models", None))
            if not self._model:
                raise ServerError(f"{self._transport.url} lists no model: name one in openai.model")
        return self._model

    def _answer(self, frame: Frame, question: Question, plan: FramePlan, request: InFlight) -> Answer:
        started_s = time.perf_counter()
        image_url = protocol.data_url(frame, plan.image, self._settings.jpeg_quality)
        encoded_s = time.perf_counter()
        model = self._model_name(request)
        body = protocol.completion_body(model, question, image_url, plan.answer_tokens, self._sampling)
        reply = self._complete(request, body, question)
        decode_s = time.perf_counter() - encoded_s
        answer = protocol.answer_of(reply, self._transport.url, question, plan.image, self._settings.score)
        return replace(answer, usage=replace(answer.usage, encode_s=encoded_s - started_s, decode_s=decode_s))

    def _complete(self, request: InFlight, body: Mapping[str, Any], question: Question) -> Mapping[str, Any]:
        """Request a completion with the strictest `response_format` that the server supports."""
        while True:
            kind = self._constraints[0]
            constraint = protocol.response_format(kind, question)
            try:
                return self._exchange(request, "POST", "/chat/completions", {**body, **constraint})
            except protocol.ConstraintError:
                if not constraint or len(self._constraints) == 1:
                    raise
                self._constraints.remove(kind)

    def _exchange(
        self, request: InFlight, method: str, path: str, body: Mapping[str, Any] | None
    ) -> Mapping[str, Any]:
        """The server's reply, after `openai.retries` retries at most."""
        content = None if body is None else json.dumps(body).encode()
        retry = 0
        while True:
            try:
                response = self._transport.send(request, method, path, content)
                return protocol.reply_of(response, self._transport.url, self._settings.key_variable)
            except UnreachableError:
                if retry == self._settings.retries or request.stopped.wait(MIN_BACKOFF_S * 2.0**retry):
                    raise
            retry += 1


def _display_name(settings: Settings) -> str:
    server = urlsplit(settings.openai.url).netloc
    return f"{settings.openai.model} at {server}" if settings.openai.model else server


def _check(settings: Settings) -> str:
    Transport(settings.openai)
    return f"address, API key and certificates for {settings.openai.url} are valid"


register(
    Backend(
        name="openai",
        open=OpenaiVlm,
        display_name=_display_name,
        provenance=lambda settings: {"server": settings.openai.url, "name": settings.openai.model},
        check=_check,
        remedy="make sure that the server runs, and check openai.url and openai.model",
    )
)
