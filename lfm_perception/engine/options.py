# SPDX-License-Identifier: Apache-2.0
"""The model's probabilities of a fixed set of answers: those of constrained decoding over their tokens.

The answers form a tree of tokens, each with the end token behind it. At every node with several branches the
logits of the branches are read and normalized; the probability of an answer is the product along its path.
That is the distribution of constrained decoding at temperature 1, and the probabilities sum to 1. Answers
that differ in their first token, such as Yes and No, cost the logits of one position.

llama.cpp would divide the branches of a tree into batches of their own, because its recurrent state belongs
to a sequence; so the tree is read path by path, the common tokens once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from lfm_perception.engine.chat_template import TURN_END
from lfm_perception.engine.decoding import DecodedAnswer, DecodeFunction
from lfm_perception.engine.kv_cache import MAX_EXACT_OUTPUTS
from lfm_perception.engine.vocabulary import Vocabulary
from lfm_perception.errors import PerceptionError, shown
from lfm_perception.typed_questions import MAX_OPTION_TOKENS

Prefix = tuple[int, ...]
"""Tokens from the beginning of an answer."""


def decode_options(
    vocabulary: Vocabulary, options: Sequence[str], decode: DecodeFunction, limit: int
) -> DecodedAnswer:
    """The likeliest of the options, and the probability of each.

    Args:
        options: different texts, none blank.
        decode: the model at the end of the prompt.
        limit: most tokens of an answer.

    Returns: an answer without probabilities, `truncated`, when a stop was requested.

    Raises:
        PerceptionError: an option is longer than the limit.
    """
    end = vocabulary.special_token(TURN_END)
    sequences = [(*vocabulary.tokenize(option), end) for option in options]
    for option, sequence in zip(options, sequences, strict=True):
        if len(sequence) - 1 > min(limit, MAX_OPTION_TOKENS):
            or_else = ", or raise budget.tokens" if len(sequence) - 1 <= MAX_OPTION_TOKENS else ""
            raise PerceptionError(
                f"the option {shown(option)} has {len(sequence) - 1} tokens and an answer may have "
                f"{min(limit, MAX_OPTION_TOKENS)}: shorten it{or_else}"
            )
    branches: dict[Prefix, list[int]] = {}
    for sequence in sequences:
        for prefix, token in zip(_prefixes(sequence), sequence, strict=True):
            tokens = branches.setdefault(prefix, [])
            if token not in tokens:
                tokens.append(token)
    # the end of the prompt is always read, so that the batch can be rolled back to it
    branches = {prefix: tokens for prefix, tokens in branches.items() if len(tokens) > 1 or not prefix}

    log_shares: dict[Prefix, dict[int, float]] = {}
    for path in _paths(branches):
        rows = decode(0, path[-1], [len(prefix) - 1 for prefix in path])
        if rows is None:
            return DecodedAnswer("", (), 0, truncated=True)
        for prefix, logits in zip(path, rows, strict=True):
            tokens = branches[prefix]
            values = logits[tokens].astype(np.float64)
            if not np.isfinite(values).all():
                raise PerceptionError(
                    "the model computed NaN or infinity instead of probabilities: its files are damaged, "
                    "compare their SHA-256 with the publisher's"
                )
            values -= values.max()
            log_shares[prefix] = dict(zip(tokens, values - np.log(np.exp(values).sum()), strict=True))

    probabilities = tuple(
        math.exp(
            sum(
                log_shares[prefix][token]
                for prefix, token in zip(_prefixes(sequence), sequence, strict=True)
                if prefix in branches
            )
        )
        for sequence in sequences
    )
    best = int(np.argmax(probabilities))
    return DecodedAnswer(
        options[best], (), len(sequences[best]) - 1, truncated=False, probabilities=probabilities
    )


def _prefixes(sequence: Sequence[int]) -> list[Prefix]:
    return [tuple(sequence[:length]) for length in range(len(sequence))]


def _paths(branches: dict[Prefix, list[int]]) -> list[list[Prefix]]:
    """The branching prefixes, grouped so that those of a group begin one another; the shortest first.

    The first group begins with the empty prefix.
    """
    paths: list[list[Prefix]] = []
    for prefix in sorted(branches, key=len):
        for path in paths:
            if len(path) < MAX_EXACT_OUTPUTS and prefix[: len(path[-1])] == path[-1]:
                path.append(prefix)
                break
        else:
            paths.append([prefix])
    return paths
