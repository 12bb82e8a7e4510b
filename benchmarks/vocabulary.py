# SPDX-License-Identifier: Apache-2.0
"""CPU time and memory of vocabulary and open grammar: the 450M has 65,536 tokens, the 3B 128,000.

    python benchmarks/vocabulary.py

The vocabulary is the demo model's, filled up with made-up words of letters of several scripts.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
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
from lfm_perception.questions import BBOX
from lfm_perception.settings import Settings

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


def measure(path: Path) -> None:
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
    state, widest = grammar.start, 0
    for state, _token in grammar.path(objects):
        widest = max(widest, len(state.allowed_tokens))
    marks.append(("first answer", time.process_time()))
    print(f"{len(vocabulary.pieces)} tokens, {widest} allowed at once, {_memory_mb() - before_mb:.0f} MB")
    for (_, began_s), (name, ended_s) in itertools.pairwise(marks):
        print(f"  {name}: {1000 * (ended_s - began_s):.1f} ms")
    sampler, logits = (
        Sampler(Settings().sampling),
        np.random.default_rng(0).normal(size=len(vocabulary.pieces)),
    )
    open_state = max((each for each, _ in grammar.path(objects)), key=lambda s: len(s.allowed_tokens))
    began_s = time.process_time()
    for _ in range(100):
        sampler.sample(logits.astype(np.float32), open_state.allowed_tokens)
    print(f"  a decision over all names: {10 * (time.process_time() - began_s):.2f} ms")


def _memory_mb() -> float:
    """Resident memory of this process now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[65_536, 128_000])
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        llama_cpp.llama_backend_init()
        capture_log()
        measure(arguments.measure)
        return
    with tempfile.TemporaryDirectory() as folder:
        for size in arguments.sizes:
            path = Path(folder, f"{size}.gguf")
            write_vocabulary(size, path)
            subprocess.run([sys.executable, __file__, "--measure", path], check=True)  # for its memory


if __name__ == "__main__":
    main()
