# SPDX-License-Identifier: Apache-2.0
"""Parameters as a node reads them from files."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed")

import rclpy
from rclpy.node import Node
from rclpy.parameter import Parameter

from lfm_perception.errors import PerceptionError
from lfm_perception.ros.launch_arguments import accepted_arguments, start_problem
from lfm_perception.ros.parameters import Parameters, ros_parameters
from lfm_perception.settings import Settings

ROOT = Path(__file__).parents[2]


@contextmanager
def parameters(file: Path, *more: str) -> Iterator[Parameters]:
    """The parameters of a node that was started with a parameter file, or with a settings file."""
    context = rclpy.Context()
    arguments = accepted_arguments(["node", "--ros-args", "--params-file", str(file), *more])
    rclpy.init(args=arguments, context=context)
    node = Node("perception", context=context)
    try:
        yield Parameters(node)
    finally:
        node.destroy_node()
        context.try_shutdown()


def test_a_named_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(PerceptionError, match="pipe is a pipe: give a file"):
        accepted_arguments(["node", "--ros-args", "--params-file", str(tmp_path / "pipe")])


def test_a_parameter_file_that_cannot_be_examined_is_one_sentence() -> None:
    arguments = ["node", "--ros-args", "--params-file", "long" * 100]
    with pytest.raises(RuntimeError) as refused:
        rclpy.init(args=accepted_arguments(arguments), context=rclpy.Context())
    problem = start_problem(str(refused.value), arguments)
    assert problem.startswith("the parameter file longlong")
    assert "file name too long" in problem


@pytest.mark.parametrize("file", sorted((ROOT / "config").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_node_and_the_command_line_read_the_same_from_a_file_that_ships(file: Path) -> None:
    with parameters(file) as declared:
        assert declared.settings() == Settings.load(file)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("gate: {duty: 0.5}", "parameter gate.duty is now called inference.duty_cycle"),
        ("tracker: {agility: 0.2}", "parameter tracker.agility is now called tracker.process_noise"),
        ("tracker: {per_label: ['box: agility=1']}", "parameter tracker.agility is now called"),
        ("image: {max_token: 64}", "unknown parameter 'image.max_token': did you mean 'image.max_tokens'?"),
    ],
)
def test_a_name_that_does_not_exist_is_refused_with_the_right_one(
    tmp_path: Path, line: str, said: str
) -> None:
    file = tmp_path / "parameters.yaml"
    file.write_text(f"/**:\n  ros__parameters:\n    {line}\n")
    with parameters(file) as declared:
        assert said in declared.problem()
        with pytest.raises(PerceptionError, match=re.escape(said)):
            declared.settings()


def test_where_pictures_and_keys_go_is_fixed_when_the_process_starts(tmp_path: Path) -> None:
    """Whoever is on the DDS graph can set parameters of a node, but not these."""
    file = tmp_path / "parameters.yaml"
    lines = "openai: {url: 'https://fleet/v1', key_variable: LFM_PERCEPTION_KEY}"
    file.write_text(f"/**:\n  ros__parameters:\n    {lines}\n")
    with parameters(file) as declared:
        before = declared.settings()
        assert (before.openai.url, before.openai.key_variable) == ("https://fleet/v1", "LFM_PERCEPTION_KEY")
        for name in ("openai.url", "openai.key_variable", "openai.ca_file", "thermal.sysfs"):
            (result,) = declared._node.set_parameters([Parameter(name, value="elsewhere")])
            assert not result.successful
            assert "read-only" in result.reason
        assert declared.settings() == before


DIALECT = """
detect: {dialect: corners, labels: [dog], synonyms: ["dog: puppy"]}
dialects:
  corners:
    user: "Give the corners of every {labels} as JSON."
    keys: [corners, name]
    label_key: name
    box_key: corners
    coordinate_range: 1000
    decimals: 0
"""


def test_a_dialect_of_the_users_works_in_the_node_as_on_the_command_line(tmp_path: Path) -> None:
    file = tmp_path / "parameters.yaml"
    file.write_text("/**:\n  ros__parameters:\n" + DIALECT.replace("\n", "\n    "))
    with parameters(file) as declared:
        settings = declared.settings()
        assert settings == Settings.load(file)
        assert settings.dialect.box_key == "corners"
        assert settings.with_values({"detect.dialect": "bbox"}).dialects == settings.dialects


def test_a_dialect_travels_to_a_node_that_another_command_starts(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(DIALECT)
    given = ros_parameters(Settings.load(file))
    overrides = [Parameter(name, value=value) for name, value in given.items()]
    context = rclpy.Context()
    rclpy.init(context=context)
    node = Node("perception", context=context, parameter_overrides=overrides)
    try:
        assert Parameters(node).settings() == Settings.load(file)
    finally:
        node.destroy_node()
        context.try_shutdown()


def test_a_wrong_dialect_is_refused_when_the_node_is_configured(tmp_path: Path) -> None:
    file = tmp_path / "parameters.yaml"
    file.write_text("/**:\n  ros__parameters:\n    dialects: {mine: {usr: 'Find {labels}.'}}\n")
    with parameters(file) as declared, pytest.raises(PerceptionError, match="unknown key 'usr'"):
        declared.settings()


def test_a_settings_file_is_read_by_the_node_too_and_parameters_take_precedence(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(
        "image: {max_tokens: 64}\ndetect: {labels: [cone, 'red box']}\ncaption: {enabled: false}\n"
    )
    with parameters(file) as declared:
        assert declared.settings() == Settings.load(file)
    with parameters(file, "-p", "image.max_tokens:=96") as declared:
        assert declared.settings() == Settings.load(file).with_values({"image.max_tokens": 96})


def test_a_settings_file_that_cannot_be_used_is_named_when_the_node_is_configured(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    for text, said in (
        ("image: {max_token: 64}", f"{file}: unknown parameter 'image.max_token': did you mean"),
        ("image: {max_tokens: many}", f"{file}: image.max_tokens must be a whole number"),
    ):
        file.write_text(text)
        with parameters(file) as declared, pytest.raises(PerceptionError, match=re.escape(said)):
            declared.settings()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("-r", "image_raw:=bad topic"), "'-r image_raw:=bad topic' is no remap rule; usage: "),
        (("-r", "__ns:=cam1"), "'-r __ns:=cam1' is no remap rule; usage: "),
        (("-p", "image.max_tokens"), "'-p image.max_tokens' is no parameter override rule; usage: "),
        (("-p",), "No parameter override rule found"),
        (("--log-level", "loud"), "'--log-level loud' is no log level; usage: "),
        (("--bogus",), "--bogus"),
        (("--params-file", "missing.yaml"), "the parameter file missing.yaml: cannot be read: no such file"),
    ],
)
def test_arguments_that_ros_cannot_parse_are_one_sentence(words: tuple[str, ...], said: str) -> None:
    arguments = ["node", "--ros-args", *words]
    with pytest.raises(Exception) as caught:  # noqa: PT011 - of rclpy, which has a class for some of them
        rclpy.init(args=arguments, context=rclpy.Context())
    problem = start_problem(str(caught.value), arguments)
    assert said in problem
    assert " at /" not in problem
