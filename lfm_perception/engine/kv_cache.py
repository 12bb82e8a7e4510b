# SPDX-License-Identifier: Apache-2.0
"""llama.cpp's memory of one sequence: KV cache of the attention, recurrent state of the convolutions.

The KV cache can be truncated at any token. The recurrent state of the short convolutions cannot: it holds
the latest state only. A `Checkpoint` is a copy of it (82 kB for the 450M model, 15 microseconds on a CPU);
restoring it brings the memory back exactly.

`prefill` decodes a prompt in parts and saves a checkpoint after each. The next prompt is decoded from the
first part that differs (prefix cache): the fixed prefix once, an image once for any number of questions. The
last few tokens of the prompt are left for the first batch of the answer: cheaper than a batch of their own.

`decode` continues with the answer. A batch may hold draft tokens. Rejected ones are rolled back: llama.cpp
keeps the recurrent state for the last `MAX_ROLLBACK` tokens; beyond these the checkpoint from before the
batch is restored, and the accepted tokens of the batch are decoded again together with the next ones.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lfm_perception.engine.native import llama_cpp, llama_error
from lfm_perception.settings import EngineSettings

Logits = NDArray[np.float32]
"""Logits of one position, shape (vocabulary size,)."""

Embeddings = NDArray[np.float32]
"""Image embeddings as the language model reads them, shape (image tokens, hidden size)."""

PromptPart = tuple[int, ...] | Embeddings
"""A stretch of a prompt. Tokens match a cached part by value, embeddings by identity of the array."""

BLOCK_TOKENS = 16
"""Tokens that llama.cpp's matrix product computes together; a remainder costs more per token."""

MAX_BATCH_TOKENS, MAX_EXACT_OUTPUTS = 63, 7
"""Tokens of a batch, and positions with logits, up to which llama.cpp's logits are the same bit for bit for
any split into batches and any number of threads. Attention over 64 tokens is computed in tiles instead."""

MAX_OUTPUTS = 32
"""Positions with logits in one batch. From 8 on, llama.cpp computes the last matrix, and only that, another
way: the logits then differ by rounding, and `decoding` computes near ties again."""

MAX_ROLLBACK = 10
"""Tokens that llama.cpp can roll back without a checkpoint. Each costs three more graph operations in every
convolution layer; above 10, a model with many such layers exceeds the limit at which llama.cpp aborts."""

_MAX_EXACT_SINGLE = 256
"""Cached tokens up to which a batch of one token gives the same logits, bit for bit, as in a larger batch.
Beyond, its attention is divided among the threads."""

FLASH_ATTENTION = {"auto": -1, "off": 0, "on": 1}

_ABORTED = 2  # return code of llama_decode after the abort callback
_RECURRENT_STATE = llama_cpp.LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY


class StopRequest:
    """A request to stop, which llama.cpp checks before every graph operation.

    The abort callback is C's `strlen` on `flag`: 0 for an empty text, 1 for one letter. A callback in Python
    would wait for the interpreter's lock hundreds of times per batch.
    """

    callback = ctypes.cast(ctypes.CDLL(None).strlen, llama_cpp.ggml_abort_callback)

    def __init__(self) -> None:
        self.flag = ctypes.create_string_buffer(2)
        self.cancelled = False

    def request(self, *, cancelled: bool = False) -> None:
        self.cancelled |= cancelled
        self.flag[0] = b"x"

    @property
    def requested(self) -> bool:
        return bool(self.flag.value)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The recurrent state after the first `length` tokens."""

    length: int
    state: ctypes.Array[ctypes.c_uint8]


@dataclass(frozen=True, slots=True)
class _Batch:
    """Tokens number `start` and following of the answer, with logits after those at `outputs`.

    The end of the prompt has negative token numbers.
    """

    start: int
    tokens: tuple[int, ...]
    outputs: tuple[int, ...] = ()

    @property
    def end(self) -> int:
        return self.start + len(self.tokens)

    def after(self, prefix: Sequence[int]) -> _Batch:
        """The same batch with the tokens before it."""
        count = len(prefix)
        outputs = tuple(count + index for index in self.outputs)
        return _Batch(self.start - count, (*prefix, *self.tokens), outputs)

    def split(self) -> tuple[tuple[int, ...], _Batch]:
        """The tokens before the first output, and the batch from there on."""
        first = self.outputs[0]
        outputs = tuple(index - first for index in self.outputs)
        return self.tokens[:first], _Batch(self.start + first, self.tokens[first:], outputs)


class KvCache:
    """The memory of a loaded model, whose logits have `vocabulary_size` entries. For one thread.

    Raises PerceptionError when llama.cpp cannot make the context or compute a batch.
    """

    def __init__(self, model: Any, vocabulary_size: int, settings: EngineSettings, threads: int) -> None:
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = settings.n_ctx
        params.n_batch = params.n_ubatch = max(settings.n_batch, MAX_BATCH_TOKENS)
        params.n_outputs_max = MAX_OUTPUTS  # llama.cpp would reserve memory for a whole batch
        params.n_rs_seq = MAX_ROLLBACK
        params.n_threads = params.n_threads_batch = threads
        params.flash_attn_type = FLASH_ATTENTION[settings.flash_attn]
        self._context = llama_cpp.llama_init_from_model(model, params)
        if not self._context:
            raise llama_error(f"llama.cpp cannot make a context of {settings.n_ctx} tokens")
        self._memory = llama_cpp.llama_get_memory(self._context)
        self._vocabulary_size, self._n_batch = vocabulary_size, settings.n_batch
        self._stop = StopRequest()
        self._length = 0
        self._prefix: list[tuple[PromptPart, Checkpoint]] = []
        self._prompt_end: tuple[int, ...] = ()
        self._last = _Batch(0, ())
        self._before_last: Checkpoint | None = None
        self.capacity: int = llama_cpp.llama_n_ctx(self._context)
        """Tokens that fit: image, prompt and answer together."""
        self.decode_calls = 0
        """Calls of llama_decode so far."""
        self.prefill_end_s = 0.0
        """`time.perf_counter` at the end of the batch that completed the last prompt."""
        self.on_batch: Callable[[int, float], None] = lambda tokens, seconds: None
        """Called after every batch of an answer with its tokens and seconds."""

    def abort_on(self, stop: StopRequest) -> None:
        """Abort all batches from now on when `stop` is requested."""
        self._stop = stop
        llama_cpp.llama_set_abort_callback(self._context, stop.callback, stop.flag)

    def apply_lora(self, adapter: Any, scale: float) -> None:
        """Apply a LoRA adapter of the same model. To be called before the first prefill."""
        adapters = (llama_cpp.llama_adapter_lora_p_ctypes * 1)(adapter)
        if llama_cpp.llama_set_adapters_lora(self._context, adapters, 1, (ctypes.c_float * 1)(scale)):
            raise llama_error("llama.cpp cannot apply a LoRA adapter")

    def set_threads(self, count: int) -> None:
        llama_cpp.llama_set_n_threads(self._context, count, count)

    def prefill(self, parts: Sequence[PromptPart], end: Sequence[int], *, cache_end: bool = True) -> int:
        """Decode the prompt `parts` and `end`, from the first part that is not cached.

        Args:
            cache_end: Without it, all of `end` is left for the first batch: cheaper where one batch answers.

        Returns: how many tokens at the end of the prompt are left for the first batch of the answer.
        """
        cut = (len(end) - 1) // BLOCK_TOKENS * BLOCK_TOKENS if cache_end else 0
        self._prompt_end = tuple(end[cut:])
        parts = [*parts, tuple(end[:cut])] if cut else parts
        cached = 0
        while cached < min(len(self._prefix), len(parts)) and _same(self._prefix[cached][0], parts[cached]):
            cached += 1
        if cached:
            self.restore(self._prefix[cached - 1][1])
        else:
            self.clear()
        del self._prefix[cached:]
        self._last, self._before_last = _Batch(-len(self._prompt_end), ()), None
        for part in parts[cached:]:
            if not self._decode(part, self._n_batch):
                break
            self._prefix.append((part, self.save()))
        return len(self._prompt_end)

    def decode(self, start: int, tokens: Sequence[int], outputs: Sequence[int]) -> list[Logits] | None:
        """Decode tokens of the answer to the prompt, see `decoding.DecodeFunction`.

        Returns: the logits, or None when a stop was requested; the memory is then empty.
        """
        if self._stop.requested:
            self.clear()
            return None
        batch = _Batch(start, tuple(tokens), tuple(outputs))
        completes_prompt = outputs[0] < 0 or start > self._last.end
        if completes_prompt:
            batch = batch.after(self._prompt_end)
        batch = self._rollback(batch)
        if len(batch.tokens) > MAX_BATCH_TOKENS:
            head, batch = batch.split()
            if not self._decode_head(head):
                return None
        if len(batch.tokens) == 1 and self._length >= _MAX_EXACT_SINGLE:
            batch = _Batch(batch.start, batch.tokens * 2, batch.outputs)  # the copy is as good as a draft
        checkpoint = self.save()
        began_s = time.perf_counter()
        if not self._decode(batch.tokens, MAX_BATCH_TOKENS, batch.outputs):
            return None
        logits = [self._logits(index) for index in range(len(batch.outputs))]
        ended_s = time.perf_counter()
        self.on_batch(len(batch.tokens), ended_s - began_s)
        if completes_prompt:
            self.prefill_end_s = ended_s
        self._last, self._before_last = batch, checkpoint
        return logits

    def clear(self, *, data: bool = False) -> None:
        """Empty the memory of the sequence; `data` overwrites it too: NaN in it would spread."""
        llama_cpp.llama_memory_clear(self._memory, data)
        self._length = 0
        self._prefix.clear()
        self._last, self._before_last = _Batch(0, ()), None

    def save(self) -> Checkpoint:
        """A checkpoint of the recurrent state as it is now."""
        size = llama_cpp.llama_state_seq_get_size_ext(self._context, 0, _RECURRENT_STATE)
        state = (ctypes.c_uint8 * size)()
        llama_cpp.llama_state_seq_get_data_ext(self._context, state, size, 0, _RECURRENT_STATE)
        return Checkpoint(self._length, state)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Restore recurrent state and length of a checkpoint; its first tokens must still be cached."""
        state, size = checkpoint.state, len(checkpoint.state)
        if llama_cpp.llama_state_seq_set_data_ext(self._context, state, size, 0, _RECURRENT_STATE) != size:
            raise llama_error(f"llama.cpp could not restore the checkpoint at token {checkpoint.length}")
        self._truncate(checkpoint.length)

    def free(self) -> None:
        """Free the memory. No other method may be called afterwards."""
        llama_cpp.llama_free(self._context)

    def _rollback(self, batch: _Batch) -> _Batch:
        """Roll back the rejected draft tokens: all that were decoded from the batch's start on.

        Returns: the batch with the tokens before it that a restored checkpoint needs decoded again.
        """
        last = self._last
        rejected = last.end - batch.start
        if rejected <= 0:
            return batch
        if batch.start < last.start:  # `last` was split, and its first part is kept nowhere
            self.restore(self._prefix[-1][1])
            return batch if batch.start < 0 else batch.after(self._prompt_end)
        if rejected <= MAX_ROLLBACK and batch.start > last.start:
            self._truncate(self._length - rejected)
            return batch
        assert self._before_last, "only draft tokens are rolled back"
        self.restore(self._before_last)
        return batch.after(last.tokens[: batch.start - last.start])

    def _decode_head(self, tokens: Sequence[int]) -> bool:
        """Decode tokens without logits, never one alone (see `_MAX_EXACT_SINGLE`)."""
        alone = len(tokens) % MAX_BATCH_TOKENS == 1
        if not self._decode([*tokens, tokens[-1]] if alone else tokens, MAX_BATCH_TOKENS):
            return False
        if alone:
            self._truncate(self._length - 1)
        return True

    def _decode(self, part: PromptPart | Sequence[int], n_batch: int, outputs: Sequence[int] = ()) -> bool:
        """Call llama_decode in batches of at most `n_batch`. Returns: False when it was aborted."""
        for begin in range(0, len(part), n_batch):
            piece = part[begin : begin + n_batch]
            batch = llama_cpp.llama_batch(n_tokens=len(piece))
            if isinstance(piece, np.ndarray):
                batch.embd = piece.ctypes.data_as(ctypes.POINTER(ctypes.c_float))  # type: ignore[assignment]
            else:
                batch.token = (llama_cpp.llama_token * len(piece))(*piece)
            logits = (ctypes.c_int8 * len(piece))()
            for index in outputs:
                if begin <= index < begin + len(piece):
                    logits[index - begin] = 1
            batch.logits = logits
            code = _ABORTED if self._stop.requested else llama_cpp.llama_decode(self._context, batch)
            self.decode_calls += 1
            if code == _ABORTED:
                self.clear()
                return False
            if code:
                raise llama_error(f"llama.cpp could not compute a batch (code {code})")
            self._length += len(piece)
        return True

    def _logits(self, index: int) -> Logits:
        """Logits of the last batch's output number `index`, valid until the next batch."""
        size = self._vocabulary_size
        first = llama_cpp.llama_get_logits(self._context)
        return np.ctypeslib.as_array(first, shape=((index + 1) * size,))[index * size :]

    def _truncate(self, length: int) -> None:
        if not llama_cpp.llama_memory_seq_rm(self._memory, 0, length, -1):
            raise llama_error(f"llama.cpp could not roll back to token {length}")
        self._length = length


def _same(first: PromptPart, second: PromptPart) -> bool:
    if isinstance(first, np.ndarray) or isinstance(second, np.ndarray):
        return first is second
    return first == second
