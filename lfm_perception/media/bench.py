"""How fast a model is on this machine: many looks at the demo world, and one page about them.

Everything is measured through `Perception`, as the node does it. The answers of a model that was not
trained on the demo world say little, but they take their time all the same.
"""

from __future__ import annotations

import html
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lfm_perception.demo.world import World
from lfm_perception.media.page import STYLE
from lfm_perception.perception import Perception
from lfm_perception.scene import Scene

PERCENTILES = (50, 90, 95, 99)
CAMERA_HZ = 30.0
CHART_WIDE, CHART_TALL = 1000, 220


@dataclass(frozen=True, slots=True)
class Look:
    """One look of the model: when it ended and how long it took in seconds, and what the board told then.

    `celsius` is the hottest sensor's; `watts` the sum of the board's rails; None where it does not tell.
    """

    at_s: float
    took_s: float
    scene: Scene
    celsius: float | None
    watts: float | None


def bench(
    perception: Perception, width: int, height: int, seconds: float, progress: Callable[[float], bool]
) -> list[Look]:
    """Look at the demo world for so long, at whatever rate the model reaches.

    The world moves on by the time each look took, as for a camera. The first look, which also loads what is
    loaded late, is not counted; at least two others are. `progress` is told the share done and ends the run
    with False.
    """
    world = World(seed=0, width=width, height=height, fps=CAMERA_HZ)
    looks: list[Look] = []
    perception.look(world.snapshot(0).frame)
    began = time.perf_counter()
    now_s = 0.0
    while (now_s < seconds or len(looks) < 2) and progress(min(1.0, now_s / seconds)):
        frame = world.snapshot(1 + round(now_s * CAMERA_HZ)).frame
        started = time.perf_counter()
        scene = perception.look(frame)
        took_s = time.perf_counter() - started
        now_s = time.perf_counter() - began
        looks.append(Look(now_s, took_s, scene, _celsius(), _watts()))
    return looks


def measures(looks: Sequence[Look]) -> dict[str, Any]:
    """The figures, ready for `json.dumps`; times are milliseconds."""
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
    }


def write_page(path: Path, looks: Sequence[Look], about: dict[str, str]) -> None:
    """One self-contained HTML file; `about` are lines on the model and the machine."""
    found = measures(looks)
    heads = "".join(f"<th>p{p}</th>" for p in PERCENTILES)
    stages = "".join(
        f"<tr><td>{stage}</td>" + "".join(f"<td>{value:.1f}</td>" for value in times.values()) + "</tr>"
        for stage, times in found["latency_ms"].items()
    )
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{html.escape(value)}</td></tr>"
        for name, value in {**_figures(found), **about}.items()
    )
    path.write_text(
        f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>lfm_perception: how fast the model is here</title><style>{STYLE} th {{ text-align: left }}</style>
</head><body>
<h1>How fast the model is here</h1>
<table>{rows}</table>
<h2>Times of the stages, in milliseconds</h2>
<table><tr><th></th>{heads}</tr>{stages}</table>
<h2>Every look, from the first to the last</h2>
{_chart(looks)}
</body></html>
""",
        encoding="utf-8",
    )


def _figures(found: dict[str, Any]) -> dict[str, str]:
    slower = found["second_half_slower"]
    figures = {
        "sustained": f"{found['looks_per_s']:.2f} looks per second over {found['seconds']:.0f} s",
        "second half": f"{abs(slower):.1%} {'slower' if slower > 0 else 'faster'} than the first",
        "tokens": f"{found['image_tokens']:.0f} image, {found['answer_tokens']:.0f} answer, in "
        f"{found['decode_calls']:.0f} runs (medians)",
    }
    for name, unit in (("celsius", "°C"), ("watts", "W")):
        if found[name]:
            figures[name] = f"{found[name]['least']:.1f} to {found[name]['most']:.1f} {unit}"
    return figures


def _chart(looks: Sequence[Look]) -> str:
    most = max(look.took_s for look in looks)
    points = " ".join(
        f"{look.at_s / looks[-1].at_s * CHART_WIDE:.1f},{CHART_TALL * (1.0 - 0.9 * look.took_s / most):.1f}"
        for look in looks
    )
    return (
        f'<svg viewBox="0 0 {CHART_WIDE} {CHART_TALL}" role="img" aria-label="time of each look">'
        f'<polyline fill="none" stroke="#3b6ea5" stroke-width="1.5" points="{points}"/>'
        f'<text x="6" y="16">{1e3 * most:.0f} ms</text>'
        f'<text x="{CHART_WIDE - 60}" y="{CHART_TALL - 8}">{looks[-1].at_s:.0f} s</text></svg>'
    )


def _median(values: Sequence[float]) -> float:
    return float(np.median(values))


def _range(values: Sequence[float | None]) -> dict[str, float] | None:
    told = [value for value in values if value is not None]
    return {"least": round(min(told), 2), "most": round(max(told), 2)} if told else None


def _celsius() -> float | None:
    zones = Path("/sys/class/thermal").glob("thermal_zone*/temp")
    return max((value / 1e3 for zone in zones if (value := _number(zone))), default=None)


def _watts() -> float | None:
    """The sum of all rails: power in microwatts, or millivolts and milliamperes as on Jetson boards."""
    watts = [value / 1e6 for file in _hwmon("power*_input") if (value := _number(file))]
    for volts in _hwmon("in*_input"):
        amperes = volts.with_name(volts.name.replace("in", "curr", 1))
        if (millivolts := _number(volts)) and (milliamperes := _number(amperes)):
            watts.append(millivolts * milliamperes / 1e6)
    return sum(watts) if watts else None


def _hwmon(pattern: str) -> Sequence[Path]:
    return sorted(Path("/sys/class/hwmon").glob(f"hwmon*/{pattern}"))


def _number(file: Path) -> float | None:
    try:
        return float(file.read_text())
    except (OSError, ValueError):  # a sensor that is asleep
        return None
