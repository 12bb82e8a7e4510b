"""The model's tokens: what each one says, and how text is cut into them."""

from __future__ import annotations

import codecs
import ctypes
import re
from collections.abc import Iterable
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from lfm_perception.engine.chat_template import TURN_END, Special
from lfm_perception.engine.native import llama_cpp
from lfm_perception.errors import PerceptionError

_MARKUP = re.compile(rb"<[^<>\s]+>")


class Vocabulary:
    """The tokens of a loaded model. To be used on the thread that owns the model.

    `pieces[token]` is the text of a token as UTF-8 bytes, which may begin or end inside a character;
    empty for special tokens. `ends` are the tokens that end an answer.
    """

    def __init__(self, model: llama_cpp.llama_model_p) -> None:
        self._vocab = llama_cpp.llama_model_get_vocab(model)
        count = llama_cpp.llama_vocab_n_tokens(self._vocab)
        self.pieces: tuple[bytes, ...] = tuple(self._piece(token) for token in range(count))
        special = (token for token in range(count) if not self.pieces[token])
        ends = {token for token in special if llama_cpp.llama_vocab_is_eog(self._vocab, token)}
        self.ends = frozenset(ends | {self.special(TURN_END)})

    def special(self, text: Special) -> int:
        """The token of this name. Raises PerceptionError when the vocabulary lacks it."""
        tokens = self._tokenize(text, parse_special=True)
        if len(tokens) != 1 or self.pieces[tokens[0]]:
            raise PerceptionError(
                f"the model's vocabulary has no special token {text}: it is not an LFM2-VL model"
            )
        return tokens[0]

    def plain(self, text: str) -> list[int]:
        """The tokens of text in which nothing is special.

        Raises PerceptionError when a special token comes out all the same.
        """
        tokens = self._tokenize(text, parse_special=False)
        if any(not self.pieces[token] for token in tokens):
            raise PerceptionError(f"the text holds a special token: {text!r}")
        return tokens

    def encode(self, parts: Iterable[str]) -> list[int]:
        """The tokens of a conversation's parts, `Special` ones looked up and the others as plain text."""
        return [
            token
            for part in parts
            for token in ([self.special(part)] if isinstance(part, Special) else self.plain(part))
        ]

    @cached_property
    def names(self) -> NameTokens:
        """The tokens that may stand in a name."""
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

    def _piece(self, token: int) -> bytes:
        attributes = llama_cpp.llama_vocab_get_attr(self._vocab, token)
        if not attributes & (llama_cpp.LLAMA_TOKEN_ATTR_NORMAL | llama_cpp.LLAMA_TOKEN_ATTR_USER_DEFINED):
            return b""
        buffer = ctypes.create_string_buffer(256)
        length = llama_cpp.llama_token_to_piece(self._vocab, token, buffer, len(buffer), 0, False)
        if length < 0:
            buffer = ctypes.create_string_buffer(-length)
            length = llama_cpp.llama_token_to_piece(self._vocab, token, buffer, len(buffer), 0, False)
        piece = buffer.raw[:length]
        # converters sometimes store a model's markup as ordinary tokens
        return b"" if _MARKUP.fullmatch(piece) else piece


class NameTokens:
    """Which tokens may stand in a name inside a JSON string, as `answers` would believe it.

    Their characters are printable and none that JSON or markup gives a meaning, so that nothing needs an
    escape. `first` may begin the name, `inner` may stand anywhere in it. `begun[token]` are the first
    bytes of a character with which a token breaks off.
    """

    def __init__(self, pieces: tuple[bytes, ...]) -> None:
        self._ends = {token: piece for token, piece in enumerate(pieces) if _ends_character(piece)}
        finishable = {bytes([byte]) for byte in range(0x80, 0xC0)} <= set(self._ends.values())
        first, inner, self.begun = [], [], dict[int, bytes]()
        for token, piece in enumerate(pieces):
            parts = _characters(piece) if piece else None
            if parts is None:
                continue
            text, begun = parts
            if not text.isprintable() or _NOT_IN_NAMES & set(text) or (begun and not finishable):
                continue
            if begun:
                self.begun[token] = begun
            inner.append(token)
            if not text[:1].isspace():
                first.append(token)
        self.first: NDArray[np.intp] = np.array(first, dtype=np.intp)
        self.inner: NDArray[np.intp] = np.array(inner, dtype=np.intp)

    def continuing(self, begun: bytes) -> dict[int, bytes]:
        """The tokens that go on with a begun character, and what is begun after each."""
        parts = {token: _characters(begun + piece) for token, piece in self._ends.items()}
        return {token: part[1] for token, part in parts.items() if part is not None}


_NOT_IN_NAMES = frozenset('"\\[]{}<|>')


def _ends_character(piece: bytes) -> bool:
    return bool(piece) and all(0x80 <= byte < 0xC0 for byte in piece)


def _characters(encoded: bytes) -> tuple[str, bytes] | None:
    """Whole characters and the first bytes of one that is not whole; None when this is not UTF-8."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        text = decoder.decode(encoded)
    except UnicodeDecodeError:
        return None
    begun = decoder.getstate()[0]
    return (text, begun) if not begun or _can_be_finished(begun) else None


def _can_be_finished(begun: bytes) -> bool:
    """Whether some character has these first bytes; the decoder lets those of surrogates pass."""
    length = 2 if begun[0] < 0xE0 else 3 if begun[0] < 0xF0 else 4
    missing = length - len(begun)
    return any((begun + fill * missing).decode(errors="ignore") for fill in (b"\x80", b"\xbf"))
