"""`--kgdb-require`: a kernel test that did not run is a failure."""

from __future__ import annotations

from typing import Any, Final

import pytest

from ._terminal import is_worker

_KEY: Final = "kgdb_require"  # in the output of an xdist worker


class Requirement:
    """Counts the kernel tests that were asked for and those that ran."""

    _STASH: Final = pytest.StashKey["Requirement"]()

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self.asked = 0
        self.ran = 0
        self._unmet = ""

    @classmethod
    def register(cls, config: pytest.Config) -> None:
        """Watch this run."""
        config.stash[cls._STASH] = requirement = cls(config)
        config.pluginmanager.register(requirement, "kgdb-require")

    @classmethod
    def of(cls, config: pytest.Config) -> Requirement | None:
        """Return the requirement of this run, if there is one."""
        return config.stash.get(cls._STASH, None)

    def judge(self, report: pytest.TestReport) -> None:
        """Count a kernel test's report; make a failure of it if the test was skipped."""
        # An expected failure is reported as skipped, and is no loss: it ran.
        if report.skipped and not hasattr(report, "wasxfail"):
            reason = report.longrepr
            if isinstance(reason, tuple):
                reason = str(reason[2]).removeprefix("Skipped: ")
            report.outcome = "failed"
            report.longrepr = f"skipped, and --kgdb-require allows no skip: {reason}"
        elif report.when == "call":
            self.ran += 1

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Add up what a worker of pytest-xdist counted."""
        # A worker that was killed has no output; xdist fails the test that it ran.
        asked, ran = getattr(node, "workeroutput", {}).get(_KEY, (0, 0))
        self.asked = max(self.asked, asked)  # each worker collects all tests
        self.ran += ran

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Fail a run that is green only because no kernel test ran."""
        if is_worker(self._config):
            self._config.workeroutput[_KEY] = (self.asked, self.ran)  # type: ignore[attr-defined]
            return
        if session.exitstatus != pytest.ExitCode.OK:
            return
        if self.asked and not self.ran:
            self._unmet = f"--kgdb-require: of {self.asked} kernel tests none ran"
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say why the run failed."""
        if self._unmet:
            terminalreporter.write_line(f"kgdb: {self._unmet}", red=True)
