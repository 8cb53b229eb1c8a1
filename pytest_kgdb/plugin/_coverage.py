"""`--kgdb-cov`: which lines of the kernel ran, over a whole run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from ._terminal import is_worker

if TYPE_CHECKING:
    from ..recipes import KernelCoverage
    from ..settings import Settings

__all__ = ["CoverageReport"]

_KEY: Final = "kgdb_cov"  # in the output of an xdist worker


class CoverageReport:
    """Collects what ran on each kernel, in each worker, and reports it; a pytest plugin."""

    _STASH: Final = pytest.StashKey["CoverageReport"]()

    def __init__(self, config: pytest.Config, settings: Settings) -> None:
        self._config = config
        self._settings = settings
        self._kernels: dict[str, KernelCoverage] = {}
        self._problem = ""

    @classmethod
    def register(cls, config: pytest.Config, settings: Settings) -> None:
        """Watch this run."""
        for path in (settings.cov_lcov, settings.cov_json, settings.cov_diff):
            if path is not None and not path.parent.is_dir():
                raise pytest.UsageError(f"cannot write {path}: there is no {path.parent}")
        config.stash[cls._STASH] = report = cls(config, settings)
        config.pluginmanager.register(report, "kgdb-cov")

    @classmethod
    def of(cls, config: pytest.Config) -> CoverageReport | None:
        """Return the report of this run, if there is to be one."""
        return config.stash.get(cls._STASH, None)

    def add(self, coverage: KernelCoverage, configuration: str = "") -> None:
        """Take up what ran on a kernel.

        :param configuration: that of the kernel, where its source is tested with several.
        """
        if configuration:
            coverage.kernel += f" ({configuration})"
        if coverage.kernel in self._kernels:
            self._kernels[coverage.kernel].merge(coverage)
        else:
            self._kernels[coverage.kernel] = coverage

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Take up what ran in a worker of pytest-xdist."""
        from ..recipes import KernelCoverage

        for values in getattr(node, "workeroutput", {}).get(_KEY, ()):
            self.add(KernelCoverage.load(values))

    # Last: the machines are closed by then.
    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Write the files; fail a run of which too little was covered."""
        kernels = list(self._kernels.values())
        if is_worker(self._config):
            self._config.workeroutput[_KEY] = [kernel.dump() for kernel in kernels]  # type: ignore[attr-defined]
            return
        self._write(kernels)
        if problem := self._judge(kernels):
            self._problem = problem
            if session.exitstatus == pytest.ExitCode.OK:
                session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def _write(self, kernels: list[KernelCoverage]) -> None:
        from ..recipes import as_diff, as_json, as_lcov

        settings = self._settings
        texts: tuple[tuple[Path | None, Callable[[list[KernelCoverage]], str]], ...] = (
            (settings.cov_lcov, as_lcov),
            (settings.cov_json, as_json),
            (settings.cov_diff, as_diff),
        )
        for path, render in texts:
            if path is not None:
                try:
                    path.write_text(render(kernels))
                except OSError as error:
                    self._problem = f"cannot write {path}: {error.strerror}"

    def _judge(self, kernels: list[KernelCoverage]) -> str:
        """Return why the run has failed; "" if it has not."""
        least = self._settings.cov_fail_under
        if self._problem or least is None:
            return self._problem
        if not kernels:
            return f"--kgdb-cov-fail-under={least:g}: no kernel test ran"
        for kernel in kernels:
            percent = kernel.percent
            if percent is None:
                return (
                    f"--kgdb-cov-fail-under={least:g}: no line that is named has code in "
                    f"{kernel.kernel}"
                )
            if percent < least:
                return (
                    f"--kgdb-cov-fail-under={least:g}: of {kernel.observed} lines {kernel.ran} ran "
                    f"({percent:.1f} %) on {kernel.kernel}"
                )
        return ""

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Show the tables, and why the run has failed."""
        from ..recipes import as_table

        for kernel in self._kernels.values():
            terminalreporter.section(f"kgdb coverage of {kernel.kernel}", sep="-")
            for line in as_table(kernel):
                terminalreporter.write_line(line)
        if not self._kernels:
            terminalreporter.write_line("kgdb: no coverage: no kernel test ran")
        if self._problem:
            terminalreporter.write_line(f"kgdb: {self._problem}", red=True)
