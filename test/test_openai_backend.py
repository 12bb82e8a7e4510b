# SPDX-License-Identifier: Apache-2.0
"""Answers from a server: llama-cpp-python's own with the demo model, and one that does everything wrong."""

from __future__ import annotations

import base64
import datetime
import ipaddress
import json
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st
from openai_server import (
    BOX,
    BUDGET_S,
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

from lfm_perception.backends import open_vlm
from lfm_perception.backends.openai import OpenaiVlm
from lfm_perception.backends.openai_transport import ServerError
from lfm_perception.demo.bodies import LABELS
from lfm_perception.demo.world import World
from lfm_perception.errors import PerceptionError
from lfm_perception.evaluation.demo import TRIALS, evaluate_trial, run_trial
from lfm_perception.image_plan import ImageLimits, ImagePlan, plan_image
from lfm_perception.live import LiveCallbacks, LivePerception
from lfm_perception.questions import BBOX, BBOX_2D, CAPTION, FramePlan, Question, ask, detect
from lfm_perception.scene import Frame, Scene
from lfm_perception.typed_questions import Decision
from lfm_perception.vlm import CancelledError

FIND = detect(BBOX, LABELS)


@pytest.fixture(scope="module")
def frame() -> Frame:
    return World(seed=1, width=256, height=256).snapshot(0).frame


# --- a real server -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(demo_model: tuple[Path, Path]) -> Iterator[str]:
    """The address of llama-cpp-python's server with the demo model."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    model, mmproj = map(str, demo_model)
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "llama_cpp.server", "--host", "127.0.0.1", "--port", str(port)),
            *("--model", model, "--chat_format", "mtmd", "--clip_model_path", mmproj),
            *("--n_ctx", "1024", "--n_threads", "1", "--n_threads_batch", "1", "--verbose", "false"),
        ],
        env={**os.environ, "OMP_WAIT_POLICY": "passive"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}/v1"
    try:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                urllib.request.urlopen(f"{url}/models", timeout=1.0).close()
                break
            except OSError:
                assert process.poll() is None, "the server ended"
                assert time.monotonic() < deadline, "the server did not start"
                time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait()


def test_a_real_server_with_the_demo_model_finds_what_is_there(real: str) -> None:
    """It tokenizes and resizes for itself, and is as good as the engine here on scenes of 256x256."""
    trial = next(trial for trial in TRIALS if trial.name == "easy")
    with closing(open_vlm(chosen(real, openai__model="", openai__timeout=60.0))) as vlm:
        asked = list(run_trial(vlm, trial, scenes=6, seed=42))
    report = evaluate_trial(trial, asked).detection
    assert report
    assert report.at_50.f1 >= 0.9
    answers = [answer for _, _, answer in asked]
    assert {answer.usage.image_tokens for answer in answers} == {64}
    assert all(answer.usage.text_tokens > 0 and answer.usage.answer_tokens > 0 for answer in answers)
    scores = [found.score for answer in answers for found in answer.detections]
    assert all(0.0 < score < 1.0 for score in scores)
    assert len(set(scores)) == len(scores), "probabilities of the tokens, not the score of the setting"


def test_a_real_server_is_held_to_the_labels_of_a_closed_vocabulary(real: str, frame: Frame) -> None:
    question = detect(BBOX, ["zebra"], closed=True)
    with client(real, openai__timeout=60.0) as vlm:
        answer = vlm.describe(frame, question, FramePlan(ImagePlan(256, 256), 100))
    assert {found.label for found in answer.detections} <= {"zebra"}
    assert answer.rejects.get("not_asked", 0) == 0


def test_a_real_server_computes_the_image_tokens_that_were_planned(real: str) -> None:
    """As it counts them itself, also for two tiles with a thumbnail. `benchmarks/servers.py` does more."""
    limits = ImageLimits(max_tiles=2).for_server()
    plans = [plan_image(*size, limits) for size in ((256, 256), (640, 480), (150, 700), (1280, 640))]
    assert [plan.tiled for plan in plans] == [False, False, False, True]
    counted = []
    with client(real, openai__timeout=60.0) as vlm:
        for number, plan in enumerate((plans[0], *plans)):
            picture = Frame(np.full((96, 128, 3), 99, np.uint8), number)
            counted.append(vlm.describe(picture, FIND, FramePlan(plan, 2)).usage)
            time.sleep(0.0 if number else 1.0)  # the text is counted after the first answer
    assert [usage.image_tokens for usage in counted[1:]] == [plan.tokens for plan in plans]
    text = {usage.text_tokens - plan.marker_tokens for usage, plan in zip(counted[1:], plans, strict=True)}
    assert len(text) == 1, "the text is the same"


def test_an_answer_of_a_real_server_that_reaches_its_tokens_is_truncated(real: str) -> None:
    with client(real, openai__timeout=60.0, openai__constraint="none") as vlm:
        film = World(seed=1, width=256, height=256)
        answer = vlm.describe(film.snapshot(0).frame, FIND, FramePlan(ImagePlan(256, 256), 6))
    assert answer.truncated
    assert answer.usage.answer_tokens == 6


# --- a server that does as it is told ----------------------------------------------------------------


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
        # a server that has come round is believed at once
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


# --- what is sent ------------------------------------------------------------------------------------


def asked(question: Question, plan: FramePlan, **values: object) -> dict[str, Any]:
    """The body of the request that a question becomes."""
    text = BOX if question.dialect is BBOX else "[]"
    with serving(say(200, completion(text))) as server:
        with client(server.url, **values) as vlm:
            vlm.describe(Frame(np.full((480, 640, 3), (200, 30, 30), np.uint8), 0), question, plan)
        path, headers, body = server.requests[-1]
    assert path == "/v1/chat/completions"
    assert headers["Content-Type"] == "application/json"
    assert isinstance(body, dict)
    return body


def test_the_request_holds_the_question_the_limits_and_the_model_cards_sampling() -> None:
    caption = asked(ask(CAPTION), PLAN, sampling__temperature=0.1)
    assert (caption["temperature"], caption["min_p"]) == (0.1, 0.15)
    assert caption["repetition_penalty"] == caption["repeat_penalty"] == 1.05
    body = asked(FIND, PLAN, sampling__temperature=0.1)
    assert (body["model"], body["max_tokens"]) == ("demo", 200)
    assert (body["temperature"], body["min_p"]) == (0.0, 0.0), "boxes have a sampling of their own"
    assert body["repetition_penalty"] == body["repeat_penalty"] == 1.0
    assert asked(ask(CAPTION), PLAN, sampling__top_k=50)["top_k"] == 50
    (user,) = body["messages"]
    picture, words = user["content"]
    assert (user["role"], words["text"]) == ("user", FIND.prompt.user)
    head, _, data = picture["image_url"]["url"].partition(",")
    assert head == "data:image/jpeg;base64"
    decoded = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR_RGB)
    assert decoded is not None
    assert decoded.shape == (256, 256, 3), "as it was planned, so that the server need not resize it"
    assert np.abs(decoded.mean((0, 1)) - (200, 30, 30)).max() < 3.0


def test_the_picture_can_be_sent_without_loss() -> None:
    body = asked(FIND, PLAN, openai__jpeg_quality=0)
    head, _, data = body["messages"][0]["content"][0]["image_url"]["url"].partition(",")
    assert head == "data:image/png;base64"
    decoded = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR_RGB)
    assert decoded is not None
    assert (decoded == (200, 30, 30)).all()


def test_the_schema_follows_the_dialect() -> None:
    body = asked(detect(BBOX_2D, ["box"], closed=True), PLAN)
    assert body["messages"][0] == {"role": "system", "content": BBOX_2D.system}
    assert body["response_format"]["type"] == "json_schema"
    item = body["response_format"]["json_schema"]["schema"]["items"]
    assert list(item["properties"]) == item["required"] == ["image_id", "bbox_2d", "label"]
    assert item["properties"]["label"] == {"type": "string", "enum": ["box"]}
    assert item["properties"]["bbox_2d"]["items"] == {"type": "integer"}
    assert "response_format" not in asked(ask(CAPTION), PLAN)
    assert "response_format" not in asked(FIND, PLAN, openai__constraint="none")


def test_the_strictest_response_format_that_the_server_supports_is_used(frame: Frame) -> None:
    def reply(handler: Handler) -> None:
        kind = server.requests[-1][2].get("response_format", {}).get("type")
        refusal = b'{"error": {"message": "body.response_format.type: unknown"}}'
        (GOOD if kind == "json_object" else say(422, refusal))(handler)

    def kinds() -> list[str]:
        return [body["response_format"]["type"] for _, _, body in server.requests]

    with serving(reply) as server:
        with client(server.url) as vlm:
            for _ in range(2):
                assert vlm.describe(frame, FIND, PLAN).detections
        assert kinds() == ["json_schema", "json_object", "json_object"]
        forced = client(server.url, openai__constraint="json_schema")
        with forced as vlm, pytest.raises(ServerError, match=r"answered 422: 'body\.response_format"):
            vlm.describe(frame, FIND, PLAN)


def test_without_a_name_the_first_model_that_is_listed_is_asked(frame: Frame) -> None:
    def reply(handler: Handler) -> None:
        listed = say(200, b'{"data": [{"id": "LFM2.5-VL-450M"}, {"id": "other"}]}')
        (listed if handler.path == "/v1/models" else GOOD)(handler)

    with serving(reply) as server, client(server.url, openai__model="") as vlm:
        vlm.describe(frame, FIND, PLAN)
        assert server.requests[-1][2]["model"] == "LFM2.5-VL-450M"
        assert [path for path, _, _ in server.requests] == ["/v1/models", "/v1/chat/completions"]


# --- keys and TLS ------------------------------------------------------------------------------------


def test_the_key_comes_from_the_environment(frame: Frame, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LFM_PERCEPTION_KEY", "s3cret")
    with serving(GOOD) as server:
        with client(server.url, openai__key_variable="LFM_PERCEPTION_KEY") as vlm:
            vlm.describe(frame, FIND, PLAN)
        assert server.requests[-1][1]["Authorization"] == "Bearer s3cret"
        with client(server.url) as vlm:
            vlm.describe(frame, FIND, PLAN)
        assert "Authorization" not in server.requests[-1][1]
        server.reply = say(401, b"")
        refused = client(server.url, openai__key_variable="LFM_PERCEPTION_KEY")
        with refused as vlm, pytest.raises(ServerError) as failure:
            vlm.describe(frame, FIND, PLAN)
        assert "authentication failed (401): check $LFM_PERCEPTION_KEY" in str(failure.value)
        assert "s3cret" not in str(failure.value)


def test_an_api_key_is_never_sent_unencrypted_and_a_missing_one_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LFM_PERCEPTION_KEY", "s3cret")
    with pytest.raises(PerceptionError, match="LFM_PERCEPTION_KEY unencrypted: use https"):
        OpenaiVlm(chosen("http://fleet.example/v1", openai__key_variable="LFM_PERCEPTION_KEY"))
    monkeypatch.delenv("LFM_PERCEPTION_KEY")
    with pytest.raises(PerceptionError, match="LFM_PERCEPTION_KEY, which is not set"):
        OpenaiVlm(chosen("https://fleet.example/v1", openai__key_variable="LFM_PERCEPTION_KEY"))


def test_a_redirect_is_not_followed(frame: Frame) -> None:
    with serving(GOOD) as other, serving(say(307, b"", Location=other.url)) as server:
        with client(server.url) as vlm, pytest.raises(ServerError, match="redirects to"):
            vlm.describe(frame, FIND, PLAN)
        assert other.requests == []


@pytest.mark.parametrize(
    "url",
    [
        "",
        "fleet:8000",
        "ftp://fleet/v1",
        "http://",
        "http://fleet:0/v1",
        "http://a:b@fleet/v1",
        "http://f:x/",
    ],
)
def test_an_invalid_address_is_refused(url: str) -> None:
    with pytest.raises(PerceptionError, match=r"openai\.url"):
        OpenaiVlm(chosen(url))


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate for 127.0.0.1, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fleet")])
    now = datetime.datetime.now(datetime.timezone.utc)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "fleet.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(signed.public_bytes(serialization.Encoding.PEM) + private)
    return path


def test_the_certificate_of_the_server_is_verified(certificate: Path, frame: Frame, tmp_path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with serving(GOOD, context) as server:
        url = server.url.replace("http:", "https:")
        no_proof = r"certificate verification of .* failed .* openai\.ca_file"
        with client(url) as vlm, pytest.raises(ServerError, match=no_proof):
            vlm.describe(frame, FIND, PLAN)
        with client(url, openai__ca_file=str(certificate)) as vlm:
            assert vlm.describe(frame, FIND, PLAN).detections
        other_name = url.replace("127.0.0.1", "localhost")
        proven_for_another = client(other_name, openai__ca_file=str(certificate))
        with proven_for_another as vlm, pytest.raises(ServerError, match=no_proof):
            vlm.describe(frame, FIND, PLAN)
    with pytest.raises(PerceptionError, match=r"openai\.ca_file .* holds no certificates"):
        OpenaiVlm(chosen("https://fleet/v1", openai__ca_file=str(tmp_path / "none.pem")))


# --- what comes back ---------------------------------------------------------------------------------


def answered(content: object, question: Question = FIND, **choice: object) -> Any:
    black = Frame(np.zeros((256, 256, 3), np.uint8), 0)
    reply = say(200, completion(content, **choice))
    with serving(reply) as server, client(server.url, openai__score=0.3) as vlm:
        return vlm.describe(black, question, PLAN)


def pieces(*tokens: tuple[str | bytes, float]) -> dict[str, Any]:
    content = [
        {
            "token": piece if isinstance(piece, str) else piece.decode(errors="replace"),
            "bytes": list(piece if isinstance(piece, bytes) else piece.encode()),
            "logprob": log_prob,
        }
        for piece, log_prob in tokens
    ]
    return {"content": content}


def test_scores_come_from_log_probabilities_where_the_server_returns_them() -> None:
    opening, label, between, numbers, end = '[{"label": "', "bøx", '", "bbox": [', "0.1, 0.2, 0.3, 0.4", "]}]"
    text = opening + label + between + numbers + end
    raw = label.encode()
    told = pieces(
        (opening, -0.1), (raw[:2], -0.2), (raw[2:], -0.4), (between, 0.0), (numbers, -0.5), (end, 0.0),
        ("<|im_end|>", -3.0),
    )  # fmt: skip
    (found,) = answered(text, logprobs=told).detections
    assert found.label == "bøx"
    assert found.score == pytest.approx(np.exp(-0.1 - 0.3 - 0.5))


@pytest.mark.parametrize(
    "told",
    [
        None,
        {"content": None},
        {"content": [3]},
        pieces(("other words", -0.1)),
        pieces((BOX[:10], -0.1)),
        {"content": [{"token": BOX, "logprob": "likely"}]},
        {"content": [{"token": BOX, "logprob": float("nan")}]},
        {"content": [{"token": BOX, "bytes": [1000], "logprob": -0.1}]},
    ],
)
def test_without_probabilities_the_score_is_the_setting(told: object) -> None:
    (found,) = answered(BOX, logprobs=told).detections
    assert found.score == 0.3


def test_any_shape_of_answer_is_read_as_everywhere() -> None:
    fenced = '```json\n[{"label": "box", "bbox": [0.1, 0.2, 0.3, 0.4]}, {"label": "cone", "bbox": [5]}]\n```'
    answer = answered(fenced, finish_reason="length")
    assert [found.label for found in answer.detections] == ["box"]
    assert answer.rejects == {"not_four_numbers": 1}
    assert answer.truncated
    assert answered("[]").detections == ()
    assert answered("A box. ", ask(CAPTION)).text.strip() == "A box."


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
replies = st.one_of(
    json_values,
    st.fixed_dictionaries(
        {"choices": st.lists(json_values, max_size=2), "usage": json_values, "error": json_values}
    ),
    st.fixed_dictionaries(
        {
            "choices": st.lists(
                st.fixed_dictionaries(
                    {
                        "message": st.fixed_dictionaries({"content": json_values}),
                        "logprobs": st.fixed_dictionaries({"content": json_values}),
                    }
                ),
                min_size=1,
                max_size=1,
            ),
            "usage": st.fixed_dictionaries({"prompt_tokens": json_values, "completion_tokens": json_values}),
        }
    ),
)


def test_no_reply_is_too_strange(frame: Frame) -> None:
    with serving(GOOD) as server, client(server.url) as vlm:

        @settings(max_examples=100)
        @given(reply=replies, status=st.sampled_from([200, 400, 500]))
        def check(reply: object, status: int) -> None:
            server.reply = say(status, json.dumps(reply).encode())
            try:
                answer = vlm.describe(frame, FIND, FramePlan(ImagePlan(256, 256), 10))
            except ServerError:
                assert "\n" not in vlm.health().problem
            else:
                assert all(0.0 <= found.score <= 1.0 for found in answer.detections)

        check()


# --- beside a camera ---------------------------------------------------------------------------------


class Notes(LiveCallbacks):
    """A listener that lets a test wait."""

    def __init__(self) -> None:
        self._told = threading.Condition()
        self.scenes: list[Scene] = []
        self.problems: list[str] = []

    def on_scene(self, scene: Scene, frame: Frame) -> None:
        with self._told:
            self.scenes.append(scene)
            self._told.notify_all()

    def on_answer(self, decision: Decision) -> None:
        raise AssertionError("nothing was asked")

    def on_error(self, kind: str, problem: str) -> None:
        with self._told:
            self.problems.append(problem)
            self._told.notify_all()

    def wait(self, until: Callable[[], bool]) -> None:
        with self._told:
            assert self._told.wait_for(until, PATIENCE_S)


def test_beside_a_camera_failures_are_counted_and_looking_goes_on() -> None:
    film = World(seed=1, width=256, height=256)
    notes = Notes()
    with serving(say(500, b"out of memory")) as server:
        values = chosen(server.url, budget__latency=BUDGET_S, caption__enabled=False)
        with closing(OpenaiVlm(values)) as vlm:
            live = LivePerception[Frame](values, vlm, lambda frame, width: frame, notes)
            live.start()
            try:
                for index, problems in ((0, 1), (1, 2)):
                    frame = film.snapshot(index).frame
                    live.submit(frame, frame.stamp_ns)
                    notes.wait(lambda count=problems: len(notes.problems) >= count)  # type: ignore[misc]
                assert live.statistics().frames_failed == {"UnreachableError": 2}
                assert "out of memory" in live.statistics().last_error
                server.reply = GOOD
                frame = film.snapshot(2).frame
                live.submit(frame, frame.stamp_ns)
                notes.wait(lambda: bool(notes.scenes))
            finally:
                live.stop()
    assert notes.scenes[0].detections[0].label == "box"
