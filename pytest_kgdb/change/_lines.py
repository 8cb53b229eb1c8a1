"""The lines that a change adds or replaces, for reports that point to them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..errors import KgdbError
from ..kernel import Patch, SourceFiles, compare_texts, lines_of

if TYPE_CHECKING:
    from unidiff.patch import Hunk

__all__ = ["ChangedLines", "built_lines", "changed_lines"]


@dataclass(frozen=True)
class ChangedLines:
    """Neighbouring lines of one file, as they are once the change is in."""

    file: str
    """Its name in the source tree."""
    first: int
    last: int


@dataclass(frozen=True)
class _Moved:
    """Where one hunk moves the lines behind it."""

    last: int
    """The last line that it covers, before it is applied."""
    by: int


def changed_lines(patches: Iterable[Patch]) -> tuple[ChangedLines, ...]:
    """Return the lines that patches change, in the files as they are behind the last patch.

    Of lines that are removed, it is those around them. A malformed patch has none.
    """
    # Imported lazily: most runs have no patch.
    from unidiff.errors import UnidiffParseError
    from unidiff.patch import PatchSet

    lines: list[ChangedLines] = []
    for patch in patches:
        try:
            files = PatchSet(patch.data.decode("latin-1"))
        except UnidiffParseError:
            continue  # applying it says what is wrong with it
        for file in files:
            side = file.source_file if file.is_removed_file else file.target_file
            side = side.strip()  # a line may end in CR and LF
            name = os.fsdecode("/".join(side.split("/")[patch.strip :]).encode("latin-1"))
            moves, added = [], []
            for hunk in file:
                moves.append(_Moved(hunk.source_start + hunk.source_length - 1, _growth(hunk)))
                added += [ChangedLines(name, first, last) for first, last in _ranges(hunk)]
            lines = [_shifted(old, moves) if old.file == name else old for old in lines] + added
    return tuple(dict.fromkeys(lines))


def built_lines(
    files: Iterable[str],
    lines: Iterable[ChangedLines],
    base: SourceFiles,
    patched: SourceFiles,
    *,
    exact: bool,
) -> tuple[ChangedLines, ...]:
    """Return the lines that differ between the sources of two kernels, where patch(1) put them.

    Of files that either was not compiled from, it is those that the patches say.

    :param lines: what the patches say.
    :param exact: whether they fit where they say; if not, they are believed of new files only.
    """
    header_lines = list(lines)
    result: list[ChangedLines] = []
    for file in files:
        texts = [_read(file, sources) for sources in (base, patched)]
        if texts[0] is not None and texts[1] is not None:
            numbers = compare_texts(file, texts[0], texts[1]).lines
            result += [ChangedLines(file, first, last) for first, last in _runs(numbers)]
        elif exact or texts[1] is not None:
            result += [one for one in header_lines if one.file == file]
    return tuple(result)


def _read(file: str, sources: SourceFiles) -> list[str] | None:
    try:
        return lines_of(sources.read(file))
    except KgdbError:
        return None  # it was not compiled from it


def _runs(numbers: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Yield the first and the last of each run of neighbours."""
    first = last = 0
    for number in sorted(numbers):
        if number != last + 1 or not first:
            if first:
                yield first, last
            first = number
        last = number
    if first:
        yield first, last


def _ranges(hunk: Hunk) -> Iterator[tuple[int, int]]:
    """Yield the first and last line of each run of added lines; of removed ones, their place."""
    first = last = 0
    place = max(hunk.target_start, 1)  # that of a line which is only removed
    removed = False
    for line in hunk:
        if line.is_added and line.target_line_no:
            first, last = first or line.target_line_no, line.target_line_no
        elif line.is_removed:
            removed = True
        if line.is_context:
            if first or removed:
                yield (first, last) if first else (place, place)
            first, removed = 0, False
        if line.target_line_no:
            place = line.target_line_no
    if first or removed:
        yield (first, last) if first else (place, place)


def _growth(hunk: Hunk) -> int:
    return int(hunk.target_length) - int(hunk.source_length)


def _shifted(lines: ChangedLines, moves: Iterable[_Moved]) -> ChangedLines:
    by = sum(move.by for move in moves if move.last < lines.first)
    return replace(lines, first=lines.first + by, last=lines.last + by)
