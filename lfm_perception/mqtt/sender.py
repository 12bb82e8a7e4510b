# SPDX-License-Identifier: Apache-2.0
"""Publishes the messages of an outbox to an MQTT broker, on a thread of its own."""

from __future__ import annotations

import json
import logging
import random
import ssl
import threading
import time
from dataclasses import dataclass
from typing import Any

from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode

from lfm_perception.errors import os_reason
from lfm_perception.mqtt.broker import Broker
from lfm_perception.mqtt.outbox import Message, Outbox
from lfm_perception.text import sentence

MIN_PAUSE_S, MAX_PAUSE_S = 1.0, 120.0
"""Shortest and longest back-off before a reconnection. It doubles with each failure; its jitter is a half."""

KEEPALIVE_S = 30
"""Keep-alive interval of MQTT: after so long without traffic the client sends a ping, and after half as much
again without one the broker publishes the last will."""

CONNECT_TIMEOUT_S, ACKNOWLEDGE_TIMEOUT_S, CLOSE_TIMEOUT_S = 10.0, 30.0, 2.0
"""Timeouts of a connection, of the acknowledgement of a message, and of `Sender.close`."""

MAX_IN_FLIGHT = 20
"""Maximum number of messages that are sent and not yet acknowledged."""

MAX_RECEIVED = 1 << 18
"""Maximum number of bytes received in a connection, acknowledgements aside: the client subscribes to nothing,
and paho-mqtt would keep packets of 256 MB in memory."""

ACKNOWLEDGEMENT = 2
"""Length of an acknowledgement (PUBACK) of MQTT 3.1.1 after its header, bytes."""

POLL_S = 0.1
"""Longest wait for the network, after which the outbox is read again."""

ONLINE, OFFLINE = (json.dumps({"online": value}) for value in (True, False))


@dataclass(frozen=True, slots=True)
class SenderStatus:
    """State and counts of the connection. `problem` says why there is none; empty while there is one."""

    connected: bool
    sent: int
    connections: int
    problem: str


class Sender:
    """Publishes the messages of an outbox. To be closed; the outbox is the caller's.

    Messages are sent with QoS 1, the oldest first, and are removed once the broker has acknowledged them:
    after an interruption some arrive twice, none is lost. While connected, `status_topic` holds
    `{"online": true}`, retained; afterwards `{"online": false}`, by the last will where the process or the
    network ends.
    """

    def __init__(self, broker: Broker, outbox: Outbox, status_topic: str, client_id: str) -> None:
        self._broker, self._outbox = broker, outbox
        self._status_topic, self._client_id = status_topic, client_id
        self._closing = threading.Event()
        self._acknowledged_s: float | None = None
        self._refusal = self._problem = ""
        self._pending: dict[int, tuple[Message, float]] = {}
        self._last = self._sent = self._connections = 0
        self._thread = threading.Thread(target=self._run, name="mqtt", daemon=True)
        self._thread.start()

    @property
    def status(self) -> SenderStatus:
        """The connection now."""
        problem = self._problem or (
            "" if self._acknowledged_s else f"{self._broker.url} has not answered yet"
        )
        return SenderStatus(not problem, self._sent, self._connections, problem)

    def close(self) -> None:
        """Publish the status offline, if the broker is connected, and disconnect."""
        self._closing.set()
        self._thread.join(CLOSE_TIMEOUT_S)

    def _run(self) -> None:
        pause_s = MIN_PAUSE_S
        while not self._closing.is_set():
            self._acknowledged_s, self._refusal, self._last = None, "", 0
            began_s, before = time.monotonic(), self._sent
            self._pending.clear()
            try:
                problem = self._session()
            except Exception as error:  # a bug must not end the thread
                problem = f"sending to {self._broker.url} failed unexpectedly: {error!r}"
            if self._closing.is_set():
                return
            problem = sentence(problem)
            if problem != self._problem:
                logging.getLogger(__name__).warning("%s", problem)
            self._problem = problem
            served = self._sent > before or time.monotonic() - began_s > MAX_PAUSE_S
            pause_s = MIN_PAUSE_S if served else min(2.0 * pause_s, MAX_PAUSE_S)
            self._closing.wait(random.uniform(0.5, 1.0) * pause_s)

    def _session(self) -> str:
        """One connection, until it ends. Returns why it did."""
        client, url = self._client(), self._broker.url
        try:
            client.connect(self._broker.host, self._broker.port, KEEPALIVE_S)
        except ssl.SSLCertVerificationError as error:
            return f"certificate verification of {url} failed ({error.verify_message}): name its --ca-file"
        except ssl.SSLError as error:
            return f"the TLS connection to {url} failed ({error.reason or error}): is it the port for TLS?"
        except (OSError, ValueError) as error:
            reason = os_reason(error) if isinstance(error, OSError) else error
            return f"{url} cannot be reached ({reason}): does the broker run?"
        try:
            return self._exchange(client)
        finally:
            client.disconnect()
            client.loop(POLL_S)

    def _client(self) -> _Client:
        client = _Client(CallbackAPIVersion.VERSION2, self._client_id, reconnect_on_failure=False)
        client.connect_timeout = CONNECT_TIMEOUT_S
        client.max_inflight_messages_set(MAX_IN_FLIGHT + 1)
        client.will_set(self._status_topic, OFFLINE, qos=1, retain=True)
        if self._broker.tls is not None:
            client.tls_set_context(self._broker.tls)
        if self._broker.username:
            client.username_pw_set(self._broker.username, self._broker.password or None)
        client.on_connect = self._on_connect
        client.on_publish = self._on_publish
        return client

    def _exchange(self, client: _Client) -> str:
        """Send what there is, until the connection ends."""
        url, began_s = self._broker.url, time.monotonic()
        while (code := client.loop(POLL_S)) == MQTTErrorCode.MQTT_ERR_SUCCESS:
            now_s = time.monotonic()
            if self._closing.is_set():
                self._publish_offline(client)
                return ""
            if self._acknowledged_s is None:
                if now_s - began_s > CONNECT_TIMEOUT_S:
                    return f"{url} does not answer: is it a broker of MQTT?"
                continue
            if any(now_s - sent_s > ACKNOWLEDGE_TIMEOUT_S for _, sent_s in tuple(self._pending.values())[:1]):
                return f"{url} has not acknowledged a message for {ACKNOWLEDGE_TIMEOUT_S:.0f} s"
            for message in self._outbox.after(self._last, MAX_IN_FLIGHT - len(self._pending)):
                sent = client.publish(message.topic, message.payload, qos=1)
                self._pending[sent.mid] = message, now_s
                self._last = message.number
        if self._refusal:
            return f"{url} refuses the connection ({self._refusal}): check user, password and certificate"
        if client.received > MAX_RECEIVED:
            return f"{url} sends what nobody has subscribed to: is it a broker of MQTT?"
        hint = (
            ": does it ask for a client certificate?" if self._broker.tls and not self._acknowledged_s else ""
        )
        return f"{url} closed the connection ({paho.error_string(code).lower().rstrip('.')}){hint}"

    def _publish_offline(self, client: paho.Client) -> None:
        if self._acknowledged_s is None:
            return
        sent = client.publish(self._status_topic, OFFLINE, qos=1, retain=True)
        until_s = time.monotonic() + CLOSE_TIMEOUT_S / 2
        while not sent.is_published() and time.monotonic() < until_s:
            if client.loop(POLL_S) != MQTTErrorCode.MQTT_ERR_SUCCESS:
                return

    def _on_connect(self, client: paho.Client, user: Any, flags: Any, reason: Any, properties: Any) -> None:
        if reason.is_failure:
            self._refusal = str(reason).lower()
        if reason.is_failure or self._acknowledged_s is not None:  # a broker says it once
            return
        self._acknowledged_s, self._problem = time.monotonic(), ""
        self._connections += 1
        client.publish(self._status_topic, ONLINE, qos=1, retain=True)

    def _on_publish(self, client: paho.Client, user: Any, number: int, reason: Any, properties: Any) -> None:
        if (found := self._pending.pop(number, None)) is not None:
            self._outbox.remove(found[0])
            self._sent += 1


class _Client(paho.Client):
    """Ends its connection to a broker that sends more than `MAX_RECEIVED` bytes."""

    received = 0

    def _sock_recv(self, bufsize: int) -> bytes:
        counted = bufsize > ACKNOWLEDGEMENT
        if counted and self.received + bufsize > MAX_RECEIVED:
            self.received = MAX_RECEIVED + 1
            raise ConnectionError
        data = super()._sock_recv(bufsize)
        self.received += len(data) if counted else 0
        return data
