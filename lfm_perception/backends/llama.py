"""LFM2-VL in this process, on llama.cpp and its mtmd library.

One thread of its own makes every call into llama.cpp: loading, encoding, decoding, freeing. What
would end the process there is refused before the call (see `gguf` for the files, `_Engine` for the
rest).

The image is prepared here (`image_plan`) and given to mtmd picture by picture, so that size,
tiles and markers are exactly the planned ones; the text around it is tokenized here, so that words from
outside are never more than words. The picture's embeddings are kept until another frame comes, and the
language model's memory of them (`context`): a second question about the same frame costs its own text and
answer only.
"""

from __future__ import annotations

import ctypes
import os
import time
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from lfm_perception.answers import parse
from lfm_perception.backends.local import model_files
from lfm_perception.engine import gguf
from lfm_perception.engine.chat_template import IMAGE_END, IMAGE_START, THUMBNAIL, Special, converse, tile
from lfm_perception.engine.cores import CoreWatch
from lfm_perception.engine.decoding import Sampler, Written, write_boxes, write_words
from lfm_perception.engine.grammar import Grammar
from lfm_perception.engine.kv_cache import FLASH_ATTENTION, Embeddings, KvCache, Part, Stop
from lfm_perception.engine.latency import LatencyModel
from lfm_perception.engine.native import failure, keep_quiet, llama_cpp, mtmd_cpp
from lfm_perception.engine.speculative import Speculator, TextSpeculator
from lfm_perception.engine.vocabulary import Vocabulary
from lfm_perception.errors import PerceptionError
from lfm_perception.image_plan import TOKEN_SIDE, ImagePlan
from lfm_perception.planning.resize import tile_image
from lfm_perception.questions import Dialect, FramePlan, Prompt, Question
from lfm_perception.scene import Answer, Frame, Image, Usage
from lfm_perception.settings import Settings
from lfm_perception.vlm import CancelledError, Health

LARGEST_PICTURE = 1024
"""Image tokens of the largest single picture; mtmd is loaded with this, so that it resizes none."""


class LlamaVlm:
    """A `Vlm` in this process. Safe to use from several threads; questions are answered one by one.

    A deadline and `cancel` take effect within a step of the language model on the CPU, and after the
    step on a GPU; the encoding of one picture is never interrupted.

    Raises PerceptionError when the model's files cannot be used.
    """

    def __init__(self, settings: Settings) -> None:
        model, mmproj = model_files(settings)
        gguf.check_pair(
            model, mmproj, model_sha256=settings.model.sha256, mmproj_sha256=settings.mmproj.sha256
        )
        if settings.lora.path:
            gguf.check_adapter(_adapter(settings), model, sha256=settings.lora.sha256)
        self._jobs: set[Stop] = set()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="llama")
        try:
            self._engine = self._thread.submit(_Engine, model, mmproj, settings).result()
        except BaseException:
            self._thread.shutdown(wait=False)
            raise
        self._free = weakref.finalize(self, _free, self._thread, self._engine)
        self._free.atexit = False  # the end of the process frees everything

    def describe(self, frame: Frame, question: Question, plan: FramePlan) -> Answer:
        """See `Vlm.describe`."""
        stop = Stop()
        self._jobs.add(stop)
        try:
            job = self._submit(frame, question, plan, stop)
            try:
                wait((job,), timeout=None if plan.deadline_s is None else max(0.0, plan.deadline_s))
            finally:  # time is up, or Ctrl-C came; a finished job does not mind
                stop.request()
            return job.result()
        finally:
            self._jobs.discard(stop)

    def cancel(self) -> None:
        """See `Vlm.cancel`."""
        for stop in tuple(self._jobs):
            stop.request(cancelled=True)

    def health(self) -> Health:
        """See `Vlm.health`."""
        return Health()

    def close(self) -> None:
        """See `Vlm.close`."""
        self.cancel()
        self._free()
        self._thread.shutdown()

    def __enter__(self) -> LlamaVlm:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _submit(self, frame: Frame, question: Question, plan: FramePlan, stop: Stop) -> Future[Answer]:
        try:
            return self._thread.submit(self._engine.answer, frame, question, plan, stop)
        except RuntimeError as error:
            raise PerceptionError("the model has been closed: open it again before asking") from error


def _adapter(settings: Settings) -> Path:
    """The LoRA adapter that the settings name; the model frees it once it is applied."""
    return Path(settings.lora.path).expanduser()


def _free(thread: ThreadPoolExecutor, engine: _Engine) -> None:
    """Free the engine after what it still does. Does not wait: the collector may call it on that thread."""
    thread.submit(engine.free)
    thread.shutdown(wait=False)


class _Engine:
    """Everything that lives on the inference thread."""

    vocabulary: Vocabulary
    pace: LatencyModel
    _width: int

    def __init__(self, model: Path, mmproj: Path, settings: Settings) -> None:
        self._model = self._vision = None
        self._context: KvCache | None = None
        self._sampling = settings.sampling
        self._means = settings.detect.coordinates == "mean"
        self._seen: tuple[Frame, ImagePlan, list[Embeddings]] | None = None
        cores = CoreWatch()
        keep_quiet()
        try:
            self._load(model, mmproj, settings, cores)
        except BaseException:
            self.free()
            raise
        self._foresight = lru_cache(maxsize=8)(self._made_foresight)
        self._recall = lru_cache(maxsize=8)(self._made_recall)

    def _load(self, model: Path, mmproj: Path, settings: Settings, cores: CoreWatch) -> None:
        engine = settings.engine
        llama_cpp.llama_backend_init()
        params = llama_cpp.llama_model_default_params()
        params.n_gpu_layers = engine.n_gpu_layers
        self._model = llama_cpp.llama_model_load_from_file(os.fsencode(model), params)
        if not self._model:
            raise failure(f"llama.cpp cannot load {model}")
        self._width = llama_cpp.llama_model_n_embd_inp(self._model)
        self.vocabulary = Vocabulary(self._model)
        for special in (IMAGE_START, IMAGE_END, THUMBNAIL):
            self.vocabulary.special(special)

        threads = engine.n_threads or cores.free()
        self._context = KvCache(self._model, len(self.vocabulary.pieces), engine, threads)
        if settings.lora.path:
            adapter = llama_cpp.llama_adapter_lora_init(self._model, os.fsencode(_adapter(settings)))
            if not adapter:
                raise failure(f"llama.cpp cannot apply {settings.lora.path}")
            self._context.adapt(adapter, settings.lora.scale)
        self.pace = LatencyModel(self._context, threads)

        vision = mtmd_cpp.mtmd_context_params_default()
        vision.use_gpu = engine.n_gpu_layers != 0
        vision.n_threads = threads
        vision.flash_attn_type = FLASH_ATTENTION[engine.flash_attn]
        vision.image_min_tokens, vision.image_max_tokens = 1, LARGEST_PICTURE
        vision.print_timings = False
        vision.warmup = False
        self._vision = mtmd_cpp.mtmd_init_from_file(os.fsencode(mmproj), self._model, vision)
        if not self._vision:
            raise failure(f"llama.cpp cannot load {mmproj}")
        if not mtmd_cpp.mtmd_support_vision(self._vision):
            raise PerceptionError(f"{mmproj} has no vision tower: give the mmproj file of {model.name}")

    @property
    def context(self) -> KvCache:
        """What the language model has read."""
        assert self._context is not None, "the engine has been freed"
        return self._context

    def answer(self, frame: Frame, question: Question, plan: FramePlan, stop: Stop) -> Answer:
        self._stop = stop
        self.context.begin(stop)
        try:
            return self._answer(frame, question, plan)
        except PerceptionError:
            self.context.forget(numbers=True)
            raise

    def _answer(self, frame: Frame, question: Question, plan: FramePlan) -> Answer:
        times = [time.perf_counter()]
        talk = converse(question.prompt)
        before = self.vocabulary.encode((*talk.before, IMAGE_START))
        after = self.vocabulary.encode((IMAGE_END, *talk.after))
        markers = [self.vocabulary.encode(marker) for marker in _markers(plan.image)]
        text_tokens = len(before) + sum(map(len, markers)) + len(after)
        self._check_room(plan, text_tokens)

        seen = self._see(frame, plan.image)
        times.append(time.perf_counter())
        if seen:
            unread = self.context.prompt(_parts(before, markers, seen), after)
            prompt_reads = self.context.reads
            written = self._write(question, unread, plan)
            times.append(max(times[-1], self.context.prompt_read_s))
        else:
            prompt_reads = self.context.reads
            written = Written("[]" if question.dialect else "", (), 0, truncated=True)
            times.append(times[-1])
        times.append(time.perf_counter())
        if self._stop.cancelled:
            raise CancelledError("the question was cancelled")

        encode_s, prefill_s, decode_s = np.diff(times).tolist()
        usage = Usage(
            image_tokens=plan.image.tokens,
            text_tokens=text_tokens,
            answer_tokens=written.decoded,
            encode_s=encode_s,
            prefill_s=prefill_s,
            decode_s=decode_s,
            decode_calls=self.context.reads - prompt_reads,
        )
        if question.dialect is None:
            return Answer(written.text, truncated=written.truncated, usage=usage)
        parsed = parse(written.text, question.dialect, labels=question.labels, closed=question.closed)
        return Answer(
            text=written.text,
            detections=parsed.scored(written.tokens, means=self._means),
            truncated=written.truncated,
            rejects=parsed.rejects,
            usage=usage,
        )

    def _write(self, question: Question, unread: int, plan: FramePlan) -> Written:
        sampler = Sampler(self._sampling)
        limit = plan.answer_tokens
        if question.dialect is None:
            recall = self._recall(question.prompt)
            return write_words(self.vocabulary, unread, self.context.answer, sampler, limit, recall)
        speculator = self._foresight(question.dialect, question.labels if question.closed else None)
        return write_boxes(speculator, unread, self.context.answer, sampler, limit, plan.draft)

    def _made_foresight(self, dialect: Dialect, labels: tuple[str, ...] | None) -> Speculator:
        return Speculator(Grammar(self.vocabulary, dialect, labels), self.pace.cost)

    def _made_recall(self, question: Prompt) -> TextSpeculator:
        """For what is said to one question."""
        return TextSpeculator(self.pace.cost)

    def _see(self, frame: Frame, plan: ImagePlan) -> list[Embeddings] | None:
        """The embeddings of the plan's pictures. None when stopped."""
        if self._seen and self._seen[0] is frame and self._seen[1] == plan:
            return self._seen[2]
        self._seen = None
        embeddings = []
        for picture in tile_image(frame.image, plan):
            if self._stop.requested:
                return None
            embeddings.append(self._encode(picture))
        self._seen = frame, plan, embeddings
        return embeddings

    def _encode(self, picture: Image) -> Embeddings:
        height, width = picture.shape[:2]
        planned = height // TOKEN_SIDE * (width // TOKEN_SIDE)
        if height % TOKEN_SIDE or width % TOKEN_SIDE or not 0 < planned <= LARGEST_PICTURE:
            raise PerceptionError(
                f"the plan has a picture of {width}x{height}: its sides must be multiples of {TOKEN_SIDE} "
                f"and it may have at most {LARGEST_PICTURE} image tokens"
            )
        pixels = picture.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
        bitmap = mtmd_cpp.mtmd_bitmap_init(width, height, pixels)
        chunks = mtmd_cpp.mtmd_input_chunks_init()
        try:
            marker = mtmd_cpp.mtmd_default_marker()
            text = mtmd_cpp.mtmd_input_text(marker, len(marker), False, False)
            bitmaps = (mtmd_cpp.mtmd_bitmap_p_ctypes * 1)(bitmap)
            if mtmd_cpp.mtmd_tokenize(self._vision, chunks, ctypes.byref(text), bitmaps, 1):
                raise failure(f"llama.cpp cannot take a picture of {width}x{height}")
            (chunk,) = _image_chunks(chunks)
            tokens = mtmd_cpp.mtmd_input_chunk_get_n_tokens(chunk)
            if tokens != planned:
                raise PerceptionError(
                    f"llama.cpp makes {tokens} tokens of a picture of {width}x{height}, planned are {planned}"
                )
            if mtmd_cpp.mtmd_encode_chunk(self._vision, chunk):
                raise failure(f"llama.cpp could not encode a picture of {width}x{height}")
            embeddings = mtmd_cpp.mtmd_get_output_embd(self._vision)
            return np.ctypeslib.as_array(embeddings, shape=(tokens, self._width)).copy()
        finally:
            mtmd_cpp.mtmd_input_chunks_free(chunks)
            mtmd_cpp.mtmd_bitmap_free(bitmap)

    def _check_room(self, plan: FramePlan, text_tokens: int) -> None:
        needed = plan.image.tokens + text_tokens + plan.answer_tokens
        room = self.context.room
        if plan.answer_tokens < 1:
            raise PerceptionError(
                f"the plan leaves {plan.answer_tokens} tokens for the answer: raise the budget"
            )
        if needed > room:
            raise PerceptionError(
                f"the question needs {needed} tokens (image {plan.image.tokens}, text {text_tokens}, answer "
                f"{plan.answer_tokens}) and engine.n_ctx is {room}: raise it, or lower image.max_tokens, "
                f"image.max_tiles or the answer's limit"
            )

    def free(self) -> None:
        """Give all memory back. Nothing may be asked afterwards."""
        self._seen = None
        if self._vision:
            mtmd_cpp.mtmd_free(self._vision)
        if self._context:
            self._context.free()
        if self._model:
            llama_cpp.llama_model_free(self._model)
        self._vision = self._context = self._model = None


def _parts(
    before: Sequence[int],
    markers: Sequence[Sequence[int]],
    seen: Sequence[Embeddings],
) -> list[Part]:
    """The prompt but for the text after the pictures: text, pictures each with its marker."""
    parts: list[Part] = [tuple(before)]
    for marker, embeddings in zip(markers, seen, strict=True):
        parts += [tuple(marker), embeddings] if marker else [embeddings]
    return parts


def _markers(plan: ImagePlan) -> list[tuple[Special, ...]]:
    """The special tokens before each picture of the plan."""
    if not plan.tiled:
        return [()]
    rows, columns = range(1, plan.rows + 1), range(1, plan.columns + 1)
    markers: list[tuple[Special, ...]] = [(tile(row, column),) for row in rows for column in columns]
    return [*markers, (THUMBNAIL,)] if plan.thumbnail_width else markers


def _image_chunks(chunks: Any) -> Iterator[Any]:
    for index in range(mtmd_cpp.mtmd_input_chunks_size(chunks)):
        chunk = mtmd_cpp.mtmd_input_chunks_get(chunks, index)
        if mtmd_cpp.mtmd_input_chunk_get_type(chunk) == mtmd_cpp.MTMD_INPUT_CHUNK_TYPE_IMAGE:
            yield chunk
