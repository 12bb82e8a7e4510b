"""A perception node and its company as processes of this program: started, brought up, watched and ended.

Used where there is no `ros2 launch`: by `lfm-perception demo` and `lfm-perception replay`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import rclpy
import yaml
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node

from lfm_perception.errors import PerceptionError
from lfm_perception.ros import transport
from lfm_perception.settings import Settings

T = TypeVar("T")

PERCEPTION = "lfm_perception.ros.node"
CAMERA = "lfm_perception.ros.demo_camera"

START_S = 60.0
"""Longest time for a process to appear in the graph: importing rclpy and OpenCV on a slow, busy computer."""

TRANSITION_S = 600.0
"""Longest time for one lifecycle transition; configure loads a model, large ones from slow storage."""

ASK_AGAIN_S = 1.0
"""Time an answer of a node that is up may take, before it is asked again."""

STOP_S = 10.0
"""Time a process has to end by itself, before it is made to."""

LAST_LINES = 12


def stay_local() -> None:
    """Make this process and its children carry images well, and talk to nobody on other computers.

    Call before rclpy is initialized.
    """
    transport.use()
    if "ROS_LOCALHOST_ONLY" not in os.environ:  # Humble's name for it, which would be warned of later
        newer = os.environ.get("ROS_DISTRO") != "humble"
        name, value = ("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST") if newer else ("ROS_LOCALHOST_ONLY", "1")
        os.environ.setdefault(name, value)


def parameters(settings: Settings) -> dict[str, object]:
    """The settings that differ from the defaults, as ROS parameters. Raises PerceptionError for dialects."""
    if settings.dialects:
        names = ", ".join(dialect.name for dialect in settings.dialects)
        raise PerceptionError(f"the ROS node has the built-in dialects only, not {names}")
    defaults = Settings().values()
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in settings.values().items()
        if value != defaults[name]
    }


@contextmanager
def spinning_node(name: str, *, namespace: str = "") -> Iterator[Node]:
    """A node in a context of its own, its callbacks served by a thread until the end."""
    context = Context()
    rclpy.init(args=[], context=context)
    try:
        node = Node(name, namespace=namespace, context=context)
        executor = SingleThreadedExecutor(context=context)
        executor.add_node(node)
        thread = threading.Thread(target=_spin, args=(executor,), name=f"{name} executor", daemon=True)
        thread.start()
        try:
            yield node
        finally:
            executor.shutdown()
            thread.join()
            node.destroy_node()
    finally:
        rclpy.try_shutdown(context=context)


def _spin(executor: SingleThreadedExecutor) -> None:
    with suppress(ExternalShutdownException):
        executor.spin()


class NodeProcess:
    """`python -m module` as a ROS node, its output in a file. Ends with the `with` block.

    `parameters` and `remaps` are given as ROS arguments. A process that ended by itself surfaces as a
    PerceptionError with its last lines, from `check` and everything that waits for it.
    """

    def __init__(
        self,
        module: str,
        log: Path,
        parameters: Mapping[str, object] | None = None,
        remaps: Mapping[str, str] | None = None,
    ) -> None:
        self.module = module
        self._log = log
        with ExitStack() as cleaning:
            folder = cleaning.enter_context(tempfile.TemporaryDirectory(prefix="lfm_perception-"))
            file = Path(folder, "parameters.yaml")
            file.write_text(yaml.safe_dump({"/**": {"ros__parameters": dict(parameters or {})}}))
            arguments = ["--ros-args", *(["--params-file", str(file)] if parameters else [])]
            for name, target in (remaps or {}).items():
                arguments += ["--remap", f"{name}:={target}"]
            with log.open("wb") as output:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", module, *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # Ctrl-C reaches this program only, which ends the others
                )
            self._cleaning = cleaning.pop_all()

    @property
    def pid(self) -> int:
        return self._process.pid

    def check(self) -> None:
        """Raise PerceptionError when the process has ended."""
        code = self._process.poll()
        if code is not None:
            raise PerceptionError(f"{self.module} ended with code {code}{self.last_words()}")

    def last_words(self) -> str:
        """What the process said last, to end a message with."""
        lines = self._log.read_text(errors="replace").splitlines()[-LAST_LINES:]
        return "\n".join([f"; {self.module} said last:", *lines]) if lines else ""

    def stop(self) -> None:
        """End the process: asked by SIGINT, then SIGTERM, at last killed."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            if self._process.poll() is None:
                self._process.send_signal(number)
                with suppress(subprocess.TimeoutExpired):
                    self._process.wait(STOP_S)
        self._cleaning.close()

    def __enter__(self) -> NodeProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def wait_for(
    condition: Callable[[], T | None], timeout_s: float, what: str, watch: Sequence[NodeProcess] = ()
) -> T:
    """What `condition` returns, as soon as that is true.

    Raises PerceptionError, saying `what` was waited for, after `timeout_s` or when a watched process ends.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        for process in watch:
            process.check()
        if time.monotonic() > deadline:
            words = "".join(process.last_words() for process in watch)
            raise PerceptionError(f"gave up waiting for {what} after {timeout_s:g} s{words}")
        time.sleep(0.01)


def bring_up(node: Node, name: str, watch: Sequence[NodeProcess] = ()) -> None:
    """Configure and activate the lifecycle node `name`, which may still be starting.

    A node that is configured or active already is taken as it is. Raises PerceptionError when a
    transition fails.
    """
    states = Lifecycle(node, name, watch)
    if states.now() == State.PRIMARY_STATE_UNCONFIGURED:
        states.change(Transition.TRANSITION_CONFIGURE, "configured")
    if states.now() == State.PRIMARY_STATE_INACTIVE:
        states.change(Transition.TRANSITION_ACTIVATE, "activated")


class Lifecycle:
    """The lifecycle of another node, through its services; `node` keeps the clients made for it."""

    def __init__(self, node: Node, name: str, watch: Sequence[NodeProcess] = ()) -> None:
        self._name, self._watch = name, watch
        # In this order: who hears the answers of the second, hears those of the first.
        self._change: Any = node.create_client(ChangeState, f"{name}/change_state")
        self._state: Any = node.create_client(GetState, f"{name}/get_state")

    def now(self) -> int:
        """The state, of `lifecycle_msgs/State`."""
        self._wait_for_service(self._state)
        futures: list[Any] = []

        def answered() -> Any:
            """An answer is lost when its sender does not know yet who asked: ask again."""
            if time.monotonic() - began_s >= len(futures) * ASK_AGAIN_S:
                futures.append(self._state.call_async(GetState.Request()))
            return next((future for future in futures if future.done()), None)

        began_s = time.monotonic()
        answer = self._wait(answered, START_S, self._state).result()
        return int(answer.current_state.id)

    def change(self, transition: int, done: str) -> None:
        """Make a transition; `done` is its name in the message of a failure."""
        self.now()
        self._wait_for_service(self._change)
        future = self._change.call_async(ChangeState.Request(transition=Transition(id=transition)))
        self._wait(future.done, TRANSITION_S, self._change)
        if not future.result().success:
            raise PerceptionError(f"{self._name} could not be {done}: its log says why")

    def _wait_for_service(self, client: Any) -> None:
        wait_for(client.service_is_ready, START_S, f"the service {client.srv_name}", self._watch)

    def _wait(self, condition: Callable[[], T | None], timeout_s: float, client: Any) -> T:
        return wait_for(condition, timeout_s, f"an answer of {client.srv_name}", self._watch)
