# SPDX-License-Identifier: Apache-2.0
"""`lfm-perception forward`: sends the events of a running node on by MQTT."""

from __future__ import annotations

import re
import socket
import time
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from lfm_perception.cli import options
from lfm_perception.cli.job import running
from lfm_perception.errors import PerceptionError, os_reason, shown

POLL_S = 0.2
"""Period at which the command checks whether a signal has asked it to end."""

MAX_TOPIC = 200
"""Maximum length of the prefix of the MQTT topics, characters."""


def forward(
    broker: Annotated[str, typer.Argument(help="`mqtts://host:8883`, or `mqtt://host:1883` without TLS.")],
    node: Annotated[str, typer.Option(help="Full name of the perception node.")] = "/perception",
    topic: Annotated[
        str | None, typer.Option(help="Beginning of the topics; by default `lfm_perception/HOSTNAME`.")
    ] = None,
    summary_period: Annotated[
        float, typer.Option(min=0.0, max=86_400.0, help="Seconds between two summaries; 0: none.")
    ] = 60.0,
    username: Annotated[str, typer.Option(help="User at the broker.")] = "",
    password_variable: Annotated[str, typer.Option(help="Environment variable with the password.")] = "",
    password_file: Annotated[
        Path | None, typer.Option(help="File with the password, which nobody else may read.")
    ] = None,
    ca_file: Annotated[
        Path | None, typer.Option(help="Certificates of the broker's authority; by default the system's.")
    ] = None,
    certificate: Annotated[Path | None, typer.Option(help="Client certificate, PEM.")] = None,
    key: Annotated[Path | None, typer.Option(help="Its key, PEM, which nobody else may read.")] = None,
    queue: Annotated[
        Path | None,
        typer.Option(help="File of the queue; by default `~/.local/state/lfm_perception/forward.db`."),
    ] = None,
    queue_messages: Annotated[
        int, typer.Option(min=1, max=10_000_000, help="Maximum number of messages that wait.")
    ] = 100_000,
    queue_mb: Annotated[float, typer.Option(min=0.1, max=10_000.0, help="Maximum size of these, MB.")] = 50.0,
) -> None:
    """Send events and summaries of a running node to an MQTT broker, until Ctrl-C.

    Events arrive on TOPIC/events as the node publishes them, at most 2000 bytes each; TOPIC/summary holds
    counts and health, TOPIC/status whether the robot is connected. What cannot be sent waits on disk. This is
    a process of its own, for which perception never waits.
    """
    if find_spec("paho") is None:
        raise PerceptionError("this command needs paho-mqtt: pip install 'lfm_perception[mqtt]'")
    options.require_ros()
    if options.node_name(f"{options.NODE}:{node}") is None or not node.startswith("/"):
        raise PerceptionError(f"--node is a full name such as /cam1/perception, not {shown(node)}")
    base = topic or f"lfm_perception/{socket.gethostname()}"
    if not (re.fullmatch(r"[^#+/$][^#+]*", base) and base.isprintable() and len(base) <= MAX_TOPIC):
        raise PerceptionError(f"--topic is text such as robots/r1 without # and +, not {shown(base)}")
    from lfm_perception.mqtt.broker import Broker, Credentials
    from lfm_perception.mqtt.outbox import Outbox
    from lfm_perception.mqtt.sender import Sender
    from lfm_perception.ros.forward import forwarding

    chosen = Broker.of(
        broker, Credentials(username, password_variable, password_file, ca_file, certificate, key)
    )
    with (
        running() as job,
        closing(Outbox(queue or _state_file(), queue_messages, round(queue_mb * 1e6))) as outbox,
        closing(Sender(chosen, outbox, f"{base}/status", f"lfm_perception{node}@{base}")) as sender,
        forwarding(node, outbox, sender, base, summary_period),
    ):
        options.tell(f"forwarding {node} to {chosen.url}, topic {base}; {outbox.waiting} messages wait")
        connected = False
        while not job.signal:
            if sender.status.connected != connected:
                connected = not connected
                options.tell(f"{'connected to' if connected else 'disconnected from'} {chosen.url}")
            time.sleep(POLL_S)
    options.tell(f"{sender.status.sent} messages sent, {outbox.waiting} wait, {outbox.dropped} dropped")


def _state_file() -> Path:
    """The default file of the queue, in a folder of the user's own."""
    file = Path.home() / ".local" / "state" / "lfm_perception" / "forward.db"
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise PerceptionError(f"{file.parent} cannot be made: {os_reason(error)}: give --queue") from error
    return file
