# SPDX-License-Identifier: Apache-2.0
"""The demo world as a source without end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from lfm_perception.media.sources.base import Source, SourceKind, SourceOptions, default_every, register

DEMO = "demo"
RATE = 30.0


@contextmanager
def _open(_: str, options: SourceOptions) -> Iterator[Source]:
    from lfm_perception.demo.world import World

    frames = (snapshot.frame for snapshot in World(options.seed, fps=RATE))
    yield Source(f"the demo world (seed {options.seed})", frames, RATE, every=default_every(RATE))


register(SourceKind(0, DEMO, DEMO.__eq__, _open))
