"""Client of another node's lifecycle services."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.node import Node

from lfm_perception.errors import PerceptionError
from lfm_perception.ros.processes import START_TIMEOUT_S, NodeProcess, wait_for

T = TypeVar("T")

TRANSITION_TIMEOUT_S = 600.0
"""Timeout of one lifecycle transition; configure loads a model, possibly a large one from slow storage."""

RETRY_S = 1.0
"""Time after which an unanswered request for the state is sent again."""


def bring_up(node: Node, name: str, watch: Sequence[NodeProcess] = ()) -> None:
    """Configure and activate the lifecycle node `name`, which may still be starting.

    A node that is configured or active already is taken as it is. Raises PerceptionError when a
    transition fails.
    """
    client = LifecycleClient(node, name, watch)
    if client.state() == State.PRIMARY_STATE_UNCONFIGURED:
        client.change_state(Transition.TRANSITION_CONFIGURE, "configured")
    if client.state() == State.PRIMARY_STATE_INACTIVE:
        client.change_state(Transition.TRANSITION_ACTIVATE, "activated")


class LifecycleClient:
    """The lifecycle of another node, through its services; `node` keeps the clients made for it."""

    def __init__(self, node: Node, name: str, watch: Sequence[NodeProcess] = ()) -> None:
        self._name, self._watch = name, watch
        # In this order: who hears the answers of the second, hears those of the first.
        self._change_state: Any = node.create_client(ChangeState, f"{name}/change_state")
        self._get_state: Any = node.create_client(GetState, f"{name}/get_state")

    def state(self) -> int:
        """The state, of `lifecycle_msgs/State`."""
        self._wait_for_service(self._get_state)
        futures: list[Any] = []

        def answered() -> Any:
            """An answer is lost when its sender does not know yet who asked: ask again."""
            if time.monotonic() - began_s >= len(futures) * RETRY_S:
                futures.append(self._get_state.call_async(GetState.Request()))
            return next((future for future in futures if future.done()), None)

        began_s = time.monotonic()
        answer = self._wait(answered, START_TIMEOUT_S, self._get_state).result()
        return int(answer.current_state.id)

    def change_state(self, transition: int, done: str) -> None:
        """Make a transition; `done` is its name in the message of a failure."""
        self.state()
        self._wait_for_service(self._change_state)
        future = self._change_state.call_async(ChangeState.Request(transition=Transition(id=transition)))
        self._wait(future.done, TRANSITION_TIMEOUT_S, self._change_state)
        if not future.result().success:
            raise PerceptionError(f"{self._name} could not be {done}: its log says why")

    def _wait_for_service(self, client: Any) -> None:
        wait_for(client.service_is_ready, START_TIMEOUT_S, f"the service {client.srv_name}", self._watch)

    def _wait(self, condition: Callable[[], T | None], timeout_s: float, client: Any) -> T:
        return wait_for(condition, timeout_s, f"an answer of {client.srv_name}", self._watch)
