"""`--kgdb-report`: the run as one page of HTML."""

from __future__ import annotations

import os
import shlex
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Final

import pytest

from ..errors import ConfigError
from ..escape import clean
from ..progress import duration
from ..report import ACTIONS, Story, bound
from ._status import MISS, PASS, SKIP, decisive

__all__ = ["HtmlReport"]

_OUTCOMES: Final = {PASS: "passed", SKIP: "skipped"}
_FAILURE_LINES: Final = 300  # that are shown of a failure's beginning, and of its end
_SHORT: Final = 0.001  # seconds: a time line is at least so long


class HtmlReport:
    """Collects the reports of kernel tests, the workers' too, and writes the page; a plugin.

    :param directory: where; it is made.
    :raises ConfigError: jinja2 is not installed, or the directory cannot be made.
    """

    def __init__(self, config: pytest.Config, directory: Path, kernels: Sequence[str]) -> None:
        try:
            import jinja2
        except ImportError:
            raise ConfigError(
                "--kgdb-report needs jinja2, which is not installed",
                hint="pip install 'pytest-kgdb[report]'",
            ) from None
        self._environment = jinja2.Environment(
            autoescape=True, trim_blocks=False, undefined=jinja2.StrictUndefined
        )
        self._config = config
        self._path = directory / "index.html"
        self._kernels = kernels
        self._began = time.time()
        self._outcome = "no report: the run did not end"
        self._reports: dict[str, list[pytest.TestReport]] = {}
        self._runs: Counter[str] = Counter()  # that pytest-rerunfailures did not count
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                f"--kgdb-report: cannot make {directory}: {error.strerror}"
            ) from error

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the report of a phase of a kernel test."""
        # That of a process that died does not say so.
        if getattr(report, "kgdb_uses_kernel", False) or report.nodeid in self._reports:
            reports = self._reports.setdefault(report.nodeid, [])
            reports.append(report)
            if str(report.outcome) == "rerun":  # which pytest itself does not have
                reports.clear()
                self._runs[report.nodeid] += 1

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self) -> None:
        """Write the page."""
        try:
            temporary = self._path.with_name(f".{self._path.name}.{os.getpid()}")
            temporary.write_text(self._page(), encoding="utf-8")
            temporary.replace(self._path)
        except OSError as error:
            self._outcome = f"--kgdb-report cannot be written: {error}"
        else:
            self._outcome = f"report: {self._path}"

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say where the page is."""
        terminalreporter.write_line(f"kgdb: {self._outcome}")

    def _page(self) -> str:
        tests = [
            _shown(nodeid, reports, self._runs[nodeid])
            for nodeid, reports in self._reports.items()
            if reports
        ]
        # What failed comes first; otherwise the order is that of the run.
        tests.sort(key=lambda test: test["status"] in (PASS, SKIP))
        counts = Counter(test["outcome"] for test in tests)
        template = resources.files("pytest_kgdb").joinpath("data/report.html")
        return self._environment.from_string(template.read_text(encoding="utf-8")).render(
            summary=", ".join(f"{number} {name}" for name, number in counts.items()) or "no tests",
            began=time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self._began)),
            # Which may have any bytes, in names of files.
            kernels=clean(", ".join(self._kernels)),
            command=clean(shlex.join(["pytest", *self._config.invocation_params.args])),
            tests=tests,
        )


def _shown(nodeid: str, reports: Sequence[pytest.TestReport], before: int) -> dict[str, Any]:
    """Return a test as the template has it.

    :param before: how often it ran before these reports.
    """
    status, report = decisive(reports)
    # A test that passes, and must fail.
    strict = next((one for one in reports if status == PASS and one.failed), None)
    report = strict or report
    lost = status == MISS or any(getattr(one, "kgdb_lost", False) for one in reports)
    stories = (getattr(one, "kgdb_story", None) for one in reports)
    story: Story | None = next(filter(None, stories), None)
    worker = getattr(getattr(report, "node", None), "gateway", None)
    return {
        "name": clean(nodeid),
        "status": status,
        "outcome": "error" if lost else "failed" if strict else _OUTCOMES.get(status, "failed"),
        "duration": duration(sum(one.duration for one in reports))
        + (f" · run {before + 1}" if before else ""),
        "worker": worker.id if worker is not None else "",
        "failure": _failure(report) if report.failed else "",
        # What the test did is in its time line.
        "sections": [
            (clean(title), clean(text))
            for title, text in report.sections
            if story is None or title != ACTIONS
        ],
        "events": _events(story) if story else [],
        "bars": list(_bars(story)) if story else [],
        "scale": _offset(story["seconds"]) if story else "",
        "dropped": story["dropped"] if story else 0,
    }


def _failure(report: pytest.TestReport) -> str:
    """Return pytest's account of a failure; what the guest printed may be in its message."""
    return bound(clean(report.longreprtext), head=_FAILURE_LINES, tail=_FAILURE_LINES)


def _events(story: Story) -> list[dict[str, Any]]:
    """Return what happened, in the order of time."""
    events = []
    for action in story["actions"]:
        text = action["text"]
        if action["kind"] == "call" and action["outcome"]:
            text += f" → {action['outcome']}"
        fields = {name: action[name] for name in ("kind", "failed", "source")}
        events.append((action["start"], text, fields))
    more: tuple[str, list[tuple[float, str]]]
    for more in (("spy", story["calls"]), ("console", story["console"])):
        kind, items = more
        events += [(at, text, {"kind": kind, "failed": False, "source": []}) for at, text in items]
    events.sort(key=lambda event: event[0])
    return [{"time": _offset(at), "text": clean(text), **fields} for at, text, fields in events]


def _bars(story: Story) -> Iterator[dict[str, Any]]:
    """Yield the parts of the time line, by their place in percent."""
    whole = max(story["seconds"], _SHORT)

    def bar(kind: str, start: float, seconds: float, title: str) -> dict[str, Any]:
        left = round(min(max(100 * start / whole, 0), 99.9), 2)
        width = round(min(100 * seconds / whole, 100 - left), 2)
        return {"kind": kind, "left": left, "width": width, "title": clean(title)}

    for start, end in story["runs"]:
        yield bar("run", start, end - start, f"runs for {_offset(end - start)}")
    for action in story["actions"]:
        seconds = action["seconds"] if action["kind"] == "call" else 0
        yield bar(action["kind"], action["start"], seconds, action["text"])
    for at, text in story["calls"]:
        yield bar("spy", at, 0, text)
    for at, text in story["console"]:
        yield bar("console", at, 0, text)


def _offset(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms" if seconds < 10 else f"{seconds:.1f} s"
