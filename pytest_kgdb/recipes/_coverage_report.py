"""Coverage as text: a table, lcov's tracefile, an annotated diff, JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ._coverage import (
    NOT_COMPILED,
    NOT_REACHED,
    OPTIMISED_AWAY,
    RAN,
    UNOBSERVED,
    FileCoverage,
    KernelCoverage,
)

__all__ = ["as_diff", "as_json", "as_lcov", "as_table"]


def as_table(coverage: KernelCoverage) -> list[str]:
    """Return the lines of a table: each file, how many of its lines ran, which did not."""
    rows = [("File", "Lines", "Ran", "Cover", "Not reached")]
    notes: dict[int, list[str]] = {}
    files = sorted(coverage.files.items())
    for name, file in files:
        total, ran = file.count(RAN, NOT_REACHED), file.count(RAN)
        rows.append((_shown(name), str(total), str(ran), _percent(ran, total), _missed(file)))
        notes[len(rows) - 1] = list(_notes(file))
    if len(files) > 1:
        ran, total = coverage.ran, coverage.observed
        rows.append(("in all", str(total), str(ran), _percent(ran, total), ""))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = []
    for number, row in enumerate(rows):
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:4], widths[1:], strict=True)]
        lines.append("  ".join([*cells, row[4]]).rstrip())
        lines += [f"    {note}" for note in notes.get(number, ())]
    return lines


def _shown(name: str) -> str:
    """Return a file's name; of one outside of the kernel's tree as from here."""
    path = Path(name)
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else name


def _percent(ran: int, total: int) -> str:
    # Downwards: 100 % is said of nothing that has a line left.
    return f"{100 * ran // total}%" if total else "-"


def _missed(file: FileCoverage) -> str:
    return ranges(
        file.in_state(NOT_REACHED), [n for n in file.lines if file.lines[n].state != NOT_REACHED]
    )


def _notes(file: FileCoverage) -> Iterator[str]:
    if file.whole:
        # Of a whole file these would fill pages.
        others = [
            f"{file.count(state)} {state}"
            for state in (UNOBSERVED, OPTIMISED_AWAY, NOT_COMPILED)
            if file.count(state)
        ]
        if others:
            yield f"further lines: {', '.join(others)}"
    else:
        for state in (UNOBSERVED, OPTIMISED_AWAY, NOT_COMPILED):
            reasons: dict[str, list[int]] = {}
            for number in file.in_state(state):
                reasons.setdefault(file.lines[number].why, []).append(number)
            for why, numbers in reasons.items():
                shown = ranges(numbers, set(file.lines) - set(numbers))
                yield f"{state}{f' ({why})' if why else ''}: {shown}"
    if not file.lines:
        yield f"no line of it holds code: {file.why_not}" if file.why_not else "no line holds code"


def ranges(numbers: Sequence[int], others: Iterable[int]) -> str:
    """Return lines as ranges, which reach over lines of which nothing is known.

    :param others: lines that a range must not have in it.
    """
    between = sorted(others)
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and not any(parts[-1][1] < other < number for other in between):
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ", ".join(f"{low}" if low == high else f"{low}-{high}" for low, high in parts)


def as_lcov(coverages: Iterable[KernelCoverage]) -> str:
    """Return lcov's tracefile (geninfo(1), "FILES"); the count is that of the tests."""
    lines: list[str] = []
    for coverage in coverages:
        for _, file in sorted(coverage.files.items()):
            observed = [
                (number, line)
                for number, line in sorted(file.lines.items())
                if line.state in (RAN, NOT_REACHED)
            ]
            if not observed:
                continue
            lines.append("TN:" + re.sub(r"\W+", "_", coverage.kernel).strip("_"))
            lines.append(f"SF:{file.path or file.name}")
            lines += [f"DA:{number},{len(line.tests)}" for number, line in observed]
            lines.append(f"LF:{len(observed)}")
            lines.append(f"LH:{sum(line.state == RAN for _, line in observed)}")
            lines.append("end_of_record")
    return "".join(f"{line}\n" for line in lines)


def as_diff(coverages: Sequence[KernelCoverage]) -> str:
    """Return the patches' diff, each line with its state."""
    lines: list[str] = []
    for coverage in coverages:
        lines.append(f"# {coverage.kernel}")
        for name, file in sorted(coverage.files.items()):
            if not file.diff:
                continue
            lines += [f"{'':17} --- a/{name}", f"{'':17} +++ b/{name}"]
            for sign, number, text in file.diff:
                line = file.lines.get(number) if sign != "-" else None
                state = line.state if line is not None and sign in "+ " else ""
                shown = text if sign == "@" else f"{sign}{text}"
                lines.append(f"{state:17} {shown}".rstrip())
    return "".join(f"{line}\n" for line in lines)


def as_json(coverages: Iterable[KernelCoverage]) -> str:
    """Return everything as JSON; docs/coverage.md has the fields."""
    document = {"version": 1, "kernels": [coverage.dump() for coverage in coverages]}
    return json.dumps(document, indent=1) + "\n"
