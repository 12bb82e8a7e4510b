# SPDX-License-Identifier: Apache-2.0
"""The model's vocabulary: the text of each token, and the tokenization of text."""

from __future__ import annotations

import codecs
import ctypes
import re
from collections.abc import Iterable
from contextlib import suppress
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from lfm_perception.engine.chat_template import TURN_END, SpecialToken
from lfm_perception.engine.native import llama_cpp
from lfm_perception.errors import PerceptionError

_MARKUP = re.compile(rb"<[^<>\s]+>")


class Vocabulary:
    """The tokens of a loaded model. For the thread that owns the model.

    `pieces[token]` is the text of a token as UTF-8 bytes, which may begin or end inside a character;
    empty for special tokens. `end_tokens` end an answer.
    """

    def __init__(self, model: llama_cpp.llama_model_p) -> None:
        self._vocab = llama_cpp.llama_model_get_vocab(model)
        count = llama_cpp.llama_vocab_n_tokens(self._vocab)
        buffer = ctypes.create_string_buffer(256)
        self.pieces: tuple[bytes, ...] = tuple(self._piece(token, buffer) for token in range(count))
        special = (token for token in range(count) if not self.pieces[token])
        ends = {token for token in special if llama_cpp.llama_vocab_is_eog(self._vocab, token)}
        self.end_tokens = frozenset(ends | {self.special_token(TURN_END)})

    def special_token(self, text: SpecialToken) -> int:
        """The token of this name. Raises PerceptionError when the vocabulary lacks it."""
        tokens = self._tokenize(text, parse_special=True)
        if len(tokens) != 1 or self.pieces[tokens[0]]:
            raise PerceptionError(
                f"the model's vocabulary has no special token {text}: it is not an LFM2-VL model"
            )
        return tokens[0]

    def tokenize(self, text: str) -> list[int]:
        """The tokens of plain text. Raises PerceptionError when one of them is a special token."""
        tokens = self._tokenize(text, parse_special=False)
        if any(not self.pieces[token] for token in tokens):
            raise PerceptionError(f"the text holds a special token: {text!r}")
        return tokens

    def encode(self, parts: Iterable[str]) -> list[int]:
        """The tokens of a prompt's parts: special tokens for each `SpecialToken`, else plain text."""
        tokens: list[int] = []
        for part in parts:
            tokens += [self.special_token(part)] if isinstance(part, SpecialToken) else self.tokenize(part)
        return tokens

    @cached_property
    def name_tokens(self) -> NameTokens:
        """The tokens that may stand in a label of an open vocabulary."""
        return NameTokens(self.pieces)

    def _tokenize(self, text: str, *, parse_special: bool) -> list[int]:
        encoded = text.encode(errors="replace")
        tokens = (llama_cpp.llama_token * (len(encoded) + 1))()
        count = llama_cpp.llama_tokenize(
            self._vocab, encoded, len(encoded), tokens, len(tokens), False, parse_special
        )
        if count < 0:
            raise PerceptionError(f"the model's vocabulary cannot write {text!r}")
        return tokens[:count]

    def _piece(self, token: int, buffer: ctypes.Array[ctypes.c_char]) -> bytes:
        attributes = llama_cpp.llama_vocab_get_attr(self._vocab, token)
        if not attributes & (llama_cpp.LLAMA_TOKEN_ATTR_NORMAL | llama_cpp.LLAMA_TOKEN_ATTR_USER_DEFINED):
            return b""
        write = llama_cpp.llama_token_to_piece
        if (length := write(self._vocab, token, buffer, len(buffer), 0, False)) < 0:  # it is too short
            buffer = ctypes.create_string_buffer(-length)
            length = write(self._vocab, token, buffer, len(buffer), 0, False)
        piece = ctypes.string_at(buffer, length)
        # converters sometimes store a model's markup as ordinary tokens
        return b"" if _MARKUP.fullmatch(piece) else piece


class NameTokens:
    """The tokens that may stand in a label inside a JSON string, by the rules of `answers`.

    Their characters are printable and none that JSON or markup gives a meaning, so that nothing needs an
    escape. `first` may begin a label, `inner` may stand anywhere in it. `partial[token]` are the first bytes
    of a character in which the token ends.
    """

    def __init__(self, pieces: tuple[bytes, ...]) -> None:
        self._continuing = {token: piece for token, piece in enumerate(pieces) if _continues(piece)}
        completable = {bytes([byte]) for byte in range(0x80, 0xC0)} <= set(self._continuing.values())
        first, inner, self.partial = [], [], dict[int, bytes]()
        for token, piece in enumerate(pieces):
            decoded = _decode(piece) if piece else None
            if decoded is None:
                continue
            text, partial = decoded
            if not text.isprintable() or not _NOT_IN_NAMES.isdisjoint(text) or (partial and not completable):
                continue
            if partial:
                self.partial[token] = partial
            inner.append(token)
            if not text[:1].isspace():
                first.append(token)
        self.first: NDArray[np.intp] = np.array(first, dtype=np.intp)
        self.inner: NDArray[np.intp] = np.array(inner, dtype=np.intp)

    def continuations(self, partial: bytes) -> dict[int, bytes]:
        """The tokens that may follow a partial character, and the bytes that are partial after each."""
        decoded = {token: _decode(partial + piece) for token, piece in self._continuing.items()}
        return {token: pair[1] for token, pair in decoded.items() if pair is not None}


_NOT_IN_NAMES = frozenset('"\\[]{}<|>')
_CONTINUATION = bytes(range(0x80, 0xC0))


def _continues(piece: bytes) -> bool:
    """Whether a piece holds only continuation bytes of UTF-8."""
    return bool(piece) and not piece.translate(None, _CONTINUATION)


def _decode(encoded: bytes) -> tuple[str, bytes] | None:
    """Whole characters, and the first bytes of one that is not whole; None for invalid UTF-8."""
    with suppress(UnicodeDecodeError):
        return encoded.decode(), b""
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        text = decoder.decode(encoded)
    except UnicodeDecodeError:
        return None
    partial = decoder.getstate()[0]
    return (text, partial) if not partial or _completable(partial) else None


def _completable(partial: bytes) -> bool:
    """Whether some character begins with these bytes; the decoder accepts the beginnings of surrogates."""
    length = 2 if partial[0] < 0xE0 else 3 if partial[0] < 0xF0 else 4
    missing = length - len(partial)
    return any((partial + fill * missing).decode(errors="ignore") for fill in (b"\x80", b"\xbf"))
