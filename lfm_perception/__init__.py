# SPDX-License-Identifier: Apache-2.0
"""Grounded perception for robots: a vision-language model under a per-frame token budget."""

import os

# Their own log lines are none of this package's sentences; read when OpenCV is first imported.
os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")


__version__ = "0.1.0"
