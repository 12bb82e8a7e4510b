# SPDX-License-Identifier: Apache-2.0
"""Perception beside a running camera: the model infers the frames that it has time for."""

from lfm_perception.live.latest_worker import LatestWorker
from lfm_perception.live.live_perception import LiveCallbacks, LivePerception
from lfm_perception.live.questions import Asker
from lfm_perception.live.statistics import LiveStatistics
from lfm_perception.stamps import STAMP_RESET_S

__all__ = [
    "STAMP_RESET_S", "Asker", "LatestWorker", "LiveCallbacks", "LivePerception", "LiveStatistics",
]  # fmt: skip
