# SPDX-License-Identifier: Apache-2.0
"""A computer with a store of models and a hub it can reach: what the tests of the store share."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import pytest
from hub import COMMIT, Hub

from lfm_perception.cli import main
from lfm_perception.models.store import Store

REPO = "somebody/demo-GGUF"
MODEL, MMPROJ = "demo.gguf", "vision/mmproj-demo.gguf"
NAME = "demo-Q4_0"


def registry_text(files: dict[str, bytes], *, pinned: bool = True) -> str:
    """A team's registry with one model."""

    def entry(name: str) -> dict[str, object]:
        sha256 = hashlib.sha256(files[name]).hexdigest()
        pins = {"revision": COMMIT, "bytes": len(files[name]), "sha256": sha256}
        return {"file": name, **(pins if pinned else {})}

    model = {
        "repo": REPO,
        "license": "free",
        "settings": {"detect.dialect": "bbox_2d"},
        "files": {"Q4_0": entry(MODEL)},
        "mmproj": {"F16": entry(MMPROJ)},
    }
    terms = {"title": "Free License 1", "notice": "Do what you like.", "text": "see LICENSE"}
    return json.dumps({"licenses": {"free": terms}, "models": {"demo": model}})


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str

    @property
    def sentence(self) -> str:
        """The sentence of an error, on one line at any terminal width."""
        assert self.code == 1, self.out + self.err
        assert "Traceback" not in self.err
        (line,) = [line for line in self.err.splitlines() if line.startswith("lfm-perception: ")]
        return line.removeprefix("lfm-perception: ")


class Computer:
    """A computer with a store of models and a hub it can reach."""

    def __init__(self, home: Path, hub: Hub) -> None:
        self.hub = hub
        self.store = Store(home / "lfm_perception")
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("HF_")},
            "HF_HOME": str(home),
            "HF_ENDPOINT": hub.address,
            "HF_HUB_DOWNLOAD_TIMEOUT": "2",
            "NO_PROXY": "127.0.0.1,localhost",
        }

    def describe(self, text: str) -> None:
        """Write the user's registry."""
        self.store.root.mkdir(parents=True, exist_ok=True)
        self.store.user_registry.write_text(text)

    def start(self, *words: str | Path, before: Callable[[], None] | None = None) -> subprocess.Popen[str]:
        program = [sys.executable, "-c", "from lfm_perception.cli import main; main()", "models"]
        return subprocess.Popen(
            [*program, *map(str, words)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment,
            preexec_fn=before,
        )

    def models(self, *words: str | Path, before: Callable[[], None] | None = None) -> Outcome:
        process = self.start(*words, before=before)
        out, err = process.communicate(timeout=120)
        return Outcome(process.returncode, out, err)

    def here(self, *words: str | Path) -> Outcome:
        """The command in this process, for what needs no hub."""
        with pytest.MonkeyPatch.context() as patches, StringIO() as out, StringIO() as err:
            for name in ("HF_HOME", "HF_ENDPOINT"):
                patches.setenv(name, self.environment[name])
            with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as ended:
                main(["models", *map(str, words)])
            return Outcome(int(ended.value.code or 0), out.getvalue(), err.getvalue())

    def pull(self, *words: str, before: Callable[[], None] | None = None) -> Outcome:
        return self.models("pull", "demo", "--accept-license", *words, before=before)

    def final_names(self) -> list[str]:
        """Model files under their final names in the store."""
        return sorted(path.name for path in self.store.root.glob("[!.]*/*.gguf"))
