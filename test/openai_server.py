# SPDX-License-Identifier: Apache-2.0
"""A server of OpenAI's protocol that does as a test says, and a client of it."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from lfm_perception.backends.openai import OpenaiVlm
from lfm_perception.demo.bodies import LABELS
from lfm_perception.image_plan import ImagePlan
from lfm_perception.questions import BBOX, FramePlan, detect
from lfm_perception.settings import Settings

PATIENCE_S = 60.0
BUDGET_S = 0.5
SLACK_S = 0.5
"""What a busy machine may add to a budget."""

FIND = detect(BBOX, LABELS)
PLAN = FramePlan(ImagePlan(256, 256), answer_tokens=200, deadline_s=BUDGET_S)
BOX = '[{"label": "box", "bbox": [0.1, 0.2, 0.3, 0.4]}]'


def chosen(url: str, **values: object) -> Settings:
    """Settings for a server, `values` named `group__key`."""
    dotted = {name.replace("__", "."): value for name, value in values.items()}
    return Settings().with_values(
        {
            "engine.backend": "openai",
            "openai.url": url,
            "openai.model": "demo",
            "sampling.temperature": 0.0,
            **dotted,
        }
    )


def client(url: str, **values: object) -> closing[OpenaiVlm]:
    return closing(OpenaiVlm(chosen(url, **values)))


Reply = Callable[["Handler"], None]


class Server(ThreadingHTTPServer):
    """Answers as `reply` says, and remembers what it was sent: path, headers, body."""

    daemon_threads = True
    request_queue_size = 50

    def __init__(self, reply: Reply) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.reply = reply
        self.requests: list[tuple[str, dict[str, str], Any]] = []
        self.released = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, *_: object) -> None:
        """Clients that hang up are expected."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.requests.append((self.path, dict(self.headers), json.loads(body) if body else None))
        self.server.reply(self)

    do_GET = do_POST  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Silent."""


@contextmanager
def serving(reply: Reply, tls: ssl.SSLContext | None = None) -> Iterator[Server]:
    server = Server(reply)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.released.set()
        server.shutdown()
        thread.join()
        server.server_close()


def say(status: int, content: bytes, **headers: str) -> Reply:
    def reply(handler: Handler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    return reply


def completion(content: object, **choice: object) -> bytes:
    message = {"role": "assistant", "content": content}
    return json.dumps(
        {"choices": [{"index": 0, "message": message, "finish_reason": "stop", **choice}]}
    ).encode()


GOOD = say(200, completion(BOX))
