# SPDX-License-Identifier: Apache-2.0
"""Reading the pages that the package writes."""

from __future__ import annotations

import base64
import html
import re
from pathlib import Path
from xml.etree import ElementTree


def svg_text(source: str) -> str:
    """The text of a chart, given as a data URI. Raises when it is no valid SVG."""
    return " ".join(ElementTree.fromstring(base64.b64decode(source.partition(",")[2])).itertext())


def charts_of(page: Path) -> dict[str, str]:
    """The text of each chart of a page by its title."""
    found = re.findall(r'<img alt="([^"]*)" src="(data:image/svg[^"]*)">', page.read_text(encoding="utf-8"))
    return {html.unescape(title): svg_text(source) for title, source in found}


def check_charts(page: Path, expected: dict[str, tuple[str, ...]]) -> None:
    """Exactly these charts are on the page, and each holds these texts: axes with units, legends."""
    charts = charts_of(page)
    assert list(charts) == list(expected)
    for title, texts in expected.items():
        missing = [text for text in texts if text not in charts[title]]
        assert not missing, f"{title}: {missing} not in {charts[title].split()}"


STAGES = ("encode", "prefill", "decode")
LATENCY_CHARTS = {
    "Latency of an inference": ("latency (ms)", "inferences", "p50: ", "p95: ", "p99: "),
    "Mean time by stage": ("mean time (ms)", *STAGES),
}
