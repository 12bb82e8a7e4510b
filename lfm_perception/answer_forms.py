# SPDX-License-Identifier: Apache-2.0
"""How a typed answer is asked for in the model's nine languages. A new language is one row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class AnswerForm:
    """The words for yes and no, and what is added to a question of each type; `{options}` are the options."""

    yes: str
    no: str
    yes_no: str
    choice: str
    number: str


ANSWER_FORMS: Mapping[str, AnswerForm] = {
    "en": AnswerForm(
        "Yes", "No",
        "Answer with Yes or No.", "Answer with one of: {options}.", "Answer with a number.",
    ),
    "ar": AnswerForm(
        "نعم", "لا",
        "أجب بنعم أو لا.", "أجب بأحد الخيارات التالية: {options}.", "أجب برقم.",
    ),
    "de": AnswerForm(
        "Ja", "Nein",
        "Antworte mit Ja oder Nein.", "Antworte mit einem davon: {options}.", "Antworte mit einer Zahl.",
    ),
    "es": AnswerForm(
        "Sí", "No",
        "Responde con Sí o No.", "Responde con una de estas opciones: {options}.", "Responde con un número.",
    ),
    "fr": AnswerForm(
        "Oui", "Non",
        "Réponds par Oui ou Non.", "Réponds par l'un de ces choix : {options}.", "Réponds par un nombre.",
    ),
    "ja": AnswerForm(
        "はい", "いいえ",
        "はいかいいえで答えてください。", "次のいずれかで答えてください: {options}。",
        "数字で答えてください。",
    ),
    "ko": AnswerForm(
        "예", "아니요",
        "예 또는 아니요로 답하세요.", "다음 중 하나로 답하세요: {options}.", "숫자로 답하세요.",
    ),
    "pt": AnswerForm(
        "Sim", "Não",
        "Responda com Sim ou Não.", "Responda com uma destas opções: {options}.", "Responda com um número.",
    ),
    "zh": AnswerForm(
        "是", "否",
        "请回答是或否。", "请用以下选项之一回答: {options}。", "请用一个数字回答。",
    ),
}  # fmt: skip
"""The forms by language code."""
