"""Which configuration symbols have kbuild compile a file (Documentation/kbuild/makefiles.rst)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Final

from ._model import Kernel

_RULE: Final = re.compile(r"^\s*([\w-]+)-(?:y|objs|m|\$\(CONFIG_(\w+)\))\s*[:+]?=\s*(.*)$")
_COMPILED: Final = frozenset({".c", ".S", ".rs"})


@dataclass(frozen=True)
class NotCompiled:
    """A file that a kernel was built without."""

    file: str
    """Its name in the source tree."""
    why: str
    """The configuration symbols that would have it compiled, or why nothing would."""


def not_compiled(kernel: Kernel, files: Iterable[str]) -> list[NotCompiled]:
    """Return those of the source files that a kernel was built without, as far as can be told.

    Of a header it cannot be told.
    """
    files_without = []
    for name in files:
        why = _why_not(kernel, name)
        if why is not None:
            files_without.append(NotCompiled(name, why))
    return files_without


def _why_not(kernel: Kernel, name: str) -> str | None:
    path = PurePath(name)
    top, *below = path.parts
    if top == "arch" and below and below[0] != kernel.arch.name:
        return f"it is for another architecture than {kernel.arch.name}"
    if top in ("Documentation", "samples", "tools", "LICENSES") or path.suffix in (".rst", ".txt"):
        return "it is no part of a kernel"
    if path.suffix not in _COMPILED or kernel.source is None:
        return None
    symbols = builders(kernel.source, Path(name))
    off = [symbol for symbol in symbols if kernel.config.get(symbol) not in ("y", "m")]
    return ", ".join(f"CONFIG_{symbol}" for symbol in off) or None


def builders(tree: Path, file: Path) -> Iterator[str]:
    """Yield the configuration symbols for which kbuild builds a file, its own before the rest."""
    product = file.stem
    directory = file.parent
    seen = set()
    while True:
        # A part of a module is in NAME-y or NAME-objs; NAME.o is in obj-$(CONFIG_X).
        goals = [product]
        while goals:
            goal = goals.pop()
            for target, symbol, words in _rules(tree / directory):
                if goal not in words:
                    continue
                if symbol and symbol not in seen:
                    seen.add(symbol)
                    yield symbol
                if target not in ("obj", "lib") and target not in seen:
                    seen.add(target)
                    goals.append(target)
        if directory == Path():
            return
        product, directory = f"{directory.name}/", directory.parent


def _rules(directory: Path) -> Iterator[tuple[str, str, list[str]]]:
    """Yield what a directory's Makefile assigns: name, symbol, words without `.o`."""
    for name in ("Kbuild", "Makefile"):
        path = directory / name
        if path.is_file():
            text = path.read_text(errors="replace").replace("\\\n", " ")
            for line in text.splitlines():
                if match := _RULE.match(line):
                    words = [word.removesuffix(".o") for word in match[3].split("#")[0].split()]
                    yield match[1], match[2] or "", words
