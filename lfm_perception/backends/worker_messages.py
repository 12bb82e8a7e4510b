# SPDX-License-Identifier: Apache-2.0
"""Messages between supervisor and worker process, and the shared memory for the image they refer to."""

from __future__ import annotations

import mmap
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lfm_perception.errors import PerceptionError
from lfm_perception.questions import FramePlan, Question
from lfm_perception.scene import Answer

if TYPE_CHECKING:
    from lfm_perception.commands import Command

HEARTBEAT_S = 0.25
"""Period of the worker's heartbeat."""


@dataclass(frozen=True, slots=True)
class SharedFrame:
    """Size and header of the frame in shared memory."""

    height: int
    width: int
    stamp_ns: int
    frame_id: str

    @property
    def size(self) -> int:
        """Bytes of the image."""
        return self.height * self.width * 3


@dataclass(frozen=True, slots=True)
class Request:
    """A question about a frame; `frame` is None for the frame of the previous request.

    `streamed`: whether the text so far is sent while it is decoded.
    """

    number: int
    frame: SharedFrame | None
    question: Question
    plan: FramePlan
    streamed: bool


@dataclass(frozen=True, slots=True)
class CommandRequest:
    """A command in words."""

    number: int
    command: Command


@dataclass(frozen=True, slots=True)
class Cancel:
    """Cancels all requests sent so far."""


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Sent by the worker every `HEARTBEAT_S`, also while it computes."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """The worker has loaded the model, or could not because of `error`."""

    error: str = ""


@dataclass(frozen=True, slots=True)
class PartialText:
    """The text of the answer to a request so far."""

    number: int
    text: str


@dataclass(frozen=True, slots=True)
class Response:
    """The result of a request."""

    number: int
    result: Answer | PerceptionError


class SharedMemory:
    """Memory for one image: an anonymous file that supervisor and worker map."""

    def __init__(self, file: int) -> None:
        self.file = file
        self._map: mmap.mmap | None = None
        self._filled = 0

    def grow(self, size: int) -> None:
        """Enlarge the file to at least `size` bytes."""
        if os.fstat(self.file).st_size < size:
            os.ftruncate(self.file, size)

    def image(self, frame: SharedFrame) -> Any:
        """A view of the frame's pixels in shared memory, uint8, shape (height, width, 3)."""
        if self._map is None or len(self._map) < frame.size:
            self._map = mmap.mmap(self.file, os.fstat(self.file).st_size)
        shape = (frame.height, frame.width, 3)
        return np.frombuffer(self._map, np.uint8, frame.size).reshape(shape)

    def give_back(self, frame: SharedFrame) -> None:
        """Free the pages behind the frame, which a larger one before it filled.

        The file keeps its length, so that a worker that still reads the larger one is not killed (SIGBUS).
        """
        start = -(-frame.size // mmap.PAGESIZE) * mmap.PAGESIZE
        if frame.size < self._filled and self._map is not None and start < len(self._map):
            self._map.madvise(mmap.MADV_REMOVE, start)
        self._filled = frame.size

    def close(self) -> None:
        """Free the memory. May be called twice."""
        self._map = None
        file, self.file = self.file, -1
        if file >= 0:
            os.close(file)
