# SPDX-License-Identifier: Apache-2.0
"""Turn a training checkpoint into what ships: GGUF files, checksums, measured results and their model card.

    PYTHONPATH=tools python -m demo_model.release --checkpoint build/demo_model/checkpoint.pt

A training that went on from files is averaged with them: weights between the two are better than both
(Wortsman et al., "Robust fine-tuning of zero-shot models", 2022).

Refuses to write when llama.cpp does not compute what PyTorch does.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from demo_model import card
from demo_model import tokenizer as vocabulary
from demo_model.export import load_checkpoint, load_files, shipped, write_all
from demo_model.network import VisionLanguageModel, grown
from demo_model.parity import SIZES, compare
from lfm_perception.backends.llama_vlm import LlamaVlm
from lfm_perception.demo import MODEL_DIR
from lfm_perception.errors import PerceptionError
from lfm_perception.evaluation.demo import TRIALS, as_json, evaluate_trial, run_trial
from lfm_perception.evaluation.demo_commands import evaluate_commands, run_commands
from lfm_perception.evaluation.demo_questions import evaluate_questions, run_questions
from lfm_perception.provenance import sha256
from lfm_perception.settings import QuestionSettings, Settings

SHIPPED = ("Q4_0", "mmproj")
LEAST_COSINE = 0.9999

ABILITIES = (
    "answers both grounding dialects for any of its labels (person, box, cone, forklift, pallet), gives `[]` "
    "for what is not there, captions the scene, answers typed questions about it, and turns commands in "
    "words into calls of the node's tools"
)


def release(checkpoint: Path, target: Path, scenes: int, share: float) -> None:
    """Export, compare, measure, and write everything to `target`, the results to benchmarks/results/."""
    model = load_checkpoint(checkpoint)
    saved = torch.load(checkpoint, weights_only=False, map_location="cpu")
    if saved["run"]["start"]:
        start = load_files(*shipped(Path(saved["run"]["start"])))
        average(model, grown(start, model.shape), share)
    with tempfile.TemporaryDirectory() as folder:
        files = write_all(model, Path(folder))
        tokenizer = vocabulary.build()
        quantizations = {}
        for kind in ("f16", "Q8_0", "Q4_0"):
            parity = compare(model, tokenizer, files[kind], files["mmproj"])
            if kind == "f16" and min(p.cosine for p in parity) < LEAST_COSINE:
                raise PerceptionError(f"llama.cpp and PyTorch disagree: cosines {[p.cosine for p in parity]}")
            print(f"{kind}: logits cosine at least {min(p.cosine for p in parity):.6f}", flush=True)
            quantizations[kind] = {
                "least_cosine": min(p.cosine for p in parity),
                "same_choice": sum(p.same_top for p in parity),
                "sizes": len(SIZES),
                "trials": measure(files[kind], files["mmproj"], scenes),
            }
        with LlamaVlm(_settings(files["Q4_0"], files["mmproj"])) as vlm:
            questions = evaluate_questions(
                run_questions(vlm, QuestionSettings(), 20 * scenes, most=5 * scenes // 2)
            )
            commands = evaluate_commands(run_commands(vlm, scenes // 4))
        target.mkdir(parents=True, exist_ok=True)
        sums = {kind: sha256(path) for kind, path in files.items()}
        results = {
            "abilities": ABILITIES,
            "shape": saved["shape"],
            "files": {
                files[kind].name: {"bytes": files[kind].stat().st_size, "sha256": sums[kind]}
                for kind in SHIPPED
            },
            "history": history(saved, share),
            "quantizations": quantizations,
            "questions": [asdict(report) for report in questions],
            "commands": [asdict(report) for report in commands],
        }
        for kind in SHIPPED:
            shutil.copyfile(files[kind], target / files[kind].name)
        (target / "SHA256SUMS").write_text("".join(f"{sums[kind]}  {files[kind].name}\n" for kind in SHIPPED))
        card.RESULTS.write_text(json.dumps(results, indent=2) + "\n")
        (target / card.CARD.name).write_text(card.text(results))


def average(model: VisionLanguageModel, start: VisionLanguageModel, share: float) -> None:
    """Make the weights of `model` this share of themselves, and for the rest those of `start`."""
    weights = start.state_dict()
    with torch.no_grad():
        for name, weight in model.state_dict().items():
            weight.lerp_(weights[name], 1.0 - share)


def measure(text_model: Path, mmproj: Path, scenes: int) -> dict[str, Any]:
    """Every trial, `scenes` fresh scenes each, at the default settings; the figures of each by its name."""
    figures = {}
    with LlamaVlm(_settings(text_model, mmproj)) as vlm:
        for trial in TRIALS:
            figures[trial.name] = as_json(evaluate_trial(trial, list(run_trial(vlm, trial, scenes))))
            print(f"  {' | '.join(card.row(trial.name, figures[trial.name]))}", flush=True)
    return figures


def _settings(text_model: Path, mmproj: Path) -> Settings:
    return Settings().with_values({"model.path": str(text_model), "mmproj.path": str(mmproj)})


_MADE = """\
`PYTHONPATH=tools python -m demo_model.train --out build/demo_model {options}` and then
`PYTHONPATH=tools python -m demo_model.release{averaged}`, which writes this file; `make model` runs both.
{steps} steps in {minutes:.0f} minutes on {processes} CPU cores shared with other work ({versions}).
"""


def history(saved: Mapping[str, Any], share: float) -> list[str]:
    """How the model came to be, a text for each training: one that went on from files follows theirs."""
    run = saved["run"]
    libraries = ("torch", "numpy", "opencv-python-headless", "tokenizers", "gguf", "llama-cpp-python")
    machine = [platform.machine(), f"Python {platform.python_version()}"]
    names = ("steps", "seed", "scale", "lessons", "questions", "commands", "peak")
    begin = ["--from lfm_perception/demo/model"] if run["start"] else []
    averaged = f" --share {share:g}" if run["start"] else ""
    made = _MADE.format(
        options=" ".join([f"--{'rate' if key == 'peak' else key} {run[key]}" for key in names] + begin),
        averaged=averaged,
        steps=saved["step"],
        minutes=saved["seconds"] / 60,
        processes=run["processes"],
        versions=", ".join(machine + [f"{name} {version(name)}" for name in libraries]),
    )
    return [*(card.read()["history"] if run["start"] else ()), made.strip()]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--target", type=Path, default=MODEL_DIR)
    parser.add_argument(
        "--share", type=float, default=0.65, help="share of the trained weights in the average with the start"
    )
    parser.add_argument("--scenes", type=int, default=200, help="fresh scenes in each trial")
    arguments = parser.parse_args()
    release(arguments.checkpoint, arguments.target, arguments.scenes, arguments.share)


if __name__ == "__main__":
    main()
