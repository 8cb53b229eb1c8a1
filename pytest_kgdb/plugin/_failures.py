"""What a failed kernel test shows: the test's own line, our message, and what the kernel said."""

from __future__ import annotations

import os
import shlex
import sysconfig
from collections.abc import Generator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final, Protocol

import pytest

from ..errors import BootError, BuildError, KgdbError
from ..report import MACHINE, Section, Story, save, sections
from ._artifacts import KernelSession
from ._clean import clean_report
from ._collect import has_machine, shares_machine, uses_kernel
from ._names import NO_KERNEL
from ._require import Requirement
from ._rerun import rerun_command
from ._selection import NOT_FOR
from ._status import (
    FAIL,
    MISS,
    PASS,
    SKIP,
    missed_step,
    status_of,
    status_of_phase,
    tested_nothing,
)

if TYPE_CHECKING:
    from ..settings import Settings

FAILED: Final = pytest.StashKey[bool]()
"""Whether a test has failed so far, on the test."""

OBSERVED: Final = pytest.StashKey[dict[str, int]]()
"""What a test's instruments have seen, and how often, on the test."""

INTERNAL: Final = pytest.StashKey[tuple[Path, ...]]()
"""Further files and directories whose frames are not the user's: those of what builds on this."""

_KEPT: Final = 100  # characters of an object's text that pytest keeps of its beginning, at least

_PACKAGE: Final = Path(__file__).parent.parent
_SITE: Final = Path(pytest.__file__).parent.parent
# pytest-timeout fails a test in whatever frame a signal finds.
_NOT_THE_USERS: Final = (_SITE / "_pytest", _SITE / "pluggy", _SITE / "pytest_timeout.py")
_STDLIB: Final = Path(sysconfig.get_path("stdlib"))


class RunningSession(Protocol):
    """The part of a run that is used here."""

    @property
    def settings(self) -> Settings:
        """As the user chose."""

    @property
    def live(self) -> KernelSession | None:
        """The session whose machines are up."""


class Failures:
    """Shapes the reports of kernel tests; a pytest plugin."""

    def __init__(self, run: RunningSession) -> None:
        self._run = run
        # By identity: pytest raises a session fixture's exception again for every test, and the
        # build of a module that has failed is not tried again. Others are not kept, as with them go
        # their frames and all that these hold.
        self._shown: dict[int, tuple[KgdbError, str]] = {}

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Know nothing of an earlier run of the same test: pytest-rerunfailures repeats it."""
        item.stash[FAILED] = False
        if OBSERVED in item.stash:
            del item.stash[OBSERVED]

    # First, so that around everybody: it sees what the others made of the report.
    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Turn what a kernel test raised into what its author has to know."""
        story = self._story(item, call)
        report = yield from self._shaped(item, call)
        if story is not None:
            report.kgdb_story = story  # type: ignore[attr-defined]
        if getattr(report, "kgdb_uses_kernel", False):
            clean_report(report)
        return report

    def _story(self, item: pytest.Item, call: pytest.CallInfo[None]) -> Story | None:
        """Return what happened on the kernel, at the end of the test's body, if it is shown."""
        session = self._run.live
        if (
            self._run.settings.report is None
            or session is None
            or call.when == "teardown"
            or (call.when == "setup" and call.excinfo is None)
            or not has_machine(item)
        ):
            return None
        try:
            return session.story()
        except Exception:  # the failure itself must be reported, whatever is broken
            return None

    def _shaped(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        users = _have_users(item.config, call)
        error = _our_error(item.config, call)
        ours = uses_kernel(item)
        if ours and call.excinfo is not None:
            _show_whole(call.excinfo)
        report = yield
        fixture = not users and (call.when != "call" or _is_outcome(item, call))
        fixture |= _is_our_assertion(item.config, call)
        if _is_expected(item, report, call, ours=fixture):
            # What was expected to fail has not been tried.
            report.outcome = "failed"
            del report.wasxfail
        report.kgdb_uses_kernel = ours  # type: ignore[attr-defined]
        if shares_machine(item):
            setattr(report, "kgdb_shared", True)  # noqa: B010  Recorder reads it
        report.kgdb_status = _status(item, report, call, ours=fixture)  # type: ignore[attr-defined]
        if OBSERVED in item.stash and call.when == "call":
            report.kgdb_observed = item.stash[OBSERVED]  # type: ignore[attr-defined]
        # A case that KUnit skipped is its own affair: the suite has run.
        ran = call.excinfo is not None and getattr(call.excinfo.value, "kgdb_ran", False)
        if call.excinfo is not None and hasattr(call.excinfo.value, NOT_FOR):
            setattr(report, NOT_FOR, True)
            ran = True  # as far as this kernel goes: `Unselected` looks at all of them
        if ours and not ran and (requirement := Requirement.of(item.config)):
            requirement.judge(report)
        if (
            report.skipped
            and isinstance(report.longrepr, tuple)
            and NO_KERNEL in report.longrepr[2]
        ):
            # Without a line of its own, one line of `-rs` stands for all these tests.
            report.longrepr = ("kgdb", None, report.longrepr[2])  # type: ignore[assignment]
        if not report.failed or not (ours or error):
            return report
        first = not item.stash.get(FAILED, False)
        item.stash[FAILED] = True
        if error is not None:
            if isinstance(error, BootError) and (error.by_kernel or error.late):
                report.kgdb_boot = "panicked" if error.by_kernel else "late"  # type: ignore[attr-defined]
            if (step := missed_step(error)) is not None:
                report.kgdb_missed = step  # type: ignore[attr-defined]
            if tested_nothing(error, ours=fixture):
                setattr(report, "kgdb_lost", True)  # noqa: B010  pytest_report_teststatus reads it
            if id(error) in self._shown:
                report.longrepr = self._again(error, item)
                return report
            if report.when == "setup" or isinstance(error, BuildError):
                self._shown[id(error)] = (error, item.nodeid)
            if not users and call.excinfo is not None and not _whole(item.config):
                report.longrepr = call.excinfo.getrepr(style="value", chain=False)
            # The summary has one line for each, and no room for the class's module.
            if (crash := getattr(report.longrepr, "reprcrash", None)) is not None:
                crash.message = _in_short(error)
            if error.undiagnosed is not None:
                reason = f"{type(error).__name__}: {error.undiagnosed}"
                report.kgdb_reason = reason  # type: ignore[attr-defined]
        elif status_of_phase(report) == MISS:
            setattr(report, "kgdb_lost", True)  # noqa: B010  as above
        # By the teardown the kernel has been put back; without a machine, it is another test's.
        if first and report.when != "teardown" and has_machine(item):
            self._add_sections(item, report)
        return report

    def _again(self, error: KgdbError, item: pytest.Item) -> str:
        """Return a line for an error that was reported before."""
        line = _in_short(error).rstrip(":")
        if steps := _users_steps(error, _ours(item.config)):
            path = os.path.relpath(_file(steps[-1]), item.config.invocation_params.dir)
            line += f", at {path}:{steps[-1].tb_lineno}"
        return f"{line} (reported in full above: {self._shown[id(error)][1]})"

    def _add_sections(self, item: pytest.Item, report: pytest.TestReport) -> None:
        """Add what the kernel, the test and gdb did to a report; save all of it where asked to."""
        session = self._run.live
        if session is None:
            return
        try:
            shown = session.report_sections()
        except Exception as error:
            # Whatever is broken by now, the failure itself must be reported.
            shown = [Section("kgdb", f"the state of the kernel could not be read: {error}")]
        verbosity = item.config.getoption("verbose")
        again = [
            rerun_command(item.config, item.nodeid),
            f"logs: {session.console_log.parent}",
        ]
        directory = self._run.settings.artifacts
        if directory is not None:
            failure = Section("failure", report.longreprtext)
            logs = [session.console_log, session.transcript]
            try:
                saved = save(directory, item.nodeid, [failure, *shown], logs)
                settings = self._run.settings
                session.save_artifacts(
                    saved, dump=settings.artifacts_dump, machine=settings.artifacts_machine
                )
            except OSError as error:
                again.append(f"artifacts: could not be saved: {error}")
            else:
                again.append(f"artifacts: {saved}")
                if (saved / MACHINE).exists():
                    again.append(
                        f"the machine: pytest-kgdb attach {shlex.quote(str(saved / MACHINE))}"
                    )
        shown = [*shown, Section("kgdb: to run it again", "\n".join(again))]
        report.sections.extend(sections(shown, verbosity))


def _show_whole(excinfo: pytest.ExceptionInfo[BaseException]) -> None:
    """Put a report whole into the message of the `assert` that it is the message of.

    pytest shortens an object that is not a text to a line (`_pytest.assertion.rewrite`,
    `_format_assertmsg`); the report is in a variable of the test's.
    """
    error = excinfo.value
    if type(error) is not AssertionError or not error.args or not isinstance(error.args[0], str):
        return
    first, newline, rest = error.args[0].partition("\n")
    if not first.startswith("<FailEach "):
        return
    from ..recipes import FailEach

    step = error.__traceback__
    while step is not None:
        for value in step.tb_frame.f_locals.values():
            if isinstance(value, FailEach) and repr(value)[:_KEPT] == first[:_KEPT]:
                error.args = (f"{value}{newline}{rest}", *error.args[1:])
                return
        step = step.tb_next


def _is_expected(
    item: pytest.Item, report: pytest.TestReport, call: pytest.CallInfo[None], *, ours: bool
) -> bool:
    """Whether pytest takes for an expected failure what says nothing about the kernel."""
    if not hasattr(report, "wasxfail") or call.excinfo is None:
        return False
    error = call.excinfo.value
    return tested_nothing(error, ours=ours) and not _is_named(item, error)


def _is_named(item: pytest.Item, error: BaseException) -> bool:
    """Whether a test's author expects just this error of ours."""
    if not isinstance(error, KgdbError):
        return False
    for mark in item.iter_markers("xfail"):
        raises = mark.kwargs.get("raises")
        if raises is None:
            continue
        # pytest.RaisesExc and pytest.RaisesGroup have the former.
        if raises.matches(error) if hasattr(raises, "matches") else isinstance(error, raises):
            return True
    return False


def _status(
    item: pytest.Item, report: pytest.TestReport, call: pytest.CallInfo[None], *, ours: bool
) -> str:
    """Return what a phase says of the kernel, whatever outcome pytest makes of that."""
    if call.excinfo is None:
        # _pytest.skipping: a test passes that is expected to fail, and that must.
        passed = not report.failed or str(report.longrepr).startswith("[XPASS(strict)]")
        return PASS if passed else FAIL
    if report.passed:
        return PASS
    error = call.excinfo.value
    if hasattr(report, "wasxfail"):
        return FAIL if _is_named(item, error) else status_of(error, ours=ours)
    return SKIP if report.skipped else status_of(error, ours=ours)


def _in_short(error: KgdbError) -> str:
    return f"{type(error).__name__}: {error.message.partition(chr(10))[0]}"


def _is_outcome(item: pytest.Item, call: pytest.CallInfo[None]) -> bool:
    """Whether a test was failed with no code of the user's: its time was up in what is ours.

    Not while it ran the suites of its marker, which are the user's, too.
    """
    return (
        call.excinfo is not None
        and isinstance(call.excinfo.value, pytest.fail.Exception)
        and item.get_closest_marker("kunit") is None
    )


def _is_our_assertion(config: pytest.Config, call: pytest.CallInfo[None]) -> bool:
    """Whether an `assert` in our code did not hold, whoever called it. KUnit's word is none."""
    if call.excinfo is None or type(error := call.excinfo.value) is not AssertionError:
        return False
    if getattr(error, "kgdb_ran", False):
        return False
    path = _file(_steps(error)[-1])
    return any(_within(path, directory) for directory in _ours(config))


def _whole(config: pytest.Config) -> bool:
    """Whether tracebacks are shown with all of their frames."""
    return bool(config.getoption("fulltrace"))


def _ours(config: pytest.Config) -> Sequence[Path]:
    """Return the files and directories whose frames are not the user's."""
    return (_PACKAGE, *config.stash.get(INTERNAL, ()))


def _users_steps(error: BaseException, ours: Sequence[Path]) -> list[TracebackType]:
    """Return an error's traceback up to the user's last frame, without ours."""
    steps = [
        step
        for step in _steps(error)
        if not any(_within(_file(step), directory) for directory in ours)
    ]
    while steps and not _is_users(_file(steps[-1]), ours):
        steps.pop()
    return steps


def _have_users(config: pytest.Config, call: pytest.CallInfo[None]) -> bool:
    """Whether the user's code led to the end of a phase."""
    return call.excinfo is not None and bool(_users_steps(call.excinfo.value, _ours(config)))


def _our_error(config: pytest.Config, call: pytest.CallInfo[None]) -> KgdbError | None:
    """Return the error of ours that ended a phase.

    Our frames are taken from its traceback, and what led only to them, unless all are request.
    """
    if call.excinfo is None or not isinstance(call.excinfo.value, KgdbError):
        return None
    error = call.excinfo.value
    if _whole(config):
        return error
    ours = _ours(config)
    steps = _users_steps(error, ours)
    _cut_chain(error, ours)
    if not steps:
        return error
    # Not by pytest's own filters: these begin again from the exception's traceback.
    traceback = None
    for step in reversed(steps):
        traceback = TracebackType(traceback, step.tb_frame, step.tb_lasti, step.tb_lineno)
    error.__traceback__ = traceback
    call.excinfo = pytest.ExceptionInfo.from_exception(error)
    return error


def _cut_chain(error: BaseException, ours: Sequence[Path]) -> None:
    """Drop a cause that is an inner affair of ours: the message says what matters of it."""
    seen = {id(error)}
    while True:
        inner = error.__cause__ or error.__context__
        if inner is None or (error.__suppress_context__ and error.__cause__ is None):
            return
        # Python lets an error be its own cause, at one remove or at none.
        if id(inner) in seen or not any(_is_users(_file(step), ours) for step in _steps(inner)):
            error.__cause__ = None
            error.__suppress_context__ = True
            return
        seen.add(id(inner))
        error = inner


def _steps(error: BaseException) -> list[TracebackType]:
    steps, step = [], error.__traceback__
    while step is not None:
        steps.append(step)
        step = step.tb_next
    return steps


def _file(step: TracebackType) -> Path:
    return Path(step.tb_frame.f_code.co_filename)


def _is_users(path: Path, ours: Sequence[Path]) -> bool:
    if any(_within(path, directory) for directory in (*ours, *_NOT_THE_USERS)):
        return False
    # Without a virtual environment, what is installed lies in the standard library's directory.
    installed = {"site-packages", "dist-packages"} & set(path.parts)
    return bool(installed) or not (_within(path, _STDLIB) or path.name.startswith("<"))


def _within(path: Path, directory: Path) -> bool:
    return path.is_relative_to(directory)
