# SPDX-License-Identifier: Apache-2.0
"""The actions of rules: what is published, called and saved when their events begin and end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from rcl_interfaces.srv import SetParametersAtomically
from rclpy.client import Client
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.publisher import Publisher
from std_msgs.msg import Bool, String
from std_srvs.srv import SetBool, Trigger

from lfm_perception.errors import PerceptionError, os_reason, shown
from lfm_perception.files import oldest_first, user_path, write_complete
from lfm_perception.media import images
from lfm_perception.ros.rule_questions import RuleQuestions
from lfm_perception.ros.topics import LATCHED, RESULT
from lfm_perception.rules import Event
from lfm_perception.rules.events import FILE_PREFIX, file_name
from lfm_perception.rules.schema import ParameterChange, ParameterValue, Rule
from lfm_perception.scene import Frame, Track
from lfm_perception.settings import RulesSettings

MAX_SNAPSHOTS = 200
"""Maximum number of saved images; the oldest are deleted and counted."""

MAX_PENDING = 8
"""Maximum number of unanswered calls of a service; the oldest are given up and counted."""

SNAPSHOT_QUALITY = 90

AskAdviser = Callable[[bytes, str, Track, str, str], None]
"""Receives a serialized image with its frame id, a track that it shows, a question, and its reason."""


@dataclass(frozen=True, slots=True)
class _Endpoints:
    """The publishers and clients of the actions of one rule, by the name of the action; calls unanswered."""

    rule: Rule
    publishers: dict[str, Publisher[Any]] = field(default_factory=dict)
    clients: dict[str, Client[Any, Any]] = field(default_factory=dict)
    pending: dict[str, list[Any]] = field(default_factory=dict)


class RuleActions:
    """Carries out the actions of `rules`, as far as the settings allow it. To be closed.

    What an action cannot do is logged; it costs nothing but itself.

    Args:
        decode: makes a frame of a serialized image; for snapshots.
        warn: called as `warn(kind, sentence)`.
        questions: asks those of the rules.
        counts: counts what was lost.
        ask_adviser: asks for a second opinion about a track that a serialized image shows.
    """

    def __init__(
        self,
        node: Node,
        rules: Iterable[Rule],
        settings: RulesSettings,
        decode: Callable[[bytes, int | None], Frame],
        warn: Callable[..., None],
        questions: RuleQuestions,
        counts: Counter[str],
        ask_adviser: AskAdviser,
    ) -> None:
        self._node, self._decode, self._warn, self._ask_adviser = node, decode, warn, ask_adviser
        self._settings, self._questions, self._counts = settings, questions, counts
        self._folder = user_path(settings.snapshots) if settings.snapshots else None
        self._active_events = Counter[str]()
        self._own = {each.topic_name for each in (*node.publishers, *node.subscriptions)}
        self._own |= {node.resolve_service_name(service.srv_name) for service in node.services}
        acting = [rule for rule in rules if rule.actions != type(rule.actions)()]
        if acting and not settings.actions:
            warn("actions", f"{len(acting)} rules have actions, and rules.actions is false: none is done")
        self._endpoints = {rule.name: self._open(rule) for rule in acting if settings.actions}

    def act(self, events: Sequence[Event], raw: bytes, frame_id: str) -> None:
        """Carry out the actions of the rules of these events.

        Args:
            raw, frame_id: the serialized image that they belong to, empty without one, and its frame id.
        """
        pictured = []
        for event in events:
            if (found := self._endpoints.get(event.rule)) is not None:
                begins, actions = event.begins, found.rule.actions
                before = self._active_events[event.rule]
                if event.state != "moment":
                    self._active_events[event.rule] += 1 if begins else -1
                self._publish(found, event, changed=bool(before) != bool(self._active_events[event.rule]))
                if begins and actions.ask is not None:
                    self._questions.ask(event, actions.ask, about_track=found.rule.of_objects)
                if begins and actions.second_opinion and event.tracks and raw:
                    reason = f"rule {event.rule}"
                    self._ask_adviser(raw, frame_id, event.tracks[0], actions.second_opinion, reason)
                if begins and actions.snapshot:
                    pictured.append(event)
        if pictured and self._folder is not None and raw:
            self._save(pictured, raw, self._folder)

    def close(self) -> None:
        """Remove the publishers, and each client once its last call is answered.

        A service that answers a client which is gone raises in rclpy, and would end.
        """
        for found in self._endpoints.values():
            for publisher in found.publishers.values():
                self._node.destroy_publisher(publisher)
            for name, client in found.clients.items():
                waiting = [future for future in found.pending.get(name, []) if not future.done()]
                if waiting:
                    waiting[-1].add_done_callback(partial(self._destroy, client))
                else:
                    self._node.destroy_client(client)
        self._endpoints = {}

    def _destroy(self, client: Client[Any, Any], _: object) -> None:
        self._node.destroy_client(client)

    def _open(self, rule: Rule) -> _Endpoints:
        actions, node = rule.actions, self._node
        topics = {"publish_bool": (Bool, LATCHED), "publish_text": (String, RESULT)}
        services = {"call_trigger": Trigger, "call_set_bool": SetBool}
        found = _Endpoints(rule)
        for name, (kind, qos) in topics.items():
            if topic := getattr(actions, name):
                with self._telling(rule, topic):
                    self._check_name(topic)
                    found.publishers[name] = node.create_publisher(kind, topic, qos.profile())
        for name, kind in services.items():
            if service := getattr(actions, name):
                with self._telling(rule, service):
                    self._check_name(service)
                    found.clients[name] = node.create_client(kind, service)
        if (change := actions.set_parameter) is not None:
            with self._telling(rule, f"parameter {change.name}"):
                found.clients["set_parameter"] = self._parameter_client(change)
        if "publish_bool" in found.publishers:
            found.publishers["publish_bool"].publish(Bool(data=False))
        for name, wanted, path in (
            ("snapshots", actions.snapshot, self._settings.snapshots),
            ("clips", actions.clip, self._settings.clips),
        ):
            if wanted and not path:
                self._warn(f"{name} {rule.name}", f"rule {shown(rule.name)}: rules.{name} names no folder")
        return found

    def _parameter_client(self, change: ParameterChange) -> Client[Any, Any]:
        own = self._node.get_fully_qualified_name()
        target = self._node.resolve_service_name(change.node) if change.node else own
        if target == own and change.name.startswith("rules."):
            raise PerceptionError("rules do not change the parameters of the rules")
        return self._node.create_client(SetParametersAtomically, f"{target}/set_parameters_atomically")

    def _check_name(self, name: str) -> None:
        """Refuse a topic or service of this node itself, which must not act on itself."""
        if self._node.resolve_topic_name(name) in self._own:
            raise PerceptionError("it is this node's own")

    @contextmanager
    def _telling(self, rule: Rule, name: str) -> Iterator[None]:
        """Log why a topic or service is not used; ROS refuses one of another type, for example."""
        try:
            yield
        except Exception as error:
            reason = images.reason(error).partition(", at /")[0]
            self._warn(f"action {rule.name}", f"rule {shown(rule.name)}: {name} is not used: {reason}")

    def _publish(self, found: _Endpoints, event: Event, *, changed: bool) -> None:
        """Publish and call; `changed`: the first event of the rule has begun, or the last one has ended."""
        on = event.begins
        if changed and "publish_bool" in found.publishers:
            found.publishers["publish_bool"].publish(Bool(data=on))
        if on and "publish_text" in found.publishers:
            found.publishers["publish_text"].publish(String(data=event.message or event.rule))
        if on and "call_trigger" in found.clients:
            self._call(found, "call_trigger", Trigger.Request())
        if changed and "call_set_bool" in found.clients:
            self._call(found, "call_set_bool", SetBool.Request(data=on))
        change = found.rule.actions.set_parameter
        if change is not None and "set_parameter" in found.clients:
            # a moment has no end: each one sets the parameter
            value = change.value if on and (changed or event.state == "moment") else None
            self._set_parameter(found, change.name, change.end if changed and not on else value)

    def _set_parameter(self, found: _Endpoints, name: str, value: ParameterValue | None) -> None:
        if value is None:
            return
        message = Parameter(name, value=list(value) if isinstance(value, tuple) else value).to_parameter_msg()
        asked = self._call(found, "set_parameter", SetParametersAtomically.Request(parameters=[message]))
        if asked is not None:
            asked.add_done_callback(partial(self._check_set, found.rule.name, name))

    def _check_set(self, rule: str, name: str, future: Any) -> None:
        """Log why a node did not accept a parameter."""
        answer = None if future.cancelled() else future.result()
        if answer is not None and not answer.result.successful:
            self._warn(f"action {rule}", f"rule {shown(rule)}: {name} is not set: {answer.result.reason}")

    def _call(self, found: _Endpoints, name: str, request: Any) -> Any:
        """Call a service without waiting for its answer; returns its future, None without a service."""
        client = found.clients[name]
        if not client.service_is_ready():
            rule = found.rule.name
            self._warn(f"action {rule}", f"rule {shown(rule)}: there is no service {client.srv_name}")
            return None
        waiting = [future for future in found.pending.get(name, []) if not future.done()]
        given_up = max(len(waiting) + 1 - MAX_PENDING, 0)
        for future in waiting[:given_up]:
            client.remove_pending_request(future)
            self._counts["calls lost"] += 1
            said = f"{client.srv_name} has not answered {MAX_PENDING} calls: the oldest is given up"
            self._warn(f"action {found.rule.name}", f"rule {shown(found.rule.name)}: {said}")
        asked = client.call_async(request)
        found.pending[name] = [*waiting[given_up:], asked]
        return asked

    def _save(self, events: Sequence[Event], raw: bytes, folder: Path) -> None:
        """Save the image of events under their ids, and delete the oldest ones beyond `MAX_SNAPSHOTS`."""
        lost = len(events)
        try:
            jpeg = images.encode(self._decode(raw, None).image, ".jpg", SNAPSHOT_QUALITY)
            folder.mkdir(parents=True, exist_ok=True)
            for event in events[:MAX_SNAPSHOTS]:
                write_complete(folder / f"{file_name(event)}.jpg", jpeg)
                lost -= 1
            saved = [file for file in folder.glob(f"{FILE_PREFIX}*.jpg") if file.is_file()]
            for file in oldest_first(saved)[:-MAX_SNAPSHOTS]:
                file.unlink(missing_ok=True)  # another node may delete it too
                self._counts["snapshots deleted"] += 1
        except (OSError, PerceptionError) as error:
            reason = (
                f"rules.snapshots {folder}: {os_reason(error)}" if isinstance(error, OSError) else str(error)
            )
            self._warn("snapshot", reason)
        self._counts["snapshots lost"] += lost
