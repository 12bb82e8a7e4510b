# SPDX-License-Identifier: Apache-2.0
"""The parameters of the model and of the inference backends, like those in `schema.py`."""

from __future__ import annotations

from dataclasses import dataclass

from lfm_perception.settings.spec import parameter

SHA256 = "expected SHA-256 of the file, 64 hexadecimal digits; empty: not checked"


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """The language model."""

    path: str = parameter("", "GGUF file of the language model; empty: the demo model")
    sha256: str = parameter("", SHA256)
    grounding: str = parameter(
        "unknown",
        "documentation of a grounding dialect by the model's vendor",
        ("unknown", "documented", "undocumented"),
    )


@dataclass(frozen=True, slots=True)
class MmprojSettings:
    """The vision tower and projector that belong to the language model."""

    path: str = parameter("", "GGUF file of the vision tower and projector; empty: the demo model's")
    sha256: str = parameter("", SHA256)


@dataclass(frozen=True, slots=True)
class LoraSettings:
    """A low-rank adapter (LoRA) of the language model, applied when it is loaded."""

    path: str = parameter("", "GGUF file of the adapter; empty: none")
    sha256: str = parameter("", SHA256)
    scale: float = parameter(1.0, "factor on the adapter's weights; 0: no effect", (0.0, 10.0))


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """The inference backend, and the options of llama.cpp."""

    backend: str = parameter(
        "llama",
        "inference backend: llama.cpp, an OpenAI-compatible server, or a recording",
        ("llama", "openai", "recorded"),
    )
    n_gpu_layers: int = parameter(0, "number of layers offloaded to the GPU; 0: CPU only, -1: all", (-1, 999))
    vision_gpu: bool = parameter(
        True, "offload vision tower and projector too where layers are offloaded; false saves GPU memory"
    )
    n_ctx: int = parameter(4096, "KV cache size: image, prompt and answer together", (256, 32768), "tokens")
    n_threads: int = parameter(0, "number of CPU threads; 0: automatic, by the idle cores", (0, 256))
    n_batch: int = parameter(512, "maximum batch size of the prefill", (32, 4096), "tokens")
    flash_attn: str = parameter("auto", "use of flash attention", ("auto", "on", "off"))
    isolation: str = parameter(
        "process", "isolation of the model: supervised worker process, or thread", ("process", "thread")
    )
    answer_timeout: float = parameter(
        30.0, "maximum duration of an inference before the worker process is killed", (1.0, 600.0), "s"
    )


@dataclass(frozen=True, slots=True)
class OpenaiSettings:
    """The server of the inference backend `openai`: vLLM, SGLang, llama-server and the like."""

    url: str = parameter("http://127.0.0.1:8000/v1", "base URL of the server's API, up to /v1", fixed=True)
    model: str = parameter("", "name of the model on the server; empty: the first one listed")
    key_variable: str = parameter(
        "", "environment variable LFM_PERCEPTION_* with the API key; empty: no authentication", fixed=True
    )
    ca_file: str = parameter(
        "", "PEM file of the certificate authority; empty: the system's authorities", fixed=True
    )
    timeout: float = parameter(
        10.0, "maximum duration of a request; less where budget.latency is shorter", (0.01, 600.0), "s"
    )
    retries: int = parameter(1, "maximum number of retries of a request, within the timeout", (0, 10))
    jpeg_quality: int = parameter(95, "JPEG quality of the images sent; 0: lossless PNG", (0, 100))
    constraint: str = parameter(
        "auto",
        "enforcement of the dialect's JSON; auto: the first one that the server supports",
        ("auto", "json_schema", "json_object", "none"),
    )
    score: float = parameter(0.5, "score of detections where the server returns no probabilities", (0.0, 1.0))


@dataclass(frozen=True, slots=True)
class RecordedSettings:
    """The recording that the inference backend `recorded` replays."""

    path: str = parameter("", "file written by lfm-perception record")
    match: str = parameter(
        "image",
        "key of the recorded answers: the frame's pixels, or its stamp where video decoders differ",
        ("image", "stamp"),
    )
