# SPDX-License-Identifier: Apache-2.0
"""A video file or stream as a source."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any

import av
import cv2
import numpy as np
from av.container import InputContainer
from av.sidedata.sidedata import Type as SideData
from av.stream import Disposition

from lfm_perception.errors import PerceptionError
from lfm_perception.media.bags import is_bag
from lfm_perception.media.bit_depth import BitDepth
from lfm_perception.media.images import SUFFIXES
from lfm_perception.media.sources.base import (
    MAX_RATE,
    MIN_RATE,
    RATE_FRAMES,
    Source,
    SourceKind,
    SourceOptions,
    default_every,
    measured_rate,
    register,
)
from lfm_perception.media.sources.container_end import is_cut_off
from lfm_perception.scene import MAX_PIXELS, Frame, Image, check_size
from lfm_perception.stamps import STAMP_RESET_S, from_seconds

FALLBACK_RATE = 30.0
"""Rate taken for videos without stamps that do not declare theirs, frames per second."""

STDIN = "-"
"""Source that is a stream on standard input."""

PROTOCOLS = {
    STDIN: "pipe",
    "rtsp://": "rtsp,rtp,udp,tcp",
    "rtsps://": "rtsp,rtsps,rtp,udp,tcp,tls,crypto",
    "http://": "http,tcp,crypto,httpproxy",
    "https://": "https,http,tcp,tls,crypto,httpproxy",
}
"""Begins of streams, and what ffmpeg may open for them: a playlist cannot name files of this computer."""

STREAM_TIMEOUT_S = 10.0
"""Longest wait for a server to open a stream, and for its next data."""

PLAYLISTS = b"#EXTM3U", b"ffconcat version"
"""Begins of files that only name other files, which ffmpeg would open, whatever they are."""

SAME_RATE = 0.1
"""Difference from which on a declared rate is said to be another than that of the stamps."""

MAX_TRANSPORT_GAP_S = 10.0
"""Gap in a transport stream (MPEG-TS) from which on it is the start of another programme, not a pause."""


@contextmanager
def _open(path: str, options: SourceOptions) -> Iterator[Source]:
    with Path(path).open("rb") as file:
        if file.read(len(max(PLAYLISTS, key=len))).startswith(PLAYLISTS):
            raise PerceptionError(f"{path} is a list of other files and no video: give one of them")
    with _opened(path, f"video {path}") as container:
        stream = _stream(container, path)
        declared = float(stream.average_rate or FALLBACK_RATE)
        rate = measured_rate(_first_stamps_ns(path, stream.index), declared)
        count = stream.frames or (
            round(container.duration * rate / av.time_base) if container.duration else None
        )
        other = declared if abs(declared / rate - 1.0) > SAME_RATE else None
        frames = _VideoReader(container, stream, path, rate, options).frames()
        yield Source(f"video {path}", frames, rate, count, default_every(rate), other)


@contextmanager
def _open_stream(text: str, options: SourceOptions) -> Iterator[Source]:
    """A stream of a server that the user named, or of standard input; read once, without a known end."""
    name = "standard input" if text == STDIN else without_password(text)
    allowed = {"protocol_whitelist": next(PROTOCOLS[key] for key in PROTOCOLS if text.startswith(key))}
    with _opened(
        "pipe:0" if text == STDIN else text, f"stream {name}", allowed, STREAM_TIMEOUT_S
    ) as container:
        stream = _stream(container, name)
        rate = min(max(float(stream.average_rate or FALLBACK_RATE), MIN_RATE), MAX_RATE)
        frames = _VideoReader(container, stream, name, rate, options, is_file=False).frames()
        yield Source(f"stream {name}", frames, rate, None, default_every(rate))


def _opened(
    address: str, name: str, more: Mapping[str, str] = MappingProxyType({}), timeout_s: float | None = None
) -> InputContainer:
    """The container; its decoders refuse larger frames, and tags need not be UTF-8."""
    options = {"max_pixels": str(MAX_PIXELS), **more}
    timeout = None if timeout_s is None else (timeout_s, timeout_s)
    try:
        return av.open(address, options=options, metadata_errors="replace", timeout=timeout)
    except (av.FFmpegError, OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or type(error).__name__
        if "://" in address:
            raise PerceptionError(
                f"{name} cannot be opened ({why}): check its address, and that its server runs"
            ) from error
        raise PerceptionError(f"{name} cannot be decoded: {why}, or it is cut off or no video") from error


def without_password(address: str) -> str:
    """The address of a stream as it may be shown: without user and password."""
    return re.sub("(?<=://)[^/@]*@", "", address)


def _stream(container: InputContainer, path: str) -> av.VideoStream:
    """The first video that can be decoded; a cover picture is none."""
    # ffmpeg renders plain text as a video of a terminal.
    streams = container.streams.video if container.format.name != "tty" else ()
    videos = [stream for stream in streams if not stream.disposition & Disposition.attached_pic]
    if not len(container.streams):
        raise PerceptionError(f"{path} holds no video, or is cut off before the table of its contents")
    if not videos:
        raise PerceptionError(f"{path} holds no video")
    for stream in videos:
        # PyAV has no context for a codec that ffmpeg does not know, and ends the process when it decodes.
        context: av.VideoCodecContext | None = stream.codec_context
        if context is not None:
            if context.width and context.height:
                check_size(context.width, context.height, f"video {path}")
            return stream
    raise PerceptionError(
        f"video {path} is encoded with a codec that ffmpeg does not know: convert it to H.264 first"
    )


def _first_stamps_ns(path: str, index: int) -> list[int]:
    """Stamps of the first packets, in any order; none are decoded."""
    with _opened(path, f"video {path}") as container:
        try:
            packets = list(islice(container.demux(container.streams[index]), RATE_FRAMES))
        except av.FFmpegError:  # raised again at its frame
            return []
        return [
            from_seconds(packet.pts * packet.time_base)
            for packet in packets
            if packet.pts is not None and packet.time_base is not None
        ]


class _VideoReader:
    """The frames of an open video, each with the time at which it is shown, from 0 on."""

    def __init__(
        self,
        container: InputContainer,
        stream: av.VideoStream,
        path: str,
        rate: float,
        options: SourceOptions,
        *,
        is_file: bool = True,
    ) -> None:
        self._is_file = is_file
        self._container, self._stream, self._path = container, stream, path
        self._rejects, self._depth = options.rejects, BitDepth(options.bit_depth)
        self._period = 1 / Fraction(rate)
        self._shift = Fraction(0)
        self._last: Fraction | None = None
        self._end = Fraction(0)
        self._index = 0

    def frames(self) -> Iterator[Frame]:
        """Damaged frames are passed over; the end of a video that was cut off raises PerceptionError."""
        broken: int | None = None
        packets = self._container.demux()
        while (packet := self._next(packets)) is not None:
            if packet.stream is not self._stream:
                continue
            if packet.is_corrupt:
                broken = self._index
                self._damaged()
                continue
            with self._rejects.passing_over():
                for decoded in self._decoded(packet):
                    self._index += 1
                    broken = None
                    yield decoded
        if broken is not None:
            raise PerceptionError(f"video {self._path} ends in the middle of frame {broken}")
        self._check_end()

    def _next(self, packets: Iterator[Any]) -> Any:
        try:
            packet = next(packets, None)
        except av.FFmpegError as error:
            raise self._problem(error) from error
        if packet is not None and packet.pts is not None and packet.time_base is not None:
            self._end = max(self._end, (packet.pts + (packet.duration or 0)) * packet.time_base)
        return packet

    def _decoded(self, packet: Any) -> Iterator[Frame]:
        try:
            for decoded in packet.decode():
                if isinstance(decoded, av.VideoFrame):
                    stamp = self._stamp(decoded)
                    if decoded.is_corrupt:
                        self._damaged()
                    else:
                        yield Frame(self._image(decoded), from_seconds(stamp))
        except (av.FFmpegError, ValueError) as error:
            problem = self._problem(error)
            self._index += 1
            raise problem from error

    def _damaged(self) -> None:
        index, self._index = self._index, self._index + 1
        self._rejects.damaged(f"video {self._path} is damaged at frame {index}")

    def _problem(self, error: Exception) -> PerceptionError:
        why = getattr(error, "strerror", None) or str(error)
        return PerceptionError(f"video {self._path} cannot be decoded at frame {self._index}: {why}")

    def _stamp(self, decoded: av.VideoFrame) -> Fraction:
        """Seconds since the first frame. Time goes on where a transport stream starts anew."""
        last, following = self._last, Fraction(0) if self._last is None else self._last + self._period
        if decoded.pts is None or decoded.time_base is None:
            stamp = following
        else:
            shown = decoded.pts * decoded.time_base
            self._shift = -shown if last is None else self._shift
            ahead = float(shown + self._shift - (last or 0))
            limit = MAX_TRANSPORT_GAP_S if self._container.format.name == "mpegts" else float("inf")
            if not -STAMP_RESET_S <= ahead <= limit:
                self._shift = following - shown
            stamp = shown + self._shift
        self._last = stamp if last is None else max(last, stamp)
        return stamp

    def _image(self, decoded: av.VideoFrame) -> Image:
        check_size(decoded.width, decoded.height, f"frame {self._index} of video {self._path}")
        if decoded.format.name.startswith("gray16"):
            grey: Any = decoded.to_ndarray(format="gray16le")
            rgb: Any = cv2.cvtColor(self._depth.to_8_bits(grey), cv2.COLOR_GRAY2RGB)
        else:
            rgb = decoded.to_ndarray(format="rgb24")
        return np.ascontiguousarray(_oriented(rgb, decoded), np.uint8)

    def _check_end(self) -> None:
        if not self._index:
            raise PerceptionError(f"video {self._path} holds no frame that can be decoded")
        if not self._is_file:
            return
        start = Fraction(self._container.start_time or 0, av.time_base)
        announced = start + Fraction(self._container.duration or 0, av.time_base)
        cut = f"video {self._path} is cut off after frame {self._index - 1}: "
        if announced - self._end > 3 * self._period:
            seconds = f"{float(self._end - start):.2f} s of {float(announced - start):.2f} s"
            raise PerceptionError(f"{cut}it ends at {seconds}")
        if is_cut_off(self._path, self._container.format.name):
            raise PerceptionError(f"{cut}the file ends too early")


def _oriented(rgb: Image, decoded: av.VideoFrame) -> Image:
    """The image turned and mirrored as its display matrix says: x' = a x + c y, y' = b x + d y."""
    attached: Any = decoded.side_data
    matrix = attached.get(SideData.DISPLAYMATRIX)
    if matrix is None:
        return rgb
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32, 5).tolist()
    if abs(b) + abs(c) > abs(a) + abs(d):
        rgb, a, d = rgb.transpose(1, 0, 2), c, b
    return rgb[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]


def _matches(text: str) -> bool:
    """Any file that no other kind reads."""
    path = Path(text)
    other = text.isdecimal() or is_bag(path) or path.suffix.lower() in SUFFIXES
    return path.is_file() and not other


def _is_stream(text: str) -> bool:
    return text == STDIN or text.startswith(tuple(key for key in PROTOCOLS if key != STDIN))


register(SourceKind(1, "a video", _matches, _open))
register(SourceKind(4, "a stream (rtsp://, http://, or - for standard input)", _is_stream, _open_stream))
