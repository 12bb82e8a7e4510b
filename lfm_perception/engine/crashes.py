# SPDX-License-Identifier: Apache-2.0
"""Why llama.cpp, CUDA or a driver ended a process, as far as it is known, and what to try."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from lfm_perception.errors import os_reason
from lfm_perception.provenance import sha256
from lfm_perception.text import safe_line

MAX_OUTPUT = 120
"""Characters of the last line of output that a sentence quotes."""


@dataclass(frozen=True, slots=True)
class Stage:
    """What the engine is doing. `file`: the file that llama.cpp is reading."""

    name: str
    file: Path | None = None


STARTING = Stage("starting")
IDLE = Stage("waiting for a question")
ENCODING = Stage("encoding an image")
ANSWERING = Stage("answering")


def loading(file: Path) -> Stage:
    """The stage in which llama.cpp reads a file."""
    return Stage(f"loading {file.name}", file)


@dataclass(frozen=True, slots=True)
class Crash:
    """How a process ended, in a sentence, and what to try."""

    sentence: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.sentence}: {self.remedy}" if self.remedy else self.sentence


_BY_OUTPUT = (
    (
        r"CUDA_POOL_VMM|cuMemAddressReserve",
        "this board refuses the addresses of llama.cpp's default CUDA pool",
        "compile llama.cpp with GGML_CUDA_NO_VMM=ON, as make jetson and make robot do on a Jetson",
    ),
    (
        r"NvMapMem\w+.*error 12",
        "the driver refuses GPU memory: NvMap error 12, known of Jetson Linux 36.4.7",
        "update JetPack, or set engine.vision_gpu to false",
    ),
    (
        r"no kernel image is available|CUDA_ERROR_NO_BINARY_FOR_GPU",
        "llama.cpp was compiled for another GPU",
        "compile it on this machine: make jetson, make robot or make desktop",
    ),
    (
        r"driver version is insufficient",
        "NVIDIA's driver is older than the CUDA that llama.cpp was compiled with",
        "update the driver, or compile llama.cpp with an older CUDA",
    ),
    (
        r"(CUDA|cuda).*out of memory|cudaMalloc failed",
        "the GPU's memory is used up",
        "lower engine.n_ctx or image.max_tokens, set engine.vision_gpu to false, or use a smaller model",
    ),
)
"""Expressions in the last output of a process, with cause and remedy; the first that matches counts."""

_BY_SIGNAL = {
    "SIGKILL": (
        "out of memory, or killed by hand",
        "lower engine.n_ctx or image.max_tokens, or use a smaller model",
    ),
    "SIGBUS": ("a model file was changed or cut short while in use", "download the model again"),
}

_ABORTED = ("SIGABRT", "SIGSEGV", "SIGFPE")


def explain(signal_name: str, stage: Stage, output: str) -> Crash:
    """How a process ended that a signal killed at a stage, from the last of its output."""
    ending = f"the worker process was killed by {signal_name} while {stage.name}"
    for expression, cause, remedy in _BY_OUTPUT:
        if re.search(expression, output):
            return Crash(f"{ending}: {cause}", remedy)
    if signal_name == "SIGILL":
        remedy = "delete ~/.cache/lfm_perception/wheels and install again here"
        return Crash("llama.cpp was compiled for another processor than this one", remedy)
    if stage.file is not None and signal_name != "SIGKILL":
        return _fatal_file(stage.file, signal_name)
    if signal_name in _BY_SIGNAL:
        cause, remedy = _BY_SIGNAL[signal_name]
        return Crash(f"{ending} ({cause})", remedy)
    if signal_name in _ABORTED:
        last = safe_line((output.strip().splitlines() or ["no output"])[-1])[-MAX_OUTPUT:]
        remedy = "run lfm-perception doctor, and try engine.n_gpu_layers 0, which leaves the GPU out"
        return Crash(f"{ending} (llama.cpp or CUDA aborted: {last})", remedy)
    return Crash(ending, "")


def _fatal_file(path: Path, signal_name: str) -> Crash:
    try:
        checksum = sha256(path)
    except OSError as error:
        checksum = os_reason(error)
    return Crash(
        f"{path} (SHA-256 {checksum}) makes llama.cpp end its process ({signal_name})",
        "it is damaged or was changed while it was read, download it again",
    )
