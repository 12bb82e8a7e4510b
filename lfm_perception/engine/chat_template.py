"""The chat template of the LFM2-VL family: ChatML with the image first in the user turn."""

from __future__ import annotations

from dataclasses import dataclass

from lfm_perception.questions import Prompt


class Special(str):
    """The text of a special token, found in the vocabulary as a whole and never cut into pieces."""


START = Special("<|startoftext|>")
TURN_START = Special("<|im_start|>")
TURN_END = Special("<|im_end|>")
IMAGE_START = Special("<|image_start|>")
IMAGE_END = Special("<|image_end|>")
THUMBNAIL = Special("<|img_thumbnail|>")


def tile(row: int, column: int) -> Special:
    """The special token before the tile in this row and column, counted from 1."""
    return Special(f"<|img_row_{row}_col_{column}|>")


@dataclass(frozen=True, slots=True)
class Conversation:
    """A request in the family's chat template: what stands before the image, and what after it.

    `Special` parts are special tokens; the others are plain text.
    """

    before: tuple[str, ...]
    after: tuple[str, ...]


def converse(prompt: Prompt) -> Conversation:
    """The chat template of LFM2-VL: ChatML with the image first in the user's turn."""
    system = (TURN_START, f"system\n{prompt.system}", TURN_END, "\n") if prompt.system else ()
    return Conversation(
        before=(START, *system, TURN_START, "user\n"),
        after=(prompt.user, TURN_END, "\n", TURN_START, "assistant\n"),
    )
