# SPDX-License-Identifier: Apache-2.0
"""What several tests share: the demo model's files, its vocabulary, an engine that has loaded it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from fake_models import LABELS, USERS_OWN
from hypothesis import settings

from lfm_perception.backends.llama import model_files
from lfm_perception.backends.llama_vlm import LlamaVlm
from lfm_perception.demo.world import World
from lfm_perception.engine.grammar import Grammar
from lfm_perception.engine.native import llama_cpp
from lfm_perception.engine.vocabulary import Vocabulary
from lfm_perception.questions import BBOX, BBOX_2D
from lfm_perception.scene import Frame
from lfm_perception.settings import Settings

if TYPE_CHECKING:
    from command import Command
    from computer import Computer
    from engine_load import Computed
    from robot import Robot

# Nobody else's nodes: neither those of another run nor those of another worker of this one.
_WORKER = os.environ.get("PYTEST_XDIST_WORKER")
_RUN = os.getppid() + int(_WORKER.removeprefix("gw")) if _WORKER else os.getpid()
os.environ["ROS_DOMAIN_ID"] = str(1 + _RUN % 100)

# What a shell runs in the background is born with SIGINT ignored, and the processes of tests would be too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Property tests judge values, not the speed of a busy machine.
settings.register_profile("everyday", deadline=None)
settings.load_profile("everyday")


def pytest_unconfigure() -> None:
    """Close what llama_cpp opens on import and never closes: after tests of rclpy, Python warns of it."""
    from llama_cpp import _utils

    _utils.outnull_file.close()
    _utils.errnull_file.close()


@pytest.fixture(scope="module", autouse=True)
def own_environment() -> Iterator[None]:
    """Restore the environment variables that commands in this process set, such as the discovery range."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def untraced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start processes without coverage, which multiplies the time that this test limits."""
    monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)


@pytest.fixture(scope="session")
def imported_by_default() -> list[str]:
    """The modules that node and command line import while no optional part is switched on."""
    code = (
        "import sys, lfm_perception.ros.run_node, lfm_perception.cli.application, lfm_perception.live, "
        "lfm_perception.agents.eyes, lfm_perception.media.run, lfm_perception.media.sinks\n"
        "print(*sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert shown.returncode == 0, shown.stderr
    return shown.stdout.split()


@pytest.fixture(scope="session")
def demo_model() -> tuple[Path, Path]:
    """The language model and the vision file that ship with the package."""
    return model_files(Settings())


@pytest.fixture(scope="session")
def vocabulary(demo_model: tuple[Path, Path]) -> Iterator[Vocabulary]:
    """The demo model's vocabulary, read by llama.cpp without the weights."""
    params = llama_cpp.llama_model_default_params()
    params.vocab_only = True
    model = llama_cpp.llama_model_load_from_file(str(demo_model[0]).encode(), params)
    assert model
    yield Vocabulary(model)
    llama_cpp.llama_model_free(model)


@pytest.fixture(scope="session")
def vlm() -> Iterator[LlamaVlm]:
    """The demo model, loaded, at temperature 0; on a GPU where `benchmarks/cuda.sh` asks for it."""
    layers = int(os.environ.get("LFM_PERCEPTION_TEST_GPU_LAYERS", "0"))
    settings = Settings().with_values({"sampling.temperature": 0.0, "engine.n_gpu_layers": layers})
    with LlamaVlm(settings) as loaded:
        yield loaded


@pytest.fixture(
    scope="module",
    params=[(dialect, labels) for dialect in (BBOX, BBOX_2D, USERS_OWN) for labels in (LABELS, None)],
    ids=lambda param: f"{param[0].name}-{'closed' if param[1] else 'open'}",
)
def grammar(request: pytest.FixtureRequest, vocabulary: Vocabulary) -> Grammar:
    """The grammar of each dialect, with a closed and with an open vocabulary."""
    return Grammar(vocabulary, *request.param)


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> Computed:
    """What the engine computes during the test."""
    from engine_load import count_computations

    return count_computations(monkeypatch)


@pytest.fixture(scope="session")
def frame() -> Frame:
    """A frame of the demo world."""
    return World(seed=1, width=256, height=256).snapshot(0).frame


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str]) -> Command:
    """`lfm-perception`, in this process."""
    from command import Command

    return Command(capfd)


@pytest.fixture
def files(demo_model: tuple[Path, Path]) -> dict[str, bytes]:
    """The demo model as the hub of the tests holds it."""
    from computer import MMPROJ, MODEL

    return {MODEL: demo_model[0].read_bytes(), MMPROJ: demo_model[1].read_bytes()}


@pytest.fixture
def computer(tmp_path: Path, files: dict[str, bytes]) -> Iterator[Computer]:
    """A computer without models, beside a hub that has the demo model."""
    from computer import REPO, Computer, registry_text
    from hub import Hub

    with Hub(REPO, files) as hub:
        computer = Computer(tmp_path / "hf", hub)
        computer.describe(registry_text(files))
        yield computer


@pytest.fixture(scope="module")
def running() -> Iterator[Robot]:
    """An active node that the tests of one file share; each leaves it as it found it."""
    from robot import robot

    with robot() as started:
        yield started.bring_up()


@pytest.fixture(scope="module")
def compressed() -> Iterator[Robot]:
    """An active node that subscribes to compressed images."""
    from robot import robot

    with robot({"node.image_transport": "compressed"}) as started:
        yield started.bring_up()
