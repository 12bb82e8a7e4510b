# SPDX-License-Identifier: Apache-2.0
"""Detection quality on labelled images: reading labels, average precision, degraded images, reports."""

from __future__ import annotations

import json
import math
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL.Image
import pytest
import yaml

from lfm_perception.backends.llama_vlm import LlamaVlm
from lfm_perception.cli import main
from lfm_perception.demo.bodies import LABELS
from lfm_perception.demo.world import Snapshot, still
from lfm_perception.errors import PerceptionError
from lfm_perception.evaluation.average_precision import average_precision, mean_precision
from lfm_perception.evaluation.compare import compare, pairs
from lfm_perception.evaluation.detection import Annotation
from lfm_perception.evaluation.detection_page import platt_scaling_advice
from lfm_perception.evaluation.detection_trial import Trial, figures, plain_variant, translated_variant
from lfm_perception.evaluation.labels import LabelledImage, open_labelled
from lfm_perception.evaluation.languages import LANGUAGES, TRANSLATIONS, languages
from lfm_perception.evaluation.stress import STRESSES
from lfm_perception.geometry import Box
from lfm_perception.media.sinks import AnnotatedFrame
from lfm_perception.media.sinks.bag import BagSink
from lfm_perception.questions import BBOX, Dialect
from lfm_perception.scene import Detection, Frame, Scene, Usage
from lfm_perception.settings import Settings

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


# --- average precision -----------------------------------------------------------------------------


def random_scenes(seed: int) -> list[tuple[list[Detection], list[Annotation]]]:
    """Crowded scenes of near misses, with equal scores among them; corners on a grid of 64."""
    rng = random.Random(seed)

    def box() -> Box:
        x, y = rng.randrange(40), rng.randrange(40)
        return Box(x / 64, y / 64, (x + rng.randint(4, 24)) / 64, (y + rng.randint(4, 24)) / 64)

    def near(box: Box) -> Box:
        moved = [min(max(round(64 * side) + rng.choice((-2, -1, 0, 0, 1, 2)), 0), 64) for side in box.xyxy]
        x1, y1, x2, y2 = moved
        return Box(x1 / 64, y1 / 64, max(x2, x1 + 1) / 64, max(y2, y1 + 1) / 64)

    made = []
    for _ in range(12):
        truth = [Annotation(rng.choice(LABELS), box()) for _ in range(rng.randrange(7))]
        found = [(t.label if rng.random() < 0.8 else rng.choice(LABELS), near(t.box)) for t in truth * 2]
        found = [pair for pair in found if rng.random() < 0.7]
        found += [(rng.choice(LABELS), box()) for _ in range(rng.randrange(4))]
        made.append(([Detection(label, b, rng.randrange(20) / 20) for label, b in found], truth))
    return made


@pytest.mark.parametrize(
    ("seed", "overall", "at_50", "at_75"),
    [
        (0, 0.247004, 0.465817, 0.261584),
        (1, 0.233007, 0.530114, 0.135949),
        (2, 0.228490, 0.508890, 0.189741),
        (3, 0.204464, 0.491626, 0.131912),
        (4, 0.246709, 0.474306, 0.227429),
        (5, 0.222411, 0.432929, 0.183206),
        (6, 0.238976, 0.502998, 0.172882),
        (7, 0.298090, 0.514188, 0.292315),
    ],
)
def test_average_precision_is_that_of_coco(seed: int, overall: float, at_50: float, at_75: float) -> None:
    mean = mean_precision(list(average_precision(random_scenes(seed)).values()))
    assert mean is not None
    assert (mean.overall, mean.at_50, mean.at_75) == pytest.approx((overall, at_50, at_75), abs=1e-6)


def test_average_precision_of_each_label_and_its_curve() -> None:
    found = average_precision(random_scenes(0))
    assert {label: each.overall for label, each in found.items()} == pytest.approx(
        {"box": 0.269087, "cone": 0.186271, "forklift": 0.376361, "pallet": 0.210408, "person": 0.192895},
        abs=1e-6,
    )
    assert found["box"].curve[::10] == pytest.approx(
        [1.0, 1.0, 1.0, 0.4, 0.4, 0.4, 0.333333, 0.333333, 0.0, 0.0, 0.0], abs=1e-6
    )


def test_a_more_confident_false_positive_costs_half_of_the_precision() -> None:
    there = Annotation("box", Box(0.0, 0.0, 0.5, 0.5))
    right = Detection("box", there.box, 0.6)
    false_positive = Detection("box", Box(0.6, 0.6, 0.9, 0.9), 0.9)
    assert average_precision([([right], [there])])["box"].overall == pytest.approx(1.0)
    assert average_precision([([right, false_positive], [there])])["box"].at_50 == pytest.approx(0.5)
    assert average_precision([([false_positive], [there])])["box"].at_50 == 0.0
    assert average_precision([([], [there])])["box"].at_50 == 0.0
    assert average_precision([([false_positive], [])]) == {}
    assert mean_precision([]) is None


# --- labels ----------------------------------------------------------------------------------------


def test_coco_and_yolo_labels_are_read_to_the_same_truth(tmp_path: Path) -> None:
    shown = scenes()
    from_coco = read(write_coco(tmp_path / "coco", shown))
    from_yolo = read(write_yolo(tmp_path / "yolo", shown))
    assert [image.name for image in from_coco] == [f"{index}.png" for index in range(IMAGES)]
    for snapshot, first, second in zip(shown, from_coco, from_yolo, strict=True):
        assert np.array_equal(first.frame.image, snapshot.frame.image)
        for read_back in (first.truth, second.truth):
            assert [t.label for t in read_back] == [t.label for t in snapshot.objects]
            for ours, true in zip(read_back, snapshot.objects, strict=True):
                assert ours.box.xyxy == pytest.approx(true.box.xyxy, abs=1e-6)


def test_labels_are_found_beside_the_images_or_where_they_are_said_to_be(tmp_path: Path) -> None:
    shown = scenes(2)
    folder = write_images(tmp_path / "images", shown)
    assert "has no labels" in refusal(folder)
    elsewhere = tmp_path / "mine.json"
    elsewhere.write_text(json.dumps(coco(shown)))
    assert len(read(folder, str(elsewhere))) == 2
    (tmp_path / "annotations").mkdir()
    elsewhere.rename(tmp_path / "annotations" / "instances_val.json")
    assert len(read(folder)) == 2
    (folder / "0.txt").write_text("0 0.5 0.5 0.2 0.2")
    assert "choose one with --labels" in refusal(folder)
    (tmp_path / "classes.txt").write_text("person\nbox\n")
    (first, second) = read(folder, str(tmp_path / "classes.txt"))
    assert (first.truth[0].label, second.truth) == ("person", ())


def test_omitted_labels_and_images_are_noted(tmp_path: Path) -> None:
    shown = scenes(2)
    folder = write_coco(tmp_path / "coco", shown)
    content = coco(shown[:1])
    content["annotations"][0]["iscrowd"] = 1
    (folder / "instances.json").write_text(json.dumps(content))
    with open_labelled(folder) as opened:
        notes = opened.notes
        assert notes == ("1 boxes of crowds were left out", "1 images without labels were left out")
        assert len(next(opened.images).truth) == len(shown[0].objects) - 1
    root = write_yolo(tmp_path / "yolo", shown)
    (root / "labels" / "1.txt").unlink()
    with open_labelled(root) as opened:
        assert opened.notes == ("1 images have no .txt and are taken to show nothing",)


def test_boxes_without_area_are_left_out_and_those_beyond_the_edge_are_clipped(tmp_path: Path) -> None:
    shown = scenes(1)
    content: Any = coco(shown)
    for bbox in ([20, 20, 0, 9], [20, 20, 9, 0], [-30, 5, 20, 20], [200, 0, 90, 20], [-0.3, 0, 20, 20]):
        content["annotations"].append({"id": str(bbox), "image_id": 0, "category_id": 0, "bbox": bbox})
    folder = write_coco(tmp_path / "coco", shown)
    (folder / "instances.json").write_text(json.dumps(content))
    with open_labelled(folder) as opened:
        (image,) = opened.images
        assert opened.notes == (
            "3 boxes without area in their image were left out",
            "1 boxes beyond the edge of their image were clipped",
        )
    assert [truth.box for truth in image.truth[-2:]] == [
        Box(200 / SIZE, 0.0, 1.0, 20 / SIZE),
        Box(0.0, 0.0, 19.7 / SIZE, 20 / SIZE),
    ]
    root = write_yolo(tmp_path / "yolo", shown)
    (root / "labels" / "0.txt").write_text("0 0.5 0.5 0.2 0\r\n0.0 0.95 0.5 0.2 0.2\r\n")
    with open_labelled(root) as opened:
        (image,) = opened.images
        assert len(opened.notes) == 2
    assert [truth.box.xyxy.tolist() for truth in image.truth] == [pytest.approx([0.85, 0.4, 1.0, 0.6])]


def test_names_are_those_of_the_line_whatever_the_editor_added(tmp_path: Path) -> None:
    folder = write_images(tmp_path, scenes(1))
    (folder / "0.txt").write_bytes(b"\xef\xbb\xbf1 0.5 0.5 0.2 0.2\r\n")
    for names in (
        b"\xef\xbb\xbfperson\r\nbox\r\n",
        b"\r\nbox\r\n",
        b"person\nbox\n\n\n",
    ):
        (folder / "classes.txt").write_bytes(names)
        ((truth,),) = (image.truth for image in read(folder))
        assert truth.label == "box", names
    (folder / "classes.txt").write_text("\n\nbox\n")
    assert "has class 1, which has no name in" in refusal(folder)


def test_files_beside_labels_and_missing_images_are_counted(tmp_path: Path) -> None:
    shown = scenes(2)
    root = write_yolo(tmp_path / "yolo", shown)
    for name in ("README.roboflow.txt", "train.txt", "7.txt"):
        (root / "labels" / name).write_text("lfm - v1 2026-11-01\n0 0.5 0.5 0.1 0.1\n")
        (root / "images" / name).write_text("not a label\n")
    with open_labelled(root) as opened:
        assert opened.notes == ("3 files .txt without an image were left out",)
        assert sum(len(image.truth) for image in opened.images) == sum(len(s.objects) for s in shown)
    content: Any = coco(shown)
    content["images"][0]["file_name"] = "gone.png"
    folder = write_coco(tmp_path / "coco", shown)
    (folder / "README.dataset.txt").write_text("exported\n")
    (folder / "instances.json").write_text(json.dumps(content))
    with open_labelled(folder) as opened:
        assert opened.notes == ("1 labelled images are missing", "1 images without labels were left out")
    content["images"][1]["file_name"] = "\0" * 5000
    (folder / "instances.json").write_text(json.dumps(content))
    assert "labels images that are not in" in refusal(folder)


def test_coco_files_of_other_tools_mean_the_same(tmp_path: Path) -> None:
    shown = scenes(2)
    folder = write_coco(tmp_path, shown)
    before = [image.truth for image in read(folder)]
    content: Any = coco(shown)
    for image in content["images"]:
        image["file_name"] = f"C:\\data\\train\\{image['file_name']}"
        image["width"], image["height"] = f"{SIZE}.0", float(SIZE)
    for annotation in content["annotations"]:
        annotation["category_id"] = str(annotation["category_id"])
        annotation["image_id"] = float(annotation["image_id"])
        annotation["bbox"] = [str(side) for side in annotation["bbox"]]
    (folder / "instances.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(content).encode())
    assert [image.truth for image in read(folder)] == before


@pytest.mark.parametrize("as_shown", [True, False])
def test_boxes_refer_to_the_image_of_the_size_that_the_labels_name(tmp_path: Path, as_shown: bool) -> None:
    """EXIF orientation 6 turns a stored image of 40 x 20 pixels into one of 20 x 40 as shown."""
    stored = np.zeros((20, 40, 3), np.uint8)
    stored[:, :10] = 255  # at the left as stored, at the top as shown
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    PIL.Image.fromarray(stored).save(tmp_path / "0.jpg", exif=exif)
    width, height, bbox = (20, 40, [0, 0, 20, 10]) if as_shown else (40, 20, [0, 0, 10, 20])
    content = {
        "images": [{"id": 0, "file_name": "0.jpg", "width": width, "height": height}],
        "categories": [{"id": 0, "name": "box"}],
        "annotations": [{"id": 0, "image_id": 0, "category_id": 0, "bbox": bbox}],
    }
    (tmp_path / "instances.json").write_text(json.dumps(content))
    with open_labelled(tmp_path) as opened:
        (image,) = opened.images
    assert image.frame.image.shape == (height, width, 3)
    x1, y1, x2, y2 = image.truth[0].box.in_pixels(width, height).astype(int)
    assert image.frame.image[y1:y2, x1:x2].mean() > 250
    assert (image.frame.image > 128).mean() == 0.25
    assert len(opened.notes) == (not as_shown)


@pytest.mark.parametrize(
    ("place", "value", "sentence"),
    [
        ((), "nonsense", "an object with images"),
        (("images",), {}, "'images' is no list"),
        (("images",), [], "belongs to image 0, which is not listed"),
        (("images", 0, "width"), "wide", "image 0 needs file_name, width and height"),
        (("images", 0, "height"), 2 * SIZE, "but its labels in .* are for 256 x 512"),
        (("images", 0, "id"), 1, "images need an id of their own, got 1"),
        (("categories", 0, "name"), " ", "category 0 has no name that can be asked for"),
        (("annotations", 0, "category_id"), [], "has category \\[\\], which has no name"),
        (("annotations", 0, "category_id"), 77, "annotation 0 has category 77, which has no name"),
        (("annotations", 0, "image_id"), 9, "annotation 0 belongs to image 9"),
        (("annotations", 0, "bbox"), [1, 2, 3], r"needs a bbox \[x, y, width, height\]"),
        (("annotations", 0, "bbox"), [900, 0, 90, 20], "annotation 0 has a box far outside its image"),
        (("annotations", 0, "bbox"), [math.nan, 0, 90, 20], "NaN is no number"),
    ],
)
def test_malformed_coco_labels_are_refused_in_a_sentence(
    tmp_path: Path, place: tuple[str | int, ...], value: object, sentence: str
) -> None:
    shown = scenes(2)
    assert shown[0].objects
    folder = write_coco(tmp_path, shown)
    content: Any = coco(shown)
    *way, last = place or (None,)
    target = content
    for step in way:
        target = target[step]
    if last is None:
        content = value
    else:
        target[last] = value
    (folder / "instances.json").write_text(json.dumps(content))
    with pytest.raises(PerceptionError, match=sentence):
        read(folder)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("0 0.5 0.5 0.2", "line 2 of .*0.txt is not `class cx cy w h`"),
        ("zero 0.5 0.5 0.2 0.2", "is not `class cx cy w h`: 'zero"),
        ("0 0.5 0.5 0.2 0.2 0.3 0.3", "is not `class cx cy w h`"),
        ("9 0.5 0.5 0.2 0.2", "has class 9, which has no name in .*data.yaml"),
        ("0 320 240 50 40", "has a box far outside its image"),
        ("0 nan 0.5 0.2 0.2", "has a box far outside its image"),
    ],
)
def test_malformed_yolo_labels_are_refused_with_their_line(tmp_path: Path, line: str, sentence: str) -> None:
    root = write_yolo(tmp_path, scenes(2))
    (root / "labels" / "0.txt").write_text(f"0 0.5 0.5 0.2 0.2\n{line}\n")
    with pytest.raises(PerceptionError, match=sentence):
        read(root)


def test_yolo_labels_without_images_or_names_are_refused(tmp_path: Path) -> None:
    root = write_yolo(tmp_path, scenes(2))
    (root / "data.yaml").write_text("names: 5")
    assert "holds no names of classes" in refusal(root)
    (root / "data.yaml").unlink()
    assert "have no names: put them into data.yaml" in refusal(root)


def write_labelled_bag(path: Path, shown: Sequence[Snapshot]) -> list[int]:
    """A bag of images, every other one with its ground truth on /detections; returns the stamps of those."""
    sink = BagSink(path, 10.0)
    stamps = []
    for index, snapshot in enumerate(shown):
        stamp_ns = 5 * 10**9 + index * 10**8
        frame = Frame(snapshot.frame.image, stamp_ns)
        scene = None
        if index % 2 == 0:
            true = tuple(Detection(t.label, t.box, 1.0) for t in snapshot.objects)
            scene = Scene(stamp_ns, "camera", SIZE, SIZE, true, (), None, False, {}, Usage())
            stamps.append(stamp_ns)
        sink.write(AnnotatedFrame(index, frame, (), snapshot.frame.image, scene))
    sink.finish({})
    return stamps


def test_the_images_of_a_bag_meet_their_labels_by_stamp(tmp_path: Path) -> None:
    shown = scenes(4)
    stamps = write_labelled_bag(tmp_path / "bag", shown)
    bag = tmp_path / "bag"
    labelled = read(bag, "/detections")
    assert [image.frame.stamp_ns for image in labelled] == stamps
    for image, snapshot in zip(labelled, shown[::2], strict=True):
        assert [t.label for t in image.truth] == [t.label for t in snapshot.objects]
        for ours, true in zip(image.truth, snapshot.objects, strict=True):
            assert ours.box.xyxy == pytest.approx(true.box.xyxy)
    file = tmp_path / "mine.json"
    content = coco(shown[:1])
    content["images"][0]["file_name"] = f"{stamps[0]}.png"
    file.write_text(json.dumps(content))
    (image,) = read(bag, str(file))
    assert [t.label for t in image.truth] == [t.label for t in shown[0].objects]
    content["images"][0]["file_name"] = "17.png"
    file.write_text(json.dumps(content))
    assert "none of the 4 images has a stamp for which there are labels" in refusal(bag, str(file))
    content["images"][0]["file_name"] = "first.png"
    file.write_text(json.dumps(content))
    assert "must be the stamp of the image in nanoseconds, got 'first.png'" in refusal(bag, str(file))


def test_a_bag_with_several_topics_of_boxes_asks_for_one(tmp_path: Path) -> None:
    write_labelled_bag(tmp_path / "bag", scenes(2))
    bag = tmp_path / "bag"
    assert "choose one with --labels: /detections, /tracks" in refusal(bag)
    assert "on topic /truth, only /detections, /tracks" in refusal(bag, "/truth")


# --- degraded images -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STRESSES)
def test_degradations_are_repeatable_and_leave_the_original_unchanged(name: str) -> None:
    snapshot = next(s for s in scenes() if len(s.objects) > 2)
    image, truth = snapshot.frame.image, tuple(Annotation(t.label, t.box) for t in snapshot.objects)
    before = image.copy()
    degraded, carried = STRESSES[name](random.Random(3), image, truth)
    again, _ = STRESSES[name](random.Random(3), image, truth)
    other, _ = STRESSES[name](random.Random(4), image, truth)
    assert np.array_equal(image, before)
    assert degraded.dtype == np.uint8
    assert np.array_equal(degraded, again)
    assert degraded.shape != image.shape or not np.array_equal(degraded, image)
    assert degraded.shape != other.shape or not np.array_equal(degraded, other)
    assert {t.label for t in carried} <= {t.label for t in truth}
    # nothing to see is no reason to fail
    assert STRESSES[name](random.Random(3), image, ())[1] == ()


def test_low_light_is_dark_and_blur_keeps_the_light() -> None:
    image = scenes(1)[0].frame.image
    dark, _ = STRESSES["low light"](random.Random(0), image, ())
    smeared, _ = STRESSES["blur"](random.Random(0), image, ())
    assert 0.08 * image.mean() < dark.mean() < 0.3 * image.mean()
    assert smeared.mean() == pytest.approx(image.mean(), rel=0.02)
    assert cv2.Laplacian(smeared, cv2.CV_64F).var() < 0.5 * cv2.Laplacian(image, cv2.CV_64F).var()


def test_in_another_aspect_ratio_the_boxes_hold_the_same_pixels() -> None:
    shapes = set()
    for seed, snapshot in enumerate(scenes()):
        truth = tuple(Annotation(t.label, t.box) for t in snapshot.objects)
        degraded, carried = STRESSES["aspect ratio"](random.Random(seed), snapshot.frame.image, truth)
        shapes.add(degraded.shape)
        for before, after in zip(truth, carried, strict=True):
            a, b, c, d = np.rint(before.box.in_pixels(SIZE, SIZE)).astype(int)
            e, f, g, h = np.rint(after.box.in_pixels(degraded.shape[1], degraded.shape[0])).astype(int)
            assert np.array_equal(snapshot.frame.image[b:d, a:c], degraded[f:h, e:g])
    assert shapes == {(SIZE, 3 * SIZE, 3), (3 * SIZE, SIZE, 3)}


def test_occlusion_covers_a_part_of_each_object_and_removes_hidden_ones() -> None:
    image = np.zeros((SIZE, SIZE, 3), np.uint8)
    large = Annotation("forklift", Box(0.1, 0.1, 0.9, 0.9))
    hidden = Annotation("cone", Box(0.48, 0.48, 0.52, 0.52))
    degraded, carried = STRESSES["occlusion"](random.Random(0), image, (large, hidden))
    assert carried == (large,)
    inside = degraded[26:230, 26:230, 0] > 0
    assert 0.28 < inside.mean() < 0.48
    assert not degraded[:20].any()


# --- languages -------------------------------------------------------------------------------------


def test_every_dialect_is_asked_in_the_models_nine_languages() -> None:
    assert set(LANGUAGES) == {"en", "ar", "de", "es", "fr", "ja", "ko", "pt", "zh"}
    for name, wordings in TRANSLATIONS.items():
        assert set(wordings) == set(LANGUAGES)
        for wording in wordings.values():
            Dialect(name, wording)


def test_words_in_a_language_come_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "words.yaml"
    file.write_text("de:\n  labels: {box: Kiste}\nno:\n  wording: 'Finn {labels}.'\n", encoding="utf-8")
    german, norwegian = languages(["de", "no"], BBOX, LABELS, file)
    assert german.translate("box") == "Kiste"
    assert german.translate("person") == "person"
    assert "Finde alle" in german.dialect.prompt(["Kiste"]).user
    assert norwegian.dialect.user == "Finn {labels}."


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("de: [Kiste]", "must hold languages"),
        ("de: {labels: {box: 5}}", "must hold languages"),
        ("de: {labels: {crate: Kiste}}", "has a word for 'crate', which is not among the labels"),
        ("de: {labels: {box: Ding, cone: Ding}}", "the same word for two labels"),
        ("de: {", "not valid YAML"),
        ("fi: {labels: {}}", "no wording of dialect bbox in the language 'fi'"),
    ],
)
def test_words_that_cannot_be_used_are_refused(tmp_path: Path, text: str, sentence: str) -> None:
    file = tmp_path / "words.yaml"
    file.write_text(text)
    with pytest.raises(PerceptionError, match=sentence):
        languages([text[:2]], BBOX, LABELS, file)


def test_an_answer_in_another_language_is_mapped_to_the_labels(vlm: LlamaVlm) -> None:
    snapshot = next(s for s in scenes() if s.objects)
    labels = [snapshot.objects[0].label]
    settings = Settings().with_values({"detect.closed": True})
    (german,) = languages(["de"], BBOX, labels)
    way = translated_variant(settings, labels, type(german)("de", german.dialect, {labels[0]: "Ding"}))
    trial = Trial(vlm, settings, labels, [way], 0)
    trial.run(
        LabelledImage("one", snapshot.frame, tuple(Annotation(t.label, t.box) for t in snapshot.objects))
    )
    (detections, truth) = trial.results["de"].scenes[0]
    assert {t.label for t in truth} == set(labels)
    assert {d.label for d in detections} <= set(labels)  # the answer itself may say Ding only


# --- the reports -----------------------------------------------------------------------------------


def test_mistakes_are_kept_with_their_reason(vlm: LlamaVlm) -> None:
    snapshot = next(s for s in scenes() if len(s.objects) > 2)
    first, *others = (Annotation(t.label, t.box) for t in snapshot.objects)
    renamed = Annotation(next(label for label in LABELS if label != first.label), first.box)
    unseen = Annotation("person", Box(0.0, 0.0, 0.05, 0.05))
    settings = Settings()
    trial = Trial(vlm, settings, LABELS, [plain_variant(settings, LABELS)], 0)
    trial.run(LabelledImage("one", snapshot.frame, (renamed, *others, unseen)))
    by_reason = {mistake.reason: mistake for mistake in trial.mistakes.all}
    assert by_reason[f"is a {renamed.label}"].label == first.label
    assert by_reason[f"detected as a {first.label}"].confidence is None
    assert by_reason["not detected"].box == unseen.box
    (false,) = trial.mistakes.examples("false_positive")
    assert false.thumbnail is not None
    assert max(false.thumbnail.shape) == 300
    found = figures(trial.results["plain"], LABELS)
    assert found["precision"] == pytest.approx((len(others)) / (len(others) + 1), abs=1e-4)
    assert found["recall"] == pytest.approx(len(others) / (len(others) + 2), abs=1e-4)
    assert found["by_label"]["person"]["objects"] >= 1


def run(*words: object) -> int | str | None:
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    return ended.value.code


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of the command on a few images, in all variants."""
    folder = tmp_path_factory.mktemp("results")
    write_coco(folder / "coco", scenes())
    words = ("--stress", "--languages", "en,zh", "--set", "sampling.temperature=0")
    assert run("eval", "detection", folder / "coco", "--out", folder / "out", *words) in (0, None)
    return folder / "out"


def test_the_command_measures_the_model_on_labelled_images(results: Path) -> None:
    found = json.loads((results / "detection.json").read_text())
    objects = sum(len(snapshot.objects) for snapshot in scenes())
    plain = found["figures"]
    assert (plain["images"], plain["objects"]) == (IMAGES, objects)
    assert plain["f1"] > 0.8
    assert plain["ap_50"] > 0.8
    assert plain["ap"] <= plain["ap_50"]
    assert sum(each["objects"] for each in plain["by_label"].values()) == objects
    assert set(found["stress"]) == set(STRESSES)
    assert found["stress"]["low light"]["f1"] < plain["f1"]
    # the wording of the dialect in English is the plain question
    assert found["languages"]["en"]["f1"] == plain["f1"]
    assert set(found["languages"]) == {"en", "zh"}
    wrong = [each for each in found["mistakes"] if each["kind"] == "false_positive"]
    assert len(wrong) == plain["false_positives"]


def test_the_page_needs_nothing_else(results: Path) -> None:
    page = (results / "detection.html").read_text()
    found = json.loads((results / "detection.json").read_text())
    assert page.count("http") == 0
    assert page.count("<img") == page.count('src="data:image/') > 5
    assert "demo model" in page
    assert platt_scaling_advice(found["figures"]) in page
    assert f"{found['figures']['ap_50']:.3f}" in page
    for name in (*STRESSES, *LABELS, "By language"):
        assert name in page


def test_two_runs_are_shown_side_by_side(
    results: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    first = results / "detection.json"
    content = json.loads(first.read_text())
    content["figures"]["ap_50"] /= 2
    content["settings"]["image.max_tokens"] = 64
    second = tmp_path / "other.json"
    second.write_text(json.dumps(content))
    assert run("eval", "compare", first, second, "--out", tmp_path / "out") in (0, None)
    assert "worse" in capfd.readouterr().out
    assert run("eval", "detection", "--compare", first, second) in (0, None)
    assert "worse" in capfd.readouterr().out
    page = (tmp_path / "out" / "compare.html").read_text()
    assert "settings.image.max_tokens" in page
    assert page.count("http") == 0
    (changed,) = [pair for pair in pairs(*compare(first, second)) if pair.first != pair.second]
    assert (changed.path, changed.verdict) == ("figures.ap_50", "worse")


def test_reports_of_different_kinds_are_refused(results: Path, tmp_path: Path) -> None:
    detection, other = results / "detection.json", tmp_path / "other.json"
    for text, sentence in (
        ("{", "not valid JSON"),
        ("[]", "is no report"),
        ('{"kind": "bench"}', "give two of a kind"),
    ):
        other.write_text(text)
        with pytest.raises(PerceptionError, match=sentence):
            compare(detection, other)


def test_without_pycocotools_the_way_out_is_named(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools", None)  # so importing it fails
    assert run("eval", "detection", tmp_path, "--out", tmp_path / "out") == 1
    assert "pip install 'lfm_perception[eval]'" in capfd.readouterr().err


def test_the_command_refuses_unusable_input_and_leaves_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = write_coco(tmp_path / "coco", scenes(1))
    out = tmp_path / "out"

    def refused(*words: object) -> str:
        assert run("eval", "detection", *words) == 1
        assert not out.exists()
        return capfd.readouterr().err

    assert "there is no" in refused(tmp_path / "gone", "--out", out)
    assert "no label is called 'dog'; there are: person" in refused(folder, "--out", out, "--names", "dog")
    assert "there are no labels" in refused(folder, "--out", out, "--labels", tmp_path / "gone.json")
    assert "in the language 'fi'" in refused(folder, "--out", out, "--languages", "fi")
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert "cannot write to" in refused(folder, "--out", blocked / "out")
