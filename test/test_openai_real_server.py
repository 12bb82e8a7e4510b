# SPDX-License-Identifier: Apache-2.0
"""The demo model behind llama.cpp's own server."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import opinions
import pytest
from openai_server import (
    FIND,
    PATIENCE_S,
    chosen,
    client,
)

from lfm_perception.backends import open_vlm
from lfm_perception.demo.world import World
from lfm_perception.evaluation.demo import TRIALS, evaluate_trial, run_trial
from lfm_perception.image_plan import ImageLimits, ImagePlan, plan_image
from lfm_perception.questions import BBOX, FramePlan, detect
from lfm_perception.scene import Frame


@pytest.fixture(scope="module")
def real(demo_model: tuple[Path, Path]) -> Iterator[str]:
    """The address of llama-cpp-python's server with the demo model."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    model, mmproj = map(str, demo_model)
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "llama_cpp.server", "--host", "127.0.0.1", "--port", str(port)),
            *("--model", model, "--chat_format", "mtmd", "--clip_model_path", mmproj),
            *("--n_ctx", "1024", "--n_threads", "1", "--n_threads_batch", "1", "--verbose", "false"),
        ],
        env={**os.environ, "OMP_WAIT_POLICY": "passive"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}/v1"
    try:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                urllib.request.urlopen(f"{url}/models", timeout=1.0).close()
                break
            except OSError:
                assert process.poll() is None, "the server ended"
                assert time.monotonic() < deadline, "the server did not start"
                time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait()


def test_a_real_server_with_the_demo_model_finds_what_is_there(real: str) -> None:
    """It tokenizes and resizes for itself, and is as good as the engine here on scenes of 256x256."""
    trial = next(trial for trial in TRIALS if trial.name == "easy")
    with closing(open_vlm(chosen(real, openai__model="", openai__timeout=60.0))) as vlm:
        asked = list(run_trial(vlm, trial, scenes=6, seed=42))
    report = evaluate_trial(trial, asked).detection
    assert report
    assert report.at_50.f1 >= 0.9
    answers = [answer for _, _, answer in asked]
    assert {answer.usage.image_tokens for answer in answers} == {64}
    assert all(answer.usage.text_tokens > 0 and answer.usage.answer_tokens > 0 for answer in answers)
    scores = [found.score for answer in answers for found in answer.detections]
    assert all(0.0 < score < 1.0 for score in scores)
    assert len(set(scores)) == len(scores), "probabilities of the tokens, not the score of the setting"


def test_a_real_server_is_held_to_the_labels_of_a_closed_vocabulary(real: str, frame: Frame) -> None:
    question = detect(BBOX, ["zebra"], closed=True)
    with client(real, openai__timeout=60.0) as vlm:
        answer = vlm.describe(frame, question, FramePlan(ImagePlan(256, 256), 100))
    assert {found.label for found in answer.detections} <= {"zebra"}
    assert answer.rejects.get("not_asked", 0) == 0


def test_a_real_server_computes_the_image_tokens_that_were_planned(real: str) -> None:
    """As it counts them itself, also for two tiles with a thumbnail. `benchmarks/servers.py` does more."""
    limits = ImageLimits(max_tiles=2).for_server()
    plans = [plan_image(*size, limits) for size in ((256, 256), (640, 480), (150, 700), (1280, 640))]
    assert [plan.tiled for plan in plans] == [False, False, False, True]
    counted = []
    with client(real, openai__timeout=60.0) as vlm:
        for number, plan in enumerate((plans[0], *plans)):
            picture = Frame(np.full((96, 128, 3), 99, np.uint8), number)
            counted.append(vlm.describe(picture, FIND, FramePlan(plan, 2)).usage)
            time.sleep(0.0 if number else 1.0)  # the text is counted after the first answer
    assert [usage.image_tokens for usage in counted[1:]] == [plan.tokens for plan in plans]
    text = {usage.text_tokens - plan.marker_tokens for usage, plan in zip(counted[1:], plans, strict=True)}
    assert len(text) == 1, "the text is the same"


def test_an_answer_of_a_real_server_that_reaches_its_tokens_is_truncated(real: str) -> None:
    with client(real, openai__timeout=60.0, openai__constraint="none") as vlm:
        world = World(seed=1, width=256, height=256)
        answer = vlm.describe(world.snapshot(0).frame, FIND, FramePlan(ImagePlan(256, 256), 6))
    assert answer.truncated
    assert answer.usage.answer_tokens == 6


def test_a_real_server_gives_a_second_opinion_about_a_crop(real: str, tmp_path: Path) -> None:
    model = tmp_path / "model.yaml"
    model.write_text(f"engine: {{backend: openai}}\nopenai: {{url: '{real}', timeout: 60.0}}\n", "utf-8")
    settings = opinions.chosen(adviser="vlm", model_settings=str(model))
    with opinions.opened(settings) as (second, log):
        assert second.ask(opinions.shown(), opinions.box_track(), "Describe the image.", "a rule") == ""
        opinions.wait(lambda: log.outcomes)
    (record,) = log.records
    assert record["answer"], record["problem"]
    assert record["source"].startswith("openai with 127.0.0.1:")
