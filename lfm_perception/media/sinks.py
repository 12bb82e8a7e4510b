"""Where results go: one folder per run, which shows either all of its files or none of them."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
from rosbags.rosbag2 import WriterError

from lfm_perception.errors import PerceptionError
from lfm_perception.media.bags import BagSink
from lfm_perception.scene import Frame, Image, Scene, Track
from lfm_perception.scene_json import scene_to_json

SCENES, VIDEO, STILL, SUMMARY = "scenes.jsonl", "overlay.mp4", "overlay.png", "summary.json"
BAG = "perception_bag"
RESULTS = (SCENES, VIDEO, STILL, SUMMARY, BAG)
"""Names in the folder of a run; a later run replaces them."""

X264 = {"preset": "veryfast", "crf": "23"}
"""About 5 ms for a picture of 640 x 480 on one core."""


class Staging:
    """Files gathered in the hidden folder `path`, which appear in `folder` together; see `staged`."""

    def __init__(self, folder: Path, path: Path) -> None:
        self.folder, self.path = folder, path

    def publish(self) -> None:
        """Put everything in place, over what an earlier run left by the same names."""
        for new in sorted(self.path.iterdir()):
            old = self.folder / new.name
            if old.is_dir():
                old.rename(self.path / f"old-{new.name}")
            new.replace(old)


@contextmanager
def staged(folder: Path) -> Iterator[Staging]:
    """A place to gather files for `folder`, which is made where missing. Without `publish` no trace is left.

    Raises PerceptionError when the folder cannot be written.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    with ExitStack() as cleaning:
        cleaning.callback(_remove_empty, made)
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            hidden = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=folder))
        cleaning.callback(shutil.rmtree, hidden, ignore_errors=True)
        yield Staging(folder, hidden)


@contextmanager
def open_recording(folder: Path, rate: float, *, bag: bool = False) -> Iterator[Recording]:
    """A recording in `folder`, which is made where missing. Without `finish` it leaves no trace.

    `rate` is the video's, frames per second; `bag` asks for a rosbag2 too. Raises PerceptionError when
    something cannot be written, here or in any method.
    """
    with staged(folder) as staging, ExitStack() as cleaning:
        with writing(folder):
            recording = Recording(staging, rate, bag=bag)
        cleaning.callback(recording.abort)
        yield recording


class Recording:
    """The files of one run, put in place together; see `open_recording`."""

    def __init__(self, staging: Staging, rate: float, *, bag: bool) -> None:
        self.folder = staging.folder
        self._staging = staging
        hidden = self._hidden = staging.path
        self._rate = rate
        self._scenes = (hidden / SCENES).open("w", encoding="utf-8")
        self._video: VideoFile | None = None
        self._still: Image | None = None
        self._bag = BagSink(hidden / BAG) if bag else None

    def write_scene(self, scene: Scene, index: int) -> None:
        """What the model saw in frame `index` of the source."""
        record = json.dumps(scene_to_json(scene, index), ensure_ascii=False, allow_nan=False)
        with writing(self.folder):
            self._scenes.write(record + "\n")
            if self._bag is not None:
                self._bag.write_scene(scene, record)

    def write_frame(self, frame: Frame, tracks: Sequence[Track], picture: Image) -> None:
        """The drawing of any frame, RGB; all have the size of the first, even in both directions."""
        with writing(self.folder):
            if self._video is None:
                self._video = VideoFile(self._hidden / VIDEO, picture.shape[1], picture.shape[0], self._rate)
            self._video.write(picture)
            if self._bag is not None:
                self._bag.write_frame(frame, tracks, picture)

    def keep_still(self, picture: Image) -> None:
        """Make this drawing the one that stands for the run."""
        self._still = picture

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Complete the files and put them in place, over those of an earlier run."""
        with writing(self.folder):
            self._scenes.close()
            if self._video is not None:
                self._video.finish()
            if self._bag is not None:
                self._bag.close()
            if self._still is not None:
                _, png = cv2.imencode(".png", cv2.cvtColor(self._still, cv2.COLOR_RGB2BGR))
                (self._hidden / STILL).write_bytes(png.tobytes())
            text = json.dumps(summary, indent=2, ensure_ascii=False, allow_nan=False)
            (self._hidden / SUMMARY).write_text(text + "\n", encoding="utf-8")
            self._staging.publish()

    def abort(self) -> None:
        """Let go of all files, finished or not."""
        closing = [self._scenes.close]
        if self._video is not None:
            closing.append(self._video.close)
        if self._bag is not None:
            closing.append(self._bag.abort)
        for close in closing:
            with suppress(OSError, av.FFmpegError):  # what was wrong has been reported already
                close()


class VideoFile:
    """An H.264 video in MP4, which browsers, phones and players show; OpenCV's wheel cannot write it."""

    def __init__(self, path: Path, width: int, height: int, rate: float) -> None:
        """`width` and `height` in pixels, even; `rate` in frames per second."""
        self._container = av.open(str(path), "w", options={"movflags": "+faststart"})
        speed = Fraction(rate).limit_denominator(1001)
        self._stream = self._container.add_stream("libx264", rate=speed, options=X264)
        self._stream.width, self._stream.height = width, height
        self._stream.pix_fmt = "yuv420p"
        self._stream.codec_context.thread_count = 1  # the cores belong to the model

    def write(self, picture: Image) -> None:
        """Add a picture, RGB."""
        self._container.mux(self._stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))

    def finish(self) -> None:
        """Write what is still in the encoder, and close."""
        self._container.mux(self._stream.encode())
        self._container.close()

    def close(self) -> None:
        """Let go of the file; without `finish` it lacks its last pictures."""
        self._container.close()


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """What goes wrong with writing in this block is a PerceptionError that names `folder`."""
    try:
        yield
    except (OSError, WriterError, av.FFmpegError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise PerceptionError(f"cannot write to {folder}: {reason.lower()}") from error


def _remove_empty(folders: Sequence[Path]) -> None:
    for folder in folders:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
