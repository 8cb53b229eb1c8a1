"""`--kgdb-prove`: tests with the marker `kgdb_fix`, on kernels without and with the fix."""

from __future__ import annotations

import tempfile
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from ..errors import BuildError, ConfigError
from ._status import FAIL, PASS

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

    _FAILED: Final = pytest.StashKey[bool]()

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
            return typed
        report.kgdb_fix = (variant.fix, variant.has_fix)
        if variant.has_fix:
            return typed
        if report.failed and report.kgdb_status == FAIL:
            item.stash[self._FAILED] = True
            report.sections.append((f"it fails without {variant.fix}", report.longreprtext))
            report.outcome, report.longrepr, report.kgdb_status = "passed", None, PASS
            call.excinfo = None  # or pytest would offer a debugger
        elif report.failed or report.skipped:
            item.stash[self._FAILED] = False  # it says nothing, and has a report of its own
        failed = item.stash.get(self._FAILED, None)
        if failed is False or not report.passed:
            return typed
        report.kgdb_proof = "pending"
        if report.when == "teardown":
            report.kgdb_proof = "proven" if failed else "unproven"
            if not failed:
                report.outcome, report.kgdb_status = "failed", FAIL
                report.longrepr = (
                    f"it does not test the fix: it passes on the kernel without {variant.fix}"
                )
        return typed


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
        states: dict[tuple[str, str], dict[bool, str]] = {}
        for reports in terminalreporter.stats.values():
            for report in reports:
                if (fix := getattr(report, "kgdb_fix", None)) is not None:
                    sides = states.setdefault((_test(report.nodeid), fix[0]), {})
                    sides[fix[1]] = _worst(sides.get(fix[1], PASS), _state(report))
        if not states:
            return
        terminalreporter.section("fixes", sep="-")
        for (test, fix), sides in states.items():
            terminalreporter.write_line(f"{test} {_words(fix, sides)}")


# A test without its fix is counted at its end.
_SHOWN: Final = {
    "pending": ("", "", ""),
    "proven": ("passed", ".", "PASSED (fails without the fix)"),
    "unproven": ("failed", "F", "FAILED (passes without the fix)"),
}
_LOST: Final = "LOST"
_UNPROVEN: Final = "UNPROVEN"
_SKIPPED: Final = "SKIPPED"
_ORDER: Final = (_LOST, _SKIPPED, _UNPROVEN, FAIL, PASS)


def _state(report: Any) -> str:
    if report.skipped:
        return _SKIPPED
    if not report.failed:
        return PASS
    if getattr(report, "kgdb_proof", "") == "unproven":
        return _UNPROVEN
    return FAIL if getattr(report, "kgdb_status", "") == FAIL else _LOST


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
