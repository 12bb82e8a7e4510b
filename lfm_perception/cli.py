"""The command line.

Exit codes: 0 done; 1 the input or the model cannot be used; 2 wrong usage; 130 ended by Ctrl-C.
"""

from __future__ import annotations

import json
import platform
import re
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import astuple
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

import lfm_perception
from lfm_perception.backends import model_name, model_provenance
from lfm_perception.errors import PerceptionError
from lfm_perception.models import commands as models
from lfm_perception.provenance import versions
from lfm_perception.settings import Settings

if TYPE_CHECKING:
    from lfm_perception.evaluation.demo import TrialReport
    from lfm_perception.evaluation.tracking import Figures

DEMO_SECONDS = 10.0
"""Length of a demo run unless the user says otherwise; the demo world itself never ends."""

SettingsFile = Annotated[Path | None, typer.Option(help="YAML file of settings.")]

Changes = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one setting: `image.max_tokens=64`. Repeatable."),
]


def _show_two(reports: tuple[Path, Path] | None) -> None:
    if reports:
        from lfm_perception.evaluation.compare import compare, table

        Console().print(table(*compare(*reports)))
        raise typer.Exit


TwoReports = Annotated[
    tuple[Path, Path] | None,
    typer.Option(
        "--compare",
        metavar="A.json B.json",
        callback=_show_two,
        is_eager=True,
        help="Measure nothing: show two results side by side. `eval compare` also writes a page.",
    ),
]

app = typer.Typer(
    help="A vision-language model finds, names, describes and follows what a camera sees.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
app.add_typer(models.app, name="models")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit; `arguments` are the process's own unless given."""
    try:
        app(arguments, prog_name="lfm-perception")
    except PerceptionError as error:
        print(f"lfm-perception: {error}", file=sys.stderr)
        raise SystemExit(1) from None


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"lfm-perception {lfm_perception.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    _: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """A vision-language model finds, names, describes and follows what a camera sees."""


@app.command()
def run(
    source: Annotated[
        str,
        typer.Argument(
            help="`demo`, a video, an image, a folder or pattern of images, the number of a camera, "
            "or a rosbag2 (folder, .mcap or .db3)."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the results; made where missing.")],
    settings: SettingsFile = None,
    set_: Changes = None,
    labels: Annotated[
        str | None, typer.Option(help="What to look for, separated by commas: `person,red box`.")
    ] = None,
    frames: Annotated[int | None, typer.Option(min=1, help="End after so many frames of the source.")] = None,
    seconds: Annotated[
        float | None, typer.Option(min=0.001, help="End after so many seconds of the source.")
    ] = None,
    every: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="The model looks at every n-th frame; tracks fill the gaps. By default it looks about "
            "5 times per second of a film, and at every image of a folder.",
        ),
    ] = None,
    topic: Annotated[str | None, typer.Option(help="Image topic, for a bag that has several.")] = None,
    rate: Annotated[
        float | None, typer.Option(min=0.01, max=1000.0, help="Images per second of a folder, 10 by default.")
    ] = None,
    bag: Annotated[bool, typer.Option("--bag", help="Also write the results as a rosbag2 (mcap).")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the demo world and of the model's draws.")] = 0,
) -> None:
    """Look at a recording or a camera, and write down what is there.

    The folder then holds `scenes.jsonl` (one JSON object for each frame the model looked at, described by
    scene.schema.json in the package), `overlay.mp4` and `overlay.png` (what was seen, drawn over the
    pictures), `summary.json` (rates, latencies, tokens, counts, settings) and with `--bag` a rosbag2. They
    appear together at the end, also after Ctrl-C or when the source breaks off in the middle: then they hold
    everything until there.
    """
    # Here, because it takes a second that `--help` should not.
    from lfm_perception.media.report import Report, table
    from lfm_perception.media.run import Limits, record
    from lfm_perception.media.sinks import open_recording
    from lfm_perception.media.sinks.bag import BAG
    from lfm_perception.media.sources import open_source
    from lfm_perception.media.sources.demo import DEMO
    from lfm_perception.perception import open_perception

    chosen = _chosen_settings(settings, set_ or [], labels, seed)
    if source != DEMO:
        _check_apart(source, out)
    elif frames is None and seconds is None:
        seconds = DEMO_SECONDS
    limits = Limits(frames, seconds)
    badge = model_name(chosen)
    broken: PerceptionError | None = None
    with (
        _stop_signals() as stop,
        open_source(source, topic=topic, rate=rate, seed=seed) as opened,
        open_recording(out, opened.rate, optional=[BAG] if bag else []) as recording,
        _progress() as progress,
    ):
        task = progress.add_task("loading the model", total=limits.total(opened))
        with open_perception(chosen) as perception:
            progress.reset(task, description="looking")
            report = Report()

            def advance() -> bool:
                progress.advance(task)
                return not stop.number

            try:
                if not stop.number:
                    record(
                        opened, perception, recording, report,
                        every=every or opened.every, limits=limits, badge=badge, on_progress=advance,
                    )  # fmt: skip
            except PerceptionError as error:
                broken = error
        if not report.inferred_frames:
            if stop.number:
                raise typer.Exit(128 + stop.number)
            raise broken or PerceptionError(f"{opened.name} holds no frames")
        summary = {
            "source": opened.name,
            "ended": str(broken) if broken else "interrupted" if stop.number else "complete",
            "every": every or opened.every,
            **report.summary(),
            "model": model_provenance(chosen),
            "settings": chosen.values(),
            "versions": versions(),
        }
        recording.finish(summary)
    Console().print(table(summary))
    print(f"results in {out}")
    if broken:
        raise PerceptionError(f"{broken}; what came before is in {out}")
    if stop.number:
        raise typer.Exit(128 + stop.number)


@app.command()
def record(
    source: Annotated[str, typer.Argument(help="As for `run`.")],
    out: Annotated[Path, typer.Option(help="File for the answers, `answers.jsonl`; replaced where there.")],
    settings: SettingsFile = None,
    set_: Changes = None,
    question: Annotated[
        list[str] | None,
        typer.Option(help="Also ask this about every frame, as `input_query` will. Repeatable."),
    ] = None,
    frames: Annotated[int | None, typer.Option(min=1, help="End after so many frames of the source.")] = None,
    seconds: Annotated[
        float | None, typer.Option(min=0.001, help="End after so many seconds of the source.")
    ] = None,
    every: Annotated[int, typer.Option(min=1, help="Record every n-th frame.")] = 1,
    topic: Annotated[str | None, typer.Option(help="Image topic, for a bag that has several.")] = None,
    rate: Annotated[
        float | None, typer.Option(min=0.01, max=1000.0, help="Images per second of a folder, 10 by default.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the demo world and of the model's draws.")] = 0,
) -> None:
    """Write down what the model says about every frame of a source, to be replayed without the model.

    With `engine.backend: recorded` and `recorded.path` the file answers in the model's place, the same every
    time: in CI, without model files or a GPU. Each frame is asked for objects and, with caption.enabled, for
    a caption, without a limit in time.
    """
    from lfm_perception.backends import open_vlm
    from lfm_perception.backends.recorded import recording
    from lfm_perception.media.run import Limits, limited
    from lfm_perception.media.sources import open_source
    from lfm_perception.media.sources.demo import DEMO
    from lfm_perception.perception import Perception
    from lfm_perception.tracking import open_tracker

    # every question about every frame: who replays may ask them in another rhythm
    chosen = _chosen_settings(settings, set_ or [], None, seed).with_values(
        {"caption.period": 0.0, "budget.latency": 0.0}
    )
    if Path(source).resolve() == out.resolve():
        raise PerceptionError(f"{out} is the source: choose another file for the answers")
    if source == DEMO and frames is None and seconds is None:
        seconds = DEMO_SECONDS
    limits = Limits(frames, seconds)
    broken: PerceptionError | None = None
    with (
        _stop_signals() as stop,
        open_source(source, topic=topic, rate=rate, seed=seed) as opened,
        _progress() as progress,
        closing(open_vlm(chosen)) as vlm,
    ):
        task = progress.add_task("recording", total=limits.total(opened))
        about = {"source": opened.name, "model": model_provenance(chosen), "settings": chosen.values()}
        with recording(out, vlm, {**about, "versions": versions()}) as writer:
            perception = Perception(chosen, writer, open_tracker(chosen.tracker))
            try:
                for index, frame in enumerate(limited(opened.frames, limits)):
                    if stop.number:
                        break
                    if index % every == 0:
                        perception.infer(frame)
                        for words in question or []:
                            perception.answer(frame, words)
                    progress.advance(task)
            except PerceptionError as error:
                broken = error
    if not writer.count:
        if stop.number:
            raise typer.Exit(128 + stop.number)
        raise broken or PerceptionError(f"{opened.name} holds no frames")
    print(f"{writer.count} answers in {out}")
    if broken:
        raise PerceptionError(f"{broken}; what came before is in {out}")
    if stop.number:
        raise typer.Exit(128 + stop.number)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the results; made where missing.")],
    seconds: Annotated[
        float, typer.Option(min=1.0, max=3600.0, help="How long, from the model's first answer on.")
    ] = 20.0,
    seed: Annotated[int, typer.Option(min=0, help="Which film of the demo world.")] = 0,
    settings: SettingsFile = None,
    set_: Changes = None,
) -> None:
    """Run the ROS graph: the demo world's camera at 30 Hz, the perception node, and the truth beside it.

    The folder then holds `index.html` (one page with all figures), `overlay.mp4` and `overlay.png`,
    `scenes.jsonl`, `summary.json`, `perception_bag` (mcap: pictures, truth and all the node said) and the
    logs.
    """
    _need_ros()
    from lfm_perception.evaluation.live_page import figures
    from lfm_perception.ros.demo import DemoOptions, run_demo

    chosen = _chosen_settings(settings, set_ or [], None, 0)
    about = {"model": model_provenance(chosen), "settings": chosen.values(), "versions": versions()}
    with _stop_signals() as stop, _steps() as progress:
        task = progress.add_task("starting", total=1.0)

        def advance(step: str, share: float) -> bool:
            progress.update(task, description=step, completed=share)
            return not stop.number

        report, _ = run_demo(DemoOptions(seconds, seed), chosen, out, about=about, on_progress=advance)
    shown = Table(box=None, show_header=False, pad_edge=False)
    for row in figures(report):
        shown.add_row(*row)
    Console().print(shown)
    print(f"results in {out}: open {out / 'index.html'}")
    if stop.number:
        raise typer.Exit(128 + stop.number)


@app.command()
def replay(
    bag: Annotated[Path, typer.Argument(help="A rosbag2 with images: folder, .mcap or .db3.")],
    out: Annotated[Path, typer.Option(help="Folder for the results; made where missing.")],
    topic: Annotated[str | None, typer.Option(help="Image topic, for a bag that has several.")] = None,
    pace: Annotated[
        float,
        typer.Option(
            min=0.0,
            max=100.0,
            help="1: at the recorded pace, 2: twice as fast. 0: each image waits for the answer to the one "
            "before, so that a replay can be repeated exactly.",
        ),
    ] = 0.0,
    loops: Annotated[int, typer.Option(min=1, help="Play the bag so often.")] = 1,
    frames: Annotated[int | None, typer.Option(min=1, help="End each loop after so many images.")] = None,
    settings: SettingsFile = None,
    set_: Changes = None,
    node: Annotated[
        str | None,
        typer.Option(help="Play to this running node, `/cam1/perception`, instead of starting one."),
    ] = None,
) -> None:
    """Play a bag through the ROS node, with /clock, and record what the node says.

    The folder then holds `perception_bag` (mcap: detections, tracks, scene, caption, answers, diagnostics),
    `scenes.jsonl`, `summary.json` and the node's log. The same bag gives the same detections and tracks,
    byte for byte, without a pace and with `--set sampling.temperature=0`.
    """
    _need_ros()
    from lfm_perception.ros.replay import ReplayOptions
    from lfm_perception.ros.replay import replay as play

    if node is not None and (settings or set_):
        raise typer.BadParameter("a running node has its own settings", param_hint="--node")
    chosen = _chosen_settings(settings, set_ or [], None, 0)
    _check_apart(str(bag), out)
    with _stop_signals() as stop, _progress() as progress:
        task = progress.add_task("loading the model", total=None)

        def advance() -> bool:
            progress.update(task, advance=1, description="playing")
            return not stop.number

        summary = play(
            ReplayOptions(bag, topic, pace, loops, frames), chosen, out, node=node, on_progress=advance
        )
    print(f"{summary['answered']} of {summary['images']} images answered; results in {out}")
    if stop.number:
        raise typer.Exit(128 + stop.number)


@app.command()
def bench(
    out: Annotated[Path, typer.Option(help="Folder for the results; made where missing.")],
    seconds: Annotated[float, typer.Option(min=1.0, max=86400.0, help="How long.")] = 60.0,
    size: Annotated[str, typer.Option(metavar="WxH", help="Size of the camera's picture.")] = "640x480",
    settings: SettingsFile = None,
    set_: Changes = None,
    _: TwoReports = None,
) -> None:
    """Measure how fast a model is on this machine, with pictures of the demo world.

    The folder then holds `bench.html` (start, stages, percentiles, sustained rate, memory, temperature and
    power where the board tells) and `bench.json`. Some minutes show whether the machine keeps its speed when
    it is warm.
    """
    from lfm_perception.media.bench import KIND, measures, write_bench_page
    from lfm_perception.media.bench import bench as measure
    from lfm_perception.media.staging import staged, write_json, writing

    if not (match := re.fullmatch(r"(\d{2,4})x(\d{2,4})", size)):
        raise typer.BadParameter(f"{size!r} is not a size like 640x480", param_hint="--size")
    width, height = map(int, match.groups())
    chosen = _chosen_settings(settings, set_ or [], None, 0)
    with _stop_signals() as stop, staged(out) as staging, _steps() as progress:
        task = progress.add_task("loading the model", total=1.0)

        def advance(share: float) -> bool:
            progress.update(task, description="looking", completed=share)
            return not stop.number

        run = measure(chosen, width, height, seconds, advance)
        if len(run.looks) < 2:
            raise typer.Exit(128 + stop.number)
        found = {"kind": KIND, **measures(run), "camera": size, **_about(chosen)}
        with writing(out):
            write_json(staging.path / "bench.json", found)
            write_bench_page(staging.path / "bench.html", run, found, {**_lines(chosen), "camera": size})
            staging.publish()
    print(f"{found['looks_per_s']:.2f} looks per second; results in {out}: open {out / 'bench.html'}")
    if stop.number:
        raise typer.Exit(128 + stop.number)


@app.command()
def doctor(
    settings: SettingsFile = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Change one setting: `engine.n_gpu_layers=-1` tries the GPU. Repeatable.",
        ),
    ] = None,
    camera: Annotated[
        str | None, typer.Option(help="Also count the images of this camera (`0`) or topic (`/image_raw`).")
    ] = None,
) -> None:
    """Find out whether this computer can run perception, and say what to do where it cannot.

    Looks at versions, model files and their checksums, whether the GPU is really used, how long an answer
    takes, whether camera images come through DDS, and how often a camera gives them.
    """
    from lfm_perception.doctor import State, examine

    problems = 0
    for finding in examine(_chosen_settings(settings, set_ or [], None, 0), camera):
        print(f"{finding.state.value} {finding.about}: {finding.found}")
        if finding.state is State.PROBLEM:
            problems += 1
            print(f"   {finding.remedy}")
    if problems:
        raise PerceptionError(f"{problems} of these must be put right")


evaluate = typer.Typer(help="Measure how good a model and the tracker are.", no_args_is_help=True)
app.add_typer(evaluate, name="eval")


@evaluate.callback()
def _eval_options() -> None:
    """Measure how good a model and the tracker are."""


@evaluate.command("demo")
def eval_demo(
    scenes: Annotated[int, typer.Option(min=1, help="Fresh scenes in each trial.")] = 200,
    trial: Annotated[
        list[str] | None, typer.Option(help="Only this trial, `easy` or `caption` for example. Repeatable.")
    ] = None,
    settings: SettingsFile = None,
    set_: Changes = None,
    json_: Annotated[Path | None, typer.Option("--json", help="Also write all measures here.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the scenes.")] = 0,
) -> None:
    """Ask the model about fresh scenes of the demo world, in many ways, and compare with the truth.

    Trials: easy and hard scenes, other frame sizes, some of the labels, a label that is not there, other
    words, the other dialect, captions. `right` is the share of answers without a false box; for captions,
    of those that are wholly true. Boxes count as found at an overlap (IoU) of 0.5.
    """
    from lfm_perception.backends.llama import LlamaVlm
    from lfm_perception.evaluation.demo import TRIALS, as_json, judge, run_trial

    names = [each.name for each in TRIALS]
    for name in trial or []:
        if name not in names:
            raise typer.BadParameter(f"{name!r} is not one of {', '.join(names)}", param_hint="--trial")
    if json_ and not json_.parent.is_dir():
        raise PerceptionError(f"{json_} cannot be written: there is no folder {json_.parent}")
    chosen = _chosen_settings(settings, set_ or [], None, 0)
    wanted = [each for each in TRIALS if not trial or each.name in trial]
    reports = []
    with LlamaVlm(chosen) as vlm, _progress() as progress:
        task = progress.add_task("", total=scenes * len(wanted))
        for each in wanted:
            progress.update(task, description=each.name)
            asked = []
            for result in run_trial(vlm, each, scenes, seed):
                asked.append(result)
                progress.advance(task)
            reports.append(judge(each, asked))
    Console().print(_trial_table(reports))
    if json_:
        measures = {
            "model": model_provenance(chosen),
            "versions": versions(),
            "settings": chosen.values(),
            "trials": {report.name: as_json(report) for report in reports},
        }
        json_.write_text(json.dumps(measures, indent=2) + "\n")
        print(f"all measures in {json_}")


@evaluate.command("tracking")
def eval_tracking(
    source: Annotated[
        str,
        typer.Argument(
            help="`tud` (two street scenes that come with the extra `eval`), `demo` (the demo world, seen "
            "by the model), or a folder of sequences in the form of the MOTChallenge."
        ),
    ] = "tud",
    protocol: Annotated[
        list[str] | None,
        typer.Option(help="Only this protocol, `sparse-late` or `jittered` for example. Repeatable."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, max=1000, help="Repetitions with other noise.")] = 5,
    seconds: Annotated[
        float, typer.Option(min=2.0, max=600.0, help="Length of each film of the demo world.")
    ] = 10.0,
    pan: Annotated[
        float, typer.Option(min=0.0, max=2.0, help="How far the demo world's camera swings, in image widths.")
    ] = 0.12,
    settings: SettingsFile = None,
    set_: Changes = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for `tracking.json` and pictures; made where missing.")
    ] = None,
) -> None:
    """Follow objects whose true places are known, and compare, by the rules of the tracking benchmarks.

    A protocol says which frames are looked at, how late answers come and how the boxes err; tracks are judged
    at every frame. HOTA, MOTA and IDF1 in per cent, switches of identity and false and missed boxes are
    means over the seeds. In the demo world the model itself looks, each seed is another film, the speeds and
    scores of the tracks are judged too, and it is said which settings would make the scores right.
    """
    from lfm_perception.evaluation.tracking import DETECTORS
    from lfm_perception.evaluation.tracking_trials import DEMO, run_demo_trials, run_trials

    for name in protocol or []:
        if name not in DETECTORS:
            raise typer.BadParameter(
                f"{name!r} is not one of {', '.join(DETECTORS)}", param_hint="--protocol"
            )
    chosen = _chosen_settings(settings, set_ or [], None, 0)
    with _progress() as progress:
        task = progress.add_task("following", total=None)

        def advance(name: str) -> None:
            progress.update(task, advance=1, description=name)

        if source == DEMO:
            trials = run_demo_trials(chosen, protocol or ["sparse-late"], range(seeds), seconds, pan, advance)
        else:
            trials = run_trials(source, chosen, protocol or list(DETECTORS), range(seeds), advance)
    Console().print(_tracking_table(trials.figures))
    for line in trials.remarks:
        print(line)
    if out:
        about = {"source": source, "settings": chosen.values(), "versions": versions()}
        trials.write(out, {**about, **({"model": model_provenance(chosen)} if source == DEMO else {})})
        print(f"figures and picture in {out}")


@evaluate.command("detection")
def eval_detection(
    source: Annotated[Path, typer.Argument(help="A folder of labelled images, or a rosbag2.")],
    out: Annotated[Path, typer.Option(help="Folder for the results; made where missing.")],
    labels: Annotated[
        str | None,
        typer.Option(
            help="Where the labels are, if not in the usual place: a COCO file, a folder of YOLO files, a "
            "file of YOLO names, or the topic of boxes in a bag."
        ),
    ] = None,
    names: Annotated[
        str | None, typer.Option(help="Only these labels, separated by commas; by default all there are.")
    ] = None,
    topic: Annotated[str | None, typer.Option(help="Image topic, for a bag that has several.")] = None,
    images: Annotated[int | None, typer.Option(min=1, help="End after so many images.")] = None,
    stress: Annotated[
        bool,
        typer.Option(
            "--stress",
            help="Also ask about harder pictures: low light, blur, occlusion, aspect ratio, jpeg damage.",
        ),
    ] = False,
    languages: Annotated[
        str | None, typer.Option(help="Also ask in these languages: `de,fr`, or `all` the model has.")
    ] = None,
    words: Annotated[
        Path | None, typer.Option(help="YAML file: what the labels are called in those languages.")
    ] = None,
    settings: SettingsFile = None,
    set_: Changes = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the harder pictures and the model's draws.")] = 0,
    _: TwoReports = None,
) -> None:
    """Have the model find what is labelled in images, and compare.

    Labels in the form of COCO or YOLO, or a topic of Detection2DArray in a bag. The folder then holds
    `detection.html` (IoU, precision, recall, F1 and average precision by label, false and missed boxes with
    pictures, harder pictures, languages) and `detection.json`. docs/evaluation.md says what the figures mean.
    """
    from lfm_perception.backends import open_vlm
    from lfm_perception.evaluation.detection_page import fit_in_words, report, table, write_detection_page
    from lfm_perception.evaluation.detection_trial import Trial, plainly, stressed, translated
    from lfm_perception.evaluation.labels import open_labelled
    from lfm_perception.evaluation.stress import STRESSES
    from lfm_perception.evaluation.wordings import LANGUAGES
    from lfm_perception.evaluation.wordings import languages as chosen_languages
    from lfm_perception.media.charts import need_charts
    from lfm_perception.media.staging import staged, write_json, writing

    if words is not None and languages is None:
        raise typer.BadParameter("words are for --languages, which are not given", param_hint="--words")
    need_charts()
    chosen = _chosen_settings(settings, set_ or [], None, seed)
    broken: PerceptionError | None = None
    with (
        _stop_signals() as stop,
        staged(out) as staging,
        open_labelled(source, labels, topic=topic) as opened,
        _progress() as progress,
    ):
        asked = _asked_labels(opened.labels, names)
        codes = list(LANGUAGES if languages == "all" else dict.fromkeys(_listed(languages or "")))
        hard = list(STRESSES) if stress else []
        ways = [
            plainly(chosen, asked),
            *(stressed(chosen, asked, name, STRESSES[name]) for name in hard),
            *(
                translated(chosen, asked, each)
                for each in chosen_languages(codes, chosen.dialect, asked, words)
            ),
        ]
        task = progress.add_task("loading the model", total=min(opened.count, images or opened.count))
        with closing(open_vlm(chosen)) as vlm:
            trial = Trial(vlm, chosen, asked, ways, seed)
            progress.reset(task, description="looking")
            try:
                for picture in islice(opened.pictures, images):
                    trial.show(picture)
                    progress.advance(task)
                    if stop.number:
                        break
            except PerceptionError as error:
                broken = error
        if not trial.shown:
            raise broken or PerceptionError(f"{opened.name} holds no labelled images")
        found = {
            **report(trial, asked, hard, codes),
            "source": opened.name,
            "notes": list(opened.notes),
            "seed": seed,
            **_about(chosen),
        }
        lines = {"source": opened.name, "notes": "; ".join(opened.notes) or "none", **_lines(chosen)}
        with writing(out):
            write_json(staging.path / "detection.json", found)
            write_detection_page(staging.path / "detection.html", found, trial, lines)
            staging.publish()
    Console().print(table(found))
    if found["figures"]["reliability"]:
        print(
            f"Scores are off by {found['figures']['calibration_error']:.3f}. {fit_in_words(found['figures'])}"
        )
    for note in opened.notes:
        print(note)
    print(f"{trial.shown} images; results in {out}: open {out / 'detection.html'}")
    if broken:
        raise PerceptionError(f"{broken}; what came before is in {out}")
    if stop.number:
        raise typer.Exit(128 + stop.number)


@evaluate.command("compare")
def eval_compare(
    first: Annotated[
        Path, typer.Argument(metavar="A.json", help="`bench.json` or `detection.json` of a run.")
    ],
    second: Annotated[Path, typer.Argument(metavar="B.json", help="The same of another run.")],
    out: Annotated[Path | None, typer.Option(help="Folder for `compare.html`; made where missing.")] = None,
) -> None:
    """Show two runs of `bench`, or of `eval detection`, side by side: figures, and how the runs differ."""
    from lfm_perception.evaluation.compare import compare, table, write_compare_page
    from lfm_perception.media.charts import need_charts
    from lfm_perception.media.staging import staged, writing

    reports = compare(first, second)
    if out:
        need_charts()
        with staged(out) as staging, writing(out):
            write_compare_page(staging.path / "compare.html", *reports)
            staging.publish()
    Console().print(table(*reports))
    if out:
        print(f"results in {out}: open {out / 'compare.html'}")


def _asked_labels(there: Sequence[str], names: str | None) -> list[str]:
    """Those of the labels that are to be asked for."""
    wanted = list(there) if names is None else _listed(names)
    for name in wanted:
        if name not in there:
            raise PerceptionError(f"no label is called {name!r}; there are: {', '.join(there)}")
    if not wanted:
        raise PerceptionError("there are no labels to ask for: every picture is empty")
    return wanted


def _tracking_table(figures: Mapping[str, Figures]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("protocol", style="bold", no_wrap=True)
    for head in ("HOTA", "DetA", "AssA", "MOTA", "IDF1", "switches", "false", "missed"):
        table.add_column(head, justify="right")
    for name, each in figures.items():
        table.add_row(name, *(f"{value:.1f}" for value in astuple(each)))
    return table


def _trial_table(reports: Sequence[TrialReport]) -> Table:
    table = Table(
        box=None, pad_edge=False, padding=(0, 1, 0, 0), caption="encode, prefill, decode: median ms"
    )
    table.add_column("trial", style="bold", no_wrap=True)
    heads = ("prec", "recall", "F1", "IoU", "count", "right", "encode", "prefill", "decode")
    for head in heads:
        table.add_column(head, justify="right")
    for report in reports:
        d, usage = report.detection, report.usage
        measures = (d.at_50.precision, d.at_50.recall, d.at_50.f1, d.mean_iou, d.count_exact) if d else ()
        table.add_row(
            report.name,
            *(f"{measure:.3f}" for measure in measures),
            *([""] * (5 - len(measures))),
            f"{report.right:.3f}",
            *(f"{1000 * stage:.0f}" for stage in (usage.encode_s, usage.prefill_s, usage.decode_s)),
        )
    return table


def _chosen_settings(file: Path | None, changes: Sequence[str], labels: str | None, seed: int) -> Settings:
    """The settings of the file, changed by the options."""
    values: dict[str, object] = {"sampling.seed": seed} if seed else {}
    for change in changes:
        key, equals, text = change.partition("=")
        if not equals:
            raise typer.BadParameter(f"{change!r} is not KEY=VALUE", param_hint="--set")
        try:
            values[key.strip()] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise typer.BadParameter(
                f"the value of {change!r} is not valid YAML", param_hint="--set"
            ) from error
    if labels is not None:
        values["detect.labels"] = _listed(labels)
    return (Settings.load(file) if file else Settings()).with_values(values)


def _listed(text: str) -> list[str]:
    """What is separated by commas."""
    return [part.strip() for part in text.split(",") if part.strip()]


def _check_apart(source: str, out: Path) -> None:
    """Refuse results that would replace the source, or be read as part of it the next time."""
    from lfm_perception.media.sinks import RESULTS

    read, written = Path(source).resolve(), out.resolve()
    results = {written / name for name in RESULTS}
    if read == written or results & {read, *read.parents}:
        raise PerceptionError(
            f"the results would mix with the source {source}: choose a folder other than {out}"
        )


def _need_ros() -> None:
    """Say what is missing before the first import fails."""
    if find_spec("rclpy") is None or find_spec("vision_msgs") is None:
        raise PerceptionError(
            "this needs ROS 2 (rclpy, vision_msgs): source a ROS distribution, "
            "or run make environment on x86-64"
        )


def _about(settings: Settings) -> dict[str, Any]:
    """What a report says of model, settings and machine."""
    return {
        "model": model_provenance(settings),
        "settings": settings.values(),
        "versions": versions(),
        "system": platform.platform(),
    }


def _lines(settings: Settings) -> dict[str, str]:
    """The same in a few words, for a page."""
    found = ", ".join(f"{package} {number}" for package, number in versions().items())
    return {"model": model_name(settings), "system": platform.platform(), "versions": found}


class _Stop:
    """Remembers the first Ctrl-C or SIGTERM, for the run to end after the frame; a second ends it at once."""

    number = 0

    def __call__(self, number: int, _: FrameType | None) -> None:
        if self.number:
            raise KeyboardInterrupt
        self.number = number


@contextmanager
def _stop_signals() -> Iterator[_Stop]:
    stop = _Stop()
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    except KeyboardInterrupt:
        raise typer.Exit(128 + signal.SIGINT) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed or 0.0:.1f} frames/s")


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )


def _steps() -> Progress:
    return Progress(TextColumn("{task.description}"), BarColumn(), console=Console(stderr=True))
