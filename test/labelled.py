# SPDX-License-Identifier: Apache-2.0
"""Labelled images on disk, as COCO and as YOLO: what the tests of label readers and reports share."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import pytest
import yaml

from lfm_perception.demo.bodies import LABELS
from lfm_perception.demo.world import Snapshot, still
from lfm_perception.errors import PerceptionError
from lfm_perception.evaluation.labels import LabelledImage, open_labelled

SIZE = 256
IMAGES = 6


def scenes(count: int = IMAGES) -> list[Snapshot]:
    return [still(random.Random(f"labelled {index}"), SIZE, SIZE) for index in range(count)]


def write_images(folder: Path, shown: Sequence[Snapshot]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for index, snapshot in enumerate(shown):
        image = cv2.cvtColor(snapshot.frame.image, cv2.COLOR_RGB2BGR)
        assert cv2.imwrite(str(folder / f"{index}.png"), image)
    return folder


def coco(shown: Sequence[Snapshot], name: str = "{}.png") -> dict[str, Any]:
    """The truth as COCO writes it."""
    boxes = [
        (image, thing.label, *thing.box.in_pixels(SIZE, SIZE).tolist())
        for image, snapshot in enumerate(shown)
        for thing in snapshot.objects
    ]
    return {
        "images": [
            {"id": index, "file_name": name.format(index), "width": SIZE, "height": SIZE}
            for index in range(len(shown))
        ],
        "annotations": [
            {
                "id": number,
                "image_id": image,
                "category_id": LABELS.index(label),
                "bbox": [x1, y1, x2 - x1, y2 - y1],
            }
            for number, (image, label, x1, y1, x2, y2) in enumerate(boxes)
        ],
        "categories": [{"id": index, "name": label} for index, label in enumerate(LABELS)],
    }


def write_coco(folder: Path, shown: Sequence[Snapshot]) -> Path:
    write_images(folder, shown)
    (folder / "instances.json").write_text(json.dumps(coco(shown)))
    return folder


def write_yolo(root: Path, shown: Sequence[Snapshot]) -> Path:
    """As YOLO's tools lay it out: images/, labels/, data.yaml."""
    write_images(root / "images", shown)
    (root / "labels").mkdir()
    for index, snapshot in enumerate(shown):
        lines = [
            f"{LABELS.index(t.label)} {(t.box.x1 + t.box.x2) / 2:.6f} {(t.box.y1 + t.box.y2) / 2:.6f} "
            f"{t.box.width:.6f} {t.box.height:.6f}"
            for t in snapshot.objects
        ]
        (root / "labels" / f"{index}.txt").write_text("\n".join(lines))
    (root / "data.yaml").write_text(yaml.safe_dump({"names": list(LABELS)}))
    return root


def read(source: Path, labels: str | None = None) -> list[LabelledImage]:
    with open_labelled(source, labels) as opened:
        return list(opened.images)


def refusal(source: Path, labels: str | None = None) -> str:
    """The sentence with which a source is refused."""
    with pytest.raises(PerceptionError) as refused:
        read(source, labels)
    return str(refused.value)
