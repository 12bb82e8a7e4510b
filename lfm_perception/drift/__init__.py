# SPDX-License-Identifier: Apache-2.0
"""Drift: what a camera and its model see now, against a baseline. Pure, without ROS and without a clock.

`Meter` measures the quantities of each inferred frame, `BaselineRecorder` makes a `Baseline` of them, and
`DriftMonitor` compares a sliding window with it by the population-stability index.
"""

from lfm_perception.drift.baseline import Baseline, BaselineRecorder, read_baseline
from lfm_perception.drift.monitor import DriftMonitor, QuantityDrift, drift_sentence
from lfm_perception.drift.quantities import QUANTITIES, Meter, Samples

__all__ = [
    "QUANTITIES",
    "Baseline",
    "BaselineRecorder",
    "DriftMonitor",
    "Meter",
    "QuantityDrift",
    "Samples",
    "drift_sentence",
    "read_baseline",
]
