# SPDX-License-Identifier: Apache-2.0
"""Inference speed of a model on this machine: inferences on the demo world, and one page about them.

Everything is measured through `Perception`, as in the node. The answers of a model that was not trained on
the demo world mean little, but their times do.
"""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lfm_perception.backends import open_vlm
from lfm_perception.board import BoardMonitor, BoardState
from lfm_perception.demo.world import World
from lfm_perception.media.charts import Line, lines
from lfm_perception.media.latency import STAGES, STANDARD_ERROR, distribution, latency_section
from lfm_perception.media.page import Chart, Section, write_report
from lfm_perception.perception import Perception
from lfm_perception.scene import Scene
from lfm_perception.settings import Settings
from lfm_perception.tracking import open_tracker

KIND = "bench"
CAMERA_HZ = 30.0


@dataclass(frozen=True, slots=True)
class Sample:
    """One inference: its end (seconds since the start), its duration, its result, and the board's state."""

    at_s: float
    inference_s: float
    scene: Scene
    board: BoardState

    @property
    def celsius(self) -> float | None:
        """Temperature of the hottest sensor; None without sensors."""
        return self.board.hottest[1] if self.board.hottest else None

    @property
    def watts(self) -> float | None:
        """Power of the whole board; None without a sensor."""
        return self.board.total_w


@dataclass(frozen=True, slots=True)
class BenchRun:
    """All inferences but the first, which took `first_s` after the model was loaded in `start_s`.

    `memory`: peak resident bytes by process: this one, and the model's own if there is one.
    """

    start_s: float
    first_s: float
    samples: tuple[Sample, ...]
    memory: Mapping[str, int]


def bench(
    settings: Settings, width: int, height: int, seconds: float, on_progress: Callable[[float], bool]
) -> BenchRun:
    """Load the model and infer frames of the demo world for so long, at the rate that the model reaches.

    The world moves on by the time of each inference, as in front of a camera. The first inference, which also
    loads what is loaded lazily, is reported apart; at least two others are counted.

    Args:
        settings: the model and its budgets.
        width: camera resolution, pixels.
        height: camera resolution, pixels.
        seconds: duration of the measurement.
        on_progress: takes the completed share, and ends the run by returning False.

    Raises:
        PerceptionError: the model cannot be used.
    """
    world = World(seed=0, width=width, height=height, fps=CAMERA_HZ)
    samples: list[Sample] = []
    started = time.perf_counter()
    with closing(open_vlm(settings)) as vlm:
        perception = Perception(settings, vlm, open_tracker(settings.tracker))
        start_s = time.perf_counter() - started
        frame = world.snapshot(0).frame
        began = time.perf_counter()
        perception.infer(frame)
        first_s = time.perf_counter() - began
        with closing(BoardMonitor(settings.thermal, lambda level, sentence: None)) as board:
            began, now_s = time.perf_counter(), 0.0
            while (now_s < seconds or len(samples) < 2) and on_progress(min(1.0, now_s / seconds)):
                frame = world.snapshot(1 + round(now_s * CAMERA_HZ)).frame
                started = time.perf_counter()
                scene = perception.infer(frame)
                inference_s = time.perf_counter() - started
                now_s = time.perf_counter() - began
                samples.append(Sample(now_s, inference_s, scene, board.state))
        processes = {"this process": os.getpid(), "the worker process": vlm.health().pid}
        peaks = {name: _peak_memory(pid) for name, pid in processes.items() if pid is not None}
    memory = {name: peak for name, peak in peaks.items() if peak is not None}
    return BenchRun(start_s, first_s, tuple(samples), memory)


def measures(run: BenchRun) -> dict[str, Any]:
    """The figures, ready for `json.dumps`; times are seconds."""
    samples = run.samples
    usages = [sample.scene.usage for sample in samples]
    captions = [sample.scene.caption_usage for sample in samples if sample.scene.caption_usage]
    stages = {
        "inference": [sample.inference_s for sample in samples],
        **{stage: [getattr(usage, f"{stage}_s") for usage in usages] for stage in STAGES},
        "caption": [usage.total_s for usage in captions],
    }
    halves = np.array_split(stages["inference"], 2)
    medians = {
        name: float(np.median([getattr(usage, name) for usage in usages]))
        for name in ("image_tokens", "answer_tokens", "decode_calls")
    }
    latency = {stage: distribution(times) for stage, times in stages.items() if times}
    rate = len(samples) / samples[-1].at_s
    of_mean = (
        latency["inference"].get(STANDARD_ERROR, {}).get("mean", math.nan) / latency["inference"]["mean"]
    )
    return {
        "start_s": {"model": round(run.start_s, 4), "first_inference": round(run.first_s, 4)},
        "memory_mb": {name: round(peak / 1e6, 1) for name, peak in run.memory.items()},
        "inferences": len(samples),
        "seconds": round(samples[-1].at_s, 2),
        "inferences_hz": round(rate, 3),
        # a rate is as uncertain as the mean time of an inference
        **({STANDARD_ERROR: {"inferences_hz": round(rate * of_mean, 4)}} if of_mean == of_mean else {}),
        "second_half_slower": round(float(np.median(halves[1]) / np.median(halves[0])) - 1.0, 3),
        "latency_s": latency,
        **medians,
        "celsius": _range([sample.celsius for sample in samples]),
        "watts": _range([sample.watts for sample in samples]),
        "throttled": round(float(np.mean([bool(sample.board.throttled_by) for sample in samples])), 3),
    }


def write_bench_page(path: Path, run: BenchRun, found: Mapping[str, Any]) -> None:
    """Write the page to `path`; `found` are the `measures` with provenance."""
    usages = {
        "detect": [sample.scene.usage for sample in run.samples],
        "caption": [each for sample in run.samples if (each := sample.scene.caption_usage)],
    }
    latency = latency_section([sample.inference_s for sample in run.samples], usages)
    sections = [
        Section("", facts=_figures(found)),
        latency,
        Section("Every inference, from the first to the last", charts=_charts(run.samples)),
    ]
    write_report(path, "Inference speed on this machine", sections, found)


def _figures(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    slower, start = found["second_half_slower"], found["start_s"]
    rows = [
        ("inference rate", f"{found['inferences_hz']:.2f} Hz over {found['seconds']:.0f} s"),
        ("second half", f"{abs(slower):.1%} {'slower' if slower > 0 else 'faster'} than the first"),
        (
            "start",
            f"{1e3 * start['model']:.0f} ms for the model, "
            f"{1e3 * start['first_inference']:.0f} ms for the first inference",
        ),
        (
            "tokens",
            f"{found['image_tokens']:.0f} image, {found['answer_tokens']:.0f} answer, in "
            f"{found['decode_calls']:.0f} decode calls (p50)",
        ),
    ]
    if found["memory_mb"]:
        parts = ", ".join(f"{peak:.0f} MB {name}" for name, peak in found["memory_mb"].items())
        rows.append(("peak memory", parts))
    for name, unit in (("celsius", "°C"), ("watts", "W")):
        if found[name]:
            rows.append(
                (
                    {"celsius": "temperature", "watts": "power"}[name],
                    f"{found[name]['min']:.1f} to {found[name]['max']:.1f} {unit}",
                )
            )
    if found["throttled"]:
        rows.append(("throttled", f"clocks were throttled in {found['throttled']:.0%} of the inferences"))
    return rows


def _charts(samples: Sequence[Sample]) -> list[Chart]:
    """Latency, temperature and power over the run, as far as they were measured."""
    courses = (
        ("Latency", "latency (ms)", [1e3 * sample.inference_s for sample in samples]),
        ("Temperature of the hottest sensor", "temperature (°C)", [sample.celsius for sample in samples]),
        ("Power of the board", "power (W)", [sample.watts for sample in samples]),
    )
    at_s = [sample.at_s for sample in samples]
    return [
        lines(
            title, [Line(at_s, [np.nan if v is None else v for v in values], marker=".")], ("time (s)", axis)
        )
        for title, axis, values in courses
        if any(value is not None for value in values)
    ]


def _range(values: Sequence[float | None]) -> dict[str, float] | None:
    measured = [value for value in values if value is not None]
    return {"min": round(min(measured), 2), "max": round(max(measured), 2)} if measured else None


def _peak_memory(pid: int) -> int | None:
    """Peak resident bytes of the process; None where /proc does not have them."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return None
    found = re.search(r"^VmHWM:\s*(\d+) kB", status, re.MULTILINE)
    return int(found[1]) * 1024 if found else None
