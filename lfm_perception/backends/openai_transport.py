# SPDX-License-Identifier: Apache-2.0
"""HTTP transport of the `openai` backend: an asynchronous client on a thread of its own.

The caller's deadline ends a request wherever it stands: look-up, connection, TLS, any byte of the answer.
The API key comes from the environment, never travels without TLS except to this machine, and is masked in
every response. Certificates are always verified. Redirects are not followed, and proxies are not used.
"""

from __future__ import annotations

import asyncio
import os
import re
import ssl
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

import httpx2

from lfm_perception.errors import PerceptionError, os_reason
from lfm_perception.files import user_path
from lfm_perception.network import is_loopback, split_url, tls_context
from lfm_perception.settings import OpenaiSettings

T = TypeVar("T")

EXAMPLE_URL = "http://host:8000/v1 or https://host/v1"
"""Valid values of `openai.url`, for error messages."""

MASK = "***"
MASKED_CHARACTERS = 8
"""A run of text that begins with so many characters of the API key is masked."""

MASKED_PIECE, MAX_ERROR_BYTES = 12, 1 << 16
"""Length of a piece of the API key that is masked too, in answers up to so many bytes: those of errors."""

CLOSE_TIMEOUT_S = 1.0
"""Longest wait for the end of connections that are closed."""


class ServerError(PerceptionError):
    """The server gave no answer that could be used."""


class UnreachableError(ServerError):
    """The server cannot be reached or is overloaded: a retry may help."""


@dataclass(frozen=True, slots=True)
class Response:
    """An HTTP response, complete, with the API key masked."""

    status: int
    content: bytes
    location: str = ""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Address, API key and certificates of a server.

    Raises PerceptionError when those of the settings cannot be used.
    """

    url: str
    key: str = field(default="", repr=False)
    tls: ssl.SSLContext | None = None

    @classmethod
    def of(cls, settings: OpenaiSettings) -> Endpoint:
        """The endpoint of the settings. Raises PerceptionError when they cannot be used."""
        parts = split_url(settings.url, "openai.url", ("http", "https"), EXAMPLE_URL)
        key = _key(settings.key_variable)
        if key and parts.scheme == "http" and not is_loopback(parts.hostname or ""):
            raise PerceptionError(
                f"openai.url {settings.url} would send the API key in ${settings.key_variable} unencrypted: "
                "use https, or no key"
            )
        ca_file = user_path(settings.ca_file) if settings.ca_file else None
        tls = tls_context(ca_file, "openai.ca_file") if parts.scheme == "https" else None
        return cls(settings.url.rstrip("/"), key, tls)

    def masked(self, content: bytes) -> bytes:
        """The content without the API key or a piece of it, and without what follows its first characters."""
        if not self.key:
            return content
        beginning = self.key[:MASKED_CHARACTERS].encode()
        # each character plain, or in one of the escapes of JSON or of addresses
        characters = (
            rb"(?:\\?%s|(?i:\\u00%02x|%%%02x))" % (re.escape(b"%c" % byte), byte, byte) for byte in beginning
        )
        rest = rb"""(?:\\u[0-9a-fA-F]{4}|\\/|[^\s"'\\])*"""
        flags = re.IGNORECASE if len(self.key) > MASKED_CHARACTERS else 0
        content = re.sub(b"".join(characters) + rest, MASK.encode(), content, flags=flags)
        if len(content) <= MAX_ERROR_BYTES:
            for start in range(len(self.key) - MASKED_PIECE + 1):
                content = content.replace(self.key[start : start + MASKED_PIECE].encode(), MASK.encode())
        return content


class Transport:
    """The client of one server. Safe to use from several threads."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint, self.url = endpoint, endpoint.url
        headers = {"Accept-Encoding": "identity", "Content-Type": "application/json"}
        if endpoint.key:
            headers["Authorization"] = f"Bearer {endpoint.key}"
        self._client = httpx2.AsyncClient(
            headers=headers,
            verify=True if endpoint.tls is None else endpoint.tls,
            timeout=None,
            trust_env=False,
            limits=httpx2.Limits(keepalive_expiry=None),
        )
        self._kept = False
        self._running: set[Future[Any]] = set()
        self._closed = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="server", daemon=True)
        self._thread.start()

    def run(self, job: Coroutine[Any, Any, T], limit_s: float) -> T:
        """Run a job on the thread. Raises TimeoutError after `limit_s`, CancelledError after `cancel`."""
        if self._closed:
            job.close()
            raise PerceptionError("the model has been closed: open it again before asking")
        future = asyncio.run_coroutine_threadsafe(job, self._loop)
        self._running.add(future)
        try:
            return future.result(max(0.0, limit_s))
        except FutureTimeoutError:
            raise TimeoutError from None
        finally:
            future.cancel()  # after the deadline or Ctrl-C
            self._running.discard(future)

    def cancel(self) -> None:
        """End the running jobs, from any thread."""
        for future in tuple(self._running):
            future.cancel()

    def close(self) -> None:
        """End the running jobs and the thread. May be called twice."""
        if self._closed:
            return
        self._closed = True
        self.cancel()
        with suppress(FutureTimeoutError):
            asyncio.run_coroutine_threadsafe(self._shut_down(), self._loop).result(CLOSE_TIMEOUT_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CLOSE_TIMEOUT_S)
        if not self._thread.is_alive():
            self._loop.close()

    async def _shut_down(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._client.aclose()

    async def send(self, method: str, path: str, content: bytes | None, max_bytes: int) -> Response:
        """Send a request and read its response. A kept connection that fails is replaced once.

        Raises:
            UnreachableError: The network or the server failed.
            ServerError: TLS failed, or the response is too long.
        """
        kept, self._kept = self._kept, False
        try:
            response = await self._transfer(method, path, content, max_bytes)
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError) as error:
            if kept:  # the server may have closed an idle connection
                return await self.send(method, path, content, max_bytes)
            raise self._failure(error) from error
        self._kept = True
        return response

    async def _transfer(self, method: str, path: str, content: bytes | None, max_bytes: int) -> Response:
        request = self._client.build_request(method, self.url + path, content=content)
        response = await self._client.send(request, stream=True)
        try:
            if response.headers.get("Content-Encoding", "identity") != "identity":
                raise ServerError(f"{self.url} answered compressed, which was not requested")
            received = bytearray()
            async for block in response.aiter_raw():
                received += block
                if len(received) > max_bytes:
                    raise ServerError(f"{self.url} answered with more than {max_bytes >> 10} kB")
        finally:
            await response.aclose()
        masked = self._endpoint.masked
        location = masked(response.headers.get("Location", "").encode(errors="replace"))
        return Response(response.status_code, masked(bytes(received)), location.decode(errors="replace"))

    def _failure(self, error: Exception) -> ServerError:
        causes = _causes(error)
        for cause in causes:
            if isinstance(cause, ssl.SSLCertVerificationError):
                return ServerError(
                    f"certificate verification of {self.url} failed ({cause.verify_message}): "
                    "name the certificate of its authority in openai.ca_file"
                )
            if isinstance(cause, ssl.SSLError):
                return ServerError(f"the TLS connection to {self.url} failed ({cause.reason or cause})")
        if isinstance(error, httpx2.ConnectError):
            reasons = [_reason(cause) for cause in causes if isinstance(cause, OSError) and cause.errno]
            reason = reasons[-1] if reasons else str(error).lower()
            return UnreachableError(f"{self.url} cannot be reached ({reason}): is the server running?")
        reason = str(error) or type(error).__name__
        reason = self._endpoint.masked(reason.encode(errors="replace")).decode(errors="replace")
        return UnreachableError(f"{self.url} closed the connection or does not speak HTTP ({reason})")


def _causes(error: BaseException | None) -> list[BaseException]:
    """The error and what it was raised from, the first cause last."""
    causes: list[BaseException] = []
    while error is not None and error not in causes:
        causes.append(error)
        nested = getattr(error, "exceptions", ())
        error = nested[0] if nested else error.__cause__ or error.__context__
    return causes


def _reason(error: OSError) -> str:
    """The operating system's reason; asyncio replaces it by a text with the address."""
    return os.strerror(error.errno).lower() if error.errno and error.errno > 0 else os_reason(error)


def _key(variable: str) -> str:
    key = os.environ.get(variable, "").strip() if variable else ""
    if variable and not key:
        raise PerceptionError(f"openai.key_variable names ${variable}, which is not set: export the API key")
    if not (key.isascii() and (key.isprintable())):
        raise PerceptionError(f"the API key in ${variable} holds characters that cannot be sent")
    return key
