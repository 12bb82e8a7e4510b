"""What the node tells of itself on /diagnostics. Pure: from counts and states to messages.

Every status says what is the matter now, not what once was: a level returns to OK when its cause is gone.
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
class Snapshot:
    """The node at one moment. `active` as a lifecycle node; `topic` and `tracks` are those of the camera."""

    active: bool
    topic: str
    model: str
    tracks: int
    live: LiveStatistics
    health: Health
    board: BoardState


def report(
    now: Snapshot, before: Snapshot | None, thresholds: NodeSettings, name: str, header: Header
) -> DiagnosticArray:
    """The statuses of the node `name`; counts that grew since `before` make a level worse."""
    return DiagnosticArray(
        header=header,
        status=[
            _camera(now, before, thresholds, name),
            _model(now, before, thresholds, name),
            _platform(now, name),
        ],
    )


def _camera(now: Snapshot, before: Snapshot | None, thresholds: NodeSettings, name: str) -> DiagnosticStatus:
    live = now.live
    refused = _grown(live.frames_rejected, before.live.frames_rejected if before else {})
    level, message = OK, f"{live.input_hz:.1f} Hz"
    if not now.active:
        message = "not active"
    elif live.time_since_frame_s > thresholds.camera_timeout:
        level = ERROR
        message = (
            f"no usable image on {now.topic} for {live.time_since_frame_s:.1f} s: is the camera running?"
        )
    elif refused:
        level, message = WARN, f"images on {now.topic} are refused: {_listed(refused)}"
    elif live.input_hz < thresholds.input_hz_warn:
        level = WARN
        message = (
            f"{live.input_hz:.1f} Hz on {now.topic}, below node.input_hz_warn {thresholds.input_hz_warn:g}"
        )
    return _status(
        f"{name}: camera", level, message, now,
        {
            "topic": now.topic,
            "input rate (Hz)": f"{live.input_hz:.2f}",
            "since last image (s)": f"{live.time_since_frame_s:.3f}",
            "images received": live.frames_received,
            "images looked at": live.frames_inferred,
            "images dropped for newer ones": live.frames_dropped,
            "images gated": live.frames_skipped,
            "images waiting": live.frames_waiting,
            **_by_reason("images refused", live.frames_rejected),
            "new beginnings": live.tracker_resets,
            "tracks": now.tracks,
        },
    )  # fmt: skip


def _model(now: Snapshot, before: Snapshot | None, thresholds: NodeSettings, name: str) -> DiagnosticStatus:
    live, health = now.live, now.health
    failed = _grown(live.frames_failed, before.live.frames_failed if before else {})
    truncated = live.answers_truncated - (before.live.answers_truncated if before else 0)
    over_latency_budget = live.over_latency_budget - (before.live.over_latency_budget if before else 0)
    camera_runs = live.time_since_frame_s <= thresholds.camera_timeout
    level, message = OK, f"answers in {live.latency_p50_s * 1000:.0f} ms (median)"
    if not health.ready:
        level, message = ERROR, health.problem or "the model is not loaded"
    elif not now.active:
        message = "loaded, not active"
    elif not live.enabled:
        message = "switched off"
    elif live.degradation_level is DegradationLevel.PAUSED:
        level, message = WARN, "paused: the board is too hot"
    elif failed:
        level, message = WARN, f"frames without an answer: {_listed(failed)}; last: {live.last_error}"
    elif camera_runs and live.inference_age_s > thresholds.inference_age_warn:
        level = WARN
        message = (
            f"no answer for {live.inference_age_s:.1f} s, longer than node.inference_age_warn "
            f"{thresholds.inference_age_warn:g}"
        )
    elif over_latency_budget > 0:
        level = WARN
        message = (
            f"{over_latency_budget} frames could not be answered within budget.latency in any size: raise it"
        )
    elif truncated > 0:
        level, message = WARN, f"{truncated} answers reached their limit of tokens or time"
    return _status(
        f"{name}: model", level, message, now,
        {
            "model": now.model,
            "latency p50 (s)": f"{live.latency_p50_s:.3f}",
            "latency p95 (s)": f"{live.latency_p95_s:.3f}",
            "since last answer (s)": f"{live.inference_age_s:.3f}",
            "tokens used": live.tokens,
            "answers truncated": live.answers_truncated,
            "answers too slow": live.over_latency_budget,
            **_by_reason("objects rejected", live.objects_rejected),
            **_by_reason("frames failed", live.frames_failed),
            "process": "none of its own" if health.pid is None else health.pid,
            "process restarts": health.restarts,
            "last problem": live.last_error,
        },
    )  # fmt: skip


def _platform(now: Snapshot, name: str) -> DiagnosticStatus:
    board, step = now.board, now.live.degradation_level
    level, message = OK, thermal_summary(board)
    if step is not DegradationLevel.NONE:
        level, message = (
            (ERROR if step is DegradationLevel.PAUSED else WARN),
            f"{step.description}: {message}",
        )
    return _status(
        f"{name}: platform", level, message, now,
        {
            "step": step.description,
            **{
                f"temperature of {sensor} (°C)": f"{celsius:.1f}"
                for sensor, celsius in board.temperatures_c.items()
            },
            **{
                f"clock of {processor} (MHz)": f"{clock.current_hz / 1e6:.0f} of {clock.max_hz / 1e6:.0f}"
                for processor, clock in board.clocks.items()
            },
            "power (W)": "unknown" if board.total_w is None else f"{board.total_w:.2f}",
            **{f"power of {rail} (W)": f"{watts:.2f}" for rail, watts in board.power_w.items()},
            "clocks held back by": ", ".join(board.throttled_by) or "nothing",
            "read from": board.source,
        },
    )  # fmt: skip


def _status(
    name: str, level: bytes, message: str, now: Snapshot, values: Mapping[str, object]
) -> DiagnosticStatus:
    return DiagnosticStatus(
        name=name,
        level=level,
        message=message,
        hardware_id=now.topic,
        values=[KeyValue(key=key, value=str(value)) for key, value in values.items()],
    )


def _by_reason(name: str, counts: Mapping[str, int]) -> dict[str, int]:
    return {name: sum(counts.values()), **{f"{name}: {reason}": count for reason, count in counts.items()}}


def _grown(counts: Mapping[str, int], before: Mapping[str, int]) -> dict[str, int]:
    return {reason: n - before.get(reason, 0) for reason, n in counts.items() if n > before.get(reason, 0)}


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in counts.items())
