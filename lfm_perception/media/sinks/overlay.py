# SPDX-License-Identifier: Apache-2.0
"""Sinks of annotated images: all of them as a video, and the one with most objects as a still."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av

from lfm_perception.media import images
from lfm_perception.media.sinks.base import AnnotatedFrame, Sink
from lfm_perception.scene import Image

VIDEO, STILL = "overlay.mp4", "overlay.png"

ENCODER = "libvpx-vp9"
"""Under a BSD license; libx264 and libx265, which PyAV's wheel also has, are under the GPL."""

ENCODER_OPTIONS = {"deadline": "realtime", "cpu-used": "8", "crf": "34", "b": "0", "lag-in-frames": "0"}
"""As fast as libx264's `veryfast`: 11 ms for an image of 640 x 480 on one busy core."""


class VideoFile:
    """A VP9 video in MP4, which browsers, phones and players show; OpenCV's wheel cannot write it."""

    def __init__(self, path: Path, width: int, height: int, rate: float) -> None:
        """`width` and `height` in pixels, even; `rate` in frames per second."""
        self._container = av.open(str(path), "w", options={"movflags": "+faststart"})
        speed = Fraction(rate).limit_denominator(1001)
        stream = self._container.add_stream(ENCODER, rate=speed, options=ENCODER_OPTIONS)
        self._stream = cast(av.VideoStream, stream)
        self._stream.width, self._stream.height = width, height
        self._stream.pix_fmt = "yuv420p"
        self._stream.codec_context.thread_count = 1  # the cores belong to the model

    def write(self, image: Image) -> None:
        """Add an image, RGB."""
        self._container.mux(self._stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))

    def finish(self) -> None:
        """Write the frames that are still in the encoder, and close."""
        self._container.mux(self._stream.encode())
        self._container.close()

    def close(self) -> None:
        """Release the file; without `finish` it lacks its last frames."""
        self._container.close()


class VideoSink(Sink, file=VIDEO, media="video"):
    """All annotated images as a video."""

    def __init__(self, path: Path, rate: float) -> None:
        super().__init__(path, rate)
        self._video: VideoFile | None = None

    def write(self, annotated: AnnotatedFrame) -> None:
        if self._video is None:
            height, width = annotated.image.shape[:2]
            self._video = VideoFile(self._path, width, height, self._rate)
        self._video.write(annotated.image)

    def finish(self, summary: Mapping[str, Any]) -> None:
        if self._video is not None:
            self._video.finish()

    def abort(self) -> None:
        if self._video is not None:
            self._video.close()


class StillSink(Sink, file=STILL, media="video"):
    """The annotated image of the inferred frame with the most tracks and, among those, detections."""

    def __init__(self, path: Path, rate: float) -> None:
        super().__init__(path, rate)
        self._image: Image | None = None
        self._objects = (-1, 0)

    def write(self, annotated: AnnotatedFrame) -> None:
        if annotated.scene is not None:
            objects = len(annotated.tracks), len(annotated.scene.detections)
            if objects > self._objects:
                self._objects, self._image = objects, annotated.image

    def finish(self, summary: Mapping[str, Any]) -> None:
        if self._image is not None:
            self._path.write_bytes(images.encode(self._image, ".png"))
