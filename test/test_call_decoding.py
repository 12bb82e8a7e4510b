# SPDX-License-Identifier: Apache-2.0
"""Calls decoded by a model: always one of the command's calls, and nothing of a frame is lost."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from demo_model.commands import trained_command
from engine_load import FIND, SMALL, Computed

from lfm_perception.backends.llama_vlm import LlamaVlm
from lfm_perception.backends.supervisor import SupervisedVlm
from lfm_perception.commands import REFUSAL, TOOLS, Command
from lfm_perception.demo import commands as demo
from lfm_perception.engine.calls import CallDecoder
from lfm_perception.engine.chat_template import TOOL_CALL_END, TOOL_CALL_START, TURN_END, text_template
from lfm_perception.engine.kv_cache import Logits, StopRequest
from lfm_perception.engine.vocabulary import Vocabulary
from lfm_perception.errors import PerceptionError
from lfm_perception.questions import Prompt
from lfm_perception.scene import Frame
from lfm_perception.settings import Settings
from lfm_perception.vlm import CommandVlm

LABELS = Settings().detect.labels
WORDS = (
    "Set the labels to dog, red cone and people with bags",
    "Warn me when you see a cat 2: is the café open?",
    "use 12.5 % of the time, or 128 tokens",
    "人と箱を検出して",
    "هل الباب مفتوح؟",
    "stop it",
)


class RandomCache:
    """A KV cache of a model that answers at random; counts what it is asked to read."""

    def __init__(self, vocabulary: Vocabulary, seed: int) -> None:
        self._random, self._size = np.random.default_rng(seed), len(vocabulary.pieces)
        self.read: list[int] = []
        self.capacity, self.decode_calls, self.prefill_end_s = 2048, 0, 0.0

    def decode(self, start: int, tokens: Sequence[int], outputs: Sequence[int]) -> list[Logits]:
        assert start == len(self.read)
        assert list(outputs) == [len(tokens) - 1]
        self.read += tokens
        self.decode_calls += 1
        return [self._random.normal(0.0, 3.0, self._size).astype(np.float32)]

    def prefill(self, *_: Any, **__: Any) -> int:
        self.read = []
        return 0

    def abort_on(self, stop: StopRequest) -> None:
        return

    def clear(self, *, data: bool) -> None:
        self.read = []


@pytest.mark.parametrize("words", WORDS)
def test_whatever_the_model_prefers_the_call_is_one_of_the_commands(
    vocabulary: Vocabulary, words: str
) -> None:
    tools = set()
    for seed in range(25):
        rng = np.random.default_rng(seed)
        some = tuple(rng.permutation(list(TOOLS))[: rng.integers(1, len(TOOLS) + 1)])
        command = Command(words, tuple(map(str, some)), LABELS)
        cache: Any = RandomCache(vocabulary, seed)
        answer = CallDecoder(vocabulary, cache).decode(command, StopRequest())
        call = replace(command, allowed=tuple(TOOLS)).parse(answer.text)
        assert (call is None) == (answer.text == REFUSAL)
        assert 0.0 < answer.probabilities[0] <= 1.0
        if call is not None:
            tools.add(call.tool)
            if call.tool not in some:
                with pytest.raises(PerceptionError, match="not in commands"):
                    command.parse(answer.text)
            begin = [vocabulary.pieces[token] for token in cache.read[1:]]
            assert answer.text.encode().startswith(b"".join(begin))
    assert len(tools) > 2


class TrainedCache(RandomCache):
    """A KV cache of a model that has learned one answer by heart."""

    def __init__(self, vocabulary: Vocabulary, answer: Sequence[int]) -> None:
        super().__init__(vocabulary, 0)
        self._answer = answer

    def decode(self, start: int, tokens: Sequence[int], outputs: Sequence[int]) -> list[Logits]:
        (logits,) = super().decode(start, tokens, outputs)
        assert self.read == self._answer[: len(self.read)]
        logits[self._answer[len(self.read)]] = 100.0
        return [logits]


def test_a_trained_model_writes_what_it_learned_token_for_token(vocabulary: Vocabulary) -> None:
    rng = random.Random(2)
    start, end = map(vocabulary.special_token, (TOOL_CALL_START, TOOL_CALL_END))
    learned = [trained_command(rng) for _ in range(60)]
    for lesson in [*learned, *(demo.command(rng, tool) for tool in [*TOOLS, ""] for _ in range(4))]:
        text = lesson.answer.removeprefix(TOOL_CALL_START).removesuffix(TOOL_CALL_END)
        tokens = vocabulary.tokenize(text)
        if text != REFUSAL:
            tokens = [start, *tokens, end]
        cache: Any = TrainedCache(vocabulary, [*tokens, vocabulary.special_token(TURN_END)])
        command = Command(lesson.text, tuple(TOOLS), LABELS)
        answer = CallDecoder(vocabulary, cache).decode(command, StopRequest())
        assert answer.text == text
        assert answer.probabilities[0] > 0.99


def test_logits_that_are_nan_are_an_error(vocabulary: Vocabulary) -> None:
    broken: Any = RandomCache(vocabulary, 0)
    broken.decode = lambda *_: [np.full(len(vocabulary.pieces), math.nan, np.float32)]
    with pytest.raises(PerceptionError, match="damaged"):
        CallDecoder(vocabulary, broken).decode(Command("reset", ("reset",)), StopRequest())


def test_the_prompt_is_that_of_the_training(vocabulary: Vocabulary) -> None:
    command = Command("Reset everything", ("reset", "status"))
    chat = text_template(Prompt(command.words, command.system))
    text = "".join((*chat.before, *chat.after))
    assert text == (
        f"<|startoftext|><|im_start|>system\n{command.system}<|im_end|>\n"
        "<|im_start|>user\nReset everything<|im_end|>\n<|im_start|>assistant\n"
    )
    assert vocabulary.encode(chat.before)


def test_the_demo_model_calls_what_a_command_may_mean_from_any_words(vlm: LlamaVlm) -> None:
    for words in WORDS:
        command = Command(words, tuple(TOOLS), LABELS)
        text = vlm.command(command).text
        assert command.parse(text) is not None or text == REFUSAL


def test_a_command_evicts_nothing_of_the_frame_and_the_tools_are_read_once(
    vlm: LlamaVlm, frame: Frame, computed: Computed
) -> None:
    command = Command("detect dogs", ("set_labels",), LABELS)
    before = vlm.describe(frame, FIND, SMALL)
    first = vlm.command(command)
    computed.tiles = computed.tokens = 0
    again = vlm.command(replace(command, words="reset everything", allowed=("reset",)))
    assert computed.tokens < 80 < again.usage.text_tokens
    computed.tokens = 0
    assert vlm.describe(frame, FIND, SMALL).text == before.text
    assert computed.tiles == 0
    assert computed.tokens < before.usage.answer_tokens + before.usage.text_tokens
    assert vlm.command(command).text == first.text


def test_commands_reach_the_worker_process() -> None:
    worker = SupervisedVlm(Settings())
    try:
        assert isinstance(worker, CommandVlm)
        command = Command("reset everything", tuple(TOOLS))
        text = worker.command(command).text
        assert text == REFUSAL or command.parse(text) is not None
    finally:
        worker.close()
