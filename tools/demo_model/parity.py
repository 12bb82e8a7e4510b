# SPDX-License-Identifier: Apache-2.0
"""Proof that llama.cpp computes what PyTorch computes: the same image and words, the same logits."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from pathlib import Path

import llama_cpp
import numpy as np
import torch
from llama_cpp import mtmd_cpp
from numpy.typing import NDArray
from tokenizers import Tokenizer

from demo_model import tokenizer as vocabulary
from demo_model.network import VisionLanguageModel
from lfm_perception.errors import PerceptionError
from lfm_perception.scene import Image

SIZES = ((256, 256), (384, 288), (256, 128), (512, 384), (192, 320))
"""Pixels, width and height, of the images compared."""


@dataclass(frozen=True, slots=True)
class Parity:
    """Agreement of the logits after one image and one request."""

    width: int
    height: int
    cosine: float
    same_top: bool


def compare(model: VisionLanguageModel, tokenizer: Tokenizer, text_model: Path, mmproj: Path) -> list[Parity]:
    """Compare the next-token logits of both on an image of each of SIZES (seeded noise and shapes)."""
    rng = np.random.default_rng(7)
    words = "Describe the scene in one sentence."
    results = []
    for width, height in SIZES:
        coarse = rng.integers(0, 256, (height // 32, width // 32, 3), dtype=np.uint8)
        image = np.ascontiguousarray(coarse.repeat(32, axis=0).repeat(32, axis=1))
        ours = _torch_logits(model, tokenizer, image, words)
        theirs = _llama_logits(text_model, mmproj, image, words)
        cosine = float(ours @ theirs / np.linalg.norm(ours) / np.linalg.norm(theirs))
        results.append(Parity(width, height, cosine, int(ours.argmax()) == int(theirs.argmax())))
    return results


def _torch_logits(
    model: VisionLanguageModel, tokenizer: Tokenizer, image: Image, words: str
) -> NDArray[np.float64]:
    places = image.shape[0] * image.shape[1] // 1024
    head = tokenizer.encode("<|im_start|>user\n<|image_start|>", add_special_tokens=False).ids
    tail = tokenizer.encode(
        f"<|image_end|>{words}<|im_end|>\n<|im_start|>assistant\n", add_special_tokens=False
    ).ids
    ids = torch.tensor([[vocabulary.BOS, *head, *[vocabulary.IMAGE] * places, *tail]])
    with torch.no_grad():
        _, tokens = model.see(torch.from_numpy(image)[None])
        hidden = model.read(ids, tokens, vocabulary.IMAGE)
        return model.logits(hidden[0, -1]).double().numpy()


def _llama_logits(text_model: Path, mmproj: Path, image: Image, words: str) -> NDArray[np.float64]:
    prompt = f"<|im_start|>user\n<__media__>{words}<|im_end|>\n<|im_start|>assistant\n"
    model = llama_cpp.llama_model_load_from_file(
        str(text_model).encode(), llama_cpp.llama_model_default_params()
    )
    params = llama_cpp.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_ubatch = 1024, 512, 512
    context = llama_cpp.llama_init_from_model(model, params)
    vision_params = mtmd_cpp.mtmd_context_params_default()
    vision_params.use_gpu = False
    vision_params.warmup = False
    vision_params.image_min_tokens, vision_params.image_max_tokens = 16, 256
    vision = mtmd_cpp.mtmd_init_from_file(str(mmproj).encode(), model, vision_params)
    if not (model and context and vision):
        raise PerceptionError(f"llama.cpp could not load {text_model} with {mmproj}")
    height, width, _ = image.shape
    bitmap = mtmd_cpp.mtmd_bitmap_init(
        width, height, (ctypes.c_uint8 * image.size).from_buffer_copy(image.tobytes())
    )
    chunks = mtmd_cpp.mtmd_input_chunks_init()
    text = mtmd_cpp.mtmd_input_text(prompt.encode(), len(prompt.encode()), True, True)
    code = mtmd_cpp.mtmd_tokenize(vision, chunks, ctypes.byref(text), (ctypes.c_void_p * 1)(bitmap), 1)
    past = llama_cpp.llama_pos(0)
    code = code or mtmd_cpp.mtmd_helper_eval_chunks(
        vision, context, chunks, 0, 0, 512, True, ctypes.byref(past)
    )
    if code:
        raise PerceptionError(f"llama.cpp could not evaluate a {width}x{height} image (code {code})")
    size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
    logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(context, -1), (size,)).astype(np.float64)
    mtmd_cpp.mtmd_input_chunks_free(chunks)
    mtmd_cpp.mtmd_bitmap_free(bitmap)
    mtmd_cpp.mtmd_free(vision)
    llama_cpp.llama_free(context)
    llama_cpp.llama_model_free(model)
    return logits
