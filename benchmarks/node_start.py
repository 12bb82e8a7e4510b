# SPDX-License-Identifier: Apache-2.0
"""The parts of benchmarks/node.py that measure the node's start."""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

from node_fixture import Process, Section, at_most, percentiles

from lfm_perception.backends import open_vlm
from lfm_perception.backends.recorded import recording
from lfm_perception.demo.world import World
from lfm_perception.perception import Perception
from lfm_perception.ros.processes import PERCEPTION_MODULE, NodeProcess, wait_for
from lfm_perception.settings import Settings
from lfm_perception.tracking import open_tracker

TIMEOUT_S = 60.0


def start(options: argparse.Namespace) -> Section:
    """Start with the demo model, from the process to the active node."""
    figures = _started(options.starts, {"node.autostart": True})
    return Section(
        inputs={"starts": options.starts, "model": "demo"},
        figures={name: percentiles(values) for name, values in figures.items()},
        claims=[at_most("slowest start (s)", max(figures["start_s"]), 1.5)],
    )


def _started(starts: int, parameters: Mapping[str, object]) -> dict[str, list[float]]:
    """Seconds until the node is active, and the memory of its process and of its children then."""
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package has its bytecode
    figures: dict[str, list[float]] = {"start_s": [], "resident_mib": [], "worker_resident_mib": []}
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "log")
        for index in range(starts + 1):
            began = time.monotonic()
            with NodeProcess(PERCEPTION_MODULE, log, parameters) as process:
                wait_for(lambda: "subscribed to" in log.read_text(), TIMEOUT_S, "the node", [process])
                if not index:  # writes the bytecode
                    continue
                figures["start_s"].append(time.monotonic() - began)
                node = Process(process.pid)
                figures["resident_mib"].append(node.resident_mib())
                workers = sum(Process(child).resident_mib() for child in node.children())
                figures["worker_resident_mib"].append(workers)
    return figures


def recorded(options: argparse.Namespace) -> Section:
    """Start with recorded answers, from the process to the active node."""
    with tempfile.TemporaryDirectory() as folder:
        answers = Path(folder, "answers.jsonl")
        with closing(open_vlm(Settings())) as vlm, recording(answers, vlm, {}) as writer:
            perception = Perception(Settings(), writer, open_tracker(Settings().tracker))
            perception.infer(World(seed=3).snapshot(0).frame)
        parameters = {
            "engine.backend": "recorded", "recorded.path": str(answers), "node.autostart": True,
        }  # fmt: skip
        figures = _started(options.starts, parameters)
    return Section(
        inputs={"starts": options.starts, "answers": "of one frame of 640x480"},
        figures={name: percentiles(figures[name]) for name in ("start_s", "resident_mib")},
        claims=[
            at_most("slowest start (s)", max(figures["start_s"]), 2.0),
            at_most("memory (MiB)", max(figures["resident_mib"]), 300.0),
        ],
    )
