# SPDX-License-Identifier: Apache-2.0
"""Address, certificates and credentials of a broker, checked before anything is sent."""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass, field
from pathlib import Path

from lfm_perception.errors import PerceptionError
from lfm_perception.files import read_secret
from lfm_perception.network import is_loopback, split_url, tls_context
from lfm_perception.text import is_safe

PORTS = {"mqtt": 1883, "mqtts": 8883}
"""Schemes of addresses, and their usual ports."""

MAX_PASSWORD = 65_535
"""Maximum length of a password in MQTT, bytes."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """Where the user and the certificates come from. Secrets are never options themselves."""

    username: str = ""
    password_variable: str = ""
    password_file: Path | None = None
    ca_file: Path | None = None
    certificate: Path | None = None
    key: Path | None = None


@dataclass(frozen=True, slots=True)
class Broker:
    """A broker. Made by `of`."""

    url: str
    host: str
    port: int
    tls: ssl.SSLContext | None = None
    username: str = ""
    password: str = field(default="", repr=False)

    @classmethod
    def of(cls, url: str, credentials: Credentials) -> Broker:
        """The broker at `mqtt://host:1883` or `mqtts://host:8883`.

        Raises PerceptionError when the address, a file or a credential cannot be used.
        """
        example = "mqtts://host:8883 or mqtt://host:1883"
        parts = split_url(url, "a broker", PORTS, example)
        if parts.path.strip("/"):
            raise PerceptionError(f"a broker must be an address like {example}, without a path, got {url!r}")
        encrypted, host = parts.scheme == "mqtts", parts.hostname or ""
        password = _password(credentials)
        if password and not credentials.username:
            raise PerceptionError("a password belongs to a --username: name it too")
        if password and not encrypted and not is_loopback(host):
            raise PerceptionError(f"{url} would send the password unencrypted: use mqtts://")
        if not encrypted and (credentials.ca_file or credentials.certificate or credentials.key):
            raise PerceptionError(f"certificates are for mqtts://, and {url} is not encrypted")
        tls = _tls(credentials) if encrypted else None
        return cls(url, host, parts.port or PORTS[parts.scheme], tls, credentials.username, password)


def _password(credentials: Credentials) -> str:
    variable, file = credentials.password_variable, credentials.password_file
    if variable and file:
        raise PerceptionError("give --password-variable or --password-file, not both")
    if variable:
        password = os.environ.get(variable, "")
        if not password:
            raise PerceptionError(
                f"--password-variable names ${variable}, which is not set: export the password"
            )
    elif file:
        password = read_secret(file, "--password-file").decode("utf-8", "surrogateescape")
        if not password:
            raise PerceptionError(f"--password-file {file} is empty")
    else:
        return ""
    if len(password.encode("utf-8", "surrogateescape")) > MAX_PASSWORD or not is_safe(password):
        raise PerceptionError("the password is too long, or holds characters that cannot be sent")
    return password


def _tls(credentials: Credentials) -> ssl.SSLContext:
    """Verifies the broker always, and shows a certificate of its own where one is given."""
    ca_file, certificate, key = credentials.ca_file, credentials.certificate, credentials.key
    context = tls_context(ca_file, "--ca-file")
    context.sslsocket_class = _Socket
    if (certificate is None) != (key is None):
        raise PerceptionError("a client certificate needs both --certificate and --key")
    if certificate is not None and key is not None:
        read_secret(key, "--key")
        try:
            # an encrypted key would ask at a terminal
            context.load_cert_chain(certificate, key, password=lambda: b"")
        except (OSError, ValueError) as error:
            raise PerceptionError(
                f"--certificate {certificate} and --key {key} are no pair in PEM without a passphrase"
            ) from error
    return context


class _Socket(ssl.SSLSocket):
    """Closed when its handshake fails; paho-mqtt leaves that to the garbage collector."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except BaseException:
            self.close()
            raise
