# SPDX-License-Identifier: Apache-2.0
"""The images as far as they can be checked without building them: linted, and every name in them exists."""

from __future__ import annotations

import configparser
import json
import re
import shlex
import shutil
import subprocess
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from catkin_pkg.package import parse_package

from lfm_perception.settings import parameter_specs

ROOT = Path(__file__).parent.parent
DOCKERFILES = sorted((ROOT / "docker").glob("*Dockerfile"))
COMPOSE = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())
SERVICES = COMPOSE["services"]
NODES = {name: service for name, service in SERVICES.items() if name != "models"}


@dataclass(frozen=True)
class Stage:
    """One FROM and its instructions as (name, text)."""

    name: str
    base: str
    instructions: tuple[tuple[str, str], ...]

    def all(self, instruction: str) -> list[str]:
        return [text for name, text in self.instructions if name == instruction]


@dataclass(frozen=True)
class Dockerfile:
    path: Path
    arguments: dict[str, str]
    stages: tuple[Stage, ...]

    def runs(self) -> list[list[str]]:
        """Every command of every RUN, split into words."""
        lines = [text for stage in self.stages for text in stage.all("RUN")]
        return [shlex.split(command) for line in lines for command in re.split(r"&&|\|\||;", line)]


def read(path: Path) -> Dockerfile:
    text = re.sub(r"^\s*#.*\n", "", path.read_text(), flags=re.M).replace("\\\n", " ")
    lines = [line.split(None, 1) for line in text.splitlines() if line.strip()]
    arguments: dict[str, str] = {}
    stages: list[Stage] = []
    for name, rest in lines:
        if name == "FROM":
            base, _, stage = rest.partition(" AS ")
            stages.append(Stage(stage, base, ()))
        elif not stages:
            assert name == "ARG"
            key, _, default = rest.partition("=")
            arguments[key] = default
        else:
            last = stages[-1]
            stages[-1] = Stage(last.name, last.base, (*last.instructions, (name, rest)))
    return Dockerfile(path, arguments, tuple(stages))


@pytest.fixture(params=DOCKERFILES, ids=lambda path: path.name)
def dockerfile(request: pytest.FixtureRequest) -> Dockerfile:
    path: Path = request.param
    return read(path)


def apt_packages(dockerfile: Dockerfile) -> list[str]:
    installs = [run for run in dockerfile.runs() if run[:2] == ["apt-get", "install"]]
    assert installs
    return [word for run in installs for word in run[2:] if not word.startswith("-")]


def test_hadolint_reports_nothing(dockerfile: Dockerfile) -> None:
    hadolint = shutil.which("hadolint") or shutil.which("hadolint", path=sysconfig.get_path("scripts"))
    if hadolint is None:
        pytest.skip("hadolint is not installed: run make environment")
    process = subprocess.run([hadolint, dockerfile.path], capture_output=True, text=True)
    assert process.returncode == 0, process.stdout


def test_bases_are_pinned_and_stages_exist_for_every_variant(dockerfile: Dockerfile) -> None:
    names = {stage.name for stage in dockerfile.stages}
    (switch,) = dockerfile.arguments
    variants = {stage.name.partition("-")[2] for stage in dockerfile.stages if "-" in stage.name}
    assert dockerfile.arguments[switch] in variants
    for stage in dockerfile.stages:
        if f"${{{switch}}}" in stage.base:
            for variant in variants:
                assert stage.base.replace(f"${{{switch}}}", variant) in names
        else:
            assert re.fullmatch(r"[\w./-]+:[\w.-]*\w", stage.base), stage.base
            assert not stage.base.endswith(":latest")


def test_every_copied_path_exists(dockerfile: Dockerfile) -> None:
    names = {stage.name for stage in dockerfile.stages}
    for stage in dockerfile.stages:
        for text in stage.all("COPY"):
            *sources, _target = text.split()
            if sources[0].startswith("--from="):
                assert sources[0].removeprefix("--from=") in names
            else:
                assert all((ROOT / source).exists() for source in sources)


def test_every_path_of_a_command_in_the_source_exists(dockerfile: Dockerfile) -> None:
    for run in dockerfile.runs():
        for word in run:
            if re.match(r"(tools|interfaces)/", word) or word == "constraints.txt":
                assert (ROOT / word).exists(), word


def test_packages_are_pinned_and_build_tools_stay_in_the_build(dockerfile: Dockerfile) -> None:
    assert all(re.fullmatch(r"[a-z0-9.+-]+=[\w:.+~-]+\*", package) for package in apt_packages(dockerfile))
    last = dockerfile.stages[-1]
    final = [stage for stage in dockerfile.stages if stage is last or stage.name.startswith("final-")]
    installed = " ".join(text for stage in final for text in stage.all("RUN"))
    assert not re.search(r"g\+\+|gcc|-dev|-venv|cmake|\bpip\b|git", installed)
    assert last.all("USER") == ["1000:1000"]


def test_every_debian_package_is_known(dockerfile: Dockerfile) -> None:
    if not shutil.which("apt-cache") or not list(Path("/var/lib/apt/lists").glob("*_Packages*")):
        pytest.skip("there is no list of Debian packages here: run apt-get update")
    names = [package.partition("=")[0] for package in apt_packages(dockerfile)]
    debian = [name for name in names if not name.startswith("ros-")]
    shown = subprocess.run(["apt-cache", "pkgnames"], capture_output=True, text=True, check=True)
    assert set(debian) <= set(shown.stdout.split())


def test_every_ros_package_is_one_of_package_xml(dockerfile: Dockerfile) -> None:
    wanted = {depend.name.replace("_", "-") for depend in parse_package(str(ROOT)).exec_depends}
    for package in apt_packages(dockerfile):
        if ros := re.match(r"ros-(humble|jazzy)-(.*)=", package):
            assert ros[2] in wanted


def test_every_installed_file_is_compared_with_its_hash(dockerfile: Dockerfile) -> None:
    for run in dockerfile.runs():
        if run[:2] == ["pip", "install"]:
            assert "--require-hashes" in run or (run[-1] == "." and "--no-deps" in run)


def test_the_packages_of_an_image_are_those_of_the_constraints_with_hashes() -> None:
    pinned = set(re.findall(r"^[\w-]+==\S+", (ROOT / "constraints.txt").read_text(), re.M))
    hashed = (ROOT / "requirements.txt").read_text()
    entries = re.findall(r"^([\w-]+==\S+)(.*(?:\n    --hash=sha256:[0-9a-f]{64}.*)+)", hashed, re.M)
    names = [name for name, _ in entries]
    assert len(names) == len(re.findall(r"^[\w-]+(?:\[\w+\])?==", hashed, re.M))
    assert set(names) <= pinned
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    wanted = setup["options"]["install_requires"] + setup["options.extras_require"]["models"]
    for name in re.findall(r"^([\w.-]+)", wanted, re.M):
        normal = re.sub(r"[._]", "-", name)
        assert any(each.startswith(f"{normal}==") for each in names), name


def known_program(words: list[str]) -> None:
    """Assert that the program and its parameters exist."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    scripts = re.findall(r"^([\w-]+) =", setup["options.entry_points"]["console_scripts"], re.M)
    if words[0] == "/ros_entrypoint.sh":  # the base image's
        words = words[1:]
    if words[:2] == ["python", "-m"]:
        assert (ROOT / f"{words[2].replace('.', '/')}.py").is_file()
    else:
        assert words[0] in scripts
    names = parameter_specs()
    parameters = [words[index + 1] for index, word in enumerate(words) if word == "-p"]
    assert all(parameter.partition(":=")[0] in names for parameter in parameters)


def test_every_program_that_an_image_starts_exists(dockerfile: Dockerfile) -> None:
    last = dockerfile.stages[-1]
    entry, command = (json.loads(last.all(name)[-1]) for name in ("ENTRYPOINT", "CMD"))
    known_program([*entry, *command])


@pytest.mark.parametrize("service", [*SERVICES.values()], ids=list(SERVICES))
def test_every_service_builds_an_existing_image(service: dict[str, object]) -> None:
    build = service["build"]
    assert isinstance(build, dict)
    built = read(ROOT / build["dockerfile"])
    assert (ROOT / "docker" / build["context"]).resolve() == ROOT
    for name, value in build["args"].items():
        assert name in built.arguments
        assert any(stage.name.endswith(f"-{value}") for stage in built.stages)


@pytest.mark.parametrize("service", [*SERVICES.values()], ids=list(SERVICES))
def test_every_service_is_confined_and_limited(service: dict[str, object]) -> None:
    assert service["read_only"] is True
    assert service["tmpfs"] == ["/tmp"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert str(service["mem_limit"]).endswith(":-6g}")
    assert service["pids_limit"] == 512
    assert str(service["user"]).endswith("1000:1000}")


@pytest.mark.parametrize("service", [*NODES.values()], ids=list(NODES))
def test_a_node_is_monitored_and_restarted(service: dict[str, object]) -> None:
    assert service["restart"] == "unless-stopped"
    assert (
        service["ipc"] == "host"
    )  # the 64 MB of shared memory that images need, and other nodes' access to it
    volumes = service["volumes"]
    assert isinstance(volumes, list)
    assert all(volume.endswith(":ro") for volume in volumes)
    (default,) = re.findall(r"PERCEPTION_SETTINGS:-(.*?)\}", volumes[1])
    assert (ROOT / "docker" / default).is_file()
    health = service["healthcheck"]
    assert isinstance(health, dict)
    assert health["test"][0] == "CMD"
    known_program(health["test"][1:])
    known_program([*service.get("entrypoint", []), *service["command"]])  # type: ignore[misc]


def test_files_left_out_of_an_image_are_not_needed_there() -> None:
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert {".git", ".venv"} <= set(ignored)
    assert not {"lfm_perception", "interfaces", "tools", "constraints.txt", "setup.cfg"} & set(ignored)
