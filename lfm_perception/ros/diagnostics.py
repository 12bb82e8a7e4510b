# SPDX-License-Identifier: Apache-2.0
"""The node's status on /diagnostics. Pure: from statistics to messages.

Each status describes the present: its level returns to OK when the cause is gone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from std_msgs.msg import Header

from lfm_perception.board import BoardState, thermal_summary
from lfm_perception.live import LiveStatistics
from lfm_perception.planning.thermal import DegradationLevel
from lfm_perception.ros.camera_watch import MAX_LOST_SHARE, loss
from lfm_perception.settings import NodeSettings
from lfm_perception.text import sentence
from lfm_perception.vlm import Health

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR


@dataclass(frozen=True, slots=True)
class NodeState:
    """The node itself: `problem` is the reason why it could not be configured, `unexpected` counts bugs."""

    configured: bool
    configuring: bool
    problem: str
    unexpected: int
    last_unexpected: str
    is_unexpected_recent: bool


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """A configured node at one moment.

    `active` is the lifecycle state; `topic` the camera's, `tracks` the number in the last message,
    `image_age_s` the age of the last image on arrival, `camera_hint` what to check when it is silent.
    """

    active: bool
    topic: str
    model: str
    tracks: int
    image_age_s: float
    camera_hint: str
    live: LiveStatistics
    health: Health
    board: BoardState


@dataclass(frozen=True, slots=True)
class PartStatus:
    """The status of one part: `camera`, `model`, `platform` or `node`."""

    part: str
    level: bytes
    message: str
    values: Mapping[str, object]


def part_statuses(
    now: NodeStatus, before: NodeStatus | None, thresholds: NodeSettings
) -> Sequence[PartStatus]:
    """The statuses of camera, model and platform.

    Args:
        before: the status of the previous message; counts that grew since then raise the level.
    """
    live = before.live if before else None
    return (
        PartStatus("camera", *_camera_level(now, live, thresholds), _camera_values(now)),
        PartStatus("model", *_model_level(now, live, thresholds), _model_values(now)),
        PartStatus("platform", *_platform_level(now), _platform_values(now)),
    )


def diagnostic_array(
    parts: Sequence[PartStatus], state: NodeState, name: str, hardware_id: str, header: Header
) -> DiagnosticArray:
    """The statuses of the parts and of the node `name` itself."""
    values = {"unexpected errors": state.unexpected, "last unexpected error": state.last_unexpected}
    return DiagnosticArray(
        header=header,
        status=[
            diagnostic_status(part, name, hardware_id)
            for part in (*parts, PartStatus("node", *_node_level(state), values))
        ],
    )


def diagnostic_status(part: PartStatus, name: str, hardware_id: str) -> DiagnosticStatus:
    """The status of a part of the node `name`."""
    return DiagnosticStatus(
        name=f"{name}: {part.part}",
        level=part.level,
        message=sentence(part.message),
        hardware_id=hardware_id,
        values=[KeyValue(key=key, value=sentence(str(value))) for key, value in part.values.items()],
    )


def _node_level(state: NodeState) -> tuple[bytes, str]:
    if state.is_unexpected_recent:
        return ERROR, f"{state.unexpected} unexpected errors, see the log; the last: {state.last_unexpected}"
    if state.configuring:
        return WARN, "is being configured: the model is loading"
    if not state.configured:
        return ERROR, state.problem or "is not configured"
    return OK, "configured"


def _camera_level(
    now: NodeStatus, before: LiveStatistics | None, thresholds: NodeSettings
) -> tuple[bytes, str]:
    live = now.live
    rejected = _increase(live.frames_rejected, before.frames_rejected if before else {})
    if not now.active:
        return OK, "not active"
    if live.time_since_frame_s > thresholds.camera_timeout:
        silence_s = round(live.time_since_frame_s, 1)
        hint = now.camera_hint or "is the camera running?"
        return ERROR, f"no usable image on {now.topic} for {silence_s} s: {hint}"
    if rejected:
        return WARN, f"images on {now.topic} are rejected: {_listed(rejected)}"
    if now.image_age_s > thresholds.image_age_warn:
        return WARN, (
            f"images on {now.topic} are {now.image_age_s:.1f} s old on arrival, over node.image_age_warn "
            f"{thresholds.image_age_warn:g}: compare the clocks, or set use_sim_time for a bag"
        )
    if live.lost_share > MAX_LOST_SHARE:
        return WARN, loss(now.topic, live)
    if live.input_hz < thresholds.input_hz_warn:
        limit_hz = thresholds.input_hz_warn
        return WARN, f"{live.input_hz:.1f} Hz on {now.topic}, below node.input_hz_warn {limit_hz:g}"
    return OK, f"{live.input_hz:.1f} Hz"


def _camera_values(now: NodeStatus) -> dict[str, object]:
    live = now.live
    return {
        "topic": now.topic,
        "input rate (Hz)": f"{live.input_hz:.2f}",
        "image age on arrival (s)": f"{now.image_age_s:.3f}",
        "estimated share of lost images": f"{live.lost_share:.2f}",
        "time since last frame (s)": f"{live.time_since_frame_s:.3f}",
        "frames received": live.frames_received,
        "frames inferred": live.frames_inferred,
        "frames dropped": live.frames_dropped,
        "frames skipped": live.frames_skipped,
        "frames waiting": live.frames_waiting,
        **_by_reason("frames rejected", live.frames_rejected),
        "tracker resets": live.tracker_resets,
        "tracks": now.tracks,
    }


def _model_level(
    now: NodeStatus, before: LiveStatistics | None, thresholds: NodeSettings
) -> tuple[bytes, str]:
    live, health = now.live, now.health
    failed = _increase(live.frames_failed, before.frames_failed if before else {})
    truncated = live.answers_truncated - (before.answers_truncated if before else 0)
    over_budget = live.over_latency_budget - (before.over_latency_budget if before else 0)
    camera_runs = live.time_since_frame_s <= thresholds.camera_timeout
    if not health.ready:
        return ERROR, health.problem or "the model is not loaded"
    if not now.active:
        return OK, "loaded, not active"
    if not live.enabled:
        return OK, "inference is disabled"
    if live.degradation_level is DegradationLevel.PAUSED:
        return WARN, "paused: the board is too hot"
    if failed:
        return WARN, f"inference failed for frames: {_listed(failed)}; last error: {live.last_error}"
    if camera_runs and live.inference_age_s > thresholds.inference_age_warn:
        age_s, limit_s = live.inference_age_s, thresholds.inference_age_warn
        return WARN, f"no inference for {age_s:.1f} s, longer than node.inference_age_warn {limit_s:g}"
    if live.questions_without_room:
        names = ", ".join(live.questions_without_room)
        return WARN, f"budget.tokens and budget.latency leave no room for questions: {names}"
    if over_budget > 0:
        return WARN, f"{over_budget} frames exceed budget.latency at every image size: raise it"
    if truncated > 0:
        return WARN, f"{truncated} answers were truncated at their limit of tokens or time"
    return OK, f"inference latency {live.latency_p50_s * 1000:.0f} ms (p50)"


def _model_values(now: NodeStatus) -> dict[str, object]:
    live, health = now.live, now.health
    return {
        "model": now.model,
        "inference latency p50 (s)": f"{live.latency_p50_s:.3f}",
        "inference latency p95 (s)": f"{live.latency_p95_s:.3f}",
        "inference age (s)": f"{live.inference_age_s:.3f}",
        "tokens": live.tokens,
        "draft acceptance rate": f"{live.accepted_decisions / max(1, live.drafted_decisions):.2f}",
        "answers truncated": live.answers_truncated,
        "questions answered": live.questions_answered,
        "questions refused": live.questions_refused,
        "standing questions answered": live.standing_questions_answered,
        "standing questions failed": live.standing_questions_failed,
        "questions without room": ", ".join(live.questions_without_room) or "none",
        "answers over latency budget": live.over_latency_budget,
        **_by_reason("objects rejected", live.objects_rejected),
        **_by_reason("frames failed", live.frames_failed),
        **({"view": live.last_view, "regions inferred": live.regions_inferred} if live.last_view else {}),
        "worker PID": "none" if health.pid is None else health.pid,
        "worker restarts": health.restarts,
        "last error": live.last_error,
    }


def _platform_level(now: NodeStatus) -> tuple[bytes, str]:
    level, message = now.live.degradation_level, thermal_summary(now.board)
    if level is DegradationLevel.NONE:
        return OK, message
    return ERROR if level is DegradationLevel.PAUSED else WARN, f"{level.description}: {message}"


def _platform_values(now: NodeStatus) -> dict[str, object]:
    board = now.board
    return {
        "degradation level": now.live.degradation_level.description,
        **{f"{sensor} temperature (°C)": f"{value:.1f}" for sensor, value in board.temperatures_c.items()},
        **{
            f"{processor} clock (MHz)": f"{clock.current_hz / 1e6:.0f} of {clock.max_hz / 1e6:.0f}"
            for processor, clock in board.clocks.items()
        },
        "power (W)": "unknown" if board.total_w is None else f"{board.total_w:.2f}",
        **{f"{rail} power (W)": f"{watts:.2f}" for rail, watts in board.power_w.items()},
        "throttled by": ", ".join(board.throttled_by) or "nothing",
        "source": board.source,
    }


def _by_reason(name: str, counts: Mapping[str, int]) -> dict[str, int]:
    return {name: sum(counts.values()), **{f"{name}: {reason}": count for reason, count in counts.items()}}


def _increase(counts: Mapping[str, int], before: Mapping[str, int]) -> dict[str, int]:
    return {reason: n - before.get(reason, 0) for reason, n in counts.items() if n > before.get(reason, 0)}


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in counts.items())
