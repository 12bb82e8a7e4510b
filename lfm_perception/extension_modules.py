# SPDX-License-Identifier: Apache-2.0
"""Compiled modules, imported without the packages that hold them.

The assignment and the sparse product are one compiled function each, which needs numpy alone. The packages
around them, `scipy.optimize` and `scipy.sparse`, take half a second to import and 52 and 23 MB.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.machinery import ExtensionFileLoader, PathFinder
from importlib.util import find_spec, module_from_spec
from pathlib import Path
from types import ModuleType


def extension_module(name: str) -> ModuleType:
    """The compiled module of this dotted name, such as `scipy.optimize._lsap`.

    Where no file of that name is compiled (scipy 1.8), the module is imported with its packages. Raises
    ImportError when there is none.
    """
    if name not in sys.modules:
        top, *folders, _ = name.split(".")
        package = find_spec(top)
        places = package.submodule_search_locations if package else None
        spec = PathFinder.find_spec(name, [str(Path(place, *folders)) for place in places or ()])
        if spec and isinstance(spec.loader, ExtensionFileLoader):
            module = module_from_spec(spec)
            spec.loader.exec_module(module)
            sys.modules[name] = module  # an import of the packages takes this one
            return module
        return import_module(name)
    return sys.modules[name]
