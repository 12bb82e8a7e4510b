# SPDX-License-Identifier: Apache-2.0
"""Checks whether this computer can run perception. Each problem is a sentence and has a remedy."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from packaging.requirements import Requirement

from lfm_perception.backends import chosen_backend
from lfm_perception.backends.llama import model_files
from lfm_perception.backends.supervisor import WorkerError
from lfm_perception.engine.crashes import Crash
from lfm_perception.engine.probe import Probe, probe
from lfm_perception.errors import PerceptionError
from lfm_perception.jetson import cuda_folder, read_jetson
from lfm_perception.models.store import Store
from lfm_perception.perception import open_perception
from lfm_perception.provenance import installed_version
from lfm_perception.scene import Frame
from lfm_perception.settings import Settings

PACKAGE = "lfm_perception"
OLDEST, NEWEST = (3, 10), (3, 13)

SHARED_MEMORY_BYTES = 128 << 20
"""Size of /dev/shm that two DDS participants need (ros/fastdds.xml): 64 MB each."""

MEASUREMENT_S = 3.0
"""Duration of the measurements of DDS and of a camera, seconds."""

MAX_TOPICS = 5
"""Image topics that a finding lists."""

WORKSPACE_ENVIRONMENT = ".venv-ros"
"""Folder of the environment that `make robot` makes beside ROS."""

REFUSING_RELEASE = "36.4.7"
"""Jetson Linux whose security fix limits GPU memory: https://github.com/dusty-nv/jetson-containers/issues/1568"""

SLOW_MODES, EFFICIENT_MODE = ("7W", "10W", "15W"), "25W"
"""Power modes of an Orin Nano; the efficient one is new in its Super version."""

DISCOVERY_S = 2.0
"""Time for the discovery of all nodes, seconds."""

MIN_ARRIVED = 0.9
"""Minimum share of images that arrive through DDS."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Result of one check: its subject and observation, and for a problem the remedy.

    `works`: perception can run, and the remedy makes it better or is for the case that it fails.
    """

    about: str
    found: str
    remedy: str = ""
    skipped: bool = False
    works: bool = False

    @property
    def is_problem(self) -> bool:
        """Whether the remedy is needed before perception can run."""
        return bool(self.remedy) and not self.works

    def __str__(self) -> str:
        mark = "!!" if self.is_problem else "--" if self.skipped else "ok"
        return f"{mark} {self.about}: {self.found}" + (f"\n   {self.remedy}" if self.remedy else "")


def examine(settings: Settings, camera: str | None = None, store: Store | None = None) -> Iterator[Finding]:
    """Run all checks, dependencies first. `camera`: number of a camera, or an image topic (`/image_raw`)."""
    yield check_python()
    yield from check_packages()
    yield from check_board(settings)
    yield from check_engine(settings)
    yield from check_store(store or Store())
    yield from check_dds()
    if camera:
        yield check_camera(camera, settings)
    else:
        yield Finding("camera", "not checked: give --camera with a number or a topic", skipped=True)


def check_python() -> Finding:
    found = f"Python {platform.python_version()} on {platform.machine()}"
    if not OLDEST <= sys.version_info[:2] <= NEWEST:
        return Finding("python", found, "use Python 3.10 to 3.13")
    if platform.machine() not in ("x86_64", "aarch64"):
        return Finding("python", found, "use a computer with an x86-64 or 64-bit ARM processor")
    return Finding("python", found)


def check_packages() -> Iterator[Finding]:
    """Check that the required packages are installed in the required versions."""
    try:
        required = [Requirement(line) for line in requires(PACKAGE) or []]
    except PackageNotFoundError:
        yield Finding("packages", f"{PACKAGE} runs without being installed", f"install it: {_make()}")
        return
    required = [each for each in required if each.marker is None or each.marker.evaluate({"extra": ""})]
    problems = 0
    for requirement in required:
        found = installed_version(requirement.name)
        if not found or not requirement.specifier.contains(found, prereleases=True):
            problems += 1
            yield Finding(
                "packages",
                f"{requirement.name} is {found or 'not installed'}, required is {requirement}",
                _repair(requirement),
            )
    if not problems:
        yield Finding("packages", f"{PACKAGE} {version(PACKAGE)} and its requirements")


def _make() -> str:
    """The command that makes an environment like the one this runs in."""
    if Path(sys.prefix).name == WORKSPACE_ENVIRONMENT:
        return "make robot"
    return "make jetson" if read_jetson() else "make desktop"


def _repair(requirement: Requirement) -> str:
    if Path(sys.prefix).name == WORKSPACE_ENVIRONMENT:  # pins would lift the distribution's packages
        return f"make it anew: rm -r {sys.prefix}, then make robot"
    return f"{sys.executable} -m pip install -c constraints.txt '{requirement}'"


def check_board(settings: Settings, root: Path = Path("/")) -> Iterator[Finding]:
    """Check Jetson Linux and the power mode of a Jetson, whose files are below `root`."""
    board = read_jetson(root)
    if board is None:
        return
    yield Finding("board", f"{board.model or 'a Jetson'} with Jetson Linux {board.release}")
    engine = settings.engine
    if board.release == REFUSING_RELEASE and engine.n_gpu_layers and engine.vision_gpu:
        found = f"Jetson Linux {board.release} refuses some GPU memory (NvMap error 12)"
        remedy = "if the inference fails, update JetPack, or set engine.vision_gpu to false"
        yield Finding("board", found, remedy, works=True)
    mode = board.power_modes.get(board.power_mode, "")
    if "Orin Nano" in board.model and mode in SLOW_MODES and EFFICIENT_MODE in board.power_modes.values():
        number = next(key for key, name in board.power_modes.items() if name == EFFICIENT_MODE)
        remedy = f"sudo nvpmodel -m {number}: {EFFICIENT_MODE} gives the most tokens per joule on this board"
        yield Finding("power", f"mode {mode}", remedy, works=True)
    elif mode:
        yield Finding("power", f"mode {mode}")


def check_engine(settings: Settings) -> Iterator[Finding]:
    """Check llama.cpp (loaded in another process first, as it may crash), GPU, model and an inference.

    A backend that does without llama.cpp is asked alone.
    """
    if settings.engine.backend != "llama":
        yield Finding("llama.cpp", f"not used by engine.backend {settings.engine.backend}", skipped=True)
        yield check_model(settings)
        yield check_inference(settings)
        return
    try:
        found = probe(model_files(settings)[0], settings.engine.n_gpu_layers)
    except PerceptionError as error:
        remedy = f"use complete model files, or install again: {_make()}"
        yield Finding("llama.cpp", str(error), remedy)
        return
    build = "a GPU" if found.gpu_build else "the CPU"
    yield Finding("llama.cpp", f"{installed_version('llama-cpp-python')}, for {build}")
    yield _check_gpu(found, settings.engine.n_gpu_layers)
    if found.gpus and settings.engine.n_gpu_layers and not found.no_vmm and read_jetson():
        remedy = "if the inference aborts, install again with make jetson or make robot, which set it"
        yield Finding("GPU", "llama.cpp was compiled without GGML_CUDA_NO_VMM", remedy, works=True)
    yield check_model(settings)
    yield check_inference(settings)


def _check_gpu(found: Probe, n_gpu_layers: int) -> Finding:
    gpus = ", ".join(found.gpus)
    if n_gpu_layers == 0:
        unused = f", {gpus} is not used" if gpus else ""
        return Finding("GPU", f"engine.n_gpu_layers is 0{unused}", skipped=True)
    if not found.gpu_build:
        cuda = cuda_folder()
        remedy = f"install CUDA, then {_make()}"
        if cuda and not shutil.which("nvcc"):
            remedy = f"{cuda} is not on PATH: export PATH={cuda}/bin:$PATH, then {_make()}"
        return Finding("GPU", "llama.cpp was compiled for the CPU only", remedy)
    if not found.gpus:
        remedy = "check the driver (nvidia-smi); in docker, start with --gpus all or --runtime nvidia"
        return Finding("GPU", "llama.cpp finds no GPU", remedy)
    if found.offloaded == 0:
        return Finding("GPU", f"no layer was offloaded to {gpus}", "free its memory, or use a smaller model")
    return Finding("GPU", f"{found.offloaded} of {found.layers} layers on {gpus}")


def check_model(settings: Settings) -> Finding:
    """Check the model's files and checksums, the server's address and key, or the recorded answers."""
    backend = chosen_backend(settings)
    try:
        return Finding("model", backend.check(settings))
    except PerceptionError as error:
        return Finding("model", str(error), backend.remedy)


def check_inference(settings: Settings) -> Finding:
    """Measure the start of the model and one inference, where the backend answers about any frame.

    llama.cpp runs in a worker process, which it may abort at the first image.
    """
    backend = chosen_backend(settings)
    settings = settings.with_values({"engine.isolation": "process"})
    frame = Frame(np.full((480, 640, 3), 90, np.uint8), stamp_ns=0)
    try:
        started = time.perf_counter()
        with open_perception(settings) as perception:
            opened = time.perf_counter()
            if not backend.any_frame:
                return Finding(
                    "inference", f"ready after {1e3 * (opened - started):.0f} ms, no frame to ask about"
                )
            perception.infer(frame)
            inferred = time.perf_counter()
    except WorkerError as error:
        crash = error.crash or Crash(str(error), "")
        return Finding("inference", crash.sentence, crash.remedy or backend.remedy)
    except PerceptionError as error:
        return Finding("inference", str(error), backend.remedy)
    start_s, frame_s = opened - started, inferred - opened
    found = f"ready after {1e3 * start_s:.0f} ms, inference latency {1e3 * frame_s:.0f} ms"
    return Finding("inference", found)


def check_store(store: Store) -> Iterator[Finding]:
    """Check the files of all models that were pulled or added."""
    for name in store.names():
        problem = store.problem(name)
        remedy = f"lfm-perception models verify {name}" if problem else ""
        yield Finding("models", problem or f"{name} is unchanged", remedy)


def check_dds() -> Iterator[Finding]:
    """Check that images arrive through DDS from another process."""
    if find_spec("rclpy") is None:
        yield Finding("DDS", "ROS 2, which only the node needs, is not installed", skipped=True)
        return
    if find_spec("vision_msgs") is None:
        yield Finding("ROS 2", "vision_msgs is missing", "sudo apt install ros-$ROS_DISTRO-vision-msgs")
    room = shutil.disk_usage("/dev/shm").total
    if room < SHARED_MEMORY_BYTES:
        yield Finding(
            "shared memory",
            f"/dev/shm has {room >> 20} MB, DDS needs {SHARED_MEMORY_BYTES >> 20} MB for camera images",
            "in docker, give --shm-size=512m or --ipc=host; otherwise mount -o remount,size=512m /dev/shm",
        )
    try:
        yield from _measure_dds()
    except PerceptionError as error:
        yield Finding("ROS 2", str(error), "then run lfm-perception doctor again")


def _measure_dds() -> Iterator[Finding]:
    variables = sorted(name for name in os.environ if name.startswith(("FASTDDS_", "FASTRTPS_", "RMW_")))
    from lfm_perception.ros.dds_check import HEIGHT, RATE_HZ, WIDTH, measure_dds
    from lfm_perception.ros.names import find_shared_names

    for name in find_shared_names(DISCOVERY_S):
        remedy = "end one, or start one in another namespace (namespace:=)"
        yield Finding("nodes", f"several nodes are called {name}", remedy)
    arrived = measure_dds(MEASUREMENT_S)
    found = (
        f"{arrived.rate_hz:.1f} of {RATE_HZ:.0f} images of {WIDTH}x{HEIGHT} per second, "
        f"latency {1000 * arrived.latency_s:.0f} ms"
    )
    if arrived.rate_hz >= MIN_ARRIVED * RATE_HZ:
        yield Finding("DDS", found)
    elif variables:
        remedy = f"unset {', '.join(variables)}: without them, images use 64 MB of shared memory"
        yield Finding("DDS", found, remedy)
    else:
        yield Finding("DDS", found, "stop the programs that keep the processor busy")


def check_camera(camera: str, settings: Settings) -> Finding:
    """Check the frame rate of a camera or an image topic."""
    is_topic = camera.startswith("/") and not Path(camera).exists()
    try:
        if is_topic:
            return _check_topic(camera, settings)
        rate_hz = _camera_rate(camera)
    except PerceptionError as error:
        return Finding("camera", str(error), "check the cable, the driver and other programs that use it")
    if rate_hz == 0.0:
        return Finding("camera", f"no image arrived from {camera}", "check its cable and driver")
    return _judged_rate(camera, rate_hz, settings)


def _judged_rate(camera: str, rate_hz: float, settings: Settings) -> Finding:
    minimum_hz = settings.node.input_hz_warn
    found = f"{camera} delivers {rate_hz:.1f} images per second"
    if rate_hz < minimum_hz:
        remedy = "use a smaller format or more light (exposure), or lower node.input_hz_warn"
        return Finding("camera", f"{found}, node.input_hz_warn is {minimum_hz:g}", remedy)
    return Finding("camera", found)


def _check_topic(topic: str, settings: Settings) -> Finding:
    if find_spec("rclpy") is None:
        raise PerceptionError(f"{topic} is a topic, and ROS 2 is not installed")
    from lfm_perception.ros import transport
    from lfm_perception.ros.dds_check import IMAGE_TYPES, observe_topic

    seen = observe_topic(topic, MEASUREMENT_S, settings.node.image_reliability)
    senders = ", ".join(sorted({each.node for each in seen.publishers}))
    published = ", ".join(seen.image_topics[:MAX_TOPICS]) or "none"
    if not seen.publishers:
        remedy = f"start the camera, and check topic (image topics here: {published}) and ROS_DOMAIN_ID"
        return Finding("camera", f"{topic} has no publisher", remedy)
    if others := sorted({each.type for each in seen.publishers} - IMAGE_TYPES.keys()):
        remedy = f"give a topic of type sensor_msgs/msg/Image or CompressedImage (here: {published})"
        return Finding("camera", f"{topic} of {senders} has the type {', '.join(others)}", remedy)
    if not all(each.compatible for each in seen.publishers):
        found = f"{senders} sends {topic} best effort, and node.image_reliability is reliable"
        return Finding("camera", found, "set node.image_reliability to best_effort")
    arrived = seen.statistics
    variable = " ".join(f"{name}={path}" for name, path in transport.variable().items())
    remedy = (
        f"start {senders} with {variable}: without this profile, Fast DDS loses large images; "
        "if it has it, stop the programs that keep the processor busy"
    )
    if arrived.count == 0:
        found = f"{topic} has {len(seen.publishers)} publisher ({senders}), and no image arrived"
        return Finding("camera", found, f"if it is sending, {remedy}")
    if arrived.rate_hz < MIN_ARRIVED * arrived.sender_hz:
        found = f"{arrived.rate_hz:.1f} of {arrived.sender_hz:.1f} images per second arrive from {topic}"
        return Finding("camera", found, remedy)
    return _judged_rate(topic, arrived.rate_hz, settings)


def _camera_rate(camera: str) -> float:
    from lfm_perception.media.sources import open_source

    with open_source(camera) as source:
        times: list[float] = []
        for _ in source.frames:
            times.append(time.monotonic())
            if times[-1] - times[0] > MEASUREMENT_S:
                break
    return (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 else 0.0
