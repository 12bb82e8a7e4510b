# SPDX-License-Identifier: Apache-2.0
"""`lfm-perception ask`: a question about images, a video, a bag, a camera or the running node."""

from __future__ import annotations

import json
from contextlib import closing
from typing import TYPE_CHECKING, Annotated

import typer

from lfm_perception.cli import options
from lfm_perception.cli.job import running
from lfm_perception.errors import PerceptionError

if TYPE_CHECKING:
    from lfm_perception.decisions import Decision
    from lfm_perception.typed_questions import TypedQuestion


def ask(
    source: Annotated[
        str,
        typer.Argument(
            help="As for `run`: an image, a folder, a video, a bag, a camera, `demo`; or `node`, the running "
            "node, `node:/cam1/perception` by its name."
        ),
    ],
    question: Annotated[
        str,
        typer.Argument(
            help="The question in words, or as JSON with its type; `memory` asks the node's memory."
        ),
    ],
    yes_no: Annotated[bool, typer.Option("--yes-no", help="Answer yes or no, with the probability.")] = False,
    choice: Annotated[str | None, typer.Option(help="Answer with one of these: `red,blue`.")] = None,
    number: Annotated[str | None, typer.Option(help="Answer with a number in this range: `0..10`.")] = None,
    language: Annotated[
        str | None,
        typer.Option(
            help="Language in which a typed answer is asked for: `de`; by default that of the settings."
        ),
    ] = None,
    frames: Annotated[
        int | None, typer.Option(min=1, help="Frames to ask about; by default 1 of a video, each image.")
    ] = None,
    every: Annotated[int, typer.Option(min=1, help="Ask about every n-th frame.")] = 1,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print each answer as a JSON object with its evidence.")
    ] = False,
    settings: options.SettingsFile = None,
    set_: options.Changes = None,
    topic: options.Topic = None,
    seed: options.Seed = 0,
) -> None:
    """Ask a question about a source, and print the answer with its probability.

    Without a type the answer is a sentence. With `--yes-no`, `--choice` or `--number` the model's probability
    of every allowed answer is read, and the likeliest is printed.
    """
    if sum((yes_no, choice is not None, number is not None)) > 1:
        raise typer.BadParameter("give one of --yes-no, --choice and --number")
    if (yes_no or choice is not None or number is not None) and question.lstrip().startswith("{"):
        raise typer.BadParameter(
            "a question in JSON names its type itself: leave out --yes-no, --choice and --number"
        )
    node = options.node_name(source)
    if node is not None:
        options.refuse_for_node(
            {
                "--settings": settings,
                "--set": set_,
                "--frames": frames,
                "--every": every > 1,
                "--topic": topic,
                "--seed": seed,
            }
        )
        options.require_ros()
        from lfm_perception.memory import MemoryQuestion
        from lfm_perception.ros.ask import ask_node

        remembered = MemoryQuestion.parse(question)
        asked: TypedQuestion | MemoryQuestion = (
            _typed(question, language or "", yes_no=yes_no, choice=choice, number=number)
            if remembered is None or not remembered.as_json
            else remembered
        )
        if language and asked.type in ("text", "memory"):
            raise typer.BadParameter(
                "a running node takes a question in words, or to its memory, in any language: leave out "
                "--language, or name a type",
                param_hint=options.NODE,
            )
        if as_json and asked.type == "text":
            raise typer.BadParameter(
                "a running node answers in words, without evidence: leave out --json, or name a type",
                param_hint=options.NODE,
            )
        text = ask_node(node, asked)
        print(text if as_json or asked.type == "text" else _published(text))
        return
    from lfm_perception.backends import demo_model_warning, log_warning, open_vlm
    from lfm_perception.media.run import limited
    from lfm_perception.media.sources import open_source
    from lfm_perception.media.sources.demo import DEMO
    from lfm_perception.perception import Perception
    from lfm_perception.tracking import open_tracker

    chosen = options.load_settings(settings, set_, seed=seed)
    asked = _typed(question, language or "", yes_no=yes_no, choice=choice, number=number)
    with (
        running() as job,
        open_source(source, topic=topic, seed=seed, bit_depth=chosen.image.bit_depth) as opened,
    ):
        if source != DEMO and (warning := demo_model_warning(chosen)):
            log_warning(warning)
        count = frames or (None if opened.pictures else 1)
        limits = options.limits(source, None if count is None else count * every, None)
        job.begin("loading the model")
        answered = 0
        with closing(open_vlm(chosen)) as vlm:
            perception = Perception(chosen, vlm, open_tracker(chosen.tracker))
            for index, frame in enumerate(limited(opened.frames, limits)):
                if job.signal:
                    break
                if index % every == 0:
                    decision = perception.answer(frame, asked)
                    answered += 1
                    name = frame.file or ("" if count == 1 else f"frame {index}")
                    print(_line(decision, name, as_json=as_json), flush=True)
        job.require_results(answered, f"{opened.name} holds no frames")


def _published(text: str) -> str:
    """The value in an answer in JSON, as on the node's topic, and its probability if it has one."""
    answer = json.loads(text)
    value = str(answer.get("answer", answer["value"]))
    return f"{value} ({answer['probability']:.0%})" if "probability" in answer else value


def _line(decision: Decision, name: str, *, as_json: bool) -> str:
    if as_json:
        return json.dumps({**({"file": name} if name else {}), **decision.to_json()}, ensure_ascii=False)
    expected = decision.expectation
    more = "" if expected is None else f", expected {expected:.1f}"
    return f"{name + ': ' if name else ''}{decision}{more}"


def _typed(
    question: str, language: str, *, yes_no: bool, choice: str | None, number: str | None
) -> TypedQuestion:
    """The question with the type that the options give."""
    from lfm_perception.typed_questions import TypedQuestion

    if yes_no:
        return TypedQuestion(question, "yes_no", language=language)
    if choice is not None:
        given = tuple(option.strip() for option in choice.split(","))
        return TypedQuestion(question, "choice", given, language=language)
    if number is not None:
        least, dots, most = number.partition("..")
        if not (dots and least.isdecimal() and most.isdecimal() and len(number) < 12):
            raise PerceptionError(f"--number takes a range such as 0..10, got {number[:40]!r}")
        return TypedQuestion(question, "number", minimum=int(least), maximum=int(most), language=language)
    return TypedQuestion.from_json(question, language)
