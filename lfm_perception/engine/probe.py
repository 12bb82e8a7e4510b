"""What llama.cpp can do on this machine, found out in a process of its own, which it may end.

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

from lfm_perception.errors import PerceptionError

TIME_LIMIT_S = 120.0
_GPU_KINDS = (1, 2)  # GGML_BACKEND_DEVICE_TYPE_GPU and _IGPU


@dataclass(frozen=True, slots=True)
class Probe:
    """`gpu_build`: llama.cpp was compiled for a GPU; `gpus`: those it found; `offloaded` of `layers`: what
    the model has on them when it is loaded with the layers that were asked for.
    """

    gpu_build: bool
    gpus: tuple[str, ...]
    offloaded: int
    layers: int


def probe(model: Path, n_gpu_layers: int) -> Probe:
    """Load the model in another process and see where its layers went.

    Raises PerceptionError when llama.cpp cannot be loaded, ends the process, or does not take the model.
    """
    command = [sys.executable, "-m", "lfm_perception.engine.probe", str(model), str(n_gpu_layers)]
    try:
        process = subprocess.run(command, capture_output=True, text=True, timeout=TIME_LIMIT_S)
    except subprocess.TimeoutExpired as error:
        raise PerceptionError(
            f"llama.cpp did not load {model.name} within {TIME_LIMIT_S:.0f} s: is the disk or the GPU busy?"
        ) from error
    if process.returncode == -signal.SIGILL:
        raise PerceptionError(
            "llama.cpp was compiled for another processor than this one: "
            "delete ~/.cache/lfm_perception/wheels and install again here"
        )
    last = (process.stderr.strip().splitlines() or ["it does not say why"])[-1]
    if process.returncode:
        raise PerceptionError(f"llama.cpp cannot be used (exit code {process.returncode}): {last}")
    found = json.loads(process.stdout)
    return Probe(found["gpu_build"], tuple(found["gpus"]), found["offloaded"], found["layers"])


def _main(model: str, n_gpu_layers: int) -> Probe:
    # Here, because this can end the process or fail in ways that only the other process must survive.
    from lfm_perception.engine.native import libggml, llama_cpp

    said: list[str] = []

    @llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
    def listen(_level: int, text: bytes, _data: object) -> None:
        said.append(text.decode(errors="replace"))

    llama_cpp.llama_log_set(listen, ctypes.c_void_p(None))
    llama_cpp.llama_backend_init()
    params = llama_cpp.llama_model_default_params()
    params.n_gpu_layers = n_gpu_layers
    loaded = llama_cpp.llama_model_load_from_file(os.fsencode(model), params)
    if not loaded:
        raise PerceptionError(f"llama.cpp does not take {model}: {' '.join(said[-1:]).strip()}")
    log = "".join(said)
    offload = re.search(r"offloaded (\d+)/(\d+) layers to GPU", log)
    layers = llama_cpp.llama_model_n_layer(loaded)
    llama_cpp.llama_model_free(loaded)
    return Probe(
        bool(llama_cpp.llama_supports_gpu_offload()),
        tuple(_gpus(libggml)),
        int(offload[1]) if offload else 0,
        int(offload[2]) if offload else layers,
    )


def _gpus(libggml: ctypes.CDLL) -> list[str]:
    """The descriptions of all GPUs that ggml found."""
    get, kind, description = (
        libggml.ggml_backend_dev_get,
        libggml.ggml_backend_dev_type,
        libggml.ggml_backend_dev_description,
    )
    get.argtypes, get.restype = [ctypes.c_size_t], ctypes.c_void_p
    kind.argtypes, kind.restype = [ctypes.c_void_p], ctypes.c_int
    description.argtypes, description.restype = [ctypes.c_void_p], ctypes.c_char_p
    libggml.ggml_backend_dev_count.restype = ctypes.c_size_t
    devices = [get(index) for index in range(libggml.ggml_backend_dev_count())]
    return [description(device).decode() for device in devices if kind(device) in _GPU_KINDS]


if __name__ == "__main__":
    try:
        print(json.dumps(asdict(_main(sys.argv[1], int(sys.argv[2])))))
    except PerceptionError as error:
        sys.exit(str(error))
