"""What a guest does to the lines that lead to it: floods, rubbish, silence; and how it goes down.

One run of pytest has all of it, one after the other: each of its tests begins by showing that it
got a good machine, whatever the last one did.
"""

from __future__ import annotations

import pytest
from inner_run import InnerRun, Outcome, no_traceback_of_ours

TESTS = r'''
import contextlib

import pytest

from pytest_kgdb.errors import KgdbError, TimeoutError


@pytest.fixture(autouse=True)
def good(kgdb):
    """The last test's ruins are gone."""
    assert kgdb.stopped
    assert kgdb.run("echo fine").output == "fine\n"
    assert kgdb.evaluate("jiffies_64") > 0


def works(kgdb):
    """All ways to the kernel work: the console, kgdb, breakpoints."""
    assert kgdb.run("echo works").output == "works\n"
    kgdb.resume()
    assert kgdb.interrupt().reason == "interrupt"
    assert kgdb.evaluate("init_task.comm").string().startswith("swapper")
    with kgdb.breakpoint("vfs_read"):
        kgdb.type("cat /proc/version > /dev/null")
        assert kgdb.cont().reason == "breakpoint"


def test_flood(kgdb, pytestconfig):
    output = kgdb.run("yes 0123456789012345678901234567890123456789 | head -c 400000", 120).output
    assert len(output) == 400000
    works(kgdb)


def test_flood_that_nobody_reads(kgdb):
    kgdb.type("yes 0123456789012345678901234567890123456789 | head -c 400000; echo END")
    kgdb.resume()
    kgdb.console.wait_for(rb"END\r?\n", mark=0, timeout=120)
    kgdb.interrupt()
    works(kgdb)


def test_flood_without_an_end(kgdb):
    kgdb.type("yes")
    kgdb.resume()
    with pytest.raises(TimeoutError):
        kgdb.run("echo never", timeout=1)


def test_flood_of_the_kernel(kgdb):
    kgdb.run("i=0; while [ $i -lt 1000 ]; do echo line $i > /dev/kmsg; i=$((i+1)); done", 120)
    works(kgdb)


RUBBISH = "head -c 40000 /dev/urandom"
ESCAPES = r"\033[2J\033]0;title\007\033[31m\016\033c\000\001\002\003\004\006\036\037\177\377\n"


@pytest.mark.parametrize("command", [RUBBISH, f"printf '{ESCAPES}'", f"{RUBBISH} > /dev/ttyS0"])
def test_rubbish(kgdb, command):
    assert kgdb.run(command, 120).status == 0
    kgdb.type(command)
    works(kgdb)


@pytest.mark.parametrize("text", [
    "garbage", "$T05", "$OK#00", "++++----", "$E01#a6$E01#a6", "$T05thread:01;#07",
])
def test_packets(kgdb, text):
    """What kgdb's line shows while the kernel runs is the guest's to write; it may cost the test.

    That it costs no more, the next test shows.
    """
    with contextlib.suppress(KgdbError):
        kgdb.run(f"printf '%b' '{text}' > /dev/ttyS1", timeout=5)
        kgdb.resume()
        kgdb.interrupt(timeout=5)


def test_packets_at_random(kgdb):
    with contextlib.suppress(KgdbError):
        kgdb.run("head -c 2000 /dev/urandom > /dev/ttyS1", timeout=20)
        kgdb.resume()
        kgdb.interrupt(timeout=5)


def test_a_stop_that_is_none(kgdb):
    kgdb.type("printf '$T05thread:01;#07' > /dev/ttyS1")
    with pytest.raises(KgdbError):
        kgdb.cont(timeout=3)


def test_silence(kgdb):
    with pytest.raises(TimeoutError):
        kgdb.run("kill -STOP $$", timeout=1)


def test_another_program_instead_of_the_shell(kgdb):
    kgdb.type("exec sleep 1000")
    kgdb.resume()
    with pytest.raises(TimeoutError):
        kgdb.run("echo nobody", timeout=1)


def test_the_shell_ends(kgdb):
    kgdb.type("exec true")
    kgdb.resume()
    with contextlib.suppress(TimeoutError):  # init may start another one in time
        kgdb.run("echo nobody", timeout=1)


@pytest.mark.parametrize("command", ["poweroff -f", "reboot -f", "echo b > /proc/sysrq-trigger"])
def test_end(kgdb, command):
    kgdb.run(command)


@pytest.mark.kgdb(append="reboot=t")
def test_triple_fault(kgdb):
    kgdb.run("echo b > /proc/sysrq-trigger")


def test_clock(kgdb):
    for when in ("1970-01-02 00:00", "2037-12-31 00:00", "2001-01-01 00:00"):
        assert kgdb.run(f"date -s '{when}'").status == 0
        works(kgdb)


def test_last(kgdb):
    works(kgdb)
'''

LOST = {
    "test_end[poweroff -f]": "after the guest has switched the machine off, while ",
    "test_end[reboot -f]": "after the guest has reset the machine, while ",
    "test_end[echo b > /proc/sysrq-trigger]": "after the guest has reset the machine, while ",
    "test_triple_fault": "after a triple fault, while ",
}


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory, session_options: list[str]) -> Outcome:
    """The run, at whose end no process and no file was left."""
    directory = tmp_path_factory.mktemp("guest")
    return InnerRun(directory, TESTS, [*session_options, "--kgdb-timeout=30", "-vv"]).end(
        within=900
    )


def test_no_test_suffers_from_the_one_before(ran: Outcome) -> None:
    assert len(ran.reports) == 24, ran.output
    failed = {name for name in ran.reports if not ran.passed(name)}
    assert failed == set(LOST), ran.output
    assert not [name for name in failed if ran.failure(name).when == "setup"]


def test_a_guest_that_goes_down_is_an_error(ran: Outcome) -> None:
    for name, words in LOST.items():
        report = ran.failure(name)
        assert report.lost, report.text
        no_traceback_of_ours(report.text)
        assert f"exit status 0, {words}" in report.text
