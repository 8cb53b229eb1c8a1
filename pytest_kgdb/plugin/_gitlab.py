"""`--kgdb-gitlab`: failed kernel tests in GitLab's format for code quality."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from ..escape import clean
from ._annotations import Failure, failure_of, places

__all__ = ["GitlabReport"]


class GitlabReport:
    """Writes the file at the end of the run; a pytest plugin.

    :param path: the file.
    """

    def __init__(self, config: pytest.Config, path: Path) -> None:
        self._root = config.rootpath
        self._tree = config.invocation_params.dir
        self._path = path
        self._failures: list[Failure] = []
        self._error: OSError | None = None

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep a failure of a kernel test."""
        failure = failure_of(report, self._root, self._tree)
        if failure is not None:
            self._failures.append(failure)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self) -> None:
        """Write the file."""
        issues = []
        for failure in self._failures:
            text = f"{failure.nodeid}: {failure.message}"
            issues.append(_issue("failed test", "major", text, failure.file, failure.line or 1))
            text = f"on the stack when {text}"
            for file, line in dict.fromkeys(places(failure, self._tree)):
                issues.append(_issue("kernel stack", "info", text, file, line))
        try:
            self._path.write_text(json.dumps(issues, indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            self._error = error

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say if the file could not be written."""
        if self._error is not None:
            terminalreporter.write_line(f"kgdb: --kgdb-gitlab cannot be written: {self._error}")


def _issue(check: str, severity: str, text: str, file: str, line: int) -> dict[str, Any]:
    """Return an issue (GitLab's documentation, "Code Quality report format")."""
    # GitLab takes two issues of one fingerprint for the same.
    identity = json.dumps([check, text, file, line]).encode()
    return {
        "description": clean(text),
        "check_name": f"pytest-kgdb: {check}",
        "fingerprint": hashlib.sha256(identity).hexdigest(),
        "severity": severity,
        "location": {"path": file, "lines": {"begin": line}},
    }
