# SPDX-License-Identifier: Apache-2.0
"""Addresses and certificates of servers, checked before anything is sent."""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Collection
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from lfm_perception.errors import PerceptionError
from lfm_perception.files import MAX_TEXT_BYTES, read_bytes
from lfm_perception.text import is_safe


def split_url(url: str, name: str, schemes: Collection[str], example: str) -> SplitResult:
    """The parts of a server's address, which has a scheme and a host, and no user, query or fragment.

    Args:
        name: of the option or parameter that holds the address.
        example: of a valid address, for the error message.

    Raises:
        PerceptionError: the text is no such address.
    """
    if set("@?#") & set(url):  # not quoted: it may hold a password or a key
        raise PerceptionError(
            f"{name} must not hold a user or a password, nor any @, ? or #: write {example}"
        )
    try:
        parts = urlsplit(url)
        port = parts.port  # raises when it is not a number
    except ValueError as error:
        raise PerceptionError(f"{name} {url!r} is not an address ({error}): write {example}") from error
    if parts.scheme not in schemes or not parts.hostname or port == 0 or not is_safe(url):
        raise PerceptionError(f"{name} must be an address like {example}, got {url!r}")
    return parts


def is_loopback(host: str) -> bool:
    """Whether what is sent to this host stays on this computer. Names but `localhost` are not looked up."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def tls_context(ca_file: Path | None, name: str) -> ssl.SSLContext:
    """A context that verifies the server by the certificates of a file, or by those of the system.

    Raises PerceptionError, with the `name` of the option, where the file holds none.
    """
    if ca_file is None:
        return ssl.create_default_context()
    try:
        text = read_bytes(ca_file, MAX_TEXT_BYTES).decode("ascii", errors="ignore")
        return ssl.create_default_context(cadata=text or " ")  # an empty text would stand for the system's
    except (OSError, ValueError) as error:
        raise PerceptionError(f"{name} {ca_file} holds no certificates that can be read") from error
