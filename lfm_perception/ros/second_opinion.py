# SPDX-License-Identifier: Apache-2.0
"""The second opinions of a running node: the topic `opinions`, its log and its diagnostics."""

from __future__ import annotations

import json
from collections.abc import Callable

from rclpy.node import Node
from std_msgs.msg import String

from lfm_perception.errors import PerceptionError, shown
from lfm_perception.live import LivePerception
from lfm_perception.ros.diagnostics import OK, WARN, PartStatus
from lfm_perception.ros.endpoints import Publishers
from lfm_perception.ros.topics import OPINIONS
from lfm_perception.second_opinion import Outcome, SecondOpinion, outcome_to_json
from lfm_perception.settings import Settings


class OpinionOutputs:
    """Has an adviser asked while it is open, and publishes `opinions`. To be closed. For any thread.

    An adviser that cannot be used is a warning and a status; perception goes on without it.
    """

    def __init__(
        self,
        node: Node,
        settings: Settings,
        live: LivePerception[bytes],
        warn: Callable[..., None],
        on_error: Callable[[Exception], None],
    ) -> None:
        self._node, self._live, self._chosen = node, live, settings.second_opinion
        self._outputs = Publishers(node, OPINIONS.publishers)
        self._second: SecondOpinion | None = None
        self._problem, self._last_failed = "", 0
        try:
            tell = node.get_logger().info
            self._second = SecondOpinion(self._chosen, self._publish, tell, warn, on_error)
        except PerceptionError as error:
            self._problem = str(error)
            warn("second opinion", self._problem)
        live.set_second_opinion(self._second)

    def reconfigure(self, settings: Settings) -> None:
        """Apply other limits."""
        self._chosen = settings.second_opinion
        if self._second is not None:
            self._second.reconfigure(self._chosen)

    def close(self) -> None:
        """Withdraw the consent: crops that wait are dropped."""
        self._live.set_second_opinion(None)
        if self._second is not None:
            waiting = self._second.counts().queued
            self._second.close()
            if waiting:
                self._node.get_logger().info(f"second opinion: {waiting} crops that waited are dropped")
        self._outputs.close()

    def _publish(self, outcome: Outcome) -> None:
        text = json.dumps(outcome_to_json(outcome), ensure_ascii=False)
        self._outputs.publish("opinions", lambda: String(data=text))

    def status(self) -> PartStatus:
        """The diagnostics of the adviser."""
        if self._second is None:
            return PartStatus("second opinion", WARN, self._problem, {})
        counts = self._second.counts()
        failed = sum(counts.failed.values())
        level, message = OK, f"{counts.answered} answers to {counts.asked} crops"
        if failed > self._last_failed:
            level, message = WARN, f"{failed - self._last_failed} failed; the last: {counts.problem}"
        elif not self._chosen.cameras:
            level, message = WARN, "no camera consents: name its frame_id in second_opinion.cameras"
        elif counts.refused_camera is not None and not counts.asked:
            level = WARN
            camera = shown(counts.refused_camera)
            message = f"camera {camera} is not in second_opinion.cameras: nothing is asked"
        self._last_failed = failed
        values = {
            "adviser": self._second.source,
            "cameras that consent": ", ".join(self._chosen.cameras),
            "crops handed over": counts.asked,
            "bytes handed over": counts.bytes,
            "answers": counts.answered,
            "crops waiting": counts.queued,
            **{f"crops dropped: {reason}": count for reason, count in counts.dropped.items()},
            **{f"tracks not asked about: {reason}": count for reason, count in counts.not_shown.items()},
            **{f"failed: {kind}": count for kind, count in counts.failed.items()},
            "last failure": counts.problem,
        }
        return PartStatus("second opinion", level, message, values)
