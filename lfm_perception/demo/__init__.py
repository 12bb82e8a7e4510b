# SPDX-License-Identifier: Apache-2.0
"""A small world with ground truth, and the vision-language model trained on it that ships."""

from pathlib import Path

MODEL_DIR = Path(__file__).parent / "model"
"""Where the packaged model lies: demo-vl-Q4_0.gguf, mmproj-demo-vl.gguf."""

FRAME_ID = "demo_camera"
"""The `frame_id` of the demo world's images."""
