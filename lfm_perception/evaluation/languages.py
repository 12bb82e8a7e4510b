# SPDX-License-Identifier: Apache-2.0
"""The detection question in other languages, for operators who ask in their own.

Only the question is translated; the format of the answer, with its keys, is that of the dialect.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from lfm_perception.errors import PerceptionError
from lfm_perception.evaluation.labels.base import parsed
from lfm_perception.files import parse_yaml
from lfm_perception.questions import BBOX, BBOX_2D, Dialect
from lfm_perception.text import is_safe

_CONTENT = parse_yaml(files(__package__).joinpath("languages.yaml").read_text(encoding="utf-8"))
TRANSLATIONS: dict[str, dict[str, str]] = {
    dialect.name: {"en": dialect.user, **_CONTENT[dialect.name]} for dialect in (BBOX, BBOX_2D)
}
"""The question by dialect and language."""

LANGUAGES = tuple(TRANSLATIONS[BBOX.name])


@dataclass(frozen=True, slots=True)
class Language:
    """One language: the dialect with the translated question, and translations of labels."""

    code: str
    dialect: Dialect
    labels: Mapping[str, str] = field(default_factory=dict)

    def translate(self, label: str) -> str:
        return self.labels.get(label, label)


def languages(
    codes: Sequence[str], dialect: Dialect, labels: Sequence[str], file: Path | None = None
) -> tuple[Language, ...]:
    """The languages with these codes. `file` adds languages, or translations of labels, in YAML:

        de:
          labels: {person: Person, box: Kiste}
          wording: "Suche {labels}."              # only if the dialect has no question in that language

    Labels without a translation stay as they are. Raises PerceptionError when the file cannot be used, and
    for a language without a question.
    """
    given = _read(file) if file is not None else {}
    known = TRANSLATIONS.get(dialect.name, {})
    found = []
    for code in codes:
        entry = given.get(code, {})
        user = entry.get("wording", known.get(code))
        if user is None:
            listed = ", ".join(dict.fromkeys((*known, *given))) or "none"
            raise PerceptionError(
                f"there is no wording of dialect {dialect.name} in the language {code!r}, only in: {listed}; "
                f"give one in a file with --words"
            )
        words = entry.get("labels", {})
        if strange := [label for label in words if label not in labels]:
            raise PerceptionError(
                f"{file}: {code} has a word for {strange[0]!r}, which is not among the labels "
                f"({', '.join(labels)})"
            )
        asked = [words.get(label, label) for label in labels]
        if len(set(asked)) < len(asked):
            raise PerceptionError(f"{file}: {code} has the same word for two labels: {', '.join(asked)}")
        found.append(Language(code, replace(dialect, user=user), words))
    return tuple(found)


def _read(file: Path) -> dict[str, dict[str, Any]]:
    content = parsed(file, parse_yaml, "words")
    if not isinstance(content, dict) or not all(_is_language(entry) for entry in content.values()):
        raise PerceptionError(
            f"words {file} must hold languages: "
            f"`de: {{labels: {{box: Kiste}}, wording: 'Suche {{labels}}.'}}`"
        )
    return {_code(key): entry for key, entry in content.items()}


def _is_language(entry: object) -> bool:
    if not isinstance(entry, dict) or not set(entry) <= {"labels", "wording"}:
        return False
    words = entry.get("labels", {})
    return (
        isinstance(entry.get("wording", ""), str)
        and isinstance(words, dict)
        and all(
            isinstance(text, str) and text.strip() and is_safe(text)
            for pair in words.items()
            for text in pair
        )
    )


def _code(key: object) -> str:
    """YAML 1.1 reads the code of Norwegian as False."""
    return "no" if key is False else str(key)
