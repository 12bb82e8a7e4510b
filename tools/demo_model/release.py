# SPDX-License-Identifier: Apache-2.0
"""Turn a training checkpoint into what ships: GGUF files, checksums and a model card with its measures.

    PYTHONPATH=tools python -m demo_model.release --checkpoint build/demo_model/checkpoint.pt

Refuses to write when llama.cpp does not compute what PyTorch does.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from demo_model import tokenizer as vocabulary
from demo_model.answer_trials import Figures, measure_commands
from demo_model.export import load_checkpoint, load_files, write_all
from demo_model.parity import SIZES, Parity, compare
from lfm_perception.backends.llama_vlm import LlamaVlm
from lfm_perception.demo import MODEL_DIR
from lfm_perception.errors import PerceptionError
from lfm_perception.evaluation.demo import TRIALS, TrialReport, evaluate_trial, run_trial
from lfm_perception.evaluation.demo_questions import KindReport, evaluate_questions, run_questions
from lfm_perception.provenance import sha256
from lfm_perception.settings import QuestionSettings, Settings

SHIPPED = ("Q4_0", "Q8_0", "mmproj")
LEAST_COSINE = 0.9999


@dataclass(frozen=True, slots=True)
class Measured:
    """One language model file: its agreement with PyTorch and its trials."""

    kind: str
    parity: list[Parity]
    trials: list[TrialReport]


def release(checkpoint: Path, target: Path, scenes: int) -> None:
    """Export, compare, measure, and write everything to `target`."""
    model = load_checkpoint(checkpoint)
    saved = torch.load(checkpoint, weights_only=False)
    with tempfile.TemporaryDirectory() as folder:
        files = write_all(model, Path(folder))
        tokenizer = vocabulary.build()
        measured = []
        for kind in ("f16", "Q8_0", "Q4_0"):
            parity = compare(model, tokenizer, files[kind], files["mmproj"])
            if kind == "f16" and min(p.cosine for p in parity) < LEAST_COSINE:
                raise PerceptionError(f"llama.cpp and PyTorch disagree: cosines {[p.cosine for p in parity]}")
            print(f"{kind}: logits cosine at least {min(p.cosine for p in parity):.6f}", flush=True)
            measured.append(Measured(kind, parity, measure(files[kind], files["mmproj"], scenes)))
        with torch.no_grad():
            shipped = load_files(model.shape, files["Q4_0"], files["mmproj"])
            commands = measure_commands(shipped, tokenizer, scenes // 5)
        with LlamaVlm(_settings(files["Q4_0"], files["mmproj"])) as vlm:
            questions = evaluate_questions(run_questions(vlm, QuestionSettings(), 3 * scenes))
        target.mkdir(parents=True, exist_ok=True)
        sizes = {kind: path.stat().st_size for kind, path in files.items()}
        sums = {kind: sha256(path) for kind, path in files.items()}
        for kind in SHIPPED:
            shutil.copyfile(files[kind], target / files[kind].name)
        (target / "SHA256SUMS").write_text("".join(f"{sums[kind]}  {files[kind].name}\n" for kind in SHIPPED))
        (target / "MODEL_CARD.md").write_text(
            card(saved, measured, {files[k].name: (sizes[k], sums[k]) for k in SHIPPED})
            + "".join(f"{line}\n" for line in _answers(questions, commands))
        )


def measure(text_model: Path, mmproj: Path, scenes: int) -> list[TrialReport]:
    """Every trial, `scenes` fresh scenes each, at the default settings."""
    reports = []
    with LlamaVlm(_settings(text_model, mmproj)) as vlm:
        for trial in TRIALS:
            reports.append(evaluate_trial(trial, list(run_trial(vlm, trial, scenes))))
            print(f"  {row(reports[-1])}", flush=True)
    return reports


def _settings(text_model: Path, mmproj: Path) -> Settings:
    return Settings().with_values({"model.path": str(text_model), "mmproj.path": str(mmproj)})


def row(report: TrialReport) -> str:
    """One line of the card's table."""
    usage = report.usage
    milliseconds = " / ".join(f"{1000 * s:.0f}" for s in (usage.encode_s, usage.prefill_s, usage.decode_s))
    if report.detection is None:
        return f"| {report.name} | {report.scenes} | | | | | {report.correct:.3f} | {milliseconds} |"
    d = report.detection
    return (
        f"| {report.name} | {report.scenes} | {d.at_50.f1:.3f} | {d.at_75.f1:.3f} | {d.mean_iou:.3f} "
        f"| {d.count_exact:.3f} | {report.correct:.3f} | {milliseconds} |"
    )


_CARD = """\
# The demo model

A vision-language model of the LFM2-VL architecture, small enough to ship, trained from nothing on the
package's own demo world. It knows that world and nothing else: it is for trying, testing and learning the
package, not for a robot. It answers both grounding dialects for any of its labels (person, box, cone,
forklift, pallet), gives `[]` for what is not there, captions the scene, answers typed questions about it, and
turns commands in words into calls of the node's tools.

Shape: `{shape}`

## Files

| file | bytes | SHA-256 |
|---|---|---|
{files}

Together {total:,} bytes. Apache-2.0, like the package.

## How it was made

{history}

## What it can do

Measured with llama.cpp at the package's default settings on fresh scenes that training never saw.
`right`: answers without any false box; for captions, those that are wholly true. Times in milliseconds:
encode / prefill / decode, medians on the machine above.
"""


_MADE = """\
`PYTHONPATH=tools python -m demo_model.train --out build/demo_model {options}` and then
`PYTHONPATH=tools python -m demo_model.release`, which writes this file; `make model` runs both.
{steps} steps in {minutes:.0f} minutes on {processes} CPU cores shared with other work ({versions}).
"""
_SECTION = re.compile(r"^## How it was made\n\n(.*?)\n+(?=## )", re.MULTILINE | re.DOTALL)


def history(saved: Mapping[str, Any]) -> str:
    """How the model came to be. One that went on from files is told after the making of those files."""
    run = saved["run"]
    libraries = ("torch", "numpy", "opencv-python-headless", "tokenizers", "gguf", "llama-cpp-python")
    machine = [platform.machine(), f"Python {platform.python_version()}"]
    names = ("steps", "seed", "scale", "lessons", "questions", "commands", "peak")
    begin = ["--from lfm_perception/demo/model"] if run["start"] else []
    made = _MADE.format(
        options=" ".join([f"--{'rate' if key == 'peak' else key} {run[key]}" for key in names] + begin),
        steps=saved["step"],
        minutes=saved["seconds"] / 60,
        processes=run["processes"],
        versions=", ".join(machine + [f"{name} {version(name)}" for name in libraries]),
    )
    if not run["start"]:
        return made.strip()
    before = _SECTION.search((Path(run["start"]) / "MODEL_CARD.md").read_text())
    if before is None:
        raise PerceptionError(f"{run['start']}/MODEL_CARD.md does not tell how its model was made")
    return f"{before[1]}\n\nThen, from the files that this had made:\n\n{made.strip()}"


def card(saved: Mapping[str, Any], measured: Sequence[Measured], files: Mapping[str, tuple[int, str]]) -> str:
    """The model card, Markdown."""
    prose = _CARD.format(
        shape=json.dumps(saved["shape"]),
        files="\n".join(f"| {name} | {size:,} | `{sha256}` |" for name, (size, sha256) in files.items()),
        total=sum(size for size, _ in files.values()),
        history=history(saved),
    )
    return prose + "".join(f"{line}\n" for line in _results(measured))


def _results(measured: Sequence[Measured]) -> Iterator[str]:
    """The measures of each file, Markdown line by line."""
    for part in measured:
        same = sum(p.same_top for p in part.parity)
        yield from ("", f"### {part.kind}", "")
        least = min(p.cosine for p in part.parity)
        yield f"Logits against PyTorch: cosine at least {least:.6f}, same choice in {same} of {len(SIZES)}."
        yield from ("", "| trial | scenes | F1 at 0.5 | F1 at 0.75 | mean IoU | count exact | right | ms |")
        yield "|---|---|---|---|---|---|---|---|"
        yield from map(row, part.trials)
        hard = next(r.detection for r in part.trials if r.name == "hard" and r.detection)
        yield from (
            "",
            "By class, hard scenes:",
            "",
            "| label | precision | recall | F1 |",
            "|---|---|---|---|",
        )
        for label, tally in hard.by_label.items():
            yield f"| {label} | {tally.precision:.3f} | {tally.recall:.3f} | {tally.f1:.3f} |"
        ranked = "not defined" if hard.auroc is None else f"{hard.auroc:.3f}"
        yield ""
        yield f"Score, hard scenes: expected calibration error {hard.calibration_error:.3f}, AUROC {ranked}."
        yield from ("", "| score | boxes | mean score | right |", "|---|---|---|---|")
        for b in hard.reliability:
            yield f"| {b.low:.1f} to {b.high:.1f} | {b.count} | {b.mean_confidence:.3f} | {b.precision:.3f} |"


def _answers(questions: Sequence[KindReport], commands: Figures) -> Iterator[str]:
    """The measures of questions and commands, Markdown line by line."""
    yield from ("", "### Questions, Q4_0", "", "Held-out wordings, from `lfm-perception eval questions`.", "")
    yield "| question | asked | right | within one | calibration error |"
    yield "|---|---|---|---|---|"
    for report in questions:
        measures = (report.correct, report.within_one, report.calibration_error)
        shown = ("" if measure is None else f"{measure:.3f}" for measure in measures)
        yield f"| {' | '.join((report.kind, str(report.questions), *shown))} |"
    yield from ("", "### Commands, Q4_0", "")
    yield "Held-out wordings, weights of the file in PyTorch (`demo_model.answer_trials`): right functions,"
    yield from (
        "and answers right in every token, where nothing holds names and numbers to those of the command.",
        "",
    )
    yield from ("| command | asked | function | answer |", "|---|---|---|---|")
    for tool, figures in commands.items():
        shown = (f"{figures[name]:.3f}" if name in figures else "" for name in ("function", "answer"))
        yield f"| {' | '.join((tool, str(figures['commands']), *shown))} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--target", type=Path, default=MODEL_DIR)
    parser.add_argument("--scenes", type=int, default=200, help="fresh scenes in each trial")
    arguments = parser.parse_args()
    release(arguments.checkpoint, arguments.target, arguments.scenes)


if __name__ == "__main__":
    main()
