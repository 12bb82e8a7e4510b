# SPDX-License-Identifier: Apache-2.0
"""What llama.cpp can use on this machine, tested in a separate process, which it may abort.

    python -m lfm_perception.engine.probe MODEL N_GPU_LAYERS

prints one line of JSON: the fields of `Probe`.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from lfm_perception.engine.crashes import explain, loading
from lfm_perception.errors import PerceptionError

TIMEOUT_S = 120.0
_GPU_TYPES = (1, 2)  # GGML_BACKEND_DEVICE_TYPE_GPU and _IGPU


@dataclass(frozen=True, slots=True)
class Probe:
    """Whether llama.cpp was compiled for a GPU, the GPUs it found, and the model's layers on them.

    `no_vmm`: whether CUDA's memory pool does without virtual memory (GGML_CUDA_NO_VMM).
    """

    gpu_build: bool
    gpus: tuple[str, ...]
    offloaded: int
    layers: int
    no_vmm: bool = False


def probe(model: Path, n_gpu_layers: int) -> Probe:
    """Load the model in another process and report where its layers are.

    Raises PerceptionError when llama.cpp cannot be loaded, aborts, or refuses the model.
    """
    command = [sys.executable, "-m", "lfm_perception.engine.probe", str(model), str(n_gpu_layers)]
    try:
        process = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired as error:
        raise PerceptionError(
            f"llama.cpp did not load {model.name} within {TIMEOUT_S:.0f} s: is the disk or the GPU busy?"
        ) from error
    if process.returncode < 0:
        name = signal.Signals(-process.returncode).name
        raise PerceptionError(str(explain(name, loading(model), process.stderr)))
    last = (process.stderr.strip().splitlines() or ["it does not say why"])[-1]
    if process.returncode:
        raise PerceptionError(last)
    found = json.loads(process.stdout)
    return Probe(**{**found, "gpus": tuple(found["gpus"])})


def _main(model: str, n_gpu_layers: int) -> Probe:
    # imported here: only the separate process may abort or fail on it
    from lfm_perception.engine.native import libggml, llama_cpp

    messages: list[str] = []

    @llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
    def on_log(_level: int, text: bytes, _data: object) -> None:
        messages.append(text.decode(errors="replace"))

    llama_cpp.llama_log_set(on_log, ctypes.c_void_p(None))
    llama_cpp.llama_backend_init()
    params = llama_cpp.llama_model_default_params()
    params.n_gpu_layers = n_gpu_layers
    loaded = llama_cpp.llama_model_load_from_file(os.fsencode(model), params)
    if not loaded:
        raise PerceptionError(f"llama.cpp does not take {model}: {' '.join(messages[-1:]).strip()}")
    offload = re.search(r"offloaded (\d+)/(\d+) layers to GPU", "".join(messages))
    layers = llama_cpp.llama_model_n_layer(loaded)
    llama_cpp.llama_model_free(loaded)
    return Probe(
        bool(llama_cpp.llama_supports_gpu_offload()),
        tuple(_gpus(libggml)),
        int(offload[1]) if offload else 0,
        int(offload[2]) if offload else layers,
        b"NO_VMM = 1" in llama_cpp.llama_print_system_info(),
    )


def _gpus(libggml: ctypes.CDLL) -> list[str]:
    """The descriptions of all GPUs that ggml found."""
    get, device_type, description = (
        libggml.ggml_backend_dev_get,
        libggml.ggml_backend_dev_type,
        libggml.ggml_backend_dev_description,
    )
    get.argtypes, get.restype = [ctypes.c_size_t], ctypes.c_void_p
    device_type.argtypes, device_type.restype = [ctypes.c_void_p], ctypes.c_int
    description.argtypes, description.restype = [ctypes.c_void_p], ctypes.c_char_p
    libggml.ggml_backend_dev_count.restype = ctypes.c_size_t
    devices = [get(index) for index in range(libggml.ggml_backend_dev_count())]
    return [description(device).decode() for device in devices if device_type(device) in _GPU_TYPES]


if __name__ == "__main__":
    try:
        print(json.dumps(asdict(_main(sys.argv[1], int(sys.argv[2])))))
    except PerceptionError as error:
        sys.exit(str(error))
