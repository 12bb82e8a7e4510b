"""How far to step back on a hot board. Pure: from temperatures to steps, from steps to settings.

A board that grows too hot lowers its clocks and at last switches itself off. Before that, and by steps that
people can see and set, less is asked of it: fewer tokens, then more rest, then nothing. A step down is taken
at once; a step back one at a time, after a rest, and only once it is cooler than where that level began.
"""

from __future__ import annotations

from enum import IntEnum

from lfm_perception.settings import ONE_OBJECT_TOKENS, Settings, ThermalSettings


class DegradationLevel(IntEnum):
    """What is done against heat. Each does what those before it do too."""

    NONE = 0
    REDUCED_TOKENS = 1
    REDUCED_DUTY_CYCLE = 2
    PAUSED = 3

    @property
    def description(self) -> str:
        return ("full work", "fewer tokens", "fewer tokens and more rest", "paused")[self]


def next_level(
    level: DegradationLevel,
    hottest_c: float | None,
    throttled: bool,
    held_s: float,
    settings: ThermalSettings,
) -> DegradationLevel:
    """The level after `level`, which was held for `held_s`.

    `hottest_c`: degrees Celsius, None where nothing is known; `throttled`: the board holds back its clocks.
    """
    wanted = max(
        _level_at(hottest_c, settings),
        DegradationLevel.REDUCED_TOKENS if throttled else DegradationLevel.NONE,
    )
    if wanted >= level:
        return wanted
    warm = None if hottest_c is None else hottest_c + settings.hysteresis
    if max(wanted, _level_at(warm, settings)) >= level or held_s < settings.min_hold:
        return level
    return DegradationLevel(level - 1)


def _level_at(celsius: float | None, settings: ThermalSettings) -> DegradationLevel:
    begins = (settings.reduce_tokens_at, settings.reduce_duty_cycle_at, settings.pause_at)
    return DegradationLevel(0 if celsius is None else sum(celsius >= begin for begin in begins))


def degraded(settings: Settings, level: DegradationLevel) -> Settings:
    """The settings that are in force at a level."""
    thermal, image, caption = settings.thermal, settings.image, settings.caption
    changes: dict[str, object] = {}
    if level >= DegradationLevel.REDUCED_TOKENS:

        def fewer(tokens: int, least: int) -> int:
            return min(tokens, max(least, round(tokens * thermal.token_scale)))

        changes |= {
            "detect.max_tokens": fewer(settings.detect.max_tokens, ONE_OBJECT_TOKENS),
            "caption.max_tokens": fewer(caption.max_tokens, 16),
            "image.max_tokens": fewer(image.max_tokens, image.min_tokens),
            "image.max_tiles": 1,
        }
    if level >= DegradationLevel.REDUCED_DUTY_CYCLE:
        changes["inference.duty_cycle"] = min(settings.inference.duty_cycle, thermal.duty_cycle)
    return settings.with_values(changes)
