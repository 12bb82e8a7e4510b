# SPDX-License-Identifier: Apache-2.0
"""CPU time and memory of vocabulary and open grammar: the 450M has 65,536 tokens, the 3B 128,000.

    python benchmarks/vocabulary.py [--json FILE]

The vocabulary is the demo model's, filled up with made-up words of letters of several scripts. The least of
several runs is taken of each time, which other processes disturb least.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from lfm_perception.backends.llama import model_files
from lfm_perception.engine.decoding import Sampler
from lfm_perception.engine.grammar import Grammar
from lfm_perception.engine.native import capture_log, llama_cpp
from lfm_perception.engine.vocabulary import Vocabulary
from lfm_perception.geometry import Box
from lfm_perception.provenance import versions
from lfm_perception.questions import BBOX
from lfm_perception.settings import Settings

DECISIONS = 100
RUNS = 5

ALPHABETS = (
    "abcdefghijklmnopqrstuvwxyz",
    "абвгдежзиклмнопрстуфхцчшщыэюя",
    "あいうえおかきくけこさしすせそ漢字日本語",
)


def write_vocabulary(size: int, path: Path) -> None:
    """A GGUF file with the demo model's metadata and a vocabulary of `size` tokens, without weights."""
    reader = gguf.GGUFReader(model_files(Settings())[0])
    values: dict[str, Any] = {name: field.contents() for name, field in reader.fields.items()}
    chance = random.Random(0)
    tokens = list(dict.fromkeys(values["tokenizer.ggml.tokens"]))
    byte_letters = _byte_letters()
    known = set(tokens)
    while len(tokens) < size:
        letters = chance.choice(ALPHABETS)
        word = chance.choice(("", " ")) + "".join(chance.choices(letters, k=chance.randint(3, 9)))
        token = "".join(byte_letters[byte] for byte in word.encode())
        if token not in known:
            known.add(token)
            tokens.append(token)
    writer = gguf.GGUFWriter(path, "lfm2")
    writer.add_vocab_size(size)
    writer.add_tokenizer_model(values["tokenizer.ggml.model"])
    writer.add_tokenizer_pre(values["tokenizer.ggml.pre"])
    types = list(values["tokenizer.ggml.token_type"])
    writer.add_token_list(tokens)
    writer.add_token_types(types + [gguf.TokenType.NORMAL] * (size - len(types)))
    writer.add_token_merges(values["tokenizer.ggml.merges"])
    writer.add_bos_token_id(values["tokenizer.ggml.bos_token_id"])
    writer.add_eos_token_id(values["tokenizer.ggml.eos_token_id"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def _byte_letters() -> list[str]:
    """The letter that byte-level BPE writes for each byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    other = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(other)) for byte in range(256)]


def measure(path: Path) -> dict[str, Any]:
    """CPU time of each step, and the memory that all together take."""
    params = llama_cpp.llama_model_default_params()
    params.vocab_only = True
    model = llama_cpp.llama_model_load_from_file(os.fsencode(path), params)
    assert model
    objects = [("some pallets of the long wall beside a forklift near the door", Box(0.1, 0.2, 0.3, 0.4))]
    before_mb = _memory_mb()
    marks = [("", time.process_time())]
    vocabulary = Vocabulary(model)
    marks.append(("read the pieces", time.process_time()))
    _ = vocabulary.name_tokens
    marks.append(("tokens of names", time.process_time()))
    grammar = Grammar(vocabulary, BBOX, None)
    marks.append(("open grammar", time.process_time()))
    states = [state for state, _ in grammar.path(objects)]
    marks.append(("first answer", time.process_time()))
    widest = max(states, key=lambda state: len(state.allowed_tokens))
    memory_mb = _memory_mb() - before_mb
    sampler = Sampler(Settings().sampling)
    logits = np.random.default_rng(0).normal(size=len(vocabulary.pieces)).astype(np.float32)
    began_s = time.process_time()
    for _ in range(DECISIONS):
        sampler.sample(logits, widest.allowed_tokens)
    decision_s = (time.process_time() - began_s) / DECISIONS
    return {
        "tokens": len(vocabulary.pieces),
        "allowed_at_once": len(widest.allowed_tokens),
        "memory_mb": round(memory_mb, 1),
        "ms": {
            **{name: round(1000 * (ended - began), 1) for (_, began), (name, ended) in pairwise(marks)},
            "a decision over all names": round(1000 * decision_s, 2),
        },
    }


def _memory_mb() -> float:
    """Resident memory of this process now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[65_536, 128_000])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        llama_cpp.llama_backend_init()
        capture_log()
        print(json.dumps(measure(arguments.measure)))
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for size in arguments.sizes:
            path = Path(folder, f"{size}.gguf")
            write_vocabulary(size, path)
            command = [sys.executable, __file__, "--measure", path]  # a process of its own, for its memory
            runs = [json.loads(subprocess.check_output(command)) for _ in range(RUNS)]
            rows.append(
                {**runs[0], "ms": {step: min(run["ms"][step] for run in runs) for step in runs[0]["ms"]}}
            )
            print(json.dumps(rows[-1], indent=2))
    if arguments.json:
        arguments.json.write_text(json.dumps({"versions": versions(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
