# SPDX-License-Identifier: Apache-2.0
"""Thermal throttling policy: from temperatures to a degradation level, from the level to settings. Pure.

A board that overheats lowers its clocks and finally shuts down. Before that, the load is reduced in levels:
fewer tokens, then a lower duty cycle, then no inference. The level rises at once; it falls one at a time,
after `thermal.min_hold`, and only when the board is `thermal.hysteresis` cooler than the level's threshold.
"""

from __future__ import annotations

from enum import IntEnum

from lfm_perception.settings import ONE_OBJECT_TOKENS, Settings, ThermalSettings

MIN_CAPTION_TOKENS = 16
"""Tokens to which a degraded caption is limited at least."""


class DegradationLevel(IntEnum):
    """How far the load is reduced. Each level includes those before it."""

    NONE = 0
    REDUCED_TOKENS = 1
    REDUCED_DUTY_CYCLE = 2
    PAUSED = 3

    @property
    def description(self) -> str:
        return ("full rate", "fewer tokens", "fewer tokens, lower duty cycle", "paused")[self]


def next_level(
    level: DegradationLevel,
    hottest_c: float | None,
    throttled: bool,
    held_s: float,
    settings: ThermalSettings,
) -> DegradationLevel:
    """The degradation level that follows `level`.

    Args:
        level: in force for the last `held_s` seconds.
        hottest_c: highest temperature in degrees Celsius; None if it is unknown.
        throttled: whether the board throttles its clocks.
        held_s: seconds since the level changed.
        settings: thresholds, hysteresis and hold time.
    """
    floor = DegradationLevel.REDUCED_TOKENS if throttled else DegradationLevel.NONE
    target = max(_level_at(hottest_c, settings), floor)
    if target >= level:
        return target
    with_hysteresis = None if hottest_c is None else hottest_c + settings.hysteresis
    if max(target, _level_at(with_hysteresis, settings)) >= level or held_s < settings.min_hold:
        return level
    return DegradationLevel(level - 1)


def _level_at(celsius: float | None, settings: ThermalSettings) -> DegradationLevel:
    thresholds = (settings.reduce_tokens_at, settings.reduce_duty_cycle_at, settings.pause_at)
    return DegradationLevel(0 if celsius is None else sum(celsius >= each for each in thresholds))


def degraded(settings: Settings, level: DegradationLevel) -> Settings:
    """The settings in force at a degradation level."""

    def scaled(tokens: int, least: int) -> int:
        return min(tokens, max(least, round(tokens * settings.thermal.token_scale)))

    changes: dict[str, object] = {}
    if level >= DegradationLevel.REDUCED_TOKENS:
        changes |= {
            "detect.max_tokens": scaled(settings.detect.max_tokens, ONE_OBJECT_TOKENS),
            "caption.max_tokens": scaled(settings.caption.max_tokens, MIN_CAPTION_TOKENS),
            "image.max_tokens": scaled(settings.image.max_tokens, settings.image.min_tokens),
            "image.max_tiles": 1,
        }
    if level >= DegradationLevel.REDUCED_DUTY_CYCLE:
        changes["inference.duty_cycle"] = min(settings.inference.duty_cycle, settings.thermal.duty_cycle)
    return settings.with_values(changes)
