"""A gdb that leaves its target, or is left by it: the kernel stays as it is, the next test runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from inner_run import InnerRun, Outcome, message, no_traceback_of_ours

pytestmark = pytest.mark.slow

TESTS = r'''
import time

import pytest

from pytest_kgdb.errors import DebuggerDied, KgdbError
from pytest_kgdb.handle import attachment_of


@pytest.fixture(autouse=True)
def good(kgdb):
    """The last test's ruins are gone, and soon."""
    began = time.monotonic()
    assert kgdb.stopped
    assert kgdb.run("echo fine").output == "fine\n"
    with kgdb.breakpoint("do_sys_openat2"):
        kgdb.type("cat /proc/version")
        assert kgdb.cont().reason == "breakpoint"
    assert time.monotonic() - began < 15


def says(kgdb, command):
    """Have gdb do what execute() refuses."""
    jiffies = int(kgdb.program["jiffies_64"])
    try:
        attachment_of(kgdb).gdb.console(command)
    except KgdbError:
        assert command == "quit"
    time.sleep(0.5)
    assert attachment_of(kgdb).machine.alive
    assert int(kgdb.program["jiffies_64"]) == jiffies, "the kernel stays where it is"


@pytest.mark.parametrize("cpus", [1, pytest.param(2, marks=pytest.mark.kgdb(smp=2))])
@pytest.mark.parametrize("command", ["kill", "detach", "disconnect", "quit"])
def test_leaves(kgdb, command, cpus):
    says(kgdb, command)


def break_relay(monkeypatch, kgdb, method, error):
    backend = attachment_of(kgdb).relay._backend

    def fail(payload):
        monkeypatch.undo()
        raise error

    monkeypatch.setattr(backend, method, fail)


@pytest.mark.filterwarnings("default")
def test_a_defect(kgdb, monkeypatch):
    break_relay(monkeypatch, kgdb, "reply", LookupError("no such thing"))
    kgdb.execute("x/8xb 0xffffffff81000000")


def test_no_answer(kgdb, monkeypatch):
    break_relay(monkeypatch, kgdb, "reply", KgdbError("kgdb did not answer"))
    kgdb.execute("x/8xb 0xffffffff81000000")


def test_no_answer_while_it_runs(kgdb, monkeypatch):
    break_relay(monkeypatch, kgdb, "record_stop", KgdbError("kgdb did not answer"))
    kgdb.breakpoint("do_sys_openat2")
    kgdb.type("cat /proc/version")
    kgdb.cont()


def test_no_answer_that_is_caught(kgdb, monkeypatch):
    break_relay(monkeypatch, kgdb, "reply", KgdbError("kgdb did not answer"))
    for number in range(2):
        with pytest.raises(DebuggerDied, match="gdb lost its target: kgdb did not answer"):
            kgdb.execute(f"x/8xb 0xffffffff8100000{number}")


def test_last(kgdb):
    pass
'''

LOST = {
    "test_a_defect": "the relay between them failed: LookupError: no such thing",
    "test_no_answer": "kgdb did not answer",
    "test_no_answer_while_it_runs": "kgdb did not answer",
}


@pytest.fixture(scope="module", params=["kgdb", "qemu"])
def ran(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    session_options: list[str],
) -> Outcome:
    directory = tmp_path_factory.mktemp(request.param)
    return InnerRun(directory, TESTS, [*session_options, f"--kgdb-stub={request.param}"]).end()


def test_the_kernel_stays_and_the_next_test_runs(ran: Outcome) -> None:
    failed = {name for name in ran.reports if not ran.passed(name)}
    assert failed == set(LOST), ran.output
    assert len(ran.reports) == 13


@pytest.mark.parametrize("name", LOST)
def test_what_gdb_lost_is_said_and_is_no_failure(ran: Outcome, name: str) -> None:
    report = ran.failure(name)
    assert report.lost, ran.output
    text = message(report.text)
    assert text.startswith(f"pytest_kgdb.errors.DebuggerDied: gdb lost its target: {LOST[name]}\n")
    assert "hint: " in text
    if name != "test_a_defect":
        no_traceback_of_ours(report.text)


def test_a_defects_traceback_is_shown(ran: Outcome) -> None:
    assert "PytestUnhandledThreadExceptionWarning" in ran.output
    assert 'LookupError("no such thing")' in ran.output


WITHOUT_AGENT = """
from pytest_kgdb.debugger import _process

_process._AGENT = ("gdb_template.py",)


def test_it(kgdb):
    assert kgdb.evaluate("1 + 1") == 2
"""


def test_a_gdb_that_could_not_run_the_agents_files(
    tmp_path: Path, session_options: list[str]
) -> None:
    report = InnerRun(tmp_path, WITHOUT_AGENT, session_options).end().failure("test_it")
    assert report.lost
    assert message(report.text).startswith(
        "pytest_kgdb.errors.DebuggerDied: gdb did not load the plugin's own part\n"
    )
    no_traceback_of_ours(report.text)
