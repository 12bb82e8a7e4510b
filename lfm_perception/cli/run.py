# SPDX-License-Identifier: Apache-2.0
"""`lfm-perception run`: a recording or a camera in, scenes and a video with the results drawn over it out."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lfm_perception.cli import options
from lfm_perception.cli.job import running
from lfm_perception.errors import PerceptionError

if TYPE_CHECKING:
    from lfm_perception.media.opinions import RunOpinions
    from lfm_perception.rules import RuleEngine
    from lfm_perception.settings import Settings


def run(
    source: options.Source,
    out: Annotated[Path | None, typer.Option(help="Folder for the results; `out/NAME` by default.")] = None,
    settings: options.SettingsFile = None,
    set_: options.Changes = None,
    model: Annotated[
        str | None,
        typer.Option(help="A name that `models list` shows, or the GGUF file of the language model."),
    ] = None,
    mmproj: Annotated[
        Path | None, typer.Option(help="GGUF file of the vision tower; by default the one beside the model.")
    ] = None,
    conf: Annotated[float | None, typer.Option(help="Minimum confidence of a detection, 0 to 1.")] = None,
    device: Annotated[str | None, typer.Option(help="`cpu`, or `gpu` for all layers.")] = None,
    labels: options.Labels = None,
    frames: options.Frames = None,
    seconds: options.Seconds = None,
    every: Annotated[
        int | None,
        typer.Option(min=1, help="Infer every n-th frame; by default about 5 Hz in a video, and each image."),
    ] = None,
    topic: options.Topic = None,
    rate: options.Rate = None,
    bag: Annotated[bool, typer.Option("--bag", help="Also write the results as a rosbag2 (mcap).")] = False,
    sequence: Annotated[
        bool, typer.Option("--sequence", help="The images are the frames of one video: track their objects.")
    ] = False,
    force: options.Force = False,
    seed: options.Seed = 0,
    rules: Annotated[
        Path | None,
        typer.Option(help="Rule file: zones and events in the video, the page and `events.json`."),
    ] = None,
) -> None:
    """Detect, track and describe objects in a recording, in a camera's images, or in independent pictures.

    Writes `index.html` (one page with the video and all figures), `scenes.jsonl` (one JSON object per
    inferred frame, described by scene.schema.json in the package), `overlay.mp4` and `overlay.png` (the
    results drawn over the images), `summary.json` (rates, latencies, tokens, counts, settings) and with
    `--bag` a rosbag2. An image, a folder or a pattern of images are independent pictures: instead of the
    video, `pictures/` holds each of them annotated, with its JSON, and the page shows all. The files appear
    together at the end. After Ctrl-C, or when the source cannot be read to its end, they hold the results up
    to that point.
    """
    from lfm_perception.backends import demo_model_warning, log_warning, model_name
    from lfm_perception.evaluation.reports import provenance
    from lfm_perception.media.report import Report, rows
    from lfm_perception.media.run import record
    from lfm_perception.media.sinks import RESULTS, open_recording
    from lfm_perception.media.sinks.bag import BAG
    from lfm_perception.media.sinks.events import EVENTS
    from lfm_perception.media.sinks.report import PAGE
    from lfm_perception.media.sources import open_source
    from lfm_perception.media.sources.demo import DEMO
    from lfm_perception.perception import open_perception

    more = options.shortcuts(model, mmproj, conf, device) | ({"rules.file": str(rules)} if rules else {})
    chosen = options.load_settings(settings, set_, labels=labels, seed=seed, more=more)
    engine, asked = _rule_engine(chosen) if chosen.rules.file else (None, {})
    out = out or options.default_out(source)
    if source != DEMO:
        options.check_apart(source, out)
    options.check_new(out, RESULTS, force=force)
    limits = options.limits(source, frames, seconds)
    with (
        running() as job,
        open_source(
            source, topic=topic, rate=rate, seed=seed, bit_depth=chosen.image.bit_depth, is_sequence=sequence
        ) as opened,
        open_recording(
            out,
            opened.rate,
            optional=[*([BAG] if bag else []), *([EVENTS] if engine else [])],
            pictures=opened.pictures,
        ) as recording,
    ):
        if opened.pictures and (engine or chosen.second_opinion.allowed):
            name = "rules.file" if engine else "second_opinion.allowed"
            raise PerceptionError(
                f"{name} needs tracks: add --sequence if the images are frames of a video, or leave it out"
            )
        if opened.pictures and (every or rate):
            raise PerceptionError(
                "--every and --rate are for videos: add --sequence if the images are frames of one"
            )
        if source != DEMO and (warning := demo_model_warning(chosen)):
            log_warning(warning)
        job.begin("loading the model", limits.total(opened))
        report, every = Report(), every or opened.every
        with open_perception(chosen) as perception, _opinions(chosen, asked) as opinions:
            perception.second_opinion = opinions.second if opinions else None
            job.begin("inferring")
            report.start()
            with job.deferring_errors():
                if not job.signal:
                    record(
                        opened, perception, recording, report,
                        every=every, limits=limits, badge=model_name(chosen), on_progress=job.advance,
                        rules=engine, on_events=opinions.on_events if opinions else None,
                    )  # fmt: skip
            figures = report.summary() | ({"events_by_rule": engine.begun} if engine else {})
            if opinions:
                job.begin("waiting for second opinions")
                figures["second_opinion"] = opinions.summary(lambda: not job.signal)
        job.require_results(report.inferred_frames, f"{opened.name} holds no frames")
        summary = {
            "source": opened.name,
            "pictures": opened.pictures,
            "ended": job.outcome,
            "every": every,
            "rate_hz": round(opened.rate, 3),
            "declared_rate_hz": opened.declared_rate and round(opened.declared_rate, 3),
            "frames_rejected": dict(opened.rejects.most_common()),
            **figures,
            **provenance(chosen),
        }
        recording.finish(summary)
    options.show_rows(rows(summary))
    options.tell(f"results in {out}: open {out / PAGE}")
    job.finish(out)


def _opinions(settings: Settings, questions: Mapping[str, str]) -> AbstractContextManager[RunOpinions | None]:
    """Second opinions, where they are allowed; `questions` are those of the rules."""
    if not settings.second_opinion.allowed:
        return nullcontext()
    from lfm_perception.media.opinions import RunOpinions  # costs nothing while it is off

    return closing(RunOpinions(settings, questions))


def _rule_engine(settings: Settings) -> tuple[RuleEngine, dict[str, str]]:
    """The rules of `rules.file`, and the questions to the adviser that they may ask.

    What cannot be used of the file is a warning each.
    """
    from lfm_perception.backends import log_warning
    from lfm_perception.files import user_path
    from lfm_perception.rules import Known, RuleEngine, read_rules

    path = user_path(settings.rules.file)
    file = read_rules(path, replace(Known.of(settings), depth=False))  # no source has depth images
    for problem in file.problems:
        log_warning(f"{path}: {problem}")
    asking = [rule for rule in file.rules if settings.rules.actions and rule.actions.second_opinion]
    questions = {rule.name: rule.actions.second_opinion for rule in asking}
    return RuleEngine(file, settings.rules.max_rate), questions
