# SPDX-License-Identifier: Apache-2.0
"""The installation without docker checks its requirements first and changes nothing before they are met."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import environment
import install
import pytest

ROOT = Path(__file__).parent.parent


def jetson(
    root: Path, *, release: str, chip: str, cuda: str | None, memory_kb: int = 7_900_000
) -> install.Machine:
    """A Jetson, made of the files that the inspection reads."""
    (root / "etc").mkdir(parents=True)
    (root / "etc/nv_tegra_release").write_text(
        f"# {release} (release), REVISION: 4.0, GCID: 1, BOARD: generic\n"
    )
    (root / "proc/device-tree").mkdir(parents=True)
    (root / "proc/device-tree/compatible").write_text(f"nvidia,p3768-0000+p3767-0003\0{chip}\0")
    (root / "proc/meminfo").write_text(f"MemTotal:        {memory_kb} kB\nMemFree: 1 kB\n")
    (root / "dev").mkdir()
    (root / "dev/nvhost-gpu").touch()
    if cuda:
        (root / "usr/local/cuda/bin").mkdir(parents=True)
        (root / "usr/local/cuda/bin/nvcc").touch()
        (root / "usr/local/cuda/version.json").write_text(
            json.dumps({"cuda": {"name": "CUDA", "version": cuda}})
        )
    return replace(
        install.inspect(root), processor="aarch64", python=(3, 10), compiler="/usr/bin/c++", ros="humble"
    )


def missing(machine: install.Machine, target: str) -> dict[str, str]:
    return {each.name: each.remedy for each in install.check(machine, target, cuda=True) if each.remedy}


def test_an_orin_with_jetpack_6_meets_the_requirements(tmp_path: Path) -> None:
    machine = jetson(tmp_path, release="R36", chip="nvidia,tegra234", cuda="12.6.68")
    assert missing(machine, "jetson") == {}
    found = {each.name: each.found for each in install.check(machine, "jetson", cuda=True)}
    assert found["JetPack"] == "JetPack 6"
    assert found["chip"] == "Orin"
    assert found["CUDA"].startswith("12.6.68 ")
    options = install.build_options(machine, cuda=True)
    assert options["CMAKE_ARGS"] == "-DGGML_CUDA=on -DGGML_CUDA_NO_VMM=on -DCMAKE_CUDA_ARCHITECTURES=87"
    assert options["CUDACXX"] == str(tmp_path / "usr/local/cuda/bin/nvcc")


def test_a_thor_with_jetpack_7_is_compiled_for_its_own_gpu(tmp_path: Path) -> None:
    machine = replace(jetson(tmp_path, release="R38", chip="nvidia,tegra264", cuda="13.0.0"), python=(3, 12))
    assert missing(machine, "jetson") == {}
    assert "CMAKE_CUDA_ARCHITECTURES=110" in install.build_options(machine, cuda=True)["CMAKE_ARGS"]


def test_an_old_jetpack_and_everything_missing_on_a_bare_jetson_are_named(tmp_path: Path) -> None:
    machine = jetson(tmp_path, release="R35", chip="nvidia,tegra234", cuda=None, memory_kb=2_000_000)
    lacking = missing(replace(machine, compiler="", ros="", python=(3, 8), free_disk=10**9), "jetson")
    assert lacking["JetPack"].startswith("JetPack 6 or 7 is required")
    assert lacking["CUDA"].startswith("sudo apt install nvidia-jetpack")
    assert lacking["C++ compiler"] == "sudo apt install g++"
    assert lacking["ROS 2"].startswith("source it: . /opt/ros/humble/setup.sh")
    assert lacking["Python"].startswith("install Python 3.10 to 3.13")
    assert lacking["memory"].startswith("3.5 GB are required")
    assert lacking["disk"].startswith("4.0 GB are required")


def test_a_desktop_is_not_a_jetson(tmp_path: Path) -> None:
    assert (
        missing(replace(install.inspect(tmp_path), jetson_linux=0), "jetson")["JetPack"]
        == "use make desktop here"
    )


def test_a_gpu_without_its_toolkit_is_named(tmp_path: Path) -> None:
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/nvidia0").touch()
    machine = install.inspect(tmp_path)
    assert machine.gpu == str(tmp_path / "dev/nvidia0")
    assert missing(machine, "desktop")["CUDA"] == "sudo apt install nvidia-cuda-toolkit, or use --cpu"


def test_checking_changes_nothing(tmp_path: Path) -> None:
    process = subprocess.run(
        [sys.executable, ROOT / "tools" / "install.py", "jetson", "--check"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert process.returncode == (0 if Path("/etc/nv_tegra_release").exists() else 1)
    assert "JetPack" in process.stdout
    assert list(tmp_path.iterdir()) == []


def test_llama_cpp_is_compiled_as_in_the_last_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = tmp_path / "build_options.json"
    monkeypatch.setattr(environment, "OPTIONS", options)
    for name in environment.BUILD_OPTIONS:
        monkeypatch.delenv(name, raising=False)
    environment.restore_build_options()
    assert environment.current_build_options() == {}
    options.write_text(json.dumps({"CMAKE_ARGS": "-DGGML_CUDA=on"}))
    environment.restore_build_options()
    assert os.environ["CMAKE_ARGS"] == "-DGGML_CUDA=on"
    monkeypatch.setenv("CMAKE_ARGS", "-DGGML_CUDA=off")
    environment.restore_build_options()
    assert os.environ["CMAKE_ARGS"] == "-DGGML_CUDA=off"


def test_a_python_without_venv_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulated: Debian and Ubuntu leave ensurepip out of python3."""
    monkeypatch.setattr(environment, "cached_wheel", lambda: Path("llama.whl"))
    monkeypatch.setattr(environment, "find_spec", lambda name: None)
    with pytest.raises(environment.SetupError, match="sudo apt install python3-venv"):
        environment.check_tools()
