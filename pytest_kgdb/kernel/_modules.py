"""External modules, built against a kernel (Documentation/kbuild/modules.rst)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from ..cache import Cache
from ..errors import ConfigError
from ..progress import Progress
from ._model import Kernel
from ._module_build import ModuleBuilder, builds_modules
from ._module_inputs import MAKEFILES
from ._shipped import compiler_of
from ._toolchain import toolchain

_VERMAGIC: Final = re.compile(rb"\0vermagic=([^\0]+)")
_SUBDIRECTORIES: Final = 3  # how deep below the named directory modules are searched for


class Built(NamedTuple):
    """The modules of a directory."""

    modules: list[Path]
    needed: list[Path]
    """Those of its neighbours that it names (KBUILD_EXTRA_SYMBOLS): to be loaded before."""


def build_module(
    kernel: Kernel,
    path: Path,
    cache: Cache,
    progress: Progress,
    variables: Sequence[str] = (),
) -> list[Path]:
    """Return the modules of a directory, built for a kernel or taken from the cache.

    :param path: a directory with a Makefile or Kbuild for external modules, or with several such
        directories under one Makefile; or a `.ko`, which is used as it is.
    :param variables: for make's command line, as `CC=…` or `DEBUG=1`.
    :raises ConfigError: there is no module, or it was built for another kernel.
    :raises BuildError: it does not compile.
    """
    return build_external(kernel, path, cache, progress, variables).modules


def build_external(
    kernel: Kernel,
    path: Path,
    cache: Cache,
    progress: Progress,
    variables: Sequence[str] = (),
) -> Built:
    """Return the same, with the modules that they need."""
    if "MODULES" not in kernel.config:
        raise ConfigError(
            f"{path}: the kernel {kernel.release} has no modules",
            hint="build it with CONFIG_MODULES=y",
        )
    if path.is_file():
        return Built([_given(kernel, path)], [])
    variables = _for_compiler(kernel, variables)
    builder = ModuleBuilder(kernel, cache, progress, toolchain(cache, variables))
    modules: dict[Path, None] = {}
    needed: dict[Path, None] = {}
    for directory in _directories(path):
        entry = builder.entry(directory, ())
        modules.update(dict.fromkeys(sorted(entry.path.glob("*.ko"))))
        for neighbour in builder.neighbours(entry):
            needed.update(dict.fromkeys(sorted(neighbour.path.glob("*.ko"))))
    return Built(list(modules), [file for file in needed if file not in modules])


def _for_compiler(kernel: Kernel, variables: Sequence[str]) -> Sequence[str]:
    """Return variables with the compiler that the kernel was built with, if none is chosen.

    gcc does not know the options that a kernel of clang's is built with (CONFIG_CC_IS_CLANG).
    """
    chosen = any(variable.startswith(("LLVM=", "CC=")) for variable in variables)
    if chosen:
        return variables
    if kernel.config.get("CC_IS_CLANG") == "y":
        return ("LLVM=1", *variables)
    # What a distribution has compiled need not be what this host's gcc is.
    if kernel.is_shipped and (compiler := compiler_of(kernel)):
        return (f"CC={compiler}", *variables)
    return variables


def vermagic(path: Path) -> str:
    """Return the release that a module was built for; "" if the file has none."""
    return _whole_vermagic(path).partition(" ")[0]


def _whole_vermagic(path: Path) -> str:
    match = _VERMAGIC.search(b"\0" + path.read_bytes())
    return match[1].decode(errors="replace").strip() if match else ""


def _given(kernel: Kernel, path: Path) -> Path:
    if path.suffix != ".ko":
        raise ConfigError(f"{path} is not a module: neither a directory nor a .ko")
    release = vermagic(path)
    if release != kernel.release:
        raise ConfigError(
            f"{path} was built for {release or 'no kernel at all'}, and this one is "
            f"{kernel.release}",
            hint=f"name its source directory instead: {path.parent}",
        )
    # The kernel compares the same string (kernel/module/main.c, check_modinfo).
    own = kernel.modules_dir and next(kernel.modules_dir.rglob("*.ko"), None)
    if own and (expected := _whole_vermagic(own)) != (actual := _whole_vermagic(path)):
        raise ConfigError(
            f"{path} was built for a kernel of another configuration: '{actual}', and this one's "
            f"is '{expected}'",
            hint=f"name its source directory instead: {path.parent}",
        )
    return path


def _directories(path: Path) -> list[Path]:
    """Return the directories whose Makefiles build modules: this one, or some below.

    :raises ConfigError: there is none, or no Makefile says that they belong together.
    """
    here = any((path / name).is_file() for name in MAKEFILES)
    if builds_modules(path):
        return [path]
    for depth in range(1, _SUBDIRECTORIES + 1):
        below = sorted(
            {
                file.parent
                for name in MAKEFILES
                for file in path.glob("*/" * depth + name)
                if not any(part.startswith(".") for part in file.relative_to(path).parts)
                and builds_modules(file.parent)
            }
        )
        if len(below) > 1 and not here:
            names = ", ".join(str(directory.relative_to(path)) for directory in below)
            raise ConfigError(
                f"{path} has no Makefile; modules are built in {names}",
                hint=f"name one of them: {below[0]}",
            )
        if below:
            return below
    if not here:
        raise ConfigError(
            f"{path} is not the source of a module: it has no Makefile and no Kbuild",
            hint="a Makefile with obj-m += NAME.o will do",
        )
    return [path]  # it may include one that does
