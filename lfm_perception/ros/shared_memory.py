# SPDX-License-Identifier: Apache-2.0
"""Files of Fast DDS under /dev/shm: left-overs of processes that died, room, and permissions.

Fast DDS locks `fastdds_ID_el` while the owner of the segment `fastdds_ID` lives, and `fastdds_portN_el` or
`_sl` while someone reads port N. A killed process leaves the files, unlocked.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import time
from contextlib import suppress
from pathlib import Path

FOLDER = Path("/dev/shm")
SEGMENT_BYTES = 67_108_864
"""Size of a process's segment for images (`fastdds.xml`)."""

MIN_AGE_S = 10.0
"""Age below which a file is left alone: its owner may be about to lock it."""

_SEGMENT_LOCK = re.compile(r"fastdds_[0-9a-f]{16}_el")
_LOCK = re.compile(r"(fastdds_(?:[0-9a-f]{16}|port\d{1,5}))_(?:el|sl)")


def clean(folder: Path = FOLDER) -> int:
    """Remove the files of dead processes of this user; returns the number of their segments and ports."""
    with suppress(OSError):
        names = {found[1] for each in folder.iterdir() if (found := _LOCK.fullmatch(each.name))}
        return sum(_removed(folder, name) for name in names)
    return 0


def restrict() -> None:
    """Make the segments of this process unreadable for other users. Call once its nodes exist.

    Fast DDS creates them readable for all, whatever the umask. Another user's process cannot communicate
    through them in any case, because that takes write permission.
    """
    for path in segments(os.getpid()):
        with suppress(OSError):
            path.chmod(0o600)


def remove_own() -> None:
    """Remove the segments that this process still has: a thread that does not end in time keeps them."""
    for path in segments(os.getpid()):
        for each in (path, path.with_name(f"{path.name}_el")):
            each.unlink(missing_ok=True)


def segments(process: int) -> list[Path]:
    """The segments whose locks a process of this user holds. /proc/locks would miss some now and then."""
    own = []
    with suppress(OSError):  # the process has ended
        for descriptor in Path(f"/proc/{process}/fd").iterdir():
            with suppress(OSError):  # the file was closed just now
                path = descriptor.readlink()
                is_lock = path.parent == FOLDER and _SEGMENT_LOCK.fullmatch(path.name)
                about = Path(f"/proc/{process}/fdinfo/{descriptor.name}") if is_lock else None
                if about and re.search(rf"^lock:.* {process} ", about.read_text(), re.MULTILINE):
                    own.append(path.with_name(path.name.removesuffix("_el")))
    return own


def room_problem(folder: Path = FOLDER) -> str | None:
    """Why images will not travel through shared memory, in a sentence; None if there is room."""
    try:
        usage = shutil.disk_usage(folder)
    except OSError:
        return f"{folder} is not there, and large images are lost without it: mount it (docker: --ipc=host)"
    if usage.free >= SEGMENT_BYTES:
        return None
    return (
        f"{folder} has {usage.free >> 20} MB free of {usage.total >> 20} MB and DDS needs "
        f"{SEGMENT_BYTES >> 20} MB for images, which are lost without it: in docker, give --shm-size=512m or "
        f"--ipc=host; otherwise mount -o remount,size=512m {folder}"
    )


def _removed(folder: Path, name: str) -> bool:
    """Remove a segment or port if all its locks are free, and held here meanwhile."""
    locks = [path for path in (folder / f"{name}_el", folder / f"{name}_sl") if path.exists()]
    files: list[int] = []
    try:
        for path in locks:
            files.append(os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC))
            status = os.fstat(files[-1])
            if status.st_uid != os.geteuid() or time.time() - status.st_mtime < MIN_AGE_S:
                return False
            fcntl.flock(files[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)
        for path in (folder / name, folder / f"sem.{name}_mutex", *locks):
            path.unlink(missing_ok=True)
    except OSError:  # locked: the owner lives; or gone meanwhile
        return False
    finally:
        for file in files:
            os.close(file)
    return True
