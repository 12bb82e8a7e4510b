# SPDX-License-Identifier: Apache-2.0
"""`lfm-perception rules`: checks rule files, draws their zones, and replays videos with the rules."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from lfm_perception.cli import options
from lfm_perception.cli.run import run
from lfm_perception.errors import PerceptionError
from lfm_perception.text import safe_line

if TYPE_CHECKING:
    from lfm_perception.rules import RuleFile

MAX_SHOWN = 80
"""Maximum length of a file's name on the page, characters."""

app = typer.Typer(no_args_is_help=True)


@app.callback()
def _options() -> None:
    """Rules over tracks: zones, lines and conditions that give events, without code."""


@app.command()
def check(
    file: Annotated[Path, typer.Argument(help="Rule file.")],
    settings: options.SettingsFile = None,
    labels: Annotated[str | None, typer.Option(help="Labels that are detected: `person,red box`.")] = None,
) -> None:
    """Check a rule file, and list its rules; each problem is printed with its line and column.

    With labels, it is also checked that no others are named; with settings, that labels, attributes, standing
    questions and depth are those that perception has.
    """
    from lfm_perception.rules import Known, read_rules

    chosen = options.load_settings(settings, None, labels=labels)
    known = Known.of(chosen) if settings else Known(labels=chosen.detect.labels if labels else None)
    found = read_rules(file, known)
    table = Table(box=None, pad_edge=False)
    for head in ("rule", "event for", "for (s)", "end after (s)", "cooldown (s)"):
        table.add_column(head)
    for rule in found.rules:
        about = "each object" if rule.of_objects else "the scene"
        moment = ", a moment" if rule.momentary else ""
        times = (f"{seconds:g}" for seconds in (rule.for_s, rule.end_after_s, rule.cooldown_s))
        table.add_row(rule.name, about + moment, *times)
    if found.rules:
        options.show_table(table)
    _print_problems(file, found)
    if found.problems:
        count = len(found.problems)
        raise PerceptionError(f"{file}: {count} entr{'y' if count == 1 else 'ies'} cannot be used, see above")
    counts = {"rule": len(found.rules), "zone": len(found.zones), "line": len(found.lines)}
    said = ", ".join(f"{count} {kind}{'' if count == 1 else 's'}" for kind, count in counts.items())
    print(f"{file}: {said}")


@app.command()
def replay(
    source: options.Source,
    rules: Annotated[Path, typer.Option(help="Rule file.")],
    out: Annotated[Path | None, typer.Option(help="Folder for the results; `out/NAME` by default.")] = None,
    settings: options.SettingsFile = None,
    set_: options.Changes = None,
    labels: options.Labels = None,
    seconds: options.Seconds = None,
    topic: options.Topic = None,
    force: options.Force = False,
    seed: options.Seed = 0,
) -> None:
    """Run a video through perception and rules: its events, a page with their timeline, an overlay video.

    The same as `run --rules`, which has more options. Images are the frames of one video. No source has depth
    images: a rule with a `distance` from the camera is a warning, and left out.
    """
    run(
        source, out, settings, set_, labels=labels, seconds=seconds, topic=topic, sequence=True, force=force,
        seed=seed, rules=rules,
    )  # fmt: skip


@app.command()
def draw(
    source: options.Source,
    rules: Annotated[
        Path | None, typer.Option(help="Rule file whose zones and lines are there to be changed.")
    ] = None,
    out: Annotated[Path, typer.Option(help="The page, one HTML file.")] = Path("draw.html"),
    topic: options.Topic = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a page of that name.")] = False,
) -> None:
    """Make a page in which zones and lines are drawn over an image, or over the first frame of a video.

    The page is one file that needs no network. What is drawn with the mouse or the finger comes out as YAML,
    to copy or to download.
    """
    from lfm_perception.files import new_file
    from lfm_perception.media.draw_page import draw_page
    from lfm_perception.media.sources import open_source
    from lfm_perception.rules import RuleFile, read_rules

    if out.exists() and not force:
        raise PerceptionError(f"{out} exists: add --force to replace it, or give another --out")
    file = read_rules(rules) if rules else RuleFile()
    with open_source(source, topic=topic) as opened:
        frame = next(opened.frames, None)
        if frame is None:
            raise PerceptionError(f"{source} has no frame to draw on")
    if rules:
        _print_problems(rules, file)
    with new_file(out) as page:
        page.write(draw_page(safe_line(Path(source).name, MAX_SHOWN), frame.image, file))
    print(f"{out}: open it in a browser")


def _print_problems(path: Path, file: RuleFile) -> None:
    for problem in file.problems:
        print(f"{path}:{problem.line}:{problem.column}: {problem.about}: {problem.sentence}")
