# SPDX-License-Identifier: Apache-2.0
"""`lfm-perception eval`: the accuracy of a model and of the tracker."""

from __future__ import annotations

from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

from lfm_perception.cli import options
from lfm_perception.cli.evaluate_commands import commands
from lfm_perception.cli.evaluate_fovea import fovea
from lfm_perception.cli.evaluate_questions import questions
from lfm_perception.cli.job import frame_progress, running

app = typer.Typer(no_args_is_help=True)

Labels = Annotated[str | None, typer.Option(help="Only these labels: `person,red box`.")]


@app.callback()
def _options() -> None:
    """Measure the accuracy of a model and of the tracker."""


@app.command()
def demo(
    scenes: Annotated[int, typer.Option(min=1, help="Number of new scenes in each trial.")] = 200,
    trial: Annotated[
        list[str] | None, typer.Option(help="Only this trial, for example `easy` or `caption`. Repeatable.")
    ] = None,
    settings: options.SettingsFile = None,
    set_: options.Changes = None,
    out: options.OptionalOut = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the scenes.")] = 0,
) -> None:
    """Ask the model about new scenes of the demo world in several ways, and compare with the ground truth.

    Trials: easy and hard scenes, other frame sizes, a subset of the labels, an absent label, other wordings,
    the other dialect, captions. `correct` is the share of answers without a false positive; for captions, the
    share that is entirely true. Detections match at an IoU of 0.5. With `--out` it writes `demo.html` and
    `demo.json`.
    """
    from lfm_perception.backends import open_vlm
    from lfm_perception.evaluation.demo import TRIALS, as_json, evaluate_trial, run_trial, sections
    from lfm_perception.evaluation.reports import provenance, write_results
    from lfm_perception.evaluation.tables import demo_table

    _check_names(trial, [each.name for each in TRIALS], "--trial")
    options.check_folder(out)
    chosen = options.load_settings(settings, set_)
    trials = [each for each in TRIALS if not trial or each.name in trial]
    with closing(open_vlm(chosen)) as vlm, frame_progress() as progress:
        task = progress.add_task("", total=scenes * len(trials))
        reports = []
        for each in trials:
            progress.update(task, description=each.name)
            results = []
            for result in run_trial(vlm, each, scenes, seed):
                results.append(result)
                progress.advance(task)
            reports.append(evaluate_trial(each, results))
    options.show_table(demo_table(reports))
    if out:
        found = {"seed": seed, "trials": {each.name: as_json(each) for each in reports}, **provenance(chosen)}
        options.tell(write_results(out, "demo", "Accuracy on the demo world", sections(reports), found))


@app.command()
def tracking(
    source: Annotated[
        str,
        typer.Argument(
            help="`tud` (two street sequences of the extra `eval`), `demo` (the model on the demo world), "
            "`synthetic` (named trials: fast objects, occlusion, a rolling camera...), or a folder of "
            "sequences in the MOTChallenge format."
        ),
    ] = "tud",
    protocol: Annotated[
        list[str] | None,
        typer.Option(help="Only this protocol or trial, for example `sparse-late`. Repeatable."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, max=1000, help="Number of repetitions with other noise.")] = 5,
    seconds: Annotated[float, typer.Option(min=2.0, max=600.0, help="Duration in the demo world.")] = 10.0,
    pan: Annotated[float, typer.Option(min=0.0, max=2.0, help="Camera pan, in image widths.")] = 0.12,
    settings: options.SettingsFile = None,
    set_: options.Changes = None,
    out: options.OptionalOut = None,
) -> None:
    """Track objects whose true positions are known, and compare by the metrics of the tracking benchmarks.

    A protocol defines the inferred frames, the latency of the detections and their noise; tracks are compared
    at every frame. HOTA, MOTA and IDF1 in per cent, identity switches, false positives and false negatives
    are means over the seeds. In the demo world the model itself infers, each seed is another sequence,
    velocities and confidences of the tracks are compared too, and settings that calibrate them are given.
    The synthetic trials also give the share of frames with a track and of objects that keep their identity.
    """
    from lfm_perception.evaluation.reports import provenance, write_results
    from lfm_perception.evaluation.synthetic import TRIALS
    from lfm_perception.evaluation.tables import tracking_table
    from lfm_perception.evaluation.tracking import PROTOCOLS
    from lfm_perception.evaluation.tracking_trials import (
        DEMO,
        SYNTHETIC,
        run_demo_trials,
        run_synthetic_trials,
        run_trials,
    )

    names = list(TRIALS if source == SYNTHETIC else PROTOCOLS)
    _check_names(protocol, names, "--protocol")
    options.check_folder(out)
    chosen = options.load_settings(settings, set_)
    with frame_progress() as progress:
        task = progress.add_task("tracking", total=None)

        def advance(name: str) -> None:
            progress.update(task, advance=1, description=name)

        if source == DEMO:
            trials = run_demo_trials(chosen, protocol or ["sparse-late"], range(seeds), seconds, pan, advance)
        elif source == SYNTHETIC:
            trials = run_synthetic_trials(chosen, protocol or names, range(seeds), advance)
        else:
            trials = run_trials(source, chosen, protocol or names, range(seeds), advance)
    options.show_table(tracking_table(trials.metrics))
    for line in trials.remarks:
        print(line)
    if out:
        found = {"source": source, **provenance(chosen, with_model=source == DEMO), **trials.as_json()}
        options.tell(write_results(out, "tracking", "Tracking accuracy", trials.sections(), found))


@app.command()
def detection(
    source: Annotated[Path, typer.Argument(help="A folder of labelled images, or a rosbag2.")],
    out: options.Out,
    annotations: options.Annotations = None,
    labels: Labels = None,
    topic: options.Topic = None,
    images: Annotated[int | None, typer.Option(min=1, help="Maximum number of images.")] = None,
    stress: Annotated[
        bool,
        typer.Option(
            "--stress",
            help="Also measure on degraded images: low light, blur, occlusion, aspect ratio, JPEG damage.",
        ),
    ] = False,
    languages: Annotated[
        str | None, typer.Option(help="Also ask in these languages: `de,fr`, or `all` of the model's.")
    ] = None,
    words: Annotated[Path | None, typer.Option(help="YAML file with the labels in those languages.")] = None,
    settings: options.SettingsFile = None,
    set_: options.Changes = None,
    seed: options.Seed = 0,
    _: options.Compare = None,
) -> None:
    """Compare the model's detections with labelled images.

    Labels are COCO or YOLO files, or a topic of Detection2DArray in a bag. Writes `detection.html` (IoU,
    precision, recall, F1 and average precision by label, false positives and false negatives with images,
    degraded images, languages) and `detection.json`. docs/evaluation.md explains the figures.
    """
    from lfm_perception.backends import open_vlm
    from lfm_perception.evaluation.average_precision import require_pycocotools
    from lfm_perception.evaluation.detection_page import platt_scaling_advice, table
    from lfm_perception.evaluation.detection_run import DetectionRun
    from lfm_perception.evaluation.labels import open_labelled
    from lfm_perception.evaluation.object_size import size_advice
    from lfm_perception.media.staging import staged, writing

    if words is not None and languages is None:
        raise typer.BadParameter("words are for --languages, which are not given", param_hint="--words")
    require_pycocotools()
    chosen = options.load_settings(settings, set_, seed=seed)
    codes = list(dict.fromkeys(options.split(languages or "")))
    selected = None if labels is None else options.split(labels)
    with running() as job, staged(out) as staging, open_labelled(source, annotations, topic=topic) as opened:
        evaluation = DetectionRun(
            chosen, opened, selected, stress=stress, codes=codes, words=words, seed=seed
        )
        job.begin("loading the model", min(opened.count, images or opened.count))
        with closing(open_vlm(chosen)) as vlm, job.deferring_errors():
            job.begin("inferring")
            evaluation.measure(vlm, islice(opened.images, images), job.advance)
        job.require_results(evaluation.done, f"{opened.name} holds no labelled images")
        with writing(out):
            found = evaluation.write(staging.path)
            staging.publish()
    options.show_table(table(found))
    if found["figures"]["reliability"]:
        error = found["figures"]["calibration_error"]
        print(f"The calibration error is {error:.3f}. {platt_scaling_advice(found['figures'])}")
    print(size_advice(found["figures"]["min_object_size"]))
    for note in opened.notes:
        print(note)
    options.tell(f"{evaluation.done} images; results in {out}: open {out / 'detection.html'}")
    job.finish(out)


@app.command()
def wordings(
    source: Annotated[Path, typer.Argument(help="A folder of labelled images, or a rosbag2.")],
    dialect: Annotated[
        list[str] | None, typer.Option(help="Only this dialect, also one of the settings file. Repeatable.")
    ] = None,
    annotations: options.Annotations = None,
    labels: Labels = None,
    topic: options.Topic = None,
    images: Annotated[int | None, typer.Option(min=1, help="Maximum number of images.")] = None,
    settings: options.SettingsFile = None,
    set_: options.Changes = None,
    out: options.OptionalOut = None,
    seed: options.Seed = 0,
) -> None:
    """Ask the model in every dialect about labelled images, and say which is best, with the uncertainty.

    The dialects are the built-in ones and those of the settings file. F1 counts detections that match at an
    IoU of 0.5; its standard error comes from resampling the images. With `--out` it writes `wordings.html`
    and `wordings.json`.
    """
    from lfm_perception.backends import open_vlm
    from lfm_perception.evaluation.detection_run import selected_labels
    from lfm_perception.evaluation.labels import open_labelled
    from lfm_perception.evaluation.reports import provenance, write_results
    from lfm_perception.evaluation.wordings import Wordings, sections, table, verdict

    options.check_folder(out)
    chosen = options.load_settings(settings, set_, seed=seed)
    _check_names(dialect, list(chosen.known_dialects), "--dialect")
    with running() as job, open_labelled(source, annotations, topic=topic) as opened:
        wanted = selected_labels(opened.labels, None if labels is None else options.split(labels))
        job.begin("loading the model", min(opened.count, images or opened.count))
        with closing(open_vlm(chosen)) as vlm, job.deferring_errors():
            trial = Wordings(vlm, chosen, wanted, dialect or list(chosen.known_dialects))
            job.begin("inferring")
            for image in islice(opened.images, images):
                trial.run(image)
                if not job.advance():
                    break
        job.require_results(trial.images, f"{opened.name} holds no labelled images")
        figures = trial.figures(seed)
    options.show_table(table(figures))
    print(f"{verdict(figures)} Images: {trial.images}.")
    if out:
        about = {"source": str(source), "images": trial.images, "labels": list(wanted)}
        found = {**about, "wordings": figures, **provenance(chosen)}
        options.tell(write_results(out, "wordings", "Dialects compared", sections(figures), found))
    job.finish(out or Path("the table above"))


@app.command()
def compare(
    first: Annotated[
        Path, typer.Argument(metavar="A.json", help="`bench.json` or `detection.json` of a run.")
    ],
    second: Annotated[Path, typer.Argument(metavar="B.json", help="The same file of another run.")],
    out: options.OptionalOut = None,
) -> None:
    """Show two runs of `bench`, or of `eval detection`, side by side, with the differences of their setup."""
    from lfm_perception.evaluation.compare import compare, table, write_compare_page
    from lfm_perception.media.staging import staged, writing

    reports = compare(first, second)
    if out:
        with staged(out) as staging, writing(out):
            write_compare_page(staging.path / "compare.html", *reports)
            staging.publish()
    options.show_table(table(*reports))
    if out:
        options.tell(f"results in {out}: open {out / 'compare.html'}")


def _check_names(given: list[str] | None, known: list[str], option: str) -> None:
    for name in given or []:
        if name not in known:
            raise typer.BadParameter(f"{name!r} is not one of {', '.join(known)}", param_hint=option)


for _command in (questions, commands, fovea):
    app.command()(_command)
