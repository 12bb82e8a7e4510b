# SPDX-License-Identifier: Apache-2.0
"""Names that a model chooses freely, mapped to the labels that were asked for. Pure text, no model.

A model that is asked for cats may write `Cat`, `two cats`, `cat on the right`, `cat 2`, `cat (asleep)` or
`Katze`. The rules, in their order: the same name but for case, accents, articles, spaces and number; the head
noun (`black cat`); the noun before its adjectives (`chat noir`); a part of the label (`cone` for `traffic
cone`, `pallet` for `pallet left of the door`). Every rule also knows the synonyms, and is tried on the words
before a bracket or comma first, without a number at their end. A name that fits two labels equally well fits
neither.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache

from lfm_perception.errors import PerceptionError, shown


def _words(*lines: str) -> frozenset[str]:
    return frozenset(" ".join(lines).split())


_DETERMINERS = _words(
    "a an the one two three four five six some several many single",
    "der die das den dem ein eine einen zwei drei le la les l un une des deux trois",
    "el los las una unos unas dos tres o os as um uma uns umas dois duas",
)
_PREPOSITIONS = _words(
    "on in at with of near behind beside next by under over above below between that which who wearing",
    "holding carrying standing sitting facing inside outside to from against without",
    "auf an am im mit von vom neben hinter vor unter uber bei zwischen ohne",
    "a au aux sur dans avec de du des en pres derriere devant sous entre qui",
    "con del al sobre junto cerca detras delante bajo que em no na com do da dos das perto atras sob",
    "على في مع من عند بجانب خلف امام تحت فوق",
)
_PARTICIPLES = _words(
    "lying laying sleeping walking running resting hanging leaning crouching kneeling jumping flying moving",
    "working waiting playing riding driving bending looking reaching pushing pulling lifting operating using",
    "seated parked stacked placed located positioned covered filled loaded dressed",
)
_ENDS = _PREPOSITIONS | _PARTICIPLES
_PLACES = _words(
    "left right top bottom middle center centre front back links rechts oben unten gauche droite",
    "izquierda derecha esquerda direita",
)
_ADJECTIVES_AFTER = _words(
    "noir noire blanc blanche rouge vert verte bleu bleue jaune gris grise brun brune orange grand grande",
    "petit petite negro negra blanco blanca rojo roja verde azul amarillo amarilla pequeno pequena",
    "preto preta branco branca vermelho vermelha amarelo amarela cinza cinzento",
    "احمر اسود ابيض ازرق اخضر اصفر كبير صغير",
)
_IRREGULAR = {
    "people": "person", "men": "man", "women": "woman", "children": "child", "feet": "foot", "mice": "mouse",
    "geese": "goose", "teeth": "tooth", "knives": "knife", "shelves": "shelf",
}  # fmt: skip
_PLURALS = (
    ("ies", "y"), ("ves", "f"), ("aux", "al"), ("oes", "ao"), ("aes", "ao"), ("ais", "al"), ("eis", "el"),
    ("ns", "m"), ("es", ""), ("s", ""), ("x", ""), ("en", ""), ("en", "e"), ("ات", "ه"), ("ون", ""),
    ("ين", ""), ("들", ""), ("们", ""), ("達", ""), ("たち", ""),
)  # fmt: skip
"""Endings of plurals and those of their singulars, in the nine languages of the model family."""

_ASIDE = re.compile(r"\s*[(,;:/]|\s+[-–—]\s+")
"""What separates a name from an explanation."""

_UNSPACED = re.compile("[\u3040-\u30ff\u3400-\u9fff]")
_COUNTED = re.compile("^[一二两三四五六这那]+[个個只隻辆輛位条條张張把台]|^[一二三四五六]+つの")


class LabelMap:
    """Maps a model's words to the labels that were asked for.

    Args:
        labels: Those asked for; empty: every name is its own label.
        synonyms: Entries `label: name, name`.

    Raises:
        PerceptionError: An entry is malformed, a name stands for two labels, or synonyms form a circle.
    """

    def __init__(self, labels: Sequence[str], synonyms: Sequence[str] = ()) -> None:
        table = _synonym_table(synonyms)
        asked = {_key(label) or label: label for label in labels}
        for name, target in table.items():
            if name in asked and target in asked:
                raise PerceptionError(
                    f"detect.synonyms: {shown(asked[name])} is a label and means {shown(asked[target])}: "
                    "remove one of them"
                )
        resolved = {name: asked.get(_resolve(name, table, asked)) for name in table}
        self._names = asked | {name: label for name, label in resolved.items() if label is not None}
        self._words = [(tuple(name.split()), label) for name, label in self._names.items()]
        self._joined = {name.replace(" ", ""): label for name, label in reversed(list(self._names.items()))}
        self._known: dict[str, str | None] = {label: label for label in labels}

    def match(self, phrase: str) -> str | None:
        """The label that the words mean; None: none of those that were asked for."""
        if phrase not in self._known:
            name, *aside = _ASIDE.split(phrase, maxsplit=1)
            keys = [_key(phrase), *([_key(name)] if aside else [])]
            found = next((label for key in keys if (label := self._same(key))), None)
            keys = [_unnumbered(key) for key in reversed(keys) if key]
            self._known[phrase] = found or next((label for key in keys if (label := self._match(key))), None)
        return self._known[phrase]

    def same(self, name: str) -> str | None:
        """The label that has this name but for case, accents and articles, or for which it is a synonym."""
        return self._same(_key(name) or name)

    def _same(self, key: str) -> str | None:
        return self._names.get(key) or self._joined.get(key.replace(" ", ""))

    def _match(self, key: str) -> str | None:
        if label := self._same(key):
            return label
        words = tuple(key.split())
        return self._by_rules(key, words) or self._by_rules(
            key, tuple(word for word in words if word not in _PARTICIPLES)
        )

    def _by_rules(self, key: str, words: tuple[str, ...]) -> str | None:
        head = _head(words)
        rules = (
            [(name, label) for name, label in self._words if _equal(name, words)],
            [(name, label) for name, label in self._words if _equal(name, head[-len(name) :])],
            [(name, label) for name, label in self._words if _before_adjectives(name, head)],
            [(name, label) for name, label in self._words if _ends_unspaced(key, "".join(name))],
            [
                (head, label)
                for name, label in self._words
                if head and _equal(head, _head(name)[-len(head) :])
            ],
        )
        for found in rules:
            if found:
                longest = max(sum(map(len, name)) for name, _ in found)
                best = {label for name, label in found if sum(map(len, name)) == longest}
                return best.pop() if len(best) == 1 else None
        return None


@lru_cache(maxsize=64)
def label_map(labels: tuple[str, ...], synonyms: tuple[str, ...] = ()) -> LabelMap:
    """The map of these labels, kept: it remembers the words that it has seen."""
    return LabelMap(labels, synonyms)


def _synonym_table(entries: Sequence[str]) -> Mapping[str, str]:
    """The name that each synonym stands for, both as keys."""
    table: dict[str, str] = {}
    for entry in entries:
        label, colon, names = entry.partition(":")
        if not (
            label.strip() and colon and ":" not in names and all(_key(name) for name in names.split(","))
        ):
            raise PerceptionError(f"detect.synonyms takes `label: name, name`, got {shown(entry)}")
        for name in map(_key, names.split(",")):
            if table.setdefault(name, _key(label)) != _key(label):
                raise PerceptionError(
                    f"detect.synonyms: {shown(name)} stands for both {shown(table[name])} and "
                    f"{shown(_key(label))}: keep one of them"
                )
    for name in table:
        _resolve(name, table, ())
    return table


def _resolve(name: str, table: Mapping[str, str], ends: Mapping[str, str] | Sequence[str]) -> str:
    """The end of a chain of synonyms, or the first of `ends` on it."""
    seen = [name]
    while (target := table.get(seen[-1])) is not None and seen[-1] not in ends:
        if target in seen:
            raise PerceptionError(
                f"detect.synonyms lead in a circle: {shown(' -> '.join([*seen, target]))}: remove one of them"
            )
        seen.append(target)
    return seen[-1]


@lru_cache(maxsize=4096)
def _key(phrase: str) -> str:
    """A name without case, accents, punctuation and articles, its words joined by single spaces."""
    text = unicodedata.normalize("NFKD", phrase.casefold())
    text = unicodedata.normalize("NFC", re.sub("[\u0300-\u036f\u064b-\u0655\u0640]", "", text))
    words = re.findall(r"[^\W_]+(?:['’][^\W_]+)?", text)
    words = [word[2:] if word.startswith("ال") and len(word) > 3 else word for word in words]
    while len(words) > 1 and (words[0] in _DETERMINERS or words[0].isdecimal()):
        del words[0]
    return _COUNTED.sub("", " ".join(words)) or " ".join(words)


def _unnumbered(key: str) -> str:
    """A name without the number of an instance at its end: `cat 2`, `cat2`."""
    return re.sub(r"(?<=[^\W\d]) ?\d+$", "", key)


def _head(words: tuple[str, ...]) -> tuple[str, ...]:
    """The words up to the first preposition or participle, without a place at their end."""
    end = next((place for place, word in enumerate(words) if place and word in _ENDS), len(words))
    while end > 1 and words[end - 1] in _PLACES:
        end -= 1
    return words[:end]


def _before_adjectives(name: tuple[str, ...], head: tuple[str, ...]) -> bool:
    rest = head[len(name) :]
    return (
        bool(rest)
        and _equal(name, head[: len(name)])
        and all(_stems(word) & _ADJECTIVES_AFTER for word in rest)
    )


def _ends_unspaced(key: str, name: str) -> bool:
    """Whether a phrase of a script without spaces ends with a name, or begins with it before a particle."""
    if not _UNSPACED.search(name):
        return False
    text = key.replace(" ", "")
    before, after = text[: -len(name)][-1:], text[len(name) :][:1]
    ends = text.endswith(name) and (len(name) > 1 or before in "的の")
    return ends or (text.startswith(name) and after in tuple("在はが"))


def _equal(first: tuple[str, ...], second: tuple[str, ...]) -> bool:
    """Whether two names have the same words but for the number of each."""
    return len(first) == len(second) and all(
        a == b or not _stems(a).isdisjoint(_stems(b)) for a, b in zip(first, second, strict=True)
    )


@lru_cache(maxsize=4096)
def _stems(word: str) -> frozenset[str]:
    return frozenset((word, *_singulars(word)))


def _singulars(word: str) -> Iterator[str]:
    if word in _IRREGULAR:
        yield _IRREGULAR[word]
    for plural, singular in _PLURALS:
        stem = word[: -len(plural)]
        if word.endswith(plural) and len(stem) >= (4 if plural == "en" else 2 if plural.isascii() else 1):
            yield stem + singular
