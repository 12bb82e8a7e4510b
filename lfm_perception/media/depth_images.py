# SPDX-License-Identifier: Apache-2.0
"""Depth images of ROS messages (REP 118): distances of pixels in millimetres or metres."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lfm_perception.depth import Millimetres
from lfm_perception.errors import PerceptionError
from lfm_perception.media.raw_images import described, layout_problem
from lfm_perception.scene import MAX_DISTANCE_M, check_size

ENCODINGS = {"16UC1": "u2", "mono16": "u2", "32FC1": "f4"}
"""Types of the values: millimetres, or metres, where NaN and infinite are unknown, too."""

LONGEST_SIDE = 320
"""Maximum width and height that is kept, pixels: every second pixel of 640 x 480 in each direction."""


def from_message(message: Any, name: str) -> Millimetres:
    """The distances of a sensor_msgs Image, of every k-th pixel so that `LONGEST_SIDE` is kept.

    Values that are not above 0 and below `MAX_DISTANCE_M` are unknown.

    Its fields are compared with each other before any pixel is read.

    Args:
        message: the message, of rclpy, of rosbags or of `cdr.image_fields`.
        name: name of the image in error messages.

    Raises:
        PerceptionError: not a depth image by its encoding, the data is cut off, or the size is invalid.
    """
    width, height = message.width, message.height
    check_size(width, height, name)
    kind = ENCODINGS.get(message.encoding)
    size = memoryview(message.data).nbytes
    problem = (
        layout_problem(message, size, height, width * int(kind[1]))
        if kind
        else "publish 16UC1 in millimetres or 32FC1 in metres"
    )
    if kind is None or problem:
        raise PerceptionError(f"{name} cannot be read as depth ({described(message, size)}): {problem}")
    value = np.dtype(f"{'>' if message.is_bigendian else '<'}{kind}")
    every = -(-max(width, height) // LONGEST_SIDE)
    values: NDArray[Any] = np.ndarray(
        (height, width), value, message.data, strides=(message.step, value.itemsize)
    )[::every, ::every]
    maximum = MAX_DISTANCE_M * (1000.0 if kind == "u2" else 1.0)
    known: NDArray[Any] = np.where((values > 0.0) & (values < maximum), values, 0)
    return (known if kind == "u2" else known * 1000.0 + 0.5).astype(np.uint16)
