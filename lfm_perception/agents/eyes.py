# SPDX-License-Identifier: Apache-2.0
"""What an agent can see: the interface `Eyes`, and its implementation over a source of frames."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol

from lfm_perception.decisions import decision_text
from lfm_perception.errors import PerceptionError
from lfm_perception.media.images import encode
from lfm_perception.media.overlay import Overlay, View
from lfm_perception.media.sources import Source
from lfm_perception.perception import Perception
from lfm_perception.scene import Frame, Scene
from lfm_perception.scene_json import scene_to_json
from lfm_perception.settings import Settings
from lfm_perception.typed_questions import TypedQuestion

if TYPE_CHECKING:
    from lfm_perception.memory import MemoryQuestion


class Eyes(Protocol):
    """Methods raise PerceptionError with the reason why there is nothing to see. One call at a time."""

    def look(self) -> dict[str, Any]:
        """A new scene, see `scene.schema.json`."""
        ...

    def scene(self) -> dict[str, Any]:
        """The latest scene, of a running node with its `age_s`."""
        ...

    def caption(self) -> str:
        """A sentence about the latest scene."""
        ...

    def ask(self, question: TypedQuestion) -> str:
        """The answer to a question, as on the topic `answer`."""
        ...

    def remember(self, question: MemoryQuestion) -> str:
        """What the memory holds about some words, as JSON."""
        ...

    def snapshot(self, *, boxes: bool) -> bytes:
        """The latest image as JPEG, with the bounding boxes of what was found or without."""
        ...

    def set_labels(self, labels: Sequence[str]) -> None:
        """Detect these labels from now on."""
        ...


class SourceEyes:
    """Eyes over the frames of a source: `look` goes on to its next frame, and all else is about that one.

    Args:
        badge: note on images with boxes, such as the kind of model.
    """

    def __init__(self, source: Source, perception: Perception, settings: Settings, badge: str = "") -> None:
        self._source, self._perception, self._settings = source, perception, settings
        self._badge = badge
        every = 1 if source.pictures else source.every
        self._frames = islice(source.frames, 0, None, every)
        self._latest: tuple[Frame, Scene] | None = None

    def look(self) -> dict[str, Any]:
        """See `Eyes.look`. Raises PerceptionError at the end of the source."""
        frame = next(self._frames, None)
        if frame is None:
            raise PerceptionError(f"{self._source.name} has no more frames")
        infer = self._perception.infer_picture if self._source.pictures else self._perception.infer
        self._latest = frame, infer(frame)
        return scene_to_json(self._latest[1])

    def scene(self) -> dict[str, Any]:
        """See `Eyes.scene`."""
        return scene_to_json(self._seen()[1])

    def caption(self) -> str:
        """See `Eyes.caption`."""
        return self.ask(TypedQuestion(self._settings.caption.prompt))

    def ask(self, question: TypedQuestion) -> str:
        """See `Eyes.ask`."""
        return decision_text(self._perception.answer(self._seen()[0], question))

    def remember(self, question: MemoryQuestion) -> str:
        """See `Eyes.remember`."""
        raise PerceptionError("only a running node has a memory: serve node, with memory.enabled")

    def snapshot(self, *, boxes: bool) -> bytes:
        """See `Eyes.snapshot`."""
        frame, scene = self._seen()
        image = frame.image
        if boxes:
            view = View(frame, 0.0, scene.tracks, scene, scene.usage.total_s)
            image = Overlay(frame.width, frame.height, self._badge).draw(view)
        return encode(image, ".jpg")

    def set_labels(self, labels: Sequence[str]) -> None:
        """See `Eyes.set_labels`."""
        self._settings = self._settings.with_values({"detect.labels": list(labels)})
        self._perception.reconfigure(self._settings)

    def _seen(self) -> tuple[Frame, Scene]:
        """The last inferred frame and its scene."""
        if self._latest is None:
            self.look()
        assert self._latest
        return self._latest
