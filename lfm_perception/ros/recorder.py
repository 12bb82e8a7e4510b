"""Topics into a new rosbag2 (mcap), message by message as they come over the wire."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rosbags.rosbag2 import StoragePlugin, Writer, WriterError
from rosbags.typesys.store import Typestore

from lfm_perception.errors import PerceptionError
from lfm_perception.media.bags import typestore

RECEIVING = QoSProfile(
    depth=200, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.VOLATILE
)
CAMERA = QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)


class Recorder:
    """Writes what arrives on some topics of a node into the bag folder `path`, which must not exist.

    `topics` maps a name as the node knows it to a ROS message class. Messages are written under the name they
    have after remapping, logged at the time that `log_ns` gives, serialized anew: Fast DDS leaves what
    was in memory between their fields, so that equal messages differ in bytes. Each is shown to
    `seen(name, raw)` first, on the executor's thread. Raises PerceptionError when the bag cannot be written;
    a failure later is kept, and raised by `close`.
    """

    def __init__(
        self,
        node: Node,
        topics: Mapping[str, type],
        path: Path,
        *,
        log_ns: Callable[[], int],
        seen: Callable[[str, bytes], None] = lambda name, raw: None,
        best_effort: Sequence[str] = (),
    ) -> None:
        self.counts: Counter[str] = Counter()
        self._node, self._path, self._log_ns, self._seen = node, path, log_ns, seen
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
        for name, kind in topics.items():
            resolved = node.resolve_topic_name(name)
            connection = self._writer.add_connection(resolved, ros_name(kind), typestore=self._types)
            self._subscriptions.append(
                node.create_subscription(
                    kind,
                    name,
                    lambda raw, name=name, connection=connection: self._take(name, connection, raw),
                    CAMERA if name in best_effort else RECEIVING,
                    callback_group=group,
                    raw=True,
                )
            )

    def _take(self, name: str, connection: Any, raw: bytes) -> None:
        self._seen(name, raw)
        with self._lock:
            if self._writer is None or self._failure is not None:
                return
            try:
                kind = connection.msgtype
                plain = self._types.serialize_cdr(self._types.deserialize_cdr(raw, kind), kind)
                self._writer.write(connection, self._log_ns(), plain)
                self.counts[name] += 1
            except (OSError, WriterError) as error:
                self._failure = error

    def close(self) -> None:
        """Stop taking messages; the bag is complete and can be read. May be called twice."""
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


def ros_name(kind: type) -> str:
    """The name of a message class: `sensor_msgs/msg/Image`."""
    package, middle, *_ = kind.__module__.split(".")
    return f"{package}/{middle}/{kind.__name__}"
