# SPDX-License-Identifier: Apache-2.0
"""Folders of results that are published together or not at all."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import av
from rosbags.rosbag2 import WriterError

from lfm_perception.errors import PerceptionError
from lfm_perception.files import UNFINISHED, abandoned


class Staging:
    """Files gathered in the hidden folder `path`, which appear in `folder` together; see `staged`."""

    def __init__(self, folder: Path, path: Path) -> None:
        self.folder, self.path = folder, path

    def publish(self) -> None:
        """Move all files into place; those of an earlier run with the same names are replaced."""
        for new in sorted(self.path.iterdir()):
            old = self.folder / new.name
            if old.is_dir():
                old.rename(self.path / f"old-{new.name}")
            new.replace(old)


@contextmanager
def staged(folder: Path) -> Iterator[Staging]:
    """Gather files for `folder`, which is created where missing; without `publish` no trace is left.

    Raises PerceptionError when the folder cannot be written.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    with ExitStack() as cleaning:
        cleaning.callback(_remove_empty, made)
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            for hidden in abandoned(folder):
                shutil.rmtree(hidden, ignore_errors=True)
            hidden = Path(tempfile.mkdtemp(prefix=f"{UNFINISHED}{os.getpid()}-", dir=folder))
        cleaning.callback(shutil.rmtree, hidden, ignore_errors=True)
        yield Staging(folder, hidden)


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turn errors of writing in this block into a PerceptionError that names `folder`."""
    try:
        yield
    except (OSError, WriterError, av.FFmpegError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise PerceptionError(f"cannot write to {folder}: {reason.lower()}") from error


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file, indented."""
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")


def _remove_empty(folders: Sequence[Path]) -> None:
    for folder in folders:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
