# SPDX-License-Identifier: Apache-2.0
"""The demo model's tokenizer: LFM2's special tokens and pre-tokenizer, byte-level BPE, a small vocabulary.

It splits text as LFM2's does: punctuation runs, single words, and runs of up to three digits are
separate tokens, and no token spans several of them. Long words outside everyday English fall into
pieces. Special tokens keep their LFM2 ids (0 to 499).
"""

from __future__ import annotations

import itertools
import json
import random
from dataclasses import replace

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from lfm_perception.demo import questions, world
from lfm_perception.demo.bodies import LABELS
from lfm_perception.geometry import Box
from lfm_perception.questions import BBOX, BBOX_2D

VOCABULARY = 2560
BOS, PAD, IM_START, IM_END, IMAGE, IMAGE_START, IMAGE_END = 1, 0, 6, 7, 396, 498, 499

# The pre-tokenizer of LLaMA 3, which LFM2 shares.
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

_NAMED = {
    0: "<|pad|>",
    1: "<|startoftext|>",
    2: "<|endoftext|>",
    3: "<|fim_pre|>",
    4: "<|fim_mid|>",
    5: "<|fim_suf|>",
    6: "<|im_start|>",
    7: "<|im_end|>",
    8: "<|tool_list_start|>",
    9: "<|tool_list_end|>",
    10: "<|tool_call_start|>",
    11: "<|tool_call_end|>",
    12: "<|tool_response_start|>",
    13: "<|tool_response_end|>",
    396: "<image>",
    497: "<|img_thumbnail|>",
    498: "<|image_start|>",
    499: "<|image_end|>",
    **{
        397 + 10 * row + column: f"<|img_row_{row + 1}_col_{column + 1}|>"
        for row in range(10)
        for column in range(10)
    },
}
SPECIAL = tuple(_NAMED.get(i, f"<|reserved_{i}|>") for i in range(500))

_ENGLISH = """
the of and to in is on at a an it with for as by from that this there here not no yes one two three four
five six seven eight nine ten left right top bottom middle front back near far behind between under over
next into onto out person people man woman box boxes cone cones fork lift pal let let's pallid shape cart
cat dog chair table door window wall floor room road street car truck bus light red green blue yellow orange
white black grey dark bright large small what where which who how many see look find show tell describe
detect locate image picture scene camera robot move moving stand standing walk walking turn stop go wait
open close warehouse empty carry lifting label object objects answer question response array must be
normalized coordinates please all every each instances any other using only
"""

_SPACED = """
inference {}, [" []}}, number frame tracks something alert time Yes No score captions tools now node
[]}}] seconds view off cannot detection labels more nothing have furthest biggest brown largest than
"""
_BARE = r"""
properties parameters type required name description "]}}, seconds number _budget "}}, Seconds
_alert string _period [set _duty _cycle _score _latency set tokens share score (seconds ()] No
_caption _token Report (name _labels Forget Tokens Yes Least "}}}, integer Share _now )] (share
(score ?")] caption Turn Watch disable reset status List items "])] (tokens =" [disable _min [status
[reset [caption [add brown (labels =[" Which Is The Stop [enable add remove enable [remove ")]
nothing There Number
"""
PIECES = (*(f"\u0120{word}" for word in _SPACED.split()), *_BARE.split())  # \u0120: a space in byte-level BPE
"""Pieces of questions, tool lists and calls: whole tokens, the last ones, in the places that the learned
vocabulary left unused. None occurs in what the model is asked for boxes and captions."""


def build() -> Tokenizer:
    """Train the vocabulary; the same on every run."""
    numbers = ["".join(digits) for n in (2, 3) for digits in itertools.product("0123456789", repeat=n)]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(numbers),
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
        min_frequency=2,
    )
    learned = _split(Tokenizer(models.BPE()))
    learned.train_from_iterator(_corpus(), trainer)
    bpe = json.loads(learned.to_str())["model"]
    vocab: dict[str, int] = bpe["vocab"]
    merges = [tuple(pair) if isinstance(pair, list) else tuple(pair.split(" ")) for pair in bpe["merges"]]
    for number in numbers:
        vocab[number] = len(vocab)
        merges.append((number[:-1], number[-1]))
    for piece in PIECES:
        vocab[piece] = len(vocab)
    tokenizer = _split(Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=True)))
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL))
    return tokenizer


def merges_of(tokenizer: Tokenizer) -> list[str]:
    """The merge rules as GGUF stores them: two pieces with a space between."""
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    return [pair if isinstance(pair, str) else " ".join(pair) for pair in merges]


def _split(tokenizer: Tokenizer) -> Tokenizer:
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return tokenizer


_BBOX_2D = replace(
    BBOX_2D,
    system=(
        "Answer with a valid JSON array, one item for each visible match: "
        '{"image_id": 0-based index of the image, "bbox_2d": [xmin, ymin, xmax, ymax] as integers '
        'normalized to [0, 1000], "label": name}. Answer [] if there is none.'
    ),
    user="Box every: {labels}.",
)
"""The words from which the vocabulary of the files that ship was made; others would make another one."""


def _corpus() -> list[str]:
    """Prompts, answers without digits (numbers have their own tokens), captions and everyday words."""
    rng = random.Random(0)
    everyday = [word for word in _ENGLISH.split() if word not in LABELS or word in ("person", "box", "cone")]
    texts = ["user\n", "assistant\n", "system\n"] * 50
    for _ in range(600):
        words = rng.sample(everyday, 12)
        texts += [" ".join(words) + ".", ", ".join(words), *words]
        labels = rng.sample(("person", "box", "cone", "robot", "car", "dog"), 3)
        for dialect in (BBOX, _BBOX_2D):
            objects = [(label, Box(0.1, 0.2, 0.3, 0.4)) for label in labels[: rng.randint(0, 3)]]
            texts += [dialect.answer(objects), dialect.prompt(labels).user, dialect.system]
            texts += [rng.choice(questions.HELD_OUT[dialect.name]).replace("{labels}", ", ".join(labels))]
        texts += [world.describe(labels), world.describe([]), *questions.HELD_OUT["caption"]]
    return ["".join(" " if letter.isdigit() else letter for letter in text) for text in texts]
