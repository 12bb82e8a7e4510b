"""What setup.cfg cannot say: the files a ROS workspace expects under share/. All metadata is in setup.cfg."""

from pathlib import Path

from setuptools import setup

NAME = "lfm_perception"


def files(pattern: str) -> list[str]:
    return sorted(map(str, Path().glob(pattern)))


setup(
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
        (f"share/{NAME}/config", files("config/*")),
        (f"share/{NAME}/launch", files("launch/*.launch.py")),
    ],
)
