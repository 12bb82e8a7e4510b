"""Installs the package into .venv, on a desktop or a Jetson, without docker. Standard library only.

    python3 tools/install.py desktop [--cpu] [--check]
    python3 tools/install.py jetson [--check]

Looks at the machine first and says what is missing and how it comes; as long as something is, nothing is
changed. Then tools/environment.py makes .venv, with llama.cpp compiled for the GPU, and the command
`lfm-perception doctor` tries everything out. May be run again at any time: what is there is kept. `--check`
only looks.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

GB = 1e9
DISK = 4 * GB
"""Room for .venv (0.9 GB with ROS 2 from wheels), the compilation of llama.cpp with CUDA, and a model."""

MEMORY = 3.5 * GB
"""Memory of the machine; the 450M model takes 0.8 GB of it."""

JETPACKS = {36: 6, 38: 7, 39: 7}
"""JetPack by the release of Jetson Linux: https://developer.nvidia.com/embedded/jetpack-archive"""

CHIPS = {"nvidia,tegra234": ("Orin", "87"), "nvidia,tegra264": ("Thor", "110")}
"""Name and CUDA architecture by the chip in the device tree."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What was found. `jetson_linux` is the release of Jetson Linux, 0 elsewhere; `nvcc` and `gpu` are paths
    or empty; sizes in bytes.
    """

    processor: str
    python: tuple[int, int]
    compiler: str
    nvcc: str
    cuda: str
    gpu: str
    jetson_linux: int
    chip: str
    ros: str
    memory: int
    free_disk: int

    @property
    def jetson(self) -> bool:
        return self.jetson_linux > 0

    @property
    def cuda_architecture(self) -> str:
        return CHIPS[self.chip][1] if self.chip in CHIPS else "native"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at. `remedy`: what to do; empty when all is well."""

    name: str
    found: str
    remedy: str = ""


def look(root: Path = Path("/")) -> Machine:
    """This machine; `root` is where its files are."""
    nvcc = next((str(path) for path in sorted(root.glob("usr/local/cuda*/bin/nvcc"))), "")
    nvcc = nvcc or (shutil.which("nvcc") or "" if root == Path("/") else "")
    release = re.search(r"^# R(\d+)", _text(root / "etc/nv_tegra_release"))
    compatible = _text(root / "proc/device-tree/compatible").split("\0")
    memory = re.search(r"^MemTotal:\s*(\d+) kB", _text(root / "proc/meminfo"), re.M)
    gpus = [*root.glob("dev/nvidia[0-9]*"), *root.glob("dev/nvhost-gpu"), *root.glob("dev/nvgpu")]
    return Machine(
        processor=platform.machine(),
        python=sys.version_info[:2],
        compiler=shutil.which(os.environ.get("CXX", "c++").split()[0]) or "",
        nvcc=nvcc,
        cuda=_cuda_version(Path(nvcc)) if nvcc else "",
        gpu=str(gpus[0]) if gpus else "",
        jetson_linux=int(release[1]) if release else 0,
        chip=next((name for name in compatible if name in CHIPS), ""),
        ros=os.environ.get("ROS_DISTRO", ""),
        memory=1024 * int(memory[1]) if memory else 0,
        free_disk=shutil.disk_usage(ROOT).free,
    )


def check(machine: Machine, target: str, *, cuda: bool) -> Iterator[Check]:
    """Everything an installation needs, with what is missing."""
    python = ".".join(map(str, machine.python))
    yield Check(
        "Python",
        python,
        "" if (3, 10) <= machine.python <= (3, 13) else "install Python 3.10 to 3.13 and use that",
    )
    yield Check(
        "C++ compiler",
        machine.compiler or "none",
        "" if machine.compiler else "sudo apt install g++",
    )
    if target == "jetson":
        yield from _check_jetson(machine)
    if cuda:
        yield from _check_cuda(machine, target)
    if machine.ros:
        yield Check("ROS 2", f"{machine.ros}, sourced")
    elif machine.processor == "x86_64":
        yield Check("ROS 2", "none is sourced, its Python wheels are taken")
    else:
        yield Check(
            "ROS 2", "none is sourced", "source it: . /opt/ros/humble/setup.sh (Jazzy on Ubuntu 24.04)"
        )
    yield Check(
        "memory",
        f"{machine.memory / GB:.1f} GB",
        ""
        if machine.memory >= MEMORY
        else f"{MEMORY / GB:.1f} GB are needed: add swap, or take another machine",
    )
    yield Check(
        "disk",
        f"{machine.free_disk / GB:.1f} GB free at {ROOT}",
        "" if machine.free_disk >= DISK else f"{DISK / GB:.1f} GB are needed: make room there",
    )


def _check_jetson(machine: Machine) -> Iterator[Check]:
    if not machine.jetson:
        yield Check("JetPack", "this is not a Jetson", "use make desktop here")
        return
    jetpack = JETPACKS.get(machine.jetson_linux)
    yield Check(
        "JetPack",
        f"JetPack {jetpack}" if jetpack else f"Jetson Linux {machine.jetson_linux}",
        "" if jetpack else "JetPack 6 or 7 is needed: flash the Jetson with it (NVIDIA SDK Manager)",
    )
    yield Check(
        "chip",
        CHIPS[machine.chip][0] if machine.chip else "unknown",
        "" if machine.chip else "an Orin or a Thor is needed: for another, docker or make desktop",
    )


def _check_cuda(machine: Machine, target: str) -> Iterator[Check]:
    package = "nvidia-jetpack" if target == "jetson" else "nvidia-cuda-toolkit"
    yield Check(
        "CUDA",
        f"{machine.cuda or 'of unknown version'} ({machine.nvcc})" if machine.nvcc else "no nvcc",
        "" if machine.nvcc else f"sudo apt install {package}, or use --cpu",
    )
    yield Check(
        "GPU",
        machine.gpu or "no device",
        "" if machine.gpu else "install NVIDIA's driver and start again, or use --cpu",
    )


def build_options(machine: Machine, *, cuda: bool) -> dict[str, str]:
    """The variables with which llama.cpp is compiled."""
    if not cuda:
        return {}
    return {
        "CMAKE_ARGS": f"-DGGML_CUDA=on -DCMAKE_CUDA_ARCHITECTURES={machine.cuda_architecture}",
        "CUDACXX": machine.nvcc,
    }


def main() -> int:
    summary = (__doc__ or "").partition("\n\n")[0]
    parser = argparse.ArgumentParser(description=summary)
    parser.add_argument("target", choices=("desktop", "jetson"))
    parser.add_argument(
        "--cpu", action="store_true", help="compile llama.cpp without CUDA, whatever is there"
    )
    parser.add_argument("--check", action="store_true", help="look at the machine and change nothing")
    chosen = parser.parse_args()
    machine = look()
    cuda = not chosen.cpu and (chosen.target == "jetson" or bool(machine.gpu))

    how = "with CUDA" if cuda else "on the CPU alone"
    print(f"-- looking at this machine, to install for a {chosen.target} {how}")
    missing = 0
    for each in check(machine, chosen.target, cuda=cuda):
        print(f"   {'!!' if each.remedy else 'ok'} {each.name}: {each.found}")
        if each.remedy:
            missing += 1
            print(f"      {each.remedy}")
    if missing:
        print(f"error: {missing} of these must be put right first; nothing was changed", file=sys.stderr)
        return 1
    if chosen.check:
        return 0

    print("-- making .venv: Python packages as pinned in constraints.txt, llama.cpp compiled here")
    environment = {**os.environ, **build_options(machine, cuda=cuda)}
    made = subprocess.run([sys.executable, ROOT / "tools" / "environment.py"], env=environment)
    if made.returncode:
        return made.returncode
    print("-- trying everything out: lfm-perception doctor")
    doctor = [str(ROOT / ".venv" / "bin" / "lfm-perception"), "doctor"]
    return subprocess.run([*doctor, *(["--set", "engine.n_gpu_layers=-1"] if cuda else [])]).returncode


def _cuda_version(nvcc: Path) -> str:
    version = re.search(
        r'"cuda"\s*:\s*\{[^}]*"version"\s*:\s*"([\d.]+)"', _text(nvcc.parents[1] / "version.json")
    )
    return version[1] if version else ""


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


if __name__ == "__main__":
    sys.exit(main())
