# SPDX-License-Identifier: Apache-2.0
"""The readers of data from outside, one entry each.

A reader is a function that gets the path of a file with the input, or the input itself. `prepare` makes it in
an empty folder, in which it may put files that the input refers to; slow imports belong there.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import event_targets
import media_targets
import targets
from mutations import JSON_TOKENS, TEXT_TOKENS, YAML_TOKENS, mutated_bytes, mutated_json, mutated_text
from seeds import (
    ANSWERS,
    BROKEN_BYTES,
    BROKEN_JSON,
    BROKEN_SET,
    BROKEN_YAML,
    COCO,
    DRIFT,
    ERROR,
    EVENT,
    FOLDER_NAMES,
    HEAD,
    LARGE_YAML,
    NAMES,
    REGISTRY,
    REPLY,
    REPORT,
    ROS_SETTINGS,
    RULES,
    SCENE,
    SEQUENCE,
    SET,
    SETTINGS,
    STORED,
    TRUTH,
    WORDS,
    YOLO,
)
from targets import Read


@dataclass(frozen=True)
class Reader:
    """One reader. `file`: name of the file with the input; empty: `read` gets the bytes.

    `by_hand` are inputs that are tried as they are, of which the first is valid.
    """

    name: str
    file: str
    prepare: Callable[[Path], Read]
    make: Callable[[random.Random], bytes]
    by_hand: Callable[[], Sequence[bytes]]


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def text_reader(
    name: str,
    file: str,
    prepare: Callable[[Path], Read],
    seeds: Sequence[str],
    tokens: Sequence[str],
    by_hand: Sequence[str | bytes] = (),
) -> Reader:
    """A reader of text; its inputs are mutations of `seeds`, and those of `by_hand` as they are."""
    hand = [text if isinstance(text, bytes) else _encoded(text) for text in (*seeds, *by_hand)]
    return Reader(
        name,
        file,
        prepare,
        lambda rng: _encoded(mutated_text(rng, rng.choice(seeds), tokens)),
        lambda: hand,
    )


def json_reader(
    name: str, file: str, prepare: Callable[[Path], Read], value: Any, prefix: str = ""
) -> Reader:
    """A reader of JSON, whose inputs are mutations of `value` after a fixed `prefix`."""
    by_hand = [_encoded(prefix + text) for text in (json.dumps(value), *BROKEN_JSON)]
    return Reader(
        name,
        file,
        prepare,
        lambda rng: _encoded(prefix + mutated_json(rng, value)),
        lambda: [*by_hand, *BROKEN_BYTES],
    )


def bytes_reader(
    name: str, file: str, prepare: Callable[[Path], Read], seeds: Callable[[], Sequence[bytes]]
) -> Reader:
    """A reader of binary data, whose inputs are mutations of `seeds`."""
    return Reader(
        name,
        file,
        prepare,
        lambda rng: mutated_bytes(rng, rng.choice(seeds())),
        lambda: [*seeds(), b"", b"\0", b"\xff" * 99],
    )


def _gguf_reader(name: str, index: int) -> Reader:
    def make(rng: random.Random) -> bytes:
        header = targets.gguf_header(index)
        if rng.random() < 0.5:  # near the start, where the metadata is
            return mutated_bytes(rng, header[:2000]) + header[2000:]
        return mutated_bytes(rng, header)

    return Reader(
        name,
        "model.gguf",
        targets.gguf(index),
        make,
        lambda: [targets.gguf_header(index), b"", b"GGUF", b"GGUF\x03\0\0\0" + b"\xff" * 64],
    )


def _recorded_input(rng: random.Random) -> bytes:
    return _encoded(HEAD + mutated_json(rng, targets.recorded_line()).replace("\n", " ") + "\n")


def _recorded_by_hand() -> list[bytes]:
    broken = [_encoded(HEAD + text) for text in (json.dumps(targets.recorded_line()), *BROKEN_JSON)]
    return [*broken, b"", HEAD.encode(), HEAD.encode() + b"x" * (1 << 23), *BROKEN_BYTES]


def _metadata() -> str:
    return media_targets.bag_file("metadata.yaml").decode()


READERS = (
    text_reader(
        "settings YAML",
        "s.yaml",
        targets.settings,
        (SETTINGS, ROS_SETTINGS),
        YAML_TOKENS,
        (*BROKEN_YAML, *LARGE_YAML, *BROKEN_BYTES),
    ),
    text_reader(
        "launch parameter file", "p.yaml", targets.parameter_file, (ROS_SETTINGS,), YAML_TOKENS, BROKEN_YAML
    ),
    text_reader(
        "rule files",
        "rules.yaml",
        event_targets.rules,
        (RULES,),
        (*YAML_TOKENS, "inside", "near", "not", "count", "0", "1"),
        (*BROKEN_YAML, *LARGE_YAML, *BROKEN_BYTES),
    ),
    json_reader("forwarded events", "", event_targets.event, EVENT),
    json_reader("drift baselines", "b.json", event_targets.drift, DRIFT),
    bytes_reader("memory files", "m.db", event_targets.memory, lambda: [event_targets.memory_file()]),
    text_reader("--set KEY=VALUE", "", targets.changes, SET, YAML_TOKENS, BROKEN_SET),
    text_reader("parameter values", "", targets.values, ("0",), ("1", "2")),
    json_reader("model registry", "registry.json", targets.registry, REGISTRY),
    json_reader("model store", "m/model.json", targets.store, STORED),
    _gguf_reader("GGUF language model", 0),
    _gguf_reader("GGUF vision file", 1),
    Reader("recorded answers", "a.jsonl", targets.recorded, _recorded_input, _recorded_by_hand),
    json_reader("scene JSON", "", targets.scene, SCENE),
    text_reader("answers", "", targets.answers, ANSWERS, (*JSON_TOKENS, "\ud800", "null", "```")),
    json_reader("server replies", "", targets.reply, REPLY),
    json_reader("server errors", "", targets.refusal, ERROR),
    json_reader("COCO labels", "instances.json", targets.labels(), COCO),
    text_reader("YOLO labels", "a.txt", targets.labels(classes_txt="person\nbox\n"), (YOLO,), TEXT_TOKENS),
    text_reader(
        "YOLO classes.txt", "classes.txt", targets.labels(a_txt=YOLO), ("person\nbox\n",), TEXT_TOKENS, NAMES
    ),
    text_reader(
        "YOLO data.yaml", "data.yaml", targets.labels(a_txt=YOLO), (FOLDER_NAMES,), YAML_TOKENS, BROKEN_YAML
    ),
    text_reader("MOTChallenge truth", "gt/gt.txt", targets.sequence, (TRUTH,), TEXT_TOKENS),
    text_reader(
        "MOTChallenge seqinfo.ini",
        "seqinfo.ini",
        targets.sequence,
        (SEQUENCE,),
        (*TEXT_TOKENS, "[", "]", "%(x)s"),
    ),
    text_reader("words of languages", "words.yaml", targets.words, WORDS, YAML_TOKENS, BROKEN_YAML),
    json_reader("compared reports", "A.json", targets.compare, REPORT),
    bytes_reader("image files", "a.img", media_targets.image, media_targets.pictures),
    bytes_reader("videos", "video.mp4", media_targets.video, media_targets.videos),
    bytes_reader("Image messages", "", media_targets.message(False), lambda: media_targets.messages(False)),
    bytes_reader(
        "CompressedImage messages", "", media_targets.message(True), lambda: media_targets.messages(True)
    ),
    bytes_reader("bag files mcap", "bag.mcap", media_targets.bag, lambda: [media_targets.bag_file("*.mcap")]),
    bytes_reader(
        "bag files sqlite3", "bag.db3", media_targets.bag, lambda: [media_targets.bag_file("*.db3")]
    ),
    Reader(
        "bag metadata.yaml",
        "bag/metadata.yaml",
        media_targets.bag,
        lambda rng: _encoded(mutated_text(rng, _metadata(), YAML_TOKENS)),
        lambda: [_encoded(_metadata()), b""],
    ),
)
