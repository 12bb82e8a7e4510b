# SPDX-License-Identifier: Apache-2.0
"""Messages on their way to a broker that others wrote: TLS, credentials, interruptions, the last will."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from mqtt_broker import Broker, Service, broker, free_port, wait, write_certificates
from pwdlib import PasswordHash
from pwdlib.hashers.argon2 import Argon2Hasher

from lfm_perception.errors import PerceptionError
from lfm_perception.mqtt import broker as addresses
from lfm_perception.mqtt import sender as senders
from lfm_perception.mqtt.broker import Credentials
from lfm_perception.mqtt.outbox import Outbox
from lfm_perception.mqtt.sender import Sender


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(senders, "MIN_PAUSE_S", 0.05)
    monkeypatch.setattr(senders, "MAX_PAUSE_S", 0.2)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates")
    write_certificates(folder, "broker", "robot")
    (folder / "other").mkdir()
    write_certificates(folder / "other", "robot")
    return folder


@pytest.fixture(scope="module")
def plain() -> Iterator[Broker]:
    with broker() as started:
        yield started


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[Outbox]:
    with closing(Outbox(tmp_path / "queue.db", 1000, 10**6)) as opened:
        yield opened


def sending(url: str, outbox: Outbox, **credentials: Any) -> closing[Sender]:
    return closing(
        Sender(addresses.Broker.of(url, Credentials(**credentials)), outbox, "robots/1/status", "robot")
    )


def problem(sender: Sender, words: str) -> str:
    wait(lambda: words in sender.status.problem, f"{words!r} in {sender.status}")
    assert not sender.status.connected
    return sender.status.problem


def test_messages_arrive_in_their_order_and_leave_the_queue(plain: Broker, outbox: Outbox) -> None:
    for number in range(50):
        outbox.add("robots/1/events", b"%d" % number)
    with (
        closing(Service(plain.port)) as service,
        sending(f"mqtt://127.0.0.1:{plain.port}", outbox) as sender,
    ):
        assert service.wait("robots/1/events", 50) == list(range(50))
        outbox.add("robots/1/events", b"50")
        assert service.wait("robots/1/events", 51)[-1] == 50
        wait(lambda: not outbox.waiting, "acknowledgements")
        assert service.of("robots/1/status") == [{"online": True}]
        assert (sender.status.sent, sender.status.problem) == (51, "")
        sender.close()
        assert service.wait("robots/1/status", 2)[-1] == {"online": False}


def test_what_waits_while_the_broker_is_gone_arrives_when_it_is_back(outbox: Outbox) -> None:
    with broker() as mortal, sending(f"mqtt://127.0.0.1:{mortal.port}", outbox) as sender:
        wait(lambda: sender.status.connected, "the connection")
        mortal.kill()
        for number in range(30):
            outbox.add("robots/1/events", b"%d" % number)
        assert "does the broker run?" in problem(sender, "cannot be reached (connection refused)")
        assert outbox.waiting == 30
        mortal.start()
        wait(lambda: not outbox.waiting, "acknowledgements")
        with closing(Service(mortal.port)) as service:
            outbox.add("robots/1/events", b"30")
            wait(lambda: 30 in service.of("robots/1/events"), "the next event")
        assert sender.status.connections >= 2


def test_a_broker_that_does_not_answer_holds_nothing_up(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(senders, "ACKNOWLEDGE_TIMEOUT_S", 1.0)
    monkeypatch.setattr(senders, "CONNECT_TIMEOUT_S", 1.0)
    with broker() as slow, sending(f"mqtt://127.0.0.1:{slow.port}", outbox) as sender:
        wait(lambda: sender.status.connected, "the connection")
        slow.pause()
        for number in range(30):
            outbox.add("robots/1/events", b"%d" % number)
        problem(sender, "has not acknowledged a message for")
        assert outbox.waiting == 30
        slow.resume()
        wait(lambda: not outbox.waiting, "acknowledgements")


def test_a_server_of_something_else_is_named(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(senders, "CONNECT_TIMEOUT_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"mqtt://127.0.0.1:{silent.getsockname()[1]}"
        with sending(url, outbox) as sender:
            assert "is it a broker of MQTT?" in problem(sender, "does not answer")
    with socket.create_server(("127.0.0.1", 0)) as other:

        def answer() -> None:
            with suppress(OSError):  # the server is closed while it waits
                for _ in range(3):
                    connection, _ = other.accept()
                    with connection:
                        connection.recv(100)
                        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        threading.Thread(target=answer, daemon=True).start()
        with sending(f"mqtt://127.0.0.1:{other.getsockname()[1]}", outbox) as sender:
            wait(lambda: sender.status.problem.startswith("mqtt://"), "a problem")
            assert "unexpectedly" not in sender.status.problem


@pytest.mark.parametrize(
    "packet", [b"\x30\xff\xff\xff\x7f\0\1a", b"\x30\x81\x08\0\1a" + bytes(1022)], ids=["huge", "many"]
)
def test_what_nobody_has_subscribed_to_ends_the_connection_before_it_fills_memory(
    outbox: Outbox, packet: bytes
) -> None:
    sent = 0
    with socket.create_server(("127.0.0.1", 0)) as liar:

        def flood() -> None:
            nonlocal sent
            connection, _ = liar.accept()
            with connection, suppress(OSError):
                connection.recv(1000)
                connection.sendall(b"\x20\2\0\0")
                while True:
                    sent += connection.send(packet)

        thread = threading.Thread(target=flood, daemon=True)
        thread.start()
        with sending(f"mqtt://127.0.0.1:{liar.getsockname()[1]}", outbox) as sender:
            problem(sender, "sends what nobody has subscribed to: is it a broker of MQTT?")
        thread.join(30)
    assert sent < 64 << 20, "what lies in the buffers of the sockets comes to it"


# --- TLS and credentials


def test_tls_with_a_client_certificate(certificates: Path, outbox: Outbox) -> None:
    ca, robot = certificates / "ca.pem", certificates / "robot.pem"
    options = {"certificate": str(certificates / "broker.pem"), "ca": str(ca), "demand": True}
    outbox.add("robots/1/events", b"1")
    with broker(**options) as encrypted:
        url = f"mqtts://127.0.0.1:{encrypted.port}"
        with sending(url, outbox, ca_file=ca) as sender:
            assert "does it ask for a client certificate?" in problem(sender, "closed the connection")
        foreign = certificates / "other" / "robot.pem"
        with sending(url, outbox, ca_file=ca, certificate=foreign, key=foreign) as sender:
            problem(sender, "closed the connection")
        with sending(url, outbox) as sender:
            assert "name its --ca-file" in problem(sender, "certificate verification of")
        with sending(url, outbox, ca_file=certificates / "other" / "ca.pem") as sender:
            problem(sender, "certificate verification of")
        assert outbox.waiting == 1
        service = closing(Service(encrypted.port, ca_certs=str(ca), certfile=str(robot), keyfile=str(robot)))
        with service as listening, sending(url, outbox, ca_file=ca, certificate=robot, key=robot):
            assert listening.wait("robots/1/events", 1) == [1]


def test_tls_to_a_port_without_it_is_named(plain: Broker, outbox: Outbox, certificates: Path) -> None:
    with sending(f"mqtts://127.0.0.1:{plain.port}", outbox, ca_file=certificates / "ca.pem") as sender:
        wait(lambda: "mqtts://127.0.0.1" in sender.status.problem, "a problem")
        assert "unexpectedly" not in sender.status.problem


def test_a_password_comes_from_the_environment_or_a_file(
    tmp_path: Path, outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = tmp_path / "passwords"
    known.write_text(
        "robot:" + PasswordHash((Argon2Hasher(time_cost=1, memory_cost=64),)).hash("s3cret") + "\n"
    )
    secret = tmp_path / "password"
    secret.write_text("s3cret\n")
    secret.chmod(0o600)
    outbox.add("robots/1/events", b"1")
    with broker(passwords=str(known)) as guarded:
        url = f"mqtt://127.0.0.1:{guarded.port}"
        monkeypatch.setenv("WRONG", "guess")
        with sending(url, outbox, username="robot", password_variable="WRONG") as sender:
            said = problem(sender, "refuses the connection")
            assert "check user, password and certificate" in said
            assert "guess" not in said + repr(sender._broker)
        with sending(url, outbox, username="robot", password_file=secret) as sender:
            wait(lambda: not outbox.waiting, "the acknowledgement")
        monkeypatch.setenv("RIGHT", "s3cret")
        with sending(url, outbox, username="robot", password_variable="RIGHT") as sender:
            wait(lambda: sender.status.connected, "the connection")


def test_what_would_leak_or_cannot_be_used_is_refused(
    tmp_path: Path, certificates: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_file, key = tmp_path / "password", tmp_path / "key.pem"
    for file in (open_file, key):
        file.write_text((certificates / "robot.pem").read_text())
        file.chmod(0o644)
    monkeypatch.setenv("SET", "s3cret")
    ca = certificates / "ca.pem"
    cases: dict[str, tuple[str, dict[str, Any]]] = {
        "would send the password unencrypted: use mqtts": (
            "mqtt://fleet.example", {"username": "robot", "password_variable": "SET"},
        ),
        "names \\$UNSET, which is not set": ("mqtts://f", {"username": "r", "password_variable": "UNSET"}),
        "permissions 0644 of user": ("mqtts://fleet", {"username": "r", "password_file": open_file}),
        "not both": ("mqtts://f", {"username": "r", "password_variable": "SET", "password_file": open_file}),
        "belongs to a --username": ("mqtts://fleet", {"password_variable": "SET"}),
        "holds no certificates": ("mqtts://fleet", {"ca_file": tmp_path}),
        "needs both --certificate and --key": ("mqtts://fleet", {"certificate": ca}),
        "--key .* has the permissions 0644": ("mqtts://fleet", {"certificate": key, "key": key}),
        "are no pair in PEM": ("mqtts://fleet", {"certificate": ca, "key": certificates / "robot.pem"}),
        "certificates are for mqtts": ("mqtt://fleet", {"ca_file": ca}),
    }  # fmt: skip
    for sentence, (url, credentials) in cases.items():
        with pytest.raises(PerceptionError, match=sentence):
            addresses.Broker.of(url, Credentials(**credentials))
    for url in (
        "",
        "fleet",
        "http://fleet",
        "mqtt://",
        "mqtt://f:0",
        "mqtt://f:x",
        "mqtt://f/x",
        "mqtt://[x",
    ):
        with pytest.raises(
            PerceptionError, match=r"a broker .*(is not an address|must be an address like mqtts://host:8883)"
        ):
            addresses.Broker.of(url, Credentials())
    for url in (
        *("mqtt://robot:s3cret@fleet", "mqtt://s3cret@[x", "mqtt://robot:s3cret@fleet:no"),
        *("robot:s3cret@fleet:1883", "mqtt:robot:s3cret@fleet", "mqtt://robot:s3cret/4@fleet"),
        *("mqtt://robot:12/s3cret@fleet", "mqtt://fleet?key=s3cret", "mqtt://fleet#s3cret"),
    ):
        with pytest.raises(PerceptionError, match="must not hold a user or a password") as refused:
            addresses.Broker.of(url, Credentials())
        assert "s3cret" not in str(refused.value)


ENDLESS = """
import sys, time
from pathlib import Path
from lfm_perception.mqtt.broker import Broker, Credentials
from lfm_perception.mqtt.outbox import Outbox
from lfm_perception.mqtt.sender import Sender
outbox = Outbox(Path(sys.argv[2]), 10**6, 10**8)
sender = Sender(Broker.of(sys.argv[1], Credentials()), outbox, "robots/1/status", "robot")
for number in range(10**6):
    outbox.add("robots/1/events", b"%d" % number)
    print(number, flush=True)
    time.sleep(0.001)
"""


def test_a_killed_robot_leaves_its_last_will_and_loses_no_message(plain: Broker, tmp_path: Path) -> None:
    url, queue = f"mqtt://127.0.0.1:{plain.port}", tmp_path / "queue.db"
    with closing(Service(plain.port)) as service:
        command = [sys.executable, "-c", ENDLESS, url, str(queue)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as robot:
            service.wait("robots/1/events", 100)
            os.kill(robot.pid, signal.SIGKILL)
            assert robot.stdout is not None
            last = int(robot.stdout.read().splitlines()[-1])
        states = [{"online": True}, {"online": False}]
        wait(lambda: service.of("robots/1/status")[-2:] == states, "the last will")
        with closing(Outbox(queue, 10**6, 10**8)) as outbox, sending(url, outbox):
            wait(lambda: last in service.of("robots/1/events"), "the rest")
        assert set(service.of("robots/1/events")) >= set(range(last + 1))


def test_pauses_between_connections_grow(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(senders, "MIN_PAUSE_S", 1.0)
    monkeypatch.setattr(senders, "MAX_PAUSE_S", 120.0)
    pauses: list[float] = []

    class Scattering(float):
        def __mul__(self, pause_s: float) -> float:
            pauses.append(pause_s)
            return 0.001

    monkeypatch.setattr("random.uniform", lambda *_: Scattering())
    with sending(f"mqtt://127.0.0.1:{free_port()}", outbox):
        wait(lambda: len(pauses) > 8, "attempts")
    assert pauses[:9] == [2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 120.0, 120.0, 120.0]
