# SPDX-License-Identifier: Apache-2.0
"""The animation of the README and the site, from the video of a run: `make pictures`.

PYTHONPATH=tools python -m documentation.animation out/pictures/overlay.mp4 docs/images/demo.webp
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import av
from PIL import Image

BEGIN_S, SECONDS = 5.0, 6.0
"""Part of the video that is shown, seconds."""

EVERY = 3
"""Every n-th frame of the video is shown: 10 Hz of 30 Hz."""

WIDTH = 560
QUALITY = 70
"""Quality of lossy WebP, 0 to 100."""

MAX_BYTES = 2_000_000


def main(video: Path, out: Path) -> None:
    first, *others = list(frames(video))
    duration_ms = round(1000 * SECONDS / (1 + len(others)))
    out.parent.mkdir(exist_ok=True)
    first.save(
        out, save_all=True, append_images=others, duration=duration_ms, loop=0, quality=QUALITY, method=6
    )
    size = out.stat().st_size
    print(f"{out}: {1 + len(others)} frames, {first.width}x{first.height}, {size / 1e6:.2f} MB")
    if size > MAX_BYTES:
        sys.exit(f"{out} is larger than {MAX_BYTES / 1e6:.0f} MB: lower QUALITY or SECONDS")


def frames(video: Path) -> Iterator[Image.Image]:
    """The frames that are shown, at their size."""
    with av.open(str(video)) as container:
        rate = float(container.streams.video[0].average_rate or 30)
        begin, end = round(rate * BEGIN_S), round(rate * (BEGIN_S + SECONDS))
        for frame in islice(container.decode(video=0), begin, end, EVERY):
            image = Image.fromarray(frame.to_ndarray(format="rgb24"))
            yield image.resize((WIDTH, round(image.height * WIDTH / image.width)), Image.Resampling.LANCZOS)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
