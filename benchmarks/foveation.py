# SPDX-License-Identifier: Apache-2.0
"""Foveated inference against whole frames, with a simulated detector and with the demo model.

    python benchmarks/foveation.py [--sequences 8] [--seconds 16] [--tokens 60 120 252]
                                   [--demo-sequences 2] [--demo-seconds 8] [--out benchmarks/results]

The simulated detector (`lfm_perception.evaluation.pixel_limited`) sees an object if it is large enough in
picture pixels, and models nothing else: 1280x720, half of the objects of 14 picture pixels are seen, 95% at
best, with noise on the sides, false boxes and wrong labels. The demo model sees frames of 1920x1080 of its
own world, drawn with small objects; it was trained on crops too, and judges by picture pixels.

An inference every 240 ms, answers 240 ms late, the real tracker and planner. The seeds of the sequences were
not used for tuning (`planning/fovea.py` was tuned on seeds 0 to 7). Milliseconds are printed, as the machine
was at the moment, and not kept. Writes foveation.json and foveation.svg; the figures of a detector that a run
leaves out (`--sequences 0`, `--demo-sequences 0`) stay.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import Progress

from lfm_perception.backends.llama_vlm import LlamaVlm
from lfm_perception.evaluation.foveation import SIZES, FoveaFigures, ImageSequence
from lfm_perception.evaluation.foveation_sequences import demo_image_sequence
from lfm_perception.evaluation.foveation_trials import LOOKS, TOKEN_AXIS, FoveaTrials, Results, panels, points
from lfm_perception.evaluation.object_size import BOUNDS
from lfm_perception.evaluation.pixel_limited import PixelLimitedVlm, walking_sequence
from lfm_perception.media.charts import STYLE
from lfm_perception.settings import Settings
from lfm_perception.vlm import Vlm

SIMULATED, DEMO = "limited by picture pixels, 1280x720", "demo model, 1920x1080"

FIRST_SEED = {SIMULATED: 300, DEMO: 100}
"""Seed of the first sequence of each detector."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sequences", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=16.0)
    parser.add_argument("--tokens", nargs="+", type=int, default=[60, 120, 252])
    parser.add_argument("--demo-sequences", type=int, default=2)
    parser.add_argument("--demo-seconds", type=float, default=8.0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()
    settings = Settings().with_values({"tracker.camera_motion_compensation": "off"})  # the camera stands
    count = {SIMULATED: arguments.sequences, DEMO: arguments.demo_sequences}
    seeds = {name: range(FIRST_SEED[name], FIRST_SEED[name] + sequences) for name, sequences in count.items()}
    trials = {}
    with Progress(console=Console(stderr=True)) as progress:

        def measure(
            name: str, sequences: Sequence[ImageSequence], vlm_of: Callable[[ImageSequence], Vlm]
        ) -> None:
            task = progress.add_task(name, total=2 * len(sequences) * len(arguments.tokens))
            advance = lambda: progress.advance(task)  # noqa: E731
            trials[name] = FoveaTrials.run(sequences, vlm_of, settings, arguments.tokens, advance)

        if arguments.sequences:
            sequences = [walking_sequence(seed, arguments.seconds) for seed in seeds[SIMULATED]]
            measure(
                SIMULATED, sequences, lambda sequence: PixelLimitedVlm(sequence.truth, seeds[SIMULATED].start)
            )
        if arguments.demo_sequences:
            shown = [demo_image_sequence(seed, arguments.demo_seconds, 1920, 1080) for seed in seeds[DEMO]]
            with LlamaVlm(settings) as vlm:
                measure(DEMO, shown, lambda _: vlm)
    for name, each in trials.items():
        print(name)
        Console(width=160).print(each.table())
        print(*each.remarks(), sep="\n")
    arguments.out.mkdir(parents=True, exist_ok=True)
    file = arguments.out / "foveation.json"
    report = json.loads(file.read_text()) if file.exists() else {}
    report |= {name: _as_json(each, seeds[name]) for name, each in trials.items()}
    report = {name: report[name] for name in (SIMULATED, DEMO) if name in report}
    file.write_text(json.dumps(report, indent=2) + "\n")
    draw_curves(arguments.out / "foveation.svg", {name: _figures(each) for name, each in report.items()})
    print(f"written to {arguments.out}/foveation.json and foveation.svg")


def draw_curves(file: Path, models: Mapping[str, Results]) -> None:
    """Writes HOTA, recall of small objects and precision over tokens per second as SVG, a row a detector."""
    with rc_context(STYLE):
        figure = Figure(figsize=(9.6, 2.9 * len(models)), layout="constrained")
        rows = figure.subplots(len(models), 3, squeeze=False)
        for row, (model, results) in zip(rows, models.items(), strict=True):
            for axes, (title, value) in zip(row, panels(results), strict=True):
                for plan, colour, marker, dashes in LOOKS:
                    axes.plot(
                        *points(results, plan, value),
                        color=colour, marker=marker, linestyle=dashes, label=plan, clip_on=False,
                    )  # fmt: skip
                axes.set(title=f"{title}, %", xlabel=TOKEN_AXIS, xlim=(0, None), ylim=(0, 100))
            row[0].set_ylabel(model)
            row[0].legend(loc="lower right")
        figure.savefig(file, metadata={"Date": None})


def _figures(record: dict[str, Any]) -> Results:
    """The figures in a report, by plan and limit of image tokens."""
    results = [dict(each) for each in record["results"]]
    return {
        (each.pop("plan"), each.pop("max_tokens")): FoveaFigures(**each, compute_ms=0.0) for each in results
    }


def _as_json(trials: FoveaTrials, seeds: range) -> dict[str, Any]:
    return {
        "seeds": [seeds.start, seeds.stop - 1],
        "sizes_px": SIZES,
        "picture_sizes_px": BOUNDS,
        "results": [
            {"plan": plan, "max_tokens": tokens}
            | {name: value for name, value in each.as_json().items() if name != "compute_ms"}
            for (plan, tokens), each in trials.results.items()
        ],
        "recall_by_picture_size": {"whole": trials.whole.recall(), "regions": trials.regions.recall()},
    }


if __name__ == "__main__":
    main()
