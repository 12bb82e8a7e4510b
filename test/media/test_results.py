# SPDX-License-Identifier: Apache-2.0
"""Scenes as JSON, drawings, and folders that appear whole or not at all."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import jsonschema
import numpy as np
import pytest
from material import failure, noise, read
from numpy.typing import NDArray
from rosbags.rosbag2 import Reader

from lfm_perception.errors import PerceptionError
from lfm_perception.geometry import Box
from lfm_perception.media import images, sources
from lfm_perception.media.bags import typestore
from lfm_perception.media.overlay import Overlay, View, _Chip, _covered
from lfm_perception.media.page import Section, write_report
from lfm_perception.media.sinks import AnnotatedFrame, open_recording
from lfm_perception.media.sinks.bag import BAG
from lfm_perception.media.sinks.base import Sink
from lfm_perception.scene import CoordinateStd, Detection, Frame, Scene, Track, Usage, Velocity
from lfm_perception.scene_json import SCHEMA, scene_to_json


def example_scene(stamp_ns: int = 12 * 10**9 + 5, width: int = 64, height: int = 48) -> Scene:
    box = Box(0.1, 0.25, 0.5, 0.75)
    return Scene(
        stamp_ns=stamp_ns,
        frame_id="front",
        width=width,
        height=height,
        detections=(
            Detection("box", box, 0.9, CoordinateStd(0.01, 0.01, 0.02, 0.02)),
            Detection("人", box, 0.5),
        ),
        tracks=(Track(3, "box", box, 0.9, Velocity(0.2, -0.1), 1.5, 0.0, velocity_std=Velocity(0.02, 0.01)),),
        caption="A box.",
        truncated=False,
        rejects={"no label": 2},
        usage=Usage(234, 60, 40, 0.1, 0.02, 0.03, 41),
        caption_stamp_ns=stamp_ns - 10**9,
        caption_usage=Usage(234, 20, 4, 0.1, 0.02, 0.01, 4),
    )


@pytest.mark.parametrize(
    "scene",
    [
        example_scene(),
        dataclasses.replace(
            example_scene(-1),
            detections=(),
            tracks=(),
            caption=None,
            caption_stamp_ns=None,
            caption_usage=None,
        ),
    ],
)
@pytest.mark.parametrize("index", [None, 7])
def test_a_scene_as_json_follows_the_schema(scene: Scene, index: int | None) -> None:
    schema = json.loads(SCHEMA.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    record = json.loads(json.dumps(scene_to_json(scene, index)))
    jsonschema.Draft202012Validator(schema).validate(record)
    assert record["stamp"]["sec"] * 10**9 + record["stamp"]["nanosec"] == scene.stamp_ns
    assert record.get("index") == index


def test_a_scene_as_json_has_its_tracks_detections_and_caption() -> None:
    record = scene_to_json(example_scene())
    assert record["objects"] == [
        {
            "track_id": 3,
            "label": "box",
            "confidence": 0.9,
            "bbox": [0.1, 0.25, 0.5, 0.75],
            "velocity": [0.2, -0.1],
            "velocity_std": [0.02, 0.01],
            "velocity_px": [12.8, -4.8],
            "velocity_std_px": [1.3, 0.5],
            "age_s": 1.5,
            "time_since_update_s": 0.0,
        }
    ]
    assert [d["bbox_std"] for d in record["detections"]] == [[0.01, 0.01, 0.02, 0.02], None]
    assert (record["global_caption"], record["caption_age_s"]) == ("A box.", 1.0)
    assert (record["rejects"], record["usage"]["caption"]["answer_tokens"]) == ({"no label": 2}, 4)


def view(width: int, height: int) -> View:
    frame = Frame(noise(width, height), 12 * 10**9 + 5)
    scene = example_scene(frame.stamp_ns, width, height)
    return View(frame, 12.0, scene.tracks, scene, 0.3)


@pytest.mark.parametrize(
    ("width", "height"), [(640, 480), (256, 256), (1920, 1080), (7680, 4320), (7, 900), (900, 7), (1, 1)]
)
def test_any_frame_is_drawn_to_a_size_that_is_legible_and_fits_video(width: int, height: int) -> None:
    overlay = Overlay(width, height, "demo model", panel="strip")
    drawn = overlay.draw(view(width, height))
    assert drawn.shape == (overlay.height, overlay.width, 3)
    assert drawn.dtype == np.uint8
    assert overlay.width % 2 == overlay.height % 2 == 0
    assert 480 <= overlay.width <= 1280
    assert overlay.height <= 1400
    assert Overlay(width, height, "demo model").draw(view(width, height)).shape == (height, width, 3)


def track(track_id: int, box: Box, **about: Any) -> Track:
    about = {"velocity": Velocity(0.0, 0.0), "time_since_update_s": 0.0, **about}
    return Track(track_id, "forklift", box, 0.9, age_s=3.0, **about)


def drawn_tracks(*tracks: Track) -> NDArray[Any]:
    """What these tracks change in a grey image of 640 x 480."""
    grey = Frame(np.full((480, 640, 3), 128, np.uint8), 12 * 10**9)
    image = Overlay(640, 480, panel="").draw(View(grey, 0.0, tracks, None, 0.0))
    return np.asarray(np.abs(image.astype(int) - 128).max(axis=2))


def test_names_of_objects_at_the_same_place_do_not_cover_each_other() -> None:
    boxes = [Box(0.3 + 0.01 * i, 0.4 + 0.005 * i, 0.6, 0.7) for i in range(6)]
    overlay = Overlay(640, 480)
    taken: list[_Chip] = []
    for box in boxes:
        corners = box.in_pixels(640, 480).tolist()
        taken.append(overlay._free_place(corners, 140, 20, taken))
    assert not any(_covered([each], taken[:index]).any() for index, each in enumerate(taken))


def test_the_name_of_a_box_that_is_wider_than_the_image_ends_on_it() -> None:
    grey = Frame(np.full((480, 120, 3), 128, np.uint8), 12 * 10**9)
    images = [
        Overlay(120, 480, panel="").draw(View(grey, 0.0, [named], None, 0.0))
        for number in (1, 2)
        for named in [track(number, Box(0.1, 0.2, 0.9, 0.7))._replace(label="a label of many words " * 3)]
    ]
    inks = [(image == 0).all(axis=2) | (image == 255).all(axis=2) for image in images]
    assert (inks[0] != inks[1]).any(), "the ids differ"


def test_a_box_fades_with_the_age_of_its_prediction() -> None:
    box = Box(0.2, 0.3, 0.6, 0.7)
    strengths = [
        drawn_tracks(track(1, box, time_since_update_s=age_s)).sum() for age_s in (0.0, 0.5, 1.0, 9.0)
    ]
    assert strengths == sorted(strengths, reverse=True)
    assert len(set(strengths)) == 4
    assert strengths[-1] > 0


def test_a_known_distance_is_written_behind_the_score() -> None:
    box = Box(0.2, 0.3, 0.6, 0.7)
    widths = [
        int(drawn_tracks(track(1, box, distance=metres))[: 144 - 2].any(axis=0).sum())
        for metres in (None, 2.4, 12.4)
    ]
    assert widths == sorted(set(widths))


def test_a_standing_object_has_no_arrow_while_the_camera_pans() -> None:
    box, pan = Box(0.2, 0.3, 0.6, 0.7), Velocity(0.4, 0.0)
    middle = np.s_[220:260, 200:500]
    assert not drawn_tracks(track(1, box, velocity=pan, camera_velocity=pan))[middle][:, :180].any()
    assert drawn_tracks(track(1, box, velocity=pan))[middle][:, :180].any()


def test_boxes_are_drawn_where_the_objects_are() -> None:
    overlay = Overlay(640, 480, panel="")
    shown = view(640, 480)
    plain = overlay.draw(View(shown.frame, 12.0, (), None, 0.0))
    changed = np.abs(overlay.draw(shown).astype(int) - plain).max(axis=2)[:480] > 8
    rows, columns = changed.any(axis=1).nonzero()[0], changed.any(axis=0).nonzero()[0]
    assert columns[0] == pytest.approx(64, abs=2)
    assert rows[-1] == pytest.approx(360, abs=2)
    assert changed[200, 62:67].any()
    assert not changed[:90].any()


def test_frames_of_another_shape_are_fitted_into_the_first_ones_size() -> None:
    overlay = Overlay(640, 480)
    assert overlay.draw(view(100, 700)).shape == (overlay.height, overlay.width, 3)


def write_results(folder: Path, *, bag: bool = False, frames: int = 4) -> None:
    shown = view(64, 48)
    overlay = Overlay(64, 48, panel="strip")
    with open_recording(folder, 10.0, optional=[BAG] if bag else []) as recording:
        for index in range(frames):
            scene = dataclasses.replace(example_scene(), stamp_ns=index * 10**8)
            frame = Frame(shown.frame.image, scene.stamp_ns, "front")
            drawn = overlay.draw(View(frame, 0.0, scene.tracks, scene, 0.1))
            recording.write(AnnotatedFrame(index, frame, scene.tracks, drawn, scene))
        recording.finish({"frames": frames})


def test_pictures_may_have_any_name_that_a_file_can_have(tmp_path: Path) -> None:
    out, picture = tmp_path / "out", view(64, 48).frame
    files = ["\udcff.png", "a\nb\x1b[31m.png", "<b>.png", "-rf.png"]  # the first is no text
    with open_recording(out, 10.0, pictures=True) as recording:
        for index, file in enumerate(files):
            frame = dataclasses.replace(picture, file=file)
            scene = dataclasses.replace(example_scene(), file=file)
            recording.write(AnnotatedFrame(index, frame, (), frame.image, scene))
        recording.finish({"frames": 4})
    assert {file.name for file in (out / "pictures").iterdir()} == {
        *files,
        *(f"{each}.json" for each in files),
    }
    write_report(tmp_path / "page.html", "<b>", [Section("a\x1b[31m", notes=files)], {})
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "&lt;b&gt;.png" in page
    assert "\x1b" not in page


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_results_appear_together_and_can_be_read(tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    write_results(out)
    assert names(out) == [
        "overlay.mp4",
        "overlay.png",
        "scenes.jsonl",
        "summary.json",
    ]  # no page without figures
    assert [json.loads(line)["index"] for line in (out / "scenes.jsonl").read_text().splitlines()] == [
        0,
        1,
        2,
        3,
    ]
    video = read(out / "overlay.mp4")
    still = images.decode((out / "overlay.png").read_bytes(), "still")
    assert len(video) == 4
    assert video[3].stamp_ns == 3 * 10**8
    assert np.abs(video[3].image.astype(int) - still).mean() < 8
    with av.open(str(out / "overlay.mp4")) as container:
        codec = container.streams.video[0].codec_context
        assert (codec.name, codec.pix_fmt) == ("vp9", "yuv420p")


def test_a_recording_that_is_not_finished_leaves_no_trace(tmp_path: Path) -> None:
    old = tmp_path / "old"
    old.mkdir()
    (old / "scenes.jsonl").write_text("from before")
    shown = view(64, 48)
    for folder in (tmp_path / "new" / "out", old):
        with open_recording(folder, 10.0, optional=[BAG]) as recording:
            drawn = Overlay(64, 48, panel="strip").draw(shown)
            recording.write(AnnotatedFrame(0, shown.frame, (), drawn, example_scene()))
    assert names(tmp_path) == ["old"]
    assert names(old) == ["scenes.jsonl"]
    assert (old / "scenes.jsonl").read_text() == "from before"


def test_results_replace_those_of_an_earlier_run(tmp_path: Path) -> None:
    write_results(tmp_path, bag=True, frames=4)
    write_results(tmp_path, bag=True, frames=2)
    assert len((tmp_path / "scenes.jsonl").read_text().splitlines()) == 2
    with Reader(tmp_path / BAG) as reader:
        assert {c.topic: c.msgcount for c in reader.connections}["/tracks"] == 2
    assert len(names(tmp_path)) == 5


def test_folders_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(PerceptionError, match=r"cannot write to .*/file: file exists"):
        write_results(tmp_path / "file")
    with pytest.raises(PerceptionError, match=r"cannot write to .*/file/out: not a directory"):
        write_results(tmp_path / "file" / "out")
    with pytest.raises(PerceptionError, match="cannot write to /proc/out"):
        write_results(Path("/proc/out"))
    assert (tmp_path / "file").read_text() == "in the way"


def test_the_bag_holds_messages_with_the_type_hashes_of_ros(tmp_path: Path) -> None:
    write_results(tmp_path, bag=True)
    types = typestore()
    # The hash by which ROS 2 knows the type of vision_msgs 4.
    assert types.hash_rihs01("vision_msgs/msg/Detection2DArray") == (
        "RIHS01_214274120007f4a683866481336b70310268cfa107aebe9d594a6acf75bda968"
    )
    with Reader(tmp_path / BAG) as reader:
        received: dict[str, list[Any]] = {}
        for connection, logged_ns, raw in reader.messages():
            message: Any = types.deserialize_cdr(raw, connection.msgtype)
            received.setdefault(connection.topic, []).append((logged_ns, message))
    assert {topic: len(messages) for topic, messages in received.items()} == {
        "/detections": 4,
        "/tracks": 4,
        "/scene": 4,
        "/caption": 4,
        "/overlay/compressed": 4,
    }
    logged_ns, tracks = received["/tracks"][2]
    (track,) = tracks.detections
    assert (logged_ns, tracks.header.stamp.nanosec, tracks.header.frame_id) == (2 * 10**8, 2 * 10**8, "front")
    assert (track.id, track.results[0].hypothesis.class_id) == ("3", "box")
    centre = track.bbox.center.position
    assert (centre.x, centre.y, track.bbox.size_x, track.bbox.size_y) == pytest.approx(
        (19.2, 24.0, 25.6, 24.0)
    )
    assert [d.results[0].hypothesis.class_id for d in received["/detections"][0][1].detections] == [
        "box",
        "人",
    ]
    assert json.loads(received["/scene"][1][1].data)["index"] == 1
    overlay = images.decode(received["/overlay/compressed"][0][1].data, "overlay")
    assert overlay.shape[1] == 640


def test_a_new_sink_and_a_new_source_register_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Sink, "KINDS", dict(Sink.KINDS))
    monkeypatch.setattr(sources.base, "KINDS", list(sources.base.KINDS))
    monkeypatch.setattr(sources, "KINDS", sources.base.KINDS)

    class Counter(Sink, file="count.txt"):
        count = 0

        def write(self, annotated: AnnotatedFrame) -> None:
            self.count += 1

        def finish(self, summary: Mapping[str, Any]) -> None:
            self._path.write_text(str(self.count))

    @contextmanager
    def black(text: str, options: sources.base.SourceOptions) -> Iterator[sources.Source]:
        yield sources.Source(text, iter([Frame(np.zeros((4, 4, 3), np.uint8), 0)]), 1.0)

    sources.base.register(sources.base.SourceKind(9, "black", "black".__eq__, black))
    write_results(tmp_path, frames=3)
    assert (tmp_path / "count.txt").read_text() == "3"
    assert [frame.width for frame in read("black")] == [4]
    assert failure("missing.mp4").endswith(" or black")
