# SPDX-License-Identifier: Apache-2.0
"""The doctor reports every problem that can be caused here, with a remedy."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest

from lfm_perception.doctor import (
    Finding,
    check_camera,
    check_dds,
    check_engine,
    check_inference,
    check_model,
    check_packages,
    check_python,
    check_store,
)
from lfm_perception.engine.probe import Probe
from lfm_perception.models.store import Store
from lfm_perception.settings import Settings

NEEDS_ROS = pytest.mark.skipif(find_spec("rclpy") is None, reason="there is no ROS 2 here")


def the_problem(findings: Iterable[Finding]) -> Finding:
    """The only problem among the findings, with its remedy."""
    (found,) = [finding for finding in findings if finding.is_problem]
    assert found.found
    assert found.remedy
    return found


def doctor(*words: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-c", "from lfm_perception.cli import main; main()", "doctor", *words]
    return subprocess.run(program, env=environment, capture_output=True, text=True, timeout=300)


def test_this_computer_has_no_problems() -> None:
    findings = [check_python(), *check_packages(), *check_engine(Settings())]
    assert [finding for finding in findings if finding.is_problem] == []
    about = {finding.about: finding.found for finding in findings}
    assert about["model"] == "demo-vl-Q4_0.gguf and mmproj-demo-vl.gguf, checksums right"
    assert about["inference"].startswith("ready after")


def test_packages_that_are_missing_or_too_old_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    about = tmp_path / "lfm_perception-99.0.dist-info"
    about.mkdir()
    wanted = "Requires-Dist: numpy>=99\nRequires-Dist: no-such-package\nRequires-Dist: rich\n"
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: lfm_perception\nVersion: 99.0\n{wanted}")
    monkeypatch.syspath_prepend(str(tmp_path))
    found = list(check_packages())
    assert [finding.is_problem for finding in found] == [True, True]
    assert found[0].found.endswith("required is numpy>=99")
    assert found[0].remedy == f"{sys.executable} -m pip install -c constraints.txt 'numpy>=99'"
    monkeypatch.setattr(sys, "prefix", "/ws/src/lfm_perception/.venv-ros")
    remedy = next(check_packages()).remedy
    assert remedy == "make it anew: rm -r /ws/src/lfm_perception/.venv-ros, then make robot"
    assert found[1].found == "no-such-package is not installed, required is no-such-package"


def test_a_changed_model_is_named(demo_model: tuple[Path, Path], tmp_path: Path) -> None:
    model, mmproj = (shutil.copy(path, tmp_path) for path in demo_model)
    settings = Settings().with_values({"model.path": str(model), "mmproj.path": str(mmproj)})
    assert "no checksums in the settings" in check_model(settings).found
    pinned = settings.with_values({"model.sha256": "0" * 64})
    assert "expected 0000" in the_problem([check_model(pinned)]).found
    swapped = Settings().with_values({"model.path": str(mmproj), "mmproj.path": str(model)})
    assert "swap model.path and mmproj.path" in the_problem([check_model(swapped)]).found


def test_a_missing_or_damaged_model_is_named(tmp_path: Path) -> None:
    settings = Settings().with_values({"model.path": str(tmp_path / "m.gguf"), "mmproj.path": "v.gguf"})
    assert "m.gguf" in the_problem(check_engine(settings)).found
    (tmp_path / "m.gguf").write_bytes(b"GGUF but not really")
    assert "m.gguf" in the_problem(check_engine(settings)).found


def test_a_stored_model_that_changed_is_named(demo_model: tuple[Path, Path], tmp_path: Path) -> None:
    model, mmproj = (Path(shutil.copy(path, tmp_path)) for path in demo_model)
    store = Store(tmp_path / "store")
    store.add("mine", model, mmproj, "added", {})
    (found,) = check_store(store)
    assert not found.is_problem
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 1
    model.write_bytes(content)
    found = the_problem(check_store(store))
    assert "has changed" in found.found
    assert found.remedy == "lfm-perception models verify mine"


def test_a_requested_gpu_that_is_not_used_is_named() -> None:
    found = list(check_engine(Settings().with_values({"engine.n_gpu_layers": -1})))
    about = {finding.about: finding for finding in found}
    if "for the CPU" in about["llama.cpp"].found:
        assert the_problem(found).found == "llama.cpp was compiled for the CPU only"
    else:
        assert not about["GPU"].skipped


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        (Probe(gpu_build=True, gpus=(), offloaded=0, layers=17), "llama.cpp finds no GPU"),
        (Probe(gpu_build=True, gpus=("Orin",), offloaded=0, layers=17), "no layer was offloaded to Orin"),
    ],
)
def test_a_gpu_that_cannot_be_used_is_named(
    monkeypatch: pytest.MonkeyPatch, found: Probe, sentence: str
) -> None:
    """llama.cpp's report is simulated: the test machine has no GPU that could fail."""
    monkeypatch.setattr("lfm_perception.doctor.probe", lambda model, wanted: found)
    assert the_problem(check_engine(Settings().with_values({"engine.n_gpu_layers": -1}))).found == sentence


def test_another_python_and_another_processor_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both are simulated: the tests themselves need a supported Python and processor."""
    with monkeypatch.context() as patch:
        patch.setattr("lfm_perception.doctor.OLDEST", (3, 99))
        assert the_problem([check_python()]).remedy == "use Python 3.10 to 3.13"
    monkeypatch.setattr(platform, "machine", lambda: "armv7l")
    assert the_problem([check_python()]).found.endswith("on armv7l")


def test_a_package_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under another name, because the package is installed here."""
    monkeypatch.setattr("lfm_perception.doctor.PACKAGE", "lfm_perception_elsewhere")
    assert "without being installed" in the_problem(check_packages()).found


def test_a_backend_that_cannot_answer_is_named() -> None:
    nowhere = {"engine.backend": "recorded", "recorded.path": "/nowhere/answers.jsonl"}
    found = the_problem([check_inference(Settings().with_values(nowhere))])
    assert "/nowhere/answers.jsonl" in found.found
    assert "recorded.path" in found.remedy


def without_a_library(folder: Path) -> Path:
    """A copy of llama_cpp without a required library, like a CUDA build on a machine without CUDA."""
    spec = find_spec("llama_cpp")
    assert spec is not None
    assert spec.origin is not None
    source = Path(spec.origin).parent
    shutil.copytree(
        source, folder / "llama_cpp", ignore=shutil.ignore_patterns("libggml-base*", "__pycache__")
    )
    return folder


def test_a_library_that_is_missing_at_run_time_is_one_sentence(tmp_path: Path) -> None:
    path = os.pathsep.join([str(without_a_library(tmp_path)), os.environ.get("PYTHONPATH", "")])
    process = doctor(environment={**os.environ, "PYTHONPATH": path})
    assert process.returncode == 1, process.stderr
    assert "!! llama.cpp: llama.cpp cannot be loaded" in process.stdout
    assert "libggml-base" in process.stdout
    assert "install CUDA's libraries" in process.stdout
    assert "Traceback" not in process.stderr


def test_a_build_for_another_processor_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "llama_cpp.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGILL)\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    assert "compiled for another processor" in the_problem(check_engine(Settings())).found


def test_a_camera_that_is_not_there_is_named() -> None:
    found = the_problem([check_camera("99", Settings())])
    assert "99" in found.found
    assert found.remedy.startswith("check the cable")


@NEEDS_ROS
def test_images_come_through_dds() -> None:
    from lfm_perception.ros.dds_check import RATE_HZ, measure_dds

    arrived = measure_dds(0.5)
    assert arrived.count > 0
    assert 0.0 < arrived.rate_hz < 1.2 * RATE_HZ
    assert 0.0 < arrived.latency_s < 1.0


@NEEDS_ROS
def test_slow_dds_is_named_with_possible_causes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The measurement is simulated: causes of slow DDS differ between machines."""
    from lfm_perception.ros.dds_check import TopicStatistics

    for name in [name for name in os.environ if name.startswith(("FASTDDS_", "FASTRTPS_", "RMW_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(
        "lfm_perception.ros.dds_check.measure_dds", lambda seconds: TopicStatistics(20, 7.0, 0.4)
    )
    busy = the_problem(check_dds())
    assert busy.found == "7.0 of 30 images of 1280x720 per second, latency 400 ms"
    assert "processor busy" in busy.remedy
    monkeypatch.setenv("FASTDDS_BUILTIN_TRANSPORTS", "UDPv4")
    assert the_problem(check_dds()).remedy.startswith("unset FASTDDS_BUILTIN_TRANSPORTS")


@NEEDS_ROS
def test_a_silent_topic_and_a_slow_one_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lfm_perception.doctor.MEASUREMENT_S", 0.5)
    monkeypatch.setattr("lfm_perception.ros.dds_check.DISCOVERY_S", 30.0)  # a process has to start
    with monkeypatch.context() as patch:
        patch.setattr("lfm_perception.ros.dds_check.DISCOVERY_S", 0.5)
        silent = the_problem([check_camera("/nobody_sends_here", Settings())])
    assert silent.found == "/nobody_sends_here has no publisher"
    assert "image topics here: none" in silent.remedy
    with sending("/doctor_test"):
        fast = Settings().with_values({"node.input_hz_warn": 500.0})
        slow = the_problem([check_camera("/doctor_test", fast)])
        reliable = Settings().with_values({"node.image_reliability": "reliable"})
        unheard = the_problem([check_camera("/doctor_test", reliable)])
    assert "/doctor_test" in slow.found
    assert unheard.found == (
        "/dds_check sends /doctor_test best effort, and node.image_reliability is reliable"
    )
    assert unheard.remedy == "set node.image_reliability to best_effort"


@contextmanager
def sending(topic: str, **variables: str) -> Iterator[None]:
    """A process that sends images on a topic, started with these environment variables."""
    command = [sys.executable, "-m", "lfm_perception.ros.dds_check", topic]
    others = {name: value for name, value in os.environ.items() if not name.startswith("FASTDDS_")}
    sender = subprocess.Popen(command, env={**others, **variables}, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        sender.kill()
        sender.wait()


@NEEDS_ROS
def test_a_sender_without_the_profile_is_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lfm_perception.ros.dds_check.DISCOVERY_S", 15.0)  # a process has to start
    with sending("/doctor_plain", FASTDDS_BUILTIN_TRANSPORTS="DEFAULT"):
        lost = the_problem([check_camera("/doctor_plain", Settings())])
    assert lost.found.endswith(" images per second arrive from /doctor_plain") or lost.found == (
        "/doctor_plain has 1 publisher (/dds_check), and no image arrived"
    )
    assert "start /dds_check with FASTDDS_DEFAULT_PROFILES_FILE=" in lost.remedy
    assert "fastdds.xml" in lost.remedy


@NEEDS_ROS
def test_a_topic_of_another_type_is_named() -> None:
    from std_msgs.msg import String

    from lfm_perception.ros.executor import spinning_node

    with spinning_node("talker") as node:
        node.create_publisher(String, "/doctor_text", 1)
        other = the_problem([check_camera("/doctor_text", Settings())])
    assert other.found == "/doctor_text of /talker has the type std_msgs/msg/String"
    assert "sensor_msgs/msg/Image" in other.remedy


@NEEDS_ROS
def test_two_nodes_of_one_name_are_named() -> None:
    from lfm_perception.ros.executor import spinning_node
    from lfm_perception.ros.names import find_shared_names, warn_of_namesakes

    with spinning_node("twin", namespace="/cam1"), spinning_node("twin", namespace="/cam1") as second:
        assert any(find_shared_names(seconds) == ["/cam1/twin"] for seconds in (0.5, 4.0))
        warnings: list[str] = []
        second.get_logger().warning = warnings.append
        warn_of_namesakes(second)
        assert warnings[0].startswith("another node is called /cam1/twin too")


@NEEDS_ROS
def test_too_little_shared_memory_is_named() -> None:
    code = "from lfm_perception.doctor import check_dds\nprint(*check_dds(), sep='\\n')"
    small = 'mount -t tmpfs -o size=48m tmpfs /dev/shm && exec "$0" -c "$1"'
    process = subprocess.run(
        ["unshare", "--mount", "sh", "-c", small, sys.executable, code], capture_output=True, text=True
    )
    if "Operation not permitted" in process.stderr or "permission denied" in process.stderr:
        pytest.skip("only root can give a process a small /dev/shm")
    assert "/dev/shm has 48 MB, DDS needs 128 MB for camera images" in process.stdout
    assert "--shm-size=512m or --ipc=host" in process.stdout
