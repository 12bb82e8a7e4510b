# SPDX-License-Identifier: Apache-2.0
"""`lfm-perception mcp`: eyes for agents, over a source or the running node."""

from __future__ import annotations

import logging
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated

import typer

import lfm_perception
from lfm_perception.cli import options
from lfm_perception.errors import PerceptionError

if TYPE_CHECKING:
    from lfm_perception.agents.eyes import Eyes
    from lfm_perception.settings import Settings


def mcp(
    source: Annotated[
        str,
        typer.Argument(
            help="As for `run`: images, a video, a bag, a camera, `demo`; or `node`, the running node, "
            "`node:/cam1/perception` by its name."
        ),
    ] = "node",
    allow_changes: Annotated[
        bool, typer.Option("--allow-changes", help="Offer `set_labels` too; the other tools only read.")
    ] = False,
    settings: options.SettingsFile = None,
    set_: options.Changes = None,
    topic: options.Topic = None,
    seed: options.Seed = 0,
) -> None:
    """Serve look, ask, tracks, caption and snapshot to an agent, as MCP tools on standard input and output.

    Images are MCP image content. The agent starts this command itself; it ends with its standard input.
    """
    if find_spec("mcp") is None:
        raise PerceptionError("this command needs the package mcp: pip install 'lfm_perception[mcp]'")
    node = options.node_name(source)
    if node is None:
        chosen = options.load_settings(settings, set_, seed=seed)
    else:
        options.refuse_for_node({"--settings": settings, "--set": set_, "--topic": topic, "--seed": seed})
        options.require_ros()
    from lfm_perception.agents.mcp_server import make_server

    with ExitStack() as opened, ThreadPoolExecutor(1) as opener:
        eyes: Future[Eyes]
        if node is None:
            eyes = opener.submit(_source_eyes, opened, source, chosen, topic, seed)
        else:
            eyes = opener.submit(_node_eyes, opened, node)
        eyes.add_done_callback(_log_failure)
        server = make_server(eyes.result, allow_changes=allow_changes, with_memory=node is not None)
        logging.getLogger(lfm_perception.__name__).propagate = False  # else the server prints warnings again
        server.run()
    if eyes.exception():
        raise typer.Exit(1)


def _log_failure(eyes: Future[Eyes]) -> None:
    """Say at once why the eyes see nothing; the agent reads it at its first call."""
    from lfm_perception.backends import log_warning

    if error := eyes.exception():
        log_warning(str(error))


def _node_eyes(opened: ExitStack, name: str) -> Eyes:
    from lfm_perception.ros.eyes import node_eyes

    return opened.enter_context(node_eyes(name))


def _source_eyes(opened: ExitStack, source: str, settings: Settings, topic: str | None, seed: int) -> Eyes:
    from lfm_perception.agents.eyes import SourceEyes
    from lfm_perception.backends import demo_model_warning, log_warning, model_name
    from lfm_perception.media.sources import open_source
    from lfm_perception.media.sources.demo import DEMO
    from lfm_perception.perception import open_perception

    frames = opened.enter_context(
        open_source(source, topic=topic, seed=seed, bit_depth=settings.image.bit_depth)
    )
    if source != DEMO and (warning := demo_model_warning(settings)):
        log_warning(warning)
    perception = opened.enter_context(open_perception(settings))
    return SourceEyes(frames, perception, settings, model_name(settings))
