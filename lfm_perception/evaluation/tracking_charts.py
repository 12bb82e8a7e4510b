# SPDX-License-Identifier: Apache-2.0
"""Charts of a tracking evaluation: tracks over time with the ground truth, and a reliability diagram."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lfm_perception.colours import track_colour
from lfm_perception.evaluation.detection import ReliabilityBin
from lfm_perception.evaluation.tracking import TrackedBox, TrackingSequence
from lfm_perception.geometry import Box
from lfm_perception.media.charts import COLOURS, RULE, STYLE

MARKER_AREA = 200.0
"""Area in square points of the largest marker in a reliability diagram."""


def draw_tracks(file: Path, runs: Sequence[tuple[TrackingSequence, Sequence[Sequence[TrackedBox]]]]) -> None:
    """Writes a PNG with a panel for each sequence: centre x of the boxes over time.

    The ground truth is drawn as broad grey lines, each track as a thin line in its colour with its id,
    interrupted where it was not published.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=(12.0, 3.6 * len(runs)), layout="constrained")
        panels = figure.subplots(len(runs), squeeze=False)[:, 0]
        for axes, (sequence, tracks) in zip(panels, runs, strict=True):
            seconds = np.arange(len(sequence.frames)) / sequence.fps
            truth = _centres([[(each.identity, each.box) for each in frame] for frame in sequence.frames])
            for centre in truth.values():
                axes.plot(seconds, centre, color=RULE, linewidth=5.0)
            lines = _centres([[(each.track_id, each.box) for each in frame] for frame in tracks])
            for track_id, centre in lines.items():
                red, green, blue = track_colour(track_id, saturation=0.85, value=0.75)
                colour, start = f"#{red:02x}{green:02x}{blue:02x}", int(np.isfinite(centre).argmax())
                axes.plot(seconds, centre, color=colour, linewidth=1.5)
                axes.text(seconds[start], centre[start], str(track_id), color=colour, fontsize=8)
            axes.set(
                title=f"{sequence.name}: {len(lines)} tracks", xlabel="s", ylabel="centre x", ylim=(1, 0)
            )
        figure.savefig(file)


def draw_reliability(file: Path, bins: Sequence[ReliabilityBin]) -> None:
    """Writes a PNG with the share of correct tracks over their score; on the diagonal both are equal.

    The area of a marker is proportional to the number of tracks.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=(4.6, 4.0), layout="constrained")
        axes = figure.subplots()
        axes.plot((0, 1), (0, 1), color=RULE, linewidth=2.0)
        most = max(each.count for each in bins)
        axes.scatter(
            [each.mean_confidence for each in bins],
            [each.precision for each in bins],
            [MARKER_AREA * each.count / most for each in bins],
            COLOURS[0],
            clip_on=False,
            zorder=3,
        )
        axes.set(xlabel="score", ylabel="share of correct tracks", xlim=(0, 1), ylim=(0, 1))
        figure.savefig(file)


def _centres(frames: Sequence[Sequence[tuple[int, Box]]]) -> dict[int, NDArray[np.float64]]:
    """Centre x in every frame by identity, shape (frames,); NaN where there is no box."""
    centres: dict[int, NDArray[np.float64]] = defaultdict(lambda: np.full(len(frames), np.nan))
    for index, frame in enumerate(frames):
        for identity, box in frame:
            centres[identity][index] = (box.x1 + box.x2) / 2.0
    return centres
