# SPDX-License-Identifier: Apache-2.0
"""Commands in words: from `input_command` by the model's call to an operation of the node.

Operations are those of parameters and services, with the same validation. Commands wait for a thread of their
own, and the model reads nothing but the tools and the command's words: no image, and nothing read from one.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from rclpy.callback_groups import CallbackGroup
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.subscription import Subscription
from std_msgs.msg import String

from lfm_perception import cdr
from lfm_perception.commands import TOOLS, Call, Command, check_probability
from lfm_perception.errors import PerceptionError, shown
from lfm_perception.live import LivePerception
from lfm_perception.ros.endpoints import Publishers, subscribe
from lfm_perception.ros.topics import COMMANDS
from lfm_perception.ros.unexpected import UnexpectedErrors
from lfm_perception.settings import Settings
from lfm_perception.vlm import CommandVlm

MAX_WAITING = 4
"""Maximum number of commands that wait, with the one being answered; further ones are refused."""

MAX_MESSAGE_LENGTH = 4000
"""Maximum length of a message on `input_command`, characters."""

PARAMETERS: Mapping[str, str] = {
    "set_labels": "detect.labels",
    "set_token_budget": "budget.tokens",
    "set_latency_budget": "budget.latency",
    "set_duty_cycle": "inference.duty_cycle",
    "set_min_score": "detect.min_score",
    "set_caption_period": "caption.period",
}
"""The tools that set a parameter to their argument."""

Live = LivePerception[bytes]

OPERATIONS: Mapping[str, tuple[Callable[[Live], None], str]] = {
    "caption_now": (lambda live: live.request_caption(), "the next inferred frame is captioned"),
    "enable": (lambda live: live.enable(True), "inference is on"),
    "disable": (lambda live: live.enable(False), "inference is off"),
    "reset": (lambda live: live.reset(), "tracks and caption are removed"),
}
"""The tools that act on the running perception, and what they report."""


class CommandInput:
    """Takes commands between `start` and `stop`, and answers each. To be closed.

    Args:
        settings: returns the settings in force.
        live: the running perception.
        unexpected: records what only a bug can cause.
    """

    def __init__(
        self,
        node: Node,
        settings: Callable[[], Settings],
        vlm: CommandVlm,
        live: Live,
        unexpected: UnexpectedErrors,
    ) -> None:
        self._node, self._settings, self._vlm, self._live = node, settings, vlm, live
        self._unexpected = unexpected
        self._outputs = Publishers(node, COMMANDS.publishers)
        self._subscription: Subscription[Any] | None = None
        self._room = threading.BoundedSemaphore(MAX_WAITING)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="commands")

    def start(self, group: CallbackGroup) -> None:
        """Subscribe."""
        callback = self._unexpected.guarded("input_command", self._on_command)
        (topic,) = COMMANDS.subscriptions
        self._subscription = subscribe(self._node, topic, callback, group)

    def stop(self) -> None:
        """Unsubscribe, and refuse the commands that wait."""
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            self._node.destroy_subscription(subscription)
            self._vlm.cancel()

    def close(self) -> None:
        """Stop, wait for the last command, and remove the topics."""
        self.stop()
        self._thread.shutdown()
        self._outputs.close()

    def _on_command(self, raw: bytes) -> None:
        try:
            words = cdr.string(raw, "input_command", MAX_MESSAGE_LENGTH)
        except PerceptionError as error:
            self._answer({"command": "", "refused": str(error)})
            return
        if not self._room.acquire(blocking=False):
            self._answer(
                {"command": words, "refused": f"{MAX_WAITING} commands wait already: repeat it later"}
            )
            return
        self._thread.submit(self._try, words)

    def _try(self, words: str) -> None:
        answer: dict[str, Any] = {"command": words}
        try:
            if self._subscription is None:
                raise PerceptionError("the node was deactivated")
            self._carry_out(words, answer)
        except PerceptionError as error:
            answer["refused"] = str(error)
        except Exception as error:
            self._unexpected.record("input_command", error)
            answer["refused"] = "an unexpected error, see the node's log"
        finally:
            self._room.release()
        self._answer(answer)

    def _carry_out(self, words: str, answer: dict[str, Any]) -> None:
        """Carry a command out, and put its call and the result into the answer."""
        settings = self._settings()
        command = Command(
            words,
            settings.commands.allowed,
            labels=tuple(dict.fromkeys((*settings.detect.labels, *Settings().detect.labels))),
            alerts=tuple(alert.name for alert in settings.questions.alerts),
        )
        reply = self._vlm.command(command)
        answer["probability"] = round(reply.probabilities[0], 4)
        call = command.parse(reply.text)
        if call is None:
            raise PerceptionError(f"no tool does that; commands.allowed is {', '.join(command.allowed)}")
        answer["call"] = {"tool": call.tool, "arguments": call.arguments}
        check_probability(reply, settings.commands.min_probability)
        if settings.commands.dry_run:
            answer["dry_run"] = True
        answer["result"] = self._operate(call, settings, dry_run=settings.commands.dry_run)

    def _operate(self, call: Call, settings: Settings, *, dry_run: bool) -> str:
        """Do what a call says, or only validate it. Returns: the result. Raises PerceptionError."""
        if call.tool == "status":
            return self._status(settings)
        if call.tool in OPERATIONS:
            act, result = OPERATIONS[call.tool]
            if not dry_run:
                act(self._live)
            return result
        changes = parameter_changes(call, settings)
        values = settings.with_values(changes).values()
        if not dry_run:
            parameters = [_parameter(name, values[name]) for name in changes]
            outcome = self._node.set_parameters_atomically(parameters)
            if not outcome.successful:
                raise PerceptionError(outcome.reason)
        return ", ".join(f"{name} is {json.dumps(values[name], ensure_ascii=False)}" for name in changes)

    def _status(self, settings: Settings) -> str:
        live = self._live.statistics()
        alerts = ", ".join(alert.name for alert in settings.questions.alerts) or "none"
        return (
            f"inference is {'on' if live.enabled else 'off'}; {live.input_hz:.1f} images/s, "
            f"{live.frames_inferred} inferred, latency p95 {live.latency_p95_s:.2f} s; "
            f"labels: {', '.join(settings.detect.labels) or 'all objects'}; alerts: {alerts}"
        )

    def _answer(self, answer: dict[str, Any]) -> None:
        """Publish and log an answer."""
        text = json.dumps(answer, ensure_ascii=False)
        self._node.get_logger().info(f"command_answer: {text}")
        self._outputs.publish("command_answer", lambda: String(data=text))


def parameter_changes(call: Call, settings: Settings) -> dict[str, object]:
    """The parameters that a call changes, with their new values. Raises PerceptionError."""
    if call.tool in PARAMETERS:
        (argument,) = TOOLS[call.tool].parameters
        return {PARAMETERS[call.tool]: call.arguments[argument]}
    name = re.sub("[^a-z0-9]+", "_", call.arguments["name"].lower()).strip("_")
    if not name:
        said = shown(call.arguments["name"])
        raise PerceptionError(f"the name of an alert is part of topics, and {said} has no letter a to z")
    standing = dict(
        zip((alert.name for alert in settings.questions.alerts), settings.questions.standing, strict=True)
    )
    if call.tool == "remove_alert":
        if name not in standing:
            there_are = f", only {', '.join(standing)}" if standing else ""
            raise PerceptionError(f"there is no alert {shown(name)}{there_are}")
        del standing[name]
    elif name in standing:
        raise PerceptionError(f"there is an alert {shown(name)} already: remove it first")
    else:
        entry = {"name": name, "question": call.arguments["question"]}
        standing[name] = json.dumps(entry, ensure_ascii=False)
    return {"questions.standing": list(standing.values())}


def _parameter(name: str, value: object) -> Parameter:
    if isinstance(value, tuple):
        return Parameter(name, Parameter.Type.STRING_ARRAY, list(value))
    return Parameter(name, value=value)
