# SPDX-License-Identifier: Apache-2.0
"""The installation beside ROS 2 refuses what cannot work in a sentence, and keeps the system's packages."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import environment
import install
import pytest
import robot_environment as robot
from environment import SetupError

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def no_ros(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ROS_DISTRO", "AMENT_PREFIX_PATH"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> install.Machine:
    """This machine; llama.cpp is not compiled yet."""
    monkeypatch.setattr(environment, "cached_wheel", lambda: None)
    return install.inspect()


def interpreter(folder: Path, **versions: str) -> Path:
    """A Python whose packages are simulated: real ones would have to be broken for the whole machine."""
    for name, version in versions.items():
        module = folder / f"{name}.py"
        module.write_text(f"__version__ = {version!r}\n" if version[0].isdigit() else version)
    (folder / "scipy").mkdir(exist_ok=True)
    (folder / "scipy" / "__init__.py").write_text("__version__ = '1.11.4'\n")
    (folder / "scipy" / "optimize.py").write_text(
        "import numpy\nif numpy.__version__ >= '2': from numpy import Inf\n"
    )
    program = folder / "python"
    program.write_text(f'#!/bin/sh\nPYTHONPATH={folder} exec {sys.executable} "$@"\n')
    program.chmod(0o755)
    return program


def made_wheel(path: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr("module.py", "text = 'of the module'\n" * 100)
    return path


def test_two_sourced_distributions_are_named(
    machine: install.Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefixes = [tmp_path / name for name in ("humble", "jazzy")]
    for prefix in prefixes:
        (prefix / "share" / "ros_environment").mkdir(parents=True)
    monkeypatch.setenv("AMENT_PREFIX_PATH", ":".join(map(str, [tmp_path / "ws", *prefixes])))
    with pytest.raises(SetupError, match=r"sourced twice \(.*humble, .*jazzy\): open a new terminal"):
        robot.check_machine(machine, None, cuda=False)
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(prefixes[0]))
    robot.check_machine(machine, None, cuda=False)


def test_ros_for_another_python_is_named(
    machine: install.Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROS_DISTRO", "jazzy")
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(tmp_path))
    with pytest.raises(SetupError, match=r"another Python .*make robot PYTHON=/usr/bin/python3"):
        robot.check_machine(machine, None, cuda=False)


@pytest.mark.parametrize(
    ("full", "remedy"),
    [("workspace", "free some"), ("temporary", "set TMPDIR"), ("cache", "set XDG_CACHE_HOME")],
)
def test_a_full_disk_is_named(
    machine: install.Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: str, remedy: str
) -> None:
    """The disks are simulated: of the three folders only one is on a full one."""
    for name in ("workspace", "temporary", "cache"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(robot, "ROOT", tmp_path / "workspace")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    monkeypatch.setattr(environment, "CACHE", tmp_path / "cache" / "not" / "there")
    monkeypatch.setattr(
        "shutil.disk_usage", lambda place: SimpleNamespace(free=1e8 if place.name == full else 1e10)
    )
    with pytest.raises(SetupError, match=rf"0\.1 GB are free at {tmp_path / full}, 1\.8 GB .*{remedy}"):
        robot.check_machine(machine, None, cuda=False)


def test_missing_compiler_cuda_and_wheels_are_named(
    machine: install.Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SetupError, match="nvcc is missing on this board: sudo apt install nvidia-jetpack"):
        robot.check_machine(replace(machine, nvcc=""), None, cuda=True)
    with pytest.raises(SetupError, match="holds no wheels: docs/install"):
        robot.check_machine(machine, tmp_path, cuda=False)
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(SetupError, match=r"sudo apt install g\+\+"):
        robot.check_machine(machine, None, cuda=False)
    made_wheel(tmp_path / f"llama_cpp_python-{environment.pinned('llama-cpp-python')}-py3-none-any.whl")
    robot.check_machine(machine, tmp_path, cuda=False)
    monkeypatch.setattr(environment, "find_spec", lambda name: None)
    with pytest.raises(SetupError, match="sudo apt install python3-venv"):
        robot.check_machine(machine, tmp_path, cuda=False)


@pytest.mark.parametrize("damage", ["cut", "changed", "empty", "crossed out", "another method"])
def test_a_damaged_wheel_is_named_before_anything_is_installed(
    damage: str, machine: install.Machine, tmp_path: Path
) -> None:
    content = made_wheel(tmp_path / "av-1-py3-none-any.whl").read_bytes()
    begin, listed = content.index(b"module.py") + len("module.py"), content.index(b"PK\1\2")
    damaged = made_wheel(tmp_path / "rosbags-1-py3-none-any.whl")
    damaged.write_bytes({
        "cut": content[:-40],
        "changed": content[:begin + 8] + bytes([content[begin + 8] ^ 1]) + content[begin + 9:],
        "empty": b"",
        "another method": content[:listed + 10] + b"\xff\0" + content[listed + 12:],
        "crossed out": content[:begin] + b"\xff" * 8 + content[begin + 8:],
    }[damage])  # fmt: skip
    with pytest.raises(SetupError, match=f"the wheel {damaged} is damaged or cut short: copy or download it"):
        robot.check_machine(machine, tmp_path, cuda=False)


def test_a_wheel_that_may_not_be_read_is_named_with_the_remedy() -> None:
    user = os.geteuid()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        made_wheel(Path(folder, "av-1-py3-none-any.whl")).chmod(0)
        os.seteuid(user or 65534)  # root may read everything
        try:
            with pytest.raises(SetupError, match=r"av-1.* may not be read by this user: run chmod a\+r"):
                robot.check_wheels(Path(folder))
        finally:
            os.seteuid(user)


def test_a_folder_without_permission_is_a_sentence_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match=r"^error: /sys/\.venv: .*, clone the repository to one, not /"):
        environment.guarded(lambda: Path("/sys/.venv").mkdir())
    monkeypatch.setattr(environment, "CACHE", Path("/sys/cache/lfm_perception"))
    with pytest.raises(SystemExit, match="you may write is needed, set XDG_CACHE_HOME to one"):
        environment.guarded(lambda: Path("/sys/cache").mkdir())


def test_a_numpy_2_over_the_systems_is_named(tmp_path: Path) -> None:
    assert robot.system_packages(interpreter(tmp_path, numpy="1.26.4", cv2="4.6.0"))["numpy"] == "1.26.4"
    with pytest.raises(SetupError, match=r"numpy 2\.1\.0 at .* uninstall --break-system-packages numpy"):
        robot.system_packages(interpreter(tmp_path, numpy="2.1.0", cv2="4.6.0"))
    with pytest.raises(SetupError, match="lacks numpy or scipy: sudo apt install python3-numpy"):
        robot.system_packages(interpreter(tmp_path, numpy="raise ImportError"))


def test_the_systems_versions_take_the_place_of_the_pins() -> None:
    noble = {"numpy": "1.26.4", "scipy": "1.11.4", "opencv-python-headless": "4.6.0", "typer": "0.9.0"}
    constrained = robot.constrained({**noble, "jinja2": "3.1.2", "ruamel-yaml": "0.17.21"})
    names = [re.split("[=<]", line)[0] for line in constrained]
    assert "numpy==1.26.4" in constrained
    assert names.count("numpy") == 1
    assert not {"jinja2", "ruamel-yaml"} & {*names}
    assert {"av", "rosbags", "typer"} <= {*names}  # missing, or too old
    assert any(line.startswith("contourpy<=") for line in constrained)  # the newest may need a newer numpy


@pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")
def test_checking_changes_nothing_and_ends_with_one_sentence_or_none() -> None:
    before = sorted(ROOT.iterdir())
    done = subprocess.run(
        ["make", "--no-print-directory", "robot", "ARGS=--check"], cwd=ROOT, capture_output=True, text=True
    )
    assert "Traceback" not in done.stderr
    assert done.returncode == 0 or done.stderr.startswith("error: ")
    assert sorted(ROOT.iterdir()) == before


def test_a_link_and_a_path_with_a_space_are_named_before_anything_is_lost(
    machine: install.Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "others"
    kept.mkdir()
    (kept / "file").touch()
    places = {"VENV": environment.VENV, "PYTHON": environment.PYTHON, "LOG": environment.LOG,
              "OPTIONS": environment.OPTIONS}  # fmt: skip
    for name, place in places.items():
        monkeypatch.setattr(environment, name, place)
    environment.use(tmp_path / "my ws" / ".venv")
    with pytest.raises(SetupError, match="has a space"):
        robot.check_machine(machine, None, cuda=False)
    (tmp_path / ".venv-ros").symlink_to(kept)
    environment.use(tmp_path / ".venv-ros")
    with pytest.raises(SetupError, match="is a link"):
        environment.create_venv()
    assert (kept / "file").exists()


def test_a_virtual_environment_is_not_the_systems_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "prefix", "/somewhere")
    with pytest.raises(SetupError, match="in a virtual environment, and ROS uses the system's Python"):
        robot.check_python()


def test_half_an_installation_is_not_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "PYTHON", Path(sys.executable))
    assert robot.is_whole()
    monkeypatch.setattr(robot, "INSTALLED", ("llama_cpp", "no_such_module"))
    assert not robot.is_whole()
    monkeypatch.setattr(environment, "PYTHON", tmp_path / "python")
    assert not robot.is_whole()


@pytest.mark.parametrize(("value", "program"), [("", "c++"), (" ", "c++"), ("ccache g++", "ccache")])
def test_the_compiler_is_that_of_cxx(value: str, program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", value)
    assert environment.compiler() == program


def test_a_venv_that_fails_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import venv

    def fails(*_: object, **__: object) -> None:
        """As without Debian's python3-venv, which cannot be taken away from this machine."""
        raise subprocess.CalledProcessError(1, "ensurepip")

    monkeypatch.setattr(venv, "create", fails)
    monkeypatch.setattr(environment, "VENV", tmp_path / ".venv")
    with pytest.raises(SetupError, match=r"cannot make .*python3-venv"):
        environment.create_venv()
