"""Inference backends: each loads or reaches a model and gives it the interface of `lfm_perception.vlm`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from lfm_perception.settings import Settings
from lfm_perception.vlm import Vlm

_DEMO = Path(__file__).parents[1] / "demo" / "model"


def model_files(settings: Settings) -> tuple[Path, Path]:
    """The language model and the vision file that the settings name; without names, the demo model's."""
    if settings.model.path:
        return Path(settings.model.path).expanduser(), Path(settings.mmproj.path).expanduser()
    return _DEMO / "demo-vl-Q4_0.gguf", _DEMO / "mmproj-demo-vl.gguf"


def open_vlm(settings: Settings, tell: Callable[[str], None] = lambda sentence: None) -> Vlm:
    """Who answers by the settings: the model in a process of its own or in this one, a server, a recording.

    `tell` hears of losses and recoveries of a process or a server. Raises PerceptionError when what the
    settings name cannot be used.
    """
    # Imported here, because each loads what the others shall not.
    if settings.engine.backend == "openai":
        from lfm_perception.backends.openai import RemoteVlm

        return RemoteVlm(settings, tell)
    if settings.engine.backend == "recorded":
        from lfm_perception.backends.recorded import RecordedVlm

        return RecordedVlm(settings)
    if settings.engine.isolation == "process":
        from lfm_perception.backends.worker import WorkerVlm

        return WorkerVlm(settings, tell)
    from lfm_perception.backends.llama import LlamaVlm

    return LlamaVlm(settings)


def model_name(settings: Settings) -> str:
    """Who answers, as people are told: on pictures, in logs, in diagnostics."""
    if settings.engine.backend == "openai":
        server = urlsplit(settings.openai.url).netloc
        return f"{settings.openai.model} at {server}" if settings.openai.model else server
    if settings.engine.backend == "recorded":
        return f"answers in {Path(settings.recorded.path).name}"
    return Path(settings.model.path).stem or "demo model"
