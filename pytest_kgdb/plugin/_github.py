"""GitHub Actions: failed kernel tests as annotations and groups, and in the summary of the step."""

from __future__ import annotations

import html
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest

from ..escape import clean, github_command, markdown, markdown_block
from ..report import bound
from ._annotations import Failure, failure_of, places

__all__ = ["GithubAnnotations"]

# GitHub shows ten annotations of a kind and step (its documentation, "Limits for annotations").
_MOST: Final = 10
_SUMMARY_BYTES: Final = 900_000  # of the 1 MiB that a step's summary may have


class GithubAnnotations:
    """Writes GitHub's commands at the end of the run; a pytest plugin.

    :param workspace: the user's tree, where frames are looked for.
    :param summary: the file of the step's summary; None where there is none.
    """

    def __init__(self, config: pytest.Config, workspace: Path, summary: Path | None) -> None:
        self._config = config
        self._workspace = workspace
        self._summary = summary
        self._failures: list[Failure] = []

    @classmethod
    def register(cls, config: pytest.Config) -> None:
        """Register it, if this is a step of GitHub's."""
        if os.environ.get("GITHUB_ACTIONS") != "true":
            return
        summary = os.environ.get("GITHUB_STEP_SUMMARY")
        workspace = Path(os.environ.get("GITHUB_WORKSPACE") or config.rootpath)
        plugin = cls(config, workspace, Path(summary) if summary else None)
        config.pluginmanager.register(plugin, "kgdb-github")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep a failure of a kernel test."""
        failure = failure_of(report, self._config.rootpath, self._workspace)
        if failure is not None:
            self._failures.append(failure)

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Write the annotations, and the step's summary."""
        frames: dict[tuple[str, int], Failure] = {}
        for failure in self._failures:
            for place in places(failure, self._workspace):
                frames.setdefault(place, failure)
        for failure in self._failures[:_MOST]:
            terminalreporter.write_line(
                github_command(
                    "error",
                    failure.message,
                    file=failure.file,
                    line=failure.line,
                    title=failure.nodeid,
                )
            )
        # Of another kind: the tests' own are not to be crowded out by the kernel's.
        for (file, line), failure in list(frames.items())[:_MOST]:
            terminalreporter.write_line(
                github_command(
                    "warning",
                    f"on the stack when {failure.nodeid} failed: {failure.message}",
                    file=file,
                    line=line,
                    title="kgdb: the kernel was here",
                )
            )
        for failure in self._failures:
            terminalreporter.write_line(github_command("group", f"kgdb: {failure.nodeid}"))
            for title, text in failure.sections:
                terminalreporter.write_line(f"{title}\n{text}")
            terminalreporter.write_line(github_command("endgroup"))
        if self._summary is not None and self._failures:
            self._write_summary(self._summary, terminalreporter)

    def _write_summary(self, path: Path, terminalreporter: pytest.TerminalReporter) -> None:
        """Append a list of the failures, and their reports as long as there is room."""
        parts = [f"### {len(self._failures)} failed kernel tests\n"]
        parts += [
            f"- {markdown(failure.nodeid)}: {markdown(failure.message)}"
            for failure in self._failures
        ]
        shown = _within(parts)
        if shown == len(parts):
            parts += map(_folded, self._failures)
            shown = _within(parts)
        whole = "\n".join(parts[:shown])
        if left := len(parts) - shown:
            whole += f"\n\n{left} more are not shown."
        try:
            with path.open("a", encoding="utf-8") as stream:
                stream.write(whole + "\n")
        except OSError as error:
            terminalreporter.write_line(f"kgdb: the step's summary cannot be written: {error}")


def _within(parts: Sequence[str]) -> int:
    """Return how many lines of a summary there is room for."""
    room = _SUMMARY_BYTES
    for number, part in enumerate(parts):
        room -= len(part.encode()) + 1
        if room < 0:
            return number
    return len(parts)


def _folded(failure: Failure) -> str:
    """Return a failure's report, which unfolds in a browser."""
    sections = "\n".join(f"{title}\n{text}" for title, text in failure.sections)
    block = markdown_block(bound(f"{failure.text}\n{sections}", head=40, tail=60))
    title = html.escape(clean(failure.nodeid))
    return f"\n<details><summary>{title}</summary>\n\n{block}\n\n</details>"
