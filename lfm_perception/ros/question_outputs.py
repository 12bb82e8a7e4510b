# SPDX-License-Identifier: Apache-2.0
"""The topics of the standing questions, which come and go with the questions."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import partial

from rclpy.node import Node
from std_msgs.msg import Bool

from lfm_perception.ros import messages
from lfm_perception.ros.endpoints import Publishers
from lfm_perception.ros.topics import question_topics
from lfm_perception.scene import Scene
from lfm_perception.standing_questions import StandingQuestion


class QuestionOutputs:
    """Publishers of `decisions/NAME` and `alerts/NAME` for each standing question. For any thread."""

    def __init__(self, node: Node, questions: Sequence[StandingQuestion]) -> None:
        self._node, self._lock = node, threading.Lock()
        self._outputs = Publishers(node, ())
        self._active: dict[str, bool] = {}
        self.reconfigure(questions)

    def reconfigure(self, questions: Sequence[StandingQuestion]) -> None:
        """Publish on the topics of these questions and no others; alerts of new ones are off."""
        names = [question.name for question in questions]
        with self._lock:
            if names == list(self._active):
                return
            self._outputs.close()
            self._outputs = Publishers(self._node, question_topics(names))
            before, self._active = self._active, {}
            for name in names:
                self._publish_alert(name, before.get(name, False))

    def publish(self, scene: Scene) -> None:
        """Publish the answers that were given about the scene's frame, and the alerts that changed."""
        with self._lock:
            for status in scene.alerts:
                if status.name not in self._active:  # the question was removed meanwhile
                    continue
                if status.stamp_ns == scene.stamp_ns:
                    make = partial(messages.classification, status, scene.frame_id)
                    self._outputs.publish(f"decisions/{status.name}", make)
                if status.active != self._active[status.name]:
                    self._publish_alert(status.name, status.active)

    def close(self) -> None:
        """Turn all alerts off and remove the topics."""
        with self._lock:
            for name, active in self._active.items():
                if active:
                    self._publish_alert(name, False)
            self._active = {}
            self._outputs.close()

    def _publish_alert(self, name: str, active: bool) -> None:
        self._active[name] = active
        self._outputs.publish(f"alerts/{name}", lambda: Bool(data=active))
