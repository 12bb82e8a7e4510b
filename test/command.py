# SPDX-License-Identifier: Apache-2.0
"""The command `lfm-perception` in this process, and a video to run it on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import pytest

from lfm_perception.cli import main
from lfm_perception.demo.world import World

RESULTS = ["index.html", "overlay.mp4", "overlay.png", "scenes.jsonl", "summary.json"]
SHORT = ["--set", "detect.max_tokens=48", "--set", "caption.max_tokens=8"]
QUICK = [*SHORT, "--set", "engine.isolation=thread"]
"""Short answers, and no start of a worker process where a test is about anything else."""


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


class Command:
    """Runs `lfm-perception` with arguments, in this process."""

    def __init__(self, capfd: pytest.CaptureFixture[str]) -> None:
        self._capfd = capfd

    def __call__(self, *words: str | Path) -> Outcome:
        self._capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in words])
        out, err = self._capfd.readouterr()
        code = ended.value.code
        assert code is None or isinstance(code, int)
        return Outcome(code or 0, out, err)

    def refuses(self, out: Path, *words: str | Path) -> str:
        """The sentence with which `run` fails, without results."""
        outcome = self("run", *words, "--out", out)
        assert outcome.code == 1
        assert not out.exists()
        sentence = [line for line in outcome.err.splitlines() if line.startswith("lfm-perception: ")][-1]
        assert "Traceback" not in outcome.err
        return sentence.removeprefix("lfm-perception: ")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def write_demo_video(path: Path, frames: int = 12) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (256, 192))
    world = World(seed=2, width=256, height=192, fps=10.0)
    for index in range(frames):
        writer.write(cv2.cvtColor(world.snapshot(index).frame.image, cv2.COLOR_RGB2BGR))
    writer.release()
    return path
