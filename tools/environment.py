# SPDX-License-Identifier: Apache-2.0
"""Creates .venv from setup.cfg and constraints.txt, with progress output. Standard library only.

    python3 tools/environment.py

ROS 2 comes from the sourced installation, otherwise from Python wheels, for which vision_msgs is built here.
Returns at once when nothing has changed. llama.cpp is compiled once per processor and set of build options
(`BUILD_OPTIONS`); the wheel stays in ${XDG_CACHE_HOME:-~/.cache}/lfm_perception/wheels, so that another clone
or a new .venv does not compile it again.

pip installs; uv only resolves the lock (`make constraints`). uv does not read pip's configuration: indexes,
find-links, certificates, proxies and constraints set there would have to be translated option by option, and
uv itself comes by pip. That is more code than there is here.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
CONSTRAINTS = ROOT / "constraints.txt"
DESCRIBED_IN = (
    CONSTRAINTS,
    ROOT / "setup.cfg",
    ROOT / "setup.py",
    ROOT / "pyproject.toml",
    ROOT / "tools" / "build_interfaces.py",
    *sorted((ROOT / "interfaces").glob("*/msg/*.msg")),
    Path(__file__).resolve(),
)
BUILD_OPTIONS = ("CMAKE_ARGS", "CMAKE_GENERATOR", "CC", "CXX", "CUDACXX", "CFLAGS", "CXXFLAGS", "LDFLAGS")
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lfm_perception"
LOG = VENV / "setup.log"
OPTIONS = VENV / "build_options.json"
STATUS_PERIOD_S = 1.0 if sys.stdout.isatty() else 15.0


def use(folder: Path) -> None:
    """Make another folder the environment."""
    global VENV, PYTHON, LOG, OPTIONS
    VENV, PYTHON = folder, folder / "bin" / "python"
    LOG, OPTIONS = folder / "setup.log", folder / "build_options.json"


class SetupError(Exception):
    """The environment cannot be created; the message is a sentence with the remedy."""


def main() -> None:
    restore_build_options()
    stamp = VENV / "complete"
    wanted = fingerprint()
    if stamp.is_file() and stamp.read_bytes() == wanted.encode():
        return
    started = time.monotonic()
    check_tools()
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        wait_for(lock)
        make_venv()
        wheel = llama_wheel()
        ros = "ros" if ros_wheels() else ""
        run(
            "installing the pinned packages",
            *(PYTHON, "-m", "pip", "install", "--constraint", CONSTRAINTS, "--build-constraint", CONSTRAINTS),
            *("--editable", f"{ROOT}[opencv,test,docs,eval,models,{ros}]", wheel),
        )
        # It requires an OpenCV with windows, which it never uses and a machine without a display cannot load.
        trackeval = f"trackeval=={pinned('trackeval')}"
        run("installing trackeval", PYTHON, "-m", "pip", "install", "--no-deps", trackeval)
        use_ros()
        OPTIONS.write_text(json.dumps(current_build_options()))
        stamp.write_text(wanted)
    say(f"environment ready after {duration(time.monotonic() - started)}")


def restore_build_options() -> None:
    """Use the build options of the last run unless some are set: `make test` keeps what `make jetson` set."""
    if not current_build_options() and OPTIONS.is_file():
        os.environ.update(json.loads(OPTIONS.read_text()))


def current_build_options() -> dict[str, str]:
    return {name: os.environ[name] for name in BUILD_OPTIONS if name in os.environ}


def wait_for(lock: IO[str]) -> None:
    """Take the lock, so that of two clones set up at once only the first compiles."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say("waiting for another set-up to end")
        fcntl.flock(lock, fcntl.LOCK_EX)


def fingerprint() -> str:
    """A digest of the environment's contents, Python, build options and location."""
    interpreter = f"{sys.version} of {sys.base_prefix} in {VENV}"
    parts = [path.read_bytes() for path in DESCRIBED_IN]
    parts += [interpreter.encode(), wheel_folder().name.encode(), str(sourced_ros()).encode()]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def sourced_ros() -> list[Path]:
    """The sourced ROS 2 installation's folders of modules for this Python; empty when none is sourced."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    prefixes = os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)
    places = (f"lib/{version}/site-packages", f"local/lib/{version}/dist-packages")
    folders = [Path(prefix, place) for prefix in prefixes if prefix for place in places]
    return [folder for folder in folders if folder.is_dir()] if "ROS_DISTRO" in os.environ else []


def ros_wheels() -> bool:
    """Whether ROS 2 comes from Python wheels, which exist for Linux on x86_64 only."""
    return not sourced_ros() and (sys.platform, platform.machine()) == ("linux", "x86_64")


def use_ros() -> None:
    """Make ROS's modules visible in .venv, or build the message packages that the wheels lack."""
    modules = VENV / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    if folders := sourced_ros():
        say(f"using ROS 2 {os.environ['ROS_DISTRO']} as it is sourced")
        # after .venv's own packages, so that the pinned ones take precedence
        (modules / "sourced_ros.pth").write_text("".join(f"{folder}\n" for folder in folders))
    elif ros_wheels():
        for package in sorted((ROOT / "interfaces").iterdir()):
            run(f"building {package.name}", PYTHON, ROOT / "tools" / "build_interfaces.py", package)
    else:
        say("no ROS 2 is sourced, and its Python wheels are for Linux on x86_64: the ROS parts are left out")


def compiler() -> str:
    """The C++ compiler's program, of CXX where that names one."""
    return next(iter(os.environ.get("CXX", "").split()), "c++")


def create_venv(*, system_packages: bool = False) -> None:
    """Make VENV anew. Raises SetupError, also where it is a link: files behind it would be lost."""
    if VENV.is_symlink():
        raise SetupError(f"{VENV} is a link: remove it and run make again")
    check_venv()
    import venv  # here, because Debian's Python may lack it

    try:
        venv.create(VENV, clear=True, symlinks=True, with_pip=True, system_site_packages=system_packages)
    except (subprocess.CalledProcessError, ValueError) as error:
        raise SetupError(
            f"Python's venv cannot make {VENV} ({error}): install it anew "
            "(Debian, Ubuntu: sudo apt install --reinstall python3-venv) and run make again"
        ) from error


def make_venv() -> None:
    say(f"making .venv with Python {platform.python_version()}")
    create_venv()
    version = pinned("pip")
    run(f"installing pip {version}", PYTHON, "-m", "pip", "install", f"pip=={version}")


def check_tools() -> None:
    """Raise SetupError when the C++ compiler or Python's venv is missing, before anything is changed."""
    if cached_wheel() is None and shutil.which(compiler()) is None:
        raise SetupError(
            f"llama.cpp needs a C++ compiler and there is no {compiler()}: "
            "install one (Debian, Ubuntu: sudo apt install g++) and run make again"
        )
    check_venv()


def check_venv() -> None:
    """Raise SetupError when Python cannot create virtual environments."""
    if (
        find_spec("ensurepip") is None or find_spec("venv") is None
    ):  # Debian and Ubuntu leave it out of python3
        raise SetupError(
            "this Python cannot create virtual environments: install venv "
            "(Debian, Ubuntu: sudo apt install python3-venv) and run make again"
        )


def llama_wheel() -> Path:
    """The compiled llama-cpp-python, from the cache or compiled now."""
    if cached_wheel() is None:
        folder = wheel_folder()
        fresh = folder.with_name(f"{folder.name}.part")
        shutil.rmtree(fresh, ignore_errors=True)
        run(
            "compiling llama.cpp, once on this machine, some minutes",
            *(PYTHON, "-m", "pip", "wheel", "--verbose", "--no-deps", "--wheel-dir", fresh),
            *("--build-constraint", CONSTRAINTS, f"llama-cpp-python=={pinned('llama-cpp-python')}"),
            # pip's own cache does not distinguish build options
            *(["--no-cache-dir"] if current_build_options() else []),
        )
        shutil.rmtree(folder, ignore_errors=True)
        fresh.rename(folder)
    return next(wheel_folder().glob("*.whl"))


def cached_wheel() -> Path | None:
    return next(wheel_folder().glob("*.whl"), None)


def wheel_folder() -> Path:
    """The cache folder for this version, processor, C library and set of build options."""
    cpuinfo = Path("/proc/cpuinfo")
    features = re.search(r"^(flags|Features)\s*:.*$", cpuinfo.read_text() if cpuinfo.exists() else "", re.M)
    machine = [features[0] if features else platform.processor(), *platform.libc_ver()]
    options = [f"{name}={os.environ.get(name, '')}" for name in BUILD_OPTIONS]
    digest = hashlib.sha256("\n".join([*machine, *options]).encode()).hexdigest()
    name = f"llama-cpp-python-{pinned('llama-cpp-python')}-{platform.machine()}-{digest[:12]}"
    return CACHE / "wheels" / name


def pinned(package: str) -> str:
    """The version of a package in constraints.txt."""
    line = re.search(rf"^{package}==(\S+)", CONSTRAINTS.read_text(), re.M)
    if line is None:
        raise SetupError(f"constraints.txt does not pin {package}")
    return line[1]


def run(step: str, *command: str | Path) -> None:
    """Run a command with its output in the log, and print the elapsed time and the compiler's progress."""
    say(step)
    started = shown = time.monotonic()
    with LOG.open("ab") as log:
        begin = log.tell()
        process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"},
            start_new_session=True,
        )
        try:
            while process.poll() is None:
                time.sleep(0.2)
                if time.monotonic() - shown >= STATUS_PERIOD_S:
                    shown = time.monotonic()
                    say(f"{step}: {progress(begin)}{duration(shown - started)}", passing=True)
        finally:
            if process.poll() is None:  # stopped by the user: the compilers under it end too
                os.killpg(process.pid, signal.SIGTERM)
                process.wait()
    if process.returncode != 0:
        tail = LOG.read_bytes()[begin:].decode(errors="replace").splitlines()[-25:]
        raise SetupError("\n".join([f"{step} failed, see {LOG.relative_to(ROOT)}; its last lines:", *tail]))


def progress(begin: int) -> str:
    """The last `[37/214]` or `[ 17%]` in the log of a build; empty when there is none."""
    with LOG.open("rb") as log:
        log.seek(max(begin, LOG.stat().st_size - 500_000))
        steps = re.findall(rb"\[\s*(\d+/\d+|\d+%)\]", log.read())
    return f"{steps[-1].decode().replace('/', ' of ')}, " if steps else ""


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def say(text: str, passing: bool = False) -> None:
    """Print a line; on a terminal the next line replaces a `passing` one."""
    if sys.stdout.isatty():
        print(f"\r\033[K-- {text}", end="" if passing else "\n", flush=True)
    else:
        print(f"-- {text}", flush=True)


def problem(error: OSError) -> str:
    """What the system refused, in a sentence with the remedy where there is one."""
    text = ": ".join(str(part) for part in (error.filename, (error.strerror or str(error)).lower()) if part)
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        in_cache = Path(str(error.filename)).is_relative_to(CACHE.parent)
        way_out = "set XDG_CACHE_HOME to one" if in_cache else f"clone the repository to one, not {ROOT}"
        return f"{text}: a folder in which you may write is needed, {way_out}"
    return f"{text}: free space there" if error.errno == errno.ENOSPC else text


def guarded(program: Callable[[], None]) -> None:
    """Run a program that ends with a sentence when it cannot go on."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        program()
    except SetupError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        sys.exit(f"error: {problem(error)}")
    except KeyboardInterrupt:
        sys.exit("\nstopped")


if __name__ == "__main__":
    guarded(main)
