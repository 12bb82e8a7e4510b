# SPDX-License-Identifier: Apache-2.0
"""Builds a ROS 2 interface package from its .msg files into the environment this runs in.

    .venv/bin/python tools/build_interfaces.py interfaces/vision_msgs

For environments whose ROS comes from Python wheels: they bring the generators, but no CMake to drive them.
Made are the Python module with the C libraries behind it, for Fast DDS and for introspection, and the
entries of the ament index. Needs a C and a C++ compiler.
"""

from __future__ import annotations

import contextlib
import io
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

PREFIX = Path(sys.prefix)
MODULES = Path(sysconfig.get_path("purelib"))
# -O0: the code only copies fields, and compiles three times faster; the generators' C is not free of warnings
FLAGS = ("-fPIC", "-O0", "-w")
TYPE_SUPPORTS = ("rosidl_typesupport_fastrtps_c", "rosidl_typesupport_introspection_c")
RUNTIME = (
    *("rosidl_runtime_c", "rosidl_typesupport_c", "rosidl_typesupport_introspection_c"),
    *("rosidl_typesupport_fastrtps_c", "rosidl_typesupport_fastrtps_cpp", "rmw", "rcutils", "fastcdr"),
)
KINDS = (
    *("generator_c", "generator_py", "typesupport_c"),
    *("typesupport_fastrtps_c", "typesupport_introspection_c"),
)


@dataclass(frozen=True)
class Generated:
    """What the generators made, each kind in a tree of its own; `idl` are the interface definitions."""

    idl: list[Path]
    descriptions: list[Path]
    c: Path
    introspection: Path
    python: Path


def main(package: Path) -> None:
    os.environ.setdefault("AMENT_PREFIX_PATH", str(PREFIX))
    with tempfile.TemporaryDirectory() as folder:
        generated = generate(package, Path(folder))
        link(package.name, generated, Path(folder))
        install(package, generated)


def generate(package: Path, out: Path) -> Generated:
    """Run the generators of the ROS installation in this environment."""
    from rosidl_adapter import convert_to_idl
    from rosidl_generator_c.cli import GenerateC
    from rosidl_generator_py.cli import GeneratePython
    from rosidl_generator_type_description.cli import HashTypeDescription
    from rosidl_typesupport_c.cli import GenerateCTypesupport
    from rosidl_typesupport_fastrtps_c.cli import GenerateFastRTPSCTypesupport
    from rosidl_typesupport_introspection_c.cli import GenerateIntrospectionCTypesupport

    name, include = package.name, [str(PREFIX / "share")]
    # introspection writes files by the same names as the C generator, so it gets its own tree
    made = Generated([], [], out / "c", out / "introspection", out / "python" / name)
    c = made.c / name
    with contextlib.redirect_stdout(io.StringIO()):
        for message in sorted(package.glob("msg/*.msg")):
            convert_to_idl(package.resolve(), name, message.relative_to(package), out / "idl")
        made.idl.extend(sorted((out / "idl").rglob("*.idl")))
        idl = [f"{out / 'idl'}:{path.relative_to(out / 'idl')}" for path in made.idl]
        hashes = HashTypeDescription("").generate_type_hashes(name, idl, include, out / "hashes")
        made.descriptions.extend(Path(path) for path in hashes)
        GenerateC("").generate(name, idl, include, c, [str(path) for path in hashes])
        dispatch = GenerateCTypesupport("", typesupport_implementations=list(TYPE_SUPPORTS))
        dispatch.generate(name, idl, include, c)
        GenerateFastRTPSCTypesupport("").generate(name, idl, include, c)
        GenerateIntrospectionCTypesupport("").generate(name, idl, include, made.introspection / name)
        python = GeneratePython("", typesupport_implementations=["rosidl_typesupport_c"])
        python.generate(name, idl, include, made.python)
    return made


def link(name: str, generated: Generated, out: Path) -> None:
    """Compile everything and link the libraries and the extension module beside the Python code."""
    c, python = generated.c, generated.python
    fast = set(c.rglob("*__type_support_c.cpp"))
    sources = {
        f"{name}__rosidl_generator_c": set(c.rglob("*.c")),
        f"{name}__rosidl_typesupport_fastrtps_c": fast,
        f"{name}__rosidl_typesupport_introspection_c": set(generated.introspection.rglob("*.c")),
        f"{name}__rosidl_typesupport_c": set(c.rglob("*.cpp")) - fast,
        f"{name}__rosidl_generator_py": set(python.glob("*/*_s.c")),
    }
    module = f"{name}_s__rosidl_typesupport_c"
    every = sorted(set().union(*sources.values(), python.glob("*.ep.*.c")))
    includes = include_flags(generated)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = pool.map(lambda source: compiled(source, out, name, includes), every)
        objects = dict(zip(every, jobs, strict=True))

    needed = sorted({path.name for path in (PREFIX / "lib").glob("lib*__rosidl_*.so")})
    others = [f"-l{file[3:-3]}" for file in needed if file[3:-3].split("__rosidl_")[1] in KINDS]
    where = [f"-L{python}", f"-L{PREFIX / 'lib'}", f"-Wl,-rpath-link,{PREFIX / 'lib'}:{python}"]
    common = [*where, "-Wl,-rpath,$ORIGIN:$ORIGIN/../../..", "-s"]
    own: list[str] = []
    for library, files in sources.items():
        target = python / f"lib{library}.so"
        parts = [objects[file] for file in sorted(files)]
        run(*compiler("CXX", "c++"), "-shared", "-o", target, f"-Wl,-soname,{target.name}", *parts, *common)
        own.append(f"-l{library}")
    # the dispatching library opens the type supports by name: they must be loaded with the module
    run(
        *compiler("CXX", "c++"),
        *("-shared", "-o", python / f"{module}.so"),
        *(objects[file] for file in python.glob("*.ep.*.c")),
        *(*common, "-Wl,--no-as-needed", *own, "-Wl,--as-needed", *others),
        *(f"-l{library}" for library in RUNTIME),
    )


def include_flags(generated: Generated) -> list[str]:
    import numpy as np

    folders = [generated.c, generated.introspection, PREFIX / "include"]
    folders += [path for path in sorted((PREFIX / "include").iterdir()) if path.is_dir()]
    folders += [Path(sysconfig.get_path("include")), Path(np.get_include())]
    return [f"-I{folder}" for folder in folders]


def compiled(source: Path, out: Path, name: str, includes: list[str]) -> Path:
    target = out / "objects" / f"{str(source.relative_to(out)).replace('/', '__')}.o"
    target.parent.mkdir(exist_ok=True)
    command = (
        [*compiler("CXX", "c++"), "-std=c++17"]
        if source.suffix == ".cpp"
        else [*compiler("CC", "cc"), "-std=gnu11"]
    )
    run(*command, *FLAGS, f'-DROS_PACKAGE_NAME="{name}"', *includes, "-c", source, "-o", target)
    return target


def compiler(variable: str, default: str) -> list[str]:
    return shlex.split(os.environ.get(variable, default))


def run(*command: str | Path) -> None:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{shlex.join(map(str, command))}\n{done.stderr}")


def install(package: Path, generated: Generated) -> None:
    """Put the module where Python looks, and the definitions where ROS tools look."""
    name, share = package.name, PREFIX / "share"
    module = MODULES / name
    shutil.rmtree(module, ignore_errors=True)
    shutil.copytree(generated.python, module, ignore=shutil.ignore_patterns("*.c", "tmp"))
    (module / "__init__.py").touch()
    shutil.rmtree(share / name, ignore_errors=True)
    (share / name / "msg").mkdir(parents=True)
    interfaces = [*package.glob("msg/*.msg"), *generated.idl]
    for file in (*interfaces, *generated.descriptions):
        shutil.copy(file, share / name / "msg")
    shutil.copy(package / "package.xml", share / name)
    index = share / "ament_index" / "resource_index"
    listing = "\n".join(sorted(f"msg/{file.name}" for file in interfaces))
    for kind, text in (("packages", ""), ("rosidl_interfaces", listing)):
        (index / kind).mkdir(parents=True, exist_ok=True)
        (index / kind / name).write_text(text)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
