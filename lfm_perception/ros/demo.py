# SPDX-License-Identifier: Apache-2.0
"""`lfm-perception demo`: the ROS graph on the demo world, compared with the ground truth.

    demo camera (process) ──image_raw, 30 Hz──► perception node (process, and its worker)
              └──ground_truth──► recorder (here) ◄──detections, tracks, scene, caption──┘

Afterwards the recording is evaluated, drawn as a video, and summarized on one page.
"""

from __future__ import annotations

import dataclasses
import json
import time
from bisect import bisect_right
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lfm_perception.backends import model_name
from lfm_perception.demo.world import World
from lfm_perception.evaluation.live import Boxes, LiveReport, LiveRun, evaluate_run, read_run
from lfm_perception.evaluation.live_page import write_live_page
from lfm_perception.media import images
from lfm_perception.media.overlay import Overlay, View
from lfm_perception.media.page import drawing
from lfm_perception.media.sinks.bag import BAG
from lfm_perception.media.sinks.json_files import SCENES, SUMMARY
from lfm_perception.media.sinks.overlay import STILL, VIDEO, VideoFile
from lfm_perception.media.sources import open_source
from lfm_perception.media.staging import Staging, staged, write_json, writing
from lfm_perception.ros import transport
from lfm_perception.ros.executor import spinning_node
from lfm_perception.ros.lifecycle import bring_up
from lfm_perception.ros.parameters import ros_parameters
from lfm_perception.ros.processes import (
    DEMO_CAMERA_MODULE,
    PERCEPTION_MODULE,
    START_TIMEOUT_S,
    NodeProcess,
    wait_for,
)
from lfm_perception.ros.recorder import Recorder
from lfm_perception.ros.replay import NODE_LOG, PERCEPTION_NODE
from lfm_perception.ros.topics import DEMO_CAMERA, PERCEPTION
from lfm_perception.scene import ZERO_VELOCITY, Frame, Track, Velocity
from lfm_perception.scene_json import scene_to_json
from lfm_perception.settings import Settings
from lfm_perception.stamps import to_seconds

WIDTH, HEIGHT, RATE = 640, 480, 30.0
CAMERA_LOG = "camera.log"
IMAGE_TOPIC = "/image_raw/compressed"
PAGE = "index.html"


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """Duration in seconds, from the first inference on, and seed of the demo world."""

    seconds: float = 20.0
    seed: int = 0


def run_demo(
    demo: DemoOptions,
    settings: Settings,
    out: Path,
    *,
    about: Mapping[str, Any],
    on_progress: Callable[[str, float], bool] = lambda step, share: True,
) -> tuple[LiveReport, dict[str, Any]]:
    """Run the graph, evaluate it, and write video, bag, page and summary to the folder `out`.

    Args:
        about: provenance (model, versions), added to the summary.
        on_progress: called with the current step and its completed share, 0 to 1; the recording ends early
            when it returns False.

    Returns:
        The report and the summary.

    Raises:
        PerceptionError: a process ended, or a result cannot be written.
    """
    transport.use_localhost()
    with staged(out) as staging:
        epoch_ns = _record(demo, settings, staging, on_progress)
        world = World(demo.seed, WIDTH, HEIGHT, RATE)

        def velocities(stamp_ns: int) -> dict[str, Velocity]:
            index = round(to_seconds(stamp_ns - epoch_ns) * RATE)
            return {str(body): velocity for body, velocity in enumerate(world.velocities(index))}

        run = read_run(staging.path / BAG, WIDTH, HEIGHT)
        report = evaluate_run(run, velocities)
        summary = {"seed": demo.seed, **_figures(report), **about}
        with writing(out):
            _draw(run, staging, model_name(settings), on_progress)
            lines = [json.dumps(scene_to_json(received.scene), ensure_ascii=False) for received in run.scenes]
            (staging.path / SCENES).write_text(
                "".join(f"{line}\n" for line in lines), encoding="utf-8", errors="backslashreplace"
            )
            write_json(staging.path / SUMMARY, summary)
            with drawing("the page"):
                write_live_page(staging.path / PAGE, run, report, staging.path / VIDEO, summary)
            staging.publish()
    return report, summary


def _record(
    demo: DemoOptions, settings: Settings, staging: Staging, on_progress: Callable[[str, float], bool]
) -> int:
    """Run the graph and record it; returns the stamp of the camera's first frame, ns."""
    topics = [*PERCEPTION.recorded(), *(t for t in DEMO_CAMERA.publishers if t.name != "image_raw")]
    with ExitStack() as running:
        perception = running.enter_context(
            NodeProcess(PERCEPTION_MODULE, staging.path / NODE_LOG, ros_parameters(settings))
        )
        node = running.enter_context(spinning_node("demo"))
        on_progress("loading the model", 0.0)
        bring_up(node, PERCEPTION_NODE, [perception])
        recorder = running.enter_context(Recorder(node, topics, staging.path / BAG, log_ns=time.time_ns))
        epoch_ns = time.time_ns()
        parameters = {
            "seed": demo.seed, "width": WIDTH, "height": HEIGHT, "rate": RATE, "epoch": epoch_ns,
        }  # fmt: skip
        camera = running.enter_context(NodeProcess(DEMO_CAMERA_MODULE, staging.path / CAMERA_LOG, parameters))
        both = [perception, camera]
        wait_for(lambda: recorder.counts["scene"], START_TIMEOUT_S, "the first inference", both)
        began_s = time.monotonic()
        while (passed_s := time.monotonic() - began_s) < demo.seconds:
            for process in both:
                process.check()
            if not on_progress("recording the demo world", passed_s / demo.seconds):
                break
            time.sleep(0.1)
    return epoch_ns


def _draw(run: LiveRun, staging: Staging, badge: str, on_progress: Callable[[str, float], bool]) -> None:
    """Draw the images with the tracks published for them as a video, and the one with most as a still."""
    overlay = Overlay(WIDTH, HEIGHT, badge, panel="strip")
    video = VideoFile(staging.path / VIDEO, overlay.width, overlay.height, RATE)
    tracks = {boxes.stamp_ns: boxes for boxes in run.tracks}
    scenes_ns = [received.received_ns for received in run.scenes]
    still, most = None, -1
    try:
        with open_source(str(staging.path / BAG), topic=IMAGE_TOPIC) as source:
            first_ns = run.truth[0].stamp_ns
            for index, frame in enumerate(source.frames):
                view = _view(run, frame, first_ns, tracks.get(frame.stamp_ns), scenes_ns)
                image = overlay.draw(view)
                video.write(image)
                if len(view.tracks) > most:
                    still, most = image, len(view.tracks)
                on_progress("drawing", (index + 1) / (source.count or 1))
        video.finish()
    finally:
        video.close()
    assert still is not None  # `evaluate_run` raises for a recording without images
    (staging.path / STILL).write_bytes(images.encode(still, ".png"))


def _view(run: LiveRun, frame: Frame, first_ns: int, tracks: Boxes | None, scenes_ns: list[int]) -> View:
    """The tracks published for this frame, and the latest scene that had arrived before them."""
    seconds = to_seconds(frame.stamp_ns - first_ns)
    if tracks is None:
        return View(frame, seconds, (), None, 0.0)
    arrived = bisect_right(scenes_ns, tracks.received_ns)
    received = run.scenes[arrived - 1] if arrived else None
    known = {} if received is None else {str(track.track_id): track for track in received.scene.tracks}
    shown = []
    for item in tracks.items:
        track = known.get(item.identity)
        velocity = track.velocity if track else ZERO_VELOCITY
        # the message does not tell the time since the last detection; the scene does, for its own stamp
        since_s = to_seconds(frame.stamp_ns - received.scene.stamp_ns) if received else 0.0
        since_s += track.time_since_update_s if track else 0.0
        shown.append(Track(int(item.identity), item.label, item.box, item.score, velocity, 0.0, since_s))
    if received is None:
        return View(frame, seconds, shown, None, 0.0)
    return View(
        frame, seconds, shown, received.scene, to_seconds(received.received_ns - received.scene.stamp_ns)
    )


def _figures(report: LiveReport) -> dict[str, Any]:
    """The report for `summary.json`, with precision, recall and F1 of its counts."""
    figures = dataclasses.asdict(report)
    for name, counts in (("detections", report.detections), ("tracks", report.tracks)):
        figures[name] |= {"precision": counts.precision, "recall": counts.recall, "f1": counts.f1}
    return figures
