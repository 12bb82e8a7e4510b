# SPDX-License-Identifier: Apache-2.0
"""The chat template of the LFM2-VL family: ChatML with the image first in the user turn."""

from __future__ import annotations

from dataclasses import dataclass

from lfm_perception.image_plan import ImagePlan
from lfm_perception.questions import Prompt


class SpecialToken(str):
    """The text of a special token: looked up in the vocabulary as a whole, never tokenized as text."""


BOS = SpecialToken("<|startoftext|>")
TURN_START = SpecialToken("<|im_start|>")
TURN_END = SpecialToken("<|im_end|>")
IMAGE_START = SpecialToken("<|image_start|>")
IMAGE_END = SpecialToken("<|image_end|>")
THUMBNAIL = SpecialToken("<|img_thumbnail|>")
TOOL_CALL_START = SpecialToken("<|tool_call_start|>")
TOOL_CALL_END = SpecialToken("<|tool_call_end|>")
REQUIRED_TOKENS = (IMAGE_START, IMAGE_END, THUMBNAIL)


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """A prompt in the chat template, as parts before and after the image: special tokens and plain text.

    Without an image, `before` are those that several prompts share.
    """

    before: tuple[str, ...]
    after: tuple[str, ...]


def apply_chat_template(prompt: Prompt) -> ChatPrompt:
    """The prompt in ChatML up to the beginning of the assistant turn."""
    system = (TURN_START, f"system\n{prompt.system}", TURN_END, "\n") if prompt.system else ()
    return ChatPrompt(
        before=(BOS, *system, TURN_START, "user\n", IMAGE_START),
        after=(IMAGE_END, prompt.user, TURN_END, "\n", TURN_START, "assistant\n"),
    )


def text_template(prompt: Prompt) -> ChatPrompt:
    """A prompt without an image: the system turn before, the user turn after."""
    system = (TURN_START, f"system\n{prompt.system}", TURN_END, "\n") if prompt.system else ()
    return ChatPrompt(
        before=(BOS, *system),
        after=(TURN_START, f"user\n{prompt.user}", TURN_END, "\n", TURN_START, "assistant\n"),
    )


def tile_markers(plan: ImagePlan) -> list[tuple[SpecialToken, ...]]:
    """The special tokens before each tile of the plan and before its thumbnail; none for a single tile."""
    if not plan.tiled:
        return [()]
    rows, columns = range(1, plan.rows + 1), range(1, plan.columns + 1)
    tiles = [(SpecialToken(f"<|img_row_{row}_col_{column}|>"),) for row in rows for column in columns]
    return [*tiles, (THUMBNAIL,)] if plan.thumbnail_width else [*tiles]
