"""A model on a server that speaks OpenAI's protocol: vLLM, SGLang, llama-server, llama-cpp-python's own.

    describe() ──picture, words──► thread `server` ──POST chat/completions──► server
               ◄── answer, or one sentence, when the time is up at the latest

The caller waits for a result and no longer than its deadline, whatever the server or the network do: the
connection is then shut from outside. What comes back is held to be anything at all until it was checked. A
key comes from the environment only and never travels without TLS, redirects are not followed, and TLS is
always verified.
"""

from __future__ import annotations

import base64
import http.client
import ipaddress
import json
import math
import os
import reprlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import SplitResult, urlsplit

import cv2

from lfm_perception.answers import Parsed, TokenLogProb, parse
from lfm_perception.backends.registry import Backend, Notify, register
from lfm_perception.errors import PerceptionError
from lfm_perception.image_plan import ImagePlan
from lfm_perception.planning.resize import resize
from lfm_perception.questions import Dialect, FramePlan, Question
from lfm_perception.scene import Answer, Detection, Frame, Usage
from lfm_perception.settings import OpenaiSettings, Settings
from lfm_perception.vlm import CancelledError, Health

T = TypeVar("T")

LARGEST_ANSWER = 4 << 20
"""Bytes of the longest response that is read; 512 tokens with their log-probabilities are about 100 kB."""

FIRST_PAUSE_S = 0.05
"""Before the second attempt; doubled before each further one."""

FIRST_LOOK_S = 2.0
"""How long opening waits for the server. One that comes later is used from then on."""

CONSTRAINTS = ("json_schema", "json_object", "none")
"""Ways of holding a server to JSON, the best first; `openai.constraint` auto goes down until one is taken."""


class ServerError(PerceptionError):
    """The server gave no answer that could be used."""


class UnreachableError(ServerError):
    """The server cannot be reached or is in trouble: another attempt may help."""


class ConstraintError(ServerError):
    """The server does not know this way of holding it to JSON."""


class OpenaiVlm:
    """A `Vlm` on a server. Safe to use from several threads; questions are answered one by one.

    Where no model is named, the server is asked for one at the start; `tell` hears when it is out of reach
    then, and when it answers again after a failure. Time over, a server in trouble or an answer that is none
    is a ServerError; nothing is ever left waiting.
    `Usage`: `encode_s` is the making of the picture, `decode_s` all that the server and the network took.

    Raises PerceptionError when the settings cannot be used: address, key, certificate.
    """

    def __init__(self, settings: Settings, notify: Notify = lambda sentence: None) -> None:
        self._settings, self._notify = settings.openai, notify
        self._sampling = settings.sampling
        self._server = _Server(settings.openai)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="server")
        self._asked: set[_Asked] = set()
        self._health = Health()
        self._model = settings.openai.model
        wanted = settings.openai.constraint
        self._constraints = list(CONSTRAINTS if wanted == "auto" else (wanted,))
        try:
            self._run(self._name_of_model, FIRST_LOOK_S)
        except ServerError as error:
            notify(f"{error}; it is tried again with every frame")

    def describe(self, frame: Frame, question: Question, plan: FramePlan) -> Answer:
        """See `Vlm.describe`. Raises ServerError when the server gave no answer that could be used."""
        if plan.answer_tokens < 1:
            raise PerceptionError(
                f"the plan leaves {plan.answer_tokens} tokens for the answer: raise the budget"
            )
        limit_s = self._settings.timeout
        if plan.deadline_s is not None:
            limit_s = min(limit_s, plan.deadline_s)
        return self._run(lambda asked: self._answer(frame, question, plan, asked), limit_s)

    def cancel(self) -> None:
        """See `Vlm.cancel`."""
        for asked in tuple(self._asked):
            asked.stop(cancelled=True)

    def health(self) -> Health:
        """See `Vlm.health`."""
        return self._health

    def close(self) -> None:
        """See `Vlm.close`."""
        self.cancel()
        self._thread.shutdown(wait=False)
        self._server.hang_up()

    def _run(self, job: Callable[[_Asked], T], limit_s: float) -> T:
        """Do a job on the thread, and be back with its result or a sentence when the time is up."""
        asked = _Asked(self._server, time.monotonic() + limit_s)
        self._asked.add(asked)
        try:
            result = self._submit(job, asked).result(max(0.0, limit_s))
        except FutureTimeoutError:
            asked.stop()
            late = ServerError(f"{self._server.url} gave no answer within {limit_s:.3g} s")
            self._failed(late)
            raise late from None
        except ServerError as error:
            if asked.cancelled:
                raise CancelledError("the question was cancelled") from error
            self._failed(error)
            raise
        finally:
            self._asked.discard(asked)
        if not self._health.ready:
            self._health = Health()
            self._notify(f"{self._server.url} answers again")
        return result

    def _submit(self, job: Callable[[_Asked], T], asked: _Asked) -> Future[T]:
        try:
            return self._thread.submit(job, asked)
        except RuntimeError as error:
            raise PerceptionError("the model has been closed: open it again before asking") from error

    def _failed(self, error: ServerError) -> None:
        self._health = replace(self._health, ready=False, problem=str(error))

    # --- on the thread -------------------------------------------------------------------------------

    def _name_of_model(self, asked: _Asked) -> str:
        """The name under which the server knows the model."""
        if not self._model:
            listed = self._attempts(asked, "GET", "/models", None)
            names = [_text(model, "id") for model in _list(listed, "data")]
            if not names or not names[0]:
                raise ServerError(f"{self._server.url} lists no model: name one in openai.model")
            self._model = names[0]
        return self._model

    def _answer(self, frame: Frame, question: Question, plan: FramePlan, asked: _Asked) -> Answer:
        started = time.perf_counter()
        picture = _data_url(frame, plan.image, self._settings.jpeg_quality)
        encode_s = time.perf_counter() - started
        body = {
            "model": self._name_of_model(asked),
            "messages": _messages(question, picture),
            "max_tokens": plan.answer_tokens,
            "temperature": self._sampling.temperature,
            "seed": self._sampling.seed,
            # vLLM's and SGLang's names, then llama.cpp's; each server passes over what it does not know
            "min_p": self._sampling.min_p,
            "repetition_penalty": self._sampling.repeat_penalty,
            "repeat_penalty": self._sampling.repeat_penalty,
        }
        if question.dialect is not None:
            body |= {"logprobs": True, "top_logprobs": 1}
        reply = self._constrained(asked, body, question)
        usage = _usage(reply, plan.image, encode_s, time.perf_counter() - started - encode_s)
        return self._read(reply, question, usage)

    def _constrained(self, asked: _Asked, body: Mapping[str, Any], question: Question) -> Mapping[str, Any]:
        """Ask with the best constraint that the server takes."""
        while True:
            kind = self._constraints[0]
            extra = _response_format(kind, question)
            try:
                return self._attempts(asked, "POST", "/chat/completions", {**body, **extra})
            except ConstraintError:
                if not extra or len(self._constraints) == 1:
                    raise
                if self._constraints[0] == kind:
                    del self._constraints[0]

    def _attempts(
        self, asked: _Asked, method: str, path: str, body: Mapping[str, Any] | None
    ) -> Mapping[str, Any]:
        """What the server says, at the first attempt that works."""
        problem: ServerError = ServerError(f"{self._server.url} was not asked")
        for attempt in range(self._settings.retries + 1):
            if attempt and asked.stopped.wait(FIRST_PAUSE_S * 2.0 ** (attempt - 1)):
                break
            try:
                return self._server.exchange(asked, method, path, body)
            except UnreachableError as error:
                problem = error
        raise problem

    def _read(self, reply: Mapping[str, Any], question: Question, usage: Usage) -> Answer:
        """The answer in a reply, of which nothing is believed before it was checked."""
        choices = _list(reply, "choices")
        text = _text(_mapping(choices[0], "message"), "content") if choices else None
        if text is None:
            raise ServerError(f"{self._server.url} answered without text: {_short(json.dumps(reply))}")
        truncated = _text(choices[0], "finish_reason") == "length"
        if question.dialect is None:
            return Answer(text, truncated=truncated, usage=usage)
        parsed = parse(text, question.dialect, labels=question.labels, closed=question.closed)
        if not parsed.objects and not parsed.rejects and "[" not in text:
            # not the same as seeing nothing, which is an empty list
            raise ServerError(f"{self._server.url} answered with no list of objects: {_short(text)}")
        detections = self._scored(parsed, _tokens(choices[0], text))
        return Answer(text, detections, truncated, parsed.rejects, usage)

    def _scored(self, parsed: Parsed, tokens: Sequence[TokenLogProb]) -> tuple[Detection, ...]:
        if tokens:
            return parsed.scored(tokens)
        return tuple(replace(found, score=self._settings.score) for found in parsed.detections)


class _Asked:
    """A question under way: until when it is worth an answer, and whether it was taken back."""

    def __init__(self, server: _Server, until_s: float) -> None:
        self._server, self._until_s = server, until_s
        self.stopped = threading.Event()
        self.cancelled = False

    @property
    def left_s(self) -> float:
        return self._until_s - time.monotonic()

    def stop(self, *, cancelled: bool = False) -> None:
        """End it, also in the middle of a transfer. From any thread."""
        self.cancelled |= cancelled
        self.stopped.set()
        self._server.interrupt(self)


class _Server:
    """The connection, kept open between questions. Used by one thread, but for `interrupt`."""

    def __init__(self, settings: OpenaiSettings) -> None:
        parts = _address(settings.url)
        self.url = settings.url.rstrip("/")
        self._settings = settings
        self._host, self._port, self._path = parts.hostname or "", parts.port, parts.path.rstrip("/")
        self._tls = _tls(settings.ca_file) if parts.scheme == "https" else None
        self._headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if key := _key(settings.key_variable):
            if self._tls is None and not _is_loopback(self._host):
                raise PerceptionError(
                    f"openai.url {self.url} would send the key of {settings.key_variable} in the clear: "
                    "use https, or no key"
                )
            self._headers["Authorization"] = f"Bearer {key}"
        self._connection: http.client.HTTPConnection | None = None
        self._lock = threading.Lock()
        self._asked: _Asked | None = None

    def exchange(
        self, asked: _Asked, method: str, path: str, body: Mapping[str, Any] | None
    ) -> Mapping[str, Any]:
        """One request and its response. Raises ServerError."""
        content = None if body is None else json.dumps(body).encode()
        kept = self._connection is not None
        try:
            status, headers, text = self._transfer(asked, method, path, content)
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.hang_up()
            if kept and not asked.stopped.is_set():  # the server may have closed a connection that idled
                return self.exchange(asked, method, path, body)
            raise self._unreachable(error) from error
        if status != http.client.OK:
            raise self._refusal(status, headers, text)
        try:
            reply = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ServerError(f"{self.url} answered with what is not JSON: {_short(text)}") from error
        if not isinstance(reply, dict):
            raise ServerError(f"{self.url} answered with JSON that is no object: {_short(text)}")
        return reply

    def _transfer(
        self, asked: _Asked, method: str, path: str, content: bytes | None
    ) -> tuple[int, Mapping[str, str], bytes]:
        with self._lock:
            self._asked = asked
        try:
            connection = self._connected(asked)
            connection.request(method, self._path + path, content, self._headers)
            response = connection.getresponse()
            text = response.read(LARGEST_ANSWER + 1)
            if len(text) > LARGEST_ANSWER:
                self.hang_up()
                raise ServerError(f"{self.url} answered with more than {LARGEST_ANSWER >> 20} MB")
            if response.length:  # reading up to a size does not complain
                raise http.client.IncompleteRead(text, response.length)
            if response.will_close:
                self.hang_up()
            return response.status, dict(response.headers), text
        finally:
            with self._lock:
                self._asked = None

    def _connected(self, asked: _Asked) -> http.client.HTTPConnection:
        left_s = asked.left_s
        if left_s <= 0.0 or asked.stopped.is_set():
            raise TimeoutError("the time is up")
        if self._connection is None:
            connection = (
                http.client.HTTPConnection(self._host, self._port, timeout=left_s)
                if self._tls is None
                else http.client.HTTPSConnection(self._host, self._port, timeout=left_s, context=self._tls)
            )
            connection.connect()
            with self._lock:
                self._connection = connection
        connection = self._connection
        assert connection is not None
        assert connection.sock is not None
        connection.sock.settimeout(left_s)
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def interrupt(self, asked: _Asked) -> None:
        """Break the connection under a question, from any thread."""
        with self._lock:
            if self._asked is asked and self._connection is not None and self._connection.sock is not None:
                with suppress(OSError):
                    # of the plain socket: TLS's own would wait for the other side
                    socket.socket.shutdown(self._connection.sock, socket.SHUT_RDWR)

    def hang_up(self) -> None:
        """Close the connection; the next question makes another."""
        with self._lock:
            connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _unreachable(self, error: Exception) -> ServerError:
        if isinstance(error, ssl.SSLCertVerificationError):
            return ServerError(
                f"{self.url} does not prove who it is ({error.verify_message}): "
                "name its authority's certificate in openai.ca_file"
            )
        if isinstance(error, ssl.SSLError):
            return ServerError(f"{self.url} does not speak TLS as it should ({error.reason or error})")
        if isinstance(error, http.client.HTTPException):
            return UnreachableError(f"{self.url} broke off or does not speak HTTP ({error!r})")
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return UnreachableError(f"{self.url} cannot be reached ({why.lower()}): is the server running?")

    def _refusal(self, status: int, headers: Mapping[str, str], text: bytes) -> ServerError:
        said = _complaint(text)
        answered = f"{self.url} answered {status}"
        if 300 <= status < 400:
            place = _short(headers.get("Location", "nowhere"))
            return ServerError(f"{answered} and points to {place}: give the final address in openai.url")
        if status in (401, 403):
            return ServerError(f"{answered}: it wants another key than openai.key_variable names")
        if "response_format" in said or "json_schema" in said:
            return ConstraintError(f"{answered} to openai.constraint: {_short(said)}")
        if status == 429 or status >= 500:
            return UnreachableError(f"{answered}: {_short(said)}")
        return ServerError(f"{answered}: {_short(said)}")


def _address(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        port = parts.port  # read, because it may be no number
    except ValueError as error:
        raise PerceptionError(f"openai.url {url!r} is no address ({error})") from error
    plain = not (parts.query or parts.fragment or parts.username or parts.password)
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0 or not plain:
        raise PerceptionError(
            f"openai.url must be an address like http://host:8000/v1 or https://host/v1, got {url!r}"
        )
    return parts


def _tls(ca_file: str) -> ssl.SSLContext:
    path = Path(ca_file).expanduser() if ca_file else None
    try:
        return ssl.create_default_context(cafile=path)
    except (OSError, ValueError) as error:
        raise PerceptionError(f"openai.ca_file {ca_file} holds no certificates that can be read") from error


def _key(variable: str) -> str:
    if not variable:
        return ""
    key = os.environ.get(variable, "").strip()
    if not key:
        raise PerceptionError(
            f"openai.key_variable names {variable}, and there is no such variable in the environment: set it"
        )
    if not (key.isascii() and key.isprintable()):
        raise PerceptionError(f"the key in {variable} holds characters that cannot be sent")
    return key


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


# --- the request -------------------------------------------------------------------------------------


def _data_url(frame: Frame, plan: ImagePlan, jpeg_quality: int) -> str:
    """The frame at its planned size as a `data:` address."""
    bgr = cv2.cvtColor(resize(frame.image, plan), cv2.COLOR_RGB2BGR)
    suffix, options = (".jpg", [cv2.IMWRITE_JPEG_QUALITY, jpeg_quality]) if jpeg_quality else (".png", [])
    kind = "jpeg" if jpeg_quality else "png"
    _, encoded = cv2.imencode(suffix, bgr, options)
    return f"data:image/{kind};base64,{base64.b64encode(encoded.tobytes()).decode()}"


def _messages(question: Question, picture: str) -> list[dict[str, Any]]:
    system = [{"role": "system", "content": question.prompt.system}] if question.prompt.system else []
    content = [
        {"type": "image_url", "image_url": {"url": picture}},
        {"type": "text", "text": question.prompt.user},
    ]
    return [*system, {"role": "user", "content": content}]


def _response_format(kind: str, question: Question) -> dict[str, Any]:
    """What holds a server to the question's dialect, as a part of the request."""
    if question.dialect is None or kind == "none":
        return {}
    schema = _schema(question.dialect, question.labels if question.closed else ())
    if kind == "json_schema":
        named = {"name": "objects", "schema": schema, "strict": True}
        return {"response_format": {"type": "json_schema", "json_schema": named}}
    return {"response_format": {"type": "json_object", "schema": schema}}


def _schema(dialect: Dialect, names: Sequence[str]) -> dict[str, Any]:
    """An answer in a dialect as JSON Schema; `names` are the only ones allowed, empty: any."""
    side = {"type": "number" if dialect.decimals else "integer"}
    values: dict[str, dict[str, Any]] = {
        dialect.label_key: {"type": "string", **({"enum": list(names)} if names else {})},
        dialect.box_key: {"type": "array", "items": side, "minItems": 4, "maxItems": 4},
    }
    item = {
        "type": "object",
        "properties": {key: values.get(key, {"type": "integer"}) for key in dialect.keys},
        "required": list(dialect.keys),
        "additionalProperties": False,
    }
    return {"type": "array", "items": item}


# --- the response ------------------------------------------------------------------------------------


def _usage(reply: Mapping[str, Any], plan: ImagePlan, encode_s: float, decode_s: float) -> Usage:
    told = _mapping(reply, "usage")
    prompt, answer = _count(told, "prompt_tokens"), _count(told, "completion_tokens")
    return Usage(
        image_tokens=plan.tokens,
        text_tokens=max(0, prompt - plan.tokens),
        answer_tokens=answer,
        encode_s=encode_s,
        decode_s=decode_s,
    )


def _tokens(choice: Any, text: str) -> list[TokenLogProb]:
    """The log-probabilities of an answer's tokens; none when they do not spell the answer."""
    tokens: list[TokenLogProb] = []
    raw, at, begun = text.encode(errors="replace"), 0, 0
    for entry in _list(_mapping(choice, "logprobs"), "content"):
        if at == len(raw):  # the token that ended it
            break
        piece, log_prob = _piece(entry), _number(entry, "logprob")
        if not piece or math.isnan(log_prob) or not raw.startswith(piece, at):
            return []
        first = begun - (piece[0] & 0xC0 == 0x80)
        at += len(piece)
        begun += sum(byte & 0xC0 != 0x80 for byte in piece)
        tokens.append(TokenLogProb(first, begun, min(0.0, log_prob)))
    return tokens if at == len(raw) else []


def _piece(entry: Any) -> bytes:
    """The bytes of a token, of which its text may be but a part of a character."""
    with suppress(TypeError, ValueError, AttributeError):
        return bytes(entry["bytes"]) if entry.get("bytes") else str(entry["token"]).encode()
    return b""


def _complaint(text: bytes) -> str:
    """What a refusal says, which servers wrap in different ways."""
    said = text.decode(errors="replace")
    with suppress(ValueError, RecursionError):
        reply = json.loads(said)
        error = reply.get("error", reply) if isinstance(reply, dict) else reply
        return _text(error, "message") or _text(error, "detail") or said
    return said


def _mapping(value: Any, key: str) -> Mapping[str, Any]:
    found = value.get(key) if isinstance(value, dict) else None
    return found if isinstance(found, dict) else {}


def _list(value: Any, key: str) -> list[Any]:
    found = value.get(key) if isinstance(value, dict) else None
    return found if isinstance(found, list) else []


def _text(value: Any, key: str) -> str | None:
    found = value.get(key) if isinstance(value, dict) else None
    return found if isinstance(found, str) else None


def _number(value: Any, key: str) -> float:
    """NaN where there is none."""
    found = value.get(key) if isinstance(value, dict) else None
    return float(found) if isinstance(found, (int, float)) else math.nan


def _count(value: Mapping[str, Any], key: str) -> int:
    found = value.get(key)
    return found if isinstance(found, int) and not isinstance(found, bool) and found > 0 else 0


_EXCERPT = reprlib.Repr()
_EXCERPT.maxstring = 160


def _short(text: str | bytes) -> str:
    """An excerpt on one line."""
    decoded = text if isinstance(text, str) else text[:1000].decode(errors="replace")
    return _EXCERPT.repr(" ".join(decoded[:1000].split()))


def _display_name(settings: Settings) -> str:
    server = urlsplit(settings.openai.url).netloc
    return f"{settings.openai.model} at {server}" if settings.openai.model else server


def _check(settings: Settings) -> str:
    _Server(settings.openai)
    return f"{settings.openai.url}, address, key and certificates can be used"


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
