# SPDX-License-Identifier: Apache-2.0
"""Fuzz the answer parser with a million broken answers: exceptions, invalid boxes and throughput.

    python benchmarks/parser_fuzz.py [--count 1000000] [--seed 0] [--json FILE]

The inputs are answers as the two built-in dialects write them and as unconstrained models write them
(see `SHAPES`), each changed in up to four places: characters deleted, doubled, swapped for others, parts
repeated, moved, cut off, numbers replaced by impossible ones. The same seed gives the same inputs. Time
is the CPU time of the parser; a megabyte is a million bytes of UTF-8. Exits with 1 after any failure.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from lfm_perception.answers import REJECTS, Parsed, parse
from lfm_perception.geometry import Box
from lfm_perception.questions import BBOX, BBOX_2D, Dialect

LABELS = (
    "person",
    "box",
    "traffic light",
    "forklift",
    "stop sign",
    "driver's seat",
    "猫",
    "عربة",
    "pallet (empty)",
)
"""Labels that are hard to parse: spaces, an apostrophe, other scripts, brackets."""

Objects = list[tuple[str, Box]]


def _numbers(box: Box) -> list[float]:
    return [round(side, 3) for side in (box.x1, box.y1, box.x2, box.y2)]


def _by_label(objects: Objects) -> dict[str, list[list[float]]]:
    found: dict[str, list[list[float]]] = {}
    for label, box in objects:
        found.setdefault(label, []).append(_numbers(box))
    return found


def _corners(objects: Objects, names: tuple[str, str, str, str]) -> list[dict[str, object]]:
    return [{"name": label, **dict(zip(names, _numbers(box), strict=True))} for label, box in objects]


SHAPES: dict[str, Callable[[Objects], str]] = {
    "dialect bbox": BBOX.answer,
    "dialect bbox_2d": BBOX_2D.answer,
    "compact": lambda objects: BBOX.answer(objects).replace(", ", ",").replace(": ", ":"),
    "fenced": lambda objects: f"Here's what I see:\n```json\n{BBOX.answer(objects)}\n```\nThat's all.",
    "single quotes": lambda objects: str([{"label": label, "bbox": _numbers(box)} for label, box in objects]),
    "trailing commas": lambda objects: BBOX.answer(objects).replace("}", ",}").replace("]", ",]"),
    "numbers as strings": lambda objects: json.dumps(
        [{"class": label, "box": [str(side) for side in _numbers(box)]} for label, box in objects]
    ),
    "indented": lambda objects: json.dumps(json.loads(BBOX.answer(objects)), indent=2, ensure_ascii=False),
    "wrapped": lambda objects: json.dumps({"objects": json.loads(BBOX.answer(objects))}),
    "one key per label": lambda objects: json.dumps(_by_label(objects)),
    "corner keys": lambda objects: json.dumps(_corners(objects, ("x1", "y1", "x2", "y2"))),
    "min and max keys": lambda objects: json.dumps(
        {"results": _corners(objects, ("xmin", "ymin", "xmax", "ymax"))}
    ),
    "two points": lambda objects: json.dumps(
        [{"label": label, "bbox": [_numbers(box)[:2], _numbers(box)[2:]]} for label, box in objects]
    ),
    "no quotes": lambda objects: BBOX.answer(objects).replace('"', ""),
    "prose": lambda objects: " ".join(f"There is a {label} at {_numbers(box)}." for label, box in objects),
}
"""Formats of the answers before faults are added."""

_PIECES = (
    *"[]{}(),:\"'\\`.-+ \n\t0123456789eE",
    *("NaN", "Infinity", "null", "1e999", "-5", "1000", "0.5", '"label": ', '"bbox": ', "[[[[", "}}", "```"),
    *("<|im_end|>", "\ud83d", "\x00", "“", "é", "：", '\\"', "//", "..."),
)


def broken_answers(count: int, seed: int) -> Iterator[str]:
    """`count` answers with up to four faults each; the same seed gives the same ones."""
    chance = random.Random(seed)
    whole = [_whole_answer(chance) for _ in range(1000)]
    for _ in range(count):
        answer = chance.choice(whole)
        for _ in range(chance.randrange(5)):
            answer = _with_fault(answer, chance)
        yield answer


def _whole_answer(chance: random.Random) -> str:
    write = chance.choice(tuple(SHAPES.values()))
    objects: Objects = []
    for _ in range(chance.choice((0, 1, 1, 2, 3, 3, 5, 8))):
        (x1, x2), (y1, y2) = (sorted((chance.random(), chance.random())) for _ in range(2))
        objects.append((chance.choice(LABELS), Box(x1, y1, x2, y2)))
    return write(objects)


def _with_fault(text: str, chance: random.Random) -> str:
    size = len(text) + 1
    start = int(chance.random() * size)
    stop = min(len(text), start + int(chance.random() * chance.random() * 30))
    piece: str = _PIECES[int(chance.random() * len(_PIECES))]
    fault = int(chance.random() * 6)
    if fault == 0:
        return text[:start]
    if fault == 1:
        return text[:start] + text[stop:]
    if fault == 2:
        return text[:start] + text[start:stop] * 2 + text[stop:]
    if fault == 3:
        return text[:start] + piece + text[stop:]
    if fault == 4:
        return text[:start] + piece + text[start:]
    other = int(chance.random() * size)
    return text[:other] + text[start:stop] + text[other:]


def faults(parsed: Parsed, text: str) -> Iterator[str]:
    """Violated invariants of a parsed answer, one sentence each."""
    for found in parsed.objects:
        x1, y1, x2, y2 = found.box.x1, found.box.y1, found.box.x2, found.box.y2
        if not (0.0 <= x1 < x2 <= 1.0 and 0.0 <= y1 < y2 <= 1.0):
            yield f"box {found.box} leaves the image or has no area"
        if not found.label or found.label != found.label.strip():
            yield f"label {found.label!r} is empty or padded"
        spans = (found.opening, *found.number_spans, *([found.label_span] if found.label_span else ()))
        if not all(0 <= start <= end <= len(text) for start, end in spans):
            yield f"spans {spans} leave the text"
        if not all(math.isfinite(float(text[start:end])) for start, end in found.number_spans):
            yield f"spans {found.number_spans} are not on numbers"
    if not set(parsed.rejects) <= set(REJECTS):
        yield f"undocumented reasons {set(parsed.rejects) - set(REJECTS)}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    arguments = parser.parse_args()

    dialects: tuple[Dialect, ...] = (BBOX, BBOX_2D)
    problems: list[str] = []
    rejects: Counter[str] = Counter()
    size = objects = 0
    seconds = slowest = 0.0
    for number, text in enumerate(broken_answers(arguments.count, arguments.seed)):
        start = time.process_time()
        try:
            parsed = parse(text, dialects[number % 2], labels=LABELS[: number % 4], closed=number % 8 == 3)
        except Exception as error:  # a finding
            problems.append(f"{error!r} for {text!r}")
            continue
        took = time.process_time() - start
        seconds += took
        slowest = max(slowest, took)
        size += len(text.encode("utf-8", "surrogatepass"))
        objects += len(parsed.objects)
        rejects.update(parsed.rejects)
        problems += (f"{problem} for {text!r}" for problem in faults(parsed, text))

    figures = {
        "command": f"python benchmarks/parser_fuzz.py --count {arguments.count} --seed {arguments.seed}",
        "machine": f"{os.cpu_count()} {platform.machine()} cores, Python {platform.python_version()}",
        "inputs": f"answers of 0 to 8 objects in {len(SHAPES)} ways of writing, 0 to 4 faults each",
        "answers": arguments.count,
        "megabytes": round(size / 1e6, 2),
        "cpu_seconds": round(seconds, 2),
        "megabytes_per_second": round(size / 1e6 / seconds, 2),
        "slowest_answer_ms": round(slowest * 1e3, 3),
        "objects": objects,
        "rejects": dict(rejects.most_common()),
        "problems": len(problems),
    }
    print(json.dumps(figures, indent=2))
    for problem in problems[:10]:
        print(problem, file=sys.stderr)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
