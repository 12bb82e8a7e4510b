# SPDX-License-Identifier: Apache-2.0
"""Keys, addresses and certificates of servers."""

from __future__ import annotations

import datetime
import ipaddress
import os
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from openai_server import (
    FIND,
    GOOD,
    PLAN,
    chosen,
    client,
    say,
    serving,
)

from lfm_perception.backends.openai import OpenaiVlm
from lfm_perception.backends.openai_transport import ServerError
from lfm_perception.errors import PerceptionError
from lfm_perception.scene import Frame


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
    os.mkfifo(tmp_path / "pipe.pem")
    (tmp_path / "empty.pem").touch()
    for name in ("none.pem", "pipe.pem", "empty.pem", ""):
        with pytest.raises(PerceptionError, match=r"openai\.ca_file .* holds no certificates"):
            OpenaiVlm(chosen("https://fleet/v1", openai__ca_file=f"{tmp_path}/{name}"))
