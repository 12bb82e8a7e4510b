# SPDX-License-Identifier: Apache-2.0
"""Commands to the node in everyday English and the tool calls that they mean, in LFM2's format.

Numbers and names in a call are those of the command. No model was trained on these wordings and names. A
command that no tool can carry out is refused with a sentence.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from lfm_perception.commands import REFUSAL
from lfm_perception.demo.bodies import LABELS
from lfm_perception.demo.scene_questions import plural
from lfm_perception.demo.wordings import alternative, read_wordings

_CONTENT = read_wordings("commands.yaml")
WORDINGS: Mapping[str, Sequence[str]] = _CONTENT["tools"] | {"": _CONTENT["refused"]}
"""Wordings by tool; under the empty name those of requests that no tool can carry out."""

NOUNS: Sequence[str] = _CONTENT["nouns"]
"""Names of things that are no labels of the demo world."""

CALL_START, CALL_END = "<|tool_call_start|>", "<|tool_call_end|>"


@dataclass(frozen=True, slots=True)
class Command:
    """`text` is the operator's turn. `tool` is the one that it means, empty where there is none;
    `answer` is a call of it, or a refusal where there is none.
    """

    tool: str
    text: str
    answer: str


def command(
    rng: random.Random,
    tool: str,
    wordings: Mapping[str, Sequence[str]] = WORDINGS,
    nouns: Sequence[str] = NOUNS,
    words: Mapping[str, str] = MappingProxyType({}),
) -> Command:
    """A command that means `tool`; empty: nothing that a tool could do.

    Args:
        wordings: as `WORDINGS`.
        nouns: names of things that commands are about, beside the labels of the demo world.
        words: what fills the slots of a request that no tool can carry out.
    """
    slots, arguments = _slots(rng, tool, nouns) if tool else (words, {})
    fitting = [each for each in wordings[tool] if ("{question}" in each) == ("question" in slots)]
    text = " ".join(alternative(rng, rng.choice(fitting)).format(**slots).split())
    if rng.random() < 0.5:
        text = rng.choice(_CONTENT["before"]) + text
    if text[-1] not in "?." and rng.random() < 0.5:
        text += rng.choice(_CONTENT["after"])
    if rng.random() < 0.6:
        text = text[0].upper() + text[1:]
    return Command(tool, text, _call(tool, arguments) if tool else REFUSAL)


def _call(tool: str, arguments: dict[str, object]) -> str:
    spelled = (f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in arguments.items())
    return f"{CALL_START}[{tool}({', '.join(spelled)})]{CALL_END}"


def _slots(
    rng: random.Random, tool: str, nouns: Sequence[str]
) -> tuple[Mapping[str, str], dict[str, object]]:
    """What fills the places of a wording, and the arguments of the call."""
    if tool == "set_labels":
        labels = _labels(rng, nouns)
        return {"labels": _listed(rng, labels)}, {"labels": labels}
    if tool in ("add_alert", "remove_alert"):
        return _alert(rng, tool, rng.choice((*LABELS, *nouns)))
    if tool == "set_token_budget":
        tokens = rng.choice((rng.randint(20, 999), 10 * rng.randint(3, 99), 2 ** rng.randint(5, 9)))
        return {"n": str(tokens)}, {"tokens": tokens}
    if tool in ("set_duty_cycle", "set_min_score"):
        percent = rng.choice((rng.randint(1, 99), 5 * rng.randint(1, 19)))
        share = rng.choice(
            (f"{percent} percent", f"{percent}%", f"{percent} %", f"{percent} per cent", f"{percent / 100:g}")
        )
        name = "share" if tool == "set_duty_cycle" else "score"
        return {"n": share}, {name: percent / 100}
    if tool in ("set_latency_budget", "set_caption_period"):
        tenths = rng.randint(1, 30) if tool == "set_latency_budget" else 10 * rng.randint(1, 60)
        return _duration(rng, tool, tenths)
    return {}, {}


def _duration(rng: random.Random, tool: str, tenths: int) -> tuple[Mapping[str, str], dict[str, object]]:
    """A time of so many tenths of a second, or of as many minutes as seconds, with a unit of those in use."""
    seconds = tenths // 10 if tenths % 10 == 0 else tenths / 10
    if tool == "set_latency_budget" and rng.random() < 0.3:
        return {"n": f"{100 * tenths} {rng.choice(('ms', 'milliseconds'))}"}, {"seconds": seconds}
    if tool == "set_caption_period" and rng.random() < 0.3:
        unit = "minute" if seconds == 1 else rng.choice(("minutes", "min"))
        return {"n": f"{seconds} {unit}"}, {"seconds": 60 * seconds}
    unit = "second" if seconds == 1 else rng.choice(("seconds", "seconds", "seconds", "s"))
    return {"n": f"{seconds} {unit}"}, {"seconds": seconds}


def _labels(rng: random.Random, nouns: Sequence[str]) -> list[str]:
    pool = (*LABELS, *LABELS, *LABELS, *nouns)
    return list(dict.fromkeys(rng.choice(pool) for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 4)))))


def _listed(rng: random.Random, labels: Sequence[str]) -> str:
    """Labels as they are said; those of the demo world may stand in the plural."""
    many = rng.random() < 0.4
    said = [plural(label) if many and label in LABELS else label for label in labels]
    return (
        said[0] if len(said) == 1 else ", ".join(said[:-1]) + rng.choice((" and ", ", ", " or ")) + said[-1]
    )


def _alert(rng: random.Random, tool: str, name: str) -> tuple[dict[str, str], dict[str, object]]:
    if tool == "remove_alert":
        return {"a": name}, {"name": name}
    if rng.random() < 0.6:
        return {"a": name}, {"name": name, "question": f"Is there a {name}?"}
    wording = rng.choice(
        ("Is the {a} {state}?", "Is a {a} {state}?", "Is there a {a} {place}?", "Do you see a {a}?")
    )
    question = wording.format(
        a=name,
        state=rng.choice(("open", "closed", "moving", "in the way", "empty", "on the floor")),
        place=rng.choice(("on the left", "in front", "behind the box", "near the door", "on the floor")),
    )
    return {"a": name, "question": question}, {"name": name, "question": question}
