"""The perception node as its users meet it: a real node, a real model in its worker, real DDS."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import cv2
import jsonschema
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed")

from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticStatus
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from robot import RELIABLE, Film, Robot, image_message, robot  # isort: split - chooses how messages travel
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Image
from std_srvs.srv import SetBool, Trigger
from visualization_msgs.msg import ImageMarker, MarkerArray

from lfm_perception.ros import messages
from lfm_perception.scene import Frame
from lfm_perception.scene_json import SCHEMA
from lfm_perception.settings import parameter_specs

SECOND_NS = 10**9


@pytest.fixture(scope="module")
def running() -> Iterator[Robot]:
    """One node, active, for all tests that leave it as they found it."""
    with robot() as started:
        yield started.bring_up()


@pytest.fixture(scope="module")
def compressed() -> Iterator[Robot]:
    with robot({"node.image_transport": "compressed"}) as started:
        yield started.bring_up()


def labels(detections: object) -> list[str]:
    return [d.results[0].hypothesis.class_id for d in detections.detections]  # type: ignore[attr-defined]


def track_ids(robot: Robot, frame: Frame) -> list[int]:
    return [each["track_id"] for each in robot.scene(frame.stamp_ns)["objects"]]


# --- what comes out -----------------------------------------------------------------------------------


def test_detections_keep_the_header_of_the_image_they_were_made_from(running: Robot) -> None:
    frame = Film().next()
    detections = running.show(frame)
    assert messages.stamp_ns(detections.header.stamp) == frame.stamp_ns
    assert detections.header.frame_id == frame.frame_id
    assert detections.detections
    for found in detections.detections:
        assert found.header == detections.header
        assert 0.0 < found.results[0].hypothesis.score <= 1.0
        assert 0.0 < found.bbox.size_x <= frame.width
        assert 0.0 < found.bbox.size_y <= frame.height


def test_tracks_are_predicted_to_the_newest_frame(running: Robot) -> None:
    film = Film()
    running.show(film.next())
    seen = running.show(film.next(skip=5))
    later = film.next(skip=5)
    running.show(later)
    tracks = running.wait(lambda: running.newest("tracks", later.stamp_ns))
    assert tracks.header.frame_id == later.frame_id
    assert len(tracks.detections) >= len(seen.detections)
    assert len({track.id for track in tracks.detections}) == len(tracks.detections)


def test_the_scene_follows_its_schema(running: Robot) -> None:
    film = Film()
    for _ in range(2):
        frame = film.next()
        running.show(frame)
    scene = running.scene(frame.stamp_ns)
    jsonschema.validate(scene, json.loads(SCHEMA.read_text()))
    assert scene["objects"]
    assert scene["frame_id"] == frame.frame_id


def test_the_raw_answer_is_the_models_own_text(running: Robot) -> None:
    before = len(running.heard["raw_answer"])
    detections = running.show(Film().next())
    text = running.wait(lambda: running.heard["raw_answer"][before:])[0].data
    assert [found["label"] for found in json.loads(text)] == labels(detections)


def test_the_last_caption_is_there_for_who_comes_late(running: Robot) -> None:
    assert running.call(Trigger, "perception/caption_now", Trigger.Request()).success
    running.show(Film().next())
    running.wait(lambda: running.heard["caption"])
    assert running.heard["caption"][-1].data.endswith(".")


def test_a_question_is_answered(running: Robot) -> None:
    before = len(running.heard["answer"])
    running.question("What do you see?")
    time.sleep(0.2)
    running.show(Film().next())
    assert running.wait(lambda: running.heard["answer"][before:])[0].data


def test_a_question_with_special_tokens_is_refused_and_the_next_one_answered(running: Robot) -> None:
    before = len(running.heard["answer"])
    for words in ("<|im_end|>", "  ", "What do you see?"):
        running.question(words)
    time.sleep(0.2)
    running.show(Film().next())
    assert len(running.wait(lambda: running.heard["answer"][before:])) == 1


def test_overlay_and_markers_are_made_for_who_watches(running: Robot) -> None:
    film = Film()
    running.show(film.next())
    kinds: tuple[tuple[str, type], ...] = (
        ("dbg_image", Image), ("markers", MarkerArray), ("image_markers", ImageMarker),
    )  # fmt: skip
    for topic, kind in kinds:
        running.listen(topic, kind)
    stamps = set()
    while not all(running.heard[topic] for topic, _ in kinds):  # until the node has found its listener
        frame = film.next()
        stamps.add(frame.stamp_ns)
        running.show(frame)
    picture = running.heard["dbg_image"][-1]
    assert picture.encoding == "rgb8"
    assert messages.stamp_ns(picture.header.stamp) in stamps
    assert picture.width >= frame.width


def test_a_thousand_frames_a_minute_come_out_in_order_and_once(running: Robot) -> None:
    film, sent = Film(), []
    begun = {topic: len(running.heard[topic]) for topic in ("detections", "tracks")}
    for _ in range(45):
        frame = film.next()
        sent.append(frame.stamp_ns)
        running.send(messages.image(frame.image, messages.header(frame.stamp_ns, "front")))
        time.sleep(1 / 30)
    running.seen(sent[-1])
    stamps = {
        topic: [messages.stamp_ns(message.header.stamp) for message in running.heard[topic][start:]]
        for topic, start in begun.items()
    }
    assert stamps["tracks"] == sent
    assert set(stamps["detections"]) <= set(sent)
    assert all(earlier < later for earlier, later in pairwise(stamps["detections"]))


# --- images of all kinds ------------------------------------------------------------------------------


def encodings(rgb: np.ndarray) -> dict[str, tuple[np.ndarray, int]]:
    """The picture in the encodings of cameras, each with its bytes per row."""
    height, width, _ = rgb.shape
    i420 = cv2.cvtColor(rgb, cv2.COLOR_RGB2YUV_I420)
    y, u, v = i420[:height], *(part.reshape(-1) for part in np.split(i420[height:].reshape(-1), 2))
    nv12 = np.concatenate((y, np.stack((u, v), -1).reshape(height // 2, width)))
    yuv = cv2.cvtColor(rgb, cv2.COLOR_RGB2YUV)
    chroma = np.where(np.arange(width) % 2 == 0, yuv[..., 1], yuv[..., 2])
    yuyv, uyvy = np.stack((yuv[..., 0], chroma), -1), np.stack((chroma, yuv[..., 0]), -1)
    bayer = rgb[..., 1].copy()
    bayer[0::2, 0::2], bayer[1::2, 1::2] = rgb[0::2, 0::2, 0], rgb[1::2, 1::2, 2]
    alpha = np.full((height, width, 1), 255, np.uint8)
    return {
        "rgb8": (rgb, 3 * width),
        "bgr8": (rgb[..., ::-1], 3 * width),
        "rgba8": (np.concatenate((rgb, alpha), -1), 4 * width),
        "bgra8": (np.concatenate((rgb[..., ::-1], alpha), -1), 4 * width),
        "yuv422_yuy2": (yuyv, 2 * width),
        "yuv422": (uyvy, 2 * width),
        "nv12": (nv12, width),
        "bayer_rggb8": (bayer, width),
    }


def test_every_encoding_shows_the_same_scene(running: Robot) -> None:
    film = Film()
    picture = film.next()
    expected = labels(running.show(picture))
    assert expected
    for encoding, (data, step) in encodings(picture.image).items():
        stamp = film.next()
        message = image_message(np.ascontiguousarray(data), encoding, stamp, 640, 480, step)
        running.send(message)
        found = labels(running.seen(stamp.stamp_ns))
        if encoding in ("rgb8", "bgr8", "rgba8", "bgra8"):
            assert found == expected, encoding
        else:  # they lose colour
            assert len(set(found) & set(expected)) >= 0.6 * len(set(expected)), (encoding, found, expected)


def test_a_gray_camera_is_taken_too(running: Robot) -> None:
    frame = Film().next()
    gray = cv2.cvtColor(frame.image, cv2.COLOR_RGB2GRAY)
    running.send(image_message(gray, "mono8", frame, 640, 480, 640))
    assert running.seen(frame.stamp_ns) is not None


def test_compressed_images_keep_their_header_too(compressed: Robot) -> None:
    frame = Film().next()
    _, jpeg = cv2.imencode(".jpg", cv2.cvtColor(frame.image, cv2.COLOR_RGB2BGR))
    header = messages.header(frame.stamp_ns, frame.frame_id)
    compressed.send(CompressedImage(header=header, format="jpeg", data=jpeg.tobytes()))
    detections = compressed.seen(frame.stamp_ns)
    assert detections.header == header
    assert detections.detections


def test_a_budget_of_time_that_cannot_be_kept_is_told(running: Robot) -> None:
    film = Film()
    before = running.counted("model", "answers over latency budget")
    try:
        assert running.set(budget__latency=0.001).successful
        frame = film.next()
        running.show(frame)
        assert running.scene(frame.stamp_ns)["over_latency_budget"]
        running.wait(
            lambda: running.counted("model", "answers over latency budget") == before + 1, "the count"
        )
        status = running.diagnosis("model")
        assert (status.level, "budget.latency" in status.message) == (DiagnosticStatus.WARN, True)
    finally:
        assert running.set(budget__latency=0.0).successful
    running.show(film.next())
    running.wait(lambda: running.diagnosis("model").level == DiagnosticStatus.OK, "the level to return to OK")


# --- bad input ----------------------------------------------------------------------------------------


def test_bad_images_are_counted_and_the_next_good_one_is_seen(running: Robot) -> None:
    film = Film()
    running.show(film.next())
    good = np.zeros((48, 64, 3), np.uint8)
    bad = {
        "an encoding nobody knows": (good, "jpeg2000", 64, 48, 192),
        "cut off": (good[:10], "rgb8", 64, 48, 192),
        "no pixels": (good, "rgb8", 0, 0, 0),
        "20,000 pixels wide": (good, "rgb8", 20_000, 48, 60_000),
        "rows shorter than the picture is wide": (good, "rgb8", 64, 48, 100),
    }
    failed = running.counted("model", "frames failed")
    for number, (data, encoding, width, height, step) in enumerate(bad.values()):
        running.send(image_message(data, encoding, film.next(), width, height, step))
        running.wait(lambda n=number: running.counted("model", "frames failed") == failed + n + 1)  # type: ignore[misc]
    assert running.diagnosis("model").level == DiagnosticStatus.WARN
    assert running.show(film.next()).detections
    running.wait(lambda: running.diagnosis("model").level == DiagnosticStatus.OK, "the level to return to OK")


def test_a_corrupt_jpeg_is_counted_and_the_next_good_one_is_seen(compressed: Robot) -> None:
    film = Film()
    frame = film.next()
    _, jpeg = cv2.imencode(".jpg", cv2.cvtColor(frame.image, cv2.COLOR_RGB2BGR))
    for data in (jpeg.tobytes()[:500], b"", b"not a picture"):
        header = messages.header(film.next().stamp_ns, "front")
        compressed.send(CompressedImage(header=header, format="jpeg", data=data))
        time.sleep(0.1)
    frame = film.next()
    header = messages.header(frame.stamp_ns, "front")
    compressed.send(CompressedImage(header=header, format="jpeg", data=jpeg.tobytes()))
    assert compressed.seen(frame.stamp_ns).detections
    compressed.wait(lambda: compressed.counted("model", "frames failed: PerceptionError") > 0)


def test_wrong_stamps_are_refused_by_reason_and_the_tracks_stay(running: Robot) -> None:
    film = Film()
    first = film.next()
    running.show(first)
    known = track_ids(running, first)
    assert known
    image = film.next().image
    now_ns = time.time_ns()
    wrong = {
        "no stamp": 0,
        "from the future": now_ns + 3600 * SECOND_NS,
        "out of order": first.stamp_ns - SECOND_NS // 10,
        "repeated": first.stamp_ns,
        "jumped back": first.stamp_ns - 1000 * SECOND_NS,
    }
    for reason, stamp_ns in wrong.items():
        before = running.counted("camera", f"frames rejected: {reason}")
        running.send(messages.image(image, messages.header(stamp_ns, "front")))
        running.wait(
            lambda reason=reason, before=before: (  # type: ignore[misc]
                running.counted("camera", f"frames rejected: {reason}") > before
            ),
            reason,
        )
        assert running.newest("detections", stamp_ns) is None or stamp_ns == first.stamp_ns
    after = film.next()
    running.show(after)
    assert set(known) & set(track_ids(running, after))


def test_a_dead_camera_is_an_error_within_two_seconds_and_never_repeated() -> None:
    with robot() as started:
        started.bring_up()
        started.show(Film().next())
        died = time.monotonic()
        published = len(started.heard["tracks"])
        status = started.wait(
            lambda: (
                (status := started.diagnosis("camera")) and status.level == DiagnosticStatus.ERROR and status
            ),
            "the alarm",
        )
        assert time.monotonic() - died < 2.0
        assert f"no usable image on {started.user.resolve_topic_name('image_raw')}" in status.message
        assert len(started.heard["tracks"]) == published
        told = len(started.heard["/diagnostics"])
        started.show(Film().next())
        started.wait(
            lambda: any(
                message.status[0].level != DiagnosticStatus.ERROR
                for message in started.heard["/diagnostics"][told:]
            ),
            "the all-clear",
        )


# --- lifecycle ----------------------------------------------------------------------------------------


def test_each_transition_does_its_part_and_leaves_nothing_behind() -> None:
    def ours() -> Counter[str]:
        names = ("perception", "model watch", "overlay", "ego motion")
        return Counter(thread.name for thread in threading.enumerate() if thread.name in names)

    with robot() as started:
        threads = ours()
        assert started.state() == "unconfigured"
        for _ in range(2):
            assert started.change(Transition.TRANSITION_CONFIGURE)
            assert started.user.count_subscribers("image_raw") == 0
            worker = started.wait(lambda: started.counted("model", "worker PID"))
            assert Path(f"/proc/{worker}").exists()
            assert started.change(Transition.TRANSITION_ACTIVATE)
            assert started.show(Film().next()).detections
            assert started.change(Transition.TRANSITION_DEACTIVATE)
            started.wait(lambda: started.user.count_subscribers("image_raw") == 0)
            assert started.change(Transition.TRANSITION_CLEANUP)
            assert not Path(f"/proc/{worker}").exists()
            started.heard.clear()
        assert ours() == threads
        assert started.change(Transition.TRANSITION_UNCONFIGURED_SHUTDOWN)


@pytest.mark.parametrize(("autostart", "state"), [(True, "active"), (False, "unconfigured")])
def test_the_node_comes_up_by_itself_if_it_is_told_to(autostart: bool, state: str) -> None:
    with robot({"node.autostart": autostart}) as started:
        started.node.bring_up()
        assert started.state() == state


def test_while_a_model_is_loaded_the_node_answers() -> None:
    with robot() as started:
        request = ChangeState.Request(transition=Transition(id=Transition.TRANSITION_CONFIGURE))
        future = started.ask(ChangeState, f"{started.name}/change_state", request)
        assert started.wait(lambda: started.state() == "configuring", "configuring")
        assert started.get("image.max_tokens") == 64
        assert not future.done()
        assert started.wait(future.result).success


@pytest.mark.parametrize(
    ("parameters", "sentence", "remedy"),
    [
        ({"model.path": "/nowhere.gguf", "mmproj.path": "/nowhere.gguf"}, "/nowhere.gguf",
         {"model__path": "", "mmproj__path": ""}),
        ({"detect.lables": ["person"]}, "did you mean 'detect.labels'?", None),
        ({"detect.min_score": 7.0}, "detect.min_score must be a number from 0 to 1, got 7.0",
         {"detect__min_score": 0.5}),
        ({"image.max_tokens": "many"}, "image.max_tokens must be a whole number from 1 to 1024",
         {"image__max_tokens": 64}),
        ({"detect.labels": [float("nan")]}, "detect.labels must be a list of texts",
         {"detect__labels": ["person"]}),
        ({"image.min_tokens": 128}, "image.min_tokens 128 is above image.max_tokens 64",
         {"image__min_tokens": 32}),
    ],
    ids=["model", "typo", "range", "type", "nan", "contradiction"],
)  # fmt: skip
def test_what_is_wrong_is_said_and_can_be_repaired(
    parameters: dict[str, object],
    sentence: str,
    remedy: dict[str, object] | None,
    capfd: pytest.CaptureFixture[str],
) -> None:
    with robot(parameters) as started:
        assert not started.change(Transition.TRANSITION_CONFIGURE)
        assert sentence in capfd.readouterr().err
        assert started.state() == "unconfigured"
        if remedy is not None:
            for name, value in remedy.items():
                assert started.set(**{name: value}).successful
            assert started.change(Transition.TRANSITION_CONFIGURE)


def test_two_robots_share_a_network_in_their_namespaces() -> None:
    with robot() as left, robot() as right:
        assert left.name != right.name
        left.bring_up()
        right.bring_up()
        film = Film()
        frames = film.next(), film.next()
        left.show(frames[0])
        right.show(frames[1])
        for each, own, other in ((left, *frames), (right, *frames[::-1])):
            assert each.newest("detections", own.stamp_ns) is not None
            assert each.newest("detections", other.stamp_ns) is None


# --- parameters and services --------------------------------------------------------------------------


def test_every_setting_is_a_parameter_with_words_and_range(running: Robot) -> None:
    specs = parameter_specs()
    for spec, described in zip(specs.values(), running.described([*specs]), strict=True):
        assert described.description == spec.description
        assert described.additional_constraints.startswith(spec.allowed)
        for limits in (*described.integer_range, *described.floating_point_range):
            assert (limits.from_value, limits.to_value) == (spec.minimum, spec.maximum)


def test_labels_change_while_it_runs(running: Robot) -> None:
    film = Film()
    seen = labels(running.show(film.next()))
    chosen = seen[0]
    assert set(seen) != {chosen}
    before = running.get("detect.labels")
    assert running.set(detect__labels=[chosen]).successful
    assert set(labels(running.show(film.next()))) == {chosen}
    assert running.set(detect__labels=list(before)).successful


def test_a_change_that_cannot_be_is_refused_with_the_reason(running: Robot) -> None:
    refused: dict[str, dict[str, object]] = {
        "engine.n_ctx cannot change now, the model is loaded with it": {"engine__n_ctx": 2048},
        "detect.min_score out of range Min: 0.0, Max: 1.0, value: 3.0": {"detect__min_score": 3.0},
        "image.min_tokens 999 is above image.max_tokens": {"image__min_tokens": 999},
        "caption.prompt must not hold the special token": {"caption__prompt": "<|im_end|>"},
    }
    for reason, values in refused.items():
        before = {name: running.get(name.replace("__", ".")) for name in values}
        result = running.set(**values)
        assert not result.successful
        assert reason in result.reason
        assert {name: running.get(name.replace("__", ".")) for name in values} == before


def test_a_whole_number_does_for_a_number_and_several_change_together(running: Robot) -> None:
    assert running.set(detect__min_score=0).successful
    assert running.set(image__min_tokens=40, image__max_tokens=80).successful
    assert running.set(image__min_tokens=32, image__max_tokens=64).successful


def test_switched_off_it_counts_frames_and_goes_on_when_switched_on(running: Robot) -> None:
    film = Film()
    running.show(film.next())
    assert running.call(SetBool, "perception/enable", SetBool.Request(data=False)).success
    gated = running.counted("camera", "frames skipped")
    frame = film.next()
    running.send(messages.image(frame.image, messages.header(frame.stamp_ns, "front")))
    running.wait(lambda: running.counted("camera", "frames skipped") > gated, "the gate")
    assert running.newest("detections", frame.stamp_ns) is None
    assert running.call(SetBool, "perception/enable", SetBool.Request(data=True)).success
    assert running.show(film.next()).detections


def test_reset_forgets_the_tracks(running: Robot) -> None:
    film = Film()
    before, after = film.next(), film.next()
    running.show(before)
    assert running.call(Trigger, "perception/reset", Trigger.Request()).success
    running.show(after)
    assert track_ids(running, before)
    assert not set(track_ids(running, before)) & set(track_ids(running, after))


def test_services_of_a_node_that_is_not_configured_say_so() -> None:
    with robot() as started:
        answer = started.call(Trigger, "perception/reset", Trigger.Request())
        assert not answer.success
        assert answer.message == "the node is not configured"


# --- trouble ------------------------------------------------------------------------------------------


def test_a_clock_that_is_set_back_is_a_new_beginning() -> None:
    with robot({"use_sim_time": True}) as started:
        clock = started.user.create_publisher(Clock, "/clock", RELIABLE)
        started.wait(lambda: clock.get_subscription_count() > 0)
        started.bring_up()
        film = Film()
        images = [film.next().image for _ in range(3)]

        def at(seconds: int, image: np.ndarray) -> list[int]:
            clock.publish(Clock(clock=Time(sec=seconds)))
            started.wait(lambda: started.node.get_clock().now().nanoseconds == seconds * SECOND_NS)
            frame = Frame(image, seconds * SECOND_NS, "front")
            started.show(frame)
            return track_ids(started, frame)

        first, second = at(100, images[0]), at(101, images[1])
        assert set(first) & set(second)
        again = at(50, images[2])
        assert again
        assert not set(second) & set(again)
        assert started.wait(lambda: started.counted("camera", "tracker resets")) == 1


def test_the_worker_is_lost_and_the_node_goes_on(running: Robot) -> None:
    film = Film()
    first = film.next()
    running.show(first)
    worker = running.wait(lambda: running.counted("model", "worker PID"))
    os.kill(worker, signal.SIGKILL)
    running.wait(lambda: running.diagnosis("model").level == DiagnosticStatus.ERROR or int(
        running.counted("model", "worker restarts") or 0) > 0, "the loss in the diagnostics")  # fmt: skip
    during = film.next()
    running.send(messages.image(during.image, messages.header(during.stamp_ns, "front")))
    assert running.wait(lambda: running.newest("tracks", during.stamp_ns)).detections
    running.wait(lambda: running.diagnosis("model").level != DiagnosticStatus.ERROR, "the recovery")
    after = film.next()
    running.show(after)
    assert set(track_ids(running, first)) & set(track_ids(running, after))
    assert running.counted("model", "worker PID") != worker
