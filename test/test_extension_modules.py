# SPDX-License-Identifier: Apache-2.0
"""Compiled modules of scipy without the packages around them: the same functions, once in a process."""

from __future__ import annotations

import json.decoder
import subprocess
import sys

import numpy as np
import pytest
import scipy

from lfm_perception.extension_modules import extension_module
from lfm_perception.planning import resize
from lfm_perception.tracking import association

ASSIGNMENT = "scipy.optimize._lsap"


def test_a_compiled_module_is_imported_alone_and_shared_with_its_package() -> None:
    if scipy.__version__.startswith("1.8."):
        pytest.skip("scipy 1.8 has the assignment in a module of Python")
    code = (
        "import sys; from lfm_perception.extension_modules import extension_module\n"
        f"alone = extension_module({ASSIGNMENT!r})\n"
        "print(sorted(name for name in sys.modules if name.startswith('scipy')))\n"
        "from scipy.optimize import linear_sum_assignment\n"
        f"print(linear_sum_assignment is alone.linear_sum_assignment is "
        f"extension_module({ASSIGNMENT!r}).linear_sum_assignment)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert shown.stdout == f"['{ASSIGNMENT}']\nTrue\n", shown.stderr


def test_the_sparse_product_is_that_of_scipy() -> None:
    from scipy.sparse import csr_array

    weights = resize._weights(37, 16, "bicubic")
    dense = np.random.default_rng(1).random((37, 30), np.float32)
    expected = csr_array((weights.values, weights.places, weights.ends), shape=(16, 37)) @ dense
    np.testing.assert_array_equal(weights.product(dense), expected)


def test_a_module_that_is_not_compiled_is_imported_as_usual() -> None:
    """scipy 1.8 has the assignment in a module of Python."""
    assert extension_module("json.decoder") is json.decoder
    code = (
        "import sys; from lfm_perception.extension_modules import extension_module\n"
        "print(extension_module('wsgiref.headers') is sys.modules['wsgiref'].headers)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert shown.stdout == "True\n", shown.stderr


@pytest.mark.parametrize("name", ["no_such_package.module", "scipy.no_such_module"])
def test_a_module_that_does_not_exist_is_an_import_error(name: str) -> None:
    with pytest.raises(ImportError, match="no_such"):
        extension_module(name)


def test_a_scipy_without_these_modules_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(name: str) -> None:
        raise ImportError(name)

    weights, dense = resize._weights(37, 16, "bicubic"), np.random.default_rng(1).random((37, 30), np.float32)
    score = np.random.default_rng(2).random((6, 5))
    product, assigned = weights.product(dense), association._assign(score, score > 0.2)
    monkeypatch.setattr(resize, "extension_module", gone)
    monkeypatch.setattr(association, "extension_module", gone)
    np.testing.assert_array_equal(weights.product(dense), product)
    np.testing.assert_array_equal(association._assign(score, score > 0.2), assigned)
