# SPDX-License-Identifier: Apache-2.0
"""Measure the answers to typed questions and to commands in held-out wordings, with the weights in 4 bits.

    PYTHONPATH=tools python -m demo_model.answer_trials --checkpoint build/demo_model/checkpoint.pt

This runs in PyTorch, so it can be asked of a training that still goes on. An option's probability is that of
its first token, in which the options of a question differ. A call is right when each of its tokens is the
likeliest one; nothing holds numbers and names to those of the command here.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import defaultdict
from pathlib import Path
from statistics import mean

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from demo_model import tokenizer as vocabulary
from demo_model.batches import IMAGE_TURN, TEXT_TURN, Turns, start_of_commands, start_of_image, turns
from demo_model.export import load_checkpoint
from demo_model.losses import read_answers
from demo_model.network import VisionLanguageModel
from demo_model.optimizers import rounded
from lfm_perception.commands import TOOLS
from lfm_perception.demo.commands import CALL_START, Command, command
from lfm_perception.demo.scene_questions import SceneQuestion
from lfm_perception.demo.world import Snapshot
from lfm_perception.evaluation.demo_questions import scene_with_questions

Figures = dict[str, dict[str, float]]
"""Measures by their names, by kind of question or by tool."""


def measure_questions(
    model: VisionLanguageModel, tokenizer: Tokenizer, scenes: int, seed: int = 0
) -> Figures:
    """By kind of question: share of right answers, number of questions, and calibration error of Yes."""
    right: defaultdict[str, list[float]] = defaultdict(list)
    sure: defaultdict[str, list[tuple[float, bool]]] = defaultdict(list)
    for index in range(scenes):
        snapshot, asked = scene_with_questions(seed, index)
        for question, probabilities in zip(
            asked, _probabilities(model, tokenizer, snapshot, asked), strict=True
        ):
            best = question.question.answers[int(probabilities.argmax())]
            right[question.kind].append(best == question.answer)
            if question.kind == "count":
                right["count within one"].append(abs(int(best) - int(question.answer)) <= 1)
            if question.question.answers[0] == "Yes":
                sure[question.kind].append((float(probabilities[0]), question.answer == "Yes"))
    return {
        kind: {"right": round(mean(hits), 4), "questions": len(hits)}
        | ({"calibration error": round(_calibration_error(sure[kind]), 4)} if kind in sure else {})
        for kind, hits in right.items()
    }


def measure_commands(model: VisionLanguageModel, tokenizer: Tokenizer, each: int, seed: int = 0) -> Figures:
    """By tool: share of right functions and of answers that are right to the last token."""
    rng = random.Random(f"commands {seed}")
    said = [command(rng, tool) for tool in [*TOOLS, ""] for _ in range(each)]
    return _by_tool(said, _told(model, tokenizer, said))


def _probabilities(
    model: VisionLanguageModel, tokenizer: Tokenizer, snapshot: Snapshot, asked: list[SceneQuestion]
) -> list[Tensor]:
    """Of each question's options."""
    _, tokens = model.see(torch.from_numpy(snapshot.frame.image)[None])
    start = model.language.embedding(torch.tensor([start_of_image(tokenizer)]))
    pairs = [(0, question.text, question.answer) for question in asked]
    answers = _answers(model, torch.cat((start, tokens), 1), turns(tokenizer, IMAGE_TURN, pairs))
    results = []
    for question, (logits, _) in zip(asked, answers, strict=True):
        first = [
            tokenizer.encode(option, add_special_tokens=False).ids[0] for option in question.question.answers
        ]
        results.append(logits[0, first].softmax(0))
    return results


def _told(model: VisionLanguageModel, tokenizer: Tokenizer, said: list[Command]) -> list[list[bool]]:
    """Of each command, whether its function and its whole answer are the likeliest ones."""
    start = model.language.embedding(start_of_commands(tokenizer))
    pairs = [(0, each.text, each.answer) for each in said]
    results = []
    answers = _answers(model, start, turns(tokenizer, TEXT_TURN, pairs))
    for each, (logits, targets) in zip(said, answers, strict=True):
        same = logits.argmax(-1) == targets
        is_call = each.answer.startswith(CALL_START)
        head = each.answer.split("(")[0] if is_call else ""
        function = len(tokenizer.encode(head, add_special_tokens=False).ids) if is_call else 1
        results.append([bool(same[:function].all()), bool(same.all())])
    return results


def _by_tool(said: list[Command], hits: list[list[bool]]) -> Figures:
    sums: defaultdict[str, list[list[bool]]] = defaultdict(list)
    for each, hit in zip(said, hits, strict=True):
        sums[each.tool or "nothing fits"].append(hit)
        sums["all"].append(hit)
    return {
        tool: {"function": round(f, 4), "answer": round(a, 4), "commands": len(rows)}
        for tool, rows in sums.items()
        for f, a in [np.mean(rows, axis=0).tolist()]
    }


def _answers(model: VisionLanguageModel, start: Tensor, asked: Turns) -> list[tuple[Tensor, Tensor]]:
    """Logits and tokens of each answer, in the order in which the turns were given."""
    hidden, targets, _ = read_answers(model, model.language.remember(start), start.shape[1], asked)
    lengths = (asked.targets >= 0).sum(1).tolist()
    parts = zip(model.logits(hidden).split(lengths), targets.split(lengths), strict=True)
    return [part for _, part in sorted(zip(asked.order, parts, strict=True), key=lambda pair: pair[0])]


def _calibration_error(sure: list[tuple[float, bool]], bins: int = 10) -> float:
    """Expected calibration error of P(Yes)."""
    p, y = np.array(sure).T
    bin_of = np.minimum((p * bins).astype(int), bins - 1)
    return sum(abs(p[bin_of == b].sum() - y[bin_of == b].sum()) for b in set(bin_of.tolist())) / len(p)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--scenes", type=int, default=500)
    parser.add_argument("--commands", type=int, default=40, help="commands of each tool")
    a = parser.parse_args()
    torch.set_num_threads(1)
    model, tokenizer = load_checkpoint(a.checkpoint), vocabulary.build()
    with torch.no_grad(), rounded(model, True):
        for name, figures in measure_questions(model, tokenizer, a.scenes).items():
            print(name, json.dumps(figures), flush=True)
        for name, figures in measure_commands(model, tokenizer, a.commands).items():
            print(name, json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
