# SPDX-License-Identifier: Apache-2.0
"""Size and kind of an image are known, and limited, before memory is spent on it."""

from __future__ import annotations

import mmap
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from lfm_perception.backends.worker_messages import SharedFrame, SharedMemory
from lfm_perception.errors import PerceptionError
from lfm_perception.image_plan import ImagePlan
from lfm_perception.media import images
from lfm_perception.media.image_header import identify, plain_png
from lfm_perception.planning.motion_gate import downsample
from lfm_perception.planning.resize import resize
from lfm_perception.scene import MAX_SIDE
from lfm_perception.tracking.ego_motion import downscale

SMALL = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
MIB = 1 << 20


def encoded(suffix: str, image: NDArray[np.uint8] = SMALL) -> bytes:
    return cv2.imencode(suffix, image)[1].tobytes()


def jpeg_of(width: int, height: int) -> bytes:
    """A small JPEG whose header claims another size."""
    data = bytearray(encoded(".jpg"))
    place = data.index(b"\xff\xc0") + 5
    data[place : place + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def png_of(width: int, height: int) -> bytes:
    """A PNG of zeros, which compress a thousandfold; as many as fit into 1 MB."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = bytes(min(height * (width * 3 + 1), 200 * MIB))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows, 1))
        + chunk(b"IEND", b"")
    )


def compressed(data: bytes, described: str = "jpeg") -> SimpleNamespace:
    return SimpleNamespace(format=described, data=np.frombuffer(data, np.uint8))


def raw(
    width: int, height: int, encoding: str = "rgb8", step: int | None = None, size: int | None = None
) -> SimpleNamespace:
    step = 3 * width if step is None else step
    data = np.zeros(step * height if size is None else size, np.uint8)
    return SimpleNamespace(
        width=width, height=height, encoding=encoding, is_bigendian=0, step=step, data=data
    )


def refusal(message: object) -> str:
    with pytest.raises(PerceptionError) as caught:
        images.from_message(message, "an image on /camera")
    sentence = str(caught.value)
    assert len(sentence) <= 300
    assert sentence.isprintable()
    return sentence


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tiff"])
def test_the_header_says_the_size_that_the_decoder_finds(suffix: str) -> None:
    shapes = [SMALL] if suffix != ".pgm" else []
    shapes += [SMALL[..., 0]] if suffix != ".ppm" else []
    shapes += [np.dstack([SMALL, SMALL[..., :1]])] if suffix in (".png", ".webp", ".tiff", ".bmp") else []
    for image in shapes:
        data = encoded(suffix, image)
        assert identify(data)[1:] == (40, 30)
        assert images.decode(data, "it").shape == SMALL.shape
        for cut in range(len(data) // 2):
            identify(data[:cut])  # raises nothing


def test_a_progressive_jpeg_with_a_thumbnail_has_the_size_of_its_own_frame() -> None:
    small = encoded(".jpg", SMALL[:8, :8])
    data = cv2.imencode(".jpg", SMALL, (cv2.IMWRITE_JPEG_PROGRESSIVE, 1))[1].tobytes()
    segment = b"\xff\xe1" + struct.pack(">H", len(small) + 2) + small
    assert identify(data[:2] + segment + data[2:])[1:] == (40, 30)


@pytest.mark.parametrize(
    "data",
    [jpeg_of(32_000, 32_000), png_of(30_000, 30_000), png_of(MAX_SIDE, 977)],
    ids=["jpeg", "png", "long"],
)
@pytest.mark.parametrize("width", [None, 160])
def test_an_image_over_the_limit_is_refused_by_its_header(data: bytes, width: int | None) -> None:
    with pytest.raises(PerceptionError, match=r"it has \d+ x \d+ pixels, over the limit of 64,000,000"):
        images.from_message(compressed(data), "it", width)
    with pytest.raises(PerceptionError, match="over the limit of 64,000,000"):
        images.decode(data, "it")


def test_an_animation_is_its_first_picture() -> None:
    """OpenCV is given no animation, of which damaged ones end the process."""
    moving = cv2.Animation()
    moving.frames, moving.durations = [SMALL, SMALL[::-1].copy()], [50, 50]
    data = cv2.imencodeanimation(".png", moving)[1].tobytes()
    assert b"acTL" in data
    assert b"acTL" not in plain_png(data)
    np.testing.assert_array_equal(images.decode(data, "it"), SMALL[..., ::-1])


def test_any_offset_in_a_header_is_read_or_refused() -> None:
    big_tiff = b"II+\0\x08\0\0\0" + b"\xff" * 8 + bytes(100)
    assert identify(big_tiff) == ("TIFF", 0, 0)


def test_a_png_whose_chunk_announces_gigabytes_is_damaged() -> None:
    data = bytearray(encoded(".png"))
    place = data.index(b"IDAT") - 4
    data[place : place + 4] = b"\xff\x00\x19\xcc"
    assert "cannot be decoded: it is damaged" in refusal(compressed(bytes(data)))


def tiff_of(*entries: tuple[int, int, int]) -> bytes:
    """A TIFF whose only directory has these tags, types and values."""
    directory = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + directory + bytes(4000)


@pytest.mark.parametrize(
    ("data", "size"),
    [
        (b"P5 #\r30000 30000 255 #\n1 1 255\n", (30_000, 30_000)),
        (tiff_of((256, 4, 30_000), (256, 4, 1), (257, 4, 30_000), (257, 4, 1)), (30_000, 30_000)),
        (tiff_of((256, 9, 30_000), (257, 9, 30_000)), (30_000, 30_000)),
        (
            tiff_of((256, 4, 9), (257, 4, 9), (322, 4, 16_000), (322, 4, 1), (323, 9, 16_000)),
            (16_000, 16_000),
        ),
    ],
    ids=["comment", "tags given twice", "signed", "tile given twice"],
)
def test_a_header_cannot_hide_the_size_that_the_decoder_allocates(data: bytes, size: tuple[int, int]) -> None:
    assert identify(data)[1:] == size
    with pytest.raises(PerceptionError, match="over the limit of 64,000,000"):
        images.decode(data, "it")


def test_a_small_image_costs_no_minutes() -> None:
    """A JPEG of thousands of empty scans, and a PNG with gigabytes behind its pixels."""
    progressive = cv2.imencode(".jpg", SMALL, (cv2.IMWRITE_JPEG_PROGRESSIVE, 1))[1].tobytes()
    last = progressive.rindex(b"\xff\xda")
    scan = progressive[last:-2]
    assert images.decode(progressive[:-2] + scan * 20 + b"\xff\xd9", "it").shape == SMALL.shape
    assert "damaged" in refusal(compressed(progressive[:-2] + scan * 100 + b"\xff\xd9"))

    bomb, place = png_of(64, 64), png_of(64, 64).index(b"IDAT") - 4
    zeros = zlib.compressobj(1)
    begin, again = (zeros.compress(bytes(16 * MIB)) + zeros.flush(zlib.Z_FULL_FLUSH) for _ in range(2))
    data = begin + again * 40
    chunk = struct.pack(">I4s", len(data), b"IDAT") + data + struct.pack(">I", zlib.crc32(b"IDAT" + data))
    assert "damaged" in refusal(compressed(bomb[:place] + chunk + png_of(64, 64)[-12:], "png"))
    noise = np.random.default_rng(0).integers(0, 256, (600, 600, 3), dtype=np.uint8)
    assert images.decode(encoded(".png", noise), "it").shape == noise.shape, "1 MB, so its chunks are checked"


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (raw(0, 10), "0 x 10"),
        (raw(MAX_SIDE + 1, 1, size=0), f"{MAX_SIDE + 1} x 1"),
        (raw(10_000, 10_000, size=12), "10000 x 10000 pixels, over the limit"),
        (raw(64, 48, step=100), "a row has 192 bytes"),
        (raw(64, 48, size=48 * 192 - 1), "it has 9216 bytes"),
        (raw(64, 48, step=2**32 - 1, size=9216), "it has"),
        (raw(64, 48, encoding="32FC1"), "'32FC1'"),
        (raw(64, 48, encoding="\x1b[2J" * 200), "publish rgb8"),
        (raw(2, 2, encoding="bayer_rggb8"), "at least 3 x 3"),
        (raw(63, 48, encoding="nv12"), "width must be even"),
        (raw(63, 48, encoding="yuv422"), "width must be even"),
    ],
)  # fmt: skip
def test_fields_that_contradict_each_other_are_refused(message: SimpleNamespace, said: str) -> None:
    assert said in refusal(message)


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("TIFF", encoded(".tiff")),
        ("BMP", encoded(".bmp")),
        ("WebP", encoded(".webp")),
        ("PNM", encoded(".ppm")),
        ("GIF", b"GIF89a" + bytes(20)),
        ("AVIF", b"\0\0\0\x20ftypavif" + bytes(20)),
        ("JPEG 2000", b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(20)),
        ("H.264 or H.265 video", b"\0\0\0\x01\x67" + bytes(20)),
    ],
)
def test_a_topic_carries_jpeg_and_png_only(kind: str, data: bytes) -> None:
    assert f"is {kind}, which is not read: give JPEG or PNG" in refusal(compressed(data))


@pytest.mark.parametrize(
    ("width", "height"), [(1, 16_384), (16_384, 1), (1, MAX_SIDE), (MAX_SIDE, 1), (900, MAX_SIDE)]
)
def test_small_copies_are_small_on_both_sides(width: int, height: int) -> None:
    message = raw(width, height)
    copy = images.from_message(message, "it", 160)
    assert copy.shape[1] <= max(160, min(width, 160))
    assert copy.shape[0] <= 640 or width <= 160
    image = images.from_message(message, "it")
    assert max(downscale(image).shape[:2]) <= 640
    assert downsample(image).shape == (48, 64)
    assert resize(image, ImagePlan(512, 32)).shape == (32, 512, 3)


MEASURE = """
import sys, numpy as np
from pathlib import Path
sys.path.insert(0, {folder!r})
from lfm_perception.errors import PerceptionError
from lfm_perception.media import images
from lfm_perception.tracking.ego_motion import EgoMotionEstimator
import test_image_limits as made

def megabytes(field):
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if field in line)
    return int(line.split()[1]) // 1024

estimator = EgoMotionEstimator()
estimator.measure(made.SMALL, np.zeros((0, 4)))
messages = [{messages}]
Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
before = megabytes("VmRSS")
for message in messages:
    for width in (160, None):
        try:
            image = images.from_message(message, "it", width)
            for _ in range(2):
                estimator.measure(image, np.zeros((0, 4)))
        except PerceptionError as error:
            print(error)
print(megabytes("VmHWM") - before)
"""


@pytest.mark.parametrize(
    ("messages", "limit"),
    [
        ("made.raw(1, 16_384), made.raw(16_384, 1)", 40),
        ("made.compressed(made.jpeg_of(32_000, 32_000))", 20),
        ("made.compressed(made.jpeg_of(8_000, 8_000))", 420),
        ("*(made.compressed(made.png_of(w, h)) for w, h in ((30_000, 30_000), (65_000, 1_000)))", 20),
    ],
    ids=["thin", "jpeg", "within the limit", "png"],
)
def test_peak_memory_of_odd_images_is_bounded(messages: str, limit: int) -> None:
    """In a process of its own, whose address space ends at 4 GB."""
    script = MEASURE.format(folder=str(Path(__file__).parent), messages=messages)
    command = ["bash", "-c", 'ulimit -v 4000000; exec "$0" -c "$1"', sys.executable, script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    megabytes = int(done.stdout.splitlines()[-1])
    print(f"{messages}: {megabytes} MiB above the libraries")
    assert megabytes <= limit


def test_shared_memory_is_given_back_after_a_larger_frame() -> None:
    """And stays mapped, for a worker that still reads the larger frame."""
    memory = SharedMemory(os.memfd_create("test"))
    other = SharedMemory(os.dup(memory.file))
    large, small = SharedFrame(4000, 4000, 0, ""), SharedFrame(100, 100, 0, "")
    for frame in (large, small, large, small):
        memory.grow(frame.size)
        memory.image(frame)[:] = 7
        memory.give_back(frame)
        used = os.fstat(memory.file).st_blocks * 512
        assert frame.size <= used <= frame.size + mmap.PAGESIZE
        if frame is large:
            seen = other.image(frame)
    assert 0 < seen.sum() <= 7 * used
    del seen
    memory.close()
    other.close()
