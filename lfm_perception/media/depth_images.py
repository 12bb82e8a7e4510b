# SPDX-License-Identifier: Apache-2.0
"""Depth images of ROS messages (REP 118): distances of pixels in millimetres or metres."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lfm_perception.depth import Millimetres
from lfm_perception.errors import PerceptionError
from lfm_perception.media.raw_images import described, layout_problem
from lfm_perception.scene import check_size

ENCODINGS = {"16UC1": "u2", "mono16": "u2", "32FC1": "f4"}
"""Types of the values: millimetres, 0 where unknown, or metres, where NaN, infinite and 0 are unknown."""

MAX_DISTANCE_M = 65.0
"""Distance from which on a value is unknown: what fits into 16 bits, more than depth cameras see."""

LONGEST_SIDE = 320
"""Maximum width and height that is kept, pixels: every second pixel of 640 x 480 in each direction."""


def from_message(message: Any, name: str) -> Millimetres:
    """The distances of a sensor_msgs Image, of every k-th pixel so that `LONGEST_SIDE` is kept.

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
    if kind == "u2":
        return values.astype(np.uint16)
    known = (values > 0.0) & (values < MAX_DISTANCE_M)
    return (np.where(known, values, 0.0) * 1000.0 + 0.5).astype(np.uint16)
