# SPDX-License-Identifier: Apache-2.0
"""What is done with an input: the functions that `readers.py` lists.

Each makes, in an empty folder, a function that gets the path of the input's file or its bytes.
"""

from __future__ import annotations

import functools
import json
import random
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from mutations import VALUES
from seeds import DETECTION, REPORT, SEQUENCE, TRUTH, USAGE

Read = Callable[[Any], object]

# --- settings ---------------------------------------------------------------------------------------


def settings(folder: Path) -> Read:
    from lfm_perception.settings import Settings

    return lambda file: Settings.load(file).dialect


def changes(folder: Path) -> Read:
    import typer

    from lfm_perception.cli.options import load_settings
    from lfm_perception.errors import PerceptionError

    def read(data: bytes) -> object:
        try:
            return load_settings(None, [data.decode(errors="surrogateescape")])
        except typer.BadParameter as error:  # the command line's own, which it prints in a frame
            raise PerceptionError(str(error)) from error

    return read


def values(folder: Path) -> Read:
    """Values as ROS parameters and Python callers give them; the input chooses name and value."""
    from lfm_perception.settings import Settings, parameter_specs

    names = list(parameter_specs())
    values = (*VALUES, b"x", (1,), ("\ud800",), object(), complex(1, 2), range(3), ["a"] * 3000, "x" * 10**5)

    def read(data: bytes) -> object:
        rng = random.Random(data)
        return Settings().with_values(
            {rng.choice(names): rng.choice(values) for _ in range(rng.randint(1, 2))}
        )

    return read


def parameter_file(folder: Path) -> Read:
    from lfm_perception.errors import PerceptionError
    from lfm_perception.ros.launch_arguments import parameter_file_problem

    def read(file: Path) -> object:
        if problem := parameter_file_problem(file, "/robot/perception"):
            raise PerceptionError(problem)
        return None

    return read


# --- models -----------------------------------------------------------------------------------------


def registry(folder: Path) -> Read:
    from lfm_perception.models.registry import Registry

    return lambda file: [model.mmproj(None) for model in Registry(file)]


def store(folder: Path) -> Read:
    from lfm_perception.models.store import Store

    (folder / "m").mkdir()
    for name in ("a.gguf", "b.gguf"):
        (folder / "m" / name).write_bytes(b"abc")

    def read(file: Path) -> object:
        store = Store(folder)
        store.find("m").check()
        return store.names()

    return read


def gguf(index: int) -> Callable[[Path], Read]:
    """Checks of a pair of model files, one with a mutated header and a hole in place of its tensors."""

    def prepare(folder: Path) -> Read:
        from lfm_perception.backends.llama import model_files
        from lfm_perception.engine import gguf_checks
        from lfm_perception.errors import PerceptionError
        from lfm_perception.settings import Settings

        pair = list(model_files(Settings()))
        size = pair[index].stat().st_size

        def read(file: Path) -> object:
            if file.is_file() and file.stat().st_size > 64:
                with file.open("r+b") as handle:
                    handle.truncate(size)
            pair[index] = file
            with suppress(PerceptionError):  # it is none
                gguf_checks.check_adapter(file, pair[0])
            gguf_checks.check_pair(*pair)
            return None

        return read

    return prepare


@functools.cache
def gguf_header(index: int) -> bytes:
    from lfm_perception.backends.llama import model_files
    from lfm_perception.engine.gguf import read_header
    from lfm_perception.settings import Settings

    file = model_files(Settings())[index]
    header = read_header(file)
    with file.open("rb") as handle:
        return handle.read(min(tensor.offset for tensor in header.tensors.values()))


# --- answers ----------------------------------------------------------------------------------------


@functools.cache
def recorded_line() -> Any:
    import numpy as np

    from lfm_perception.backends.recorded import image_hash
    from lfm_perception.questions import BBOX
    from lfm_perception.scene import Frame

    prompt, frame = BBOX.prompt(("person",)), Frame(np.zeros((48, 64, 3), np.uint8), 10**9)
    return {
        "image": image_hash(frame),
        "stamp_ns": 10**9,
        "frame_id": "c",
        "system": prompt.system,
        "user": prompt.user,
        "dialect": BBOX.name,
        "labels": ["person"],
        "closed": False,
        "text": "[]",
        "truncated": False,
        "rejects": {"no_box": 1},
        "detections": [DETECTION, {**DETECTION, "bbox_std": None}],
        "usage": USAGE,
    }


def recorded(folder: Path) -> Read:
    """Recorded answers, used: one frame inferred, its tracks predicted and everything written as JSON."""
    import numpy as np

    from lfm_perception.backends.recorded import RecordedVlm
    from lfm_perception.perception import Perception
    from lfm_perception.scene import Frame
    from lfm_perception.scene_json import scene_to_json
    from lfm_perception.settings import Settings
    from lfm_perception.tracking import open_tracker

    frame = Frame(np.zeros((48, 64, 3), np.uint8), 10**9)

    def read(file: Path) -> object:
        values = {"engine.backend": "recorded", "recorded.path": str(file), "caption.enabled": False}
        settings = Settings().with_values({**values, "detect.labels": ["person"]})
        perception = Perception(settings, RecordedVlm(settings), open_tracker(settings.tracker))
        scene = perception.infer(frame)
        return json.dumps(scene_to_json(scene), ensure_ascii=False, allow_nan=False).encode("utf-8")

    return read


def scene(folder: Path) -> Read:
    from lfm_perception.files import parse_json
    from lfm_perception.scene_json import scene_from_json, scene_to_json

    def read(data: bytes) -> object:
        scene = scene_from_json(parse_json(data.decode(errors="replace")))
        return json.dumps(scene_to_json(scene), ensure_ascii=False, allow_nan=False).encode("utf-8")

    return read


def answers(folder: Path) -> Read:
    from lfm_perception.answers import parse
    from lfm_perception.questions import DIALECTS

    def read(data: bytes) -> object:
        text = data.decode(errors="surrogatepass")
        return [parse(text, dialect, labels=("person", "box")).detections for dialect in DIALECTS.values()]

    return read


def reply(folder: Path) -> Read:
    from lfm_perception.backends import openai_protocol
    from lfm_perception.backends.openai_transport import Response
    from lfm_perception.image_plan import ImagePlan
    from lfm_perception.questions import BBOX, CAPTION, FramePlan, Question, ask

    plan, url = FramePlan(ImagePlan(64, 64), 500), "http://host/v1"
    questions = (ask(CAPTION), Question(BBOX.prompt(("box",)), BBOX, ("box",)))

    def read(data: bytes) -> object:
        reply = openai_protocol.response_json(Response(200, data), url)
        openai_protocol.first_model(reply)
        found = [openai_protocol.answer_of(reply, url, question, plan, 0.5) for question in questions]
        return [detection.label.encode() for answer in found for detection in answer.detections]

    return read


def refusal(folder: Path) -> Read:
    """Answers of servers that refuse a request: what they refuse is learned, and told."""
    from lfm_perception.backends.openai_fields import RequestFields
    from lfm_perception.backends.openai_protocol import http_error
    from lfm_perception.backends.openai_transport import Response

    def read(data: bytes) -> object:
        response = Response(400, data)
        RequestFields("auto", lambda notice: None).learn(
            {"seed": 1, "max_tokens": 9, "response_format": {}}, response
        )
        raise http_error(response, "http://host/v1", "LFM_PERCEPTION_KEY")

    return read


# --- labels and reports -----------------------------------------------------------------------------


def labels(**files: str) -> Callable[[Path], Read]:
    """Labelled images of a folder with one image and these files beside the input."""

    def prepare(folder: Path) -> Read:
        import cv2
        import numpy as np

        from lfm_perception.evaluation.labels import open_labelled

        cv2.imwrite(str(folder / "a.png"), np.zeros((48, 64, 3), np.uint8))
        for name, text in files.items():
            (folder / name.replace("_", ".")).write_text(text)

        def read(file: Path) -> object:
            with open_labelled(folder) as opened:
                return [image.truth for image in opened.images], opened.notes

        return read

    return prepare


def sequence(folder: Path) -> Read:
    from lfm_perception.evaluation.sequences import read_motchallenge

    (folder / "gt").mkdir()
    for file, text in (("seqinfo.ini", SEQUENCE), ("gt/gt.txt", TRUTH)):
        (folder / file).write_text(text)
    return lambda file: read_motchallenge(folder)


def words(folder: Path) -> Read:
    from lfm_perception.evaluation.languages import languages
    from lfm_perception.questions import BBOX

    return lambda file: languages(["de", "no"], BBOX, ["person", "box"], file)


def compare(folder: Path) -> Read:
    """Two reports compared: the table as the terminal shows it, and the page with its charts."""
    from rich.console import Console

    from lfm_perception.evaluation.compare import compare, table, write_compare_page

    other = folder / "B.json"
    other.write_text(json.dumps(REPORT))
    page = folder / "page.html"

    def read(file: Path) -> object:
        reports = compare(file, other)
        try:
            write_compare_page(page, *reports)
        finally:
            page.unlink(missing_ok=True)
        with Console(markup=False, quiet=True) as console:
            console.print(table(*reports))
        return None

    return read
