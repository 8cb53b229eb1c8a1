"""What patches have really changed in the files of a source tree, wherever they were applied."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import BuildError, ConfigError
from . import _patch

__all__ = ["Change", "changes", "compare_texts", "lines_of"]


@dataclass(frozen=True)
class Change:
    """What patches changed in one file."""

    name: str
    added: frozenset[int]
    """The lines that are new, as the patched file counts them."""
    touched: frozenset[int]
    """The lines in front of which others were removed, and none added."""
    diff: tuple[tuple[str, int, str], ...]
    """The whole change: ` `, `+`, `-` or `@`, the line in the patched file, and the text."""

    text: tuple[str, ...] = ()
    """The patched file's lines."""

    @property
    def lines(self) -> frozenset[int]:
        """All that is to be covered."""
        return self.added | self.touched


def changes(source: Path, files: Sequence[Path], label: str, *, applied: bool) -> list[Change]:
    """Return what patches change in a tree.

    :param applied: whether they are applied there: they are taken out of copies of its files then,
        and applied to them otherwise.
    :raises ConfigError: they are not in the tree as they were applied.
    """
    patches = [patch for file in files for patch in _patch.read(file)]
    if applied:
        patches = [patch._replace(reverse=not patch.reverse) for patch in reversed(patches)]

    def find(name: str) -> Path | None:
        return _patch.file_of(source, name)

    with _patch.scratch_directory() as scratch:
        try:
            others = _patch.apply(patches, find, Path(scratch), label)
        except BuildError as error:
            raise ConfigError(
                f"--kgdb-cov=patch: what the patches changed cannot be told: {error.message}",
                hint="name the lines instead: --kgdb-cov=FILE:FIRST-LAST",
            ) from error
        pairs = ((name, _lines(find(name)), _lines(path)) for name, path in sorted(others.items()))
        return [
            compare_texts(name, *((other, own) if applied else (own, other)))
            for name, own, other in pairs
            if (own if applied else other)
        ]


def _lines(path: Path | None) -> list[str]:
    return [] if path is None else lines_of(path.read_bytes())


def lines_of(data: bytes) -> list[str]:
    """Return the lines of a source as compilers number them: a form feed ends none."""
    lines = data.decode(errors="replace").split("\n")
    return [line.removesuffix("\r") for line in (lines if lines[-1] else lines[:-1])]


def compare_texts(name: str, before: list[str], after: list[str]) -> Change:
    """Return what differs from one text of a file to another, by lines."""
    added: set[int] = set()
    touched: set[int] = set()
    diff = tuple(_walk(before, after))
    run: list[tuple[str, int]] = []
    for kind, line, _ in (*diff, (" ", len(after) + 1, "")):
        if kind in "+-":
            run.append((kind, line))
            continue
        new = {number for sign, number in run if sign == "+"}
        added |= new
        if run and not new and kind == " " and line <= len(after):
            touched.add(line)
        run.clear()
    return Change(name, frozenset(added), frozenset(touched), diff, tuple(after))


def _walk(before: list[str], after: list[str]) -> Iterator[tuple[str, int, str]]:
    """Yield the lines of a unified diff: sign, line in the patched file, text."""
    # Without what is the same at both ends, which is nearly all.
    low = 0
    while low < min(len(before), len(after)) and before[low] == after[low]:
        low += 1
    high = 0
    while high < min(len(before), len(after)) - low and before[-1 - high] == after[-1 - high]:
        high += 1
    low, high = max(0, low - 3), max(0, high - 3)
    matcher = difflib.SequenceMatcher(
        None, before[low : len(before) - high], after[low : len(after) - high], autojunk=False
    )
    for group in matcher.get_grouped_opcodes(3):
        first, last = group[0], group[-1]
        yield (
            "@",
            first[3] + low + 1,
            f"@@ -{first[1] + low + 1},{last[2] - first[1]} "
            f"+{first[3] + low + 1},{last[4] - first[3]} @@",
        )
        for tag, i1, i2, j1, j2 in group:
            if tag == "equal":
                for index in range(j1 + low, j2 + low):
                    yield " ", index + 1, after[index]
                continue
            for index in range(i1 + low, i2 + low):
                yield "-", j1 + low + 1, before[index]
            for index in range(j1 + low, j2 + low):
                yield "+", index + 1, after[index]
