# SPDX-License-Identifier: Apache-2.0
"""Constrained decoding of the tool call that a command asks for: text only, in a KV cache of its own.

All calls of a command, and the refusal, form a tree of tokens (`commands.calls.Step`), tokenized as the model
would have written them. The model decides at each branch, by the likeliest of the allowed tokens; forced
tokens are decoded in one batch with the next decision. So a malformed call is impossible, as is one of an
unknown tool, and a number or name that is neither said nor in use; `Command.parse` refuses a tool that is not
allowed.

The tool list is prefilled once and kept (prefix cache); a command costs its own words and the decisions of
its call.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence

import numpy as np

from lfm_perception.commands import REFUSAL, Command
from lfm_perception.commands.calls import Step
from lfm_perception.engine.chat_template import TOOL_CALL_END, TOOL_CALL_START, TURN_END, text_template
from lfm_perception.engine.decoding import DecodeFunction
from lfm_perception.engine.kv_cache import KvCache, StopRequest
from lfm_perception.engine.vocabulary import Vocabulary
from lfm_perception.errors import PerceptionError
from lfm_perception.questions import Prompt
from lfm_perception.scene import Answer, Usage
from lfm_perception.vlm import CancelledError

TEXT_CONTEXT, ANSWER_TOKENS = 2048, 512
"""Size of the KV cache for commands, and the part of it that is left for the call, tokens."""

Path = tuple[int, ...]
"""Tokens from the beginning of an answer."""


class CallDecoder:
    """Decodes calls in the given KV cache, which it frees. For the thread that owns the model."""

    def __init__(self, vocabulary: Vocabulary, kv_cache: KvCache) -> None:
        self._vocabulary, self.kv_cache = vocabulary, kv_cache

    def decode(self, command: Command, stop: StopRequest) -> Answer:
        """The call that a command means, or `REFUSAL`, and its probability under the constraint.

        Raises:
            CancelledError: a stop was requested.
            PerceptionError: the command does not fit, or llama.cpp cannot compute it.
        """
        try:
            return self._decode(command, stop)
        except PerceptionError:
            self.kv_cache.clear(data=True)
            raise

    def _decode(self, command: Command, stop: StopRequest) -> Answer:
        began_s = time.perf_counter()
        chat = text_template(Prompt(command.words.strip(), command.system))
        before, after = self._vocabulary.encode(chat.before), self._vocabulary.encode(chat.after)
        text_tokens = len(before) + len(after)
        if text_tokens > TEXT_CONTEXT - ANSWER_TOKENS:
            raise PerceptionError(
                f"the tools and the command have {text_tokens} tokens, more than "
                f"{TEXT_CONTEXT - ANSWER_TOKENS}: shorten the command"
            )
        self.kv_cache.abort_on(stop)
        self.kv_cache.prefill([tuple(before)], after, cache_end=False)
        calls = self.kv_cache.decode_calls
        walk = _Walk(self.kv_cache.decode)
        options = {self._refusal(): Step(REFUSAL), **self._options(command.steps())}
        while True:
            step = options[walk.choose(options)]
            if step.following is None:
                break
            options = self._options(step.following())
        ended_s = time.perf_counter()
        read_s = max(began_s, self.kv_cache.prefill_end_s)
        usage = Usage(
            text_tokens=text_tokens,
            answer_tokens=len(walk.tokens) - 1,
            prefill_s=read_s - began_s,
            decode_s=ended_s - read_s,
            decode_calls=self.kv_cache.decode_calls - calls,
        )
        return Answer(step.decided, usage=usage, probabilities=(math.exp(walk.log_probability),))

    def free(self) -> None:
        """Free the KV cache. No other method may be called afterwards."""
        self.kv_cache.free()

    def _refusal(self) -> Path:
        return (*self._vocabulary.tokenize(REFUSAL), self._vocabulary.special_token(TURN_END))

    def _options(self, steps: Iterable[Step]) -> dict[Path, Step]:
        """The steps by their tokens: all of a call, or those that end within what is decided."""
        start, end, turn_end = map(self._vocabulary.special_token, (TOOL_CALL_START, TOOL_CALL_END, TURN_END))
        options = {}
        for step in steps:
            tokens = self._vocabulary.tokenize(step.example)
            if step.following is None:
                options[(start, *tokens, end, turn_end)] = step
                continue
            room, count = len(step.decided.encode()), 0
            while (room := room - len(self._vocabulary.pieces[tokens[count]])) >= 0:
                count += 1
            options[(start, *tokens[:count])] = step
        return options


class _Walk:
    """The path through the tree of allowed tokens, from the root to one answer."""

    def __init__(self, decode: DecodeFunction) -> None:
        self._decode = decode
        self._decoded = 0
        self.tokens: list[int] = []
        """The tokens so far."""
        self.log_probability = 0.0
        """Their log-probability among the allowed tokens."""

    def choose(self, paths: Iterable[Path]) -> Path:
        """The likeliest of the paths that begin with the tokens so far, decided token by token."""
        begun = tuple(self.tokens)
        paths = [path for path in paths if path[: len(begun)] == begun]
        while len(paths) > 1:
            place = len(self.tokens)
            if any(len(path) == place for path in paths):
                break
            self.tokens.append(self._token(sorted({path[place] for path in paths})))
            paths = [path for path in paths if path[place] == self.tokens[place]]
        if len(paths) != 1:
            raise PerceptionError(
                "the model's vocabulary joins an argument with the syntax around it: it cannot write calls"
            )
        self.tokens[:] = paths[0]
        return paths[0]

    def _token(self, allowed: Sequence[int]) -> int:
        """The likeliest of the allowed next tokens."""
        if len(allowed) == 1:
            return allowed[0]
        pending = self.tokens[self._decoded :]
        rows = self._decode(self._decoded, pending, [len(pending) - 1])
        if rows is None:
            raise CancelledError("the command was cancelled")
        self._decoded = len(self.tokens)
        values = rows[0][list(allowed)].astype(np.float64)
        if not np.isfinite(values).all():
            raise PerceptionError(
                "the model computed NaN or infinity instead of probabilities: its files are damaged, "
                "compare their SHA-256 with the publisher's"
            )
        values -= values.max()
        best = int(values.argmax())
        self.log_probability += float(values[best]) - math.log(float(np.exp(values).sum()))
        return allowed[best]
