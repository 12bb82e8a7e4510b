# SPDX-License-Identifier: Apache-2.0
"""Writes everything that is generated in pages and configuration: `make docs`."""

from __future__ import annotations

from documentation.pages import ROOT, generated, stale


def main() -> None:
    for path, text in generated().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(path.relative_to(ROOT))
    for path in stale():
        path.unlink()
        print(f"removed {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
