# SPDX-License-Identifier: Apache-2.0
"""Runs that are interrupted: broken sources, signals, full disks."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import av
import pytest
from command import QUICK, RESULTS, SHORT, Command, names, write_demo_video


def test_a_source_that_breaks_off_keeps_the_results_and_names_the_frame(
    command: Command, tmp_path: Path
) -> None:
    video = write_demo_video(tmp_path / "video.avi", 20)
    video.write_bytes(video.read_bytes()[: int(video.stat().st_size * 0.6)])
    outcome = command("run", video, "--out", tmp_path / "out", "--every", "4", *QUICK)
    assert outcome.code == 1
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    frames = summary["frames"]
    assert 4 < frames < 20
    assert summary["ended"] == f"video {video} ends in the middle of frame {frames}"
    assert f"{summary['ended']}; the results until then are in {tmp_path}/out" in outcome.err
    assert names(tmp_path / "out") == RESULTS
    with av.open(str(tmp_path / "out" / "overlay.mp4")) as overlay:
        assert overlay.streams.video[0].frames == frames


def start(*words: str | Path, before: Callable[[], None] | None = None) -> subprocess.Popen[str]:
    """Start `lfm-perception` in another process; `before` runs there first."""
    program = [sys.executable, "-c", "from lfm_perception.cli import main; main()", *map(str, words)]
    return subprocess.Popen(
        program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=before
    )


def wait_for(found: Path, pattern: str) -> None:
    deadline = time.monotonic() + 120
    while not list(found.glob(pattern)):
        assert time.monotonic() < deadline, f"no {pattern} in {found}"
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGHUP, 129), (signal.SIGINT, 130), (signal.SIGTERM, 143)]
)
def test_ctrl_c_ends_with_complete_files_of_the_results(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    process = start("run", "demo", "--out", tmp_path, "--seconds", "3600", *SHORT)
    wait_for(tmp_path, ".unfinished-*/overlay.mp4")
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    assert process.returncode == code, err
    assert "Traceback" not in err
    assert names(tmp_path) == RESULTS
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["ended"] == "interrupted"
    assert len((tmp_path / "scenes.jsonl").read_text().splitlines()) == summary["scenes"] >= 1
    assert str(tmp_path) in out


def test_what_a_killed_run_left_behind_is_removed_by_the_next_one(command: Command, tmp_path: Path) -> None:
    process = start("run", "demo", "--out", tmp_path, "--seconds", "3600", *SHORT)
    wait_for(tmp_path, ".unfinished-*/overlay.mp4")
    process.kill()
    process.communicate(timeout=60)
    assert list(tmp_path.glob(".unfinished-*"))
    outcome = command("run", "demo", "--out", tmp_path, "--frames", "2", *QUICK)
    assert outcome.code == 0
    assert names(tmp_path) == RESULTS
    assert not list(tmp_path.glob(".unfinished-*"))


def test_ctrl_c_before_the_first_frame_leaves_no_results(tmp_path: Path) -> None:
    process = start("run", "demo", "--out", tmp_path / "out", "--seconds", "3600", *SHORT)
    wait_for(tmp_path, "out/.unfinished-*")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert not (tmp_path / "out").exists() or names(tmp_path / "out") == RESULTS  # the first frame may win


def test_ctrl_c_while_the_command_line_is_imported_ends_it_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")
    process = start("run", "demo")
    assert process.stderr is not None
    for line in process.stderr:
        if line.endswith(" typer._click\n"):
            process.send_signal(signal.SIGINT)
            break
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (130, "")
    assert [line for line in err.splitlines() if not line.startswith("import time:")] == []


def test_ctrl_c_while_the_commands_are_built_ends_it_without_a_traceback() -> None:
    code = (
        "import signal, typer.main as typer; typer.get_command_from_info = lambda *_, **__: "
        "signal.raise_signal(signal.SIGINT); from lfm_perception.cli import main; main(['run', 'demo'])"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (process.returncode, process.stdout, process.stderr) == (130, "", "")


def test_a_full_disk_is_reported_and_leaves_no_results(tmp_path: Path) -> None:
    def limit_file_size() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    process = start(
        "run",
        "demo",
        "--out",
        tmp_path / "out",
        "--frames",
        "60",
        *QUICK,  # with the model in a thread: a frame shared with a process counts as a file
        before=limit_file_size,
    )
    _, err = process.communicate(timeout=300)
    assert process.returncode == 1, err
    assert f"cannot write to {tmp_path}/out: file too large" in err
    assert not (tmp_path / "out").exists()
