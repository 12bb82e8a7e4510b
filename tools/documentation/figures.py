# SPDX-License-Identifier: Apache-2.0
"""The measured figures that pages show, each from a file in benchmarks/results/."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from documentation.marks import table

OURS = "lfm_perception"
NAIVE, NO_DRAFT, RIGHT_DRAFT = "naive", "all, no draft", "all, right draft"
CAPTIONS = {
    "again": "caption alone",
    "rejected": "caption, same frame",
    "accepted": "caption, same frame, as the last",
}
PROTOCOLS = {
    "every-frame": ("every frame", "at once"),
    "sparse": ("every 6th", "at once"),
    "sparse-late": ("every 6th", "6 frames late"),
    "jittered": ("every 6th", "5 to 11 frames late"),
}
"""Protocols of the pages: which frames are inferred, and when the answers arrive."""

TRIALS = {
    "walkers": "people walk to and fro, noisy detections",
    "duplicates": "10% of the objects are detected twice",
    "label-flips": "30% of the labels are wrong",
    "fast-0.25": "objects 0.06 wide move 0.25 image widths per second",
    "fast-0.6": "0.6 image widths per second",
    "crossing": "pairs meet at 0.25 image widths per second each",
    "approach": "people come nearer at 2 m/s",
    "recede": "people go away at 2 m/s",
    "occlusion": "people cannot be seen for 2 s",
    "roll": "the camera rolls at 40° per second",
    "roll-exact": "the same, with ground-truth camera motion",
    "zoom": "the camera zooms to 1.8 times and back in 4 s",
    "zoom-exact": "the same, with ground-truth camera motion",
    "low-camera-rate": "4 camera frames per second",
}
"""What happens in each trial of `eval tracking synthetic`."""


RULE_FIGURES = ("true", "precision", "recall")
"""Columns of the events of the rules."""


def texts(root: Path) -> dict[str, str]:
    """The text of each figure by its name."""
    results = root / "benchmarks" / "results"

    def read(name: str) -> Any:
        return json.loads((results / f"{name}.json").read_text(encoding="utf-8"))

    return {
        **dict(_engine(read("engine"))),
        **dict(_tracking(read("tracking"))),
        **dict(_synthetic(read("tracking_synthetic"))),
        **dict(_node(read("node"))),
        **dict(_motion_gate(read("motion_gate"))),
        **dict(_quality(read("quality_speed"))),
        **dict(_foveation(read("foveation"))),
        **dict(_fuzz(read("fuzz"))),
        **dict(_rules(read("rule_events"))),
        **dict(_drift(read("drift"))),
        **dict(_second_opinion(read("second_opinion"))),
    }


def _engine(found: Any) -> Iterator[tuple[str, str]]:
    runs = {(run["size"], run["objects"]): run for run in found["results"] if run["threads"] == 2}
    rows = runs["256x256", 3]["rows"]
    naive, draft = rows[NAIVE], rows[RIGHT_DRAFT]
    yield "engine/calls/naive", str(naive["decode_calls"])
    yield "engine/calls/draft", str(draft["decode_calls"])
    yield "engine/calls/ratio", f"{naive['decode_calls'] / draft['decode_calls']:.0f}"
    yield "engine/ms/naive", f"{naive['ms']:.0f}"
    yield "engine/ms/draft", f"{draft['ms']:.0f}"
    yield "engine/memory-gb", f"{found['memory_mb'] / 1000:.1f}"
    for name, row in CAPTIONS.items():
        yield f"engine/caption/{name}", f"{rows[row]['ms']:.0f}"
    yield (
        "engine/latency",
        table(
            ("image", "image tokens", "objects", "naive", "without a draft", "with a draft from the tracks"),
            [
                (
                    *(size, str(run["image_tokens"]), str(objects)),
                    *(f"{run['rows'][row]['ms']:.0f}" for row in (NAIVE, NO_DRAFT, RIGHT_DRAFT)),
                )
                for (size, objects), run in runs.items()
            ],
        ),
    )


def _tracking(found: Any) -> Iterator[tuple[str, str]]:
    metrics = found["metrics"]
    peers = [name for name in metrics["sparse-late"] if name not in (OURS, "bound")]
    late = metrics["sparse-late"]
    yield "tracking/sparse-late/hota", f"{late[OURS]['hota']:.1f}"
    yield "tracking/every-frame-clean/hota", f"{metrics['every-frame-clean'][OURS]['hota']:.1f}"
    yield "tracking/sparse-late/best-peer-hota", f"{max(late[peer]['hota'] for peer in peers):.1f}"
    own = [metrics[protocol][OURS] for protocol in PROTOCOLS]
    yield (
        "tracking/protocols",
        table(
            ("protocol", "inferred frames", "answers arrive", "HOTA", "IDF1"),
            [
                (f"`{protocol}`", *about, f"{each['hota']:.1f}", f"{each['idf1']:.1f}")
                for (protocol, about), each in zip(PROTOCOLS.items(), own, strict=True)
            ],
        ),
    )
    yield (
        "tracking/peers",
        table(
            ("tracker, HOTA", *(f"`{protocol}`" for protocol in metrics)),
            [
                (name, *(f"{each[name]['hota']:.1f}" for each in metrics.values()))
                for name in (OURS, *peers, "bound")
            ],
        ),
    )
    filters = found["filters"]
    for name, value in filters.items():
        yield f"tracking/filters/{name}", f"{value:.0f}"


def _synthetic(found: Any) -> Iterator[tuple[str, str]]:
    names = ("hota", "coverage", "identity_kept")
    yield (
        "tracking/synthetic",
        table(
            ("trial", "scenario", "HOTA", "coverage, %", "identity kept, %"),
            [
                (f"`{trial}`", TRIALS[trial], *(f"{figures[name]:.1f}" for name in names))
                for trial, figures in found["trials"].items()
            ],
        ),
    )


def _node(found: Any) -> Iterator[tuple[str, str]]:
    camera = found["camera"]["figures"]
    yield "node/image", found["camera"]["inputs"]["image"].split()[0]
    yield "node/tracks-hz", f"{camera['tracks_hz']:.1f}"
    yield "node/track-age-p95-ms", f"{camera['track_age_ms']['p95']:.1f}"
    recorded = found["recorded"]["figures"]
    yield "node/recorded/start-s", f"{recorded['start_s']['p50']:.1f}"
    yield "node/recorded/memory-mib", f"{recorded['resident_mib']['p50']:.0f}"


def _motion_gate(found: Any) -> Iterator[tuple[str, str]]:
    row = next(row for row in found["rows"] if row["motion_threshold"] == 0.05)["static"]
    yield "motion-gate/saved", f"{1 - row['inferred'] / row['frames']:.0%}"


def _quality(found: Any) -> Iterator[tuple[str, str]]:
    stages = ("encode_ms", "prefill_ms", "decode_ms")
    yield (
        "quality/latency",
        table(
            ("`image.max_tokens`", "image", "image tokens", "F1", "IoU", "encode / prefill / decode, ms"),
            [
                (
                    *(str(point["max_tokens"]), point["image"], str(point["image_tokens"])),
                    *(f"{point['f1']:.3f}", f"{point['mean_iou']:.3f}"),
                    " / ".join(f"{point[stage]:.0f}" for stage in stages),
                )
                for point in found["points"]
            ],
        ),
    )


def _foveation(found: Any) -> Iterator[tuple[str, str]]:
    for name, model in found.items():
        bounds = model["sizes_px"]
        heads = [f"{low} to {high} px" for low, high in pairwise(bounds[1:])]
        yield (
            f"foveation/{'demo' if name.startswith('demo') else 'simulated'}",
            table(
                (
                    *("image tokens", "inferences", "HOTA", "precision", f"recall, below {bounds[1]} px"),
                    *(*heads, f"above {bounds[-1]} px", "time to first track, p90, s", "answer tokens"),
                ),
                [
                    (
                        *(str(each["max_tokens"]), each["plan"], f"{each['hota']:.1f}"),
                        *(f"{each['precision']:.1f}", *map(_recall, each["recall_by_size"])),
                        "never" if (late := each["first_detection_p90_s"]) is None else f"{late:.1f}",
                        f"{each['answer_tokens']:.0f}",
                    )
                    for each in model["results"]
                ],
            ),
        )


def _recall(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"


def _rules(found: Any) -> Iterator[tuple[str, str]]:
    rows = {(row["scene"], row["rule"]): row for row in found["rows"] if row["detections"] == "demo model"}
    scenes = list(dict.fromkeys(scene for scene, _ in rows))
    heads = [f"{scene}: {each}" for scene in scenes for each in RULE_FIGURES]
    counts = {kind: str(len(sequences)) for kind, sequences in found["inputs"]["sequences"].items()}
    yield from (("rules/sequences", counts["doors"]), ("rules/walks", counts["walks"]))
    yield "rules/crowded", counts["crowded"]
    yield (
        "rules/events",
        table(
            ("rule", *heads),
            [
                (rule, *(_cell(rows.get((scene, rule)), key) for scene in scenes for key in RULE_FIGURES))
                for rule in dict.fromkeys(rule for _, rule in rows)
            ],
        ),
    )


def _cell(row: Any, key: str) -> str:
    if row is None or (key == "recall" and not row["true"]):
        return "-"
    return str(row[key]) if key == "true" else f"{row[key]:.2f}"


def _drift(found: Any) -> Iterator[tuple[str, str]]:
    worlds = found["worlds"]
    yield "drift/worlds", str(len(worlds))
    yield "drift/windows", str(sum(world["same"]["windows"] for world in worlds))
    yield "drift/false-alarms", str(sum(sum(world["same"]["false_alarms"].values()) for world in worlds))
    rows = []
    for name, change in worlds[0]["changes"].items():
        first_s = [world["changes"][name]["first_s"] for world in worlds]
        named = dict.fromkeys(quantity for each in first_s for quantity in each)
        rows.append((name, change["expected"], ", ".join(_named(each, first_s) for each in named)))
    yield "drift/changes", table(("change", "is to be named", "named"), rows)


def _named(quantity: str, first_s: Sequence[Mapping[str, float]]) -> str:
    """After how long a quantity was named, and in how many worlds where it was not in all."""
    times = [f"{each:.0f}" for each in sorted(found[quantity] for found in first_s if quantity in found)]
    after = " to ".join(dict.fromkeys((times[0], times[-1])))
    return f"{quantity} after {after} s" + (
        "" if len(times) == len(first_s) else f" ({len(times)} of {len(first_s)} worlds)"
    )


def _second_opinion(found: Any) -> Iterator[tuple[str, str]]:
    reading = found["reading"]
    yield "second-opinion/characters", f"{100.0 * reading['characters_right']:.1f}"
    yield "second-opinion/of", str(reading["characters"])
    yield "second-opinion/numbers", f"{reading['numbers_right']} of {reading['numbers']}"
    yield "second-opinion/vain", f"{reading['in_vain']} of {reading['asked']}"
    yield "second-opinion/sequences", str(found["inputs"]["sequences"])


def _fuzz(found: Any) -> Iterator[tuple[str, str]]:
    inputs = {name: reader["inputs"] for name, reader in found["readers"].items()}
    fewest = sorted(inputs, key=inputs.__getitem__)[:2]
    yield "fuzz/inputs", f"{found['inputs']:,}"
    yield "fuzz/readers", str(len(found["readers"]))
    yield "fuzz/failures", str(found["failures"])
    yield "fuzz/fewest", " and ".join(f"{inputs[name]:,} for {name}" for name in fewest)
