# SPDX-License-Identifier: Apache-2.0
"""A model hub on this computer that answers like the real one, and injects faults on request."""

from __future__ import annotations

import gzip
import hashlib
import re
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Fault:
    """Faults in the transfer of one file.

    `cuts`: numbers of bytes after which the next responses end; `flip`: position of a changed byte;
    `pause_s`: pause between blocks of 64 kB; `held`: no body is sent while it is set; `stalls`: number of
    next responses that never begin; `ranges`: whether range requests are supported; `answer`: the kind of
    answer that is sent in place of the file, see `_wrong_answer`.
    """

    cuts: list[int] = field(default_factory=list)
    flip: int | None = None
    pause_s: float = 0.0
    held: bool = False
    stalls: int = 0
    ranges: bool = True
    answer: str = ""


class Hub:
    """Serves the files of one repository at one commit, as HF_ENDPOINT.

    `asked` holds file and first byte of each request for a body; `etags` are the SHA-256 that it states.
    """

    def __init__(self, repo: str, files: dict[str, bytes]) -> None:
        self.repo = repo
        self.files = files
        self.faults: dict[str, Fault] = {name: Fault() for name in files}
        self.etags = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
        self.asked: list[tuple[str, int]] = []
        self.tokens: dict[str, str] = {}
        """The last authorization sent to each host: the hub, and the one where its files are."""
        self.gated = False
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                hub._answer(self, body=False)

            def do_GET(self) -> None:
                hub._answer(self, body=True)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Hub:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, request: BaseHTTPRequestHandler, *, body: bool) -> None:
        host = request.headers["Host"].partition(":")[0]
        self.tokens[host] = request.headers.get("Authorization", "")
        if request.path.startswith("/storage/"):
            self._body(request, request.path.removeprefix("/storage/"), body=body)
            return
        asked = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", request.path)
        repo, revision, name = asked.groups() if asked else ("", "", "")
        wrong = (
            "GatedRepo" if self.gated
            else "RepoNotFound" if repo != self.repo
            else "RevisionNotFound" if revision not in ("main", COMMIT)
            else "EntryNotFound" if name not in self.files
            else ""
        )  # fmt: skip
        if wrong:
            request.send_response(403 if self.gated else 404)
            request.send_header("X-Error-Code", wrong)
        else:
            request.send_response(302)
            # a hub keeps its files on another host
            elsewhere = self.address.replace("127.0.0.1", "localhost")
            request.send_header("Location", f"{elsewhere}/storage/{name}")
            request.send_header("X-Repo-Commit", COMMIT)
            request.send_header("X-Linked-Size", str(len(self.files[name])))
            request.send_header("X-Linked-ETag", f'"{self.etags[name]}"')
        request.send_header("Content-Length", "0")
        request.end_headers()

    def _body(self, request: BaseHTTPRequestHandler, name: str, *, body: bool) -> None:
        content, fault = self.files[name], self.faults[name]
        begin = 0
        if fault.ranges and (asked := re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range", ""))):
            begin = int(asked[1])
        if body:
            self.asked.append((name, begin))
        if fault.stalls:
            fault.stalls -= 1
            time.sleep(30.0)
            return
        if fault.answer:
            with suppress(ConnectionError):  # the client hangs up
                _wrong_answer(request, fault.answer, content, begin)
            return
        request.send_response(206 if begin else 200)
        if begin:
            request.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
        request.send_header("Content-Length", str(len(content) - begin))
        request.end_headers()
        if not body:
            return
        while fault.held:
            time.sleep(0.02)
        sent = bytearray(content)
        if fault.flip is not None:
            sent[fault.flip] ^= 1
        end = min(len(sent), begin + fault.cuts.pop(0)) if fault.cuts else len(sent)
        for start in range(begin, end, 1 << 16):
            request.wfile.write(sent[start : min(end, start + (1 << 16))])
            time.sleep(fault.pause_s)
        if end < len(sent):
            request.close_connection = True


def _wrong_answer(request: BaseHTTPRequestHandler, kind: str, content: bytes, begin: int) -> None:
    """An answer as portals, proxies and broken servers give it."""
    length = len(content)
    right_range = f"bytes {begin}-{length - 1}/{length}"
    status, headers, body = {
        "log-in page": (200, {}, b"<html>please log in</html>"),
        "empty range": (206, {"Content-Range": right_range}, b""),
        "one byte of unknown length": (206, {"Content-Range": right_range, "Content-Length": ""}, b"x"),
        "compressed": (200, {"Content-Encoding": "gzip"}, gzip.compress(content, 1)),
        "longer": (200, {}, content + b"more"),
        "endless": (200, {"Content-Length": ""}, b""),
        "trickle": (200, {"Content-Length": str(length)}, b""),
        "other range": (206, {"Content-Range": f"bytes 7-{length - 1}/{length}"}, content[begin:]),
        "no such range": (416, {}, b""),
        "redirect to itself": (302, {"Location": request.path}, b""),
    }[kind]
    request.send_response(status)
    for name, value in {"Content-Length": str(len(body)), **headers}.items():
        if value:
            request.send_header(name, value)
    request.end_headers()
    request.close_connection = True
    request.wfile.write(body)
    while kind == "endless":
        request.wfile.write(b"A" * (1 << 16))
    while kind == "trickle":
        request.wfile.write(b"x")
        time.sleep(0.5)
