# SPDX-License-Identifier: Apache-2.0
"""The charts of the results, drawn from their JSON: engine.svg, quality_speed.svg and tracking.svg.

    python benchmarks/charts.py [--results benchmarks/results] [--page out/benchmarks.html]

`--page` also writes all of them as one page.
"""

from __future__ import annotations

import argparse
import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lfm_perception.media.charts import COLOURS, DASHES, Line, bar_panels, lines
from lfm_perception.media.page import Chart, Section, write_report

RESULTS = Path(__file__).parent / "results"

ENGINE_ROWS = {
    "naive": "naive",
    "prefix cached": "prefix cache",
    "forced tokens": "forced tokens",
    "all, right draft": "speculative, right draft",
    "all, no draft": "speculative, no draft",
    "all, wrong draft": "speculative, wrong draft",
}
"""Variants of the engine that are drawn, and their names."""

QUALITY = {"f1": "F1 at IoU 0.5", "mean_iou": "mean IoU", "f1_at_75": "F1 at IoU 0.75"}

PEERS = ("lfm_perception", "SORT", "trackers SORT", "trackers ByteTrack", "trackers OC-SORT", "norfair")
"""The tracker of this package and its peers; of each, the best of its settings is drawn."""


def engine(results: Mapping[str, Any]) -> Chart:
    """Time per frame of each variant, as a share of that of naive llama.cpp."""
    panels = {
        f"{case['size']}, objects: {case['objects']}, threads: {case['threads']}": {
            name: case["rows"][row]["of_naive"] for row, name in ENGINE_ROWS.items()
        }
        for case in results["results"]
    }
    return bar_panels(
        "Time per frame, image to answer",
        panels,
        "time per frame (naive = 1)",
        emphasis="speculative, right draft",
    )


def quality_speed(results: Mapping[str, Any]) -> Chart:
    """Quality over latency, by the limit on image tokens, which stands below the points."""
    points = results["points"]
    x = [point["frame_ms"] for point in points]
    drawn = [
        Line(x, [point[key] for point in points], colour, name, 2.0, "o", dashes)
        for (key, name), colour, dashes in zip(QUALITY.items(), COLOURS, DASHES, strict=False)
    ]
    drawn += [
        Line(place, [0.02 + 0.05 * (index % 2)], text=f" {point['max_tokens']}", width=0.0)
        for index, (point, place) in enumerate((point, [point["frame_ms"]]) for point in points)
    ]
    title = f"The demo model on {results['scenes']} hard scenes, camera {results['camera']}; below: tokens"
    return lines(title, drawn, ("p50 latency of an answer (ms)", "F1, IoU (0 to 1)"), height=4.2, top=1.0)


def tracking(results: Mapping[str, Any]) -> Chart:
    """HOTA of the tracker and its peers by protocol."""
    panels = {
        protocol: {
            peer: max(each["hota"] for name, each in metrics.items() if name.split(",")[0] == peer)
            for peer in PEERS
        }
        for protocol, metrics in results["metrics"].items()
    }
    return bar_panels(
        "HOTA by protocol; of each tracker the best of its settings", panels, "HOTA (%)", emphasis=PEERS[0]
    )


CHARTS = {"engine": engine, "quality_speed": quality_speed, "tracking": tracking}


def write(results: Path) -> dict[str, Chart]:
    """Draw the charts of a folder of results and write them beside the JSON; returns them by name."""
    charts = {}
    for name, draw in CHARTS.items():
        charts[name] = draw(json.loads((results / f"{name}.json").read_text(encoding="utf-8")))
        (results / f"{name}.svg").write_bytes(base64.b64decode(charts[name].source.partition(",")[2]))
    return charts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--page", type=Path)
    arguments = parser.parse_args()
    charts = write(arguments.results)
    if arguments.page:
        arguments.page.parent.mkdir(parents=True, exist_ok=True)
        sections = [
            Section(name, notes=[f"benchmarks/results/{name}.json, by benchmarks/{name}.py"], charts=[chart])
            for name, chart in charts.items()
        ]
        write_report(arguments.page, "Benchmarks", sections, {})


if __name__ == "__main__":
    main()
