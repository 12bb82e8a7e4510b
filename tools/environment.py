"""Makes .venv hold what setup.cfg and constraints.txt say, and says what it is doing. Standard library only.

    python3 tools/environment.py

ROS 2 comes from the installation that is sourced, else from Python wheels, for which vision_msgs is built
here. Returns at once when nothing has changed. llama.cpp is compiled once for each processor and set of build
options (CMAKE_ARGS and friends); the wheel stays in ${XDG_CACHE_HOME:-~/.cache}/lfm_perception/wheels, so
that another clone or a new .venv does not compile it again.
"""

from __future__ import annotations

import fcntl
import hashlib
import html
import importlib.util
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.parse
import urllib.request
import venv
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


class SetupError(Exception):
    """Why the environment cannot be made, and the way out, in a sentence."""


def main() -> None:
    recall_build_options()
    stamp = VENV / "complete"
    wanted = fingerprint()
    if stamp.is_file() and stamp.read_text() == wanted:
        return
    started = time.monotonic()
    check_compiler()
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        wait_for(lock)
        make_venv()
        wheel = llama_wheel()
        ros = "ros" if ros_wheels() else ""
        run(
            "installing the pinned packages",
            *(PYTHON, "-m", "pip", "install", "--constraint", CONSTRAINTS, "--build-constraint", CONSTRAINTS),
            *("--editable", f"{ROOT}[test,docs,eval,models,{ros}]", wheel),
        )
        # asks for an OpenCV with windows, which a bare machine cannot load and which it never uses
        trackeval = f"trackeval=={pinned('trackeval')}"
        run("installing trackeval", PYTHON, "-m", "pip", "install", "--no-deps", trackeval)
        use_ros()
        OPTIONS.write_text(json.dumps(given_build_options()))
        stamp.write_text(wanted)
    say(f"environment ready after {duration(time.monotonic() - started)}")


def recall_build_options() -> None:
    """Build as the last time where nothing is said now: `make test` keeps what `make jetson` has made."""
    if not given_build_options() and OPTIONS.is_file():
        os.environ.update(json.loads(OPTIONS.read_text()))


def given_build_options() -> dict[str, str]:
    return {name: os.environ[name] for name in BUILD_OPTIONS if name in os.environ}


def wait_for(lock: IO[str]) -> None:
    """Two clones set up at once compile once: the second waits for the first."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say("another set-up is running: waiting for it to end")
        fcntl.flock(lock, fcntl.LOCK_EX)


def fingerprint() -> str:
    """Changes when the environment must be made anew: its contents, its Python or its place differ."""
    interpreter = f"{sys.version} of {sys.base_prefix} in {VENV}"
    parts = [path.read_bytes() for path in DESCRIBED_IN]
    parts += [interpreter.encode(), wheel_folder().name.encode(), str(sourced_ros()).encode()]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def sourced_ros() -> list[Path]:
    """Where the sourced ROS 2 installation keeps Python modules for this Python; none: none is sourced."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    prefixes = os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)
    places = (f"lib/{version}/site-packages", f"local/lib/{version}/dist-packages")
    folders = [Path(prefix, place) for prefix in prefixes if prefix for place in places]
    return [folder for folder in folders if folder.is_dir()] if "ROS_DISTRO" in os.environ else []


def ros_wheels() -> bool:
    """Whether ROS 2 comes from Python wheels, which there are for x86_64 only."""
    return not sourced_ros() and (sys.platform, platform.machine()) == ("linux", "x86_64")


def use_ros() -> None:
    """Make ROS's own modules visible in .venv, or build what the wheels lack."""
    modules = VENV / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    if folders := sourced_ros():
        say(f"using ROS 2 {os.environ['ROS_DISTRO']} as it is sourced")
        # after .venv's own packages, so that the pinned ones win
        (modules / "sourced_ros.pth").write_text("".join(f"{folder}\n" for folder in folders))
    elif ros_wheels():
        for package in sorted((ROOT / "interfaces").iterdir()):
            run(f"building {package.name}", PYTHON, ROOT / "tools" / "build_interfaces.py", package)
    else:
        say("no ROS 2 is sourced, and its Python wheels are for Linux on x86_64: the ROS parts are left out")


def make_venv() -> None:
    say(f"making .venv with Python {platform.python_version()}")
    has_ensurepip = importlib.util.find_spec("ensurepip") is not None
    venv.create(VENV, clear=True, symlinks=True, with_pip=has_ensurepip)
    version = pinned("pip")
    if has_ensurepip:
        run(f"installing pip {version}", PYTHON, "-m", "pip", "install", f"pip=={version}")
    else:  # Debian and Ubuntu leave it out of python3; a pip wheel can install itself
        wheel = pip_wheel(version)
        run(f"installing pip {version}", PYTHON, wheel / "pip", "install", "--no-index", wheel)
        wheel.unlink()


def pip_wheel(version: str) -> Path:
    """Downloads pip itself from the package index and checks its SHA-256."""
    index = os.environ.get("PIP_INDEX_URL", "https://pypi.org/simple").rstrip("/") + "/pip/"
    name = f"pip-{version}-py3-none-any.whl"
    say(f"this Python comes without pip: fetching pip {version} from {urllib.parse.urlsplit(index).hostname}")
    try:
        with urllib.request.urlopen(index, timeout=60) as response:
            page = response.read().decode()
        link = re.search(rf'href="([^"#]*{re.escape(name)})#sha256=([0-9a-f]{{64}})"', page)
        if link is None:
            raise SetupError(f"the package index has no {name}: install python3-venv and run make again")
        with urllib.request.urlopen(
            urllib.parse.urljoin(index, html.unescape(link[1])), timeout=60
        ) as response:
            content = response.read()
    except OSError as error:
        raise SetupError(
            f"cannot fetch pip ({error}): check the network, or install python3-venv and ca-certificates"
        ) from error
    if hashlib.sha256(content).hexdigest() != link[2]:
        raise SetupError(f"{name} from the package index is damaged: run make again")
    wheel = VENV / name
    wheel.write_bytes(content)
    return wheel


def check_compiler() -> None:
    compiler = os.environ.get("CXX", "c++").split()[0]
    if cached_wheel() is None and shutil.which(compiler) is None:
        raise SetupError(
            f"llama.cpp needs a C++ compiler and there is no {compiler}: "
            "install one (Debian, Ubuntu: sudo apt install g++) and run make again"
        )


def llama_wheel() -> Path:
    """The compiled llama-cpp-python: from the cache, or compiled now."""
    if cached_wheel() is None:
        folder = wheel_folder()
        fresh = folder.with_name(f"{folder.name}.part")
        shutil.rmtree(fresh, ignore_errors=True)
        run(
            "compiling llama.cpp, once on this machine and for some minutes",
            *(PYTHON, "-m", "pip", "wheel", "--verbose", "--no-deps", "--wheel-dir", fresh),
            *("--build-constraint", CONSTRAINTS, f"llama-cpp-python=={pinned('llama-cpp-python')}"),
            # pip's own cache does not know the build options
            *(["--no-cache-dir"] if given_build_options() else []),
        )
        shutil.rmtree(folder, ignore_errors=True)
        fresh.rename(folder)
    return next(wheel_folder().glob("*.whl"))


def cached_wheel() -> Path | None:
    return next(wheel_folder().glob("*.whl"), None)


def wheel_folder() -> Path:
    """Named after what a compiled wheel depends on: version, processor, C library and build options."""
    cpuinfo = Path("/proc/cpuinfo")
    features = re.search(r"^(flags|Features)\s*:.*$", cpuinfo.read_text() if cpuinfo.exists() else "", re.M)
    machine = [features[0] if features else platform.processor(), *platform.libc_ver()]
    options = [f"{name}={os.environ.get(name, '')}" for name in BUILD_OPTIONS]
    digest = hashlib.sha256("\n".join([*machine, *options]).encode()).hexdigest()
    name = f"llama-cpp-python-{pinned('llama-cpp-python')}-{platform.machine()}-{digest[:12]}"
    return CACHE / "wheels" / name


def pinned(package: str) -> str:
    """The version that constraints.txt gives a package."""
    line = re.search(rf"^{package}==(\S+)", CONSTRAINTS.read_text(), re.M)
    if line is None:
        raise SetupError(f"constraints.txt does not pin {package}")
    return line[1]


def run(what: str, *command: str | Path) -> None:
    """Runs a command into the log and shows that it is alive: time passed, and a compiler's progress."""
    say(what)
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
                    say(f"{what}: {progress(begin)}{duration(shown - started)}", passing=True)
        finally:
            if process.poll() is None:  # stopped by the user: the compilers under it end too
                os.killpg(process.pid, signal.SIGTERM)
                process.wait()
    if process.returncode != 0:
        tail = LOG.read_bytes()[begin:].decode(errors="replace").splitlines()[-25:]
        raise SetupError("\n".join([f"{what} failed, see {LOG.relative_to(ROOT)}; its last lines:", *tail]))


def progress(begin: int) -> str:
    """The last `[37/214]` or `[ 17%]` that a build wrote into the log, or nothing."""
    with LOG.open("rb") as log:
        log.seek(max(begin, LOG.stat().st_size - 500_000))
        steps = re.findall(rb"\[\s*(\d+/\d+|\d+%)\]", log.read())
    return f"{steps[-1].decode().replace('/', ' of ')}, " if steps else ""


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def say(text: str, passing: bool = False) -> None:
    """Prints a line; on a terminal the next line takes the place of a passing one."""
    if sys.stdout.isatty():
        print(f"\r\033[K-- {text}", end="" if passing else "\n", flush=True)
    else:
        print(f"-- {text}", flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        main()
    except SetupError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        sys.exit(f"error: {error.strerror}: {error.filename}")
    except KeyboardInterrupt:
        sys.exit("\nstopped")
