# SPDX-License-Identifier: Apache-2.0
"""What an NVIDIA Jetson's own files tell of it.

/proc/device-tree/model                            name of the board
/etc/nv_tegra_release                              release of Jetson Linux
/etc/nvpmodel.conf, /var/lib/nvpmodel/status       power modes, and the number of the present one
/usr/local/cuda*/bin/nvcc                          CUDA's compiler
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Jetson:
    """A Jetson.

    Attributes:
        model: The board's name.
        release: The release of Jetson Linux, as 36.4.7.
        power_mode: The number of the present power mode; -1 if unknown.
        power_modes: The names of the power modes by number.
    """

    model: str
    release: str
    power_mode: int
    power_modes: dict[int, str]


def read_jetson(root: Path = Path("/")) -> Jetson | None:
    """The Jetson whose files are below `root`; None on another computer."""
    release = re.search(r"# R(\d+) .*REVISION: ([\d.]+)", _text(root / "etc/nv_tegra_release"))
    if release is None:
        return None
    modes = re.findall(r"POWER_MODEL ID=(\d+) NAME=(\S+)", _text(root / "etc/nvpmodel.conf"))
    mode = re.search(r"pmode:(\d+)", _text(root / "var/lib/nvpmodel/status"))
    return Jetson(
        _text(root / "proc/device-tree/model").rstrip("\0\n"),
        f"{release[1]}.{release[2]}",
        int(mode[1]) if mode else -1,
        {int(number): name for number, name in modes},
    )


def cuda_folder(root: Path = Path("/")) -> Path | None:
    """The installed CUDA, whether it is on PATH or not."""
    return next((path.parents[1] for path in sorted(root.glob("usr/local/cuda*/bin/nvcc"))), None)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
