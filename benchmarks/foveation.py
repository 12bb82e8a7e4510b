# SPDX-License-Identifier: Apache-2.0
"""Foveated inference against whole frames, with a simulated detector and with the demo model.

    python benchmarks/foveation.py [--films 12] [--seconds 16] [--tokens 60 120 180 252]
                                   [--demo-films 3] [--demo-seconds 12] [--out benchmarks/results]

The simulated detector (`lfm_perception.evaluation.pixel_limited`) sees an object if it is large enough in
picture pixels, and models nothing else: 1280x720, half of the objects of 14 picture pixels are seen, 95% at
best, with noise on the sides, false boxes and wrong labels. The demo model sees frames of 1920x1080 of its
own world, drawn with small objects; it judges partly by size relative to the picture, so that its gains are
larger and less believable.

An inference every 240 ms, answers 240 ms late, the real tracker and planner. The seeds of the films were
not used for tuning (`planning/fovea.py` was tuned on seeds 0 to 7). Milliseconds are those of the machine
as it was, and comparable within one run only. Writes foveation.json and foveation.svg.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from lfm_perception.backends.llama_vlm import LlamaVlm
from lfm_perception.evaluation.foveation import SIZES, Film
from lfm_perception.evaluation.foveation_films import demo_film
from lfm_perception.evaluation.foveation_trials import FoveaTrials, draw_curves
from lfm_perception.evaluation.object_size import BOUNDS
from lfm_perception.evaluation.pixel_limited import PixelLimitedVlm, walking_film
from lfm_perception.settings import Settings
from lfm_perception.vlm import Vlm

FIRST_SEED = 100
"""Seed of the first film; those below 100 are for tuning."""

SIMULATED, DEMO = "limited by picture pixels, 1280x720", "demo model, 1920x1080"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--films", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=16.0)
    parser.add_argument("--tokens", nargs="+", type=int, default=[60, 120, 180, 252])
    parser.add_argument("--demo-films", type=int, default=3)
    parser.add_argument("--demo-seconds", type=float, default=12.0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()
    settings = Settings().with_values({"tracker.camera_motion_compensation": "off"})  # the camera stands
    seeds = range(FIRST_SEED, FIRST_SEED + max(arguments.films, arguments.demo_films))
    trials = {}
    with Progress(console=Console(stderr=True)) as progress:

        def measure(name: str, films: Sequence[Film], vlm_of: Callable[[Film], Vlm]) -> None:
            task = progress.add_task(name, total=2 * len(films) * len(arguments.tokens))
            advance = lambda: progress.advance(task)  # noqa: E731
            trials[name] = FoveaTrials.run(films, vlm_of, settings, arguments.tokens, advance)

        if arguments.films:
            films = [walking_film(seed, arguments.seconds) for seed in seeds[: arguments.films]]
            measure(SIMULATED, films, lambda film: PixelLimitedVlm(film.sequence, FIRST_SEED))
        if arguments.demo_films:
            shown = [
                demo_film(seed, arguments.demo_seconds, 1920, 1080) for seed in seeds[: arguments.demo_films]
            ]
            with LlamaVlm(settings) as vlm:
                measure(DEMO, shown, lambda film: vlm)
    for name, each in trials.items():
        print(name)
        Console(width=160).print(each.table())
        print(*each.remarks(), sep="\n")
    report = {"seeds": [seeds.start, seeds.stop - 1], "sizes_px": SIZES, "picture_sizes_px": BOUNDS}
    report |= {name: _as_json(each) for name, each in trials.items()}
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "foveation.json").write_text(json.dumps(report, indent=2) + "\n")
    draw_curves(arguments.out / "foveation.svg", {name: each.results for name, each in trials.items()})
    print(f"written to {arguments.out}/foveation.json and foveation.svg")


def _as_json(trials: FoveaTrials) -> dict[str, Any]:
    return {
        "results": [
            {"plan": plan, "max_tokens": tokens, **each.as_json()}
            for (plan, tokens), each in trials.results.items()
        ],
        "recall_by_picture_size": {"whole": trials.whole.recall(), "regions": trials.regions.recall()},
    }


if __name__ == "__main__":
    main()
