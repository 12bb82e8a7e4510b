# SPDX-License-Identifier: Apache-2.0
"""Text from outside: whatever it holds, what leaves the package can be encoded, printed and has a bound."""

from __future__ import annotations

import json
import pickle
import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from lfm_perception.errors import PerceptionError
from lfm_perception.geometry import Box
from lfm_perception.scene import Answer, Detection, Frame
from lfm_perception.text import MAX_LABEL, MAX_SENTENCE, is_safe, safe_line, safe_text

anything = st.text(st.characters(exclude_categories=())) | st.text(
    st.sampled_from(list("a \n\t\x00\x1b\x9b\x7f\u202e\u2066\u2028\ud800\udfff\ufeff\uffffé箱"))
)
UGLY = "a\ud800b\x1b[2J\x9b\u202ec\x00"


def is_clean(text: str) -> bool:
    text.encode()
    allowed = "\n\t"
    return not any(unicodedata.category(c) in ("Cc", "Cs") and c not in allowed for c in text) and not any(
        c in text for c in "\u202a\u202b\u202d\u202e\u2066\u2067\u2068\u2028\u2029"
    )


@given(text=anything, limit=st.integers(1, 30))
def test_text_is_made_safe_once_and_within_its_limit(text: str, limit: int) -> None:
    safe = safe_text(text, limit)
    assert is_clean(safe)
    assert is_safe(safe)
    assert len(safe) <= limit
    assert safe_text(safe, limit) == safe
    line = safe_line(text, limit)
    assert is_clean(line)
    assert len(line) <= limit
    assert "\n" not in line


def test_languages_of_the_model_are_kept() -> None:
    for text in ("Gabelstapler, rot", "手推车", "フォークリフト", "지게차", "رافعة شوكية", "می‌خواهم", "👩‍🚒"):
        assert safe_line(text) == safe_text(text) == text


@given(text=anything)
def test_every_error_is_one_printable_sentence(text: str) -> None:
    error = PerceptionError(f"{text * 40} cannot be read: the way out")
    for message in (str(error), str(pickle.loads(pickle.dumps(error)))):
        assert is_clean(message)
        assert "\n" not in message
        assert len(message) <= MAX_SENTENCE
        assert message.endswith("cannot be read: the way out")


def test_values_hold_no_unsafe_text() -> None:
    answer = Answer(UGLY, (Detection(UGLY, Box(0, 0, 1, 1), 0.5),), rejects={UGLY: 1})
    frame = Frame(None, 0, UGLY * 100)  # type: ignore[arg-type]
    for text in (answer.text, answer.detections[0].label, *answer.rejects, frame.frame_id):
        assert is_clean(text)
    assert len(frame.frame_id) == MAX_LABEL
    json.dumps(dict(answer.rejects), ensure_ascii=False).encode()
