# SPDX-License-Identifier: Apache-2.0
"""Parts of a session that come and go with the parameters; without them, their modules are not loaded."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from rclpy.node import Node

from lfm_perception.live import LivePerception
from lfm_perception.ros.unexpected import UnexpectedErrors
from lfm_perception.settings import Settings

if TYPE_CHECKING:
    from lfm_perception.ros.depth import DepthInput
    from lfm_perception.ros.drift import DriftWatch
    from lfm_perception.ros.second_opinion import OpinionOutputs


def depth_input(
    node: Node, settings: Callable[[], Settings], warn: Callable[..., None], unexpected: UnexpectedErrors
) -> DepthInput | None:
    """The input of depth images, if `node.depth` is true, which is fixed while the node is configured."""
    if not settings().node.depth:
        return None
    from lfm_perception.ros.depth import DepthInput

    return DepthInput(node, settings, warn, unexpected)


def drift_watch(
    current: DriftWatch | None,
    settings: Settings,
    warn: Callable[..., None],
    unexpected: UnexpectedErrors,
) -> DriftWatch | None:
    """The watch of drift while `drift.baseline` names a file; `current` where it serves these settings."""
    if not settings.drift.baseline:
        return None
    if current is not None and current.serves(settings):
        return current
    from lfm_perception.ros.drift import DriftWatch

    return DriftWatch(settings, warn, partial(unexpected.record, "drift"))


def opinion_outputs(
    current: OpinionOutputs | None,
    node: Node,
    settings: Settings,
    live: LivePerception[bytes],
    warn: Callable[..., None],
    unexpected: UnexpectedErrors,
) -> OpinionOutputs | None:
    """The second opinions while `second_opinion.allowed` is true; `current` is reconfigured, or closed."""
    if not settings.second_opinion.allowed:
        if current is not None:
            current.close()
        return None
    if current is not None:
        current.reconfigure(settings)
        return current
    from lfm_perception.ros.second_opinion import OpinionOutputs

    return OpinionOutputs(node, settings, live, warn, partial(unexpected.record, "second opinion"))
