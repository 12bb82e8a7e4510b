# SPDX-License-Identifier: Apache-2.0
"""The package as distributed: consistent metadata, a complete wheel, pinned dependencies, helpful set-up."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
from catkin_pkg.package import parse_package
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import lfm_perception
from lfm_perception.ros.launch_arguments import DEMO_ARGUMENTS, REPLAY_ARGUMENTS, perception_arguments

ROOT = Path(__file__).parent.parent
NOT_SOURCE = shutil.ignore_patterns(".*", "out", "build", "*.egg-info", "__pycache__")


def setup_cfg() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


def requirements(section: str, option: str) -> list[Requirement]:
    return [Requirement(line) for line in setup_cfg()[section][option].splitlines() if line]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel that `pip install .` would install, built by the real build backend."""
    folder = tmp_path_factory.mktemp("wheel")
    source = shutil.copytree(ROOT, folder / "source", ignore=NOT_SOURCE)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "."]
    subprocess.run([*command, "--wheel-dir", folder], cwd=source, check=True, capture_output=True)
    return zipfile.ZipFile(next(folder.glob("*.whl")))


def test_package_xml_is_valid_and_agrees_with_setup_cfg() -> None:
    warnings: list[str] = []
    package = parse_package(str(ROOT), warnings=warnings)
    package.validate(warnings=warnings)
    metadata = setup_cfg()["metadata"]
    assert warnings == []
    assert package.package_format == 3
    assert package.get_build_type() == "ament_python"
    assert package.name == metadata["name"]
    assert package.description == metadata["description"]
    assert [(person.name, person.email) for person in package.maintainers] == [
        (metadata["maintainer"], metadata["maintainer_email"])
    ]
    assert package.licenses == [metadata["license"]]


def test_setup_cfg_holds_only_what_colcon_can_read() -> None:
    assert "python_requires" not in setup_cfg()["options"]


def test_one_version_everywhere() -> None:
    assert parse_package(str(ROOT)).version == lfm_perception.__version__
    assert f"\n## {lfm_perception.__version__} " in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_wheel_holds_the_package_its_data_and_the_demo_model(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    package = ROOT / "lfm_perception"
    source = {
        str(path.relative_to(ROOT))
        for path in package.rglob("*")
        if path.is_file() and path.suffix in {".py", ".html", ".json", ".yaml", ".gguf", ".typed", ".md"}
    }
    assert source <= names
    assert {"demo-vl-Q4_0.gguf", "mmproj-demo-vl.gguf"} <= {Path(name).name for name in names}
    share = f"lfm_perception-{lfm_perception.__version__}.data/data/share/"
    assert {name.removeprefix(share) for name in names if name.startswith(share)} == {
        "ament_index/resource_index/packages/lfm_perception",
        "lfm_perception/package.xml",
        *(f"lfm_perception/{path.relative_to(ROOT)}" for path in (ROOT / "config").iterdir()),
        *(f"lfm_perception/{path.relative_to(ROOT)}" for path in (ROOT / "launch").glob("*.launch.py")),
    }


def test_the_wheel_installs_the_command(wheel: zipfile.ZipFile) -> None:
    info = f"lfm_perception-{lfm_perception.__version__}.dist-info"
    assert "lfm-perception = lfm_perception.cli:main" in wheel.read(f"{info}/entry_points.txt").decode()
    assert f"{info}/licenses/LICENSE" in wheel.namelist()


def test_the_command_prints_its_help() -> None:
    process = subprocess.run(
        [sys.executable, "-c", "from lfm_perception.cli import main; main()", "--help"],
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    assert "run" in process.stdout


def test_every_dependency_of_this_python_is_pinned() -> None:
    lines = [
        line for line in (ROOT / "constraints.txt").read_text().splitlines() if line[:1] not in ("", "#")
    ]
    pins = [Requirement(line) for line in lines]
    assert all(re.fullmatch(r"==[\w.]+", str(pin.specifier)) for pin in pins)
    pinned = {canonicalize_name(pin.name) for pin in pins if pin.marker is None or pin.marker.evaluate()}
    wanted = requirements("options", "install_requires")
    for extra in ("test", "docs", "models"):
        wanted += requirements("options.extras_require", extra)
    seen: set[str] = set()
    while wanted:
        requirement = wanted.pop()
        name = canonicalize_name(requirement.name)
        if name in seen or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        seen.add(name)
        try:
            wanted += [Requirement(line) for line in requires(name) or []]
        except PackageNotFoundError:
            pytest.fail(f"{name} is not installed: run make environment")
    assert seen <= pinned


def test_constraints_name_each_package_once_for_each_python() -> None:
    pins = [Requirement(line) for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line]
    for minor in (10, 11, 12, 13):
        python = {
            "python_version": f"3.{minor}",
            "python_full_version": f"3.{minor}.0",
            "sys_platform": "linux",
            "platform_python_implementation": "CPython",
        }
        names = [pin.name for pin in pins if pin.marker is None or pin.marker.evaluate(python)]
        assert len(names) == len(set(names))
        assert {"numpy", "scipy", "llama-cpp-python", "pip"} <= set(names)


def test_make_help_names_the_few_commands() -> None:
    shown = subprocess.run(["make", "--no-print-directory", "help"], cwd=ROOT, capture_output=True, text=True)
    assert {"demo", "test", "lint", "clean"} <= set(re.findall(r"^  make (\w+) ", shown.stdout, re.MULTILINE))


def test_set_up_without_a_compiler_names_the_package_to_install(tmp_path: Path) -> None:
    source = shutil.copytree(ROOT, tmp_path / "source", ignore=NOT_SOURCE)
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), "CXX": "no-such-compiler"}
    process = subprocess.run(
        [sys.executable, source / "tools" / "environment.py"], env=environment, capture_output=True, text=True
    )
    assert process.returncode == 1
    assert process.stderr == (
        "error: llama.cpp needs a C++ compiler and there is no no-such-compiler: "
        "install one (Debian, Ubuntu: sudo apt install g++) and run make again\n"
    )
    assert not (source / ".venv").exists()


def test_set_up_with_an_old_python_is_refused() -> None:
    process = subprocess.run(
        ["make", "environment", "PYTHON=false"], cwd=ROOT, capture_output=True, text=True
    )
    assert process.returncode != 0
    assert "Python 3.10 or newer is needed (false)" in process.stderr


def test_the_page_of_the_launch_files_names_every_argument_and_profile() -> None:
    text = (ROOT / "docs" / "launch.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`\w+`.*?) \|", text, re.M)
    documented = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    arguments = (*perception_arguments(ROOT / "config"), *DEMO_ARGUMENTS, *REPLAY_ARGUMENTS)
    declared = {argument.name for argument in arguments}
    profiles = {path.stem for path in (ROOT / "config").glob("*.yaml")} - {"perception"}
    assert len(declared) > 20
    assert declared | profiles <= documented


@pytest.mark.parametrize(
    "modules",
    ["lfm_perception.backends.worker, lfm_perception.backends.llama_vlm", "lfm_perception.ros.run_node"],
    ids=["worker", "node"],
)
def test_a_start_does_not_wait_for_imports_of_what_is_needed_later(modules: str) -> None:
    if "ros" in modules:
        pytest.importorskip("rclpy")
    later = {"PIL", "importlib.metadata", "json_repair", "matplotlib", "ruamel", "scipy"}
    code = f"import sys, {modules}\nprint(sorted({later} & set(sys.modules)))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert shown.stdout == "[]\n", shown.stderr
