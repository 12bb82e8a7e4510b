# SPDX-License-Identifier: Apache-2.0
"""What setup.cfg cannot say: the files a ROS workspace expects under share/. All metadata is in setup.cfg."""

from pathlib import Path

from setuptools import setup

NAME = "lfm_perception"

ROBOT_PYTHON = Path(__file__).resolve().parent / ".venv-ros" / "bin" / "python"
"""Made by tools/robot_environment.py beside ROS 2: the Python of the programs that colcon installs."""


def files(pattern: str) -> list[str]:
    return sorted(map(str, Path().glob(pattern)))


setup(
    options={"build_scripts": {"executable": str(ROBOT_PYTHON)}} if ROBOT_PYTHON.exists() else {},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
        (f"share/{NAME}/config", files("config/*")),
        (f"share/{NAME}/launch", files("launch/*.launch.py")),
    ],
)
