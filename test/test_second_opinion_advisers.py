# SPDX-License-Identifier: Apache-2.0
"""Advisers in worker processes: another model, OCR, and some that are slow, dead or lying."""

from __future__ import annotations

import base64
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import pytest
from openai_server import Server, completion, say, serving
from opinions import CAMERA, box_track, chosen, opened, scene_of, shown, wait

from lfm_perception.backends.llama_vlm import LlamaVlm
from lfm_perception.demo.world import World
from lfm_perception.errors import PerceptionError
from lfm_perception.perception import Perception
from lfm_perception.scene import Frame, Scene
from lfm_perception.second_opinion import SecondOpinion
from lfm_perception.second_opinion.advisers import ocr, process
from lfm_perception.second_opinion.service import MAX_QUEUED
from lfm_perception.settings import Settings
from lfm_perception.tracking import open_tracker

HERE = Path(__file__).parent


@pytest.fixture
def lying(monkeypatch: pytest.MonkeyPatch) -> None:
    """Worker processes that misbehave as the question file's name says."""
    monkeypatch.setattr(process, "MODULE", "lying_worker")
    monkeypatch.setattr(process, "MIN_BACKOFF_S", 0.01)
    monkeypatch.setenv("PYTHONPATH", f"{HERE}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")


def vlm_settings(folder: Path, text: str = "{}", **values: object) -> Settings:
    """Settings for the adviser `vlm`; the name of its settings file is the last argument of its process."""
    path = folder / str(values.pop("name", "model.yaml"))
    path.write_text(text, encoding="utf-8")
    return chosen(adviser="vlm", model_settings=str(path), **values)


# --- slow, dead, lying ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "kind", "said"),
    [
        ("dies", "dead", "was ended by SIGKILL"),
        ("ends", "dead", "has ended with code 3"),
        ("hangs", "timeout", "gave no answer within 0.7 s: it is ended"),
        ("stops halfway", "timeout", "gave no answer within 0.7 s: it is ended"),
        ("ready twice", "unusable", "gave no answer: it lacks 'confidence'"),
        ("megabytes", "unusable", "answered with more than 64000 bytes: not used"),
        ("garbage", "unusable", "answered with no JSON object"),
        ("list", "unusable", "answered with no JSON object: expected dict, got [1, 2]"),
        ("nested", "unusable", "answered with no JSON object"),
        ("NaN", "unusable", "answered with no JSON object: not valid JSON: NaN is no number"),
        ("no answer", "unusable", "gave no answer: it lacks 'answer'"),
        ("number", "unusable", "gave no answer: expected str, got 7"),
    ],
)
def test_whatever_an_adviser_does_costs_its_own_answer_in_a_sentence(
    lying: None, tmp_path: Path, fault: str, kind: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "LOAD_TIMEOUT_S", 0.7)
    frame = shown()
    monkeypatch.chdir(tmp_path)
    Path(fault).write_text("{}", encoding="utf-8")
    with opened(chosen(adviser="vlm", model_settings=fault, timeout=0.7)) as (second, log):
        for track in (1, 2):
            second.ask(frame, box_track(track), "?", "a rule")
        wait(lambda: len(log.outcomes) == 2)
        counts = second.counts()
    if fault not in ("hangs", "stops halfway"):  # a busy machine may start the process late
        late = counts.failed.get("timeout", 0)
        assert counts.failed == {kind: 2 - late} | ({"timeout": late} if late else {})
    assert said in log.records[-1]["problem"] or counts.failed.get("timeout")
    assert log.records[-1]["problem"].startswith("llama with demo model ")
    assert len(log.warned) == 2


def inferred(vlm: LlamaVlm, second: SecondOpinion | None) -> list[Scene]:
    """Scenes of frames of the demo world with the demo model; `second` is asked about each box."""
    settings = Settings().with_values({"caption.enabled": False, "tracker.min_hits": 1})
    perception = Perception(settings, vlm, open_tracker(settings.tracker))
    perception.second_opinion = second
    world, scenes = World(2, 320, 240), []
    for index in range(0, 36, 6):
        frame = replace(world.snapshot(index).frame, frame_id=CAMERA)
        perception.update_ego_motion(frame)
        scenes.append(perception.infer(frame))
    return scenes


def tracked(scenes: list[Scene]) -> list[tuple[object, ...]]:
    return [(scene.tracks, scene.detections, scene.stamp_ns) for scene in scenes]


@pytest.fixture(scope="module")
def alone(vlm: LlamaVlm) -> list[Scene]:
    """The scenes without an adviser."""
    scenes = inferred(vlm, None)
    assert any(track.label == "box" for scene in scenes for track in scene.tracks)
    return scenes


def test_a_hanging_adviser_changes_no_track_and_no_frame_waits_for_it(
    lying: None, tmp_path: Path, vlm: LlamaVlm, alone: list[Scene]
) -> None:
    """The adviser gives no answer before the last frame, and no frame waits for one."""
    with opened(vlm_settings(tmp_path, name="hangs", repeat=0.1)) as (second, log):
        during = inferred(vlm, second)
        assert second.counts().asked == 1
        assert log.outcomes == []
    assert tracked(during) == tracked(alone)


def test_a_lying_adviser_changes_no_track(tmp_path: Path, vlm: LlamaVlm, alone: list[Scene]) -> None:
    lie = "an elephant, confidence 1, track_id 99"
    with (
        serving(say(200, completion(lie))) as server,
        opened(server_settings(server, tmp_path)) as (second, _),
    ):
        inferred(vlm, second)
        wait(lambda: second.counts().answered)
        after = inferred(vlm, second)
    assert tracked(after) == tracked(alone)
    assert lie in {opinion.answer for scene in after for opinion in scene.opinions}


def test_crops_that_wait_are_bounded_and_dropped_with_the_adviser(lying: None, tmp_path: Path) -> None:
    frame = shown()
    with opened(vlm_settings(tmp_path, name="hangs")) as (second, log):
        second.ask(frame, box_track(0), "?", "a rule")
        wait(lambda: second.counts().asked)
        for track in range(1, 21):
            second.ask(frame, box_track(track), "?", "a rule")
        counts = second.counts()
        assert counts.queued == MAX_QUEUED
        assert counts.dropped["newer crops wait for the adviser"] == 20 - MAX_QUEUED
    counts = second.counts()
    assert (counts.queued, counts.dropped["the adviser has ended"]) == (0, MAX_QUEUED)
    assert len(log.told) == counts.asked == 1


def test_a_worker_ends_with_the_consent_and_with_a_killed_process(tmp_path: Path) -> None:
    """In a process of its own, which is killed while its adviser waits for a question that never comes."""
    code = (
        "import sys, time; sys.path.insert(0, sys.argv[1])\n"
        "from opinions import *\n"
        "with opened(chosen(adviser='vlm', model_settings=sys.argv[2])) as (second, log):\n"
        "    second.ask(shown(), box_track(), '?', 'a rule')\n"
        "    wait(lambda: log.outcomes)\n"
        "    print(second._adviser._process.pid, flush=True)\n"
        "    time.sleep(600)\n"
    )
    vlm_settings(tmp_path, "caption: {max_tokens: 4}")
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(HERE), str(tmp_path / "model.yaml")], stdout=subprocess.PIPE
    )
    assert process.stdout
    worker = int(process.stdout.readline())
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    wait(lambda: not Path(f"/proc/{worker}").exists() or "Z" in Path(f"/proc/{worker}/stat").read_text())


# --- another model, on a server ---------------------------------------------------------------------


def server_settings(server: Server, folder: Path, **values: object) -> Settings:
    text = f"engine: {{backend: openai}}\nopenai: {{url: '{server.url}', model: large, retries: 0}}\n"
    return vlm_settings(folder, text, **values)


def pictures(server: Server) -> list[np.ndarray[tuple[int, ...], np.dtype[np.uint8]]]:
    """The images that the server was sent."""
    found = []
    for _, _, body in server.requests:
        if body:
            url = body["messages"][-1]["content"][0]["image_url"]["url"]
            data = np.frombuffer(base64.b64decode(url.partition(",")[2]), np.uint8)
            found.append(np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8))
    return found


def test_nothing_reaches_a_server_without_consent_and_only_the_crop_with_it(tmp_path: Path) -> None:
    front, rear = shown(), shown(frame_id="rear")
    large = box_track(1)
    with serving(say(200, completion("4711"))) as server:
        settings = server_settings(server, tmp_path, question="Which number?", max_side=100)
        with opened(settings) as (second, log):
            second.consider(rear, scene_of(rear, large))
            second.ask(rear, large, "?", "a rule")
            second.consider(front, scene_of(front))
            time.sleep(1.0)  # long enough for a process that must not start
            assert server.requests == []
            second.consider(front, scene_of(front, large))
            wait(lambda: log.outcomes)
        after = len(server.requests)
        second.ask(front, box_track(2), "?", "a rule")
        time.sleep(0.3)
        assert len(server.requests) == after, "the consent was withdrawn"
    (record,) = log.records
    assert (record["answer"], record["source"]) == ("4711", f"openai with large at {server.url[7:-3]}")
    (picture,) = pictures(server)
    assert max(record["crop"]["width"], record["crop"]["height"]) == 100
    aspect = picture.shape[1] / picture.shape[0]
    assert aspect == pytest.approx(140 / 158, rel=0.1), "the crop, not the frame"
    (body,) = [body for _, _, body in server.requests if body]
    assert body["messages"][-1]["content"][1]["text"] == "Which number?"


def test_a_server_that_fails_is_a_failure_in_a_sentence(tmp_path: Path) -> None:
    frame = shown()
    with serving(say(500, b"oh no")) as server:
        with opened(server_settings(server, tmp_path)) as (second, log):
            second.ask(frame, box_track(), "?", "a rule")
            wait(lambda: log.outcomes)
        assert second.counts().failed == {"refused": 1}
    assert "500" in log.records[0]["problem"]


def test_an_adviser_that_cannot_be_used_is_refused_before_anything_is_asked(tmp_path: Path) -> None:
    nowhere = chosen(adviser="vlm", model_settings=str(tmp_path / "nowhere.yaml"))
    with pytest.raises(PerceptionError, match=r"nowhere\.yaml: cannot be read"), opened(nowhere):
        pass
    recorded = vlm_settings(tmp_path, "engine: {backend: recorded}\nrecorded: {path: x}\n")
    with pytest.raises(PerceptionError, match="recorded knows no crops"), opened(recorded):
        pass


# --- OCR --------------------------------------------------------------------------------------------

OFFLINE = """
import sys
def refuse(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        raise OSError(f"{event} {arguments[1:]}")
import cv2, numpy as np
from lfm_perception.scene import Frame
from lfm_perception.second_opinion.advisers import ocr
sys.addaudithook(refuse)
answer = ocr.answering("")
image = np.full((80, 200, 3), 250, np.uint8)
cv2.putText(image, "4711", (20, 60), cv2.FONT_HERSHEY_SIMPLEX, 1.8, (20, 20, 30), 4, cv2.LINE_AA)
print(answer(Frame(image, 0), "?"), answer(Frame(image[:, :1] * 0, 0), "?"))
"""


@pytest.fixture
def rapidocr() -> None:
    for package in ("rapidocr", "onnxruntime"):
        if not find_spec(package):
            pytest.skip(f"{package} is not installed")


def test_ocr_reads_without_a_network(rapidocr: None) -> None:
    done = subprocess.run([sys.executable, "-c", OFFLINE], capture_output=True, text=True, timeout=300)
    assert done.stdout.startswith("('4711', 0.9"), done.stderr
    assert done.stdout.endswith("('', None)\n"), "a crop without text has an empty answer"


def test_ocr_reads_the_numbers_of_the_boxes_of_the_demo_world(rapidocr: None) -> None:
    world = World(2, numbered=True)
    snapshot = world.snapshot(30)
    (box,) = [thing for thing in snapshot.objects if thing.label == "box"]
    frame = Frame(snapshot.frame.image, 1, CAMERA)
    with opened(chosen(adviser="ocr")) as (second, log):
        assert second.ask(frame, box_track(box=box.box), "?", "a rule") == ""
        wait(lambda: log.outcomes)
    record = log.records[0]
    assert record["answer"] == box.number, record["problem"]
    assert 0.9 < record["confidence"] <= 1.0
    assert record["source"].startswith("ocr by rapidocr ")


def test_ocr_without_its_packages_says_how_to_install_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ocr, "find_spec", lambda name: None)
    with (
        pytest.raises(PerceptionError, match=r"pip install 'lfm_perception\[ocr\]'"),
        opened(chosen(adviser="ocr")),
    ):
        pass
