# SPDX-License-Identifier: Apache-2.0
"""Faults of a server: each is an error before the deadline, and the next frame is answered."""

from __future__ import annotations

import threading
import time
from contextlib import closing

import pytest
from openai_server import (
    BOX,
    BUDGET_S,
    FIND,
    GOOD,
    PATIENCE_S,
    PLAN,
    SLACK_S,
    Handler,
    Reply,
    chosen,
    client,
    completion,
    say,
    serving,
)

from lfm_perception.backends.openai import OpenaiVlm
from lfm_perception.backends.openai_transport import ServerError
from lfm_perception.errors import PerceptionError
from lfm_perception.image_plan import ImagePlan
from lfm_perception.questions import FramePlan
from lfm_perception.scene import Frame
from lfm_perception.vlm import CancelledError


def hang(handler: Handler) -> None:
    handler.server.released.wait(PATIENCE_S)


def drip(handler: Handler) -> None:
    """A byte now and then, which no timeout between two bytes would end."""
    handler.send_response(200)
    handler.send_header("Content-Length", "100000")
    handler.end_headers()
    while not handler.server.released.wait(0.05):
        handler.wfile.write(b" ")


def drip_head(handler: Handler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    while not handler.server.released.wait(0.05):
        handler.wfile.write(b"x")


def hang_up(handler: Handler) -> None:
    handler.close_connection = True


def break_off(handler: Handler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "100000")
    handler.end_headers()
    handler.wfile.write(completion(BOX)[:40])
    handler.close_connection = True


def no_http(handler: Handler) -> None:
    handler.wfile.write(b"220 mail.example ESMTP\r\n" * 10)
    handler.close_connection = True


FAULTS: dict[str, tuple[Reply, str]] = {
    "slow": (hang, "gave no answer within 0.5 s"),
    "dripping": (drip, "gave no answer within 0.5 s"),
    "dripping its head": (drip_head, "gave no answer within 0.5 s"),
    "hanging up": (hang_up, "closed the connection or does not speak HTTP"),
    "breaking off": (break_off, "closed the connection or does not speak HTTP"),
    "another protocol": (no_http, "closed the connection or does not speak HTTP"),
    "in trouble": (say(500, b"out of memory"), "answered 500: 'out of memory'"),
    "overloaded": (say(503, b'{"error": {"message": "loading model"}}'), "answered 503: 'loading model'"),
    "too many requests": (say(429, b""), "answered 429: ''"),
    "wrong request": (say(400, b'{"detail": "no images here"}'), "answered 400: 'no images here'"),
    "not found": (say(404, b"<html>\n  Not Found</html>"), "answered 404: '<html> Not Found</html>'"),
    "wants a key": (say(401, b""), "authentication failed (401): name its API key in openai.key_variable"),
    "redirect": (say(302, b"", Location="http://elsewhere/v1"), "redirects to 'http://elsewhere/v1'"),
    "endless redirect": (say(308, b"", Location="/v1/chat/completions"), "give the final address"),
    "nonsense": (say(200, b"\xff\xfe\x00nonsense"), "invalid JSON"),
    "a web page": (say(200, b"<!DOCTYPE html><html>"), "invalid JSON: '<!DOCTYPE html><html>'"),
    "half JSON": (say(200, completion(BOX)[:70]), "invalid JSON"),
    "deep JSON": (say(200, b"[" * 100_000), "invalid JSON"),
    "10 MB": (say(200, completion("x" * 10_000_000)), "more than 453 kB"),
    "no object": (say(200, b"[]"), "JSON that is not an object"),
    "no choices": (say(200, b'{"choices": []}'), "answered without text"),
    "no content": (say(200, completion(None)), "answered without text"),
    "a refusal in words": (say(200, completion("I cannot see.")), "no list of objects: 'I cannot see.'"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_of_the_server_is_an_error_before_the_deadline(fault: str, frame: Frame) -> None:
    reply, said = FAULTS[fault]
    with serving(reply) as server, client(server.url) as vlm:
        for _ in range(2):
            started = time.monotonic()
            with pytest.raises(ServerError) as failure:
                vlm.describe(frame, FIND, PLAN)
            assert time.monotonic() - started < BUDGET_S + SLACK_S
            assert said in str(failure.value)
            assert server.url in str(failure.value)
            assert "\n" not in str(failure.value)
            assert len(str(failure.value)) < 400
        assert not vlm.health().ready
        assert vlm.health().problem == str(failure.value)
        # an answer makes the server ready at once
        server.released.set()
        server.reply = GOOD
        assert vlm.describe(frame, FIND, PLAN).detections[0].label == "box"
        assert vlm.health().ready


def test_a_server_that_is_down_at_the_start_is_notified_and_used_later(frame: Frame) -> None:
    with serving(GOOD) as server:
        url = server.url
    told: list[str] = []
    with closing(OpenaiVlm(chosen(url, openai__model=""), told.append)) as vlm:
        assert "cannot be reached" in told[0]
        assert not vlm.health().ready
        with pytest.raises(ServerError, match=r"cannot be reached \(connection refused\): is the server"):
            vlm.describe(frame, FIND, PLAN)
    with closing(OpenaiVlm(chosen("http://no-such-host.invalid/v1"), told.append)) as vlm:
        started = time.monotonic()
        with pytest.raises(ServerError, match=r"no-such-host\.invalid"):
            vlm.describe(frame, FIND, PLAN)
        assert time.monotonic() - started < BUDGET_S + SLACK_S


def test_a_failed_request_is_retried_within_the_timeout(frame: Frame) -> None:
    fail = say(500, b"")

    def reply(handler: Handler) -> None:
        (fail if len(server.requests) % 3 else GOOD)(handler)

    with serving(reply) as server:
        with client(server.url, openai__retries=2) as vlm:
            assert vlm.describe(frame, FIND, PLAN).detections
            assert len(server.requests) == 3
        with client(server.url, openai__retries=1) as vlm:
            with pytest.raises(ServerError, match="answered 500"):
                vlm.describe(frame, FIND, PLAN)
            assert len(server.requests) == 5


def test_a_refused_request_is_not_retried(frame: Frame) -> None:
    with serving(say(404, b"no")) as server, client(server.url, openai__retries=5) as vlm:
        with pytest.raises(ServerError):
            vlm.describe(frame, FIND, PLAN)
        assert len(server.requests) == 1


def test_a_connection_that_idled_too_long_is_made_anew(frame: Frame) -> None:
    def reply(handler: Handler) -> None:
        GOOD(handler)
        handler.close_connection = True  # unannounced: the client keeps its end

    with serving(reply) as server, client(server.url, openai__retries=0) as vlm:
        for _ in range(3):
            assert vlm.describe(frame, FIND, PLAN).detections


def test_a_request_in_flight_can_be_cancelled(frame: Frame) -> None:
    with serving(hang) as server, client(server.url) as vlm:
        threading.Timer(0.2, vlm.cancel).start()
        started = time.monotonic()
        with pytest.raises(CancelledError):
            vlm.describe(frame, FIND, FramePlan(ImagePlan(256, 256), 100))
        assert time.monotonic() - started < 0.2 + SLACK_S
        assert vlm.health().ready, "which is not the server's fault"


def test_after_closing_it_cannot_be_asked(frame: Frame) -> None:
    with serving(GOOD) as server:
        vlm = OpenaiVlm(chosen(server.url))
        vlm.close()
        vlm.close()
        with pytest.raises(PerceptionError, match="closed"):
            vlm.describe(frame, FIND, PLAN)
