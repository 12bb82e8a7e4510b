# SPDX-License-Identifier: Apache-2.0
"""The table of modules, from the first sentences of their docstrings."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from documentation.marks import table

PACKAGE = "lfm_perception"


def text(root: Path) -> str:
    """The table of every module of the package, packages before their modules."""
    return table(("module", "content"), _rows(root / PACKAGE))


def _rows(package: Path) -> Iterator[tuple[str, str]]:
    files = sorted(package.rglob("*.py"), key=lambda path: (len(path.parts) > 1 + len(package.parts), path))
    for path in files:
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        name = path.relative_to(package).as_posix().removesuffix("__init__.py")
        if name and docstring:
            yield f"`{name}`", " ".join(docstring.partition("\n\n")[0].split()).removesuffix(".")
