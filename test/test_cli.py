# SPDX-License-Identifier: Apache-2.0
"""The command line as a user sees it: its results, its messages and its exit codes."""

from __future__ import annotations

import json
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

import av
import cv2
import jsonschema
import numpy as np
import pytest
from command import QUICK, RESULTS, Command, names, write_demo_video
from fake_board import FakeBoard
from pages import LATENCY_CHARTS, check_charts
from rosbags.rosbag2 import Reader

import lfm_perception
from lfm_perception.cli import main
from lfm_perception.demo.world import World
from lfm_perception.media import images
from lfm_perception.media.sinks.bag import BAG
from lfm_perception.scene_json import SCHEMA


def test_a_demo_run_writes_scenes_overlay_and_summary(command: Command, tmp_path: Path) -> None:
    outcome = command("run", "demo", "--out", tmp_path / "out", "--frames", "13", "--bag")
    assert outcome.code == 0, outcome.err
    out = tmp_path / "out"
    assert names(out) == sorted([BAG, *RESULTS])
    validator = jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text()))
    scenes = [json.loads(line) for line in (out / "scenes.jsonl").read_text().splitlines()]
    for scene in scenes:
        validator.validate(scene)
    assert [scene["index"] for scene in scenes] == [0, 6, 12]
    assert scenes[0]["global_caption"]
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["frames"], summary["scenes"], summary["ended"]) == (13, 3, "complete")
    assert summary["model"]["demo"] is True
    assert 0.3 < summary["draft_acceptance_rate"]["detect"] < 1.0
    assert len(summary["model"]["model"]["sha256"]) == 64
    assert summary["settings"]["image.max_tokens"] == 256
    assert summary["versions"]["lfm_perception"] == lfm_perception.__version__
    check_charts(out / "index.html", LATENCY_CHARTS)
    assert (
        '<video controls muted preload="metadata" src="data:video/mp4;base64,'
        in (out / "index.html").read_text()
    )
    with av.open(str(out / "overlay.mp4")) as video:
        assert video.streams.video[0].frames == 13
    assert cv2.imread(str(out / "overlay.png")) is not None
    with Reader(out / BAG) as bag:
        assert {c.topic: c.msgcount for c in bag.connections}["/detections"] == 3
    assert "13 (0.4 s)" in outcome.out
    again = command("run", out / BAG, "--out", tmp_path / "again", "--every", "6", *QUICK)
    assert again.code == 0, again.err
    assert json.loads((tmp_path / "again" / "summary.json").read_text())["frames"] == 13
    assert str(out) in outcome.out.replace("\n", "")
    assert "demo model" not in outcome.err


def test_a_video_and_a_folder_of_images_are_processed(command: Command, tmp_path: Path) -> None:
    video = write_demo_video(tmp_path / "video.avi")
    outcome = command("run", video, "--out", tmp_path / "video", "--every", "5", *QUICK)
    assert outcome.code == 0
    assert "this is the demo model, which knows only the demo world" in outcome.err
    assert len((tmp_path / "video" / "scenes.jsonl").read_text().splitlines()) == 3
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    smallest = (2, 2) if cv2.__version__ == "4.5.4" else (1, 1)  # 4.5.4 converts no single pixel
    sizes = [(64, 48), (200, 300), smallest]
    for index, (width, height) in enumerate(sizes):
        cv2.imwrite(str(pictures / f"{index}.png"), np.full((height, width), 90, np.uint16))
    assert command("run", pictures, "--sequence", "--out", tmp_path / "out", *QUICK).code == 0
    scenes = [json.loads(line) for line in (tmp_path / "out" / "scenes.jsonl").read_text().splitlines()]
    assert [(scene["width"], scene["height"]) for scene in scenes] == sizes
    assert [scene["stamp"]["nanosec"] for scene in scenes] == [0, 10**8, 2 * 10**8]


def test_pictures_are_annotated_one_by_one_and_shown_on_a_page(command: Command, tmp_path: Path) -> None:
    pictures, out = tmp_path / "pictures", tmp_path / "out"
    pictures.mkdir()
    for index, name in enumerate(["a b.jpg", "c#1.png", "d.ppm"]):
        image = World(seed=index, width=256, height=192).snapshot(0).frame.image
        cv2.imwrite(str(pictures / name), image[..., ::-1])
    outcome = command("run", pictures, "--out", out)
    assert outcome.code == 0, outcome.err
    assert names(out) == ["index.html", "pictures", "scenes.jsonl", "summary.json"]
    files = ["a b.jpg", "c#1.png", "d.ppm.png"]
    assert names(out / "pictures") == sorted([*files, *(f"{name}.json" for name in files)])
    lines = [json.loads(line) for line in (out / "scenes.jsonl").read_text().splitlines()]
    assert [line["file"] for line in lines] == ["a b.jpg", "c#1.png", "d.ppm"]
    assert [json.loads((out / "pictures" / f"{name}.json").read_text()) for name in files] == lines
    assert not any(line["objects"] for line in lines)
    counts = Counter(found["label"] for line in lines for found in line["detections"])
    assert json.loads((out / "summary.json").read_text())["detections_by_label"] == counts
    shown = ", ".join(f"{count} {label}" for label, count in counts.most_common())
    assert shown
    (row,) = [line for line in outcome.out.splitlines() if line.startswith("detections ")]
    assert row.split(maxsplit=1)[1] == shown
    page = (out / "index.html").read_text()
    assert shown in page
    for name in files:
        assert images.read(out / "pictures" / name).shape == (192, 256, 3)
        assert f'href="pictures/{quote(name)}"' in page
    assert page.count("<img") == page.count('src="data:image/') == len(files) + 2
    refused = command("run", pictures, "--every", "2", "--out", tmp_path / "no")
    assert (refused.code, "--sequence" in refused.err) == (1, True)


def test_settings_come_from_a_file_and_options_change_them(command: Command, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("image: {max_tokens: 64}\ncaption: {enabled: false}\n")
    words: list[str | Path] = [
        "--settings",
        tmp_path / "mine.yaml",
        "--set",
        "detect.closed=true",
        "--labels",
        "person, cone",
    ]
    outcome = command(
        "run", "demo", "--out", tmp_path / "out", "--frames", "1", "--seed", "5", *words, *QUICK
    )
    assert outcome.code == 0, outcome.err
    settings = json.loads((tmp_path / "out" / "summary.json").read_text())["settings"]
    assert settings["image.max_tokens"] == 64
    assert settings["caption.enabled"] is False
    assert settings["detect.labels"] == ["person", "cone"]
    assert settings["sampling.seed"] == 5
    (scene,) = [json.loads(line) for line in (tmp_path / "out" / "scenes.jsonl").read_text().splitlines()]
    assert {d["label"] for d in scene["detections"]} <= {"person", "cone"}
    assert scene["usage"]["detect"]["image_tokens"] <= 64


def test_a_bench_writes_a_page_and_its_figures(command: Command, tmp_path: Path) -> None:
    out, board = tmp_path / "bench", FakeBoard(tmp_path / "board")
    board.heat(71.5)
    board.throttle(True)
    sensors = ("--set", f"thermal.sysfs={board.root}", "--set", "thermal.ignored_sensors=[PMIC-Die]")
    result = command("bench", "--out", str(out), "--seconds", "1", "--size", "256x256", *sensors)
    assert result.code == 0, result.err
    found = json.loads((out / "bench.json").read_text())
    assert found["inferences"] >= 2
    assert found["inferences_hz"] > 0.0
    assert found["latency_s"]["inference"]["p50"] >= found["latency_s"]["decode"]["p50"] > 0.0
    assert set(found["latency_s"]["encode"]) >= {"mean", "p50", "p95", "p99", "max"}
    assert found["image_tokens"] == 64
    assert found["start_s"]["model"] > 0.0
    assert found["start_s"]["first_inference"] > 0.0
    # the model's weights alone are larger than this
    assert found["memory_mb"]["the worker process"] > 20.0
    assert found["memory_mb"]["this process"] > 20.0
    assert found["celsius"]["max"] == 71.5
    assert found["watts"]["max"] == pytest.approx(4.97, abs=0.01)
    assert found["throttled"] > 0.0
    check_charts(
        out / "bench.html",
        {
            **LATENCY_CHARTS,
            "Latency": ("latency (ms)", "time (s)"),
            "Temperature of the hottest sensor": ("temperature (°C)", "time (s)"),
            "Power of the board": ("power (W)", "time (s)"),
        },
    )
    page = (out / "bench.html").read_text().replace("<wbr>", "")
    assert ">thermal.sysfs<" in page
    assert ">image.max_tokens<" not in page
    assert found["machine"]["processor"] in page
    assert f"{found['inferences_hz']:.2f} Hz over" in page
    assert "71.5 °C" in page
    assert page.count("http") == 0
    report, faster = str(out / "bench.json"), tmp_path / "faster.json"
    known = {"standard_error": {"inferences_hz": 0.05 * found["inferences_hz"]}}
    (out / "bench.json").write_text(json.dumps({**found, **known}))
    faster.write_text(json.dumps({**found, **known, "inferences_hz": 2.0 * found["inferences_hz"]}))
    shown = command("bench", "--compare", report, str(faster))
    assert shown.code == 0, shown.err
    (row,) = [line for line in shown.out.splitlines() if line.startswith("inferences_hz ")]
    assert row.endswith("better")
    shown = command("eval", "compare", report, str(faster), "--out", str(tmp_path / "compared"))
    assert shown.code == 0, shown.err
    page = (tmp_path / "compared" / "compare.html").read_text().replace("<wbr>", "")
    assert "inferences_hz" in page


def test_a_bench_that_cannot_be_written_fails_before_the_model_is_loaded(
    command: Command, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    result = command("bench", "--out", str(tmp_path / "file" / "bench"))
    assert result.code == 1
    assert "cannot write to" in result.err


def test_help_and_version_are_printed(command: Command) -> None:
    helped = command("run", "--help")
    assert helped.code == 0
    for option in ("--settings", "--set", "--labels", "--frames", "--seconds", "--every", "--topic", "--bag"):
        assert option in helped.out
    assert command("--version").out == f"lfm-perception {lfm_perception.__version__}\n"


def test_wrong_usage_exits_with_2(command: Command, tmp_path: Path) -> None:
    assert command("run", "demo", "--out", tmp_path / "out", "--frames", "none").code == 2
    assert command("run", "demo", "--out", tmp_path / "out", "--every", "0").code == 2
    outcome = command("run", "demo", "--out", tmp_path / "out", "--set", "image.max_tokens")
    assert outcome.code == 2
    assert "KEY=VALUE" in outcome.err
    assert not (tmp_path / "out").exists()


def test_an_unusable_input_is_one_sentence_and_leaves_no_results(command: Command, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (tmp_path / "empty").mkdir()
    wide = tmp_path / "wide.png"
    cv2.imwrite(str(wide), np.zeros((20, 20_000, 3), np.uint8))
    noise = tmp_path / "noise.mp4"
    noise.write_bytes(np.random.default_rng(5).bytes(2000))
    assert command.refuses(out, "missing.mp4").startswith("there is no missing.mp4")
    assert "holds neither images" in command.refuses(out, tmp_path / "empty")
    assert "noise.mp4 cannot be decoded" in command.refuses(out, noise)
    assert "image wide.png: the image is 20000x20" in command.refuses(out, wide)
    assert "image.max_tokens" in command.refuses(out, "demo", "--set", "image.max_token=64")
    contradiction = ["--set", "image.min_tokens=99", "--set", "image.max_tokens=64"]
    assert "image.min_tokens 99 is above image.max_tokens 64" in command.refuses(out, "demo", *contradiction)
    assert "no.gguf" in command.refuses(
        out, "demo", "--set", "model.path=no.gguf", "--set", "mmproj.path=no.gguf"
    )
    assert "special token" in command.refuses(out, "demo", "--labels", "<|im_end|>")
    assert "nothing.yaml" in command.refuses(out, "demo", "--settings", "nothing.yaml")
    assert names(tmp_path) == ["empty", "noise.mp4", "wide.png"]


def test_options_stand_for_settings_and_results_are_not_replaced_unasked(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cv2.imwrite("my photo.png", np.full((64, 64, 3), 90, np.uint8))
    words = ["my photo.png", *QUICK, "--conf", "0.3", "--device", "cuda", "--labels", "person forklift"]
    outcome = command("run", *words)
    assert outcome.code == 0, outcome.err
    assert "'person forklift' is one label" in outcome.err
    assert "the CPU is used" in outcome.err
    settings = json.loads(Path("out/my_photo/summary.json").read_text())["settings"]
    assert (settings["detect.min_score"], settings["engine.n_gpu_layers"]) == (0.3, -1)
    again = command("run", *words)
    assert again.code == 1
    assert "out/my_photo holds the results of an earlier run: add --force" in again.err
    assert command("run", *words, "--force").code == 0
    out = tmp_path / "no"
    assert "there is no model x.gguf" in command.refuses(out, "demo", "--model", "x.gguf")
    assert "--device must be one of cpu, gpu, cuda" in command.refuses(out, "demo", "--device", "tpu")
    assert "detect.min_score must be a number from 0 to 1" in command.refuses(out, "demo", "--conf", "50")


def test_a_folder_that_cannot_be_written_is_named(command: Command, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    outcome = command("run", "demo", "--frames", "1", "--out", tmp_path / "file" / "out", *QUICK)
    assert outcome.code == 1
    assert f"cannot write to {tmp_path}/file/out: not a directory" in outcome.err


def test_the_source_demo_is_not_mistaken_for_a_folder_of_that_name(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = command("run", "demo", "--out", tmp_path / "demo", "--frames", "1", *QUICK)
    assert outcome.code == 0, outcome.err


def test_results_never_replace_the_source(command: Command, tmp_path: Path) -> None:
    video = write_demo_video(tmp_path / "overlay.avi").rename(tmp_path / "overlay.mp4")
    before = video.read_bytes()
    for source in (video, tmp_path):
        outcome = command("run", source, "--out", tmp_path, *QUICK)
        assert outcome.code == 1
        assert f"the results would mix with the source {source}: choose a folder other than" in outcome.err
    assert video.read_bytes() == before
    assert names(tmp_path) == ["overlay.mp4"]


@pytest.mark.parametrize(
    "command",
    [
        "run {} --out x",
        pytest.param(
            "eval detection {} --out x",
            marks=pytest.mark.skipif(find_spec("pycocotools") is None, reason="needs the extra eval"),
        ),
        "eval tracking {}",
        "models add a {} {}",
        "models verify {}",
    ],
)
def test_a_path_that_no_file_can_have_is_refused_in_a_sentence(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(command.format("x" * 5000, "x" * 5000).split())
    assert ended.value.code == 1
    assert "file name too long" in capsys.readouterr().err
