"""The table at the end of a run on several kernels: these across, the tests down."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterable, Sequence
from typing import Final, NamedTuple

import pytest

from ._artifacts import KERNEL_OF
from ._matrix import Cell, Matrix
from ._record import id_without_repeat, repetition
from ._status import ERROR, FAIL, MISS, PASS, SKIP, status_of_phase, without_skipped

__all__ = ["MatrixTable", "Row", "blocks"]

_XFAIL: Final = "XFAIL"  # a failure that the test's author expects: pytest's word
_ORDER: Final = (MISS, ERROR, FAIL, _XFAIL, SKIP, PASS)
_COLOURS: Final = {PASS: "green", SKIP: "yellow", _XFAIL: "yellow"}
_NOT_RUN: Final = "-"
_SAME: Final = "="
_GAP: Final = 2
_MIN_NAME: Final = 20

_Ids = tuple[str | None, ...]


class Row(NamedTuple):
    """A test, and what it came to in each column."""

    test: str
    cells: tuple[str, ...]


class MatrixTable:
    """Collects what each test came to on each kernel, and shows it; a pytest plugin."""

    def __init__(self, matrix: Matrix, *, repeats: bool = False) -> None:
        self._matrix = matrix
        self._repeats = repeats
        self._cells: dict[str, Cell] = {}  # by node id
        self._phases: dict[str, list[pytest.TestReport]] = {}
        self._statuses: dict[str, dict[_Ids, list[str]]] = {}
        self._kernels: dict[str, str] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Note on a report where in the table it belongs; pytest-xdist hands it on."""
        report = yield
        if (cell := self._matrix.cell(item)) is not None:
            kernel = item.stash.get(KERNEL_OF, None)
            about = f"Linux {kernel.release} ({kernel.name})" if kernel is not None else ""
            number = repetition(item)
            test = cell.test if number is None else id_without_repeat(cell.test, number)[0]
            report.kgdb_cell = [test, list(cell.ids), about]  # type: ignore[attr-defined]
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take note of a phase; after the last one, of what the test came to."""
        self._note(report)
        if report.nodeid not in self._cells:
            return
        phases = self._phases.setdefault(report.nodeid, [])
        phases.append(report)
        if report.when not in ("setup", "call"):
            del self._phases[report.nodeid]
            self._end(report.nodeid, phases)

    def _note(self, report: pytest.TestReport) -> None:
        noted = getattr(report, "kgdb_cell", None)
        if noted is not None:
            test, ids, about = noted
            self._cells[report.nodeid] = Cell(test, tuple(ids))
            if about:
                self._kernels.setdefault(self._matrix.kernel_of(ids), about)
        elif report.nodeid not in self._cells:
            cell = self._matrix.cell_of_id(report.nodeid)
            if cell is not None and report.when not in ("setup", "call", "teardown"):
                test = id_without_repeat(cell.test)[0] if self._repeats else cell.test
                self._cells[report.nodeid] = cell._replace(test=test)

    def _end(self, nodeid: str, phases: Sequence[pytest.TestReport]) -> None:
        cell = self._cells[nodeid]
        row = self._statuses.setdefault(cell.test, {})
        row.setdefault(cell.ids, []).append(
            _worst(_status(report) for report in without_skipped(phases))
        )

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Show the table."""
        for nodeid, phases in self._phases.items():  # of tests that were interrupted
            self._end(nodeid, phases)
        columns = [column for column in self._matrix.columns if self._ran(column)]
        if len(columns) < 2 or terminalreporter.verbosity < -1:
            return
        rows = [self._row(test, columns) for test in self._statuses]
        same = Counter(one for row in rows if (one := _same(row)) is not None)
        listed = [
            row for row in rows if terminalreporter.config.option.verbose > 0 or _same(row) is None
        ]
        terminalreporter.ensure_newline()
        terminalreporter.section("kgdb: tests by kernel", sep="-")
        writer = terminalreporter.config.get_terminal_writer()
        for block in blocks(columns, listed, writer.fullwidth):
            for line in block:
                for text in line:
                    writer.write(text, **_colour(text))
                writer.line()
        if any(_SAME in row.cells for row in listed):
            writer.line("=: the run in a column to its left is this one's, too")
        if same:
            ordered = sorted(same, key=lambda status: _ORDER.index(_word(status)))
            counted = ", ".join(f"{same[status]} {status}" for status in ordered)
            hint = "" if terminalreporter.config.option.verbose > 0 else "; -v lists them"
            writer.line(f"the same in all {len(columns)} columns: {counted}{hint}")
        for name, about in self._kernels.items():
            writer.line(f"{name}: {about}" if name else about)

    def _ran(self, column: Sequence[str]) -> bool:
        return any(_stands_for(ids, column) for row in self._statuses.values() for ids in row)

    def _row(self, test: str, columns: Iterable[tuple[str, ...]]) -> Row:
        cells = []
        shown: set[_Ids] = set()
        for column in columns:
            ids = next((ids for ids in self._statuses[test] if _stands_for(ids, column)), None)
            if ids is None:
                cells.append(_NOT_RUN)
            elif ids in shown:
                cells.append(_SAME)
            else:
                shown.add(ids)
                cells.append(_cell(self._statuses[test][ids]))
        return Row(test, tuple(cells))


def blocks(
    columns: Sequence[tuple[str, ...]], rows: Sequence[Row], width: int
) -> list[list[list[str]]]:
    """Return the table as blocks of lines, each with as many columns as fit; a line's as texts."""
    if not rows:
        return []
    longest = max(len(row.test) for row in rows)
    name_width = min(longest, max(_MIN_NAME, width // 2))
    widths = [
        max(*map(len, column), *(len(row.cells[index]) for row in rows)) + _GAP
        for index, column in enumerate(columns)
    ]
    groups: list[list[int]] = [[]]
    for index in range(len(columns)):
        used = name_width + sum(widths[one] for one in groups[-1])
        if groups[-1] and used + widths[index] > width:
            groups.append([])
        groups[-1].append(index)
    result = []
    for group in groups:
        heads = zip(*(columns[index] for index in group), strict=True)
        lines = [_line("", zip(head, group, strict=True), name_width, widths) for head in heads]
        for row in rows:
            cells = ((row.cells[index], index) for index in group)
            lines.append(_line(_shortened(row.test, name_width), cells, name_width, widths))
        result.append(lines)
    return result


def _line(
    name: str, cells: Iterable[tuple[str, int]], name_width: int, widths: Sequence[int]
) -> list[str]:
    texts = [name.ljust(name_width)]
    for cell, index in cells:
        texts += [" " * _GAP, cell.ljust(widths[index] - _GAP)]
    texts[-1] = texts[-1].rstrip()
    return texts


def _shortened(name: str, width: int) -> str:
    """Return as much of a name's end as there is room for: its beginning is its directory."""
    return name if len(name) <= width else f"…{name[len(name) - width + 1 :]}"


def _colour(text: str) -> dict[str, bool]:
    word = _word(text)
    return {_COLOURS.get(word, "red"): True} if word in _ORDER else {}


def _stands_for(ids: _Ids, column: Sequence[str]) -> bool:
    """Whether a test's parameters, of which it need not have all, are those of a column."""
    return all(one in (None, other) for one, other in zip(ids, column, strict=True))


def _status(report: pytest.TestReport) -> str:
    if hasattr(report, "wasxfail") and report.skipped:
        return _XFAIL
    status = status_of_phase(report)
    step = getattr(report, "kgdb_missed", None)
    return status if status != MISS or step is None else f"{status} ({step})"


def _word(cell: str) -> str:
    return cell.partition(" ")[0]


def _worst(statuses: Iterable[str]) -> str:
    return min(statuses, key=lambda status: _ORDER.index(_word(status)))


def _cell(statuses: Sequence[str]) -> str:
    """Return what a test's repetitions came to: `PASS`, or the worst and how often."""
    worst = _worst(statuses)
    number = statuses.count(worst)
    return worst if number == len(statuses) else f"{worst} {number}/{len(statuses)}"


def _same(row: Row) -> str | None:
    """Return what a test came to in every column; None if it differs."""
    statuses = set(row.cells) - {_SAME}
    only = statuses.pop() if len(statuses) == 1 else ""
    # `FAIL 1/3` says of repetitions that they differ.
    return only if only in _ORDER or only.endswith(")") else None
