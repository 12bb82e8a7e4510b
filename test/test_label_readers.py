# SPDX-License-Identifier: Apache-2.0
"""Labelled images of COCO, YOLO and bags."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from labelled import IMAGES, SIZE, coco, read, refusal, scenes, write_coco, write_images, write_yolo

from lfm_perception.demo.bodies import LABELS
from lfm_perception.demo.world import Snapshot
from lfm_perception.errors import PerceptionError
from lfm_perception.evaluation.labels import open_labelled
from lfm_perception.geometry import Box
from lfm_perception.media.sinks import AnnotatedFrame
from lfm_perception.media.sinks.bag import BagSink
from lfm_perception.scene import Detection, Frame, Scene, Usage


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
    assert "choose one with --annotations" in refusal(folder)
    (tmp_path / "classes.txt").write_text("person\nbox\n")
    (first, second) = read(folder, str(tmp_path / "classes.txt"))
    assert (first.truth[0].label, second.truth) == ("person", ())


def test_omitted_labels_and_images_are_noted(tmp_path: Path) -> None:
    shown = scenes(2)
    folder = write_coco(tmp_path / "coco", shown)
    content = coco(shown[:1])
    for annotation in content["annotations"]:
        annotation["iscrowd"] = "0"  # as a text
    content["annotations"][0]["iscrowd"] = "1"
    (folder / "instances.json").write_text(json.dumps(content))
    with open_labelled(folder) as opened:
        notes = opened.notes
        assert notes == ("1 boxes of crowds were left out", "1 images without labels were left out")
        assert len(next(opened.images).truth) == len(shown[0].objects) - 1
    root = write_yolo(tmp_path / "yolo", shown)
    (root / "labels" / "1.txt").unlink()
    with open_labelled(root) as opened:
        assert opened.notes == ("1 images have no .txt and are taken to show nothing",)


def test_the_export_of_cvat_is_read_as_it_is(tmp_path: Path) -> None:
    shown = scenes(2)
    exported = write_yolo(tmp_path / "other", shown)
    folder = tmp_path / "obj_train_data"
    (exported / "images").rename(folder)
    for file in (exported / "labels").glob("*.txt"):
        file.rename(folder / file.name)
    (tmp_path / "obj.names").write_text("\n".join(LABELS))
    (tmp_path / "obj.data").write_text("classes = 5\nnames = data/obj.names\n")
    (tmp_path / "train.txt").write_text("data/obj_train_data/0.png\n")
    assert [len(image.truth) for image in read(folder)] == [len(each.objects) for each in shown]


@pytest.mark.parametrize("write", [write_coco, write_yolo])
def test_a_damaged_image_is_left_out_and_many_are_not(write: Any, tmp_path: Path) -> None:
    folder = write(tmp_path / "labelled", scenes(12))
    files = sorted(folder.rglob("*.png"))
    files[3].write_bytes(files[3].read_bytes()[:100])
    with open_labelled(folder) as opened:
        assert len(list(opened.images)) == 11
        assert "1 images cannot be read and were left out" in opened.notes
    files[7].write_bytes(b"")
    with open_labelled(folder) as opened, pytest.raises(PerceptionError, match=r"2 of 12 frames are damaged"):
        list(opened.images)


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
        (("categories", 0, "name"), " ", "category 0 has no name that can be requested"),
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
    assert "choose one with --annotations: /detections, /tracks" in refusal(bag)
    assert "on topic /truth, only /detections, /tracks" in refusal(bag, "/truth")
