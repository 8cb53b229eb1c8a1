"""`--kgdb-prove`: tests with the marker `kgdb_fix`, on kernels without and with the fix."""

from __future__ import annotations

import tempfile
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from ..errors import BuildError, ConfigError
from ._status import FAIL, PASS, SKIP, decisive

if TYPE_CHECKING:
    from ..change import Change
    from ..settings import Settings

__all__ = ["FixVariant", "Inversion", "Proofs", "parametrize_fix"]

_SCRATCH: Final = pytest.StashKey[tempfile.TemporaryDirectory[str]]()
_USAGE: Final = "write kgdb_fix('FILE'), kgdb_fix(commit='REV') or kgdb_fix(revert='FILE or REV')"


@dataclass(frozen=True)
class FixVariant:
    """The kernel without a fix, or with it: the parameter `kgdb_kernel` of a test."""

    spec: str
    patch: tuple[Path, ...]
    fix: str
    """The fix, for people."""
    has_fix: bool

    def __str__(self) -> str:
        return f"{'with' if self.has_fix else 'without'} {self.fix}"

    def settings(self, settings: Settings) -> Settings:
        """Return a run's settings with this kernel."""
        return replace(settings, kernel=(self.spec,), patch=self.patch)


def parametrize_fix(metafunc: pytest.Metafunc, settings: Settings, ids: Sequence[str]) -> bool:
    """Make the kernels without and with its fix the parameters of a test that names one.

    :param ids: those of the run's kernels.
    :returns: whether it names one.
    :raises pytest.Collector.CollectError: the marker, or the fix, cannot be.
    """
    mark = metafunc.definition.get_closest_marker("kgdb_fix")
    if mark is None or not settings.prove or not settings.kernel:
        return False
    variants: list[FixVariant] = []
    names: list[str] = []
    specs = list(dict.fromkeys(settings.kernel))
    for spec, name in zip(specs, ids, strict=True):
        try:
            fix, change = _change(replace(settings, kernel=(spec,)), mark, metafunc)
        except (BuildError, ConfigError) as error:
            where = f"{metafunc.definition.nodeid}: marker kgdb_fix"
            raise pytest.Collector.CollectError(f"{where}: {error}") from None
        for side, has_fix in zip(change.sides, (False, True), strict=True):
            variants.append(FixVariant(side.spec, side.settings.patch, fix, has_fix))
            names.append(f"{name}-{variants[-1]}" if len(specs) > 1 else str(variants[-1]))
    metafunc.parametrize("kgdb_kernel", variants, ids=names, indirect=True, scope="session")
    return True


def _change(settings: Settings, mark: pytest.Mark, metafunc: pytest.Metafunc) -> tuple[str, Change]:
    # Imported lazily: most runs prove nothing.
    from ..change import from_patches, from_revert, from_revisions

    match (mark.args, dict(mark.kwargs)):
        case ((str(file),), {}) if not mark.kwargs:
            path = metafunc.definition.path.parent / file
            if not path.exists():
                raise ConfigError(f"there is no {path}")
            return path.name, from_patches(settings, [path])
        case ((), {"commit": str(revision), **rest}) if not rest:
            return revision, from_revisions(settings, f"{revision}^", revision)
        case ((), {"revert": str(what), **rest}) if not rest:
            path = metafunc.definition.path.parent / what
            name = str(path) if path.exists() else what
            scratch = Path(tempfile.mkdtemp(dir=_scratch(metafunc.config)))
            return Path(what).name, from_revert(settings, name, scratch)
    raise ConfigError("it names one fix", hint=_USAGE)


def _scratch(config: pytest.Config) -> str:
    """Return a directory for patches that are taken out; it ends with the run."""
    if _SCRATCH not in config.stash:
        directory = config.stash[_SCRATCH] = tempfile.TemporaryDirectory(prefix="pytest-kgdb-fix-")
        config.add_cleanup(directory.cleanup)
    return config.stash[_SCRATCH].name


def _variant(item: pytest.Item) -> FixVariant | None:
    callspec = getattr(item, "callspec", None)
    kernel = callspec.params.get("kgdb_kernel") if callspec is not None else None
    return kernel if isinstance(kernel, FixVariant) else None


class Inversion:
    """Has a test without its fix pass if it fails, and fail if it passes; a pytest plugin.

    Only what the kernel did counts: an error of the test's own, or of the machine, stays one. What
    a test came to is known once its fixtures are torn down, as that may be where it fails.
    """

    _STATUSES: Final = pytest.StashKey[list[tuple[str, str]]]()
    """The phases of a test so far, with their statuses."""

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        """Leave out the body of a test that has failed as it should have, before it."""
        if any(status == FAIL for _, status in item.stash.get(self._STATUSES, ())):
            raise _Over
        return (yield)

    # First, and registered behind `Failures`: it sees the report as that has made it.
    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Turn what a test without its fix came to."""
        typed = yield
        report: Any = typed
        variant = _variant(item)
        if variant is None:
            if report.kgdb_uses_kernel and item.get_closest_marker("kgdb_fix") is not None:
                report.kgdb_fix_ignored = True
            return typed
        report.kgdb_fix = (variant.fix, variant.has_fix)
        if variant.has_fix:
            return typed
        if call.when == "setup":
            item.stash[self._STATUSES] = []
        statuses = item.stash[self._STATUSES]
        if call.excinfo is not None and isinstance(call.excinfo.value, _Over):
            report.kgdb_status = PASS  # the call of a test whose setup has failed
        statuses.append((call.when, report.kgdb_status))
        if report.kgdb_status not in (PASS, FAIL):
            return typed  # it says nothing, and has a report of its own
        if report.kgdb_status == FAIL:
            report.sections.append((f"it fails without {variant.fix}", report.longreprtext))
        # Also what is xfail: this test is expected to fail here, whatever its mark says.
        report.outcome, report.longrepr, report.kgdb_status = "passed", None, PASS
        if hasattr(report, "wasxfail"):
            del report.wasxfail
        call.excinfo = None  # or pytest would offer a debugger
        if _says_nothing(statuses):
            return typed
        report.kgdb_proof = "pending"
        if report.when == "teardown":
            failed = any(status == FAIL for _, status in statuses)
            report.kgdb_proof = "proven" if failed else "unproven"
            if not failed:
                report.outcome, report.kgdb_status = "failed", FAIL
                report.longrepr = (
                    f"it does not test the fix: it passes on the kernel without {variant.fix}"
                )
        return typed


class _Over(Exception):
    """The body of a test is left out: its setup has failed as the test is to."""


def _says_nothing(statuses: Sequence[tuple[str, str]]) -> bool:
    """Whether a test has not tested the kernel.

    Of the reports of its call, the last one is its own: those before are its subtests', of which
    some may be skipped.
    """
    own = dict(statuses)  # the last of each phase
    *subtests, _ = [status for when, status in statuses if when == "call"] or [PASS]
    return (
        SKIP in own.values()
        or (bool(subtests) and set(subtests) == {SKIP})
        or any(status not in (PASS, FAIL, SKIP) for _, status in statuses)
    )


class Proofs:
    """Says what was proven; a pytest plugin."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_report_teststatus(
        self, report: pytest.CollectReport | pytest.TestReport
    ) -> tuple[str, str, str] | None:
        """Show a test without its fix as what that says."""
        return _SHOWN.get(getattr(report, "kgdb_proof", ""))

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Name each fix, and what its tests say of it."""
        tests: dict[str, list[pytest.TestReport]] = {}
        fixes: dict[str, tuple[str, bool]] = {}
        ignored: dict[str, None] = {}
        for reports in terminalreporter.stats.values():
            for report in reports:
                if isinstance(report, pytest.TestReport):
                    tests.setdefault(report.nodeid, []).append(report)
                    if (fix := getattr(report, "kgdb_fix", None)) is not None:
                        fixes[report.nodeid] = tuple(fix)
                    if getattr(report, "kgdb_fix_ignored", False):
                        ignored[_test(report.nodeid)] = None
        if not fixes and not ignored:
            return
        states: dict[tuple[str, str], dict[bool, str]] = {}
        for nodeid, (name, has_fix) in fixes.items():
            sides = states.setdefault((_test(nodeid), name), {})
            state = _with_fix(tests[nodeid]) if has_fix else _without_fix(tests[nodeid])
            sides[has_fix] = _worst(sides.get(has_fix, PASS), state)
        terminalreporter.section("fixes", sep="-")
        for (test, name), sides in states.items():
            terminalreporter.write_line(f"{test} {_words(name, sides)}")
        for test in ignored:
            terminalreporter.write_line(
                f"{test} does not say whether its fix is one: {_ONE_KERNEL}"
            )


# A test without its fix is counted at its end.
_SHOWN: Final = {
    "pending": ("", "", ""),
    "proven": ("passed", ".", "PASSED (fails without the fix)"),
    "unproven": ("failed", "F", "FAILED (passes without the fix)"),
}
_LOST: Final = "LOST"
_UNPROVEN: Final = "UNPROVEN"
_SKIPPED: Final = "SKIPPED"
_ONE_KERNEL: Final = (
    "it ran on one kernel (only functions that name a kernel fixture as an argument, and choose no "
    "kernel for themselves, run on both)"
)
_ORDER: Final = (_LOST, _SKIPPED, _UNPROVEN, FAIL, PASS)


_STATES: Final = {PASS: PASS, FAIL: FAIL, SKIP: _SKIPPED}


def _with_fix(reports: Sequence[pytest.TestReport]) -> str:
    """Return what a test came to with its fix."""
    state = _STATES.get(decisive(reports)[0], _LOST)
    # The process of one without a call has ended.
    return _LOST if state == PASS and all(one.when != "call" for one in reports) else state


def _without_fix(reports: Sequence[pytest.TestReport]) -> str:
    """Return what a test came to without its fix; PASS if it fails."""
    proofs = {getattr(report, "kgdb_proof", "") for report in reports}
    if "proven" in proofs or "unproven" in proofs:
        return PASS if "proven" in proofs else _UNPROVEN
    status = decisive(reports)[0]
    return _SKIPPED if status == SKIP else _LOST


def _worst(*states: str) -> str:
    return min(states, key=_ORDER.index)


def _words(fix: str, sides: dict[bool, str]) -> str:
    without, has = sides.get(False, _SKIPPED), sides.get(True, _SKIPPED)
    if _LOST in (without, has):
        return f"cannot tell whether {fix} is a fix: see the errors"
    if _SKIPPED in (without, has):
        return f"does not say whether {fix} is a fix: it did not run on both kernels"
    if without == _UNPROVEN:
        how = "fails with it and passes without it" if has == FAIL else "passes without it, too"
        return f"does not prove {fix}: it {how}"
    if has == FAIL:
        return f"does not prove {fix}: it fails with it, too"
    return f"proves {fix}"


def _test(nodeid: str) -> str:
    """Return a test's id without its parameters."""
    return nodeid.partition("[")[0]
