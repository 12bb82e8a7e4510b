# SPDX-License-Identifier: Apache-2.0
"""The models that can be pulled by name: `registry.json` of the package, and the user's own.

A file is pinned when its revision, size and SHA-256 are known. A file that is not pinned has none of them.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lfm_perception.errors import PerceptionError, shown
from lfm_perception.files import parse_json, read_text
from lfm_perception.text import is_safe

SHIPPED = Path(__file__).with_name("registry.json")

COMMIT = re.compile("[0-9a-f]{40}")
SHA256 = re.compile("[0-9a-f]{64}")
_NAME = re.compile(r"\w[\w.-]*")
_REPO = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_FILE = re.compile(r"(\w[\w.-]*/)*\w[\w.-]*\.gguf")


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file of a repository; `revision` (a commit), `size` (bytes) and `sha256` are set together."""

    file: str
    revision: str = ""
    size: int = 0
    sha256: str = ""

    @property
    def pinned(self) -> bool:
        return bool(self.sha256)


@dataclass(frozen=True, slots=True)
class License:
    """Terms to accept before a pull: title, summary (`notice`) and location of the full `text`."""

    key: str
    title: str
    notice: str
    text: str


@dataclass(frozen=True, slots=True)
class Model:
    """One quantization of a model. `mmprojs`: vision files by quantization, the recommended one first;
    `settings`: recommended settings by dotted name, `sources`: where each comes from; `license`: terms to
    accept, if any; `note`: a sentence for whoever chooses the model.
    """

    name: str
    repo: str
    file: HubFile
    mmprojs: Mapping[str, HubFile]
    settings: Mapping[str, object]
    license: License | None
    sources: Mapping[str, str]
    note: str

    def mmproj(self, quantization: str | None) -> HubFile:
        """The vision file of this quantization (None: the recommended one)."""
        if quantization is None:
            return next(iter(self.mmprojs.values()))
        if quantization not in self.mmprojs:
            raise PerceptionError(
                f"{self.name} has no vision file {quantization!r}: available are {', '.join(self.mmprojs)}"
            )
        return self.mmprojs[quantization]


class Registry:
    """The models of several registry files, by name. `servers`: models that only a server can run, with the
    reason.

    Raises:
        PerceptionError: A file is invalid; the message has the file's name and the place in it.
    """

    def __init__(self, *paths: Path) -> None:
        self._models: dict[str, Model] = {}
        self._families: dict[str, Model] = {}
        self.servers: dict[str, str] = {}
        for path in paths:
            self._add_file(path)

    def __iter__(self) -> Iterator[Model]:
        return iter(self._models.values())

    def __contains__(self, name: str) -> bool:
        return name in self._models or name in self._families

    def find(self, name: str) -> Model:
        """The model of this name; without a quantization in the name, the recommended one."""
        if found := self._models.get(name) or self._families.get(name):
            return found
        if name in self.servers:
            raise PerceptionError(f"{name} cannot be pulled: {self.servers[name]}")
        close = difflib.get_close_matches(name, [*self._models, *self._families], n=1)
        hint = f"did you mean {close[0]!r}?" if close else "see lfm-perception models list"
        raise PerceptionError(f"there is no model {name!r} in the registry: {hint}")

    def _add_file(self, path: Path) -> None:
        try:
            self._add(_Entry("", parse_json(read_text(path))))
        except PerceptionError as error:
            raise PerceptionError(f"{path}: {error}") from error

    def _add(self, content: _Entry) -> None:
        licenses = {
            key: License(key, entry.text("title"), entry.text("notice"), entry.text("text"))
            for key, entry in (content.entries("licenses") if content.has("licenses") else ())
        }
        content.only("licenses", "models", "servers")
        for family, entry in content.entries("models"):
            first: Model | None = None
            for model in _models(family, entry, licenses):
                if model.name in self:
                    raise PerceptionError(f"{entry.where} gives a second model the name {model.name!r}")
                self._models[model.name] = model
                first = first or model
            if first is None:
                raise PerceptionError(f"{entry.where}.files names no file")
            if family in self:
                raise PerceptionError(f"{entry.where} has the name of a model with one quantization")
            self._families[family] = first
        if content.has("servers"):
            self.servers |= content.names("servers").texts()
        if both := sorted(name for name in self.servers if name in self):
            raise PerceptionError(f"servers.{both[0]} is under 'models' too: remove one of them")


def _models(family: str, entry: _Entry, licenses: Mapping[str, License]) -> Iterator[Model]:
    from lfm_perception.settings import Settings  # here, for a fast `--help`

    entry.only("repo", "license", "settings", "sources", "note", "files", "mmproj")
    repo = entry.text("repo", _REPO, "ORGANIZATION/NAME")
    key = entry.text("license") if entry.has("license") else ""
    if key and key not in licenses:
        raise PerceptionError(f"{entry.where}.license {key!r} is not described under 'licenses'")
    settings = entry.mapping("settings") if entry.has("settings") else {}
    try:
        Settings().with_values(settings)
    except PerceptionError as error:
        raise PerceptionError(f"{entry.where}.settings: {error}") from error
    sources = entry.entry("sources").texts() if entry.has("sources") else {}
    if unknown := sorted(sources.keys() - settings.keys()):
        raise PerceptionError(f"{entry.where}.sources names {unknown[0]!r}, which 'settings' does not hold")
    note = entry.text("note") if entry.has("note") else ""
    mmprojs = {quantization: _file(each) for quantization, each in entry.entries("mmproj")}
    if not mmprojs:
        raise PerceptionError(f"{entry.where}.mmproj names no file")
    for quantization, each in entry.entries("files"):
        yield Model(
            f"{family}-{quantization}",
            repo,
            _file(each),
            mmprojs,
            settings,
            licenses.get(key),
            sources,
            note,
        )


def _file(entry: _Entry) -> HubFile:
    entry.only("file", "revision", "bytes", "sha256")
    file = entry.text("file", _FILE, "the path of a .gguf file in the repository")
    pins = [key for key in ("revision", "bytes", "sha256") if entry.has(key)]
    if not pins:
        return HubFile(file)
    if len(pins) < 3:
        raise PerceptionError(
            f"{entry.where} has {' and '.join(pins)} alone: give revision, bytes and sha256 together, or none"
        )
    return HubFile(
        file,
        entry.text("revision", COMMIT, "a commit of 40 hexadecimal digits"),
        entry.size("bytes"),
        entry.text("sha256", SHA256, "64 hexadecimal digits in lower case"),
    )


class _Entry:
    """A JSON object at the place `where` of the file; its values are validated when they are read."""

    def __init__(self, where: str, value: object) -> None:
        self.where = where
        if not isinstance(value, dict):
            raise PerceptionError(f"{where or 'the file'} must be an object, got {shown(value)}")
        self._value = value

    def has(self, key: str) -> bool:
        return key in self._value

    def only(self, *known: str) -> None:
        """Refuse unknown keys, which may be misspelt pins."""
        for key in self._value.keys() - set(known):
            raise PerceptionError(f"{self._place(key)} is unknown: known are {', '.join(map(repr, known))}")

    def entries(self, key: str) -> Iterator[tuple[str, _Entry]]:
        for name, value in self.names(key)._value.items():
            yield name, _Entry(f"{self._place(key)}.{name}", value)

    def names(self, key: str) -> _Entry:
        """An object whose keys are names."""
        for name in self.mapping(key):
            if not _NAME.fullmatch(name):
                raise PerceptionError(
                    f"{self._place(key)}: a name consists of letters, digits, '.', '_' and '-', got {name!r}"
                )
        return self.entry(key)

    def entry(self, key: str) -> _Entry:
        return _Entry(self._place(key), self._get(key))

    def mapping(self, key: str) -> Mapping[str, Any]:
        return self.entry(key)._value

    def texts(self) -> dict[str, str]:
        """All values of an object of texts."""
        return {key: self.text(key) for key in self._value}

    def text(self, key: str, pattern: re.Pattern[str] | None = None, expected: str = "text") -> str:
        value = self._get(key)
        if not isinstance(value, str) or not value.strip() or not is_safe(value):
            raise self._invalid(key, expected)
        if pattern and not pattern.fullmatch(value):
            raise self._invalid(key, expected)
        return value

    def size(self, key: str) -> int:
        value = self._get(key)
        if type(value) is not int or value < 1:
            raise self._invalid(key, "a whole number above 0")
        return value

    def _invalid(self, key: str, expected: str) -> PerceptionError:
        value = shown(self._value[key])
        return PerceptionError(f"{self._place(key)} must be {expected}, got {value}")

    def _get(self, key: str) -> object:
        if key not in self._value:
            raise PerceptionError(f"{self.where or 'the file'} lacks {key!r}")
        return self._value[key]

    def _place(self, key: str) -> str:
        return f"{self.where}.{key}" if self.where else key
