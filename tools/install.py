# SPDX-License-Identifier: Apache-2.0
"""Installs the package into .venv, on a desktop or a Jetson, without docker. Standard library only.

    python3 tools/install.py desktop [--cpu] [--check]
    python3 tools/install.py jetson [--check]

Checks the machine first and prints a remedy for each missing requirement; nothing is changed until all are
met. Then tools/environment.py creates .venv, with llama.cpp compiled for the GPU, and `lfm-perception doctor`
checks the result. It can be repeated at any time and keeps what is installed. `--check` only checks.
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

from environment import compiler

ROOT = Path(__file__).resolve().parent.parent

GB = 1e9
DISK = 4 * GB
"""Disk space for .venv (0.9 GB with ROS 2 from wheels), llama.cpp compiled with CUDA, and a model; bytes."""

MEMORY = 3.5 * GB
"""Minimum memory of the machine, bytes; the 450M model uses 0.8 GB of it."""

JETPACKS = {36: 6, 38: 7, 39: 7}
"""JetPack by the release of Jetson Linux: https://developer.nvidia.com/embedded/jetpack-archive"""

CHIPS = {"nvidia,tegra234": ("Orin", "87"), "nvidia,tegra264": ("Thor", "110")}
"""Name and CUDA architecture by the chip in the device tree."""


@dataclass(frozen=True, slots=True)
class Machine:
    """Properties of a machine. `jetson_linux`: release of Jetson Linux, 0 on others; `nvcc` and `gpu`: paths
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
    """Result of one check; `remedy` is empty when the requirement is met."""

    name: str
    found: str
    remedy: str = ""


def inspect(root: Path = Path("/")) -> Machine:
    """Inspect this machine; `root` is the root of its files."""
    nvcc = next((str(path) for path in sorted(root.glob("usr/local/cuda*/bin/nvcc"))), "")
    nvcc = nvcc or (shutil.which("nvcc") or "" if root == Path("/") else "")
    release = re.search(r"^# R(\d+)", _text(root / "etc/nv_tegra_release"))
    compatible = _text(root / "proc/device-tree/compatible").split("\0")
    memory = re.search(r"^MemTotal:\s*(\d+) kB", _text(root / "proc/meminfo"), re.M)
    gpus = [*root.glob("dev/nvidia[0-9]*"), *root.glob("dev/nvhost-gpu"), *root.glob("dev/nvgpu")]
    return Machine(
        processor=platform.machine(),
        python=sys.version_info[:2],
        compiler=shutil.which(compiler()) or "",
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
    """Check everything an installation requires."""

    def checked(name: str, found: str, ok: object, remedy: str) -> Check:
        return Check(name, found, "" if ok else remedy)

    python, compiler = ".".join(map(str, machine.python)), machine.compiler
    supported = (3, 10) <= machine.python <= (3, 13)
    yield checked("Python", python, supported, "install Python 3.10 to 3.13 and use it")
    yield checked("C++ compiler", compiler or "none", compiler, "sudo apt install g++")
    if target == "jetson" and not machine.jetson:
        yield Check("JetPack", "this is not a Jetson", "use make desktop here")
    elif target == "jetson":
        jetpack = JETPACKS.get(machine.jetson_linux)
        found = f"JetPack {jetpack}" if jetpack else f"Jetson Linux {machine.jetson_linux}"
        remedy = "JetPack 6 or 7 is required: flash the Jetson with it (NVIDIA SDK Manager)"
        yield checked("JetPack", found, jetpack, remedy)
        chip = CHIPS[machine.chip][0] if machine.chip else "unknown"
        remedy = "an Orin or a Thor is required: for others, use docker or make desktop"
        yield checked("chip", chip, machine.chip, remedy)
    if cuda:
        package = "nvidia-jetpack" if target == "jetson" else "nvidia-cuda-toolkit"
        nvcc = f"{machine.cuda or 'unknown version'} ({machine.nvcc})" if machine.nvcc else "no nvcc"
        yield checked("CUDA", nvcc, machine.nvcc, f"sudo apt install {package}, or use --cpu")
        remedy = "install NVIDIA's driver and restart, or use --cpu"
        yield checked("GPU", machine.gpu or "no device", machine.gpu, remedy)
    if machine.ros or machine.processor == "x86_64":
        ros = f"{machine.ros}, sourced" if machine.ros else "none is sourced, its Python wheels are used"
        yield Check("ROS 2", ros)
    else:
        remedy = "source it: . /opt/ros/humble/setup.sh (Jazzy on Ubuntu 24.04)"
        yield Check("ROS 2", "none is sourced", remedy)
    remedy = f"{MEMORY / GB:.1f} GB are required: add swap, or use another machine"
    yield checked("memory", f"{machine.memory / GB:.1f} GB", machine.memory >= MEMORY, remedy)
    disk = f"{machine.free_disk / GB:.1f} GB free at {ROOT}"
    remedy = f"{DISK / GB:.1f} GB are required: free space there"
    yield checked("disk", disk, machine.free_disk >= DISK, remedy)


def build_options(machine: Machine, *, cuda: bool) -> dict[str, str]:
    """Environment variables for the compilation of llama.cpp."""
    if not cuda:
        return {}
    # on some Orins llama.cpp's default memory pool aborts the process at the first image
    pool = "-DGGML_CUDA_NO_VMM=on " if machine.jetson else ""
    return {
        "CMAKE_ARGS": f"-DGGML_CUDA=on {pool}-DCMAKE_CUDA_ARCHITECTURES={machine.cuda_architecture}",
        "CUDACXX": machine.nvcc,
    }


def main() -> int:
    summary = (__doc__ or "").partition("\n\n")[0]
    parser = argparse.ArgumentParser(description=summary)
    parser.add_argument("target", choices=("desktop", "jetson"))
    parser.add_argument("--cpu", action="store_true", help="compile llama.cpp without CUDA")
    parser.add_argument("--check", action="store_true", help="check the machine and change nothing")
    chosen = parser.parse_args()
    machine = inspect()
    cuda = not chosen.cpu and (chosen.target == "jetson" or bool(machine.gpu))

    print(f"-- checking this machine: {chosen.target}, {'with CUDA' if cuda else 'CPU only'}")
    missing = 0
    for each in check(machine, chosen.target, cuda=cuda):
        print(f"   {'!!' if each.remedy else 'ok'} {each.name}: {each.found}")
        if each.remedy:
            missing += 1
            print(f"      {each.remedy}")
    if missing:
        print(f"error: {missing} requirements are missing; nothing was changed", file=sys.stderr)
        return 1
    if chosen.check:
        return 0

    print("-- creating .venv: Python packages pinned in constraints.txt, llama.cpp compiled here")
    environment = {**os.environ, **build_options(machine, cuda=cuda)}
    made = subprocess.run([sys.executable, ROOT / "tools" / "environment.py"], env=environment)
    if made.returncode:
        return made.returncode
    print("-- checking the installation: lfm-perception doctor")
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
