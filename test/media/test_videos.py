# SPDX-License-Identifier: Apache-2.0
"""Videos as people have them: unknown codecs, tags, cuts, damage, mirrors, other rates than declared."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from lfm_perception.errors import PerceptionError
from lfm_perception.media.sources import open_source
from lfm_perception.media.sources.base import MAX_DAMAGED_RUN, Rejects
from lfm_perception.scene import Frame

CODECS = {
    ".webm": "libvpx",
    ".mkv": "libvpx",
    ".avi": "mjpeg",
    ".mp4": "libvpx-vp9",
    ".ts": "mpeg2video",
    ".gif": "gif",
    ".ogv": "libvpx",
    ".mjpeg": "mjpeg",
}
WIDTH, HEIGHT = 64, 48


def picture(index: int = 0) -> NDArray[np.uint8]:
    """Another colour in each quarter, brighter with the index."""
    image = np.full((HEIGHT, WIDTH, 3), 20 + index * 2, np.uint8)
    image[:24, :32, 0] = image[:24, 32:, 1] = image[24:, :32, 2] = 200
    return image


def write_video(
    path: Path,
    count: int = 30,
    *,
    codec: str = "",
    stamps_ms: Callable[[int], int] = lambda index: 40 * index,
    rate: int = 25,
    options: dict[str, str] | None = None,
    tags: dict[str, str] | None = None,
    format_: str = "",
) -> Path:
    codec = codec or CODECS[path.suffix]
    with av.open(str(path), "w", options=options or {}) as container:
        stream: Any = container.add_stream(codec, rate=rate)
        pixels = format_ or {"gif": "rgb8", "mjpeg": "yuvj420p"}.get(codec, "yuv420p")
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pixels
        stream.codec_context.gop_size = 5
        if codec != "mpeg2video":
            stream.codec_context.time_base = Fraction(1, 1000)
        container.metadata.update(tags or {})
        for index in range(count):
            frame = av.VideoFrame.from_ndarray(picture(index), format="rgb24").reformat(format=pixels)
            frame.pts, frame.time_base = stamps_ms(index), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def change(path: Path, old: bytes, new: bytes) -> Path:
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new))
    return path


def cut(path: Path, share: float = 0.6) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    return path


def read(path: Path) -> tuple[list[Frame], Rejects, str]:
    """The frames, those that were passed over, and the sentence with which the video breaks."""
    frames: list[Frame] = []
    rejects, said = Rejects(), ""
    try:
        with open_source(str(path)) as source:
            rejects = source.rejects
            for frame in source.frames:
                frames.append(frame)  # noqa: PERF402 - those before it breaks
    except PerceptionError as error:
        said = str(error)
    assert len(said) <= 300
    return frames, rejects, said


@pytest.mark.parametrize(
    ("suffix", "codec", "unknown"),
    [(".webm", b"V_VP8", b"V_XY8"), (".avi", b"MJPG", b"XYZ9"), (".mp4", b"vp09", b"xyz1")],
)
def test_a_codec_that_ffmpeg_does_not_know_is_named(
    tmp_path: Path, suffix: str, codec: bytes, unknown: bytes
) -> None:
    frames, _, said = read(change(write_video(tmp_path / f"video{suffix}"), codec, unknown))
    assert not frames
    assert "is encoded with a codec that ffmpeg does not know" in said


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_tags_need_not_be_unicode(tmp_path: Path, suffix: str) -> None:
    video = write_video(tmp_path / f"video{suffix}", tags={"title": "Stra?e"})
    frames, _, said = read(change(video, b"Stra?e", b"Stra\xdfe"))
    assert (len(frames), said) == (30, "")


@pytest.mark.parametrize("suffix", list(CODECS))
def test_a_video_that_ends_early_says_so(tmp_path: Path, suffix: str) -> None:
    frames, _, said = read(cut(write_video(tmp_path / f"video{suffix}")))
    assert len(frames) < 30
    assert "is cut off" in said or "ends in the middle" in said or "holds no video" in said
    if suffix not in (".mp4", ".ogv"):  # whose index is at its end, or whose pages are long
        assert len(frames) > 10


@pytest.mark.parametrize("begin", ["#EXTM3U\n#EXTINF:9,\n", "ffconcat version 1.0\nfile "])
def test_a_list_of_other_files_is_no_video(tmp_path: Path, begin: str) -> None:
    """They may be pipes, which ffmpeg waits for."""
    os.mkfifo(tmp_path / "pipe.ts")
    (tmp_path / "video.mp4").write_text(f"{begin}pipe.ts\n")
    assert "is a list of other files and no video" in read(tmp_path / "video.mp4")[2]


def test_what_is_no_file_is_not_said_to_be_missing(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "link.mp4").symlink_to("link.mp4")
    for path in (tmp_path / "pipe.mp4", tmp_path / "link.mp4", Path("/dev/zero")):
        assert read(path)[2] == f"{path} is no file that can be read: a pipe, a device or a link to nothing"


def test_a_live_recording_that_ends_early_says_so(tmp_path: Path) -> None:
    """It announces neither its length nor that of its parts."""
    video = write_video(tmp_path / "video.webm", options={"live": "1"})
    assert (len(read(video)[0]), read(video)[2]) == (30, "")
    frames, _, said = read(cut(video))
    assert 10 < len(frames) < 30
    assert f"is cut off after frame {len(frames) - 1}: the file ends too early" in said


@pytest.mark.parametrize("suffix", list(CODECS))
def test_bytes_after_the_end_of_a_video_change_nothing(tmp_path: Path, suffix: str) -> None:
    video = write_video(tmp_path / f"video{suffix}")
    video.write_bytes(video.read_bytes() + b"and more" * 500)
    frames, rejects, said = read(video)
    assert (len(frames), dict(rejects), said) == (30, {}, "")


def test_a_damaged_frame_is_counted_and_passed_over(tmp_path: Path) -> None:
    video = write_video(tmp_path / "video.mkv", 60, codec="mjpeg", format_="yuvj420p")
    data = bytearray(video.read_bytes())
    places = [place for place in range(len(data)) if data[place : place + 3] == b"\xff\xd8\xff"]
    for place in places[10:13]:
        data[place : place + 620] = bytes(620)
    video.write_bytes(data)
    frames, rejects, said = read(video)
    assert (len(frames), dict(rejects), said) == (57, {"damaged": 3}, "")
    for place in places[20:40]:
        data[place : place + 620] = bytes(620)
    video.write_bytes(data)
    frames, rejects, said = read(video)
    assert (len(frames), rejects["damaged"]) == (37, 23)
    assert "at frame 10" in said
    assert said.endswith("(23 of 60 frames are damaged)")


def test_a_source_with_a_hundred_damaged_frames_in_a_row_is_given_up() -> None:
    rejects = Rejects()
    for _ in range(10_000):
        rejects.good()
    for _ in range(MAX_DAMAGED_RUN):
        rejects.damaged("it is damaged")
    with pytest.raises(PerceptionError, match="it is damaged"):
        rejects.damaged("it is damaged")


def test_a_transport_stream_that_starts_anew_goes_on(tmp_path: Path) -> None:
    video = write_video(tmp_path / "video.ts")
    once = video.read_bytes()
    video.write_bytes(once + once)
    frames, rejects, said = read(video)
    assert len(frames) + rejects["damaged"] == 60
    assert not said
    steps = np.diff([frame.stamp_ns for frame in frames]) / 1e6
    assert steps.min() > 0
    assert steps.max() <= 120


MATRICES: dict[str, tuple[tuple[int, int, int, int], Callable[[Any], Any]]] = {
    "as it is": ((1, 0, 0, 1), lambda image: image),
    "turned clockwise": ((0, 1, -1, 0), lambda image: np.rot90(image, -1)),
    "turned the other way": ((0, -1, 1, 0), lambda image: np.rot90(image)),
    "upside down": ((-1, 0, 0, -1), lambda image: np.rot90(image, 2)),
    "mirrored": ((-1, 0, 0, 1), lambda image: image[:, ::-1]),
    "flipped": ((1, 0, 0, -1), lambda image: image[::-1]),
    "transposed": ((0, 1, 1, 0), lambda image: image.transpose(1, 0, 2)),
    "transposed and turned": ((0, -1, -1, 0), lambda image: np.rot90(image.transpose(1, 0, 2), 2)),
}


@pytest.mark.parametrize("shown", list(MATRICES))
def test_a_video_is_turned_and_mirrored_as_it_is_to_be_shown(tmp_path: Path, shown: str) -> None:
    (a, b, c, d), expected = MATRICES[shown]
    video = write_video(tmp_path / "phone.mp4", 3)
    data = bytearray(video.read_bytes())
    place = data.index(b"tkhd") + 44
    matrix = (a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    data[place : place + 36] = struct.pack(">9i", *matrix)
    video.write_bytes(data)
    image = read(video)[0][0].image
    wanted = expected(picture())
    assert image.shape == wanted.shape
    assert np.abs(image.astype(int) - wanted).mean() < 12


def test_the_rate_of_a_video_is_that_of_its_stamps(tmp_path: Path) -> None:
    video = write_video(tmp_path / "video.webm", rate=1000, stamps_ms=lambda index: 33 * index)
    with open_source(str(video)) as source:
        assert round(source.rate, 1) == 30.3
        assert source.every == 6
        assert source.declared_rate is not None
        assert source.declared_rate > 900
        assert len(list(source.frames)) == 30


def test_a_video_that_pauses_has_the_rate_of_its_frames(tmp_path: Path) -> None:
    video = write_video(tmp_path / "video.mkv", stamps_ms=lambda index: 40 * index + 60_000 * (index > 20))
    with open_source(str(video)) as source:
        assert round(source.rate) == 25
        assert len(list(source.frames)) == 30


def test_a_cover_picture_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "song.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    assert read(path)[2] == f"{path} holds no video"


def test_a_video_of_frames_over_the_limit_is_refused(tmp_path: Path) -> None:
    video = write_video(tmp_path / "video.avi")
    data = bytearray(video.read_bytes())
    place = data.index(b"strf") + 12
    data[place : place + 8] = struct.pack("<ii", 60_000, 60_000)
    video.write_bytes(data)
    said = read(video)[2]
    assert "60000 x 60000 pixels, over the limit" in said or not said  # the frames' own headers say 64 x 48


def test_a_video_of_16_bits_shows_what_the_sensor_saw(tmp_path: Path) -> None:
    path = tmp_path / "thermal.mkv"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "gray16le"
        grey = np.tile(np.linspace(0, 4095, WIDTH).astype(np.uint16), (HEIGHT, 1))
        container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="gray16le")))
        container.mux(stream.encode())
    (frame,) = read(path)[0]
    assert frame.image.max() == 255
