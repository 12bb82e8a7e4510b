# SPDX-License-Identifier: Apache-2.0
"""Labels of the images of a rosbag2, by stamp: a topic of Detection2DArray, or a COCO file.

The `file_name`s of the COCO file are the stamps in nanoseconds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lfm_perception.errors import PerceptionError, shown
from lfm_perception.evaluation.detection import Annotation
from lfm_perception.evaluation.labels import base
from lfm_perception.evaluation.labels.coco import read_coco
from lfm_perception.files import MAX_DIGITS
from lfm_perception.media.bags import BOXES_TYPE, is_bag, message_box, open_bag, typestore
from lfm_perception.media.images import reason
from lfm_perception.media.sources import open_source
from lfm_perception.scene import Frame
from lfm_perception.stamps import join_stamp

USUAL_TOPIC = "ground_truth"
"""Last name of the topic that is preferred among several of `BOXES_TYPE`."""


def _find(source: Path) -> list[str]:
    if not is_bag(source):
        return []
    with open_bag(source) as reader:
        topics = sorted({c.topic for c in reader.connections if c.msgtype == BOXES_TYPE and c.msgcount})
    usual = [topic for topic in topics if topic.rpartition("/")[2] == USUAL_TOPIC]
    return usual if len(usual) == 1 else topics


@contextmanager
def _open(source: Path, labels: str, topic: str | None) -> Iterator[base.LabelledSource]:
    """The frames of a bag whose stamps have labels."""
    by_stamp: Mapping[int, Sequence[Any]]
    if labels.endswith(".json"):
        coco = read_coco(Path(labels))
        by_stamp = {_stamp(image.name, labels): image.truth for image in coco.images}
        names, place, omissions = coco.labels, f"labels {labels}", coco.omissions
    else:
        by_stamp = _read_boxes(source, labels)
        names = tuple(sorted({_label(box) for boxes in by_stamp.values() for box in boxes}))
        place, omissions = f"labels on {labels}", Counter()
    with open_source(str(source), topic=topic) as opened:
        name = f"{opened.name}, {place}"
        # the stamps of a bag are known only once it has been read
        count = min(len(by_stamp), opened.count or len(by_stamp))
        yield base.LabelledSource(
            name, names, count, _images(opened.frames, by_stamp, name, omissions), omissions
        )


def _images(
    frames: Iterator[Frame], by_stamp: Mapping[int, Sequence[Any]], name: str, omissions: Counter[str]
) -> Iterator[base.LabelledImage]:
    seen: Counter[bool] = Counter()
    for frame in frames:
        boxes = by_stamp.get(frame.stamp_ns)
        seen[boxes is not None] += 1
        if boxes is not None:
            yield base.LabelledImage(f"{frame.stamp_ns} ns", frame, _truth(boxes, frame, omissions))
    if not seen[True]:
        raise PerceptionError(
            f"none of the {seen[False]} images has a stamp for which there are labels ({name})"
        )


def _truth(boxes: Sequence[Any], frame: Frame, omissions: Counter[str]) -> base.Truth:
    """Annotations as they are; messages of detections, in pixels, as annotations of this frame."""
    where, truth = f"the message at {frame.stamp_ns} ns", []
    for box in boxes:
        if isinstance(box, Annotation):
            truth.append(box)
        elif sides := base.clipped_box(message_box(box, frame.width, frame.height), where, omissions):
            truth.append(Annotation(_label(box), sides, box.id))
    return tuple(truth)


def _stamp(name: str, file: str) -> int:
    stem = Path(name).stem
    if not stem.isdecimal() or len(stem) > MAX_DIGITS:
        raise PerceptionError(
            f"labels {file} of a bag: file_name must be the stamp of the image in nanoseconds, "
            f"got {shown(name)}"
        )
    return int(stem)


def _read_boxes(path: Path, topic: str) -> dict[int, Sequence[Any]]:
    """The messages of detections on a topic, by stamp."""
    types = typestore()
    with open_bag(path) as reader:
        found = [c for c in reader.connections if c.msgtype == BOXES_TYPE and c.msgcount]
        chosen = [connection for connection in found if connection.topic == topic]
        if not chosen:
            topics = ", ".join(sorted({connection.topic for connection in found}))
            there = f"only {topics}" if topics else "no topic of boxes at all"
            raise PerceptionError(f"bag {path} has no {BOXES_TYPE} on topic {topic}, {there}")
        try:
            messages: list[Any] = [
                types.deserialize_cdr(raw, BOXES_TYPE) for _, _, raw in reader.messages(chosen)
            ]
        except Exception as error:  # a damaged file surfaces as whatever its parser stumbles over
            raise PerceptionError(f"topic {topic} of bag {path} is damaged: {reason(error)}") from error
    by_stamp = {join_stamp(m.header.stamp.sec, m.header.stamp.nanosec): m.detections for m in messages}
    for stamp_ns, detections in by_stamp.items():
        if not all(detection.results for detection in detections):
            raise PerceptionError(
                f"the message at {stamp_ns} ns on {topic} has a box without a name (results is empty)"
            )
    return by_stamp


def _label(detection: Any) -> str:
    """The label of the hypothesis with the highest confidence."""
    best = max(detection.results, key=lambda result: result.hypothesis.score)
    return base.label_name(best.hypothesis.class_id, "a box")


base.register(
    base.LabelFormat(f"rosbag2: a topic of {BOXES_TYPE}", lambda source, _: is_bag(source), _find, _open)
)
