# SPDX-License-Identifier: Apache-2.0
"""The fields of a request that a server may not know: each is left out once the server has refused it.

Servers of OpenAI's protocol differ. Some ignore what they do not know, some refuse it with 400, 422 or 500
and name it, some refuse it without a name. What was refused is remembered for the session.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from lfm_perception.backends.openai_transport import Response

FORMATS = ("json_schema", "json_object", "none")
"""Kinds of `response_format`, the strictest first; `openai.constraint` auto takes the first that works."""

OPTIONAL = (
    "seed",
    "min_p",
    "top_k",
    "repeat_penalty",
    "repetition_penalty",
    "mm_processor_kwargs",
    "temperature",
    "logprobs",
    "top_logprobs",
)
"""Fields without which an answer is still useful."""

LIMIT, NEW_LIMIT = "max_tokens", "max_completion_tokens"
"""The limit on the answer, in the name that all servers knew first and in that which some ask for."""

MAX_BARE_FAILURES = 3
"""Most requests that are tried in vain without anything optional, because no field was named."""

_FORMAT = re.compile(r"response_format|json_schema|json_object|guided|grammar", re.IGNORECASE)


_OTHER_REASONS = (401, 403, 404, 408, 429)
"""Statuses that say nothing about the fields of a request."""


_UNKNOWN = re.compile(r"un(supported|known|recogni|expected)|not (supported|permitted|allowed)|extra", re.I)
"""Refusals of a field for its name; one that only names the limit may be of its value."""


class RequestFields:
    """What one server is sent, as far as it is known to take it. `notify` receives what is left out, once."""

    def __init__(self, constraint: str, notify: Callable[[str], None]) -> None:
        self._formats = list(FORMATS if constraint == "auto" else (constraint,))
        self._refused: set[str] = set()
        self._bare_failures = 0
        self._notify = notify

    def body(self, request: Mapping[str, Any], formats: Mapping[str, Any]) -> dict[str, Any]:
        """The body to send: what the server takes of `request`, and the strictest of `formats` by kind."""
        body = {key: value for key, value in request.items() if key not in self._refused}
        if LIMIT in self._refused:
            body[NEW_LIMIT] = request[LIMIT]
        if (kind := self._formats[0]) in formats:
            body["response_format"] = formats[kind]
        return body

    def learn(self, body: Mapping[str, Any], refusal: Response) -> bool:
        """Leave out what a refusal of the body names. False when it names nothing that can be left out."""
        named = self.named(body, refusal)
        if "response_format" in named:
            self._formats.pop(0)
        self._remember(named)
        return bool(named)

    def named(self, body: Mapping[str, Any], refusal: Response) -> set[str]:
        """The fields of the body that can be left out and that the refusal names."""
        if refusal.status < 400 or refusal.status in _OTHER_REASONS:
            return set()
        message = refusal_text(refusal)
        named = {name for name in OPTIONAL if name in body and re.search(rf"\b{name}\b", message)}
        if LIMIT in body and (NEW_LIMIT in message or (LIMIT in message and _UNKNOWN.search(message))):
            named.add(LIMIT)
        if "response_format" in body and len(self._formats) > 1 and _FORMAT.search(message):
            named.add("response_format")
        return named

    def bare(self, body: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """The body without anything optional, under both names of the limit, for a refusal without a name."""
        if self._bare_failures == MAX_BARE_FAILURES:
            return
        bare = {key: value for key, value in body.items() if key not in OPTIONAL}
        if len(self._formats) > 1:
            bare.pop("response_format", None)
        if bare != body:
            yield bare
        if LIMIT in bare:
            yield {(NEW_LIMIT if key == LIMIT else key): value for key, value in bare.items()}
        self._bare_failures += 1

    def accepted(self, body: Mapping[str, Any], bare: Mapping[str, Any]) -> None:
        """Remember that the server took `bare` and refused `body`."""
        refused = body.keys() - bare.keys()
        if "response_format" in refused:
            self._formats = self._formats[-1:]
        self._remember(refused)

    def _remember(self, names: set[str]) -> None:
        new = names - self._refused
        self._refused |= new - {"response_format"}
        if new:
            self._notify(f"the server refuses {', '.join(sorted(new))}, which later requests do without")


def refusal_text(refusal: Response) -> str:
    """The message of a refusal, without what the server repeats of the request."""
    text = refusal.content.decode(errors="replace")
    with suppress(ValueError, RecursionError):
        reply = json.loads(text)
        error = reply.get("error", reply) if isinstance(reply, dict) else reply
        if isinstance(error, dict):
            details = error.get("detail", error.get("message"))
            if isinstance(details, list):  # of pydantic: `input` repeats a part of the request
                parts = (d for d in details if isinstance(d, dict))
                return "; ".join(f"{d.get('loc', '')}: {d.get('msg', '')}" for d in parts)
            if isinstance(details, str):
                return f"{details} ({error['param']})" if isinstance(error.get("param"), str) else details
    return text
