"""Inference backends: each gives a model the interface of `lfm_perception.vlm`. See `registry` to add one."""

from __future__ import annotations

from typing import Any

from lfm_perception.backends.registry import Notify, chosen_backend
from lfm_perception.settings import Settings
from lfm_perception.vlm import Vlm


def open_vlm(settings: Settings, notify: Notify = lambda sentence: None) -> Vlm:
    """Load the model, or connect to the server, of the chosen backend.

    Args:
        settings: All settings; `engine.backend` names the backend.
        notify: Receives one sentence for each loss and each recovery of a process or a server.

    Raises:
        PerceptionError: The settings name something that cannot be used.
    """
    return chosen_backend(settings).open(settings, notify)


def model_name(settings: Settings) -> str:
    """The model's name for pictures, logs and diagnostics."""
    return chosen_backend(settings).display_name(settings)


def model_provenance(settings: Settings) -> dict[str, Any]:
    """Files and checksums, or server and model name, as JSON for reports."""
    return chosen_backend(settings).provenance(settings)
