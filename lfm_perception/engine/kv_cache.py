"""llama.cpp's context: what the language model has read, and the ways back.

The model's memory is half attention, which can be cut at any token, and half short convolutions, which
cannot: they hold only their latest state. A `_Mark` is a copy of that state (82 kB for the 450M model, 15
microseconds on a CPU); with it the memory goes back to where the mark was made, exactly.

So a prompt is read in parts, each followed by a mark. The next prompt is read from the first part in which
it differs: its fixed beginning is read once, a picture once however many questions are asked about it. Its
last few tokens are left for the first run of the answer, which costs less than reading them alone.

An answer is read in runs. A run may hold tokens that are only guessed. When one of them was wrong, the memory
takes back up to `WAY_BACK` tokens; where that is not enough it goes back to before the run, and what was
right of it is read again together with what comes next.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lfm_perception.engine.decoding import Logits
from lfm_perception.engine.native import failure, llama_cpp
from lfm_perception.engine.speculative import BLOCK, LONGEST_RUN, MOST_ROWS, WAY_BACK
from lfm_perception.settings import EngineSettings

Embeddings = NDArray[np.float32]
"""What the language model sees of a picture: shape (image tokens, width)."""

Part = tuple[int, ...] | Embeddings
"""A stretch of a prompt. Tokens are the same when they are equal, embeddings when they are one array."""


class KvCache:
    """The memory of a loaded model, of which a token's logits are `words` numbers. For one thread.

    An answer is None when `stop` was requested meanwhile; what was read is then forgotten.

    Raises PerceptionError when llama.cpp cannot make the context or cannot compute.
    """

    def __init__(self, model: Any, words: int, settings: EngineSettings, threads: int) -> None:
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = settings.n_ctx
        params.n_batch = params.n_ubatch = max(settings.n_batch, LONGEST_RUN)
        params.n_outputs_max = MOST_ROWS  # llama.cpp would reserve for a whole batch
        params.n_rs_seq = WAY_BACK
        params.n_threads = params.n_threads_batch = threads
        params.flash_attn_type = FLASH_ATTENTION[settings.flash_attn]
        self._context = llama_cpp.llama_init_from_model(model, params)
        if not self._context:
            raise failure(f"llama.cpp cannot make a context of {settings.n_ctx} tokens")
        self._memory = llama_cpp.llama_get_memory(self._context)
        self._words = words
        self._largest = settings.n_batch
        self._stop = Stop()
        self._length = 0
        self._marks: list[tuple[Part, _Mark]] = []
        self._end: tuple[int, ...] = ()
        self._run = _Run(0, (), None)
        self.room: int = llama_cpp.llama_n_ctx(self._context)
        """Tokens that the memory holds."""
        self.reads = 0
        """Calls of llama_decode so far."""
        self.prompt_read_s = 0.0
        """When the last prompt had been read to its end, in seconds of `time.perf_counter`."""
        self.on_run: Callable[[int, float], None] = lambda tokens, seconds: None
        """Told of every run of an answer: its tokens and its seconds."""

    def begin(self, stop: Stop) -> None:
        """Let `stop` end what is read from now on."""
        self._stop = stop
        llama_cpp.llama_set_abort_callback(self._context, stop.check, stop.flag)

    def adapt(self, adapter: Any, scale: float) -> None:
        """Apply a LoRA adapter that belongs to the model. Before anything is read."""
        adapters = (llama_cpp.llama_adapter_lora_p_ctypes * 1)(adapter)
        if llama_cpp.llama_set_adapters_lora(self._context, adapters, 1, (ctypes.c_float * 1)(scale)):
            raise failure("llama.cpp cannot apply a LoRA adapter")

    def use_threads(self, count: int) -> None:
        llama_cpp.llama_set_n_threads(self._context, count, count)

    def prompt(self, parts: Sequence[Part], end: Sequence[int]) -> int:
        """Read a prompt: `parts` and a last stretch of tokens.

        Gives how many tokens of it are left for the first run of the answer.
        """
        cut = (len(end) - 1) // BLOCK * BLOCK
        self._end = tuple(end[cut:])
        parts = [*parts, tuple(end[:cut])] if cut else parts
        same = 0
        while same < min(len(self._marks), len(parts)) and _equal(self._marks[same][0], parts[same]):
            same += 1
        if same:
            self._return(self._marks[same - 1][1])
        else:
            self.forget()
        del self._marks[same:]
        self._run = _Run(-len(self._end), (), None)
        for part in parts[same:]:
            if not self._read(part, self._largest, ()):
                break
            self._marks.append((part, self._mark()))
        return len(self._end)

    def answer(self, start: int, tokens: Sequence[int], places: Sequence[int]) -> list[Logits] | None:
        """Go on with the answer to the prompt. See `decoding.Model`."""
        if self._stop.requested:
            self.forget()
            return None
        begins = places[0] < 0 or start > self._run.start + len(self._run.tokens)
        if begins:  # the end of the prompt is not read yet, or is to be read again
            start, tokens = start - len(self._end), [*self._end, *tokens]
            places = [len(self._end) + place for place in places]
        run = self._run
        behind = run.start + len(run.tokens) - start
        if 0 < behind <= WAY_BACK and start > run.start:
            self._cut(self._length - behind)
        elif behind > 0:
            assert run.before, "only guesses are taken back"
            self._return(run.before)
            right = run.tokens[: start - run.start]
            start = run.start
            tokens, places = [*right, *tokens], [len(right) + place for place in places]
        if len(tokens) > LONGEST_RUN:  # no logits are wanted before the first place
            first = tokens[: places[0]]
            alone = len(first) % LONGEST_RUN == 1
            if not self._read([*first, first[-1]] if alone else first, LONGEST_RUN, ()):
                return None
            if alone:
                self._cut(self._length - 1)
            start, tokens, places = start + places[0], tokens[places[0] :], [p - places[0] for p in places]
        if len(tokens) == 1 and self._length >= EXACT_STEPS:
            tokens = [*tokens, tokens[0]]  # a guess like any other
        run = _Run(start, tuple(tokens), self._mark() if places[0] < len(tokens) - 1 else None)
        began = time.perf_counter()
        if not self._read(tokens, LONGEST_RUN, places):
            return None
        rows = [self._row(number) for number in range(len(places))]
        ended = time.perf_counter()
        self.on_run(len(run.tokens), ended - began)
        if begins:
            self.prompt_read_s = ended
        self._run = run
        return rows

    def forget(self, *, numbers: bool = False) -> None:
        """Empty the memory; with its numbers when they may be NaN, which would spread from there."""
        llama_cpp.llama_memory_clear(self._memory, numbers)
        self._length = 0
        self._marks.clear()
        self._run = _Run(0, (), None)

    def free(self) -> None:
        """Give the memory back. Nothing may be read afterwards."""
        llama_cpp.llama_free(self._context)

    def _read(self, part: Sequence[int] | Embeddings, largest: int, wanted: Sequence[int]) -> bool:
        """Have llama.cpp compute the part in batches, with logits at the `wanted` places."""
        for begin in range(0, len(part), largest):
            piece = part[begin : begin + largest]
            batch = llama_cpp.llama_batch(n_tokens=len(piece))
            if isinstance(piece, np.ndarray):
                batch.embd = piece.ctypes.data_as(ctypes.POINTER(ctypes.c_float))  # type: ignore[assignment]
            else:
                batch.token = (llama_cpp.llama_token * len(piece))(*piece)
            logits = (ctypes.c_int8 * len(piece))()
            for place in wanted:
                if begin <= place < begin + len(piece):
                    logits[place - begin] = 1
            batch.logits = logits
            code = _ABORTED if self._stop.requested else llama_cpp.llama_decode(self._context, batch)
            self.reads += 1
            if code == _ABORTED:
                self.forget()
                return False
            if code:
                raise failure(f"llama.cpp could not compute a batch (code {code})")
            self._length += len(piece)
        return True

    def _row(self, number: int) -> Logits:
        first = llama_cpp.llama_get_logits(self._context)
        return np.ctypeslib.as_array(first, shape=((number + 1) * self._words,))[number * self._words :]

    def _mark(self) -> _Mark:
        size = llama_cpp.llama_state_seq_get_size_ext(self._context, 0, _CONVOLUTIONS)
        state = (ctypes.c_uint8 * size)()
        llama_cpp.llama_state_seq_get_data_ext(self._context, state, size, 0, _CONVOLUTIONS)
        return _Mark(self._length, state)

    def _return(self, mark: _Mark) -> None:
        state, size = mark.state, len(mark.state)
        if llama_cpp.llama_state_seq_set_data_ext(self._context, state, size, 0, _CONVOLUTIONS) != size:
            raise failure(f"llama.cpp could not go back to token {mark.length}")
        self._cut(mark.length)

    def _cut(self, length: int) -> None:
        if not llama_cpp.llama_memory_seq_rm(self._memory, 0, length, -1):
            raise failure(f"llama.cpp could not go back to token {length}")
        self._length = length


class Stop:
    """A request to stop, which llama.cpp looks at before every operation.

    It calls C's `strlen` on the flag, which is 0 for an empty text and 1 for one letter: a callback in
    Python would wait for the interpreter's lock hundreds of times in every step.
    """

    check = ctypes.cast(ctypes.CDLL(None).strlen, llama_cpp.ggml_abort_callback)

    def __init__(self) -> None:
        self.flag = ctypes.create_string_buffer(2)
        self.cancelled = False

    def request(self, *, cancelled: bool = False) -> None:
        self.cancelled |= cancelled
        self.flag[0] = b"x"

    @property
    def requested(self) -> bool:
        return bool(self.flag.value)


EXACT_STEPS = 256
"""Tokens in the memory up to which a single token gives the same numbers, bit for bit, as it does in a
run. Beyond, the threads divide its attention."""

FLASH_ATTENTION = {"auto": -1, "off": 0, "on": 1}

_ABORTED = 2
"""llama_decode: the abort callback said so."""

_CONVOLUTIONS = llama_cpp.LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY


@dataclass(frozen=True, slots=True)
class _Mark:
    """A way back to the first `length` tokens: the state of the short convolutions after them."""

    length: int
    state: ctypes.Array[ctypes.c_uint8]


@dataclass(frozen=True, slots=True)
class _Run:
    """The last run of the answer, from its token number `start` on, and the way back to before it."""

    start: int
    tokens: tuple[int, ...]
    before: _Mark | None


def _equal(first: Part, second: Part) -> bool:
    if isinstance(first, np.ndarray) or isinstance(second, np.ndarray):
        return first is second
    return first == second
