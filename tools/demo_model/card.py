# SPDX-License-Identifier: Apache-2.0
"""The model card of the demo model, from its measured results: `benchmarks/results/demo_model.json`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from textwrap import fill
from typing import Any

from documentation.marks import table

ROOT = Path(__file__).parents[2]
CARD = ROOT / "lfm_perception" / "demo" / "model" / "MODEL_CARD.md"
RESULTS = ROOT / "benchmarks" / "results" / "demo_model.json"
NEXT_RUN = "\n\nThen, from the files that this had made:\n\n"

_ABOUT = """\
A vision-language model of the LFM2-VL architecture, small enough to ship, trained from nothing on the
package's own demo world. It knows that world and nothing else: it is for trying, testing and learning the
package, not for a robot. It {abilities}."""

_CARD = """\
# The demo model

{about}

Shape: `{shape}`

## Files

{files}

Together {total:,} bytes. Apache-2.0, like the package.

## How it was made

{history}

## What it can do

Measured with llama.cpp at the package's default settings on fresh scenes that training never saw.
`right`: answers without any false box; for captions, those that are wholly true. Times in milliseconds:
encode / prefill / decode, medians on the machine above. Raw scores are the model's own; the package
publishes them calibrated by Platt scaling (`detect.score_gain`, `detect.score_bias`).
{results}
"""


def read() -> Any:
    return json.loads(RESULTS.read_text(encoding="utf-8"))


def text(results: Mapping[str, Any]) -> str:
    """The card, Markdown."""
    files = results["files"]
    return _CARD.format(
        about=fill(_ABOUT.format(abilities=results["abilities"]), 110),
        shape=json.dumps(results["shape"]),
        files=table(
            ("file", "bytes", "SHA-256"),
            [(name, f"{about['bytes']:,}", f"`{about['sha256']}`") for name, about in files.items()],
        ),
        total=sum(about["bytes"] for about in files.values()),
        history=NEXT_RUN.join(results["history"]),
        results="\n".join([*_quantizations(results), *_answers(results)]),
    )


def row(name: str, trial: Mapping[str, Any]) -> tuple[str, ...]:
    """The cells of a trial; `trial` is that of `lfm_perception.evaluation.demo.as_json`."""
    shares = ("f1", "f1_at_75", "mean_iou", "count_exact", "correct")
    usage = " / ".join(
        f"{1000 * trial['usage'][f'{stage}_s']:.0f}" for stage in ("encode", "prefill", "decode")
    )
    return (
        *(name, str(trial["scenes"])),
        *(f"{trial[share]:.3f}" if share in trial else "" for share in shares),
        usage,
    )


def _quantizations(results: Mapping[str, Any]) -> Iterator[str]:
    """The measures of each file, Markdown line by line."""
    head = ("trial", "scenes", "F1 at 0.5", "F1 at 0.75", "mean IoU", "count exact", "right", "ms")
    for kind, part in results["quantizations"].items():
        yield f"\n### {kind}\n"
        yield (
            f"Logits against PyTorch: cosine at least {part['least_cosine']:.6f}, "
            f"same choice in {part['same_choice']} of {part['sizes']}.\n"
        )
        yield table(head, [row(name, trial) for name, trial in part["trials"].items()])
        yield from _hard(part["trials"]["hard"])


def _answers(results: Mapping[str, Any]) -> Iterator[str]:
    """The measures of questions and commands; the results of an older model have none."""
    if questions := results.get("questions"):
        yield "\n### Questions, Q4_0\n"
        yield "Held-out wordings, from `lfm-perception eval questions --scenes 4000 --most 500`.\n"
        shares = ("correct", "within_one", "calibration_error")
        yield table(
            ("question", "asked", "right", "within one", "calibration error"),
            [
                (each["kind"], str(each["questions"]), *(_share(each[name]) for name in shares))
                for each in questions
            ],
        )
    if commands := results.get("commands"):
        yield "\n### Commands, Q4_0\n\nHeld-out wordings, from `lfm-perception eval commands --count 50`.\n"
        yield table(
            ("command for", "given", "right tool", "right call"),
            [
                (each["kind"], str(each["commands"]), _share(each["right_tool"]), _share(each["correct"]))
                for each in commands
            ],
        )


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _hard(trial: Mapping[str, Any]) -> Iterator[str]:
    """Labels and confidence of the hard scenes."""
    yield "\nBy class, hard scenes:\n"
    shares = ("precision", "recall", "f1")
    yield table(
        ("label", "precision", "recall", "F1"),
        [(label, *(f"{each[share]:.3f}" for share in shares)) for label, each in trial["by_label"].items()],
    )
    auroc, held_out = trial["auroc"], trial["held_out_calibration_error"]
    yield (
        f"\nRaw score, hard scenes: expected calibration error {trial['calibration_error']:.3f}"
        + ("" if held_out is None else f" ({held_out:.3f} after Platt scaling, of held-out boxes)")
        + f", AUROC {'not defined' if auroc is None else f'{auroc:.3f}'}.\n"
    )
    yield table(
        ("raw score", "boxes", "mean score", "right"),
        [
            (
                *(f"{each['low']:.1f} to {each['high']:.1f}", str(each["count"])),
                *(f"{each['mean_confidence']:.3f}", f"{each['precision']:.3f}"),
            )
            for each in trial["reliability"]
        ],
    )
