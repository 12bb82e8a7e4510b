"""How fast a model is on this machine: many looks at the demo world, and one page about them.

Everything is measured through `Perception`, as the node does it. The answers of a model that was not
trained on the demo world say little, but they take their time all the same.
"""

from __future__ import annotations

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
from lfm_perception.media.page import facts, grid, heading, model_note, words, write_page
from lfm_perception.perception import Perception
from lfm_perception.scene import Scene
from lfm_perception.settings import Settings
from lfm_perception.tracking import open_tracker

KIND = "bench"
PERCENTILES = (50, 90, 95, 99)
CAMERA_HZ = 30.0
CHART_WIDE, CHART_TALL = 1000, 180


@dataclass(frozen=True, slots=True)
class Look:
    """One look of the model: when it ended and how long it took in seconds, and how the board was then."""

    at_s: float
    took_s: float
    scene: Scene
    board: BoardState

    @property
    def celsius(self) -> float | None:
        """Of the hottest sensor; None where the board does not tell."""
        return self.board.hottest[1] if self.board.hottest else None

    @property
    def watts(self) -> float | None:
        """Of the whole board; None where it does not tell."""
        return self.board.total_w


@dataclass(frozen=True, slots=True)
class Run:
    """All looks but the first, which took `first_s` after the `start_s` in which the model was loaded.

    `memory`: most bytes resident at once, of this process and of the model's own if it has one.
    """

    start_s: float
    first_s: float
    looks: tuple[Look, ...]
    memory: Mapping[str, int]


def bench(
    settings: Settings, width: int, height: int, seconds: float, progress: Callable[[float], bool]
) -> Run:
    """Load the model and look at the demo world for so long, at whatever rate the model reaches.

    The world moves on by the time each look took, as for a camera. The first look, which also loads what is
    loaded late, is told apart; at least two others are counted. `progress` is told the share done and ends
    the run with False. Raises PerceptionError when the model cannot be used.
    """
    world = World(seed=0, width=width, height=height, fps=CAMERA_HZ)
    looks: list[Look] = []
    started = time.perf_counter()
    with closing(open_vlm(settings)) as vlm:
        perception = Perception(settings, vlm, open_tracker(settings.tracker))
        start_s = time.perf_counter() - started
        frame = world.snapshot(0).frame
        began = time.perf_counter()
        perception.infer(frame)
        first_s = time.perf_counter() - began
        with closing(BoardMonitor(settings.thermal, lambda step, sentence: None)) as board:
            began, now_s = time.perf_counter(), 0.0
            while (now_s < seconds or len(looks) < 2) and progress(min(1.0, now_s / seconds)):
                frame = world.snapshot(1 + round(now_s * CAMERA_HZ)).frame
                started = time.perf_counter()
                scene = perception.infer(frame)
                took_s = time.perf_counter() - started
                now_s = time.perf_counter() - began
                looks.append(Look(now_s, took_s, scene, board.state))
        processes = {"this process": os.getpid(), "the model's process": vlm.health().pid}
        most = {name: _most_memory(pid) for name, pid in processes.items() if pid is not None}
    memory = {name: found for name, found in most.items() if found is not None}
    return Run(start_s, first_s, tuple(looks), memory)


def measures(run: Run) -> dict[str, Any]:
    """The figures, ready for `json.dumps`; times are milliseconds."""
    looks = run.looks
    usages = [look.scene.usage for look in looks]
    captions = [look.scene.caption_usage for look in looks if look.scene.caption_usage]
    stages = {
        "look": [look.took_s for look in looks],
        "encode": [usage.encode_s for usage in usages],
        "prefill": [usage.prefill_s for usage in usages],
        "decode": [usage.decode_s for usage in usages],
        "caption": [usage.total_s for usage in captions],
    }
    halves = np.array_split([look.took_s for look in looks], 2)
    return {
        "start_ms": {"model": round(1e3 * run.start_s, 1), "first_look": round(1e3 * run.first_s, 1)},
        "memory_mb": {name: round(most / 1e6, 1) for name, most in run.memory.items()},
        "looks": len(looks),
        "seconds": round(looks[-1].at_s, 2),
        "looks_per_s": round(len(looks) / looks[-1].at_s, 3),
        "second_half_slower": round(float(np.median(halves[1]) / np.median(halves[0])) - 1.0, 3),
        "latency_ms": {
            stage: {f"p{p}": round(1e3 * float(np.percentile(times, p)), 2) for p in PERCENTILES}
            for stage, times in stages.items()
            if times
        },
        "image_tokens": _median([usage.image_tokens for usage in usages]),
        "answer_tokens": _median([usage.answer_tokens for usage in usages]),
        "decode_calls": _median([usage.decode_calls for usage in usages]),
        "celsius": _range([look.celsius for look in looks]),
        "watts": _range([look.watts for look in looks]),
        "throttled": round(float(np.mean([bool(look.board.throttled_by) for look in looks])), 3),
    }


def write_bench_page(path: Path, run: Run, found: Mapping[str, Any], lines: Mapping[str, str]) -> None:
    """Write the page to `path`; `found` are the `measures`, `lines` tell of the model and the machine."""
    write_page(
        path,
        "How fast the model is here",
        model_note(found),
        facts(_facts(found)),
        heading("Times of the stages, in milliseconds"),
        grid(
            ("", *(f"p{p}" for p in PERCENTILES)),
            [
                (stage, *(f"{value:.1f}" for value in times.values()))
                for stage, times in found["latency_ms"].items()
            ],
        ),
        heading("Every look, from the first to the last"),
        *_charts(run.looks),
        heading("What was measured"),
        facts(lines.items()),
    )


def _facts(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    slower, start = found["second_half_slower"], found["start_ms"]
    rows = [
        ("sustained", f"{found['looks_per_s']:.2f} looks per second over {found['seconds']:.0f} s"),
        ("second half", f"{abs(slower):.1%} {'slower' if slower > 0 else 'faster'} than the first"),
        ("start", f"{start['model'] / 1e3:.2f} s for the model, {start['first_look']:.0f} ms the first look"),
        (
            "tokens",
            f"{found['image_tokens']:.0f} image, {found['answer_tokens']:.0f} answer, in "
            f"{found['decode_calls']:.0f} runs (medians)",
        ),
    ]
    if found["memory_mb"]:
        parts = ", ".join(f"{most:.0f} MB {name}" for name, most in found["memory_mb"].items())
        rows.append(("memory", f"at most {parts}"))
    for name, unit in (("celsius", "°C"), ("watts", "W")):
        if found[name]:
            rows.append((name, f"{found[name]['least']:.1f} to {found[name]['most']:.1f} {unit}"))
    if found["throttled"]:
        rows.append(("throttled", f"clocks were held back in {found['throttled']:.0%} of the looks"))
    return rows


def _charts(looks: Sequence[Look]) -> list[str]:
    """Time, temperature and power over the run, as far as they are known."""
    courses = (
        ("time of each look", "ms", [1e3 * look.took_s for look in looks]),
        ("temperature", "°C", [look.celsius for look in looks]),
        ("power", "W", [look.watts for look in looks]),
    )
    charts = []
    for name, unit, values in courses:
        points = [(look.at_s, value) for look, value in zip(looks, values, strict=True) if value is not None]
        if points:
            charts += [words(name, "quiet"), _chart(points, looks[-1].at_s, name, unit)]
    return charts


def _chart(points: Sequence[tuple[float, float]], seconds: float, name: str, unit: str) -> str:
    most = max(max(value for _, value in points), 1e-9)
    placed = " ".join(
        f"{at_s / seconds * CHART_WIDE:.1f},{CHART_TALL * (1.0 - 0.85 * value / most):.1f}"
        for at_s, value in points
    )
    return (
        f'<svg viewBox="0 0 {CHART_WIDE} {CHART_TALL}" role="img" aria-label="{name}">'
        f'<polyline fill="none" stroke="#3b6ea5" stroke-width="1.5" points="{placed}"/>'
        f'<text x="6" y="16">{most:.4g} {unit}</text>'
        f'<text x="{CHART_WIDE - 60}" y="{CHART_TALL - 8}">{seconds:.0f} s</text></svg>'
    )


def _median(values: Sequence[float]) -> float:
    return float(np.median(values))


def _range(values: Sequence[float | None]) -> dict[str, float] | None:
    told = [value for value in values if value is not None]
    return {"least": round(min(told), 2), "most": round(max(told), 2)} if told else None


def _most_memory(pid: int) -> int | None:
    """Bytes of the process that were resident at most; None where the system does not tell."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return None
    found = re.search(r"^VmHWM:\s*(\d+) kB", status, re.MULTILINE)
    return int(found[1]) * 1024 if found else None
