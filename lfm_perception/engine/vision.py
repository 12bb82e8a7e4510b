# SPDX-License-Identifier: Apache-2.0
"""The vision tower and projector in llama.cpp's mtmd library: tiles to image embeddings.

The tiles come in their planned sizes (`image_plan`) and are encoded one by one, so that mtmd neither resizes
nor tiles them.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Any

import numpy as np

from lfm_perception.engine.kv_cache import FLASH_ATTENTION, Embeddings
from lfm_perception.engine.native import llama_cpp, llama_error, mtmd_cpp
from lfm_perception.errors import PerceptionError
from lfm_perception.image_plan import MAX_TILE_SIZE, TOKEN_SIDE
from lfm_perception.scene import Image
from lfm_perception.settings import EngineSettings

MAX_TILE_TOKENS = (MAX_TILE_SIZE // TOKEN_SIDE) ** 2
"""Image tokens of the largest tile; mtmd is loaded with this limit, so that it resizes none."""


class VisionEncoder:
    """A loaded mmproj file. For the thread that owns the model.

    Raises PerceptionError when llama.cpp cannot load the file, or it has no vision tower for the model.
    """

    def __init__(self, mmproj: Path, model: Any, settings: EngineSettings, threads: int) -> None:
        self._hidden_size = llama_cpp.llama_model_n_embd_inp(model)
        params = mtmd_cpp.mtmd_context_params_default()
        params.use_gpu = settings.vision_gpu and settings.n_gpu_layers != 0
        params.n_threads = threads
        params.flash_attn_type = FLASH_ATTENTION[settings.flash_attn]
        params.image_min_tokens, params.image_max_tokens = 1, MAX_TILE_TOKENS
        params.print_timings = False
        params.warmup = False
        self._context = mtmd_cpp.mtmd_init_from_file(os.fsencode(mmproj), model, params)
        if not self._context:
            raise llama_error(f"llama.cpp cannot load {mmproj}")
        if not mtmd_cpp.mtmd_support_vision(self._context):
            self.free()
            raise PerceptionError(f"{mmproj} has no vision tower: give the mmproj file of the model")

    def encode(self, tile: Image) -> Embeddings:
        """The embeddings of a tile, uint8 RGB of shape (height, width, 3): one per 32x32 pixels.

        Raises PerceptionError for a size that mtmd would change.
        """
        height, width = tile.shape[:2]
        planned = height // TOKEN_SIDE * (width // TOKEN_SIDE)
        if height % TOKEN_SIDE or width % TOKEN_SIDE or not 0 < planned <= MAX_TILE_TOKENS:
            raise PerceptionError(
                f"the plan has an image of {width}x{height}: its sides must be multiples of {TOKEN_SIDE} "
                f"and it may have at most {MAX_TILE_TOKENS} image tokens"
            )
        pixels = tile.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
        bitmap = mtmd_cpp.mtmd_bitmap_init(width, height, pixels)
        chunks = mtmd_cpp.mtmd_input_chunks_init()
        try:
            marker = mtmd_cpp.mtmd_default_marker()
            text = mtmd_cpp.mtmd_input_text(marker, len(marker), False, False)
            bitmaps = (mtmd_cpp.mtmd_bitmap_p_ctypes * 1)(bitmap)
            if mtmd_cpp.mtmd_tokenize(self._context, chunks, ctypes.byref(text), bitmaps, 1):
                raise llama_error(f"llama.cpp cannot take an image of {width}x{height}")
            (chunk,) = _image_chunks(chunks)
            tokens = mtmd_cpp.mtmd_input_chunk_get_n_tokens(chunk)
            if tokens != planned:
                raise PerceptionError(
                    f"llama.cpp makes {tokens} tokens of an image of {width}x{height}, planned are {planned}"
                )
            if mtmd_cpp.mtmd_encode_chunk(self._context, chunk):
                raise llama_error(f"llama.cpp could not encode an image of {width}x{height}")
            embeddings = mtmd_cpp.mtmd_get_output_embd(self._context)
            return np.ctypeslib.as_array(embeddings, shape=(tokens, self._hidden_size)).copy()
        finally:
            mtmd_cpp.mtmd_input_chunks_free(chunks)
            mtmd_cpp.mtmd_bitmap_free(bitmap)

    def free(self) -> None:
        """Free the vision tower. No other method may be called afterwards."""
        mtmd_cpp.mtmd_free(self._context)


def _image_chunks(chunks: Any) -> list[Any]:
    every = [
        mtmd_cpp.mtmd_input_chunks_get(chunks, index)
        for index in range(mtmd_cpp.mtmd_input_chunks_size(chunks))
    ]
    image = mtmd_cpp.MTMD_INPUT_CHUNK_TYPE_IMAGE
    return [chunk for chunk in every if mtmd_cpp.mtmd_input_chunk_get_type(chunk) == image]
