"""The node's status on /diagnostics. Pure: from statistics to messages.

Each status describes the present: its level returns to OK when the cause is gone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from std_msgs.msg import Header

from lfm_perception.board import BoardState, thermal_summary
from lfm_perception.live import LiveStatistics
from lfm_perception.planning.thermal import DegradationLevel
from lfm_perception.settings import NodeSettings
from lfm_perception.vlm import Health

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """The node at one moment.

    `active` is the lifecycle state; `topic` the camera's, `tracks` the number in the last message.
    """

    active: bool
    topic: str
    model: str
    tracks: int
    live: LiveStatistics
    health: Health
    board: BoardState


def diagnostic_array(
    now: NodeStatus, before: NodeStatus | None, thresholds: NodeSettings, name: str, header: Header
) -> DiagnosticArray:
    """The statuses `camera`, `model` and `platform` of the node `name`.

    Args:
        before: the status of the previous message; counts that grew since then raise the level.
    """
    live = before.live if before else None
    camera_level, camera_message = _camera_level(now, live, thresholds)
    model_level, model_message = _model_level(now, live, thresholds)
    platform_level, platform_message = _platform_level(now)
    parts = (
        ("camera", camera_level, camera_message, _camera_values(now)),
        ("model", model_level, model_message, _model_values(now)),
        ("platform", platform_level, platform_message, _platform_values(now)),
    )
    return DiagnosticArray(
        header=header,
        status=[
            DiagnosticStatus(
                name=f"{name}: {part}",
                level=level,
                message=message,
                hardware_id=now.topic,
                values=[KeyValue(key=key, value=str(value)) for key, value in values.items()],
            )
            for part, level, message, values in parts
        ],
    )


def _camera_level(
    now: NodeStatus, before: LiveStatistics | None, thresholds: NodeSettings
) -> tuple[bytes, str]:
    live = now.live
    rejected = _increase(live.frames_rejected, before.frames_rejected if before else {})
    if not now.active:
        return OK, "not active"
    if live.time_since_frame_s > thresholds.camera_timeout:
        silence_s = round(live.time_since_frame_s, 1)
        return ERROR, f"no usable image on {now.topic} for {silence_s} s: is the camera running?"
    if rejected:
        return WARN, f"images on {now.topic} are rejected: {_listed(rejected)}"
    if live.input_hz < thresholds.input_hz_warn:
        limit_hz = thresholds.input_hz_warn
        return WARN, f"{live.input_hz:.1f} Hz on {now.topic}, below node.input_hz_warn {limit_hz:g}"
    return OK, f"{live.input_hz:.1f} Hz"


def _camera_values(now: NodeStatus) -> dict[str, object]:
    live = now.live
    return {
        "topic": now.topic,
        "input rate (Hz)": f"{live.input_hz:.2f}",
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
    if over_budget > 0:
        return WARN, f"{over_budget} frames exceed budget.latency at every image size: raise it"
    if truncated > 0:
        return WARN, f"{truncated} answers were truncated at their limit of tokens or time"
    return OK, f"inference latency {live.latency_p50_s * 1000:.0f} ms (median)"


def _model_values(now: NodeStatus) -> dict[str, object]:
    live, health = now.live, now.health
    return {
        "model": now.model,
        "inference latency p50 (s)": f"{live.latency_p50_s:.3f}",
        "inference latency p95 (s)": f"{live.latency_p95_s:.3f}",
        "inference age (s)": f"{live.inference_age_s:.3f}",
        "tokens": live.tokens,
        "answers truncated": live.answers_truncated,
        "answers over latency budget": live.over_latency_budget,
        **_by_reason("objects rejected", live.objects_rejected),
        **_by_reason("frames failed", live.frames_failed),
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
