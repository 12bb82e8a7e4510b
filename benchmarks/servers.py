# SPDX-License-Identifier: Apache-2.0
"""Servers that nobody here wrote, with the demo model: do they compute the image tokens that were planned?

    python benchmarks/servers.py llama_cpp.server [--sizes 50] [--json FILE]
    python benchmarks/servers.py llama-server --sources llama-cpp-python-0.3.36     (builds it, minutes)
    python benchmarks/servers.py URL                       (any server that runs, such as transformers serve)

`--sources` is the unpacked sdist of the installed version of llama-cpp-python (`pip download --no-deps
--no-binary :all:`), whose vendor/llama.cpp holds llama-server. Half of the sizes are planned without tiles,
half with up to 4.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np

from lfm_perception.backends.llama import model_files
from lfm_perception.backends.openai import OpenaiVlm
from lfm_perception.planning.planner import Planner
from lfm_perception.provenance import versions
from lfm_perception.questions import BBOX, FramePlan, detect
from lfm_perception.scene import Frame
from lfm_perception.settings import Settings

BUILD = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lfm_perception" / "llama-server"
START_S = 60.0
ANSWER_TOKENS = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("server", help="llama_cpp.server, llama-server or an address")
    parser.add_argument("--sources", type=Path, help="unpacked sdist of llama-cpp-python")
    parser.add_argument("--name", help="name and version of the server in the results")
    parser.add_argument("--sizes", type=int, default=50)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    port = free_port()
    if options.server.startswith("http"):
        found = measure(options.server, options.sizes)
    else:
        command = (
            llama_server(options.sources, port) if options.server == "llama-server" else python_server(port)
        )
        with running(command, port) as url:
            found = measure(url, options.sizes)
    found = {"server": options.name or options.server, **found, "versions": versions()}
    print(json.dumps({key: value for key, value in found.items() if key != "differ"}, indent=2))
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")


def python_server(port: int) -> list[str]:
    model, mmproj = map(str, model_files(Settings()))
    return [
        *(sys.executable, "-m", "llama_cpp.server", "--host", "127.0.0.1", "--port", str(port)),
        *("--model", model, "--chat_format", "mtmd", "--clip_model_path", mmproj, "--n_ctx", "4096"),
        *("--n_threads", "1", "--verbose", "false"),
    ]


def llama_server(sources: Path | None, port: int) -> list[str]:
    """The command of llama-server, built on first use around the libraries of llama-cpp-python."""
    program = BUILD / "bin" / "llama-server"
    if not program.exists():
        if sources is None:
            raise SystemExit("give --sources with the unpacked sdist of llama-cpp-python")
        libraries = Path(llama_cpp.__file__).parent / "lib"
        tree = ("-S", str(Path(__file__).parent / "llama_server"), "-B", str(BUILD), "-DCMAKE_CXX_FLAGS=-O0")
        places = (f"-DSOURCES={sources.resolve()}/vendor/llama.cpp", f"-DLIBRARIES={libraries}")
        subprocess.run(["cmake", *tree, *places], check=True)
        build = ("--build", str(BUILD), "--target", "llama-server", "--parallel", "2")
        subprocess.run(["cmake", *build], check=True)
    model, mmproj = map(str, model_files(Settings()))
    return [
        str(program),
        *("--host", "127.0.0.1", "--port", str(port), "-m", model, "--mmproj", mmproj, "-c", "4096"),
        *("--threads", "1"),
    ]


@contextmanager
def running(command: list[str], port: int) -> Iterator[str]:
    """The address of the server that the command starts."""
    url = f"http://127.0.0.1:{port}/v1"
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + START_S
        while True:
            try:
                urllib.request.urlopen(f"{url}/models", timeout=1.0).close()
                break
            except OSError as error:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"the server did not start: {command}") from error
                time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        process.wait()


def measure(url: str, sizes: int) -> dict[str, Any]:
    """Planned and counted image tokens over random sizes."""
    generator, question = random.Random(0), detect(BBOX, ("box",))
    asked: list[dict[str, Any]] = []
    for tiles in (1, 4):
        values = {
            "engine.backend": "openai",
            "openai.url": url,
            "openai.timeout": 120.0,
            "image.max_tiles": tiles,
        }
        settings = Settings().with_values(values)
        planner = Planner(settings)
        with closing(OpenaiVlm(settings, print)) as vlm:
            warm_up(vlm)
            for index in range(sizes // 2):
                width, height = generator.randint(100, 2000), generator.randint(100, 1400)
                plan = planner.plan_first(width, height, ANSWER_TOKENS, 0.0)
                frame = Frame(np.zeros((height, width, 3), np.uint8), index)
                counted = vlm.describe(frame, question, plan).usage.image_tokens
                grid = f"{plan.image.columns}x{plan.image.rows}"
                asked.append(
                    {
                        "size": f"{width}x{height}",
                        "grid": grid,
                        "planned": plan.image.tokens,
                        "counted": counted,
                    }
                )
    tiled = sum(each["grid"] != "1x1" for each in asked)
    differ = [each for each in asked if each["planned"] != each["counted"]]
    return {
        "sizes": len(asked),
        "tiled": tiled,
        "above the plan": sum(each["counted"] > each["planned"] for each in asked),
        "different": len(differ),
        "differ": differ,
    }


def warm_up(vlm: OpenaiVlm) -> None:
    """Ask once, and wait until the tokens of the text are counted."""
    plan = Planner(Settings()).plan_first(256, 256, ANSWER_TOKENS, 0.0)
    frame = Frame(np.zeros((256, 256, 3), np.uint8), 0)
    vlm.describe(frame, detect(BBOX, ("box",)), FramePlan(plan.image, ANSWER_TOKENS))
    time.sleep(3.0)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


if __name__ == "__main__":
    main()
