# SPDX-License-Identifier: Apache-2.0
"""Prompts and true answers for training the demo model: many wordings, both dialects.

The wordings in `HELD_OUT` are never trained on; they measure how far rewording carries.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from lfm_perception.demo.bodies import LABELS
from lfm_perception.demo.world import Snapshot
from lfm_perception.geometry import Box
from lfm_perception.questions import BBOX, BBOX_2D, CAPTION, Dialect, Prompt

_SCHEMA = 'Response must be a JSON array: [{"label": ..., "bbox": [x1, y1, x2, y2]}, ...].'
_UNIT = "Coordinates are normalized to [0,1]."

_BBOX_USER = (
    f"Detect every: {{labels}}. {_SCHEMA} {_UNIT}",
    f"Find all instances of: {{labels}}. {_SCHEMA} {_UNIT}",
    f"Locate all of these: {{labels}}. {_SCHEMA} {_UNIT}",
    f"Where do you see: {{labels}}? {_SCHEMA} {_UNIT}",
    f"Please detect {{labels}}. {_SCHEMA} {_UNIT}",
    'Detect all instances of: {labels}. Answer as JSON: [{"label": ..., "bbox": [x1, y1, x2, y2]}, ...].',
    "Detect all instances of: {labels}. Answer with a JSON array of label and bbox. " + _UNIT,
    "Detect all instances of: {labels}.",
    "Detect: {labels}",
)
_BBOX_2D_USER = (
    "Box all: {labels}.",
    "Box every {labels} in the image.",
    "Find: {labels}.",
    "Detect all instances of: {labels}.",
    "Please mark all of these: {labels}",
    "{labels}",
    "Mark: {labels}",
    "Box all of these: {labels}.",
    "Find every: {labels}.",
    "Locate all: {labels}.",
)
_CAPTION_USER = (
    "Describe the scene.",
    "Describe the image in one sentence.",
    "What do you see?",
    "What is in the image?",
    "Caption the image.",
    "Write a short caption.",
    "Tell me what is there.",
    "What is shown here?",
    "Describe what is in the picture.",
    "Describe the picture.",
    "Say what you see in one sentence.",
    "Give a caption of the scene.",
    "Caption this picture in one sentence.",
    "Describe briefly what is there.",
    "What does the scene show?",
    "Summarize the scene.",
)
_SYSTEM = ("You are a helpful assistant.", "You are the eyes of a robot.", "Be brief.")
_STRANGERS = (
    *(
        "dog",
        "chair",
        "door",
        "robot",
        "truck",
        "table",
        "car",
        "cat",
        "bottle",
        "cup",
        "bag",
        "bicycle",
        "traffic light",
    ),
    *(
        "stop sign",
        "ladder",
        "shelf",
        "plant",
        "screen",
        "bird",
        "bus",
        "drum",
        "cart",
        "barrel",
        "helmet",
        "fire",
    ),
)

HELD_OUT = {
    "bbox": (
        f"Detect the following objects: {{labels}}. {_SCHEMA} {_UNIT}",
        f"Find these in the image: {{labels}}. {_SCHEMA} {_UNIT}",
        f"Locate every instance of: {{labels}}. {_SCHEMA} {_UNIT}",
    ),
    "bbox_2d": ("Mark every: {labels}.", "Box these: {labels}.", "Find all: {labels}"),
    "caption": ("Describe what you see.", "Caption the scene in one sentence.", "What is in the scene?"),
}


@dataclass(frozen=True, slots=True)
class Lesson:
    """A request and its true answer. `numbers`: where a coordinate's digits begin in the answer, its
    value, and how wide (x) or high (y) its box is; `openings`: where each object begins, and which object
    it is (index into the snapshot).
    """

    prompt: Prompt
    answer: str
    numbers: dict[int, tuple[float, float]]
    openings: dict[int, int]


def lesson(rng: random.Random, snapshot: Snapshot) -> Lesson:
    """A random question about the snapshot."""
    kind = rng.random()
    if kind < 0.25:
        return _caption(rng, snapshot)
    dialect = BBOX if kind < 0.6 else BBOX_2D
    user = (
        dialect.user if rng.random() < 0.45 else rng.choice(_BBOX_USER if dialect is BBOX else _BBOX_2D_USER)
    )
    system = dialect.system or (rng.choice(_SYSTEM) if rng.random() < 0.1 else "")
    return grounding(rng, snapshot, dialect, _labels(rng), Prompt(user, system))


def grounding(
    rng: random.Random, snapshot: Snapshot, dialect: Dialect, labels: Sequence[str], words: Prompt
) -> Lesson:
    """The boxes of `labels` (none: of everything), asked in `words` with a {labels} place."""
    wanted = [i for i, thing in enumerate(snapshot.objects) if not labels or thing.label in labels]
    answer = dialect.answer([(snapshot.objects[i].label, snapshot.objects[i].box) for i in wanted])
    asked = ", ".join(labels) if labels else "all objects"
    spans = _coordinates(dialect, answer)
    sides = [side for i in wanted for side in _sides(snapshot.objects[i].box)]
    numbers = {start: side for start, side in zip(spans, sides, strict=True) if start >= 0}
    openings = dict(zip((m.start() for m in re.finditer(r"\{", answer)), wanted, strict=True))
    return Lesson(Prompt(words.user.replace("{labels}", asked), words.system), answer, numbers, openings)


def _sides(box: Box) -> list[tuple[float, float]]:
    width, height = box.x2 - box.x1, box.y2 - box.y1
    return [(box.x1, width), (box.y1, height), (box.x2, width), (box.y2, height)]


def _caption(rng: random.Random, snapshot: Snapshot) -> Lesson:
    user = CAPTION.user if rng.random() < 0.4 else rng.choice(_CAPTION_USER)
    system = rng.choice(_SYSTEM) if rng.random() < 0.1 else ""
    return Lesson(Prompt(user, system), snapshot.caption, {}, {})


def _labels(rng: random.Random) -> list[str]:
    if rng.random() < 0.04:
        return []
    known = list(LABELS) if rng.random() < 0.35 else rng.sample(LABELS, rng.choice((0, 1, 1, 1, 2, 2, 3, 4)))
    strangers = (
        rng.sample(_STRANGERS, rng.choice((0, 0, 0, 1, 2)))
        if known
        else rng.sample(_STRANGERS, rng.choice((1, 2)))
    )
    labels = [*known, *strangers]
    rng.shuffle(labels)
    return labels


def _coordinates(dialect: Dialect, answer: str) -> list[int]:
    """Where the digits of each coordinate begin; -1 where a coordinate is the end of its range."""
    starts = []
    for array in re.finditer(rf'"{dialect.box_key}": \[([^\]]*)\]', answer):
        for number in re.finditer(r"[\d.]+", array.group(1)):
            at_end = float(number.group()) >= dialect.coordinate_range
            digits = number.start() + (2 if dialect.decimals else 0)
            starts.append(-1 if at_end else array.start(1) + digits)
    return starts
