# SPDX-License-Identifier: Apache-2.0
"""Checks across parameters, and the way out for names that do not exist."""

from __future__ import annotations

import difflib
import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from lfm_perception.errors import PerceptionError, shown
from lfm_perception.image_plan import ImageLimits
from lfm_perception.labels import label_map
from lfm_perception.questions import check_label, check_prompt_text

if TYPE_CHECKING:
    from lfm_perception.settings.root import Settings

ONE_OBJECT_TOKENS = 32
"""Answer tokens that hold one object in either built-in dialect (three objects take 72 to 89)."""

TEMPLATE_TOKENS = 32
"""Upper bound on the tokens of the chat template and the image markers."""

MAX_LISTED = 6
"""Maximum number of known names in a sentence."""

KEY_PREFIX = "LFM_PERCEPTION_"
"""Begin of the names of environment variables that may hold a key."""

RENAMED = {
    "gate.difference": "inference.motion_threshold",
    "gate.longest": "inference.max_interval",
    "gate.duty": "inference.duty_cycle",
    "tracker.other_label": "tracker.label_mismatch_weight",
    "tracker.shown_misses": "tracker.max_consecutive_misses",
    "tracker.forget_after": "tracker.max_age",
    "tracker.bridge_gap": "tracker.max_gap",
    "tracker.box_noise": "tracker.measurement_noise",
    "tracker.spread_scale": "tracker.measurement_noise_scale",
    "tracker.noise_floor": "tracker.min_measurement_noise",
    "tracker.agility": "tracker.process_noise",
    "tracker.start_speed": "tracker.initial_velocity_std",
    "tracker.camera_motion": "tracker.camera_motion_compensation",
    "tracker.by_label": "tracker.per_label",
    "thermal.ignored": "thermal.ignored_sensors",
    "thermal.fewer_tokens_at": "thermal.reduce_tokens_at",
    "thermal.lower_duty_at": "thermal.reduce_duty_cycle_at",
    "thermal.recover": "thermal.hysteresis",
    "thermal.hold": "thermal.min_hold",
    "thermal.tokens": "thermal.token_scale",
    "thermal.duty": "thermal.duty_cycle",
    "node.answer_age_warn": "node.inference_age_warn",
    "image.depth_bits": "image.bit_depth",
    "fovea.share": "fovea.region_size",
    "questions.share": "questions.duty_cycle",
}
"""New names of the parameters that had another before 0.1. Can be deleted after 0.2."""


def check(settings: Settings) -> None:
    """Refuses values that contradict each other.

    Raises:
        PerceptionError: naming both sides and the way out.
    """
    _check_files(settings)
    _check_prompts(settings)
    _check_tokens(settings)
    _check_commands(settings)
    _check_second_opinion(settings)
    if settings.engine.backend == "recorded" and settings.fovea.mode != "off":
        raise PerceptionError(
            f"fovea.mode is {settings.fovea.mode} and engine.backend is recorded: recordings hold answers "
            "about whole frames only, so set fovea.mode off"
        )
    thermal = settings.thermal
    if not thermal.reduce_tokens_at <= thermal.reduce_duty_cycle_at <= thermal.pause_at:
        raise PerceptionError(
            f"thermal.reduce_tokens_at {thermal.reduce_tokens_at:g}, thermal.reduce_duty_cycle_at "
            f"{thermal.reduce_duty_cycle_at:g} and thermal.pause_at {thermal.pause_at:g} "
            "must rise in this order"
        )


def _check_files(settings: Settings) -> None:
    model, mmproj = settings.model, settings.mmproj
    for group in ("model", "mmproj", "lora"):
        digest = getattr(settings, group).sha256
        if digest and not re.fullmatch("[0-9a-fA-F]{64}", digest):
            raise PerceptionError(
                f"{group}.sha256 must be 64 hexadecimal digits or empty, got {shown(digest)}"
            )
    for group, variable in (
        ("openai", settings.openai.key_variable),
        ("memory", settings.memory.key_variable),
    ):
        if variable and not re.fullmatch(f"{KEY_PREFIX}[A-Za-z0-9_]+", variable):
            raise PerceptionError(
                f"{group}.key_variable must be a name that begins with {KEY_PREFIX}, got {shown(variable)}: "
                "export the key under such a name, so that no setting can read other variables"
            )
    memory = settings.memory
    if memory.enabled and not memory.path:
        raise PerceptionError("memory.enabled is true and memory.path is empty: name the file")
    if memory.enabled and memory.encrypted and not (memory.key_file or memory.key_variable):
        raise PerceptionError(
            "memory.encrypted is true and no key is named: set memory.key_file or memory.key_variable"
        )
    if settings.engine.backend == "recorded" and not settings.recorded.path:
        raise PerceptionError("engine.backend is recorded and recorded.path is empty: name the file")
    if bool(model.path) != bool(mmproj.path):
        raise PerceptionError(
            f"model.path is {shown(model.path)} and mmproj.path is {shown(mmproj.path)}: "
            "give both, or neither for the demo model"
        )


def _check_prompts(settings: Settings) -> None:
    detect, dialects = settings.detect, settings.known_dialects
    for label, count in Counter(detect.labels).items():
        check_prompt_text("detect.labels", label)
        check_label("detect.labels", label)
        if count > 1:
            raise PerceptionError(f"detect.labels holds {shown(label)} more than once")
    _ = settings.tracker.rules  # refuses entries that cannot be parsed
    if detect.closed and not detect.labels:
        raise PerceptionError("detect.closed is true but detect.labels is empty: name the labels to allow")
    check_prompt_text("caption.prompt", settings.caption.prompt)
    names = label_map(detect.labels, detect.synonyms)  # refuses synonyms that contradict each other
    for label in detect.labels:
        other = names.same(label) or label
        if other != label and re.findall(r"\d+", other) == re.findall(r"\d+", label):
            raise PerceptionError(
                f"detect.labels: {shown(label)} and {shown(other)} are one name but for case and articles: "
                "remove one of them"
            )
    if detect.dialect not in dialects:
        raise PerceptionError(
            f"detect.dialect must be one of {', '.join(dialects)}, got {shown(detect.dialect)}"
            f"{_nearest(detect.dialect, list(dialects))}"
        )
    _ = settings.question  # refuses labels that the dialect cannot ask for
    _ = settings.questions.alerts  # refuses standing questions that cannot be asked
    _check_attributes(settings)


def _check_attributes(settings: Settings) -> None:
    alerts = {alert.name for alert in settings.questions.alerts if alert.attribute}
    labels, names = settings.detect.labels, set[str]()
    for attribute in settings.attributes:
        parameter = "questions.standing" if attribute.name in alerts else "detect.attributes"
        where = f"{parameter} {attribute.name!r}"
        if attribute.name in names:
            raise PerceptionError(f"{where}: detect.attributes has this name too, rename one of them")
        names.add(attribute.name)
        for label in attribute.labels:
            if labels and label not in labels:
                raise PerceptionError(
                    f"{where}: no track has the label {shown(label)}{suggestion(label, labels)}"
                )


def _check_tokens(settings: Settings) -> None:
    image, engine, budget = settings.image, settings.engine, settings.budget
    limits = image.limits
    if 1 < image.max_tiles < image.min_tiles:
        raise PerceptionError(
            f"image.min_tiles {image.min_tiles} is above image.max_tiles {image.max_tiles}: "
            "lower the one or raise the other, or give image.max_tiles 1 for no tiling"
        )
    if engine.n_batch > engine.n_ctx:
        raise PerceptionError(
            f"engine.n_batch {engine.n_batch} is above engine.n_ctx {engine.n_ctx}: "
            "a batch must fit the KV cache"
        )
    on_server = engine.backend == "openai"
    image_tokens = limits.for_server().min_tokens if on_server else image.min_tokens
    least = image_tokens + ONE_OBJECT_TOKENS
    if 0 < budget.tokens < least:
        name = "a picture on a server with" if on_server else "image.min_tokens"
        raise PerceptionError(
            f"budget.tokens {budget.tokens} is too small for any answer: give at least {least}, which is "
            f"{name} {image_tokens} + {ONE_OBJECT_TOKENS} for one object, or 0 for no limit"
        )
    needed = _context_tokens(settings, limits)
    if needed > engine.n_ctx:
        raise PerceptionError(
            f"engine.n_ctx {engine.n_ctx} cannot hold image, prompt and answer, about {needed} tokens: "
            "raise it, or lower image.max_tokens, image.max_tiles or the answers' max_tokens"
        )


def _check_commands(settings: Settings) -> None:
    if not settings.commands.allowed:
        return
    from lfm_perception.commands import check_tools  # costs nothing without commands

    try:
        check_tools(settings.commands.allowed)
    except PerceptionError as error:
        raise PerceptionError(f"commands.allowed: {error}") from error
    if settings.engine.backend != "llama":
        raise PerceptionError(
            f"commands.allowed is set and engine.backend is {settings.engine.backend}, which takes no "
            "commands, because calls are constrained in llama.cpp: choose llama, or empty the list"
        )


def _check_second_opinion(settings: Settings) -> None:
    chosen, labels = settings.second_opinion, settings.detect.labels
    for label in chosen.limits:
        if labels and label not in labels:
            raise PerceptionError(
                f"second_opinion.ask_below: no track has the label {shown(label)}{suggestion(label, labels)}"
            )
    check_prompt_text("second_opinion.question", chosen.question)
    needed = {"review": "folder", "vlm": "model_settings"}.get(chosen.adviser)
    if chosen.allowed and needed and not getattr(chosen, needed):
        raise PerceptionError(
            f"second_opinion.allowed is true and second_opinion.adviser is {chosen.adviser}, which needs "
            f"second_opinion.{needed}: name it"
        )


def _context_tokens(settings: Settings, limits: ImageLimits) -> int:
    """Estimated tokens of the largest frame (text at 3 bytes a token); the engine counts exactly."""
    image_tokens = limits.max_tokens
    if limits.tiles_frames:
        thumbnail = limits.max_tokens if limits.thumbnail else 0
        image_tokens = max(image_tokens, limits.max_tiles * limits.tile_tokens + thumbnail)
    prompt = settings.dialect.prompt(settings.detect.labels)
    questions = [(f"{prompt.system}{prompt.user}", settings.detect.max_tokens)]
    if settings.caption.enabled:
        questions.append((settings.caption.prompt, settings.caption.max_tokens))
    limit = settings.budget.tokens or sys.maxsize
    return max(
        min(image_tokens + answer, limit) + len(text.encode()) // 3 + TEMPLATE_TOKENS
        for text, answer in questions
    )


def unknown_name(name: str, value: object, known: Iterable[str]) -> PerceptionError:
    """The error for a parameter that does not exist, with its new name or the nearest one."""
    keys = value if isinstance(value, Mapping) else ()
    for old in (name, *(f"{name}.{key}" for key in keys)):
        if old in RENAMED:
            return PerceptionError(f"parameter {old} is now called {RENAMED[old]}")
    known = list(known)
    if name in known:
        members = [each for each in known if each.startswith(f"{name}.")] or [f"{name}.NAME"]
        example = f"{name}.{next(iter(keys))}" if keys else members[0]
        return PerceptionError(f"{shown(name)} is a group of parameters: write {shown(example)}")
    return PerceptionError(f"unknown parameter {shown(name)}{suggestion(name, known)}")


def suggestion(name: str, known: Iterable[str]) -> str:
    """`: did you mean 'x'?` for the nearest known name, else some of those that are known."""
    names = list(known)
    if not names:
        return ""
    listed = ", ".join(names[:MAX_LISTED]) + (", …" if len(names) > MAX_LISTED else "")
    return _nearest(name, names) or f": known are {listed}"


def _nearest(name: str, names: list[str]) -> str:
    """`: did you mean 'x'?`, or nothing; a key alone is compared with the last part of the names too."""
    close = difflib.get_close_matches(name, names, n=1)
    if not close:
        by_key = {full.rpartition(".")[2]: full for full in reversed(names)}
        close = [by_key[key] for key in difflib.get_close_matches(name.rpartition(".")[2], by_key, n=1)]
    return f": did you mean {close[0]!r}?" if close else ""
