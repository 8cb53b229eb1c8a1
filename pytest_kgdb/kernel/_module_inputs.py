"""What a module is built from besides its own directory: headers, objects, other modules."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from ..process import run, which
from ._fingerprint import state_of
from ._toolchain import environment

MAKEFILES: Final = ("Kbuild", "Makefile", "makefile")
"""The files that kbuild looks for in a directory, and what make(1) does, in that order."""

_SECONDS: Final = 60.0
_DEPTH: Final = 4  # directories below a module's that its Makefiles may name

# A makefile that evaluates a module's as kbuild does (scripts/Makefile.build), and builds nothing.
_ASK: Final = """\
kgdb-ask: ;
KERNELRELEASE := {release}
srctree := {headers}
objtree := {headers}
KBUILD_EXTMOD := {top}
obj := {directory}
src := {directory}
-include {headers}/include/config/auto.conf
include {file}
kgdb-lists := $(filter obj-% lib-% %-objs %-y %-m,$(.VARIABLES))
$(info kgdb-objects $(filter %.o %/,$(foreach list,$(kgdb-lists),$($(list)))))
$(info kgdb-symbols $(KBUILD_EXTRA_SYMBOLS))
$(info kgdb-makefiles $(MAKEFILE_LIST))
"""

# scripts/basic/fixdep.c: the files that an object was made of. The first begins with its target.
_DEPENDENCIES: Final = re.compile(r"^(?:source|deps)_\S+ := ((?:.*\\\n)*.*)$", re.MULTILINE)


class Evaluated(NamedTuple):
    """What a module's Makefiles say."""

    objects: tuple[Path, ...]
    """Directories, links resolved, in which objects of it are built."""
    symbols: tuple[Path, ...]
    """The Module.symvers of other modules (KBUILD_EXTRA_SYMBOLS)."""
    makefiles: tuple[Path, ...]
    """All Makefiles, with those that they include."""


def evaluate(
    top: Path, headers: Path, release: str, variables: Sequence[str], cwd: Path
) -> Evaluated:
    """Return what the Makefiles of a directory say, evaluated as kbuild does.

    What cannot be evaluated is left out: kbuild itself will say what is wrong.

    :param variables: for make's command line.
    :param cwd: what `$(PWD)` is.
    """
    objects: dict[Path, None] = {}
    symbols: dict[Path, None] = {}
    makefiles: dict[Path, None] = {}
    directories = [top]
    for _ in range(_DEPTH):
        below = []
        for directory in directories:
            files = [directory / name for name in MAKEFILES if (directory / name).is_file()]
            if not files:
                continue
            makefile = _ASK.format(
                release=release, headers=headers, top=top, directory=directory, file=files[0]
            )
            for word, values in _ask(makefile, headers, variables, cwd):
                # Relative paths are relative to where make runs, but for objects.
                base = directory if word == "objects" else headers
                paths = [Path(os.path.realpath(base / value)) for value in values]
                if word == "objects":
                    objects.update(
                        (path if value.endswith("/") else path.parent, None)
                        for path, value in zip(paths, values, strict=True)
                    )
                    below += [directory / value for value in values if value.endswith("/")]
                else:
                    (symbols if word == "symbols" else makefiles).update(dict.fromkeys(paths))
        directories = below
    return Evaluated(tuple(objects), tuple(symbols), tuple(makefiles))


def _ask(
    makefile: str, headers: Path, variables: Sequence[str], cwd: Path
) -> Iterator[tuple[str, list[str]]]:
    argv = [
        which("make", package="make"),
        f"--directory={headers}",
        "--no-print-directory",
        f"--eval={makefile}",
        "--file=/dev/null",
        *variables,
        "kgdb-ask",
    ]
    env = {**environment(), "PWD": str(cwd)}
    result = run(argv, name="make", timeout=_SECONDS, cwd=cwd, env=env, check=False)
    for line in result.output.splitlines():
        word, _, rest = line.partition(" ")
        if word.startswith("kgdb-"):
            yield word.removeprefix("kgdb-"), rest.split()


def dependencies(top: Path, root: Path, headers: Path, *, failed: bool = False) -> set[Path]:
    """Return the files that the objects below a directory were made of, links resolved.

    :param root: the module's directory.
    :param headers: the kernel's; names are relative to it, since 6.13 to the module's.
    :param failed: whether the build has failed: then what was not compiled counts, too, if the
        compiler says what it has read. gcc does so unless a header is missing; clang does not.
    """
    files: set[Path] = set()
    names: set[str] = set()
    for directory, _, commands in os.walk(top):
        for command in commands:
            if command.startswith(".") and command.endswith(".o.cmd"):
                text = (Path(directory) / command).read_text(errors="replace")
                for match in _DEPENDENCIES.finditer(text):
                    names.update(
                        word
                        for word in match[1].replace("\\\n", " ").split()
                        if not word.startswith("$(wildcard") and not word.endswith(")")
                    )
            if failed and command.startswith(".") and command.endswith(".o.d"):
                # The compiler's own (gcc's -MMD), which fixdep has not got to: a rule of make's.
                text = (Path(directory) / command).read_text(errors="replace")
                names.update(text.replace("\\\n", " ").split())
    for name in names:
        places = [Path(os.path.realpath(base / name)) for base in (headers, root)]
        files.update(place for place in places if place.is_file())
    return files


def token(path: Path) -> str:
    """Return the state of a file as one word; "" if there is none."""
    try:
        return state_of(path).token if path.is_file() else ""
    except OSError:
        return ""
