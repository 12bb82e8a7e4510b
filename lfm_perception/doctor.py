"""Whether this computer can run perception: every problem in a sentence, with what to do about it.

Each check is a function of its own that tells what it found; `examine` makes them all, in the order in which
one thing needs another.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from packaging.requirements import Requirement

from lfm_perception.backends.local import model_files
from lfm_perception.backends.registry import chosen_backend
from lfm_perception.engine.probe import probe
from lfm_perception.errors import PerceptionError
from lfm_perception.models.store import Store
from lfm_perception.perception import open_perception
from lfm_perception.provenance import installed_version
from lfm_perception.scene import Frame
from lfm_perception.settings import Settings

PACKAGE = "lfm_perception"
OLDEST, NEWEST = (3, 10), (3, 13)

SHARED_MEMORY_BYTES = 128 << 20
"""What two participants of DDS need in /dev/shm (ros/fastdds.xml): 64 MB each."""

LINK_S = 3.0
"""How long images are sent through DDS, or taken from a camera."""

LINK_LEAST = 0.9
"""Share of the images that must arrive."""


class State(Enum):
    """How a finding is meant; only a problem makes the doctor's verdict a bad one."""

    GOOD = "ok"
    SKIPPED = "--"
    PROBLEM = "!!"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at; `remedy` says what to do about a problem."""

    about: str
    state: State
    found: str
    remedy: str = ""


def good(about: str, found: str) -> Finding:
    return Finding(about, State.GOOD, found)


def skipped(about: str, found: str) -> Finding:
    return Finding(about, State.SKIPPED, found)


def problem(about: str, found: str, remedy: str) -> Finding:
    return Finding(about, State.PROBLEM, found, remedy)


def examine(settings: Settings, camera: str | None = None, store: Store | None = None) -> Iterator[Finding]:
    """All findings. `camera` is the number of a camera, or an image topic (`/image_raw`)."""
    yield check_python()
    yield from check_packages()
    yield from check_engine(settings)
    yield from check_store(store or Store())
    yield from check_dds()
    yield (
        check_camera(camera, settings)
        if camera
        else skipped("camera", "none was named: --camera 0 or a topic")
    )


def check_python() -> Finding:
    found = f"Python {platform.python_version()} on {platform.machine()}"
    if not OLDEST <= sys.version_info[:2] <= NEWEST:
        return problem("python", found, "use Python 3.10 to 3.13")
    if platform.machine() not in ("x86_64", "aarch64"):
        return problem("python", found, "use a computer with an x86-64 or 64-bit ARM processor")
    return good("python", found)


def check_packages() -> Iterator[Finding]:
    """The packages that this one needs, in the versions that it needs."""
    try:
        wanted = [Requirement(line) for line in requires(PACKAGE) or []]
    except PackageNotFoundError:
        yield problem("packages", f"{PACKAGE} runs without being installed", "install it: make desktop")
        return
    wanted = [each for each in wanted if each.marker is None or each.marker.evaluate({"extra": ""})]
    wrong = [each for each in wanted if not _fits(installed_version(each.name), each)]
    for requirement in wrong:
        found = installed_version(requirement.name) or "not installed"
        yield problem(
            "packages",
            f"{requirement.name} is {found}, needed is {requirement}",
            f"pip install -c constraints.txt '{requirement}'",
        )
    if not wrong:
        yield good("packages", f"{PACKAGE} {version(PACKAGE)} and all that it needs")


def _fits(found: str, wanted: Requirement) -> bool:
    return bool(found) and wanted.specifier.contains(found, prereleases=True)


def check_engine(settings: Settings) -> Iterator[Finding]:
    """llama.cpp, in another process first, which it may end: whether it runs, with which model, and where."""
    model, wanted = model_files(settings)[0], settings.engine.n_gpu_layers
    try:
        found = probe(model, wanted)
    except PerceptionError as error:
        yield problem(
            "llama.cpp", str(error), "give a whole model, or install again: make desktop, make jetson"
        )
        return
    yield good(
        "llama.cpp",
        f"{installed_version('llama-cpp-python')}, for {'a GPU' if found.gpu_build else 'the CPU'}",
    )
    gpus = ", ".join(found.gpus)
    if wanted == 0:
        yield skipped("GPU", f"engine.n_gpu_layers is 0{f', {gpus} is not used' if gpus else ''}")
    elif not found.gpu_build:
        yield problem(
            "GPU", "llama.cpp was compiled for the CPU alone", "make desktop or make jetson, with CUDA there"
        )
    elif not found.gpus:
        yield problem(
            "GPU",
            "llama.cpp finds no GPU",
            "check the driver (nvidia-smi); in docker, start with --gpus all or --runtime nvidia",
        )
    elif found.offloaded == 0:
        yield problem("GPU", f"no layer went to {gpus}", "free memory on it, or use a smaller model")
    else:
        yield good("GPU", f"{found.offloaded} of {found.layers} layers on {gpus}")
    yield check_model(settings)
    yield _ask(settings)


def check_model(settings: Settings) -> Finding:
    """The model's files and checksums, the server's address and key, or the recorded answers."""
    backend = chosen_backend(settings)
    try:
        return good("model", backend.check(settings))
    except PerceptionError as error:
        return problem("model", str(error), backend.remedy)


def _ask(settings: Settings) -> Finding:
    frame = Frame(np.full((480, 640, 3), 90, np.uint8), stamp_ns=0)
    try:
        started = time.perf_counter()
        with open_perception(settings) as perception:
            opened = time.perf_counter()
            perception.infer(frame)
            answered = time.perf_counter()
    except PerceptionError as error:
        return problem("answer", str(error), chosen_backend(settings).remedy)
    return good("answer", f"ready after {opened - started:.1f} s, one frame in {answered - opened:.2f} s")


def check_store(store: Store) -> Iterator[Finding]:
    """All models that were pulled or added."""
    for name in store.names():
        yield _check_stored(store, name)


def _check_stored(store: Store, name: str) -> Finding:
    try:
        store.find(name).check()
    except PerceptionError as error:
        return problem("models", str(error), f"lfm-perception models verify {name}")
    return good("models", f"{name} is as it came")


def check_dds() -> Iterator[Finding]:
    """Whether images come through DDS from one process to another."""
    if find_spec("rclpy") is None:
        yield skipped("DDS", "there is no ROS 2 here; the node needs it, the command line does not")
        return
    if find_spec("vision_msgs") is None:
        yield problem("ROS 2", "vision_msgs is missing", "sudo apt install ros-$ROS_DISTRO-vision-msgs")
    room = shutil.disk_usage("/dev/shm").total
    if room < SHARED_MEMORY_BYTES:
        yield problem(
            "shared memory",
            f"/dev/shm has {room >> 20} MB, DDS needs {SHARED_MEMORY_BYTES >> 20} MB for camera images",
            "in docker, give --shm-size=512m or --ipc=host; else mount -o remount,size=512m /dev/shm",
        )
    from lfm_perception.ros.dds_check import HEIGHT, RATE_HZ, WIDTH, measure_dds

    chosen = sorted(name for name in os.environ if name.startswith(("FASTDDS_", "FASTRTPS_", "RMW_")))
    arrived = measure_dds(LINK_S)
    found = (
        f"{arrived.rate_hz:.1f} of {RATE_HZ:.0f} images of {WIDTH}x{HEIGHT} a second, "
        f"{1000 * arrived.latency_s:.0f} ms each"
    )
    if arrived.rate_hz >= LINK_LEAST * RATE_HZ:
        yield good("DDS", found)
    elif chosen:
        yield problem("DDS", found, f"unset {', '.join(chosen)}: without, 64 MB of shared memory carry them")
    else:
        yield problem("DDS", found, "end the programs that keep the processor busy")


def check_camera(camera: str, settings: Settings) -> Finding:
    """How often images come from a camera or on a topic."""
    try:
        rate = (
            _topic_rate(camera)
            if camera.startswith("/") and not Path(camera).exists()
            else _camera_rate(camera)
        )
    except PerceptionError as error:
        return problem("camera", str(error), "check the cable, the driver and who else uses it")
    least = settings.node.input_hz_warn
    if rate == 0.0:
        return problem(
            "camera", f"no image came from {camera}", "start the camera, and check topic and ROS_DOMAIN_ID"
        )
    if rate < least:
        return problem(
            "camera",
            f"{camera} gives {rate:.1f} images a second, node.input_hz_warn is {least:g}",
            "use a smaller format or more light (exposure), or lower node.input_hz_warn",
        )
    return good("camera", f"{camera} gives {rate:.1f} images a second")


def _topic_rate(topic: str) -> float:
    if find_spec("rclpy") is None:
        raise PerceptionError(f"{topic} is a topic, and there is no ROS 2 here")
    from lfm_perception.ros.dds_check import measure_topic

    return measure_topic(topic, LINK_S).rate_hz


def _camera_rate(camera: str) -> float:
    from lfm_perception.media.sources import open_source

    with open_source(camera) as source:
        times: list[float] = []
        for _ in source.frames:
            times.append(time.monotonic())
            if times[-1] - times[0] > LINK_S:
                break
    return (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 else 0.0
