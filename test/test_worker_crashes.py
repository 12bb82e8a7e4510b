# SPDX-License-Identifier: Apache-2.0
"""What is said of worker processes that end. The faults are injected and say so; the processes are real."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from lfm_perception.backends.supervisor import SupervisedVlm, WorkerError
from lfm_perception.demo.bodies import LABELS
from lfm_perception.doctor import check_inference
from lfm_perception.engine.crashes import ANSWERING, ENCODING, explain
from lfm_perception.image_plan import ImageLimits, plan_image
from lfm_perception.questions import BBOX, FramePlan, detect
from lfm_perception.scene import Frame
from lfm_perception.settings import Settings

FRAME = Frame(np.full((480, 640, 3), 90, np.uint8), 0)
FIND = detect(BBOX, LABELS)
PLAN = FramePlan(plan_image(640, 480, ImageLimits(32, 64)), 60)

ABORTS = """
import ctypes
from lfm_perception.engine import native, vision
encode = vision.VisionEncoder.encode
def failing(self, tile):
    if tile.shape[0] > {largest}:
        for line in ("CUDA error: injected fault", "cuMemAddressReserve(&pool, CUDA_POOL_VMM_MAX_SIZE)"):
            native._on_log(4, line.encode(), None)
        native.libggml.ggml_abort(b"injected.cu", 1, b"injected fault")
    return encode(self, tile)
vision.VisionEncoder.encode = failing
"""
"""Aborts in llama.cpp's own way at every image higher than `largest`, as the CUDA pool does on some Orins."""


@pytest.fixture
def inject(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Has every worker process run code after the import of the backend."""

    def injected(code: str) -> None:
        (tmp_path / "fault.py").write_text(code)
        (tmp_path / "sitecustomize.py").write_text(
            "import sys\nif 'lfm_perception.backends.worker' in ' '.join(sys.orig_argv): import fault\n"
        )
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *filter(None, sys.path)]))

    return injected


def wait_for(condition: Callable[[], object]) -> None:
    deadline_s = time.monotonic() + 20.0
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def test_a_worker_that_dies_twice_at_the_same_stage_says_of_what_and_what_to_try(
    inject: Callable[[str], None], capfd: pytest.CaptureFixture[str]
) -> None:
    inject(ABORTS.format(largest=64))
    told: list[str] = []
    vlm = SupervisedVlm(Settings(), told.append)
    try:
        for _ in range(3):
            wait_for(lambda: vlm.health().ready)
            with pytest.raises(WorkerError):
                vlm.describe(FRAME, FIND, PLAN)
    finally:
        vlm.close()
    losses = [sentence for sentence in told if "ready again" not in sentence]
    ending = (
        "the worker process was killed by SIGABRT while encoding an image: "
        "this board refuses the addresses of llama.cpp's default CUDA pool"
    )
    remedy = "compile llama.cpp with GGML_CUDA_NO_VMM=ON, as make jetson and make robot do on a Jetson"
    assert losses == [
        f"{ending}; restarting in 0.5 s",
        f"again {ending}: {remedy}; restarting in 1 s",
        f"again {ending}: {remedy}; restarting in 2 s",
    ]
    assert "injected.cu:1: injected fault" in capfd.readouterr().err


def test_a_worker_that_dies_at_the_first_image_does_not_blame_the_file(inject: Callable[[str], None]) -> None:
    inject(ABORTS.format(largest=0))
    with pytest.raises(
        WorkerError, match=r"while encoding an image: this board refuses .*GGML_CUDA_NO_VMM=ON"
    ):
        SupervisedVlm(Settings())


def test_the_doctor_encodes_an_image_in_a_process_that_may_die(inject: Callable[[str], None]) -> None:
    inject(ABORTS.format(largest=64))
    for isolation in ("process", "thread"):
        found = check_inference(Settings().with_values({"engine.isolation": isolation}))
        assert "this board refuses the addresses" in found.found
        assert "restarting" not in found.found
        assert found.remedy.startswith("compile llama.cpp with GGML_CUDA_NO_VMM=ON")


@pytest.mark.parametrize(
    ("output", "cause", "remedy"),
    [
        (
            "NvMapMemAllocInternalTagged: 1075072515 error 12",
            r"NvMap error 12.*36\.4\.7",
            "engine.vision_gpu",
        ),
        ("CUDA error: out of memory\n  cuMemAddressReserve(&pool", "default CUDA pool", "GGML_CUDA_NO_VMM"),
        ("CUDA error: out of memory", "memory is used up", "engine.n_ctx"),
        ("CUDA error: no kernel image is available for execution", "another GPU", "make jetson"),
        ("CUDA driver version is insufficient for CUDA runtime", "driver is older", "update the driver"),
    ],
)
def test_known_last_words_are_explained(output: str, cause: str, remedy: str) -> None:
    crash = explain("SIGABRT", ENCODING, f"something\n{output}\nggml-cuda.cu:98: CUDA error\n")
    assert crash.sentence.startswith("the worker process was killed by SIGABRT while encoding an image: ")
    assert re.search(cause, crash.sentence)
    assert remedy in crash.remedy
    assert len(str(crash)) < 300


def test_unknown_last_words_are_quoted() -> None:
    crash = explain("SIGSEGV", ANSWERING, "one\nggml.c:7: two\n")
    assert crash.sentence.endswith("while answering (llama.cpp or CUDA aborted: ggml.c:7: two)")
    assert "engine.n_gpu_layers 0" in crash.remedy


def children(pid: int) -> list[int]:
    files = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for file in files for child in file.read_text().split()]


def test_ctrl_c_while_a_worker_imports_is_silent() -> None:
    code = (
        "from lfm_perception.backends.supervisor import SupervisedVlm\n"
        "from lfm_perception.settings import Settings\n"
        "SupervisedVlm(Settings()).close()\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE) as process:
        wait_for(lambda: children(process.pid))
        (worker,) = children(process.pid)
        while process.poll() is None:  # from its first moment, through all imports, to its end
            with suppress(ProcessLookupError):
                os.kill(worker, signal.SIGINT)
            time.sleep(0.01)
        assert process.stderr
        assert process.stderr.read() == b""
    assert process.returncode == 0
