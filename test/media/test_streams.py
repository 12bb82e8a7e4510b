# SPDX-License-Identifier: Apache-2.0
"""Streams: of a server that the user names, and of standard input."""

from __future__ import annotations

import functools
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import pytest
from material import failure, noise, read, write_video


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """The address of a server of the files of `tmp_path`."""
    running = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(tmp_path)))
    threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{running.server_port}"
    running.shutdown()
    running.server_close()


def test_a_stream_of_a_server_is_read(server: str, tmp_path: Path) -> None:
    write_video(tmp_path / "video.avi", 7)
    assert [frame.stamp_ns for frame in read(f"{server}/video.avi")] == [
        index * 50_000_000 for index in range(7)
    ]


def test_a_stream_that_cannot_be_opened_is_one_sentence(server: str) -> None:
    assert f"stream {server}/none.mp4 cannot be opened" in failure(f"{server}/none.mp4")
    refused = failure("rtsp://robot:secret@127.0.0.1:9/camera")
    assert (
        "stream rtsp://127.0.0.1:9/camera cannot be opened (Connection refused): check its address" in refused
    )


def test_a_playlist_of_a_server_opens_no_file_of_this_computer(server: str, tmp_path: Path) -> None:
    video = write_video(tmp_path / "video.avi")
    (tmp_path / "list.m3u8").write_text(
        f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile://{video}\n#EXT-X-ENDLIST\n"
    )
    failure(f"{server}/list.m3u8")


def test_images_of_standard_input_are_read() -> None:
    pictures = b"".join(cv2.imencode(".jpg", noise(seed=seed))[1].tobytes() for seed in range(5))
    program = (
        "from lfm_perception.media.sources import open_source\n"
        "with open_source('-') as source: print(len(list(source.frames)))"
    )
    done = subprocess.run([sys.executable, "-c", program], input=pictures, capture_output=True, timeout=60)
    assert (done.stdout, done.stderr) == (b"5\n", b"")
