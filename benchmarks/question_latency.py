# SPDX-License-Identifier: Apache-2.0
"""How long a question waits for its answer while the model infers one frame after the other.

    python benchmarks/question_latency.py [--questions 60] [--out benchmarks/results]

Live perception runs with the demo model on the demo world at 30 Hz. Yes/no questions come at random times,
most of them during an inference. `waited_s`: from the question to its answer, less the seconds that the
answer itself took. A question waits for no more than the rest of the inference in progress, or, between two
of them, for the next frame and its inference. `camera_s`: intervals in which the camera got its tracks.

Writes question_latency.json.
"""

from __future__ import annotations

import argparse
import json
import random
import threading
import time
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track

from lfm_perception.backends.llama_vlm import LlamaVlm
from lfm_perception.decisions import Decision
from lfm_perception.demo.world import World
from lfm_perception.live import LiveCallbacks, LivePerception
from lfm_perception.provenance import machine
from lfm_perception.scene import Frame, Scene
from lfm_perception.settings import Settings
from lfm_perception.stamps import from_seconds

FPS = 30.0
QUESTION = '{"question": "Is there a person?", "type": "yes_no"}'
MOST_PAUSE_S = 1.0
"""Longest random time before a question, beside half a second in which no answer is due."""


class Watch(LiveCallbacks):
    """Notes when scenes and answers come, and how long the model took for them."""

    def __init__(self) -> None:
        self.inferences_s: list[float] = []
        self.answers: list[tuple[float, float]] = []
        self.answered = threading.Event()

    def on_scene(self, scene: Scene, frame: Frame) -> None:
        self.inferences_s.append(scene.usage.total_s)

    def on_answer(self, decision: Decision) -> None:
        self.answers.append((time.monotonic(), decision.usage.total_s))
        self.answered.set()

    def on_error(self, kind: str, message: str) -> None:
        raise AssertionError(f"{kind}: {message}")


def camera(live: LivePerception[Frame], ended: threading.Event, intervals_s: list[float]) -> None:
    """Submits the frames of the demo world at their rate until the event is set."""
    frames = [World(seed=3).snapshot(index).frame.image for index in range(60)]
    first_s = last_s = time.monotonic()
    for number in count():
        if ended.wait(max(0.0, first_s + number / FPS - time.monotonic())):
            return
        stamp_ns = from_seconds(1.0 + number / FPS)
        live.submit(Frame(frames[number % len(frames)], stamp_ns), stamp_ns)
        now_s = time.monotonic()
        intervals_s.append(now_s - last_s)
        last_s = now_s


def measure(questions: int, seed: int) -> dict[str, Any]:
    """Percentiles of waits, inferences and camera intervals, in seconds."""
    settings = Settings().with_values({"caption.enabled": False})
    watch, ended, intervals_s, waits_s = Watch(), threading.Event(), list[float](), list[float]()
    rng = random.Random(seed)
    with LlamaVlm(settings) as vlm:
        live = LivePerception[Frame](settings, vlm, lambda frame, width: frame, watch)
        live.start()
        source = threading.Thread(target=camera, args=(live, ended, intervals_s))
        source.start()
        try:
            for _ in track(range(questions), "asking"):
                time.sleep(rng.uniform(0.5, 0.5 + MOST_PAUSE_S))
                watch.answered.clear()
                asked_s = time.monotonic()
                live.ask(QUESTION)
                assert watch.answered.wait(30.0), "a question was not answered in 30 s"
                answered_s, took_s = watch.answers[-1]
                waits_s.append(answered_s - asked_s - took_s)
        finally:
            ended.set()
            source.join()
            live.stop()
    own_s = [took_s for _, took_s in watch.answers]
    named = {
        "waited_s": waits_s, "own_s": own_s, "inference_s": watch.inferences_s, "camera_s": intervals_s[30:]
    }  # fmt: skip
    return {name: {"p50": _percentile(of, 50), "p95": _percentile(of, 95)} for name, of in named.items()}


def _percentile(values: list[float], percent: float) -> float:
    return round(float(np.percentile(values, percent)), 4)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--questions", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()
    figures = measure(arguments.questions, arguments.seed)
    for name, percentiles in figures.items():
        print(f"{name:12} p50 {percentiles['p50']:.3f}  p95 {percentiles['p95']:.3f}")
    report = {"machine": machine(), "questions": arguments.questions, "seed": arguments.seed, **figures}
    (arguments.out / "question_latency.json").write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
