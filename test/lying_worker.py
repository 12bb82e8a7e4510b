# SPDX-License-Identifier: Apache-2.0
"""A worker process in place of an adviser's, which misbehaves as its last argument says."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path


def main(replies: int, fault: str) -> None:
    sys.stdin.buffer.readline()
    if fault == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    if fault == "ends":
        sys.exit(3)
    said = {
        "hangs": b"",
        "stops halfway": b'{"answer": ',
        "megabytes": b"x" * 3_000_000,
        "garbage": b"\xff\xfe\x00 no JSON\n",
        "list": b"[1, 2]\n",
        "no answer": b'{"confidence": 0.5}\n',
        "number": b'{"answer": 7, "confidence": null}\n',
        "NaN": b'{"answer": "x", "confidence": NaN}\n',
        "nested": b"[" * 50_000 + b"\n",
        "ready twice": b'{"ready": true}\n{"ready": true}\n',
    }[fault]
    try:
        while said:
            said = said[os.write(replies, said) :]
    except OSError:
        return
    time.sleep(600.0)


if __name__ == "__main__":
    main(int(sys.argv[2]), Path(sys.argv[-1]).name)
