# SPDX-License-Identifier: Apache-2.0
"""Write the network as GGUF: a language model, an mmproj, and quantized copies of the former.

Names and keys are those of llama.cpp's `lfm2` architecture and `lfm2` projector, so that the demo model
takes the very path of LFM2-VL.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor

from demo_model import tokenizer as vocabulary
from demo_model.network import PATCH, UNSHUFFLE, Attention, Shape, VisionLanguageModel
from lfm_perception.errors import PerceptionError

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "<|im_start|>{{ message.role }}\n"
    # words alone, or a list of parts
    "{% if message.content is string %}{{ message.content }}{% else %}"
    "{% for part in message.content %}"
    "{% if part.type == 'image' %}<image>{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
FILE_TYPES = {"Q4_0": 2, "Q8_0": 7}
"""llama.cpp's llama_ftype of the quantizations that are written."""


def write_language_model(model: VisionLanguageModel, tokenizer: Tokenizer, path: Path, name: str) -> None:
    """The language model as GGUF, matrices in float16."""
    shape = model.shape
    writer = gguf.GGUFWriter(str(path), "lfm2")
    writer.add_name(name)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_context_length(4096)
    writer.add_embedding_length(shape.hidden)
    writer.add_block_count(len(shape.layers))
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv([shape.kv_heads if kind == "a" else 0 for kind in shape.layers])
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_layer_norm_rms_eps(shape.norm_eps)
    writer.add_vocab_size(shape.vocabulary)
    writer.add_shortconv_l_cache(shape.conv_length)
    _add_tokenizer(writer, tokenizer, shape.vocabulary)
    for tensor_name, tensor in _language_tensors(model):
        writer.add_tensor(tensor_name, _stored(tensor_name, tensor))
    _finish(writer)


def write_mmproj(model: VisionLanguageModel, path: Path, name: str) -> None:
    """The vision tower and projector as GGUF, matrices in float16."""
    shape = model.shape
    writer = gguf.GGUFWriter(str(path), "clip")
    writer.add_type(gguf.GGUFType.MMPROJ)
    writer.add_name(name)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_clip_has_vision_encoder(True)
    writer.add_clip_projector_type(gguf.VisionProjectorType.LFM2)
    writer.add_vision_projection_dim(shape.hidden)
    writer.add_vision_image_size(shape.tower_grid * PATCH)
    writer.add_vision_patch_size(PATCH)
    writer.add_vision_embedding_length(shape.tower_hidden)
    writer.add_vision_feed_forward_length(shape.tower_feed_forward)
    writer.add_vision_block_count(shape.tower_layers)
    writer.add_vision_head_count(shape.tower_heads)
    writer.add_vision_attention_layernorm_eps(shape.tower_eps)
    writer.add_vision_projector_scale_factor(UNSHUFFLE)
    writer.add_vision_image_mean([0.5, 0.5, 0.5])
    writer.add_vision_image_std([0.5, 0.5, 0.5])
    writer.add_vision_use_gelu(True)
    for tensor_name, tensor in _vision_tensors(model):
        writer.add_tensor(tensor_name, _stored(tensor_name, tensor))
    _finish(writer)


def quantize(source: Path, target: Path, kind: str) -> None:
    """A copy of a GGUF language model, quantized by llama.cpp to one of FILE_TYPES."""
    import llama_cpp

    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = FILE_TYPES[kind]
    code = llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params))
    if code:
        raise PerceptionError(f"llama.cpp could not quantize {source} to {kind} (code {code})")


def _add_tokenizer(writer: gguf.GGUFWriter, tokenizer: Tokenizer, size: int) -> None:
    tokens = [tokenizer.id_to_token(index) or "" for index in range(size)]
    unused = {t for t in tokens if t.startswith(("<|unused", "<|reserved"))}
    kinds = [
        gguf.TokenType.UNUSED
        if token in unused
        else gguf.TokenType.CONTROL
        if index < len(vocabulary.SPECIAL)
        else gguf.TokenType.NORMAL
        for index, token in enumerate(tokens)
    ]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("lfm2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(vocabulary.merges_of(tokenizer))
    writer.add_bos_token_id(vocabulary.BOS)
    writer.add_eos_token_id(vocabulary.IM_END)
    writer.add_pad_token_id(vocabulary.PAD)
    writer.add_add_bos_token(True)
    writer.add_chat_template(CHAT_TEMPLATE)


def _language_tensors(model: VisionLanguageModel) -> Iterator[tuple[str, Tensor]]:
    language = model.language
    yield "token_embd.weight", language.embedding.weight
    yield "token_embd_norm.weight", language.norm.weight
    for index, layer in enumerate(language.layers):
        block = f"blk.{index}."
        yield block + "attn_norm.weight", layer.operator_norm.weight
        yield block + "ffn_norm.weight", layer.feed_forward_norm.weight
        yield block + "ffn_gate.weight", layer.gate.weight
        yield block + "ffn_up.weight", layer.up.weight
        yield block + "ffn_down.weight", layer.down.weight
        operator = layer.operator
        if isinstance(operator, Attention):
            yield block + "attn_q.weight", operator.query.weight
            yield block + "attn_k.weight", operator.key.weight
            yield block + "attn_v.weight", operator.value.weight
            yield block + "attn_output.weight", operator.out.weight
            yield block + "attn_q_norm.weight", operator.query_norm.weight
            yield block + "attn_k_norm.weight", operator.key_norm.weight
        else:
            yield block + "shortconv.conv.weight", operator.kernel
            yield block + "shortconv.in_proj.weight", operator.inner.weight
            yield block + "shortconv.out_proj.weight", operator.out.weight


def _vision_tensors(model: VisionLanguageModel) -> Iterator[tuple[str, Tensor]]:
    tower, shape = model.tower, model.shape
    patch = tower.patch.weight.unflatten(1, (PATCH, PATCH, 3)).permute(0, 3, 1, 2)
    yield "v.patch_embd.weight", patch
    yield "v.patch_embd.bias", tower.patch.bias
    yield "v.position_embd.weight", tower.position.reshape(-1, shape.tower_hidden)
    yield "v.post_ln.weight", tower.norm.weight
    yield "v.post_ln.bias", tower.norm.bias
    for index, layer in enumerate(tower.layers):
        parts = {
            "ln1": layer.norm1,
            "attn_q": layer.query,
            "attn_k": layer.key,
            "attn_v": layer.value,
            "attn_out": layer.out,
            "ln2": layer.norm2,
            "ffn_up": layer.up,
            "ffn_down": layer.down,
        }
        for name, part in parts.items():
            yield f"v.blk.{index}.{name}.weight", part.weight
            yield f"v.blk.{index}.{name}.bias", part.bias
    for name, part in {"mm.1": model.project_in, "mm.2": model.project_out}.items():
        yield f"{name}.weight", part.weight
        yield f"{name}.bias", part.bias


def _stored(name: str, tensor: Tensor) -> NDArray[np.generic]:
    """Matrices as float16; vectors, convolution kernels and positions as float32."""
    array = tensor.detach().to(torch.float32).contiguous().numpy()
    narrow = array.ndim >= 2 and "shortconv.conv" not in name and "position" not in name
    return array.astype(np.float16) if narrow else array


def _finish(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_all(model: VisionLanguageModel, folder: Path, name: str = "LFM2-VL demo model") -> dict[str, Path]:
    """All files of the demo model in `folder`: f16, Q8_0, Q4_0 and mmproj, by kind."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {kind: folder / f"demo-vl-{kind}.gguf" for kind in ("f16", *FILE_TYPES)}
    files["mmproj"] = folder / "mmproj-demo-vl.gguf"
    write_language_model(model, vocabulary.build(), files["f16"], name)
    for kind in FILE_TYPES:
        quantize(files["f16"], files[kind], kind)
    write_mmproj(model, files["mmproj"], name)
    return files


def shipped(folder: Path) -> tuple[Path, Path]:
    """The language model and the mmproj in a folder of files that ship."""
    return folder / "demo-vl-Q4_0.gguf", folder / "mmproj-demo-vl.gguf"


def load_files(text_model: Path, mmproj: Path) -> VisionLanguageModel:
    """The network with the sizes and weights of GGUF files, as far as their quantization kept them.

    Raises PerceptionError when a tensor is missing or of another shape.
    """
    readers = gguf.GGUFReader(text_model), gguf.GGUFReader(mmproj)
    model = VisionLanguageModel(_shape(*readers)).eval()
    with torch.no_grad():
        for reader, tensors in zip(readers, (_language_tensors(model), _vision_tensors(model)), strict=True):
            stored = {tensor.name: tensor for tensor in reader.tensors}
            for name, tensor in tensors:
                if name not in stored or stored[name].n_elements != tensor.numel():
                    raise PerceptionError(f"there is no tensor {name} of shape {tuple(tensor.shape)}")
                values = gguf.dequantize(stored[name].data, stored[name].tensor_type)
                tensor.copy_(torch.from_numpy(np.array(values, np.float32)).reshape(tensor.shape))
    return model


def _shape(text_model: gguf.GGUFReader, mmproj: gguf.GGUFReader) -> Shape:
    """The sizes of the network in GGUF files."""

    def value(reader: gguf.GGUFReader, key: str) -> Any:
        if (field := reader.get_field(key)) is None:
            raise PerceptionError(f"the GGUF file has no {key}")
        return field.contents()

    language, tower = partial(value, text_model), partial(value, mmproj)
    sizes = {tensor.name: [int(n) for n in tensor.shape] for tensor in mmproj.tensors}
    kv_heads = language("lfm2.attention.head_count_kv")
    return Shape(
        vocabulary=language("lfm2.vocab_size"),
        hidden=language("lfm2.embedding_length"),
        layers="".join("a" if heads else "c" for heads in kv_heads),
        feed_forward=language("lfm2.feed_forward_length"),
        heads=language("lfm2.attention.head_count"),
        kv_heads=max(kv_heads),
        conv_length=language("lfm2.shortconv.l_cache"),
        rope_base=language("lfm2.rope.freq_base"),
        norm_eps=language("lfm2.attention.layer_norm_rms_epsilon"),
        tower_hidden=tower("clip.vision.embedding_length"),
        tower_layers=tower("clip.vision.block_count"),
        tower_feed_forward=tower("clip.vision.feed_forward_length"),
        tower_heads=tower("clip.vision.attention.head_count"),
        tower_grid=tower("clip.vision.image_size") // PATCH,
        tower_eps=tower("clip.vision.attention.layer_norm_epsilon"),
        projector_hidden=sizes["mm.1.bias"][0],
    )


def load_checkpoint(path: Path) -> VisionLanguageModel:
    """The model of a training checkpoint (`demo.train`), without its training heads."""
    saved = torch.load(path, weights_only=False, map_location="cpu")
    model = VisionLanguageModel(Shape(**saved["shape"]))
    prefix = "model."
    state = {key[len(prefix) :]: value for key, value in saved["trainee"].items() if key.startswith(prefix)}
    model.load_state_dict(state)
    return model.eval()
