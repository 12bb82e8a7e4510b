# SPDX-License-Identifier: Apache-2.0
"""Provenance of results: checksums of files and versions of packages."""

from __future__ import annotations

import hashlib
import os
import platform
from pathlib import Path

from lfm_perception import __version__
from lfm_perception.files import open_file

REPORTED_PACKAGES = ("llama-cpp-python", "numpy", "opencv-python-headless", "av", "filterpy", "rosbags")
"""Packages whose versions a report states."""

_BLOCK = 1 << 20
"""Bytes read at once."""


def sha256(path: Path) -> str:
    """SHA-256 of a file in hexadecimal, read in blocks. Raises OSError when the file cannot be read."""
    digest = hashlib.sha256()
    with open_file(path) as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def file_facts(path: Path) -> dict[str, str | int]:
    """Name, size and checksum of a file, for reports: `{"file": .., "bytes": .., "sha256": ..}`."""
    return {"file": path.name, "bytes": path.stat().st_size, "sha256": sha256(path)}


def installed_version(package: str) -> str:
    """The version of an installed package; empty when it is not installed."""
    from importlib.metadata import PackageNotFoundError, version  # not needed by a node's start

    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def versions() -> dict[str, str]:
    """Versions of this package, of Python and of the installed `REPORTED_PACKAGES`."""
    found = {package: installed_version(package) for package in REPORTED_PACKAGES}
    return {
        "lfm_perception": __version__,
        "python": platform.python_version(),
        **{package: number for package, number in found.items() if number},
    }


def machine() -> dict[str, str | int | float]:
    """Board (where it has a name), processor, usable cores, memory and operating system of this computer."""
    board = _text("/proc/device-tree/model").strip("\0\n")
    cpu = dict(line.split(":", 1) for line in _text("/proc/cpuinfo").splitlines() if ":" in line)
    names = {key.strip(): value.strip() for key, value in cpu.items()}
    return {
        **({"board": board} if board else {}),
        "processor": names.get("model name") or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory (GB)": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": platform.platform(),
    }


def _text(path: str) -> str:
    """A file of the system; empty where there is none."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
