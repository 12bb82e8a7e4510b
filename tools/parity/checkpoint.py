# SPDX-License-Identifier: Apache-2.0
"""The demo model as a Transformers checkpoint, to be served by a server that reads no GGUF files.

    PYTHONPATH=.:tools /tmp/reference/bin/python -m parity.checkpoint /tmp/demo-checkpoint
    /tmp/reference/bin/transformers serve /tmp/demo-checkpoint --port 8123
    python benchmarks/servers.py http://127.0.0.1:8123/v1

The environment is that of `parity.reference`, with accelerate, fastapi, openai and uvicorn besides.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch
from demo_model import tokenizer as vocabulary
from demo_model.export import CHAT_TEMPLATE, load_files
from demo_model.network import UNSHUFFLE, Attention, Shape, VisionLanguageModel
from torch import Tensor, nn
from transformers import (
    GenerationConfig,
    Lfm2VlConfig,
    Lfm2VlForConditionalGeneration,
    PreTrainedTokenizerFast,
)
from transformers.models.lfm2_vl.image_processing_lfm2_vl import Lfm2VlImageProcessor
from transformers.models.lfm2_vl.processing_lfm2_vl import Lfm2VlProcessor

from lfm_perception.backends.llama import model_files
from lfm_perception.settings import Settings


def config(shape: Shape) -> Lfm2VlConfig:
    """The configuration of a network of this shape."""
    text = {
        "vocab_size": shape.vocabulary,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.feed_forward,
        "block_auto_adjust_ff_dim": False,
        "num_hidden_layers": len(shape.layers),
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "layer_types": ["conv" if kind == "c" else "full_attention" for kind in shape.layers],
        "conv_L_cache": shape.conv_length,
        "norm_eps": shape.norm_eps,
        "rope_parameters": {"rope_type": "default", "rope_theta": shape.rope_base},
        "max_position_embeddings": 4096,
        "bos_token_id": vocabulary.BOS,
        "eos_token_id": vocabulary.IM_END,
        "pad_token_id": vocabulary.PAD,
    }
    vision = {
        "hidden_size": shape.tower_hidden,
        "intermediate_size": shape.tower_feed_forward,
        "num_hidden_layers": shape.tower_layers,
        "num_attention_heads": shape.tower_heads,
        "num_patches": shape.tower_grid**2,
        "layer_norm_eps": shape.tower_eps,
        "vision_use_head": False,
    }
    return Lfm2VlConfig(
        text_config={"model_type": "lfm2", **text},
        vision_config={"model_type": "siglip2_vision_model", **vision},
        image_token_id=vocabulary.IMAGE,
        projector_hidden_act="gelu_pytorch_tanh",
        projector_hidden_size=shape.projector_hidden,
        projector_use_layernorm=False,
        downsample_factor=UNSHUFFLE,
    )


def weights(model: VisionLanguageModel) -> Iterator[tuple[str, Tensor]]:
    """The network's parameters under the names of `Lfm2VlForConditionalGeneration`."""
    yield "lm_head.weight", model.language.embedding.weight
    for prefix, part in modules(model):
        for name, tensor in part.named_parameters(recurse=False):
            yield f"model.{prefix}.{name}", tensor
    for index, layer in enumerate(model.language.layers):
        if not isinstance(layer.operator, Attention):
            kernel = layer.operator.kernel[:, None]
            yield f"model.language_model.layers.{index}.conv.conv.weight", kernel
    yield "model.vision_tower.embeddings.position_embedding.weight", model.tower.position.flatten(0, 1)


def modules(model: VisionLanguageModel) -> Iterator[tuple[str, nn.Module]]:
    """The modules whose parameters have the same names in both."""
    language, tower = model.language, model.tower
    yield "language_model.embed_tokens", language.embedding
    yield "language_model.embedding_norm", language.norm
    for index, layer in enumerate(language.layers):
        parts = {
            "operator_norm": layer.operator_norm,
            "ffn_norm": layer.feed_forward_norm,
            "feed_forward.w1": layer.gate,
            "feed_forward.w3": layer.up,
            "feed_forward.w2": layer.down,
        }
        operator = layer.operator
        if isinstance(operator, Attention):
            parts |= {
                "self_attn.q_proj": operator.query,
                "self_attn.k_proj": operator.key,
                "self_attn.v_proj": operator.value,
                "self_attn.out_proj": operator.out,
                "self_attn.q_layernorm": operator.query_norm,
                "self_attn.k_layernorm": operator.key_norm,
            }
        else:
            parts |= {"conv.in_proj": operator.inner, "conv.out_proj": operator.out}
        yield from ((f"language_model.layers.{index}.{name}", part) for name, part in parts.items())
    yield "vision_tower.embeddings.patch_embedding", tower.patch
    yield "vision_tower.post_layernorm", tower.norm
    for index, layer in enumerate(tower.layers):
        parts = {
            "layer_norm1": layer.norm1,
            "layer_norm2": layer.norm2,
            "self_attn.q_proj": layer.query,
            "self_attn.k_proj": layer.key,
            "self_attn.v_proj": layer.value,
            "self_attn.out_proj": layer.out,
            "mlp.fc1": layer.up,
            "mlp.fc2": layer.down,
        }
        yield from ((f"vision_tower.encoder.layers.{index}.{name}", part) for name, part in parts.items())
    yield "multi_modal_projector.linear_1", model.project_in
    yield "multi_modal_projector.linear_2", model.project_out


def processor() -> Lfm2VlProcessor:
    """The processor with the demo model's vocabulary and chat template."""
    special = {"image_token": "<image>", "image_start_token": "<|image_start|>"}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=vocabulary.build(),
        bos_token="<|startoftext|>",
        eos_token="<|im_end|>",
        pad_token="<|pad|>",
        image_token="<image>",
        extra_special_tokens={**special, "image_end_token": "<|image_end|>"},
    )
    return Lfm2VlProcessor(Lfm2VlImageProcessor(), tokenizer, CHAT_TEMPLATE)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    network = load_files(*model_files(Settings()))
    with torch.no_grad():
        model = Lfm2VlForConditionalGeneration(config(network.shape)).eval()
        model.load_state_dict(dict(weights(network)))
    model.generation_config = GenerationConfig(
        bos_token_id=vocabulary.BOS, eos_token_id=vocabulary.IM_END, pad_token_id=vocabulary.PAD
    )
    model.save_pretrained(folder)
    processor().save_pretrained(folder)


if __name__ == "__main__":
    main()
