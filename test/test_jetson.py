# SPDX-License-Identifier: Apache-2.0
"""What the doctor says of Jetsons, which are made of the files that it reads: there is none here."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest

from lfm_perception.doctor import check_board, check_engine
from lfm_perception.engine.probe import Probe
from lfm_perception.jetson import cuda_folder, read_jetson
from lfm_perception.settings import Settings

ON_GPU = Settings().with_values({"engine.n_gpu_layers": -1})


def jetson(root: Path, revision: str = "4.3", mode: int = 0) -> Path:
    """An Orin Nano Super: its files have these forms."""
    for name, text in {
        "etc/nv_tegra_release": f"# R36 (release), REVISION: {revision}, GCID: 1, BOARD: generic\n",
        "etc/nvpmodel.conf": "< PARAM TYPE=FILE NAME=CPU_ONLINE >\n< POWER_MODEL ID=0 NAME=15W >\n"
        "< POWER_MODEL ID=1 NAME=25W >\n< POWER_MODEL ID=2 NAME=MAXN_SUPER >\n< PM_CONFIG DEFAULT=1 >\n",
        "var/lib/nvpmodel/status": f"pmode:{mode:04}\nfmode:quiet\n",
        "proc/device-tree/model": "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super\0",
    }.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


def test_board_release_and_power_mode_are_named_with_the_efficient_mode(tmp_path: Path) -> None:
    board, power = check_board(ON_GPU, jetson(tmp_path))
    assert board.found.endswith("Developer Kit Super with Jetson Linux 36.4.3")
    assert power.found == "mode 15W"
    assert power.remedy == "sudo nvpmodel -m 1: 25W gives the most tokens per joule on this board"
    assert str(power).startswith("ok power")  # advice, not a problem
    assert not power.is_problem
    _, power = check_board(ON_GPU, jetson(tmp_path, mode=2))
    assert (power.found, power.remedy) == ("mode MAXN_SUPER", "")


def test_the_release_that_refuses_gpu_memory_is_named_where_it_matters(tmp_path: Path) -> None:
    root = jetson(tmp_path, revision="4.7", mode=1)
    _, release, _ = check_board(ON_GPU, root)
    assert "36.4.7 refuses some GPU memory (NvMap error 12)" in release.found
    assert "engine.vision_gpu to false" in release.remedy
    for without in ({"engine.vision_gpu": False}, {"engine.n_gpu_layers": 0}):
        assert len(list(check_board(ON_GPU.with_values(without), root))) == 2


def test_a_computer_that_is_no_jetson_and_unreadable_files_say_nothing(tmp_path: Path) -> None:
    assert list(check_board(ON_GPU, tmp_path)) == []
    root = jetson(tmp_path)
    (root / "var/lib/nvpmodel/status").write_bytes(b"\xff\xfe")
    (root / "etc/nvpmodel.conf").unlink()
    assert [finding.about for finding in check_board(ON_GPU, root)] == ["board"]


def test_a_build_without_no_vmm_is_named_on_a_jetson(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """llama.cpp's report is simulated: there is no GPU here."""
    board = read_jetson(jetson(tmp_path))
    monkeypatch.setattr("lfm_perception.doctor.read_jetson", lambda: board)
    for no_vmm in (False, True):
        found = Probe(gpu_build=True, gpus=("Orin",), offloaded=17, layers=17, no_vmm=no_vmm)
        monkeypatch.setattr("lfm_perception.doctor.probe", lambda model, wanted, found=found: found)
        after_the_gpu = [*islice(check_engine(ON_GPU), 3)][2]
        assert ("without GGML_CUDA_NO_VMM" in after_the_gpu.found) != no_vmm


def test_cuda_beside_path_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nvcc = tmp_path / "usr/local/cuda-13.2/bin/nvcc"
    nvcc.parent.mkdir(parents=True)
    nvcc.touch(mode=0o755)
    found = cuda_folder(tmp_path)
    assert found == tmp_path / "usr/local/cuda-13.2"
    monkeypatch.setattr("lfm_perception.doctor.cuda_folder", lambda: found)
    monkeypatch.setattr(
        "lfm_perception.doctor.probe", lambda model, wanted: Probe(False, (), offloaded=0, layers=17)
    )
    monkeypatch.setenv("PATH", str(tmp_path))
    _, gpu = islice(check_engine(ON_GPU), 2)
    assert f"{found} is not on PATH: export PATH={found}/bin:$PATH, then make" in gpu.remedy
    monkeypatch.setenv("PATH", str(nvcc.parent))
    _, gpu = islice(check_engine(ON_GPU), 2)
    assert gpu.remedy == "install CUDA, then make desktop"
