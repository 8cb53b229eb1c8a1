"""The marker `kgdb_kernel`: which kernels a test is for, decided when the kernel is built."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from ..errors import ConfigError
from ._matrix import Matrix
from ._names import FIXTURES
from ._terminal import is_worker

if TYPE_CHECKING:
    from ..kernel import Kernel, Selector

__all__ = ["FIXTURE", "MARKER", "NOT_FOR", "Unselected", "check", "note"]

MARKER: Final = "kgdb_kernel"
FIXTURE: Final = "_kgdb_selected"
"""The fixture that a test with the marker has before all others."""

NOT_FOR: Final = "kgdb_not_for"
"""The attribute of an exception, and of its report, that says that a test is for other kernels."""

_SELECTORS: Final = pytest.StashKey[tuple["Selector", ...]]()
_ARGUMENTS: Final = frozenset({"version", "config"})


class Unselected:
    """Fails a run of several kernels if a required test is for none of them; a pytest plugin."""

    def __init__(self, config: pytest.Config, matrix: Matrix) -> None:
        self._config = config
        self._matrix = matrix
        self._kernels: dict[str, set[str]] = {}
        self._reasons: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take note of a test that is not for its kernel."""
        cell = getattr(report, "kgdb_cell", None)
        if cell is None or not getattr(report, NOT_FOR, False):
            return
        test, ids, _ = cell
        self._kernels.setdefault(test, set()).add(self._matrix.kernel_of(ids))
        if isinstance(report.longrepr, tuple):
            self._reasons[test] = str(report.longrepr[2]).removeprefix("Skipped: ")

    @property
    def _lost(self) -> list[str]:
        # With -k, a test may not have been meant to run on the others.
        number = self._matrix.kernels
        return [test for test, kernels in self._kernels.items() if len(kernels) == number]

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Fail a run that is green only because a test ran nowhere."""
        if self._lost and session.exitstatus == pytest.ExitCode.OK and not is_worker(self._config):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say why the run failed."""
        for test in self._lost:
            terminalreporter.write_line(
                f"kgdb: --kgdb-require: {test} is for no kernel of this run: {self._reasons[test]}",
                red=True,
            )


def note(item: pytest.Item) -> None:
    """Note on a test what its marker says, and that it is to be asked before the test's fixtures.

    :raises ConfigError: an argument means nothing, or the test has no kernel.
    """
    marks = list(item.iter_markers(MARKER))
    if not marks:
        return
    names = getattr(item, "fixturenames", None)
    if names is None or FIXTURES.isdisjoint(names):
        if any(mark.name == MARKER for mark in item.own_markers):
            raise ConfigError(
                f"{item.nodeid}: marker {MARKER}(…): the test asks for no kernel",
                hint="name the fixture kgdb or kgdb_kernel as its argument, or take the marker "
                "away",
            )
        return  # a class's or a module's, meant for its kernel tests
    item.stash[_SELECTORS] = tuple(_selector(item, mark) for mark in marks)
    if FIXTURE not in names:  # the tests of one function share the list
        names.insert(0, FIXTURE)


def check(item: pytest.Item, kernel: Kernel, *, one: bool, require: bool) -> None:
    """End a test that is not for this kernel.

    :param one: whether all tests run on this kernel.
    :param require: whether a kernel test that does not run is a failure.
    :raises pytest.skip.Exception: it is skipped.
    :raises ConfigError: whether it is for this kernel cannot be said.
    """
    unmet = [
        part
        for selector in item.stash.get(_SELECTORS, ())
        if (part := selector.unmet(kernel)) is not None
    ]
    if not unmet:
        return
    reason = "; ".join(dict.fromkeys(part.reason for part in unmet))
    if one and require and not any(part.by_version for part in unmet):
        # It would run if this kernel were configured for it, and runs nowhere.
        raise pytest.skip.Exception(reason, _use_item_location=True)
    skipped = pytest.skip.Exception(reason, _use_item_location=True)  # not our own line
    setattr(skipped, NOT_FOR, True)
    raise skipped


def _selector(item: pytest.Item, mark: pytest.Mark) -> Selector:
    from ..kernel import Selector

    where = f"{item.nodeid}: marker {MARKER}"
    if len(mark.args) > 1:
        raise ConfigError(
            f"{where}: it takes one version, and config=[…]",
            hint='several comparisons are one text: ">=5.15,<6.2"',
        )
    if unknown := sorted(set(mark.kwargs) - _ARGUMENTS):
        raise ConfigError(
            f"{where}({unknown[0]}=…): no such argument", hint="it takes a version and config=[…]"
        )
    if mark.args and "version" in mark.kwargs:
        raise ConfigError(f"{where}: it has two versions")
    version = mark.args[0] if mark.args else mark.kwargs.get("version", "")
    try:
        return Selector.parse(version, mark.kwargs.get("config", ()))
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from None
