# SPDX-License-Identifier: Apache-2.0
"""`lfm-perception record`: the model's answers about a source, for the backend `recorded`."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from lfm_perception.cli import options
from lfm_perception.cli.job import running
from lfm_perception.errors import PerceptionError
from lfm_perception.files import check_new_file, real_path


def record(
    source: options.Source,
    out: Annotated[Path, typer.Option(help="File for the answers, `answers.jsonl`; replaced if it exists.")],
    settings: options.SettingsFile = None,
    set_: options.Changes = None,
    question: Annotated[
        list[str] | None,
        typer.Option(help="Question to ask about every frame, as on `input_query`. Repeatable."),
    ] = None,
    frames: options.Frames = None,
    seconds: options.Seconds = None,
    every: Annotated[int, typer.Option(min=1, help="Record every n-th frame.")] = 1,
    topic: options.Topic = None,
    rate: options.Rate = None,
    seed: options.Seed = 0,
) -> None:
    """Record the model's answers about every frame of a source, to replay them without the model.

    With `engine.backend: recorded` and `recorded.path` the file takes the model's place and gives the same
    answers every time: in CI, without model files or a GPU. Every frame is asked for detections and, with
    caption.enabled, for a caption, without a latency budget.
    """
    from lfm_perception.backends import open_vlm
    from lfm_perception.backends.recorded import recording
    from lfm_perception.evaluation.reports import provenance
    from lfm_perception.media.run import limited
    from lfm_perception.media.sources import open_source
    from lfm_perception.perception import Perception
    from lfm_perception.tracking import open_tracker
    from lfm_perception.typed_questions import TypedQuestion

    check_new_file(out)
    # every question about every frame: a replay may ask them with other periods
    chosen = options.load_settings(settings, set_, seed=seed).with_values(
        {"caption.period": 0.0, "budget.latency": 0.0}
    )
    questions = [TypedQuestion.from_json(text, chosen.questions.language) for text in question or []]
    if real_path(Path(source)) == real_path(out):
        raise PerceptionError(f"{out} is the source: choose another file for the answers")
    limits = options.limits(source, frames, seconds)
    with (
        running() as job,
        open_source(source, topic=topic, rate=rate, seed=seed, bit_depth=chosen.image.bit_depth) as opened,
        closing(open_vlm(chosen)) as vlm,
        recording(out, vlm, {"source": opened.name, **provenance(chosen)}) as writer,
    ):
        job.begin("recording", limits.total(opened))
        perception = Perception(chosen, writer, open_tracker(chosen.tracker))
        with job.deferring_errors():
            for index, frame in enumerate(limited(opened.frames, limits)):
                if job.signal:
                    break
                if index % every == 0:
                    perception.infer(frame)
                    for asked in questions:
                        perception.answer(frame, asked)
                job.advance()
    job.require_results(writer.count, f"{opened.name} holds no frames")
    options.tell(f"{writer.count} answers in {out}")
    job.finish(out)
