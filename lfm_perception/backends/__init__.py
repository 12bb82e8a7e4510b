# SPDX-License-Identifier: Apache-2.0
"""Inference backends: each gives a model the interface of `lfm_perception.vlm`.

The file NAME.py in this package registers the backend NAME and is imported when `engine.backend` chooses it.
To add one, write that file, and add its settings group and its name to the choices of `engine.backend`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from lfm_perception.settings import Settings
from lfm_perception.text import safe_line
from lfm_perception.vlm import Vlm

UNDOCUMENTED = "its vendor documents no prompt for boxes"

Notify = Callable[[str], None]
"""Receives one sentence for each loss and each recovery of a process or a server, on any thread."""


@dataclass(frozen=True, slots=True)
class Backend:
    """One way of running the model.

    Attributes:
        name: The value of `engine.backend`, and the name of the module.
        open: Loads or connects the model. Raises PerceptionError when the settings cannot be used.
        display_name: The model's name for overlays, logs and diagnostics.
        provenance: Files and checksums, or server and model name, as JSON for reports.
        check: Examines settings and files without opening the model; returns what was checked in a phrase.
            Raises PerceptionError for the first problem.
        remedy: Advice to the user when inference fails.
        any_frame: Whether it can infer any frame; false for a recording, which knows only its own.
    """

    name: str
    open: Callable[[Settings, Notify], Vlm]
    display_name: Callable[[Settings], str]
    provenance: Callable[[Settings], dict[str, Any]]
    check: Callable[[Settings], str]
    remedy: str
    any_frame: bool = True


_BACKENDS: dict[str, Backend] = {}


def register_backend(backend: Backend) -> None:
    """Make a backend available under its name."""
    _BACKENDS[backend.name] = backend


def chosen_backend(settings: Settings) -> Backend:
    """The backend that `engine.backend` names."""
    name = settings.engine.backend
    if name not in _BACKENDS:
        import_module(f"{__name__}.{name}")
    return _BACKENDS[name]


def log_warning(sentence: str) -> None:
    """Log a sentence as a warning of this package; the command line prints these on standard error."""
    logging.getLogger("lfm_perception").warning("%s", sentence)


def open_vlm(settings: Settings, notify: Notify = log_warning) -> Vlm:
    """Open the chosen backend. Raises PerceptionError when the settings cannot be used."""
    vlm = chosen_backend(settings).open(settings, notify)
    if settings.model.grounding == "undocumented":
        notify(
            f"{model_name(settings)}: {UNDOCUMENTED}, so boxes in the dialect {settings.detect.dialect} may "
            "be poor: lfm-perception eval wordings measures them"
        )
    return vlm


def demo_model_warning(settings: Settings) -> str:
    """What to tell the user before the demo model sees other images; empty for other models."""
    if settings.engine.backend != "llama" or settings.model.path:
        return ""
    return (
        "this is the demo model, which knows only the demo world: its boxes and captions of other images "
        "mean nothing; for real images, lfm-perception models pull LFM2.5-VL-450M, and add --model "
        "LFM2.5-VL-450M, or for the node the file that lfm-perception models settings prints"
    )


def model_name(settings: Settings) -> str:
    """The `display_name` of the chosen backend."""
    return safe_line(chosen_backend(settings).display_name(settings))


def model_provenance(settings: Settings) -> dict[str, Any]:
    """The `provenance` of the chosen backend."""
    return chosen_backend(settings).provenance(settings)
