# SPDX-License-Identifier: Apache-2.0
"""The pages tell the truth: links lead somewhere, what is named exists, messages are real."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from functools import cache
from itertools import chain, pairwise, takewhile
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml
from documentation.pages import generated, stale
from typer.main import get_command

from lfm_perception.cli.application import app
from lfm_perception.demo.bodies import LABELS
from lfm_perception.evaluation.languages import languages
from lfm_perception.questions import BBOX
from lfm_perception.ros import launch_arguments
from lfm_perception.rules import parse_rules
from lfm_perception.settings import RENAMED, Settings, parameter_specs

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
PACKAGE = ROOT / "lfm_perception"
OF_LLAMA_CPP = ("convert_hf_to_gguf.py", "convert_lora_to_gguf.py")
CODE = [*PACKAGE.rglob("*.py"), *(ROOT / "tools").glob("*.py"), *(ROOT / "launch").glob("*.py")]
PARAMETERS = set(parameter_specs())


# --- what the pages name ------------------------------------------------------------------------------


@cache
def text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def fences(language: str) -> Iterator[tuple[Path, str]]:
    """The blocks of a language in all pages."""
    for page in PAGES:
        for block in re.findall(rf"^```{language}\n(.*?)^```", text(page), re.M | re.S):
            yield page, block


def spans() -> Iterator[tuple[Path, str]]:
    """What stands between backticks in the words of all pages."""
    for page in PAGES:
        words = re.sub(r"^```.*?^```", "", text(page), flags=re.M | re.S)
        for span in re.findall(r"`([^`\n]+)`", words):
            yield page, span


def commands() -> Iterator[tuple[Path, list[str]]]:
    """Every command in a block or between backticks, in words, without what is assigned before it."""
    lines = [(page, line) for page, block in fences("sh") for line in block.replace("\\\n", " ").splitlines()]
    for page, line in chain(lines, spans()):
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        try:
            words = list(lexer)
        except ValueError:  # a single quotation mark: no command
            continue
        while words:
            command = list(takewhile(lambda word: not set(word) <= set("();<>|&"), words))
            words = words[len(command) + 1 :]
            while command and re.match(r"\w+=", command[0]):
                command = command[1:]
            if command:
                yield page, command


def named(first: str) -> list[tuple[Path, list[str]]]:
    """The commands that begin with this word."""
    found = [(page, words) for page, words in commands() if words[0] == first]
    assert found, f"no page names {first}"
    return found


def test_every_link_between_files_leads_somewhere() -> None:
    broken = []
    for page in {*PAGES, *ROOT.glob("*.md")}:
        for link in re.findall(r"\]\(([^)\s]+)\)", text(page)):
            parts = urlsplit(link)
            target = page.parent / parts.path if parts.path else page
            if not parts.scheme and not target.exists():
                broken.append(f"{page.name}: {link}")
    assert broken == []


@cache
def all_commands() -> Any:
    """The command `lfm-perception` with its commands; to build them takes a while."""
    return get_command(app)


def is_command(words: list[str]) -> bool:
    """Whether `lfm-perception` has a command of these words, with these options."""
    command = all_commands()
    while words and words[0] in getattr(command, "commands", {}):
        command, words = command.commands[words[0]], words[1:]
    complete = not getattr(command, "commands", {}) or not words or words[0].startswith("--")
    options = {option for each in command.params for option in (*each.opts, *each.secondary_opts)}
    return complete and {word for word in words if word.startswith("-")} <= options | {"--help"}


def test_every_command_exists_with_its_options() -> None:
    wrong = []
    for page, words in [*named("lfm-perception"), *((p, ["", *w]) for p, w in named("models"))]:
        if not is_command(words[1:]):
            wrong.append(f"{page.name}: {' '.join(words)}")
        changes = [value.partition("=") for option, value in pairwise(words) if option == "--set"]
        Settings().with_values({key: yaml.safe_load(value) for key, _, value in changes})  # raises if wrong
    assert wrong == []


def test_every_make_target_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", text(ROOT / "Makefile"), re.M))
    wanted = {words[1] for _, words in named("make") if len(words) > 1 and "=" not in words[1]}
    assert wanted - targets == set()
    assert {"demo", "test", "desktop", "jetson", "site"} <= wanted


def test_every_launch_file_and_argument_exists() -> None:
    arguments_of = {
        "perception.launch.py": launch_arguments.perception_arguments(ROOT / "config"),
        "demo.launch.py": launch_arguments.DEMO_ARGUMENTS,
        "replay.launch.py": launch_arguments.REPLAY_ARGUMENTS,
    }
    assert arguments_of.keys() == {path.name for path in (ROOT / "launch").glob("*.launch.py")}
    declared = {file: {argument.name for argument in each} for file, each in arguments_of.items()}
    launches = [words[3:] for _, words in named("ros2") if words[1:3] == ["launch", "lfm_perception"]]
    assert len(launches) > 3
    for file, *arguments in launches:
        given = {argument.partition(":=")[0] for argument in arguments}
        assert given <= declared[file] | declared["perception.launch.py"], file
    spoken = {span.partition(":=")[0] for _, span in spans() if re.match(r"\w+:=", span)}
    assert spoken <= set().union(*declared.values())


def test_every_script_module_and_option_of_python_exists() -> None:
    for page, words in named("python"):
        if words[1] == "-m":
            source = ROOT / f"{words[2].replace('.', '/')}.py"
            if words[2].partition(".")[0] != "lfm_perception":
                continue
        else:
            source = ROOT / words[1]
            if source.parent == ROOT:  # of another project
                continue
        assert source.is_file(), f"{page.name}: {' '.join(words)}"
        for option in (word for word in words[2:] if word.startswith("--")):
            assert f'"{option}"' in text(source), f"{page.name}: {' '.join(words)}"


def test_every_file_of_the_repository_that_is_named_is_there() -> None:
    words = [*spans(), *((page, word) for page, words in commands() for word in words)]
    paths = [(page, word) for page, word in words if re.fullmatch(r"[\w./-]+", word) and "NAME" not in word]
    assert {f"{page.name}: {word}" for page, word in paths if not _is_there(word)} == set()


def _is_there(word: str) -> bool:
    """Whether a word that can be a path of this repository is one: from its root, or from the package."""
    first, slash, _ = word.partition("/")
    for root in (ROOT, PACKAGE):
        if slash and first not in ("", "out", "build") and (root / first).is_dir():
            return (root / word).exists()
    if word.endswith(".py") and not slash:
        return word in OF_LLAMA_CPP or any(ROOT.glob(f"[!.]*/**/{word}"))
    return True  # something else


def test_every_parameter_that_is_named_exists() -> None:
    groups = "|".join({name.partition(".")[0] for name in [*PARAMETERS, *RENAMED]})
    suffix = "json|html|svg|md|py|log|gguf|yaml"
    name = re.compile(rf"(?<![\w./-])(?:{groups})\.(?!(?:{suffix})\b)[a-z][a-z0-9_]*\b(?![/.(\w-])")
    named = {(file, found) for file, words in prose() for found in name.findall(words)}
    assert {found for _, found in named} >= PARAMETERS
    named -= {("report.py", "detect.image"), ("report.py", "detect.answer")}  # statistics
    named -= {(file, old) for file in ("validation.py", "CHANGELOG.md") for old in RENAMED}
    assert {each for each in named if each[1] not in PARAMETERS} == set()


def test_every_command_that_the_code_names_exists() -> None:
    named = [
        (file, command.split())
        for file, sentence in prose()
        for command in re.findall(r"lfm-perception ((?:(?:--)?[a-z][a-z-]* ?)+)", sentence)
    ]
    assert [(file, words) for file, words in named if not is_command(words)] == []
    assert len(named) > 50


def test_every_topic_and_service_that_is_named_exists() -> None:
    tables = [line for line in text(DOCS / "topics.md").splitlines() if line.startswith("| `")]
    known = {line.split("`")[1].rpartition("/")[2] for line in tables}  # checked by test_topics.py
    known |= {"ground_truth", "clock", "change_state", "get_state"}
    found = {(page.name, span) for page, span in spans() if re.fullmatch(r"~?/[a-z_/]+", span)}
    found |= {(file, name) for file, words in prose() for name in re.findall(r"~/[a-z_]+(?![\w./])", words)}
    found |= {
        (page.name, words[3])
        for page, words in named("ros2")
        if words[1] in ("topic", "service") and len(words) > 3
    }
    found |= {(preset, name) for preset, names in launch_arguments.REMAP_PRESETS.items() for name in names}
    shown = re.findall(r"^ +Value: ([a-z_/]+)$", text(ROOT / "config" / "perception.rviz"), re.M)
    found |= {("perception.rviz", name) for name in shown if name not in ("true", "false")}
    folders = {each for each in found if Path(each[1]).is_dir()}
    assert {each for each in found - folders if each[1].rpartition("/")[2] not in known} == set()
    assert len(found) > 15


def test_every_yaml_is_a_settings_file(tmp_path: Path) -> None:
    count = 0
    for page, block in fences("yaml"):
        file = tmp_path / f"{page.stem}{count}.yaml"
        file.write_text(block, encoding="utf-8")
        if page.stem == "rules" and not block.startswith("#"):
            assert parse_rules(block).problems == ()
        elif page.stem == "evaluation":  # words for the labels in other languages
            languages(["de"], BBOX, LABELS, file)
        else:
            Settings.load(file)  # raises for what is none
        count += 1
    assert count > 3


# --- what the program says ----------------------------------------------------------------------------


@cache
def prose() -> tuple[tuple[str, str], ...]:
    """The text of pages and configuration, and every text in the code, each with the name of its file."""
    pages = {*PAGES, *ROOT.glob("*.md")}
    files = [*pages, *(ROOT / "config").glob("*"), *(ROOT / "docker").glob("*")]
    written = [(path.name, node) for path in CODE for node in ast.walk(ast.parse(text(path)))]
    return (
        *((file.name, text(file)) for file in files),
        *(
            (name, node.value)
            for name, node in written
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        ),
    )


def sentences() -> Iterator[str]:
    """Every text in the code, with … for what is put in."""
    for path in CODE:
        for node in ast.walk(ast.parse(text(path))):
            if isinstance(node, ast.JoinedStr):
                parts = (each.value if isinstance(each, ast.Constant) else "…" for each in node.values)
                yield "".join(map(str, parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def test_troubleshooting_quotes_what_is_really_said() -> None:
    said = "\n".join(sentence.replace("\n", " ") for sentence in sentences())
    quotes = re.findall(r"^> (.*)$", text(DOCS / "troubleshooting.md"), re.M)
    assert len(quotes) > 40
    assert [quote for quote in quotes if not re.search(_pattern(quote), said)] == []


def _pattern(quote: str) -> str:
    """The words of a quote in one sentence of the code."""
    return ".*".join(re.escape(part) for part in quote.split("…"))


# --- what `make docs` writes ----------------------------------------------------------------------------


def test_every_generated_page_and_figure_is_the_one_that_make_docs_writes() -> None:
    pages = generated()
    assert [path.name for path, text in pages.items() if path.read_text(encoding="utf-8") != text] == [], (
        "run make docs"
    )
    assert stale() == []
    assert {"README.md", "tuning.md", "topics.md", "architecture.md"} <= {path.name for path in pages}


def test_the_architecture_names_every_module() -> None:
    page = text(DOCS / "architecture.md")
    modules = {
        path.relative_to(PACKAGE).as_posix().removesuffix("__init__.py")
        for path in PACKAGE.rglob("*.py")
        if ast.parse(path.read_text(encoding="utf-8")).body
    }
    assert {name for name in modules if name and f"| `{name}` |" not in page} == set()
