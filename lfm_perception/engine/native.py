"""llama.cpp's libraries: loaded with what they read from the environment set, and their log kept.

Import `llama_cpp` and `mtmd_cpp` from here, so that this comes first.
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
    raise PerceptionError(
        f"llama.cpp cannot be loaded ({' '.join(str(error).split())}): if it was compiled for CUDA, install "
        "CUDA's libraries of that version; otherwise install it again on this machine"
    ) from error

__all__ = ["failure", "keep_quiet", "libggml", "llama_cpp", "mtmd_cpp"]

_ERROR_LEVEL = 4
_log: deque[str] = deque(maxlen=3)


def keep_quiet() -> None:
    """Keep llama.cpp off the terminal, in the whole process, and remember its last errors."""
    _log.clear()
    llama_cpp.llama_log_set(_listen, ctypes.c_void_p(None))
    mtmd_cpp.mtmd_helper_log_set(_listen, ctypes.c_void_p(None))


def failure(what: str) -> PerceptionError:
    """What failed, with what llama.cpp last said of it."""
    return PerceptionError(f"{what}: {'; '.join(_log) or 'it does not say why'}")


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
def _listen(level: int, text: bytes, _data: object) -> None:
    if level == _ERROR_LEVEL:
        _log.append(" ".join(text.decode(errors="replace").split()))
