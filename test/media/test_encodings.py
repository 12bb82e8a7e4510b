# SPDX-License-Identifier: Apache-2.0
"""What the pixels of a message mean: every encoding, byte order, bit depth and compressed format."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from lfm_perception.errors import PerceptionError
from lfm_perception.media import images
from lfm_perception.media.bit_depth import HOLD_IMAGES, BitDepth
from lfm_perception.settings import Settings

Pixels = NDArray[Any]


def picture(width: int = 64, height: int = 48) -> NDArray[np.uint8]:
    """Colours that change slowly, so that formats with less colour than light keep them."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack((80 + x, 60 + 2 * y, 200 - x), -1).astype(np.uint8)


def message(
    pixels: Pixels, encoding: str, *, height: int | None = None, pad: int = 0, big: bool = False
) -> Any:
    """An Image whose rows end in `pad` spare bytes; `big`: the bytes of each value the other way round."""
    rows = pixels.astype(pixels.dtype.newbyteorder(">")) if big else pixels
    rows = np.ascontiguousarray(rows).view(np.uint8).reshape(len(pixels), -1)
    data = np.pad(rows, ((0, 0), (0, pad)), constant_values=255)
    return SimpleNamespace(
        width=pixels.shape[1],
        height=height or len(pixels),
        encoding=encoding,
        is_bigendian=int(big),
        step=data.shape[1],
        data=data.ravel()[: data.size - pad],  # the last row needs no spare bytes
    )


def compressed(data: bytes, described: str) -> Any:
    return SimpleNamespace(format=described, data=np.frombuffer(data, np.uint8))


def encoded(suffix: str, pixels: Pixels) -> bytes:
    return cv2.imencode(suffix, pixels)[1].tobytes()


@pytest.mark.parametrize("pad", [0, 5])
@pytest.mark.parametrize(
    ("encoding", "channels"),
    [
        ("rgb8", [0, 1, 2]), ("bgr8", [2, 1, 0]), ("8UC3", [2, 1, 0]),
        ("rgba8", [0, 1, 2, 0]), ("bgra8", [2, 1, 0, 0]), ("8UC4", [2, 1, 0, 0]),
    ],
)  # fmt: skip
def test_the_order_of_channels_is_that_of_rviz_and_cv_bridge(
    encoding: str, channels: list[int], pad: int
) -> None:
    image = images.from_message(message(picture()[..., channels], encoding, pad=pad), "it")
    np.testing.assert_array_equal(image, picture())


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("pad", [0, 3])
@pytest.mark.parametrize(
    ("encoding", "channels"),
    [("rgb16", [0, 1, 2]), ("bgr16", [2, 1, 0]), ("16UC3", [2, 1, 0]), ("16UC4", [2, 1, 0, 0])],
)
def test_values_of_two_bytes_are_read_in_their_byte_order(
    encoding: str, channels: list[int], pad: int, big: bool
) -> None:
    pixels = picture()[..., channels].astype(np.uint16) * 257
    image = images.from_message(message(pixels, encoding, pad=pad, big=big), "it", None, BitDepth("16"))
    np.testing.assert_array_equal(image, picture())


@pytest.mark.parametrize("encoding", ["mono8", "8UC1", "mono16", "16UC1"])
def test_one_channel_is_grey(encoding: str) -> None:
    grey: Pixels = picture()[..., 0]
    pixels = grey.astype(np.uint16) * 257 if "16" in encoding else grey
    image = images.from_message(message(pixels, encoding), "it", None, BitDepth("16"))
    np.testing.assert_array_equal(image, np.dstack([grey] * 3))


@pytest.mark.parametrize("height", [48, 47])
@pytest.mark.parametrize(("encoding", "order"), [("nv12", (0, 1)), ("nv21", (1, 0))])
def test_chroma_rows_may_belong_to_an_odd_number_of_rows(
    encoding: str, order: tuple[int, int], height: int
) -> None:
    planar = cv2.cvtColor(picture(), cv2.COLOR_RGB2YUV_I420)
    chroma = planar[48:].reshape(2, -1)[list(order)]
    pixels = np.vstack((planar[:height], chroma.T.reshape(24, 64)))
    image = images.from_message(message(pixels, encoding, height=height, pad=2), "it")
    assert image.shape == (height, 64, 3)
    assert np.abs(image.astype(int) - picture()[:height]).mean() < 4


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
@pytest.mark.parametrize("setting", ["auto", "given"])
def test_sensors_of_fewer_bits_are_not_black(bits: int, setting: str) -> None:
    grey = cv2.cvtColor(picture(), cv2.COLOR_RGB2GRAY)
    sensor = (grey.astype(np.uint16) * 257) >> (16 - bits)
    sensor[0, 0] = 2**bits - 1
    depth = BitDepth("auto" if setting == "auto" else str(bits))
    png = compressed(encoded(".png", sensor), "16UC1; png compressed ")
    for sent in (message(sensor, "mono16"), message(sensor, "16UC1", big=True), png):
        image = images.from_message(sent, "it", None, depth)
        assert np.abs(image[1:, :, 0].astype(int) - grey[1:]).max() <= 1


def test_the_measured_depth_is_stable_over_time() -> None:
    """It rises at once and falls slowly; a hot pixel does not count."""
    depth = BitDepth()

    def brightness(value: int) -> int:
        image = np.full((100, 200), 500, np.uint16)
        image[:10], image[50, 50] = value, 65_535
        return int(depth.to_8_bits(image)[99, 0])

    dark, bright = brightness(1000), brightness(4000)
    assert (dark, bright) == (round(500 * 255 / 1023), round(500 * 255 / 4095))
    assert {brightness(1000) for _ in range(HOLD_IMAGES - 1)} == {bright}
    assert brightness(4000) == bright
    assert [brightness(1000) for _ in range(HOLD_IMAGES)][-2:] == [bright, dark]


def test_the_depth_is_a_setting_as_text_or_number() -> None:
    assert Settings().image.bit_depth == "auto"
    for value in (12, "12"):
        assert Settings().with_values({"image.bit_depth": value}).image.bit_depth == "12"
    for wrong in (7, "17", True, 12.0):
        with pytest.raises(PerceptionError, match=r"image\.bit_depth must be one of auto, 8"):
            Settings().with_values({"image.bit_depth": wrong})


@pytest.mark.parametrize(
    "described",
    [
        "jpeg",
        "png",
        "",
        "rgb8; jpeg compressed bgr8",
        "bgr8; png compressed bgr8",
        "bgr8; png compressed ",
        "jpg",
    ],
)
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_a_compressed_image_is_what_its_bytes_are(described: str, suffix: str) -> None:
    image = images.from_message(compressed(encoded(suffix, picture()[..., ::-1]), described), "it")
    assert np.abs(image.astype(int) - picture()).mean() < 4


def test_a_compressed_image_in_another_order_of_channels_says_so() -> None:
    swapped = compressed(encoded(".png", picture()), "rgb8; png compressed rgb8")
    np.testing.assert_array_equal(images.from_message(swapped, "it"), picture())


def test_a_compressed_mosaic_is_demosaiced() -> None:
    mosaic = picture()[..., 1].copy()
    mosaic[0::2, 0::2] = picture()[0::2, 0::2, 0]
    mosaic[1::2, 1::2] = picture()[1::2, 1::2, 2]
    sent = compressed(encoded(".png", mosaic), "bayer_rggb8; png compressed ")
    for width in (None, 16):
        image = images.from_message(sent, "it", width)
        assert np.abs(image[2:-2, 2:-2].astype(int) - picture()[2:-2, 2:-2]).mean() < 4


@pytest.mark.parametrize(
    ("described", "data", "said"),
    [
        ("16UC1; compressedDepth png", bytes(12) + encoded(".png", picture()), "holds distances"),
        ("32FC1; compressedDepth", bytes(200), "holds distances"),
        ("h264", b"\0\0\0\x01\x67" + bytes(100), "is a piece of a video (format 'h264')"),
        ("h265", bytes(100), "is a piece of a video"),
        ("hevc", b"\0\0\x01" + bytes(100), "is a piece of a video"),
        ("yuv420p; libx264", bytes(100), "is a piece of a video"),
        ("jpeg", b"\0\0\0\x01\x67" + bytes(100), "is H.264 or H.265 video, which is not read"),
        ("\x1b[2J\u202e" * 500, b"", "cannot be decoded"),
    ],
)
def test_what_is_no_picture_is_named_with_what_to_do(described: str, data: bytes, said: str) -> None:
    with pytest.raises(PerceptionError) as caught:
        images.from_message(compressed(data, described), "an image on /camera/compressed")
    sentence = str(caught.value)
    assert said in sentence
    assert len(sentence) <= 300
    assert sentence.isprintable()
