# SPDX-License-Identifier: Apache-2.0
"""Prints a generated file: `python -m lfm_perception.settings yaml` or `markdown`."""

import sys

from lfm_perception.settings.documentation import as_markdown, as_yaml

print({"yaml": as_yaml, "markdown": as_markdown}[sys.argv[1]](), end="")
