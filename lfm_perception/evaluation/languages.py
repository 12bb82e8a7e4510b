"""The detection question in other languages, for operators who ask in their own.

Only the question is translated; the format of the answer, with its keys, is that of the dialect.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from lfm_perception.errors import PerceptionError
from lfm_perception.media.images import reason
from lfm_perception.questions import BBOX, BBOX_2D, Dialect

_FORM = '[{"label": ..., "bbox": [x1, y1, x2, y2]}, ...]'

TRANSLATIONS: dict[str, dict[str, str]] = {
    BBOX.name: {
        "en": BBOX.user,
        "ar": f"اكتشف جميع حالات: {{labels}}. يجب أن تكون الإجابة مصفوفة JSON: {_FORM}. "
        "الإحداثيات منسوبة إلى المجال [0,1].",
        "de": f"Finde alle Vorkommen von: {{labels}}. Die Antwort muss ein JSON-Array sein: {_FORM}. "
        "Die Koordinaten sind auf [0,1] normiert.",
        "es": f"Detecta todas las instancias de: {{labels}}. La respuesta debe ser un array JSON: {_FORM}. "
        "Las coordenadas están normalizadas a [0,1].",
        "fr": "Détecte toutes les instances de : {labels}. "
        f"La réponse doit être un tableau JSON : {_FORM}. Les coordonnées sont normalisées dans [0,1].",
        "ja": f"次のものをすべて検出してください: {{labels}}。回答はJSON配列でなければなりません: {_FORM}。"
        "座標は[0,1]に正規化します。",
        "ko": f"다음을 모두 찾으세요: {{labels}}. 응답은 JSON 배열이어야 합니다: {_FORM}. "
        "좌표는 [0,1]로 정규화합니다.",
        "pt": f"Detecte todas as instâncias de: {{labels}}. A resposta deve ser um array JSON: {_FORM}. "
        "As coordenadas são normalizadas para [0,1].",
        "zh": f"检测所有以下目标: {{labels}}。回答必须是JSON数组: {_FORM}。坐标归一化到[0,1]。",
    },
    BBOX_2D.name: {
        "en": BBOX_2D.user,
        "ar": "ضع إطارًا حول كل: {labels}.",
        "de": "Rahme alle ein: {labels}.",
        "es": "Enmarca cada: {labels}.",
        "fr": "Encadre chaque : {labels}.",
        "ja": "次のものをすべて囲んでください: {labels}。",
        "ko": "다음을 모두 상자로 표시하세요: {labels}.",
        "pt": "Enquadre cada: {labels}.",
        "zh": "框出所有: {labels}。",
    },
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
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise PerceptionError(f"words {file} cannot be read: {reason(error)}") from error
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
        and all(isinstance(text, str) and text.strip() for pair in words.items() for text in pair)
    )


def _code(key: object) -> str:
    """YAML 1.1 reads the code of Norwegian as False."""
    return "no" if key is False else str(key)
