# SPDX-License-Identifier: Apache-2.0
"""Makes .venv-ros beside ROS 2, with the Python packages the distribution lacks. Standard library only.

    python3 tools/robot_environment.py [--check] [--cpu] [--wheels FOLDER]

The environment sees the system's packages and ROS's. Only what is missing or too old there is installed into
it: llama-cpp-python, av, rosbags and what they require. numpy, scipy, OpenCV, Pillow and matplotlib are
never installed, because ROS's own packages are compiled for the system's; outside of .venv-ros nothing is
changed. setup.py gives the programs that colcon installs the Python of .venv-ros, so that `colcon build`,
`ros2 run` and `ros2 launch` need nothing else.

It can be repeated at any time, returns at once when nothing has changed, and repairs an installation that was
cut off. `--wheels` installs without a network from a folder of wheels, which the pip of .venv-ros fills on
another computer of the same kind (docs/install.md).

Two more options are for tests where no ROS is installed. `--ros-wheels` puts ROS 2 from wheels, and this
package, into .venv-ros. `--like noble` makes .venv-noble like that, with the versions of Ubuntu 24.04 from
tools/noble.txt in place of the system's packages; `--like jammy`, .venv-jammy with those of Ubuntu 22.04.
"""

from __future__ import annotations

import argparse
import configparser
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import environment
import install
from environment import ROOT, SetupError, pinned, run, say

VENV = ROOT / ".venv-ros"
VERSIONS = {name: ROOT / "tools" / f"{name}.txt" for name in ("noble", "jammy")}
"""Files with the versions of packages of Ubuntu's releases."""

KEPT = ("numpy", "scipy", "opencv-python", "opencv-python-headless", "pillow", "matplotlib", "pyyaml")
"""Packages of the system that are never installed in another version."""

LLAMA = "llama-cpp-python"

TESTS = ("catkin-pkg", "cryptography", "filterpy", "hypothesis", "jsonschema", "pytest", "setuptools")
"""What the tests need that `make test-robot` and `make test-jammy` run."""

PLACE = "numpy's place"

APT = (
    "sudo apt install python3-numpy python3-scipy python3-opencv python3-pil python3-matplotlib python3-yaml"
)

ENVIRONMENT_SPACE, COMPILATION_SPACE = 0.6e9, 1.2e9
"""Disk space for the environment and pip's temporary files, and for the compilation of llama.cpp; bytes."""

INSTALLED = ("llama_cpp", "av", "rosbags")
"""Modules that show whether an environment is whole."""

MAX_SHEBANG = 120
"""Maximum length of the path of Python, which becomes the first line of the programs."""

SYSTEM_PACKAGES = """
import json, re
from importlib.metadata import distributions
every = reversed(list(distributions()))
found = {re.sub("[-_.]+", "-", each.metadata["Name"]).lower(): each.version for each in every}
import numpy, scipy
found["numpy"], found["scipy"] = numpy.__version__, scipy.__version__
try:
    import cv2, scipy.optimize
    found["opencv-python-headless"] = found["opencv-python"] = cv2.__version__
except Exception as error:
    found["problem"] = f"{type(error).__name__}: {error}".splitlines()[0]
print(json.dumps({**found, "numpy's place": numpy.__file__}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--check", action="store_true", help="check the machine and change nothing")
    parser.add_argument("--cpu", action="store_true", help="compile llama.cpp without CUDA")
    parser.add_argument("--wheels", type=Path, metavar="FOLDER", help="install from these wheels, offline")
    parser.add_argument(
        "--ros-wheels", action="store_true", help="install ROS 2 and this package into it too"
    )
    parser.add_argument("--like", choices=VERSIONS, help="make an environment for tests instead")
    chosen = parser.parse_args()
    environment.use(ROOT / f".venv-{chosen.like}" if chosen.like else VENV)
    machine = install.inspect()
    cuda = not chosen.cpu and not chosen.like and (machine.jetson or bool(machine.gpu))
    os.environ.update(install.build_options(machine, cuda=cuda))
    check_machine(machine, chosen.wheels, cuda=cuda)
    if not chosen.like:
        check_python()
    python = Path(sys.executable)
    found = {} if chosen.like else system_packages(python)
    versions = "".join(f", {name} {found[name]}" for name in KEPT if name in found)
    say(f"the machine is fit: {python}{versions}")
    if chosen.check:
        return
    stamp, wanted = environment.VENV / "complete", fingerprint(found, ros=chosen.ros_wheels)
    if stamp.is_file() and stamp.read_bytes() == wanted.encode() and is_whole():
        say(f"nothing to do: {environment.VENV} is complete")
        return
    environment.CACHE.mkdir(parents=True, exist_ok=True)
    with (environment.CACHE / "lock").open("w") as lock:
        environment.wait_for(lock)
        ros = chosen.ros_wheels or bool(chosen.like)
        make(chosen.wheels, found, ros=ros, versions=VERSIONS.get(chosen.like))
    stamp.write_text(wanted)
    say(f"{environment.VENV} is ready" + ("" if chosen.like else "; now: colcon build"))


def check_python() -> None:
    """Raise SetupError inside a virtual environment, whose packages .venv-ros would not see."""
    if sys.prefix != sys.base_prefix:
        raise SetupError(
            f"{sys.executable} is in a virtual environment, and ROS uses the system's Python: "
            "run deactivate, or make robot PYTHON=/usr/bin/python3"
        )


def is_whole() -> bool:
    """Whether the environment's Python runs and finds what was installed last."""
    code = f"import sys; from importlib.util import find_spec; sys.exit(not all(map(find_spec, {INSTALLED})))"
    try:
        return subprocess.run([environment.PYTHON, "-c", code], capture_output=True).returncode == 0
    except OSError:
        return False


def check_machine(machine: install.Machine, wheels: Path | None, *, cuda: bool) -> None:
    """Raise SetupError for what is missing, before anything is changed."""
    if distributions := sourced_distributions():
        raise SetupError(
            f"ROS 2 is sourced twice ({', '.join(distributions)}): open a new terminal and source one of them"
        )
    if "ROS_DISTRO" in os.environ and os.environ.get("AMENT_PREFIX_PATH") and not environment.sourced_ros():
        raise SetupError(
            f"ROS 2 {os.environ['ROS_DISTRO']} is for another Python than {sys.executable} "
            f"({machine.python[0]}.{machine.python[1]}): run make robot PYTHON=/usr/bin/python3"
        )
    if wheels is not None:
        check_wheels(wheels)
    if any(character.isspace() for character in str(environment.PYTHON)):
        raise SetupError(
            f"the path {environment.PYTHON} has a space, which the first line of a program cannot have: move "
            "the workspace to a path without one"
        )
    if len(str(environment.PYTHON)) > MAX_SHEBANG:
        raise SetupError(
            f"the path {environment.PYTHON} is longer than {MAX_SHEBANG} characters, too long for the first "
            "line of a program: move the workspace to a shorter one"
        )
    if cuda and not machine.nvcc:
        raise SetupError(
            "CUDA's compiler nvcc is missing on this board: sudo apt install nvidia-jetpack (on a desktop "
            "nvidia-cuda-toolkit), or run make robot ARGS=--cpu"
        )
    compiles = llama_wheel(wheels) is None
    check_space(ENVIRONMENT_SPACE + (COMPILATION_SPACE if compiles else 0.0))
    if compiles:
        environment.check_tools()
    else:
        environment.check_venv()


def check_wheels(folder: Path) -> None:
    """Raise SetupError when a folder has no wheels, or a damaged one."""
    wheels = sorted(folder.glob("*.whl"))
    if not wheels:
        raise SetupError(
            f"the folder {folder} holds no wheels: docs/install.md has the commands that fill it"
        )
    for wheel in wheels:
        try:
            with zipfile.ZipFile(wheel) as file:
                damaged = file.testzip() is not None
        except PermissionError as error:
            raise SetupError(
                f"the wheel {wheel} may not be read by this user: run chmod a+r on it as its owner"
            ) from error
        except Exception:  # a damaged file surfaces as whatever its reader stumbles over
            damaged = True
        if damaged:
            raise SetupError(f"the wheel {wheel} is damaged or cut short: copy or download it again")


def check_space(needed: float) -> None:
    """Raise SetupError when the environment, temporary files or the cache have less than `needed` bytes."""
    cache = next(folder for folder in environment.CACHE.parents if folder.is_dir())
    for place, remedy in {
        ROOT: "free some",
        Path(tempfile.gettempdir()): "free some, or set TMPDIR to another folder",
        cache: "free some, or set XDG_CACHE_HOME to another folder",
    }.items():
        if (free := shutil.disk_usage(place).free) < needed:
            raise SetupError(
                f"{free / 1e9:.1f} GB are free at {place}, {needed / 1e9:.1f} GB are needed: {remedy}"
            )


def sourced_distributions() -> list[str]:
    """The names of the sourced ROS 2 installations when there is more than one."""
    prefixes = dict.fromkeys(os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep))
    found = [prefix for prefix in prefixes if prefix and Path(prefix, "share/ros_environment").is_dir()]
    return found if len(found) > 1 else []


def system_packages(python: Path) -> dict[str, str]:
    """The versions of the packages that the environment will see. SetupError when they do not work."""
    asked = subprocess.run([python, "-c", SYSTEM_PACKAGES], capture_output=True, text=True)
    if asked.returncode:
        raise SetupError(f"{python} lacks numpy or scipy: {APT}, or name another Python with PYTHON=...")
    found: dict[str, str] = json.loads(asked.stdout)
    if problem := found.pop("problem", None):
        if found["numpy"] >= "2" and "cv2" not in problem.partition("No module named")[2]:
            raise SetupError(
                f"numpy {found['numpy']} at {Path(found[PLACE]).parent} does not fit the system's scipy and "
                f"OpenCV ({problem}): {python} -m pip uninstall --break-system-packages numpy"
            )
        raise SetupError(f"scipy or OpenCV of {python} cannot be imported ({problem}): {APT}")
    found.pop(PLACE)
    return found


def make(wheels: Path | None, found: dict[str, str], *, ros: bool, versions: Path | None) -> None:
    """Make the environment anew, and install what the system, or the file `versions` in its place, lacks."""
    folder = environment.VENV
    say(f"making {folder}")
    environment.create_venv(system_packages=not versions)
    (folder / "COLCON_IGNORE").touch()
    pip: list[str | Path] = [environment.PYTHON, "-m", "pip", "install", "--prefer-binary"]
    offline: list[str | Path] = ["--no-index", "--find-links", wheels] if wheels else []
    if versions:
        run(f"installing the packages of {versions.name}", *pip, "--requirement", versions)
        found = system_packages(environment.PYTHON)
    constraints = folder / "constraints.txt"
    constraints.write_text("\n".join(constrained(found)) + "\n")
    llama = llama_wheel(wheels) or environment.llama_wheel()
    lacking = [*pip, *offline, "--constraint", constraints, *requirements(), llama]
    try:
        run("installing what the system lacks", *lacking)
    except SetupError as error:
        if wheels is None:
            raise
        raise SetupError(
            f"{error}\n{wheels} lacks wheels, or has those of another kind of computer: docs/install.md has "
            "the commands that fill it"
        ) from error
    if ros:
        tests = TESTS if versions else ()
        run("installing ROS 2", *pip, "--constraint", constraints, *tests, "--editable", f"{ROOT}[ros]")
        environment.use_ros()
    after = system_packages(environment.PYTHON)
    if changed := [name for name in KEPT if name in found and after.get(name) != found[name]]:
        raise SetupError(f"{folder} has another {', '.join(changed)} than the system: please report this")


def requirements() -> list[str]:
    """What setup.cfg requires. pip keeps what the system has in a sufficient version."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    lines = config["options"]["install_requires"].split()
    return [line for line in lines if not line.startswith(LLAMA)]


def constrained(found: Mapping[str, str]) -> list[str]:
    """The system's versions of `KEPT`, and limits for what is missing or too old.

    These are the pins of constraints.txt or less: what is compiled for numpy may be too new for the system's.
    """
    limits = [line.partition(",")[0].partition(">=") for line in requirements()]
    least = {re.sub("[-_.]+", "-", name): numbers(version) for name, _, version in limits}
    too_old = [name for name in least if name in found and numbers(found[name]) < least[name]]
    keep = {*found} - {*too_old}
    pins = [line.partition("==") for line in environment.CONSTRAINTS.read_text().splitlines()]
    own = [f"{name}<={pin}" for name, equal, pin in pins if equal and name not in keep]
    return [f"{name}=={found[name]}" for name in KEPT if name in found] + own


def numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)[:3]]


def llama_wheel(wheels: Path | None) -> Path | None:
    """The compiled llama-cpp-python in the given folder, or of an earlier compilation."""
    given = sorted(wheels.glob(f"llama_cpp_python-{pinned(LLAMA)}-*.whl")) if wheels else []
    return given[0] if given else environment.cached_wheel()


def fingerprint(found: Mapping[str, str], *, ros: bool) -> str:
    """A digest of what the environment is made of."""
    kept = json.dumps([ros, {name: found.get(name) for name in KEPT}])
    files = [path.read_bytes() for path in (Path(__file__), *VERSIONS.values())]
    return hashlib.sha256(b"\0".join([environment.fingerprint().encode(), kept.encode(), *files])).hexdigest()


if __name__ == "__main__":
    environment.guarded(main)
