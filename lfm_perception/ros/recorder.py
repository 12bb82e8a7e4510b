# SPDX-License-Identifier: Apache-2.0
"""Records topics to a new rosbag2 (mcap)."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.node import Node
from rosbags.rosbag2 import StoragePlugin, Writer, WriterError
from rosbags.typesys.store import Typestore

from lfm_perception.errors import PerceptionError
from lfm_perception.media.bags import typestore
from lfm_perception.ros.endpoints import subscribe
from lfm_perception.ros.topics import Qos, Topic

RELIABLE_DEPTH, BEST_EFFORT_DEPTH = 200, 10
"""Queue depths of the subscriptions: all messages of reliable topics, the newest of best-effort ones."""


class Recorder:
    """Writes the messages of some topics to the bag folder `path`, which must not exist.

    Messages are written under their remapped topic names. They are serialized anew: Fast DDS leaves
    uninitialized bytes between fields, so that equal messages would differ in bytes. A failure while
    recording is raised by `close`.

    Args:
        log_ns: returns the log time of a message that arrives, ns.
        on_message: called with each topic name and serialized message first, on the executor's thread.

    Raises:
        PerceptionError: the bag cannot be written.
    """

    def __init__(
        self,
        node: Node,
        topics: Sequence[Topic],
        path: Path,
        *,
        log_ns: Callable[[], int],
        on_message: Callable[[str, bytes], None] = lambda name, raw: None,
    ) -> None:
        self.counts: Counter[str] = Counter()
        self._node, self._path, self._log_ns, self._on_message = node, path, log_ns, on_message
        self._lock = threading.Lock()
        self._failure: Exception | None = None
        self._types: Typestore = typestore()
        # Version 8 of the metadata, the older of the two on offer, is read by more distributions.
        self._writer: Writer | None = Writer(path, version=8, storage_plugin=StoragePlugin.MCAP)
        try:
            self._writer.open()
        except (OSError, WriterError) as error:
            raise PerceptionError(f"cannot write the bag {path}: {error}") from error
        group = MutuallyExclusiveCallbackGroup()
        self._subscriptions = []
        for topic in topics:
            connection = self._writer.add_connection(
                node.resolve_topic_name(topic.name), topic.type.replace("/", "/msg/"), typestore=self._types
            )
            depth = RELIABLE_DEPTH if topic.qos.reliability == "reliable" else BEST_EFFORT_DEPTH
            incoming = replace(topic, qos=Qos(depth, topic.qos.reliability), serialized=True)
            callback = partial(self._take, topic.name, connection)
            self._subscriptions.append(subscribe(node, incoming, callback, group))

    def _take(self, name: str, connection: Any, raw: bytes) -> None:
        self._on_message(name, raw)
        with self._lock:
            if self._writer is None or self._failure is not None:
                return
            try:
                message = self._types.deserialize_cdr(raw, connection.msgtype)
                clean = self._types.serialize_cdr(message, connection.msgtype)
                self._writer.write(connection, self._log_ns(), clean)
                self.counts[name] += 1
            except (OSError, WriterError) as error:
                self._failure = error

    def close(self) -> None:
        """Unsubscribe and complete the bag. May be called twice."""
        with self._lock:
            writer, self._writer = self._writer, None
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions.clear()
        if writer is not None:
            with suppress(*([WriterError] if self._failure else [])):
                writer.close()
        if self._failure is not None:
            raise PerceptionError(f"cannot write the bag {self._path}: {self._failure}") from self._failure

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
