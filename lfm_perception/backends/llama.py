# SPDX-License-Identifier: Apache-2.0
"""The `llama` backend: llama.cpp on this machine, in a supervised worker process or in a thread."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lfm_perception.backends import Backend, Notify, register_backend
from lfm_perception.errors import PerceptionError
from lfm_perception.files import user_path
from lfm_perception.provenance import file_facts, sha256
from lfm_perception.settings import Settings
from lfm_perception.vlm import Vlm

GPU_LIBRARIES = ("cuda", "vulkan", "hip", "metal", "sycl")
"""Parts in the names of ggml's libraries for GPUs."""

_DEMO = Path(__file__).parents[1] / "demo" / "model"


def model_files(settings: Settings) -> tuple[Path, Path]:
    """The language model and the vision file (mmproj) of the settings; the demo model's when none is set."""
    if settings.model.path:
        return user_path(settings.model.path), user_path(settings.mmproj.path)
    return _DEMO / "demo-vl-Q4_0.gguf", _DEMO / "mmproj-demo-vl.gguf"


def _open(settings: Settings, notify: Notify) -> Vlm:
    if settings.engine.n_gpu_layers and not has_gpu_backend():
        notify(
            f"engine.n_gpu_layers is {settings.engine.n_gpu_layers}, but this llama.cpp was built without "
            "GPU support and the CPU is used: install a build with CUDA or Vulkan, or set it to 0"
        )
    if settings.engine.isolation == "process":
        from lfm_perception.backends.supervisor import SupervisedVlm

        return SupervisedVlm(settings, notify)
    from lfm_perception.backends.llama_vlm import LlamaVlm

    return LlamaVlm(settings)


def has_gpu_backend() -> bool:
    """Whether the installed llama.cpp has a library for GPUs; nothing is loaded."""
    package = find_spec("llama_cpp")
    folders = (
        [] if package is None else [Path(place, "lib") for place in package.submodule_search_locations or ()]
    )
    return any(list(folder.glob(f"*ggml-{kind}*")) for folder in folders for kind in GPU_LIBRARIES)


def _display_name(settings: Settings) -> str:
    return Path(settings.model.path).stem or "demo model"


def _provenance(settings: Settings) -> dict[str, Any]:
    model, mmproj = map(file_facts, model_files(settings))
    return {"demo": not settings.model.path, "model": model, "mmproj": mmproj}


def checked_files(settings: Settings) -> tuple[Path, Path]:
    """`model_files`, verified. Raises PerceptionError when they, or the adapter, do not fit together."""
    from lfm_perception.engine.gguf_checks import check_adapter, check_pair

    model, mmproj = model_files(settings)
    check_pair(model, mmproj, model_sha256=settings.model.sha256, mmproj_sha256=settings.mmproj.sha256)
    if settings.lora.path:
        check_adapter(user_path(settings.lora.path), model, sha256=settings.lora.sha256)
    return model, mmproj


def check_loads(settings: Settings) -> None:
    """Load the model once in a worker process, because llama.cpp aborts its process on some damaged files.

    The demo model's files, known by their checksums, and files that this process has loaded are not loaded.

    Raises:
        PerceptionError: The files cannot be used; names the one on which the worker process died.
    """
    from lfm_perception.backends.supervisor import SupervisedVlm

    files = [*checked_files(settings)]
    if settings.lora.path:
        files.append(user_path(settings.lora.path))
    unknown = {_identity(file) for file in files if not _is_shipped(file)}
    if not unknown <= _LOADED:
        SupervisedVlm(settings).close()
        _LOADED.update(unknown)


_LOADED: set[tuple[str, int, int]] = set()
"""The `_identity` of all files that `check_loads` has loaded."""


def _identity(file: Path) -> tuple[str, int, int]:
    """Path, size in bytes and time of the last change of a file."""
    status = file.stat()
    return str(file), status.st_size, status.st_mtime_ns


def _is_shipped(file: Path) -> bool:
    """Whether a file is one of the demo model's, wherever it lies."""
    sizes = {path.stat().st_size for path in _DEMO.glob("*.gguf")}
    return file.stat().st_size in sizes and sha256(file) in _demo_sums().values()


def _check(settings: Settings) -> str:
    files = checked_files(settings)
    check_loads(settings)
    if not settings.model.path:
        _check_demo(files)
    known = not settings.model.path or (settings.model.sha256 and settings.mmproj.sha256)
    checked = "checksums right" if known else "no checksums in the settings, so not compared"
    return f"{files[0].name} and {files[1].name}, {checked}"


def _check_demo(files: tuple[Path, Path]) -> None:
    """Compare the demo model with the checksums beside it."""
    for file in files:
        if sha256(file) != _demo_sums()[file.name]:
            raise PerceptionError(f"{file} is not the file that ships: install the package again")


def _demo_sums() -> dict[str, str]:
    """SHA-256 of the demo model's files by their names."""
    lines = (_DEMO / "SHA256SUMS").read_text().splitlines()
    return {name: digest for digest, name in (line.split() for line in lines)}


register_backend(
    Backend(
        name="llama",
        open=_open,
        display_name=_display_name,
        provenance=_provenance,
        check=_check,
        remedy="give whole files of one LFM2-VL model (lfm-perception models pull); when memory is short, "
        "lower engine.n_ctx or image.max_tokens, or use a smaller model",
    )
)
