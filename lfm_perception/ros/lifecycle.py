# SPDX-License-Identifier: Apache-2.0
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


def bring_up(node: Node, name: str, processes: Sequence[NodeProcess] = ()) -> None:
    """Configure and activate the lifecycle node `name`, which may still be starting.

    A node that is already configured or active keeps its state.

    Args:
        node: makes the requests.
        processes: checked while waiting.

    Raises:
        PerceptionError: a transition failed or timed out, or a process ended.
    """
    client = LifecycleClient(node, name, processes)
    if client.state() == State.PRIMARY_STATE_UNCONFIGURED:
        client.change_state(Transition.TRANSITION_CONFIGURE, "configured")
    if client.state() == State.PRIMARY_STATE_INACTIVE:
        client.change_state(Transition.TRANSITION_ACTIVATE, "activated")


class LifecycleClient:
    """Reads and changes the lifecycle state of the node `name`; `node` owns the clients."""

    def __init__(self, node: Node, name: str, processes: Sequence[NodeProcess] = ()) -> None:
        self._name, self._processes = name, processes
        # In this order: once the second client receives responses, the first does too.
        self._change_state: Any = node.create_client(ChangeState, f"{name}/change_state")
        self._get_state: Any = node.create_client(GetState, f"{name}/get_state")

    def state(self) -> int:
        """The id of the state, as in `lifecycle_msgs/State`."""
        self._wait_for_service(self._get_state)
        futures: list[Any] = []

        def response() -> Any:
            """The first response. It is lost if the server has not discovered the client yet: retry."""
            if time.monotonic() - began_s >= len(futures) * RETRY_S:
                futures.append(self._get_state.call_async(GetState.Request()))
            return next((future for future in futures if future.done()), None)

        began_s = time.monotonic()
        answer = self._wait(response, START_TIMEOUT_S, self._get_state).result()
        return int(answer.current_state.id)

    def change_state(self, transition: int, done: str) -> None:
        """Make a transition. `done` names it in errors: "could not be configured"."""
        self.state()
        self._wait_for_service(self._change_state)
        future = self._change_state.call_async(ChangeState.Request(transition=Transition(id=transition)))
        self._wait(future.done, TRANSITION_TIMEOUT_S, self._change_state)
        if not future.result().success:
            raise PerceptionError(f"{self._name} could not be {done}: its log says why")

    def _wait_for_service(self, client: Any) -> None:
        wait_for(client.service_is_ready, START_TIMEOUT_S, f"the service {client.srv_name}", self._processes)

    def _wait(self, condition: Callable[[], T | None], timeout_s: float, client: Any) -> T:
        return wait_for(condition, timeout_s, f"a response of {client.srv_name}", self._processes)
