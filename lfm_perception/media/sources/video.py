"""A video file as a source."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer

from lfm_perception.errors import PerceptionError
from lfm_perception.media.bags import is_bag
from lfm_perception.media.images import SUFFIXES
from lfm_perception.media.sources.base import Source, SourceKind, SourceOptions, default_every, register
from lfm_perception.scene import Frame
from lfm_perception.stamps import from_seconds

FALLBACK_RATE = 30.0
"""Rate taken for videos that do not declare theirs, frames per second."""


@contextmanager
def _open(path: str, _: SourceOptions) -> Iterator[Source]:
    try:
        container = av.open(path)
    except (av.FFmpegError, OSError) as error:
        raise PerceptionError(
            f"video {path} cannot be decoded: {error.strerror}, or it is cut off or no video"
        ) from error
    with container:
        # ffmpeg renders plain text as a video of a terminal.
        stream = next(iter(container.streams.video), None) if container.format.name != "tty" else None
        if stream is None:
            raise PerceptionError(f"{path} holds no video")
        rate = float(stream.average_rate or FALLBACK_RATE)
        count = stream.frames or (
            round(container.duration * rate / av.time_base) if container.duration else None
        )
        yield Source(f"video {path}", _frames(container, stream, path), rate, count, default_every(rate))


def _frames(container: InputContainer, stream: av.VideoStream, path: str) -> Iterator[Frame]:
    """Decode; a file that was cut off shows as a broken packet or ends before the time it announces."""
    period = 1 / (stream.average_rate or Fraction(FALLBACK_RATE))
    first: Fraction | None = None
    end = Fraction(0)
    index = 0
    try:
        for packet in container.demux():
            if packet.pts is not None and packet.time_base is not None:
                end = max(end, (packet.pts + (packet.duration or 0)) * packet.time_base)
            if packet.stream is not stream:
                continue
            if packet.is_corrupt:
                raise PerceptionError(f"video {path} ends in the middle of frame {index}")
            for decoded in packet.decode():
                if not isinstance(decoded, av.VideoFrame):
                    continue
                if decoded.is_corrupt:
                    raise PerceptionError(f"video {path} is damaged at frame {index}")
                time_base = decoded.time_base
                stamp = decoded.pts * time_base if decoded.pts is not None and time_base else index * period
                first = stamp if first is None else first
                image = np.rot90(decoded.to_ndarray(format="rgb24"), decoded.rotation // 90)
                yield Frame(np.ascontiguousarray(image), from_seconds(stamp - first))
                index += 1
    except av.FFmpegError as error:
        raise PerceptionError(f"video {path} cannot be decoded at frame {index}: {error.strerror}") from error
    if not index:
        raise PerceptionError(f"video {path} holds no frame that can be decoded")
    start = Fraction(container.start_time or 0, av.time_base)
    announced = start + Fraction(container.duration or 0, av.time_base)
    if announced - end > 3 * period:
        raise PerceptionError(
            f"video {path} is cut off after frame {index - 1}: "
            f"it ends at {float(end - start):.2f} s of {float(announced - start):.2f} s"
        )


def _matches(text: str) -> bool:
    """Any file that no other kind reads."""
    path = Path(text)
    other = text.isdecimal() or is_bag(path) or path.suffix.lower() in SUFFIXES
    return path.is_file() and not other


register(SourceKind(1, "a video", _matches, _open))
