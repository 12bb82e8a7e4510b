# SPDX-License-Identifier: Apache-2.0
"""The models on this computer: one folder per model with its files and `model.json`, their record.

A folder gets its final name when its files are complete and verified, so every model found by name can be
used. A model whose files are elsewhere has a folder with only the record.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from lfm_perception.errors import PerceptionError, os_reason, shown
from lfm_perception.files import json_problem, parse_json, read_text, real_path, typed, user_path
from lfm_perception.models.registry import SHA256, SHIPPED, License, Registry
from lfm_perception.provenance import sha256

RECORD = "model.json"
_NAME = re.compile(r"\w[\w.-]*")


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A verified file: `path` relative to the model's folder, or absolute; `size` in bytes."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A model on this computer; `source`: its origin, `settings`: its recommended ones by dotted name."""

    name: str
    folder: Path
    model: StoredFile
    mmproj: StoredFile
    source: str
    settings: Mapping[str, object]

    @property
    def files(self) -> tuple[Path, Path]:
        """Paths of the language model and the vision file."""
        return self.folder / self.model.path, self.folder / self.mmproj.path

    def values(self) -> dict[str, object]:
        """The settings that run this model, by dotted name: files, checksums, recommended values."""
        model, mmproj = self.files
        return {
            "model.path": str(model),
            "model.sha256": self.model.sha256,
            "mmproj.path": str(mmproj),
            "mmproj.sha256": self.mmproj.sha256,
            **self.settings,
        }

    def check(self) -> None:
        """Verify size and checksum of both files.

        Raises:
            PerceptionError: A file is missing, cannot be read or has changed.
        """
        remedy = f"delete {self.folder} and pull or add {self.name} again"
        for path, stored in zip(self.files, (self.model, self.mmproj), strict=True):
            size, sha256 = measure(path)
            if size != stored.size:
                raise PerceptionError(f"{path} has changed: {size} bytes, expected {stored.size}: {remedy}")
            if sha256 != stored.sha256:
                raise PerceptionError(
                    f"{path} has changed: its SHA-256 is {sha256}, expected {stored.sha256}: {remedy}"
                )


class Store:
    """The folder of all models; created with the first one."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = root or default_root()

    @property
    def user_registry(self) -> Path:
        """Path of the registry with a team's own models; it need not exist."""
        return self.root / "registry.json"

    def names(self) -> list[str]:
        """Names of the stored models, in alphabetical order."""
        return sorted(path.parent.name for path in self.root.glob(f"*/{RECORD}"))

    def find(self, name: str) -> StoredModel:
        """The model of this name; one without its quantization names the only one that is stored.

        Raises:
            PerceptionError: It is not stored, or its record is damaged.
        """
        quantized = [each for each in self.names() if each.rpartition("-")[0] == name]
        if name not in self.names() and len(quantized) == 1:
            name = quantized[0]
        path = self.root / name / RECORD
        if not _NAME.fullmatch(name) or not path.is_file():
            stored = ", ".join(self.names()) or "none"
            raise PerceptionError(
                f"the model {shown(name)} is not on this computer (available: {stored}): {self._way_to(name)}"
            )
        return _read_record(path)

    def _way_to(self, name: str) -> str:
        """How to get a model that is not stored."""
        if name in self.registry():
            return f"lfm-perception models pull {name}"
        return "lfm-perception models list shows the names, models add gives one to files of your own"

    def registry(self) -> Registry:
        """The models of the package and of the team."""
        return Registry(SHIPPED, *([self.user_registry] if self.user_registry.exists() else []))

    def damage(self, name: str) -> str:
        """The problem of a stored model's record; empty when it can be read."""
        try:
            self.find(name)
        except PerceptionError as error:
            return str(error)
        return ""

    def problem(self, name: str) -> str:
        """The problem of a stored model's files; empty when they are unchanged."""
        try:
            self.find(name).check()
        except PerceptionError as error:
            return str(error)
        return ""

    def add(
        self, name: str, model: Path, mmproj: Path, source: str, settings: Mapping[str, object]
    ) -> StoredModel:
        """Record a model whose files stay in place.

        Raises:
            PerceptionError: The name is invalid or taken, or the files are not those of one LFM2-VL model.
        """
        self.check_name(name)
        check_files(model, mmproj)
        _checked(settings)
        with self.preparing(name) as folder:
            files = [StoredFile(str(real_path(path)), *measure(path)) for path in (model, mmproj)]
            return self.finish(StoredModel(name, folder, files[0], files[1], source, settings))

    def check_name(self, name: str) -> None:
        """Raise PerceptionError when a name is invalid or taken."""
        if not _NAME.fullmatch(name):
            raise PerceptionError(
                f"a model's name consists of letters, digits, '.', '_' and '-', got {shown(name)}"
            )
        if (self.root / name).exists():
            raise PerceptionError(
                f"there is already a model {name!r} in {self.root / name}: "
                "choose another name, or delete that folder first"
            )

    @contextmanager
    def preparing(self, name: str) -> Iterator[Path]:
        """The folder of an incomplete model, locked; files that an earlier try left there are kept.

        Raises:
            PerceptionError: The store cannot be written, or another process prepares the model.
        """
        folder = self.root / f".{name}.unfinished"
        with self._writing():
            folder.mkdir(parents=True, exist_ok=True)
            with (self.root / f".{name}.lock").open("w") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError as error:
                    raise PerceptionError(
                        f"{name} is being pulled by another process: wait for it to end"
                    ) from error
                try:
                    yield folder
                finally:
                    with suppress(OSError):  # it has its final name, or is not empty and a later try resumes
                        folder.rmdir()

    def finish(self, model: StoredModel) -> StoredModel:
        """Write the record into a prepared folder, delete other files, and give it its final name."""
        record = {
            "model": asdict(model.model),
            "mmproj": asdict(model.mmproj),
            "source": model.source,
            "settings": dict(model.settings),
        }
        for path in model.folder.iterdir():
            if path not in model.files:
                path.unlink()
        with (model.folder / RECORD).open("w", encoding="utf-8") as file:
            file.write(json.dumps(record, indent=2) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.check_name(model.name)
        model.folder.rename(self.root / model.name)
        return self.find(model.name)

    def accepted(self, terms: License) -> bool:
        """Whether this license was accepted on this computer."""
        return (self.root / "licenses" / terms.key).is_file()

    def accept(self, terms: License) -> None:
        """Record that this license was accepted."""
        folder = self.root / "licenses"
        with self._writing():
            folder.mkdir(parents=True, exist_ok=True)
            (folder / terms.key).write_text(f"{terms.title}\n{terms.text}\n", encoding="utf-8")

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Turn an OSError of the disk into a PerceptionError."""
        try:
            yield
        except OSError as error:
            raise PerceptionError(
                f"cannot write to {self.root}: {os_reason(error)}: "
                "free space there or check the permissions, or set HF_HOME to another folder"
            ) from error


def default_root() -> Path:
    """`lfm_perception` in the hub's own folder: HF_HOME, or ~/.cache/huggingface."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("HF_HOME") or f"{cache}/huggingface"
    return user_path(os.path.expandvars(home)) / "lfm_perception"


def measure(path: Path) -> tuple[int, str]:
    """Size in bytes and SHA-256 of a file. Raises PerceptionError when it cannot be read."""
    try:
        digest = sha256(path)  # first: it refuses what is not a file
        return path.stat().st_size, digest
    except OSError as error:
        raise PerceptionError(f"cannot read {path}: {os_reason(error)}") from error


def free_bytes(path: Path) -> int:
    """Free space on the disk of a path, which need not exist."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def check_files(model: Path, mmproj: Path) -> None:
    """Load two files once in a worker process. Raises PerceptionError when they are no LFM2-VL model."""
    from lfm_perception.backends.llama import check_loads  # here, for a fast `--help`
    from lfm_perception.settings import Settings

    check_loads(Settings().with_values({"model.path": str(model), "mmproj.path": str(mmproj)}))


def _read_record(path: Path) -> StoredModel:
    try:
        content = parse_json(read_text(path))
        return StoredModel(
            path.parent.name,
            path.parent,
            _stored_file(content["model"]),
            _stored_file(content["mmproj"]),
            typed(content["source"], str),
            _checked(typed(content["settings"], dict)),
        )
    except (TypeError, ValueError, KeyError, PerceptionError) as error:
        remedy = f"delete {path.parent} and pull or add the model again"
        raise PerceptionError(f"{path} is damaged ({json_problem(error)}): {remedy}") from error


def _checked(settings: Mapping[str, object]) -> Mapping[str, object]:
    """The settings, unchanged. Raises PerceptionError when they are invalid."""
    from lfm_perception.settings import Settings  # here, for a fast `--help`

    Settings().with_values(settings)
    return settings


def _stored_file(entry: Mapping[str, object]) -> StoredFile:
    path, size, sha256 = typed(entry["path"], str), typed(entry["size"], int), typed(entry["sha256"], str)
    if not SHA256.fullmatch(sha256):
        raise ValueError(f"not a SHA-256: {shown(sha256)}")
    return StoredFile(path, size, sha256)
