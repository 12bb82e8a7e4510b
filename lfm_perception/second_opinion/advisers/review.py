# SPDX-License-Identifier: Apache-2.0
"""The adviser `review`: people, or a program of theirs, answer the questions that are written to a folder.

    lfm_opinion_ID.jpg          the crop
    lfm_opinion_ID.json         the question; written last, so that the crop is complete when it is there
    lfm_opinion_ID.answer.json  the answer, `{"answer": "4711"}`, written by the person

All three are deleted once the answer is read, and crop and question once nobody waits for the answer. Nodes
may share a folder: a question is locked (`flock`) while its node waits, and the others do not delete it.
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from lfm_perception.errors import PerceptionError, os_reason
from lfm_perception.files import (
    json_problem,
    open_file,
    parse_json,
    read_text,
    typed,
    user_path,
    write_complete,
)
from lfm_perception.second_opinion.advisers import register_adviser
from lfm_perception.second_opinion.opinions import AdviserError, Reply, Request, request_to_json
from lfm_perception.settings import SecondOpinionSettings

PREFIX = "lfm_opinion_"
"""Beginning of the names of all files: no other file is ever read or deleted."""

MAX_FILES, MAX_FOLDER_BYTES = 100, 50_000_000
"""Maximum number of crops in the folder, those of other nodes too, and of bytes of all its files."""

MAX_ANSWER_BYTES = 16_000
"""Maximum size of the file of an answer, bytes."""

SETTLED_S = 2.0
"""Age of a file from which on it counts as complete: a younger one may still be written."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    request: Request
    until_s: float
    lock: BinaryIO
    """The file of the question, locked until it is closed."""


class ReviewFolder:
    """Requests as files. Files that an earlier process left behind are deleted after the timeout, too."""

    def __init__(self, settings: SecondOpinionSettings) -> None:
        self._folder, self._timeout_s = user_path(settings.folder), settings.timeout
        self._waiting: dict[str, _Waiting] = {}
        self.source = f"review in {self._folder}"

    @property
    def has_room(self) -> bool:
        return True

    @property
    def waits(self) -> bool:
        return bool(self._waiting)

    def submit(self, request: Request) -> None:
        """Write crop and question. Raises AdviserError: the folder is full or cannot be written."""
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._make_room(len(request.jpeg))
            question = json.dumps(request_to_json(request), ensure_ascii=False, indent=1)
            write_complete(self._path(request, ".jpg"), request.jpeg)
            write_complete(self._path(request, ".json"), question.encode())
            lock = open_file(self._path(request, ".json"))
            with suppress(OSError):  # a network's file system may have no locks
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._delete(request)
            raise AdviserError(
                "folder", f"second_opinion.folder {self._folder}: {os_reason(error)}"
            ) from error
        self._waiting[request.request_id] = _Waiting(request, time.monotonic() + self._timeout_s, lock)

    def poll(self, wait_s: float) -> list[Reply]:
        """The answers that have been written, and a failure for each crop that is out of time or gone."""
        replies = list(self._replies())
        if not replies and wait_s:
            time.sleep(wait_s)
            replies = list(self._replies())
        for reply in replies:
            self._end(reply.request)
        return replies

    def close(self) -> None:
        """Delete the crops that nobody has judged."""
        for waiting in list(self._waiting.values()):
            self._end(waiting.request)

    def _end(self, request: Request) -> None:
        self._delete(request)
        self._waiting.pop(request.request_id).lock.close()

    def _replies(self) -> Iterator[Reply]:
        for waiting in self._waiting.values():
            request = waiting.request
            answer, problem = self._answer(request)
            if problem:
                yield Reply(request, error=AdviserError("unusable", problem))
            elif answer is not None:
                yield Reply(request, answer)
            elif time.monotonic() >= waiting.until_s:
                late = f"nobody answered within {self._timeout_s:g} s: {request}"
                yield Reply(request, error=AdviserError("timeout", late))
            elif not os.path.exists(self._path(request, ".json")):  # noqa: PTH110 - raises nothing
                gone = f"a question was removed from {self._folder} without an answer"
                yield Reply(request, error=AdviserError("folder", gone))

    def _answer(self, request: Request) -> tuple[str | None, str]:
        """The answer, None while there is none, and what is wrong with its file."""
        path = self._path(request, ".answer.json")
        try:
            status = path.lstat()
        except OSError:
            return None, ""
        if stat.S_ISLNK(status.st_mode):
            return None, f"{path.name} is no answer: it is a link"
        age_s = time.time() - status.st_mtime
        try:
            return typed(typed(parse_json(read_text(path, MAX_ANSWER_BYTES)), dict)["answer"], str), ""
        except (PerceptionError, KeyError, TypeError) as error:
            is_being_written = 0.0 <= age_s < SETTLED_S
            return None, "" if is_being_written else f"{path.name} is no answer: {json_problem(error)}"

    def _make_room(self, size: int) -> None:
        """Delete what is out of time and not waited for, here or by another node, as a clock may jump.

        Raises AdviserError where the folder is full.
        """
        now_s, count = time.time(), 0
        for path in self._folder.glob(f"{PREFIX}*"):
            with suppress(OSError):
                status = path.lstat()
                too_old = now_s - status.st_mtime > self._timeout_s + SETTLED_S
                if too_old and not self._is_waited_for(path.name.removeprefix(PREFIX).partition(".")[0]):
                    path.unlink()
                    continue
                count, size = count + (path.suffix == ".jpg"), size + status.st_size
        if count >= MAX_FILES or size > MAX_FOLDER_BYTES:
            raise AdviserError(
                "folder",
                f"{self._folder} is full: {count} crops, {size} bytes wait for answers, so none is added",
            )

    def _is_waited_for(self, request_id: str) -> bool:
        """Whether a node waits for the answer to a question, this one or another."""
        if request_id in self._waiting:
            return True
        try:
            with open_file(self._folder / f"{PREFIX}{request_id}.json") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def _path(self, request: Request, suffix: str) -> Path:
        return self._folder / f"{PREFIX}{request.request_id}{suffix}"

    def _delete(self, request: Request) -> None:
        for suffix in (".json", ".jpg", ".answer.json"):
            with suppress(OSError):
                self._path(request, suffix).unlink()


register_adviser("review", ReviewFolder)
