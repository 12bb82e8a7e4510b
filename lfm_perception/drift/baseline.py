# SPDX-License-Identifier: Apache-2.0
"""Baselines: how often each value of a quantity is to be expected. `baseline.schema.json` defines the file.

A baseline counts samples in bins, separately for each block of `BLOCK_S` seconds, so that it also knows how
much its own windows differ from each other, whatever their length.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lfm_perception.drift.quantities import QUANTITIES, Samples
from lfm_perception.errors import PerceptionError
from lfm_perception.files import json_problem, new_file, parse_json, read_text, typed
from lfm_perception.text import safe_line

SCHEMA = Path(__file__).parent / "baseline.schema.json"
KIND, VERSION = "drift baseline", 1

BLOCK_S = 10.0
"""Length of a block in seconds."""

BINS = 10
"""Number of bins of a quantity with many values: between the deciles of the baseline (Siddiqi, Credit Risk
Scorecards, 2006)."""

MAX_NAMES = 100
"""Maximum number of labels with a bin of their own, the most frequent ones; the others share the last bin."""

MAX_BLOCKS = 8640
"""Maximum number of blocks of a baseline: a day."""

MAX_BYTES = 32 << 20
"""Maximum size of a baseline file."""

Counts = NDArray[np.int64]
"""Samples in each bin, shape (..., bins)."""


@dataclass(frozen=True, slots=True)
class Bins:
    """The bins of a quantity: between `edges`, of which the outer ones are open, or one for each of `names`.

    The last bin of names takes all others.
    """

    edges: tuple[float, ...] = ()
    names: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """The number of bins."""
        return len(self.edges or self.names) + 1

    @property
    def titles(self) -> list[str]:
        """What falls into each bin, as text."""
        if not self.edges:
            return [*self.names, "others"]
        edges = [f"{edge:.3g}" for edge in self.edges]
        return [
            f"below {edges[0]}",
            *(f"{low} to {high}" for low, high in pairwise(edges)),
            f"{edges[-1]} and more",
        ]

    def counts(self, samples: Sequence[float] | Sequence[str]) -> Counts:
        """How many samples fall into each bin."""
        if self.edges:
            places = np.searchsorted(self.edges, np.asarray(samples, np.float64), side="right")
        else:
            number = {name: index for index, name in enumerate(self.names)}
            places = np.array([number.get(str(name), len(number)) for name in samples], np.intp)
        return np.bincount(places, minlength=self.count).astype(np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class Distribution:
    """A quantity in a baseline: its bins and the counts of each block, shape (blocks, bins)."""

    bins: Bins
    counts: Counts


@dataclass(frozen=True, slots=True)
class Baseline:
    """What is to be expected: the labels that were asked for, and the distribution of each quantity."""

    labels: tuple[str, ...]
    source: str
    quantities: Mapping[str, Distribution]

    @property
    def seconds(self) -> float:
        """The time that it covers."""
        return BLOCK_S * max((len(each.counts) for each in self.quantities.values()), default=0)

    def to_json(self) -> dict[str, Any]:
        """The baseline by the schema."""
        return {
            "kind": KIND,
            "version": VERSION,
            "source": self.source,
            "labels": list(self.labels),
            "block_s": BLOCK_S,
            "quantities": {
                name: {
                    **({"edges": list(each.bins.edges)} if each.bins.edges else {"names": each.bins.names}),
                    "counts": each.counts.tolist(),
                }
                for name, each in self.quantities.items()
            },
        }

    def write(self, path: Path) -> None:
        """Write the file, complete or not at all. Raises PerceptionError."""
        with new_file(path) as file:
            json.dump(self.to_json(), file, ensure_ascii=False, allow_nan=False)


@dataclass(slots=True)
class BaselineRecorder:
    """Collects the samples of a recording; stamps that start over or leave a gap begin a new block."""

    _blocks: list[dict[str, list[Any]]] = field(default_factory=list)
    _begin_s: float | None = None

    def add(self, stamp_s: float, samples: Samples) -> None:
        """Add the samples of a frame. Raises PerceptionError for a recording that is too long."""
        if self._begin_s is None or not 0.0 <= stamp_s - self._begin_s < BLOCK_S:
            if len(self._blocks) == MAX_BLOCKS:
                raise PerceptionError(
                    f"a baseline covers {MAX_BLOCKS * BLOCK_S:.0f} s at most: limit it by --seconds"
                )
            self._blocks.append(defaultdict(list))
            self._begin_s = stamp_s
        for name, values in samples.items():
            self._blocks[-1][name].extend(values)

    def baseline(self, labels: Sequence[str], source: str) -> Baseline:
        """The baseline of what was added. Raises PerceptionError where there is nothing."""
        quantities = {}
        for name in QUANTITIES:
            values = [value for block in self._blocks for value in block.get(name, ())]
            if values:
                bins = _bins(QUANTITIES[name].kind, values)
                counts = np.array([bins.counts(block.get(name, [])) for block in self._blocks])
                quantities[name] = Distribution(bins, counts)
        if not quantities:
            raise PerceptionError("there is nothing to make a baseline of: the source gave no scenes")
        return Baseline(tuple(labels), safe_line(source), quantities)


def _bins(kind: str, values: Sequence[Any]) -> Bins:
    if kind == "name":
        return Bins(names=tuple(name for name, _ in Counter(values).most_common(MAX_NAMES)))
    quantiles = np.quantile(values, np.arange(1, BINS) / BINS)
    if kind == "count":  # a bin for each usual count
        quantiles = np.concatenate([np.round(quantiles) - 0.5, np.round(quantiles) + 0.5])
    return Bins(edges=tuple(np.unique(quantiles).tolist()))


def read_baseline(path: Path) -> Baseline:
    """The baseline of a file. Raises PerceptionError, with the path, when it holds none."""
    try:
        return baseline_from_json(parse_json(read_text(path, MAX_BYTES)))
    except PerceptionError as error:
        raise PerceptionError(f"{path}: {error}") from error


def baseline_from_json(record: object) -> Baseline:
    """The baseline that `to_json` gave. Raises PerceptionError when it is none."""
    try:
        fields = typed(record, dict)
        if fields["kind"] != KIND:
            raise ValueError("record one by lfm-perception drift baseline")
        if (fields["version"], fields["block_s"]) != (VERSION, BLOCK_S):
            raise ValueError("it was made by another version: record it anew")
        quantities = dict(_distributions(typed(fields["quantities"], dict)))
        if not quantities:
            raise ValueError("it holds no quantities")
        labels = tuple(safe_line(typed(label, str)) for label in typed(fields["labels"], list))
        return Baseline(labels, safe_line(typed(fields["source"], str)), quantities)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise PerceptionError(f"not a drift baseline: {json_problem(error)}") from error


def _distributions(entries: Mapping[str, Any]) -> Iterator[tuple[str, Distribution]]:
    for name, entry in entries.items():
        if name not in QUANTITIES:
            raise ValueError(f"there is no quantity {safe_line(name)!r}")
        fields = typed(entry, dict)
        if QUANTITIES[name].kind == "name":
            bins = Bins(names=tuple(safe_line(typed(each, str)) for each in typed(fields["names"], list)))
        else:
            bins = Bins(edges=tuple(typed(edge, float) for edge in typed(fields["edges"], list)))
            if any(low >= high for low, high in pairwise(bins.edges)):
                raise ValueError(f"the edges of {name!r} do not ascend")
        if not 1 < bins.count <= MAX_NAMES + 1:
            raise ValueError(f"{name!r} has {bins.count} bins, expected 2 to {MAX_NAMES + 1}")
        rows = typed(fields["counts"], list)
        if not 0 < len(rows) <= MAX_BLOCKS:
            raise ValueError(f"{name!r} has {len(rows)} blocks, expected 1 to {MAX_BLOCKS}")
        yield name, Distribution(bins, np.array([_row(row, bins.count, name) for row in rows], np.int64))


def _row(row: object, length: int, name: str) -> list[int]:
    counts = [typed(count, int) for count in typed(row, list)]
    if len(counts) != length or not all(0 <= count < 1 << 32 for count in counts):
        raise ValueError(f"the counts of {name!r} do not belong to its {length} bins")
    return counts
