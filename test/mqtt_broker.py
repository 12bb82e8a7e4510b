# SPDX-License-Identifier: Apache-2.0
"""A broker of MQTT that others wrote (amqtt), in a process of its own, and a fleet service that listens.

    python mqtt_broker.py '{"port": 1883, ...}'

runs the broker until its standard input ends.
"""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import json
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PATIENCE_S = 30.0


class Service:
    """A fleet service: subscribes to everything, and keeps what it receives."""

    def __init__(self, port: int, **certificates: Any) -> None:
        from paho.mqtt import client as paho
        from paho.mqtt.enums import CallbackAPIVersion

        self.received: list[tuple[str, bytes]] = []
        self._client = paho.Client(CallbackAPIVersion.VERSION2)
        if certificates:
            self._client.tls_set(**certificates)
        self._client.on_message = lambda client, user, message: self.received.append(
            (message.topic, bytes(message.payload))
        )
        self._subscribed = threading.Event()
        self._client.on_connect = lambda client, *_: client.subscribe("#", qos=1)
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        assert self._subscribed.wait(PATIENCE_S)

    def of(self, topic: str) -> list[Any]:
        """The JSON that arrived on a topic."""
        return [json.loads(payload) for name, payload in self.received if name == topic]

    def wait(self, topic: str, count: int) -> list[Any]:
        wait(lambda: len(self.of(topic)) >= count, f"{count} messages on {topic}, got {self.received}")
        return self.of(topic)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


class Broker:
    """The broker's process; `pause` makes it slow beyond measure, `kill` ends it."""

    def __init__(self, port: int = 0, **options: Any) -> None:
        self.port = port or free_port()
        self._options = json.dumps({"port": self.port, **options})
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen([sys.executable, __file__, self._options], stdin=subprocess.PIPE)
        wait(lambda: _accepts(self.port), "the broker")

    def pause(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


@contextmanager
def broker(**options: Any) -> Iterator[Broker]:
    started = Broker(**options)
    try:
        yield started
    finally:
        started.kill()


def wait(condition: Callable[[], object], what: str) -> None:
    until_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < until_s, f"waited in vain for {what}"
        time.sleep(0.02)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _accepts(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


def write_certificates(folder: Path, *names: str) -> None:
    """An authority `ca.pem`, and for each name a certificate for 127.0.0.1 with its key, `NAME.pem`."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    def certified(name: str, issuer: Any = None) -> Any:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        now = datetime.datetime.now(datetime.timezone.utc)
        address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        signed = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer[0].subject if issuer else subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(address, critical=False)
            .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
            .sign(issuer[1] if issuer else key, hashes.SHA256())
        )
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        file = folder / f"{name}.pem"
        file.write_bytes(signed.public_bytes(serialization.Encoding.PEM) + private)
        file.chmod(0o600)
        return signed, key

    authority = certified("ca")
    for name in names:
        certified(name, authority)


def _main(options: dict[str, Any]) -> None:
    from amqtt.broker import Broker as Amqtt

    listener: dict[str, Any] = {"type": "tcp", "bind": f"127.0.0.1:{options['port']}"}
    if certificate := options.get("certificate"):
        listener |= {"ssl": True, "certfile": certificate, "keyfile": certificate, "cafile": options["ca"]}
    plugins: dict[str, Any] = {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}}
    if file := options.get("passwords"):
        plugins = {"amqtt.plugins.authentication.FileAuthPlugin": {"password_file": file}}
    if options.get("demand"):  # amqtt itself only asks for a client certificate
        made = Amqtt._create_ssl_context

        def demanding(listener: Any) -> ssl.SSLContext:
            context: ssl.SSLContext = made(listener)
            context.verify_mode = ssl.CERT_REQUIRED
            return context

        Amqtt._create_ssl_context = staticmethod(demanding)

    async def serve() -> None:
        await Amqtt({"listeners": {"default": listener}, "plugins": plugins}).start()
        await asyncio.Event().wait()

    threading.Thread(target=asyncio.run, args=(serve(),), daemon=True).start()
    sys.stdin.read()


if __name__ == "__main__":
    _main(json.loads(sys.argv[1]))
