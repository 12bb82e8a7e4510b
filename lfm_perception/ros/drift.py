# SPDX-License-Identifier: Apache-2.0
"""Drift in the node, as a part of its diagnostics."""

from __future__ import annotations

import threading
from collections.abc import Callable

from lfm_perception.drift import DriftMonitor, Meter, drift_sentence, read_baseline
from lfm_perception.errors import PerceptionError
from lfm_perception.files import user_path
from lfm_perception.ros.diagnostics import OK, WARN, PartStatus
from lfm_perception.scene import Frame, Scene
from lfm_perception.settings import Settings
from lfm_perception.stamps import to_seconds


class DriftWatch:
    """Compares the scenes of the node with `drift.baseline`. A baseline that cannot be used is a WARN.

    It is read on a thread of its own: one of a day takes half a second, in which the camera goes on.

    Args:
        warn: called as `warn(kind, sentence, period_s)`.
        on_error: receives unexpected exceptions.
    """

    def __init__(
        self, settings: Settings, warn: Callable[..., None], on_error: Callable[[Exception], None]
    ) -> None:
        self._settings, self._warn, self._on_error = settings, warn, on_error
        self._meter, self._problem, self._said = Meter(), "", ""
        self._monitor: DriftMonitor | None = None
        threading.Thread(target=self._read, name="drift", daemon=True).start()

    def _read(self) -> None:
        chosen, labels = self._settings.drift, self._settings.detect.labels
        try:
            baseline = read_baseline(user_path(chosen.baseline))
            self._monitor = DriftMonitor(baseline, labels, chosen.window, chosen.warn_psi)
        except PerceptionError as error:
            self._give_up(str(error))
        except Exception as error:
            self._on_error(error)
            self._give_up(f"it cannot be read: {error!r}")

    def _give_up(self, reason: str) -> None:
        self._problem = f"drift.baseline: {reason}"
        self._warn("drift", self._problem, 0.0)

    def serves(self, settings: Settings) -> bool:
        """Whether it also does what these settings ask for."""
        mine = self._settings
        return (mine.drift, mine.detect.labels) == (settings.drift, settings.detect.labels)

    def add(self, scene: Scene, frame: Frame) -> None:
        """Count an inferred frame on the thread of inference: some milliseconds, mostly optical flow.

        An unexpected exception costs this sample, not the frame.
        """
        try:
            self._add(scene, frame)
        except Exception as error:
            self._on_error(error)

    def _add(self, scene: Scene, frame: Frame) -> None:
        if self._monitor is None:
            return
        if self._monitor.add(to_seconds(scene.stamp_ns), self._meter.measure(scene, frame)):
            said = drift_sentence(self._monitor.state, self._settings.drift.window)
            if said and not self._said:
                self._warn("drift", said, 0.0)
            self._said = said

    def status(self) -> PartStatus:
        """The diagnostics of drift."""
        chosen = self._settings.drift
        values: dict[str, object] = {"baseline": chosen.baseline, "window (s)": f"{chosen.window:g}"}
        state = self._monitor.state if self._monitor else ()
        for each in state:
            psi = "too few samples" if each.psi is None else f"{each.psi:.3f}"
            values[f"{each.name} PSI"] = f"{psi} ({each.samples} samples, limit {each.limit:.2f})"
        problem = self._problem or drift_sentence(state, chosen.window)
        known = sum(each.psi is not None for each in state)
        fine = f"{known} quantities as in the baseline" if known else "waiting for a whole window of samples"
        return PartStatus("drift", WARN if problem else OK, problem or fine, values)
