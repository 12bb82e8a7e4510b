# SPDX-License-Identifier: Apache-2.0
"""The start of the node's processes, up to the active node: only what that needs is imported."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lfm_perception.ros.processes import PERCEPTION_MODULE, NodeProcess, wait_for

NEEDED = {"cv2", "lfm_perception", "numpy", "rclpy"}
NOT_NEEDED = {
    "PIL", "av", "diskcache", "filterpy", "jinja2", "json_repair", "lark", "matplotlib", "pydantic", "rich",
    "rosbags", "scipy", "typer",
}  # fmt: skip
"""Packages that nothing needs before the first frame. They took half of the start when they were imported."""


def test_until_it_is_active_a_node_imports_only_what_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")  # also in the worker process
    log = tmp_path / "log"
    with NodeProcess(PERCEPTION_MODULE, log, {"node.autostart": True}) as process:
        wait_for(lambda: "subscribed to" in log.read_text(), 60.0, "the node", [process])
        imported = set(re.findall(r"^import time:.*\| +(\w+)", log.read_text(), re.M))
    assert imported >= NEEDED
    assert sorted(NOT_NEEDED & imported) == []
