# SPDX-License-Identifier: Apache-2.0
"""Typed questions about scenes of the demo world, with their true answers: many wordings, some held out.

A question without a type is answered with a sentence. Held-out wordings are never trained on; they measure
how far rewording carries.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from lfm_perception.demo.bodies import LABELS
from lfm_perception.demo.wordings import SETS, alternative, read_wordings
from lfm_perception.demo.world import Snapshot, TrueObject
from lfm_perception.typed_questions import TypedQuestion

_CONTENT = read_wordings("scene_questions.yaml")
WORDINGS: dict[str, dict[str, list[str]]] = _CONTENT["kinds"]
"""Wordings by kind of question and set."""
KINDS = tuple(WORDINGS)
TRANSLATIONS: dict[str, dict[str, dict[str, str]]] = read_wordings("question_languages.yaml")
"""By language: the words for labels, colours and sides, and the wording of some kinds."""

MAX_COUNT = 8
MIN_HELMET_HEIGHT_PX = 40
"""Minimum height of a person who is asked about for a helmet, of which it takes a twelfth."""
CLEAR_OFFSET = 0.04
"""Minimum horizontal distance, in image widths, of centres that are compared."""
NOTHING = "nothing"
CLEAR_AREA = 1.4
"""Minimum ratio of the areas of the largest object and of the next one."""

PLURALS = {"person": "people", "box": "boxes", "bus": "buses"}
STRANGERS = (
    "dog",
    "chair",
    "door",
    "robot",
    "truck",
    "table",
    "car",
    "cat",
    "bottle",
    "bus",
    "cart",
    "ladder",
)
COLOURS = {"box": ("brown", "blue", "grey"), "forklift": ("yellow", "red", "orange", "blue", "green")}
TRIES = 3
"""Most attempts for each of the questions of a training scene."""
SENTENCES = 0.12
"""Share of the questions that are answered with a sentence."""


@dataclass(frozen=True, slots=True)
class SceneQuestion:
    """A question of one of the KINDS about a scene, and the true answer; `beside` is the object whose
    neighbour is asked for.
    """

    kind: str
    question: TypedQuestion
    answer: str
    beside: TrueObject | None = None

    @property
    def text(self) -> str:
        """The user's turn."""
        return self.question.question.prompt.user


@dataclass(frozen=True, slots=True)
class _Asked:
    """A question before its wording: `slots` of the wordings, the answer as an option and a sentence, and
    the object whose neighbour is asked for.
    """

    slots: dict[str, str]
    options: tuple[str, ...]
    answer: str
    sentence: str
    beside: TrueObject | None = None


_WEIGHTS = {
    "several": 4.0, "count": 2.0, "side": 9.0, "which side": 3.0, "next": 16.0, "largest": 2.0,
    "colour": 3.0, "helmet": 5.0, "helmet choice": 1.5,
}  # fmt: skip
"""Frequencies relative to the other kinds: most scenes have no clear answer to some."""


def scene_question(
    rng: random.Random, snapshot: Snapshot, held: bool, kind: str = "", sentences: float = SENTENCES
) -> SceneQuestion | None:
    """A question of the kind, any kind where none is named; None where the scene has no clear answer to it.

    Args:
        held: whether the wording is one of those that are not trained.
        sentences: probability of a question without a type.
    """
    kind = kind or rng.choices(KINDS, [_WEIGHTS.get(each, 1.0) for each in KINDS])[0]
    asked = _ASK[kind](rng, snapshot)
    if asked is None:
        return None
    text = _spoken(rng, rng.choice(WORDINGS[kind][SETS[held]]), asked.slots)
    if rng.random() < 0.2:
        text = rng.choice(_CONTENT["openings"]) + text
    if rng.random() < sentences:
        return SceneQuestion(kind, TypedQuestion(text), asked.sentence, asked.beside)
    return SceneQuestion(kind, _typed(text, asked.options), asked.answer, asked.beside)


def translated_question(
    rng: random.Random, snapshot: Snapshot, kind: str, language: str
) -> SceneQuestion | None:
    """A question of a kind that the language has a wording for; None where there is no clear answer to it."""
    words, wording = (TRANSLATIONS[language][key] for key in ("words", "kinds"))
    asked = _ASK[kind](rng, snapshot)
    if asked is None:
        return None
    text = wording[kind].format(**{slot: words.get(value, value) for slot, value in asked.slots.items()})
    typed = _typed(text, tuple(words.get(option, option) for option in asked.options))
    return SceneQuestion(kind, replace(typed, language=language), words.get(asked.answer, asked.answer))


def scene_questions(rng: random.Random, snapshot: Snapshot, count: int) -> list[SceneQuestion]:
    """So many different questions in the wordings of the training, fewer where few answers are clear."""
    found: dict[str, SceneQuestion] = {}
    for _ in range(TRIES * count):  # else scenes of nothing would ask for most of the zeros and noes
        if len(found) < count and (question := scene_question(rng, snapshot, held=False)):
            found.setdefault(question.text, question)
    return list(found.values())


def neighbour(snapshot: Snapshot, thing: TrueObject, side: str) -> str | None:
    """The label of the object of another label whose centre is the next one left or right of the centre of
    this one, NOTHING where there is none; None where centres are too near each other to tell.
    """
    sign = 1 if side == "right" else -1
    offsets = sorted(
        (sign * (_centre(other) - _centre(thing)), other.label)
        for other in snapshot.objects
        if other.label != thing.label
    )
    if any(abs(offset) < CLEAR_OFFSET for offset, _ in offsets):
        return None
    beyond = [(offset, label) for offset, label in offsets if offset > 0]
    nearest = {label for offset, label in beyond if offset < beyond[0][0] + CLEAR_OFFSET}
    if len(nearest) > 1:
        return None
    return nearest.pop() if nearest else NOTHING


def plural(label: str) -> str:
    return PLURALS.get(label, f"{label}s")


def _spoken(rng: random.Random, wording: str, slots: dict[str, str]) -> str:
    where = rng.choice(_CONTENT["places"]) if rng.random() < 0.6 else ""
    text = alternative(rng, wording).format(where=where, **slots)
    return text[0].upper() + text[1:]


def _typed(text: str, options: tuple[str, ...]) -> TypedQuestion:
    if options == _YES_NO:
        return TypedQuestion(text, "yes_no")
    if options == _NUMBERS:
        return TypedQuestion(text, "number", maximum=MAX_COUNT)
    return TypedQuestion(text, "choice", options)


_YES_NO = ("Yes", "No")
_NUMBERS = tuple(map(str, range(MAX_COUNT + 1)))


def _count(snapshot: Snapshot, label: str) -> int:
    return sum(thing.label == label for thing in snapshot.objects)


def _single(snapshot: Snapshot) -> dict[str, TrueObject]:
    """The objects that are the only ones of their label."""
    return {thing.label: thing for thing in snapshot.objects if _count(snapshot, thing.label) == 1}


def _centre(thing: TrueObject) -> float:
    return (thing.box.x1 + thing.box.x2) / 2


def _area(thing: TrueObject) -> float:
    return (thing.box.x2 - thing.box.x1) * (thing.box.y2 - thing.box.y1)


def _shuffled(rng: random.Random, options: Sequence[str]) -> tuple[str, ...]:
    return tuple(rng.sample(sorted(set(options)), len(set(options))))


def _numbered(count: int, label: str) -> str:
    return f"1 {label}" if count == 1 else f"{count} {plural(label)}"


def _yes_no(slots: dict[str, str], right: bool, yes: str, no: str) -> _Asked:
    return _Asked(slots, _YES_NO, "Yes" if right else "No", f"Yes, {yes}." if right else f"No, {no}.")


def _there(rng: random.Random, snapshot: Snapshot) -> _Asked:
    present = sorted({thing.label for thing in snapshot.objects})
    absent = [label for label in LABELS if label not in present] * 2 + [rng.choice(STRANGERS)]
    label = rng.choice(present if present and rng.random() < 0.5 else absent)
    slots = {"a": label, "p": plural(label)}
    return _yes_no(slots, label in present, f"there is a {label}", f"there is no {label}")


def _several(rng: random.Random, snapshot: Snapshot) -> _Asked | None:
    many = [label for label in LABELS if _count(snapshot, label) > 1]
    if not many and rng.random() < 0.6:  # or no would be too frequent an answer
        return None
    one = [label for label in LABELS if _count(snapshot, label) == 1]
    few = one if one and rng.random() < 0.8 else [label for label in LABELS if label not in many] or many
    label = rng.choice(many if many and rng.random() < 0.6 else few)
    count = _count(snapshot, label)
    there = f"there {'is' if count == 1 else 'are'} {_numbered(count, label)}"
    return _yes_no({"a": label, "p": plural(label)}, count > 1, there, there)


def _how_many(rng: random.Random, snapshot: Snapshot) -> _Asked | None:
    counts = {label: _count(snapshot, label) for label in LABELS} | {"object": len(snapshot.objects)}
    numbers = sorted({n for n in counts.values() if n <= MAX_COUNT})
    (number,) = rng.choices(numbers, [1.0 if n else 0.5 for n in numbers])  # of most scenes 0 is one answer
    label = rng.choice([label for label, count in counts.items() if count == number])
    there = "is" if number == 1 else "are"
    return _Asked(
        {"a": label, "p": plural(label)}, _NUMBERS, str(number), f"There {there} {_numbered(number, label)}."
    )


def _two(rng: random.Random, snapshot: Snapshot) -> tuple[str, str, str] | None:
    """Two labels of one object each, and the side of the second on which the first is."""
    single = _single(snapshot)
    if len(single) < 2:
        return None
    a, b = rng.sample(sorted(single), 2)
    offset = _centre(single[a]) - _centre(single[b])
    return None if abs(offset) < CLEAR_OFFSET else (a, b, "left" if offset < 0 else "right")


def _side(rng: random.Random, snapshot: Snapshot) -> _Asked | None:
    if (two := _two(rng, snapshot)) is None:
        return None
    a, b, true_side = two
    side = rng.choice(("left", "right"))
    sentence = f"the {a} is {true_side} of the {b}"
    return _yes_no({"a": a, "b": b, "side": side}, side == true_side, sentence, sentence)


def _which_side(rng: random.Random, snapshot: Snapshot) -> _Asked | None:
    if (two := _two(rng, snapshot)) is None:
        return None
    a, b, side = two
    options = _shuffled(rng, ("left", "right"))
    return _Asked({"a": a, "b": b}, options, side, f"The {a} is {side} of the {b}.")


def _next(rng: random.Random, snapshot: Snapshot) -> _Asked | None:
    single = _single(snapshot)
    if not single:
        return None
    a, side = rng.choice(sorted(single)), rng.choice(("left", "right"))
    true = neighbour(snapshot, single[a], side)
    if true is None or (true == NOTHING and rng.random() < 0.5):  # or nothing would be too frequent an answer
        return None
    others = rng.sample([label for label in LABELS if label != a], rng.randint(1, 4))
    options = _shuffled(rng, (true, NOTHING, *others))
    sentence = "Nothing." if true == NOTHING else f"A {true}."
    return _Asked({"a": a, "side": side}, options, true, sentence, single[a])


def _extreme(rng: random.Random, snapshot: Snapshot) -> _Asked | None:
    side = rng.choice(("left", "right"))
    sign = 1 if side == "left" else -1
    order = sorted((sign * _centre(thing), thing.label) for thing in snapshot.objects)
    near = {label for place, label in order if place < order[0][0] + CLEAR_OFFSET}
    if len(order) < 2 or len(near) > 1:
        return None
    return _labelled(rng, {"side": side}, order[0][1], f"A {order[0][1]}.")


def _largest(rng: random.Random, snapshot: Snapshot) -> _Asked | None:
    order = sorted(((_area(thing), thing.label) for thing in snapshot.objects), reverse=True)
    near = {label for area, label in order if area > order[0][0] / CLEAR_AREA}
    if len(order) < 2 or len(near) > 1:
        return None
    return _labelled(rng, {}, order[0][1], f"The {order[0][1]}.")


def _labelled(rng: random.Random, slots: dict[str, str], label: str, sentence: str) -> _Asked:
    options = _shuffled(rng, (label, *rng.sample(LABELS, rng.randint(2, 5))))
    return (
        _Asked(slots, options, label, sentence)
        if len(options) > 1
        else _labelled(rng, slots, label, sentence)
    )


def _colour(rng: random.Random, snapshot: Snapshot) -> _Asked | None:
    coloured = [thing for label, thing in sorted(_single(snapshot).items()) if thing.colour]
    if not coloured:
        return None
    thing = rng.choice(coloured)
    pool = COLOURS[thing.label]
    options = _shuffled(rng, (thing.colour, *rng.sample(pool, rng.randint(2, len(pool)))))
    return _Asked({"a": thing.label}, options, thing.colour, f"The {thing.label} is {thing.colour}.")


def _helmet(rng: random.Random, snapshot: Snapshot) -> _Asked | None:
    person = _single(snapshot).get("person")
    if person is None or person.helmet is None:
        return None
    if (person.box.y2 - person.box.y1) * snapshot.frame.image.shape[0] < MIN_HELMET_HEIGHT_PX:
        return None
    return _yes_no({}, person.helmet, "the person has a helmet", "the person has no helmet")


def _helmet_choice(rng: random.Random, snapshot: Snapshot) -> _Asked | None:
    asked = _helmet(rng, snapshot)
    return asked and _Asked({}, _shuffled(rng, ("yes", "no")), asked.answer.lower(), asked.sentence)


_ASK: dict[str, Callable[[random.Random, Snapshot], _Asked | None]] = {
    "there": _there,
    "several": _several,
    "count": _how_many,
    "side": _side,
    "which side": _which_side,
    "next": _next,
    "extreme": _extreme,
    "largest": _largest,
    "colour": _colour,
    "helmet": _helmet,
    "helmet choice": _helmet_choice,
}
