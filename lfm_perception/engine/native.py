# SPDX-License-Identifier: Apache-2.0
"""llama.cpp's libraries, loaded after the environment variables that they read are set, and their log.

`llama_cpp` and `mtmd_cpp` are imported from here only, so that this order holds.
"""

from __future__ import annotations

import ctypes
import os
from collections import deque

from lfm_perception.errors import PerceptionError

# Without this, llama.cpp starts a debugger when it aborts.
os.environ.setdefault("GGML_NO_BACKTRACE", "1")

# OpenMP's threads wait for each other by spinning, for long. With other programs on the cores a token of
# the 450M model then takes 1000 ms instead of 11 (2 cores); with a short spin 40 there, and 12 without them.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")

try:
    from llama_cpp import llama_cpp, mtmd_cpp
    from llama_cpp._ggml import libggml
except (ImportError, OSError, RuntimeError) as error:
    reason = str(error).rpartition("': ")[2]  # without the path of the library
    raise PerceptionError(
        f"llama.cpp cannot be loaded ({reason}): if it was compiled for CUDA, install "
        "CUDA's libraries of that version; otherwise install it again on this machine"
    ) from error

__all__ = ["capture_log", "libggml", "llama_cpp", "llama_error", "mtmd_cpp"]

_ERROR_LEVEL = 4
_MAX_MESSAGE = 100
_errors: deque[str] = deque(maxlen=3)  # CUDA's error, its place, its statement


def capture_log() -> None:
    """Keep llama.cpp's log off the terminal, in the whole process, and keep its last errors."""
    _errors.clear()
    libggml.ggml_set_abort_callback(_on_abort)
    llama_cpp.llama_log_set(_on_log, ctypes.c_void_p(None))
    mtmd_cpp.mtmd_helper_log_set(_on_log, ctypes.c_void_p(None))


def llama_error(failure: str) -> PerceptionError:
    """An error that states the failure and the beginnings of llama.cpp's last log messages about it."""
    return PerceptionError(f"{failure}: {'; '.join([*_errors][-2:]) or 'it does not say why'}")


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
def _on_log(level: int, text: bytes, _data: object) -> None:
    if level == _ERROR_LEVEL:
        message = " ".join(text.decode(errors="replace").split())
        _errors.append("".join(filter(str.isprintable, message))[:_MAX_MESSAGE])


@ctypes.CFUNCTYPE(None, ctypes.c_char_p)  # type: ignore[untyped-decorator]
def _on_abort(message: bytes) -> None:
    """Print the last errors too, which name the cause, before llama.cpp aborts the process."""
    os.write(2, "; ".join([*_errors, message.decode(errors="replace")]).encode() + b"\n")
