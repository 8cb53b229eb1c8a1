"""Runs of pytest, as a user starts them, in which something is broken for real."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
SOON = 300.0  # seconds: far more than any of these runs takes, on a busy host too

# Writes down what every test came to: the terminal has it too, but not which line is whose.
CONFTEST = """
import json
from pathlib import Path

REPORTS = Path(__file__).with_name("reports")


def pytest_runtest_logreport(report):
    with REPORTS.open("a") as stream:
        told = {
            "name": report.nodeid.partition("::")[2],
            "when": report.when,
            "outcome": report.outcome,
            "lost": getattr(report, "kgdb_lost", False),
            "text": report.longreprtext,
            "sections": [list(section) for section in report.sections],
        }
        stream.write(json.dumps(told) + "\\n")
"""


@dataclass(frozen=True)
class Report:
    """What a test came to."""

    when: str
    outcome: str
    lost: bool
    """Whether it is shown as an error: something around the kernel failed, not the kernel."""
    text: str
    sections: dict[str, str]


@dataclass
class Outcome:
    """What a run of pytest came to."""

    status: int
    output: str
    seconds: float
    reports: dict[str, list[Report]] = field(default_factory=dict)

    def failure(self, test: str) -> Report:
        """Return the one report of a test that is not of a success."""
        (report,) = [item for item in self.reports[test] if item.outcome != "passed"]
        return report

    def passed(self, test: str) -> bool:
        return bool(self.reports.get(test)) and all(
            item.outcome == "passed" for item in self.reports[test]
        )


class InnerRun:
    """One pytest process in a directory of its own.

    :param directory: is filled with the tests.
    :param tests: the source of its only test file.
    :param options: its command line.
    :param path: replaces PATH.
    :param temporary: another run's directory for temporary files.
    :param workers: whether pytest-xdist may be used.
    :param room: mebibytes that there are for temporary files.
    """

    def __init__(
        self,
        directory: Path,
        tests: str,
        options: Sequence[str],
        *,
        path: str | None = None,
        temporary: Path | None = None,
        workers: bool = False,
        room: int | None = None,
    ) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "conftest.py").write_text(CONFTEST)
        (directory / "pytest.ini").write_text("[pytest]\n")
        (directory / "test_it.py").write_text(tests)
        (directory / "reports").unlink(missing_ok=True)
        plugin = () if entry_points(group="pytest11", name="kgdb") else ("-p", "pytest_kgdb.plugin")
        self.output_file = directory / "output"
        # What a run leaves in the directory for temporary files is a leak, too.
        self.temporary = temporary or Path(tempfile.mkdtemp(prefix="kf-"))
        environment = {
            name: value
            for name, value in os.environ.items()
            # That of the pytest around this one.
            if name not in ("PYTEST_ADDOPTS", "PYTEST_CURRENT_TEST")
        }
        environment |= {"PYTHONPATH": str(ROOT), "TMPDIR": str(self.temporary)}
        if path is not None:
            environment["PATH"] = path
        xdist = () if workers else ("-p", "no:xdist")
        words = ["-p", "no:cacheprovider", *xdist, "-ra", *plugin, *options, "test_it.py"]
        prefix = []
        if room is not None:  # a file system of its own, which nobody else sees
            script = f'mount -t tmpfs -o size={room}M kf "$0" && exec "$@"'
            prefix = ["unshare", "-rm", "sh", "-c", script, str(self.temporary)]
        self.begun = time.monotonic()
        with self.output_file.open("wb") as output:
            self.process = subprocess.Popen(
                [*prefix, sys.executable, "-m", "pytest", *words],
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,  # a process group, to which Ctrl-C goes
            )

    @property
    def output(self) -> str:
        return self.output_file.read_text(errors="replace")

    def wait_for(self, name: str) -> None:
        """Wait until a test has made a file."""
        self.until(lambda: (self.directory / name).exists(), f"no {name}")

    def until(self, condition: Any, what: str) -> None:
        deadline = time.monotonic() + SOON
        while not condition():
            assert self.process.poll() is None, f"{what}; it ended:\n{self.output}"
            assert time.monotonic() < deadline, f"{what}:\n{self.output}"
            time.sleep(0.02)

    def interrupt(self) -> None:
        """Ctrl-C."""
        os.killpg(self.process.pid, signal.SIGINT)

    def end(self, *, leaves: str = "", within: float = SOON) -> Outcome:
        """Wait for its end, and see that nothing is left: no process, no file.

        :param within: seconds.
        :param leaves: a pattern of the names of temporary files that may be left.
        """
        try:
            self.process.wait(within)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f"it did not end:\n{self.output}") from None
        seconds = time.monotonic() - self.begun
        self.none_left()
        left = [item.name for item in self.temporary.iterdir()]
        kept = [name for name in left if leaves and re.fullmatch(leaves, name)]
        assert left == kept, f"left: {left}\n{self.output}"
        if not kept:
            self.temporary.rmdir()
        outcome = Outcome(self.process.returncode, self.output, seconds)
        reports = self.directory / "reports"
        for line in reports.read_text().splitlines() if reports.exists() else ():
            fields = json.loads(line)
            outcome.reports.setdefault(fields.pop("name"), []).append(
                Report(**fields | {"sections": dict(fields["sections"])})
            )
        return outcome

    def children(self) -> list[str]:
        """Return the command lines of what it started, at whatever remove, and still runs."""
        sign = f"PYTEST_KGDB_OWNER={self.process.pid}-".encode()
        commands = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == self.process.pid:
                continue
            try:
                command = (entry / "cmdline").read_bytes()
                # The reaper has it among its arguments, the others in their environment.
                ours = sign in command or sign in (entry / "environ").read_bytes()
            except OSError:
                continue  # ended meanwhile, or another user's
            if ours:
                commands.append(command.replace(b"\0", b" ").decode(errors="replace"))
        return commands

    def none_left(self) -> None:
        deadline = time.monotonic() + 10.0
        while left := self.children():
            assert time.monotonic() < deadline, f"left behind: {left}"
            time.sleep(0.05)


def message(text: str) -> str:
    """Return the error in a test's failure, of which there must be one."""
    lines = [line for line in text.splitlines() if line.startswith("E  ")]
    begins = [
        n for n, line in enumerate(lines) if re.match(r"E +(?:\w+\.)*\w+(Error|Died|Panic): ", line)
    ]
    if not begins:
        return text  # without the user's lines, there is the message alone
    assert begins == [0], text
    margin = len(lines[0]) - len(lines[0][1:].lstrip())
    return "\n".join(line[margin:] for line in lines)


def no_traceback_of_ours(text: str) -> None:
    """See that a report shows no line of the plugin's code."""
    assert not re.search(r"^\S*pytest_kgdb/\S*\.py:\d+:", text, re.M), text
    assert "Traceback (most recent call last)" not in text
    assert "During handling of" not in text
    assert "direct cause of" not in text
    assert "INTERNALERROR" not in text
