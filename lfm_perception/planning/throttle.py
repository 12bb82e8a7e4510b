"""How far to step back on a hot board. Pure: from temperatures to steps, from steps to settings.

A board that grows too hot lowers its clocks and at last switches itself off. Before that, and by steps that
people can see and set, less is asked of it: fewer tokens, then more rest, then nothing. A step down is taken
at once; a step back one at a time, after a rest, and only once it is cooler than where that step began.
"""

from __future__ import annotations

from enum import IntEnum

from lfm_perception.settings import ONE_OBJECT_TOKENS, Settings, ThermalSettings


class Step(IntEnum):
    """What is done against heat. Each does what those before it do too."""

    NONE = 0
    FEWER_TOKENS = 1
    LOWER_DUTY = 2
    PAUSE = 3

    @property
    def words(self) -> str:
        return ("full work", "fewer tokens", "fewer tokens and more rest", "paused")[self]


def next_step(
    step: Step, hottest_c: float | None, throttled: bool, held_s: float, settings: ThermalSettings
) -> Step:
    """The step after `step`, which was held for `held_s`.

    `hottest_c`: degrees Celsius, None where nothing is known; `throttled`: the board holds back its clocks.
    """
    wanted = max(_step_at(hottest_c, settings), Step.FEWER_TOKENS if throttled else Step.NONE)
    if wanted >= step:
        return wanted
    warm = None if hottest_c is None else hottest_c + settings.recover
    if max(wanted, _step_at(warm, settings)) >= step or held_s < settings.hold:
        return step
    return Step(step - 1)


def _step_at(celsius: float | None, settings: ThermalSettings) -> Step:
    begins = (settings.fewer_tokens_at, settings.lower_duty_at, settings.pause_at)
    return Step(0 if celsius is None else sum(celsius >= begin for begin in begins))


def stepped_back(settings: Settings, step: Step) -> Settings:
    """The settings that are in force at a step."""
    thermal, image, caption = settings.thermal, settings.image, settings.caption
    changes: dict[str, object] = {}
    if step >= Step.FEWER_TOKENS:

        def fewer(tokens: int, least: int) -> int:
            return min(tokens, max(least, round(tokens * thermal.tokens)))

        changes |= {
            "detect.max_tokens": fewer(settings.detect.max_tokens, ONE_OBJECT_TOKENS),
            "caption.max_tokens": fewer(caption.max_tokens, 16),
            "image.max_tokens": fewer(image.max_tokens, image.min_tokens),
            "image.max_tiles": 1,
        }
    if step >= Step.LOWER_DUTY:
        changes["gate.duty"] = min(settings.gate.duty, thermal.duty)
    return settings.with_values(changes)
