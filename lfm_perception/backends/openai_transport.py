"""HTTP transport of the `openai` backend: one kept connection that can be interrupted from any thread.

The API key comes from the environment and never travels without TLS, except to this machine. Certificates are
always verified. Redirects are not followed.
"""

from __future__ import annotations

import http.client
import ipaddress
import os
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from lfm_perception.errors import PerceptionError, os_reason
from lfm_perception.settings import OpenaiSettings

MAX_RESPONSE_BYTES = 4 << 20
"""Longest response that is read; 512 tokens with their log-probabilities are about 100 kB."""


class ServerError(PerceptionError):
    """The server gave no answer that could be used."""


class UnreachableError(ServerError):
    """The server cannot be reached or is overloaded: a retry may help."""


@dataclass(frozen=True, slots=True)
class Response:
    """An HTTP response, complete."""

    status: int
    headers: Mapping[str, str]
    content: bytes


class InFlight:
    """A request in flight: its deadline (monotonic clock), and whether it was stopped or cancelled."""

    def __init__(self, transport: Transport, deadline_s: float) -> None:
        self._transport, self._deadline_s = transport, deadline_s
        self.stopped = threading.Event()
        self.cancelled = False

    @property
    def left_s(self) -> float:
        """Time left before the deadline."""
        return self._deadline_s - time.monotonic()

    def stop(self, *, cancelled: bool = False) -> None:
        """End the request, also in the middle of a transfer. From any thread."""
        self.cancelled |= cancelled
        self.stopped.set()
        self._transport.interrupt(self)


class Transport:
    """The connection to the server. For one thread, except `interrupt` and `close`.

    Raises PerceptionError when address, key or certificates of the settings cannot be used.
    """

    def __init__(self, settings: OpenaiSettings) -> None:
        parts = _split(settings.url)
        self.url = settings.url.rstrip("/")
        self._host, self._port, self._path = parts.hostname or "", parts.port, parts.path.rstrip("/")
        self._tls = _tls(settings.ca_file) if parts.scheme == "https" else None
        self._headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if key := _key(settings.key_variable):
            if self._tls is None and not _is_loopback(self._host):
                raise PerceptionError(
                    f"openai.url {self.url} would send the API key in ${settings.key_variable} unencrypted: "
                    "use https, or no key"
                )
            self._headers["Authorization"] = f"Bearer {key}"
        self._connection: http.client.HTTPConnection | None = None
        self._lock = threading.Lock()
        self._in_flight: InFlight | None = None

    def send(self, request: InFlight, method: str, path: str, content: bytes | None) -> Response:
        """Send a request and read its response. A kept connection that fails is replaced once.

        Raises:
            UnreachableError: The network or the server failed.
            ServerError: TLS failed, or the response is too long.
        """
        kept = self._connection is not None
        try:
            return self._transfer(request, method, path, content)
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.close()
            if kept and not request.stopped.is_set():  # the server may have closed an idle connection
                return self.send(request, method, path, content)
            raise self._failure(error) from error

    def interrupt(self, request: InFlight) -> None:
        """Shut the connection down if it carries this request, from any thread."""
        with self._lock:
            connection = self._connection if self._in_flight is request else None
            if connection is not None and connection.sock is not None:
                with suppress(OSError):
                    # of the plain socket: that of TLS would wait for the other side
                    socket.socket.shutdown(connection.sock, socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection; the next request opens another."""
        with self._lock:
            connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _transfer(self, request: InFlight, method: str, path: str, content: bytes | None) -> Response:
        with self._lock:
            self._in_flight = request
        try:
            connection = self._connected(request)
            connection.request(method, self._path + path, content, self._headers)
            response = connection.getresponse()
            received = response.read(MAX_RESPONSE_BYTES + 1)
            if len(received) > MAX_RESPONSE_BYTES:
                self.close()
                raise ServerError(f"{self.url} answered with more than {MAX_RESPONSE_BYTES >> 20} MB")
            if response.length:  # a read with a limit does not raise this itself
                raise http.client.IncompleteRead(received, response.length)
            if response.will_close:
                self.close()
            return Response(response.status, dict(response.headers), received)
        finally:
            with self._lock:
                self._in_flight = None

    def _connected(self, request: InFlight) -> http.client.HTTPConnection:
        left_s = request.left_s
        if left_s <= 0.0 or request.stopped.is_set():
            raise TimeoutError("the time is up")
        connection = self._connection
        if connection is None:
            connection = (
                http.client.HTTPConnection(self._host, self._port, timeout=left_s)
                if self._tls is None
                else http.client.HTTPSConnection(self._host, self._port, timeout=left_s, context=self._tls)
            )
            connection.connect()
            with self._lock:
                self._connection = connection
        assert connection.sock is not None
        connection.sock.settimeout(left_s)
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def _failure(self, error: Exception) -> ServerError:
        if isinstance(error, ssl.SSLCertVerificationError):
            return ServerError(
                f"certificate verification of {self.url} failed ({error.verify_message}): "
                "name the certificate of its authority in openai.ca_file"
            )
        if isinstance(error, ssl.SSLError):
            return ServerError(f"the TLS connection to {self.url} failed ({error.reason or error})")
        if isinstance(error, http.client.HTTPException):
            return UnreachableError(f"{self.url} closed the connection or does not speak HTTP ({error!r})")
        reason = os_reason(error) if isinstance(error, OSError) else str(error).lower()
        return UnreachableError(f"{self.url} cannot be reached ({reason}): is the server running?")


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        port = parts.port  # raises when it is not a number
    except ValueError as error:
        raise PerceptionError(f"openai.url {url!r} is not an address ({error})") from error
    plain = not (parts.query or parts.fragment or parts.username or parts.password)
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0 or not plain:
        raise PerceptionError(
            f"openai.url must be an address like http://host:8000/v1 or https://host/v1, got {url!r}"
        )
    return parts


def _tls(ca_file: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=Path(ca_file).expanduser() if ca_file else None)
    except (OSError, ValueError) as error:
        raise PerceptionError(f"openai.ca_file {ca_file} holds no certificates that can be read") from error


def _key(variable: str) -> str:
    key = os.environ.get(variable, "").strip() if variable else ""
    if variable and not key:
        raise PerceptionError(f"openai.key_variable names ${variable}, which is not set: export the API key")
    if not (key.isascii() and (key.isprintable())):
        raise PerceptionError(f"the API key in ${variable} holds characters that cannot be sent")
    return key


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
