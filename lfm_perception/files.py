# SPDX-License-Identifier: Apache-2.0
"""Files from outside: opened only when regular, read up to a limit, and parsed within limits.

A reader of settings, registries, labels, recordings or reports uses these functions, so that a pipe, an
endless file, a bomb of aliases or a number of a million digits is refused in one sentence. The YAML parser is
imported by the first YAML text: a node and its worker process start without one.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import stat
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, TextIO, TypeVar

from lfm_perception.errors import PerceptionError, os_reason, shown

MAX_TEXT_BYTES = 1 << 20
"""Maximum size of settings, registries, records and names."""

MAX_DATA_BYTES = 1 << 30
"""Maximum size of labels, recordings and reports; the largest file of COCO has 0.45 GB."""

MAX_DIGITS = 20
"""Maximum number of digits of a JSON integer: those of 64 bits."""

MAX_DEPTH = 40
"""Maximum depth of nested YAML."""

MAX_NODES = 30_000
"""Maximum number of values in a YAML text after its aliases are expanded."""

UNFINISHED = ".unfinished-"
"""Begin of the names of hidden files and folders, followed by the process that writes to them."""

_UNSIZED = 1 << 16
"""Maximum size of files that have none, such as those of /proc, bytes."""

_LONG_NUMBER = re.compile(r"[-+]?[0-9][0-9a-fA-F_:.xobXOB+-]{100,}")
_ESCAPE = re.compile(
    r"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|u[dD][89a-fA-F][0-9a-fA-F]{2}|.)",
    re.DOTALL,
)

T = TypeVar("T", bool, int, float, str, "dict[str, Any]", "list[Any]")


def user_path(text: str) -> Path:
    """The path with `~` replaced; it stays where there is no such user or home, which `Path` raises for."""
    return Path(os.path.expanduser(text))  # noqa: PTH111


def real_path(path: Path) -> Path:
    """The absolute path without links; a loop of links stays, which `Path.resolve` raises for."""
    return Path(os.path.realpath(path))


def open_file(path: Path) -> BinaryIO:
    """A regular file, open for reading bytes; a pipe, device or folder never blocks.

    Raises OSError with the reason.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except ValueError as error:  # a null character or a surrogate
        raise OSError(errno.EINVAL, "not a valid path") from error
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "is a directory" if stat.S_ISDIR(mode) else "not a regular file")
    return os.fdopen(descriptor, "rb")


def read_bytes(path: Path, limit: int) -> bytes:
    """The content of a regular file. Raises OSError with the reason, also for more than `limit` bytes."""
    with open_file(path) as file:
        return _content(file, limit)


def read_secret(path: Path, name: str) -> bytes:
    """The content of a file that nobody but this user and root may read, without its last line feeds.

    Args:
        name: of the option or parameter that holds the path.

    Raises:
        PerceptionError: it cannot be read, or others may read it. Never quotes the content.
    """
    try:
        with open_file(path) as file:
            status, content = os.fstat(file.fileno()), _content(file, MAX_TEXT_BYTES)
    except OSError as error:
        raise PerceptionError(f"{name} {path} cannot be read: {os_reason(error)}") from error
    if status.st_mode & 0o077 or status.st_uid not in (os.geteuid(), 0):
        raise PerceptionError(
            f"{name} {path} has the permissions {status.st_mode & 0o777:04o} of user {status.st_uid}: "
            f"it must be yours alone, chmod 600 {path}"
        )
    return content.rstrip(b"\r\n")


def _content(file: BinaryIO, limit: int) -> bytes:
    size = os.fstat(file.fileno()).st_size
    expected = min(max(size, _UNSIZED), limit)
    content = file.read(expected + 1) if size <= limit else b""
    if size > limit or len(content) > expected:
        raise OSError(errno.EFBIG, f"larger than {limit} bytes, or it grows")
    return content


def read_text(path: Path, limit: int = MAX_TEXT_BYTES) -> str:
    """The content of a text file in UTF-8, without a byte order mark.

    Raises PerceptionError, without the path, when it cannot be read.
    """
    try:
        return read_bytes(path, limit).decode("utf-8-sig")
    except OSError as error:
        raise PerceptionError(f"cannot be read: {os_reason(error)}") from error
    except UnicodeDecodeError as error:
        raise PerceptionError("not a text file in UTF-8: save it in this encoding") from error


def check_new_file(path: Path) -> None:
    """Refuse a file that cannot be written, before anything is measured for it.

    Raises PerceptionError: a folder is missing, or a device, a pipe or a folder is in its place, which must
    not be replaced.
    """
    if os.path.lexists(path) and not os.path.isfile(path):  # noqa: PTH113 - raises nothing
        raise PerceptionError(f"{path} cannot be written: it is no file but a folder, device, pipe or loop")
    if not os.path.isdir(path.parent):  # noqa: PTH112
        raise PerceptionError(f"{path} cannot be written: name a file in a folder that exists")


@contextmanager
def new_file(path: Path) -> Iterator[TextIO]:
    """A text file in UTF-8 that appears when the block ends, complete; after an error nothing is left.

    Raises PerceptionError when it cannot be written, as for `check_new_file`.
    """
    check_new_file(path)
    target = real_path(path)
    unfinished = target.with_name(f"{UNFINISHED}{os.getpid()}-{target.name}")
    try:
        for left in abandoned(target.parent):
            if left.is_file():
                left.unlink()
        with unfinished.open("x", encoding="utf-8", errors="backslashreplace") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(target)
    except OSError as error:
        raise PerceptionError(f"{path} cannot be written: {os_reason(error)}") from error
    finally:
        with suppress(OSError):
            unfinished.unlink()


def abandoned(folder: Path) -> list[Path]:
    """The hidden files and folders of processes that were killed while they wrote to this folder."""
    hidden = {
        path: path.name.removeprefix(UNFINISHED).partition("-")[0] for path in folder.glob(f"{UNFINISHED}*")
    }
    return [path for path, owner in hidden.items() if owner.isdecimal() and not Path("/proc", owner).exists()]


def write_complete(path: Path, content: bytes) -> None:
    """Write a file that appears complete, or not at all; a link of this name is replaced, not followed.

    Raises OSError.
    """
    unfinished = path.with_name(f"{path.name}.part")
    try:
        with unfinished.open("xb") as file:
            file.write(content)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def oldest_first(paths: Iterable[Path]) -> list[Path]:
    """Paths by their last change, without links and without what another process deletes meanwhile."""
    found = []
    for path in paths:
        with suppress(FileNotFoundError):
            if not stat.S_ISLNK((status := path.lstat()).st_mode):
                found.append((status.st_mtime_ns, path))
    return [path for _, path in sorted(found)]


def parse_json(text: str) -> Any:
    """The value of a JSON text. Numbers are finite, integers have 64 bits; half characters become U+FFFD.

    Raises PerceptionError with the place of the mistake, also for a repeated key.
    """
    if "\\ud" in text or "\\uD" in text:
        text = _ESCAPE.sub(_whole, text)
    try:
        return json.loads(
            text,
            object_pairs_hook=_unique,
            parse_int=_integer,
            parse_float=_finite,
            parse_constant=_not_finite,
        )
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise PerceptionError(f"not valid JSON, {place}: {error.msg.lower()}") from error
    except RecursionError as error:
        raise PerceptionError("not valid JSON: it is nested too deeply") from error


def typed(value: object, kind: type[T]) -> T:
    """A JSON value that must be of this type; an integer is a float too, but a bool is no number.

    Raises TypeError.
    """
    if kind is float and type(value) is int:
        return float(value)  # type: ignore[return-value]
    if type(value) is not kind:
        raise TypeError(f"expected {kind.__name__}, got {shown(value)}")
    return value


def json_problem(error: Exception) -> str:
    """What is wrong with a JSON object, from the error of reading its keys and values."""
    return f"it lacks {error}" if isinstance(error, KeyError) else str(error)


def parse_yaml(text: str, max_nodes: int = MAX_NODES) -> Any:
    """The value of a YAML text, read as ROS parameter files are (YAML 1.1: on and yes are true).

    Args:
        max_nodes: maximum number of values after aliases are expanded.

    Raises PerceptionError with line and column of the mistake, also for a repeated key.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MantissaNoDotYAML1_1Warning, MarkedYAMLError

    yaml = YAML(typ="safe", pure=True)
    yaml.version = (1, 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", MantissaNoDotYAML1_1Warning)  # 1e-3 is a number
            _check_size(yaml.parse(text), max_nodes)
            return yaml.load(text)
    except PerceptionError:
        raise
    except MarkedYAMLError as error:
        mark = error.problem_mark
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = str(error.problem).partition(" with value")[0]
        hint = ": put a text with a question mark in quotes" if problem.endswith("got '?'") else ""
        raise PerceptionError(f"not valid YAML{place}: {problem}{hint}") from error
    except Exception as error:  # an impossible date or tag surfaces as whatever the parser stumbles over
        raise PerceptionError(f"not valid YAML: {error or type(error).__name__}") from error


class YamlPlaces:
    """Where the values of a YAML text stand, for messages; the text has been parsed before."""

    def __init__(self, text: str) -> None:
        self._text = text

    @cached_property
    def _root(self) -> Any:
        from ruamel.yaml import YAML

        yaml = YAML(typ="safe", pure=True)
        yaml.version = (1, 1)
        return yaml.compose(self._text)

    def find(self, path: Sequence[object]) -> tuple[int, int]:
        """Line and column, from 1, of the value that these keys and indexes lead to, as far as it is there.

        That of a key where its value is a mapping or a list.
        """
        from ruamel.yaml.nodes import MappingNode, ScalarNode, SequenceNode

        node = self._root
        if node is None:  # an empty text
            return 1, 1
        mark = node.start_mark
        for step in path:
            if isinstance(node, SequenceNode) and isinstance(step, int) and step < len(node.value):
                node = node.value[step]
                mark = node.start_mark
            elif isinstance(node, MappingNode):
                found = [pair for pair in node.value if pair[0].value == str(step)]
                if not found:
                    break
                key, node = found[0]
                mark = (node if isinstance(node, ScalarNode) else key).start_mark
            else:
                break
        return mark.line + 1, mark.column + 1


def _check_size(events: Iterable[Any], max_nodes: int) -> None:
    """Refuses YAML that is too deep or, with its aliases expanded, too large, before any value is made."""
    from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent, ScalarEvent

    nodes, sizes = 0, dict[str, int]()
    begun: list[tuple[str | None, int]] = []
    for event in events:
        anchor = getattr(event, "anchor", None)
        if isinstance(event, CollectionStartEvent):
            begun.append((anchor, nodes))
            nodes += 1
        elif isinstance(event, CollectionEndEvent):
            anchor, before = begun.pop()
            if anchor:
                sizes[anchor] = nodes - before
        elif isinstance(event, AliasEvent):
            if anchor in {name for name, _ in begun}:
                raise PerceptionError(f"not valid YAML: *{anchor} stands inside of &{anchor}")
            nodes += sizes.get(anchor or "", 1)
        elif isinstance(event, ScalarEvent):
            if _LONG_NUMBER.fullmatch(event.value):
                raise PerceptionError(f"not valid YAML: a number of {len(event.value)} characters")
            nodes += 1
            if anchor:
                sizes[anchor] = 1
        if len(begun) > MAX_DEPTH:
            raise PerceptionError(f"this YAML is too deep: it has more than {MAX_DEPTH} levels")
        if nodes > max_nodes:
            raise PerceptionError(f"this YAML is too large: it has more than {max_nodes} values")


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """A JSON object. Refuses duplicate keys, of which JSON would silently keep the last."""
    entries = dict(pairs)
    if len(entries) < len(pairs):
        keys = [key for key, _ in pairs]
        raise PerceptionError(f"{shown(next(key for key in keys if keys.count(key) > 1))} is given twice")
    return entries


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise PerceptionError(f"not valid JSON: an integer of {len(digits)} digits")
    return int(digits)


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise PerceptionError(f"not valid JSON: the number {digits:.20} is not finite")
    return number


def _not_finite(name: str) -> NoReturn:
    raise PerceptionError(f"not valid JSON: {name} is no number")


def _whole(escape: re.Match[str]) -> str:
    """An escape of a JSON text; half a surrogate pair becomes U+FFFD."""
    found = escape.group()
    return "\\ufffd" if found[1] == "u" and len(found) == 6 else found
