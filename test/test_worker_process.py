# SPDX-License-Identifier: Apache-2.0
"""The worker process that a node starts before its own imports."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from lfm_perception import worker_process
from lfm_perception.backends.supervisor import SupervisedVlm
from lfm_perception.ros.perception_node import loads_at_once
from lfm_perception.settings import Settings
from lfm_perception.worker_process import WorkerProcess


@pytest.fixture
def ahead() -> Iterator[WorkerProcess]:
    """A process that was started ahead."""
    worker_process.start_ahead()
    (started,) = worker_process._ahead
    yield started
    worker_process.discard()


def test_the_model_is_loaded_by_the_process_that_was_started_ahead(ahead: WorkerProcess) -> None:
    with closing(SupervisedVlm(Settings())) as vlm:
        assert vlm.health().pid == ahead.process.pid
    assert ahead.process.returncode is not None


def test_a_process_that_nobody_takes_is_ended(ahead: WorkerProcess) -> None:
    worker_process.discard()
    assert ahead.process.returncode is not None
    assert worker_process.take() is None


@pytest.mark.parametrize(
    ("text", "at_once"),
    [
        ("node.autostart: true", True),
        ("node:\n  autostart: True\nengine: {backend: llama}", True),
        ("node.autostart: true\nengine.backend: openai", False),
        ("node.autostart: true\nengine: {backend: 'recorded'}", False),
        ("node.autostart: false", False),
        ("detect.labels: [box]", False),
    ],
)
def test_a_process_is_started_ahead_where_a_model_is_loaded_at_once(
    text: str, at_once: bool, tmp_path: Path
) -> None:
    file = tmp_path / "parameters.yaml"
    file.write_text(text)
    assert loads_at_once(["node", "--ros-args", "--params-file", str(file)]) == at_once


def test_parameters_on_the_command_line_count_and_a_missing_file_does_not() -> None:
    assert loads_at_once(["node", "--ros-args", "-p", "node.autostart:=true"])
    assert not loads_at_once(
        ["node", "--ros-args", "-p", "node.autostart:=true", "-p", "engine.backend:=openai"]
    )
    for file in ("/nowhere.yaml", "long" * 100):
        assert not loads_at_once(["node", "--ros-args", "--params-file", file])
