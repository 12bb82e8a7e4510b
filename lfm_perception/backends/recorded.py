# SPDX-License-Identifier: Apache-2.0
"""The `recorded` backend: replays recorded answers, so that software is tested without a model or a GPU.

A recording is JSON lines in UTF-8. The first line is

    {"format": "lfm_perception answers", "version": 2, ...}

with further facts about the recording (source, model, settings). Each other line is one answer:

    image   the frame's pixels: BLAKE2b-128 of "WIDTHxHEIGHT\\n" and the RGB bytes, in hexadecimal
    stamp_ns, frame_id   of the frame
    system, user, dialect, labels, closed   the question; dialect is null for free text
    text, truncated, calibrated, rejects   as in `scene.Answer`
    detections   as in `scene.schema.json`, not rounded; without them, `text` is parsed when it is replayed
    probabilities   of the question's options, where it has some
    usage   as in `scene.Usage`

A later line replaces an earlier one about the same frame and question. Unknown keys are ignored.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import TextIOWrapper
from itertools import count
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any

import numpy as np

from lfm_perception.answers import parse
from lfm_perception.backends import Backend, register_backend
from lfm_perception.errors import PerceptionError, os_reason, shown
from lfm_perception.files import json_problem, new_file, open_file, parse_json, typed, user_path
from lfm_perception.provenance import file_facts
from lfm_perception.questions import FramePlan, Question
from lfm_perception.scene import Answer, Frame
from lfm_perception.scene_json import (
    counts_from_json,
    detection_from_json,
    detection_to_json,
    score_from_json,
    usage_from_json,
)
from lfm_perception.settings import Settings
from lfm_perception.stamps import to_seconds
from lfm_perception.text import safe_line
from lfm_perception.vlm import Health, Vlm

FORMAT, VERSION = "lfm_perception answers", 2

MAX_LINE = 1 << 22
"""Maximum length of a line, characters; a longer one is cut off and so no JSON."""


class NotRecordedError(PerceptionError):
    """The recording does not hold the frame, or this question about it."""


def image_hash(frame: Frame) -> str:
    """Hash of the frame's pixels, 32 hexadecimal digits. Takes about 1 ms for 640x480."""
    digest = hashlib.blake2b(f"{frame.width}x{frame.height}\n".encode(), digest_size=16)
    digest.update(np.ascontiguousarray(frame.image).data)
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class _QuestionKey:
    """The parts of a question that an answer depends on."""

    system: str
    user: str
    dialect: str | None
    labels: tuple[str, ...]
    closed: bool

    @classmethod
    def of(cls, question: Question) -> _QuestionKey:
        prompt, dialect = question.prompt, question.dialect
        name = None if dialect is None else dialect.name
        return cls(prompt.system, prompt.user, name, question.labels, question.closed)


class _NothingRecordedError(Exception):
    """A recording without answers, whose file is not to appear."""


class RecordedVlm:
    """A `Vlm` that replays a recording; it ignores plans.

    Raises PerceptionError, with the line, when the file cannot be read or is not a recording.
    """

    def __init__(self, settings: Settings) -> None:
        self._path = _path(settings)
        self._by_stamp = settings.recorded.match == "stamp"
        self._answers: dict[str, dict[_QuestionKey, _Line]] = {}
        for line in _lines(self._path):
            frame = str(line.stamp_ns) if self._by_stamp else line.image
            self._answers.setdefault(frame, {})[line.question] = line

    def describe(self, frame: Frame, question: Question, plan: FramePlan) -> Answer:
        """The answer recorded for this frame and question. Raises NotRecordedError when there is none."""
        answers = self._answers.get(str(frame.stamp_ns) if self._by_stamp else image_hash(frame))
        name = f"the {frame.width}x{frame.height} frame stamped {to_seconds(frame.stamp_ns):.3f} s"
        if answers is None:
            raise NotRecordedError(
                f"{name} is not in {self._path}, where frames are identified by their "
                f"{'stamp' if self._by_stamp else 'image'}: record this source with lfm-perception record"
            )
        found = answers.get(_QuestionKey.of(question))
        if found is None:
            recorded = ", ".join(_short(key.user) for key in list(answers)[:2])
            raise NotRecordedError(
                f"{self._path.name} has no answer to {_short(question.prompt.user)} about {name}, only to "
                f"{recorded}: record it with the same labels, dialect and prompts"
            )
        if len(found.answer.probabilities) != len(question.options) and not found.answer.truncated:
            raise NotRecordedError(
                f"{self._path.name} has {len(found.answer.probabilities)} probabilities for "
                f"{len(question.options)} options of {_short(question.prompt.user)}: record it again"
            )
        return _parsed(found.answer, question) if found.unparsed else found.answer

    def cancel(self) -> None:
        """See `Vlm.cancel`."""

    def health(self) -> Health:
        """See `Vlm.health`."""
        return Health()

    def close(self) -> None:
        """See `Vlm.close`."""


class RecordingVlm:
    """Wraps a `Vlm` and writes its answers to a file."""

    def __init__(self, vlm: Vlm, file: IO[str]) -> None:
        self._vlm, self._file = vlm, file
        self._hashed: tuple[Frame, str] | None = None
        self.count = 0
        """Answers written."""

    def describe(self, frame: Frame, question: Question, plan: FramePlan) -> Answer:
        """See `Vlm.describe`. Raises OSError when the file cannot be written."""
        answer = self._vlm.describe(frame, question, plan)
        if self._hashed is None or self._hashed[0] is not frame:
            self._hashed = frame, image_hash(frame)
        line = _Line(self._hashed[1], frame.stamp_ns, frame.frame_id, _QuestionKey.of(question), answer)
        self._file.write(json.dumps(line.to_json(), ensure_ascii=False) + "\n")
        self.count += 1
        return answer

    def cancel(self) -> None:
        """See `Vlm.cancel`."""
        self._vlm.cancel()

    def health(self) -> Health:
        """See `Vlm.health`."""
        return self._vlm.health()

    def close(self) -> None:
        """See `Vlm.close`."""
        self._vlm.close()


@contextmanager
def recording(path: Path, vlm: Vlm, about: Mapping[str, Any]) -> Iterator[RecordingVlm]:
    """Record the answers of a `Vlm`. The file appears at the end, complete, and only with an answer.

    `about` is added to the first line. Raises PerceptionError when the file cannot be written.
    """
    with suppress(_NothingRecordedError), new_file(path) as file:
        file.write(json.dumps({"format": FORMAT, "version": VERSION, **about}, ensure_ascii=False) + "\n")
        writer = RecordingVlm(vlm, file)
        yield writer
        if not writer.count:
            raise _NothingRecordedError


# --- the file ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Line:
    image: str
    stamp_ns: int
    frame_id: str
    question: _QuestionKey
    answer: Answer
    unparsed: bool = False

    def to_json(self) -> dict[str, Any]:
        answer = self.answer
        return {
            "image": self.image,
            "stamp_ns": self.stamp_ns,
            "frame_id": self.frame_id,
            **dataclasses.asdict(self.question),
            "text": answer.text,
            "truncated": answer.truncated,
            "calibrated": answer.calibrated,
            "rejects": dict(answer.rejects),
            "detections": list(map(detection_to_json, answer.detections)),
            **({"probabilities": list(answer.probabilities)} if answer.probabilities else {}),
            "usage": dataclasses.asdict(answer.usage),
        }

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> _Line:
        dialect = entry["dialect"]
        key = _QuestionKey(
            system=typed(entry["system"], str),
            user=typed(entry["user"], str),
            dialect=None if dialect is None else typed(dialect, str),
            labels=tuple(typed(label, str) for label in typed(entry["labels"], list)),
            closed=typed(entry["closed"], bool),
        )
        answer = Answer(
            text=typed(entry["text"], str),
            detections=tuple(map(detection_from_json, typed(entry.get("detections") or [], list))),
            truncated=typed(entry["truncated"], bool),
            rejects=MappingProxyType(counts_from_json(entry["rejects"])),
            usage=usage_from_json(entry["usage"]),
            calibrated=typed(entry.get("calibrated", False), bool),
            probabilities=tuple(map(score_from_json, typed(entry.get("probabilities") or [], list))),
        )
        unparsed = dialect is not None and entry.get("detections") is None
        image, frame_id = typed(entry["image"], str), typed(entry["frame_id"], str)
        return cls(image, typed(entry["stamp_ns"], int), frame_id, key, answer, unparsed)


def _parsed(answer: Answer, question: Question) -> Answer:
    """A recorded text with the detections in it."""
    assert question.dialect is not None
    parsed = parse(
        answer.text,
        question.dialect,
        labels=question.labels,
        closed=question.closed,
        synonyms=question.synonyms,
    )
    return dataclasses.replace(answer, detections=parsed.detections, rejects=parsed.rejects)


def _lines(path: Path) -> Iterator[_Line]:
    try:
        with TextIOWrapper(open_file(path), encoding="utf-8-sig") as file:
            _check_head(file.readline(MAX_LINE))
            for number in count(start=2):
                text = file.readline(MAX_LINE)
                if not text:
                    return
                if text.strip():
                    yield _line(text, number)
    except OSError as error:
        raise PerceptionError(f"cannot read {path}: {os_reason(error)}") from error
    except UnicodeDecodeError as error:
        raise PerceptionError(f"{path}: not a text file in UTF-8, so no recorded answers") from error
    except PerceptionError as error:
        raise PerceptionError(f"{path}: {error}") from error


def _check_head(text: str) -> None:
    head: Any = None
    with suppress(PerceptionError):
        head = parse_json(text)
    if not isinstance(head, dict) or head.get("format") != FORMAT:
        raise PerceptionError("not a file of recorded answers: make one with lfm-perception record")
    if head.get("version") != VERSION:
        raise PerceptionError(
            f"recorded answers of version {shown(head.get('version'))}, this program reads version "
            f"{VERSION}: record them again with lfm-perception record"
        )


def _line(text: str, number: int) -> _Line:
    try:
        return _Line.from_json(typed(parse_json(text), dict))
    except (ValueError, TypeError, KeyError, PerceptionError) as error:
        raise PerceptionError(
            f"line {number} is no recorded answer ({json_problem(error)}): record the file again"
        ) from error


def _path(settings: Settings) -> Path:
    return user_path(settings.recorded.path)


def _check(settings: Settings) -> str:
    return f"{_path(settings)}, {sum(1 for _ in _lines(_path(settings)))} answers"


def _short(text: str) -> str:
    return repr(safe_line(text, 40))


register_backend(
    Backend(
        name="recorded",
        open=lambda settings, notify: RecordedVlm(settings),
        display_name=lambda settings: f"answers in {_path(settings).name}",
        provenance=lambda settings: {"recorded": file_facts(_path(settings))},
        check=_check,
        remedy="check recorded.path: lfm-perception record makes such a file",
        any_frame=False,
    )
)
