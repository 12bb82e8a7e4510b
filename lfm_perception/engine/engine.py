# SPDX-License-Identifier: Apache-2.0
"""The engine: encode the image, prefill the prompt, decode the answer. Everything on the inference thread.

The image is prepared here (`planning.resize`) and encoded tile by tile, so that sizes, tiles and markers are
exactly the planned ones; the text around it is tokenized here, so that text from outside never becomes a
special token. Image embeddings are kept until another frame comes, and with them the KV cache: a second
question about the same frame costs its own text and answer only.

Everything on which llama.cpp would abort the process is refused before the call: files by `gguf_checks`,
questions here.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lfm_perception.answers import parse, without_thinking
from lfm_perception.engine.chat_template import REQUIRED_TOKENS, apply_chat_template, tile_markers
from lfm_perception.engine.cores import CoreMonitor
from lfm_perception.engine.crashes import ANSWERING, ENCODING, Stage, loading
from lfm_perception.engine.decoding import DecodedAnswer, Sampler, decode_boxes, decode_text
from lfm_perception.engine.grammar import Grammar
from lfm_perception.engine.kv_cache import Embeddings, KvCache, PromptPart, StopRequest
from lfm_perception.engine.latency import LatencyModel, ThreadTuner
from lfm_perception.engine.native import capture_log, llama_cpp, llama_error
from lfm_perception.engine.options import decode_options
from lfm_perception.engine.speculative import Speculator
from lfm_perception.engine.speculative_text import TextSpeculator
from lfm_perception.engine.vision import VisionEncoder
from lfm_perception.engine.vocabulary import Vocabulary
from lfm_perception.errors import PerceptionError
from lfm_perception.files import user_path
from lfm_perception.image_plan import ImagePlan
from lfm_perception.planning.resize import tile_image
from lfm_perception.questions import Dialect, FramePlan, Prompt, Question
from lfm_perception.scene import Answer, Frame, Usage
from lfm_perception.settings import Settings
from lfm_perception.text import safe_text
from lfm_perception.vlm import CancelledError, OnText

if TYPE_CHECKING:
    from lfm_perception.commands import Command
    from lfm_perception.engine.calls import CallDecoder

_SMALL_TILE = np.zeros((64, 64, 3), np.uint8)

OnStage = Callable[[Stage], None]
"""Receives each stage in which llama.cpp may end its process, before it begins."""


class Engine:
    """A loaded model. All methods are for one thread.

    Raises PerceptionError when llama.cpp cannot load the files.
    """

    vocabulary: Vocabulary
    kv_cache: KvCache
    latency: LatencyModel
    threads: ThreadTuner

    def __init__(
        self, model: Path, mmproj: Path, settings: Settings, on_stage: OnStage = lambda stage: None
    ) -> None:
        self._model = None
        self._adapter: Any = None
        self._settings = settings
        self._vision: VisionEncoder | None = None
        self._calls: CallDecoder | None = None
        self._sampling, self._box_sampling = settings.sampling, settings.box_sampling
        self._use_means = settings.detect.coordinates == "mean"
        self._encoded: tuple[Frame, ImagePlan, list[Embeddings]] | None = None
        self._stop = StopRequest()
        self.speculator = lru_cache(maxsize=8)(self._make_speculator)
        """The speculator of a grammar, given by dialect and labels (None: open vocabulary)."""
        self.text_speculator = lru_cache(maxsize=8)(self._make_text_speculator)
        """The speculator of the answers to a prompt."""
        self._on_stage = on_stage
        monitor = CoreMonitor()
        capture_log()
        try:
            self._load(model, settings, monitor)
            on_stage(loading(mmproj))
            self._vision = VisionEncoder(mmproj, self._model, settings.engine, self.threads.threads)
            on_stage(ENCODING)
            self._vision.encode(_SMALL_TILE)  # llama.cpp aborts here rather than at the first frame
        except BaseException:
            self.free()
            raise

    def _load(self, model: Path, settings: Settings, monitor: CoreMonitor) -> None:
        self._on_stage(loading(model))
        llama_cpp.llama_backend_init()
        params = llama_cpp.llama_model_default_params()
        params.n_gpu_layers = settings.engine.n_gpu_layers
        self._model = llama_cpp.llama_model_load_from_file(os.fsencode(model), params)
        if not self._model:
            raise llama_error(f"llama.cpp cannot load {model}")
        try:
            self.vocabulary = Vocabulary(self._model)
            for special in REQUIRED_TOKENS:
                self.vocabulary.special_token(special)
        except PerceptionError as error:
            raise PerceptionError(f"{model} cannot be used: {error}") from error

        threads = settings.engine.n_threads or monitor.free_cores()
        self.kv_cache = KvCache(self._model, len(self.vocabulary.pieces), settings.engine, threads)
        if settings.lora.path:
            path = user_path(settings.lora.path)
            self._on_stage(loading(path))
            self._adapter = llama_cpp.llama_adapter_lora_init(self._model, os.fsencode(path))
            if not self._adapter:
                raise llama_error(f"llama.cpp cannot apply {settings.lora.path}")
            self.kv_cache.apply_lora(self._adapter, settings.lora.scale)  # freed with the model
        self.latency = LatencyModel(self.kv_cache)
        self.threads = ThreadTuner(self.kv_cache, self.latency, threads)

    def answer(
        self,
        frame: Frame,
        question: Question,
        plan: FramePlan,
        stop: StopRequest,
        on_text: OnText | None = None,
    ) -> Answer:
        """See `StreamingVlm.stream`; `stop` ends the answer early.

        Raises:
            CancelledError: the stop is a cancellation.
            PerceptionError: the question does not fit, or llama.cpp cannot compute it.
        """
        self.begin(stop)
        try:
            return self._answer(frame, question, plan, on_text)
        except PerceptionError:
            self.kv_cache.clear(data=True)
            raise

    def command(self, command: Command, stop: StopRequest) -> Answer:
        """The call that a command means, see `vlm.CommandVlm`; what was read of the frame stays.

        Raises:
            CancelledError: a stop was requested.
            PerceptionError: llama.cpp cannot compute it.
        """
        if self._calls is None:
            self._calls = self._make_call_decoder()
        self._on_stage(ANSWERING)
        return self._calls.decode(command, stop)

    def _make_call_decoder(self) -> CallDecoder:
        from lfm_perception.engine.calls import TEXT_CONTEXT, CallDecoder  # costs nothing without commands

        engine = replace(self._settings.engine, n_ctx=TEXT_CONTEXT)
        kv_cache = KvCache(self._model, len(self.vocabulary.pieces), engine, self.threads.threads)
        if self._adapter:
            kv_cache.apply_lora(self._adapter, self._settings.lora.scale)
        return CallDecoder(self.vocabulary, kv_cache)

    def begin(self, stop: StopRequest) -> None:
        """Let `stop` end all computation from now on."""
        self._stop = stop
        self.kv_cache.abort_on(stop)

    def _answer(self, frame: Frame, question: Question, plan: FramePlan, on_text: OnText | None) -> Answer:
        began_s = time.perf_counter()
        chat = apply_chat_template(question.prompt)
        before, after = self.vocabulary.encode(chat.before), self.vocabulary.encode(chat.after)
        markers = [tuple(self.vocabulary.encode(marker)) for marker in tile_markers(plan.image)]
        text_tokens = len(before) + sum(map(len, markers)) + len(after)
        self._check_capacity(plan, text_tokens)

        embeddings = self.encode(frame, plan.image)
        self._on_stage(ANSWERING)
        prefill_s = encoded_s = time.perf_counter()
        decoded = DecodedAnswer("[]" if question.dialect else "", (), 0, truncated=True)
        prompt_calls = self.kv_cache.decode_calls
        if embeddings:
            parts: list[PromptPart] = [tuple(before)]
            for marker, tile in zip(markers, embeddings, strict=True):
                parts += [marker, tile] if marker else [tile]
            prompt_tokens = self.kv_cache.prefill(parts, after, cache_end=not question.options)
            prompt_calls = self.kv_cache.decode_calls
            decoded = self._decode(question, prompt_tokens, plan, on_text)
            prefill_s = max(encoded_s, self.kv_cache.prefill_end_s)
        ended_s = time.perf_counter()
        if self._stop.cancelled:
            raise CancelledError("the question was cancelled")

        usage = Usage(
            image_tokens=plan.image.tokens,
            text_tokens=text_tokens,
            answer_tokens=decoded.token_count,
            encode_s=encoded_s - began_s,
            prefill_s=prefill_s - encoded_s,
            decode_s=ended_s - prefill_s,
            decode_calls=self.kv_cache.decode_calls - prompt_calls,
            drafted_decisions=len(decoded.accepted),
            accepted_decisions=sum(decoded.accepted),
        )
        return self._parsed(question, decoded, usage)

    def _parsed(self, question: Question, decoded: DecodedAnswer, usage: Usage) -> Answer:
        if question.options:
            text, shares = decoded.text, decoded.probabilities
            return Answer(text, truncated=decoded.truncated, usage=usage, probabilities=shares)
        if question.dialect is None:
            return Answer(_plain(decoded.text), truncated=decoded.truncated, usage=usage)
        parsed = parse(
            decoded.text, question.dialect, labels=question.labels, closed=question.closed,
            synonyms=question.synonyms,
        )  # fmt: skip
        return Answer(
            text=decoded.text,
            detections=parsed.scored(decoded.tokens, means=self._use_means),
            truncated=decoded.truncated,
            rejects=parsed.rejects,
            usage=usage,
        )

    def _decode(
        self, question: Question, prompt_tokens: int, plan: FramePlan, on_text: OnText | None
    ) -> DecodedAnswer:
        decode, limit = self.kv_cache.decode, plan.answer_tokens
        if question.options:
            return decode_options(self.vocabulary, question.options, decode, limit)
        sampler = Sampler(self._box_sampling if question.dialect else self._sampling)
        if question.dialect is None:
            speak = on_text and (lambda text: on_text(_plain(text)))
            return decode_text(
                self.vocabulary, prompt_tokens, decode, sampler, limit,
                self.text_speculator(question.prompt), speak,
            )  # fmt: skip
        speculator = self.speculator(question.dialect, question.labels if question.closed else None)
        return decode_boxes(speculator, prompt_tokens, decode, sampler, limit, plan.draft)

    def _make_speculator(self, dialect: Dialect, labels: tuple[str, ...] | None) -> Speculator:
        grammar = Grammar(self.vocabulary, dialect, labels)
        return Speculator(grammar, self.latency.batch_cost, self.latency.output_cost)

    def _make_text_speculator(self, prompt: Prompt) -> TextSpeculator:
        return TextSpeculator(self.latency.batch_cost, self.latency.output_cost)

    def encode(self, frame: Frame, plan: ImagePlan) -> list[Embeddings] | None:
        """The embeddings of the plan's tiles, kept for the next question. None when a stop was requested."""
        assert self._vision, "the engine has been freed"
        if self._encoded and self._encoded[0] is frame and self._encoded[1] == plan:
            return self._encoded[2]
        self._encoded = None
        self._on_stage(ENCODING)
        embeddings = []
        for tile in tile_image(frame.image, plan):
            if self._stop.requested:
                return None
            embeddings.append(self._vision.encode(tile))
        self._encoded = frame, plan, embeddings
        return embeddings

    def _check_capacity(self, plan: FramePlan, text_tokens: int) -> None:
        needed = plan.image.tokens + text_tokens + plan.answer_tokens
        capacity = self.kv_cache.capacity
        if plan.answer_tokens < 1:
            raise PerceptionError(
                f"the plan leaves {plan.answer_tokens} tokens for the answer: raise the budget"
            )
        if needed > capacity:
            raise PerceptionError(
                f"the question needs {needed} tokens (image {plan.image.tokens}, text {text_tokens}, answer "
                f"{plan.answer_tokens}) and engine.n_ctx is {capacity}: raise it, or lower image.max_tokens, "
                f"image.max_tiles or the answer's limit"
            )

    def free(self) -> None:
        """Free the model. No other method may be called afterwards."""
        self._encoded = None
        if self._vision:
            self._vision.free()
        if self._calls:
            self._calls.free()
            self._calls = None
        if hasattr(self, "kv_cache"):
            self.kv_cache.free()
            del self.kv_cache
        if self._model:
            llama_cpp.llama_model_free(self._model)
        self._vision = self._model = None


def _plain(text: str) -> str:
    """The text of an answer in words, without reasoning."""
    return safe_text(without_thinking(text).strip())
