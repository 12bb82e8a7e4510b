# SPDX-License-Identifier: Apache-2.0
"""Prompts, grounding dialects and questions, as values.

Prompt, constrained decoder and parser are derived from a dialect. The built-in ones are those that the models
were tuned on or evaluated with, word for word: a prompt format is part of a model's interface.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from lfm_perception.errors import PerceptionError, shown
from lfm_perception.geometry import Box
from lfm_perception.image_plan import ImagePlan
from lfm_perception.text import is_safe

SPECIAL_TOKEN = re.compile(r"<\|[^<>]*\|>|<__media__>|<image>")
"""Text that the tokenizer reads as a special token, or llama.cpp as the place of an image."""

ONE_SIDE = re.compile(r"[xy]_?(?:[012]|min|max)|left|top|right|bottom")
"""Keys of a single side of a box."""

MAX_LABELS_PLACES = 5
"""Maximum number of places in a prompt at which the labels stand."""

MAX_COORDINATE_STEPS = 10_000
"""Maximum number of steps from 0 to the end of a coordinate."""

MIN_COORDINATE_STEPS = 20
"""Minimum number of steps: with fewer, boxes of a twentieth of the image vanish in rounding."""


def check_prompt_text(name: str, text: str) -> None:
    """Refuses blank text and special tokens with a PerceptionError that begins with `name`."""
    if not text.strip():
        raise PerceptionError(f"{name} must not be blank, got {shown(text)}")
    check_special_tokens(name, text)


def check_label(name: str, label: str) -> None:
    """Refuses a label that no answer can hold, with a PerceptionError that begins with `name`."""
    visible = any(letter.isprintable() and not letter.isspace() for letter in label)
    if not visible or not is_safe(label) or re.search(r"[\n\t]", label):
        raise PerceptionError(f"{name} must not be blank or hold control characters, got {shown(label)}")


def check_special_tokens(name: str, text: str) -> None:
    """Refuses special tokens with a PerceptionError that begins with `name`."""
    if found := SPECIAL_TOKEN.search(text):
        raise PerceptionError(f"{name} must not hold the special token {found.group()!r}, got {shown(text)}")


@dataclass(frozen=True, slots=True)
class Prompt:
    """The text of one request. An empty system text means no system turn.

    Raises PerceptionError for text that holds a special token, so that text from outside never becomes part
    of the conversation's structure.
    """

    user: str
    system: str = ""

    def __post_init__(self) -> None:
        for text in (self.user, self.system):
            check_special_tokens("a prompt", text)


@dataclass(frozen=True, slots=True)
class Dialect:
    """Prompt and answer format of a grounding request.

    An answer is a JSON array of objects with `keys` in their order. `box_key` holds [x1, y1, x2, y2], each
    from 0 to `coordinate_range`: integers when `decimals` is 0, else numbers with at most that many decimals.
    `label_key` holds the label, any other key the integer 0 (`image_id`: the index of the only image).
    `{labels}` in `user` is replaced by the labels. With `single`, a question is about one label, which
    may be a referring expression, and the first box of the answer counts.

    Raises PerceptionError for parts that contradict each other, and when a box cannot be read back.
    """

    name: str
    user: str
    system: str = ""
    keys: tuple[str, ...] = ("label", "bbox")
    label_key: str = "label"
    box_key: str = "bbox"
    coordinate_range: int = 1
    decimals: int = 3
    single: bool = False

    def __post_init__(self) -> None:
        where = f"dialect {shown(self.name)}"
        Prompt(self.user, self.system)
        places = self.user.count("{labels}")
        if not places:
            raise PerceptionError(f"{where}: 'user' must contain {{labels}}, got {shown(self.user)}")
        if places > MAX_LABELS_PLACES:
            raise PerceptionError(f"{where}: 'user' contains {{labels}} {places} times: once will do")
        for key in (self.label_key, self.box_key):
            if self.keys.count(key) != 1:
                raise PerceptionError(f"{where}: 'keys' must hold {shown(key)} once, got {shown(self.keys)}")
        if self.label_key == self.box_key:
            raise PerceptionError(f"{where}: label_key and box_key are both {shown(self.box_key)}")
        folded = {key.casefold() for key in self.keys}  # as the parser of unconstrained text compares them
        if len(folded) < len(self.keys) or not all(re.fullmatch(r"\w+", key) for key in self.keys):
            raise PerceptionError(
                f"{where}: 'keys' must be different names of letters, digits and '_', got {shown(self.keys)}"
            )
        if side := next((key for key in self.keys if ONE_SIDE.fullmatch(key.casefold())), None):
            raise PerceptionError(
                f"{where}: 'keys' holds {shown(side)}, one side of a box, so a box cannot be read back: "
                "box_key takes all four"
            )
        if self.coordinate_range < 1 or not 0 <= self.decimals <= 6:
            raise PerceptionError(
                f"{where}: coordinate_range must be at least 1 and decimals 0 to 6, "
                f"got {self.coordinate_range} and {self.decimals}"
            )
        if self.decimals == 0 and self.coordinate_range < 2:
            raise PerceptionError(f"{where}: integers from 0 to {self.coordinate_range} cannot place a box")
        if self.coordinate_range * 10**self.decimals > MAX_COORDINATE_STEPS:
            raise PerceptionError(
                f"{where}: coordinate_range {self.coordinate_range} with {self.decimals} decimals is finer "
                f"than 1 in {MAX_COORDINATE_STEPS}, which no model can mean: lower one of them"
            )
        if self.coordinate_range * 10**self.decimals < MIN_COORDINATE_STEPS:
            raise PerceptionError(
                f"{where}: a box cannot be read back from {self.coordinate_range * 10**self.decimals} steps "
                f"of a coordinate: raise coordinate_range or decimals to {MIN_COORDINATE_STEPS} steps"
            )

    def prompt(self, labels: Sequence[str]) -> Prompt:
        """The request for all instances of `labels`; without labels, for all objects."""
        wanted = ", ".join(labels) or "all objects"
        return Prompt(user=self.user.replace("{labels}", wanted), system=self.system)

    def number(self, value: float) -> str:
        """The text of a normalized coordinate."""
        scaled = min(max(value, 0.0), 1.0) * self.coordinate_range
        return f"{scaled:.{self.decimals}f}" if self.decimals else str(round(scaled))

    def numbers(self) -> tuple[str, ...]:
        """The texts of all coordinates that an answer may hold."""
        if not self.decimals:
            return tuple(str(value) for value in range(self.coordinate_range + 1))
        return tuple(
            f"{whole}.{fraction:0{digits}d}"
            for digits in range(1, self.decimals + 1)
            for whole in range(self.coordinate_range + 1)
            for fraction in range(1 if whole == self.coordinate_range else 10**digits)
        )

    def answer(self, objects: Sequence[tuple[str, Box]]) -> str:
        """The JSON text of an answer, with the spacing of the model (one space after `,` and `:`)."""
        return self.spell(
            [(in_json(label), [self.number(side) for side in box.xyxy.tolist()]) for label, box in objects]
        )

    def spell(self, objects: Sequence[tuple[str, Sequence[str]]]) -> str:
        """The JSON text of an answer whose labels and numbers are JSON texts already."""
        return "[" + ", ".join(self._object(label, numbers) for label, numbers in objects) + "]"

    def _object(self, label: str, numbers: Sequence[str]) -> str:
        values = {self.label_key: f'"{label}"', self.box_key: f"[{', '.join(numbers)}]"}
        return "{" + ", ".join(f'"{key}": {values.get(key, "0")}' for key in self.keys) + "}"


def in_json(label: str) -> str:
    """A label escaped for a JSON string, without the quotes."""
    return json.dumps(label, ensure_ascii=False)[1:-1]


BBOX = Dialect(
    name="bbox",
    user=(
        "Detect all instances of: {labels}. Response must be a JSON array: "
        '[{"label": ..., "bbox": [x1, y1, x2, y2]}, ...]. Coordinates are normalized to [0,1].'
    ),
)
"""The grounding prompt of the LFM2.5-VL-450M model card."""

BBOX_2D = Dialect(
    name="bbox_2d",
    system=(
        "When asked for bounding boxes for objects, return a valid JSON array.\n"
        "Each array item must be an object with:\n"
        "- image_id: the 0-based index of the image\n"
        "- bbox_2d: [xmin, ymin, xmax, ymax] normalized integer coordinates in [0, 1000]\n"
        "- label: a concise label you choose for the predicted object or region\n"
        "\n"
        "Return one item per visible matching object or region. Return [] if none are visible."
    ),
    user="Provide bounding boxes for {labels}.",
    keys=("image_id", "bbox_2d", "label"),
    box_key="bbox_2d",
    coordinate_range=1000,
    decimals=0,
)
"""The boxes prompt of the vendor's documentation (Liquid4All/docs, lfm/key-concepts/vision-capabilities)."""

REFCOCO = Dialect(
    name="refcoco",
    user=(
        "Locate the object described by this referring expression:\n"
        "{labels}\n"
        "\n"
        "Return only a valid JSON array. Do not include markdown, code fences, comments, or any text outside "
        "the JSON.\n"
        "Each array item must be an object with:\n"
        "- image_id: the zero-based image index. For a single-image input, use 0. For multi-image inputs, "
        "use 0 for the first image, 1 for the second, and so on.\n"
        "- bbox_2d: [xmin, ymin, xmax, ymax] normalized integer coordinates in [0, 1000]\n"
        "- label: a concise label you choose for the predicted object or region\n"
        "\n"
        "Return one item per visible matching object or region. Return [] if none are visible."
    ),
    keys=("image_id", "bbox_2d", "label"),
    box_key="bbox_2d",
    coordinate_range=1000,
    decimals=0,
    single=True,
)
"""The prompt of the published RefCOCO-M figures (VLMEvalKit, vlmeval/vlm, the model family's wrapper)."""

DIALECTS = {dialect.name: dialect for dialect in (BBOX, BBOX_2D, REFCOCO)}

CAPTION = Prompt(user="Describe the scene in one sentence.")


Draft = tuple[tuple[str, Box], ...]
"""Labels and boxes that an answer is expected to hold, in the expected order."""


@dataclass(frozen=True, slots=True)
class Question:
    """One request about one image. With a dialect the answer is a list of boxes, else free text.

    With `options` the answer is one of these texts, with the probability of each.
    With `closed` the answer is restricted to `labels`. `synonyms` are entries of `detect.synonyms`.
    """

    prompt: Prompt
    dialect: Dialect | None = None
    labels: tuple[str, ...] = ()
    closed: bool = False
    synonyms: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


def detect(
    dialect: Dialect, labels: Sequence[str], *, closed: bool = False, synonyms: Sequence[str] = ()
) -> Question:
    """A question for the boxes of all instances of `labels`.

    Args:
        closed: restricts the answer to `labels`.

    Raises:
        PerceptionError: for `closed` without labels, for a number of labels that the dialect cannot ask for,
            and for blank labels or those with control characters.
    """
    for label in labels:
        check_label("a label", label)
    if closed and not labels:
        raise PerceptionError("a closed vocabulary needs at least one label")
    if dialect.single and len(labels) != 1:
        raise PerceptionError(
            f"dialect {dialect.name} asks for one referring expression and detect.labels holds "
            f"{len(labels)}: name one, or choose another detect.dialect"
        )
    return Question(dialect.prompt(labels), dialect, tuple(labels), closed, tuple(synonyms))


def ask(prompt: Prompt) -> Question:
    """A question with a free answer: a caption, or an operator's question."""
    return Question(prompt)


@dataclass(frozen=True, slots=True)
class FramePlan:
    """Image plan and limits of one question about one frame, chosen before any pixel is encoded.

    `deadline_s` counts from the call of `describe`, in seconds; None: no deadline. `draft` is for speculative
    decoding and never changes the answer. `expected_s` is the predicted latency, None where it was not
    predicted; `fits`: it is within the remaining budget. `region` is the part of the camera's frame that the
    model is shown, None for all of it; the frame that a backend gets is that part already.
    """

    image: ImagePlan
    answer_tokens: int
    deadline_s: float | None = None
    draft: Draft | None = None
    expected_s: float | None = None
    fits: bool = True
    region: Box | None = None

    def __str__(self) -> str:
        image = self.image
        tiles = f" in {image.columns}x{image.rows} tiles" if image.tiled else ""
        time = "" if self.expected_s is None else f", about {self.expected_s:.3f} s"
        region = "" if self.region is None else ", a region of the frame"
        return (
            f"{image.width}x{image.height}{tiles}{region}, {image.tokens} image tokens, "
            f"at most {self.answer_tokens} answer tokens{time}{'' if self.fits else ', too slow'}"
        )
