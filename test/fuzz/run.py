# SPDX-License-Identifier: Apache-2.0
"""Fuzz test: mutated input for every reader of data from outside.

    python test/fuzz/run.py [--inputs 200000] [--readers NAME ...] [--seed 0] [--out FILE [--add]]

For each input three things must hold, else it is a failure:

- nothing is raised but the package's own `PerceptionError`, in one printable line of at most 300 characters;
- it takes less than `LIMIT_S` seconds of processor time and `MEMORY_BYTES` of memory;
- nothing is left: no file beside the input, no open file descriptor.

`readers.py` holds one entry for each reader: how an input is made, and what is done with it. The number of
inputs is divided evenly. Inputs depend only on the seed, the reader and their number; a failure is printed
with its number, and `--readers NAME --first NUMBER --inputs 1` repeats it. Readers run in a process of their
own, forked from one that has imported the package, and replaced when an input kills or blocks it. `make test`
does a short run (`test_fuzz.py`). Exits 1 when anything failed.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from readers import READERS, Reader

from lfm_perception.errors import PerceptionError
from lfm_perception.provenance import versions
from lfm_perception.text import MAX_SENTENCE, is_safe

LIMIT_S = 5.0
"""Maximum processor time for one input."""

BLOCKED_S = 30.0
"""Time without progress after which a reader's process is killed."""

MEMORY_BYTES = 1 << 30
"""Maximum growth of the address space of a reader's process."""

PRELOADED = [
    "av", "cv2", "jsonschema", "rich.console", "rosbags.rosbag2", "sqlcipher3", "typer",
    *(f"lfm_perception.{name}" for name in (
        "backends.llama", "backends.openai_protocol", "cli.options", "drift", "engine.gguf_checks",
        "evaluation.compare", "evaluation.labels", "evaluation.languages", "evaluation.sequences", "memory",
        "media.charts", "media.sinks.bag", "media.sources", "models.store", "mqtt.payloads", "perception",
        "ros.launch_arguments", "rules",
    )),
]  # fmt: skip
"""Modules that readers import: once, where they can be imported, before the readers' processes begin."""

FORKING = multiprocessing.get_context("forkserver")
FORKING.set_forkserver_preload(["__main__", *PRELOADED])

FILES = ("output", "errors", "progress")
"""What a reader's process writes."""

SHOWN = 20
"""Maximum number of failures that are printed for each reader."""

MAX_FAILURES = 1000
"""Number of failures at which a reader is given up."""


class TooSlow(BaseException):
    """An input took longer than `LIMIT_S`; no reader can catch it by mistake."""


# --- one reader in its own process ------------------------------------------------------------------


def input_of(reader: Reader, seed: int, number: int) -> bytes:
    """The input of this number: first those made by hand, then mutated ones."""
    by_hand = reader.by_hand()
    if number < len(by_hand):
        return by_hand[number]
    return reader.make(random.Random(f"{seed} {reader.name} {number}"))


def run_worker(reader: str, seed: int, first: int, count: int, folder: Path) -> None:
    """The reader's process; what it prints, and the number that it has come to, are files of the folder."""
    output, errors, progress = (os.open(folder / name, os.O_RDWR) for name in FILES)
    os.dup2(output, 1)
    os.dup2(errors, 2)
    work(next(each for each in READERS if each.name == reader), seed, first, count, progress)


def work(reader: Reader, seed: int, first: int, count: int, progress: int) -> None:
    """Give a reader its inputs; the result of each is a line on standard output, if it is a failure."""
    found: Counter[str] = Counter()
    slowest = 0.0
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        read = reader.prepare(Path(folder))
        _read(reader, Path(folder), read, input_of(reader, seed, 0))  # imports and caches
        _limit_memory()
        before = _left(Path(folder))
        memory_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for number in range(first, first + count):
            os.pwrite(progress, f"{number:12d}".encode(), 0)
            data, began = input_of(reader, seed, number), time.process_time()
            outcome, problem = _read(reader, Path(folder), read, data)
            seconds = time.process_time() - began
            slowest = max(slowest, seconds)
            if not problem and (left := _left(Path(folder)) ^ before):
                problem, before = f"left behind: {sorted(left)}", _left(Path(folder))
            found["failures" if problem else outcome] += 1
            if problem:
                print(json.dumps({"number": number, "problem": problem}), flush=True)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory_kb
    print(json.dumps({"found": found, "slowest_s": round(slowest, 3), "memory_mb": grown >> 10}), flush=True)


def _read(reader: Reader, folder: Path, read: Callable[[Any], object], data: bytes) -> tuple[str, str]:
    """Whether the input is `accepted` or `refused`, and what is wrong with that."""
    try:
        with _time_limit():
            if reader.file:
                file = folder / reader.file
                file.write_bytes(data)
                read(file)
            else:
                read(data)
    except PerceptionError as error:
        return "refused", _problem_of_sentence(str(error))
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        place = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in place if "lfm_perception" in frame.filename] or place
        return "", f"{type(error).__name__}: {str(error)[:200]} @ {own[-1].filename}:{own[-1].lineno}"
    return "accepted", ""


def _problem_of_sentence(text: str) -> str:
    if not text or len(text) > MAX_SENTENCE:
        return f"a sentence of {len(text)} characters: {text[:200]!r}"
    return "" if is_safe(text) and not set(text) & {"\n", "\t"} else f"not one printable line: {text!r}"


@contextmanager
def _time_limit() -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise TooSlow(f"took more than {LIMIT_S:g} s")

    signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, LIMIT_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _left(folder: Path) -> set[str]:
    """The files of the folder, and the open file descriptors."""
    files = {str(path.relative_to(folder)) for path in folder.rglob("*")}
    return files | {f"descriptor {number}" for number in _descriptors()}


def _descriptors() -> set[int]:
    """Those that are open, without the one that lists them."""
    return {int(path.name) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()}


# --- all readers ------------------------------------------------------------------------------------


def fuzz(reader: Reader, seed: int, first: int, count: int) -> dict[str, Any]:
    """The figures of one reader. Inputs that kill or block its process are failures too."""
    total = Counter(accepted=0, refused=0, failures=0)
    figures: dict[str, Any] = {"slowest_s": 0.0, "memory_mb": 0}
    failures: list[dict[str, Any]] = []
    number, end = first, first + count
    while number < end:
        lines, died, at = _worker(reader, seed, number, end - number)
        for line in lines:
            if "found" in line:
                total.update(line["found"])
                figures = {name: max(figures[name], line[name]) for name in figures}
            else:
                failures.append(line)
        if died:  # what it counted until then is lost with it
            failures.append({"number": at, "problem": died})
            total.update(failures=1 + sum("problem" in line for line in lines))
            total.update(unknown=at - number - sum("problem" in line for line in lines))
        number = at + 1 if died else end
        if len(failures) >= MAX_FAILURES:
            break
    return {"inputs": count, **total, **figures, "shown": failures[:SHOWN]}


def _worker(reader: Reader, seed: int, first: int, count: int) -> tuple[list[Any], str, int]:
    """The lines of a reader's process, how it died, if it did, and the number that it had come to."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        files = [Path(name, file) for file in FILES]
        for file in files:
            file.touch()
        process = FORKING.Process(target=run_worker, args=(reader.name, seed, first, count, Path(name)))
        process.start()
        last, died = "", ""
        while process.exitcode is None:
            process.join(BLOCKED_S)
            if process.exitcode is None:
                if (now := files[-1].read_text()) == last and last:
                    process.kill()
                    died = f"blocked for more than {BLOCKED_S:g} s"
                last = now
        output, said, at = (file.read_text(errors="replace") for file in files)
    if process.exitcode and not died:
        died = f"the process ended with {process.exitcode}: {said[-200:].strip()}"
    lines = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    return lines, died, int(at or first)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--inputs", type=int, default=20_000, help="number of inputs over all readers")
    parser.add_argument("--readers", nargs="*", default=[reader.name for reader in READERS])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--jobs", type=int, default=2, help="readers tested at the same time")
    parser.add_argument("--out", type=Path, help="file for the figures, JSON")
    parser.add_argument("--add", action="store_true", help="keep the figures of other readers in that file")
    options = parser.parse_args()
    chosen = [reader for reader in READERS if reader.name in options.readers]
    results, earlier = {}, dict[str, Any]()
    if options.add and options.out and options.out.is_file():
        earlier = json.loads(options.out.read_text(encoding="utf-8"))
        if earlier["seed"] != options.seed:
            parser.error(f"{options.out} has the seed {earlier['seed']}: give the same one")
    began = time.monotonic()
    share, rest = divmod(options.inputs, len(chosen))

    def run(index: int) -> dict[str, Any]:
        return fuzz(chosen[index], options.seed, options.first, share + (index < rest))

    for reader, found in zip(
        chosen, ThreadPoolExecutor(options.jobs).map(run, range(len(chosen))), strict=True
    ):
        results[reader.name] = found
        line = {name: value for name, value in found.items() if name != "shown"}
        print(f"{reader.name:28s}", *(f"{name} {value}" for name, value in line.items()), flush=True)
        for failure in found["shown"]:
            print(f"    input {failure['number']}: {failure['problem']}")
    ended: dict[str, Any] = {"seconds": round(time.monotonic() - began)}
    if earlier:
        results = earlier["readers"] | results
        ended = {name: earlier[name] for name in ("ended",) if name in earlier}
    report = {
        "inputs": sum(each["inputs"] for each in results.values()),
        "failures": sum(each.get("failures", 0) for each in results.values()),
        "seed": options.seed,
        **ended,
        "limits": {"seconds": LIMIT_S, "memory_bytes": MEMORY_BYTES, "sentence": MAX_SENTENCE},
        "readers": results,
        "versions": versions(),
        "system": platform.platform(),
    }
    print(f"{report['inputs']} inputs for {len(results)} readers, {report['failures']} failures")
    if options.out:
        options.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 1 if report["failures"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
