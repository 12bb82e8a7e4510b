# SPDX-License-Identifier: Apache-2.0
"""Free names of a model, mapped to the labels that were asked for."""

from __future__ import annotations

import pytest

from lfm_perception.answers import parse
from lfm_perception.errors import PerceptionError
from lfm_perception.labels import LabelMap
from lfm_perception.questions import BBOX
from lfm_perception.settings import Settings

LABELS = ("cat", "traffic cone", "person", "box", "cardboard box", "forklift", "pallet left of the door")
SYNONYMS = ("forklift: fork lift truck, Gabelstapler", "person: pedestrian", "pedestrian: walker")


@pytest.mark.parametrize(
    ("phrase", "label"),
    [
        ("Cat", "cat"),
        ("two cats", "cat"),
        ("cat on the right", "cat"),
        ("the black cats next to a box", "cat"),
        ("fork-lift", "forklift"),
        ("Gabelstapler", "forklift"),
        ("walker", "person"),
        ("people", "person"),
        ("person in a red vest", "person"),
        ("cone", "traffic cone"),
        ("large cardboard box", "cardboard box"),
        ("open boxes", "box"),
        ("pallet", "pallet left of the door"),
        ("the pallet on the left", "pallet left of the door"),
        ("cat 2", "cat"),
        ("Cat #1", "cat"),
        ("person_3", "person"),
        ("cat2", "cat"),
        ("cat (right)", "cat"),
        ("traffic cone (orange)", "traffic cone"),
        ("person (beside the box)", "person"),
        ("box, closed", "box"),
        ("forklift - yellow", "forklift"),
        ("the cat lying on the left side of the couch", "cat"),
        ("person sitting on a box", "person"),
        ("person riding forklift", "person"),
        ("forklift parked", "forklift"),
        ("black sleeping cat", "cat"),
        ("box cutter", None),
        ("2", None),
        ("(cat", "cat"),
        ("person's hat", None),
        ("dog", None),
        ("", None),
    ],
)
def test_words_mean_a_label(phrase: str, label: str | None) -> None:
    assert LabelMap(LABELS, SYNONYMS).match(phrase) == label


@pytest.mark.parametrize(
    ("label", "phrase"),
    [
        ("Kiste", "zwei rote Kisten"),
        ("chat", "les chats noirs"),
        ("camión", "camiones"),
        ("caixa", "caixa vermelha na mesa"),
        ("caminhão", "caminhões"),
        ("猫", "右边的猫"),
        ("叉车", "黄色叉车"),
        ("フォークリフト", "右のフォークリフト"),
        ("고양이", "고양이들"),
        ("قط", "القط الأسود"),
    ],
)
def test_words_mean_a_label_in_the_models_languages(label: str, phrase: str) -> None:
    assert LabelMap([label, "robot"]).match(phrase) == label


def test_numbered_labels_stay_apart() -> None:
    numbered = LabelMap(["dock 1", "dock 2"])
    assert [numbered.match(name) for name in ("Dock 2", "dock", "dock 3")] == ["dock 2", None, None]


def test_a_name_that_fits_two_labels_fits_neither() -> None:
    assert LabelMap(["stop sign", "traffic sign"]).match("sign") is None
    assert LabelMap(["left pallet", "right pallet"]).match("pallet") is None


@pytest.mark.parametrize(
    ("synonyms", "said"),
    [
        (["cat"], "detect.synonyms takes `label: name, name`, got 'cat'"),
        (["cat: ,"], "detect.synonyms takes `label: name, name`, got 'cat: ,'"),
        (["cat: kitten: puppy"], "detect.synonyms takes `label: name, name`, got 'cat: kitten: puppy'"),
        (["a: x", "b: X"], "detect.synonyms: 'x' stands for both 'a' and 'b': keep one of them"),
        (["cat: box"], "detect.synonyms: 'box' is a label and means 'cat': remove one of them"),
        (
            ["a: b", "b: c", "c: a"],
            "detect.synonyms lead in a circle: 'b -> a -> c -> b': remove one of them",
        ),
    ],
)
def test_synonyms_that_contradict_each_other_are_refused(synonyms: list[str], said: str) -> None:
    with pytest.raises(PerceptionError) as error:
        Settings().with_values({"detect.labels": ["cat", "box"], "detect.synonyms": synonyms})
    assert str(error.value) == said


def test_labels_that_are_one_name_are_refused() -> None:
    Settings().with_values({"detect.labels": ["glass", "glasses", "!", "?", "5 litre can", "10 litre can"]})
    with pytest.raises(PerceptionError, match=r"detect\.labels: 'cat' and 'The Cat' are one name"):
        Settings().with_values({"detect.labels": ["cat", "dog", "The Cat"]})


def test_the_models_own_words_are_kept_beside_the_label() -> None:
    text = (
        '[{"label": "Cat", "bbox": [0.1, 0.2, 0.3, 0.4]}, {"label": "cat on the right", "bbox": '
        '[0.5, 0.2, 0.7, 0.4]}, {"label": "dog", "bbox": [0.1, 0.6, 0.3, 0.8]}]'
    )
    found = parse(text, BBOX, labels=["cat", "box"]).detections
    assert [(each.label, each.phrase) for each in found] == [
        ("cat", "Cat"), ("cat", "cat on the right"), ("dog", ""),
    ]  # fmt: skip
    closed = parse(text, BBOX, labels=["cat", "box"], closed=True)
    assert [each.label for each in closed.detections] == ["cat", "cat"]
    assert dict(closed.rejects) == {"not_asked": 1}
