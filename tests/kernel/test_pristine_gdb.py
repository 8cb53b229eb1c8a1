"""gdb, too, is for each test as at the start. Each pair of tests runs in its order, in one run."""

from __future__ import annotations

import pytest

from pytest_kgdb.errors import DebuggerDied, KgdbError
from pytest_kgdb.handle import attachment_of

# What a test leaves, and what shows that the next one does not find it.
LEFT = {
    "handle SIGSEGV nostop noprint": ("info signals SIGSEGV", "Yes\tYes"),
    "display/i $pc": ("info display", "There are no auto-display expressions now."),
    "skip function vfs_read": ("info skip", "Not skipping any files or functions."),
    "set scheduler-locking on": ("show scheduler-locking", '"replay"'),
    "set substitute-path /no /where": ("show substitute-path", "!/no"),
    "set $mine = 42": ("output $mine", "void"),
    "print 42": ("print 1", "$1 = 1"),
    "set output-radix 16": ("output 17", "17"),
    "alias mine = info": ("!mine", "Undefined command"),
    "define ours\necho x\nend": ("!ours", "Undefined command"),
    "python left = 42": ("!python print(left)", "not defined"),
    "set var $_exitcode = 3": ("output $_exitcode", "void"),
    "macro define MINE 42": ("!output MINE", "No symbol"),
    "set listsize 3": ("show listsize", "is 10"),
    "tbreak vfs_read": ("info breakpoints", "No breakpoints"),
    "dir /tmp": ("show directories", "!/tmp"),
    "disable unwinder": ("info unwinder", "![disabled]"),
    "disable pretty-printer": ("info pretty-printer", "![disabled]"),
    "dis pretty": ("info pretty-printer", "![disabled]"),
    "break vfs_read\nenable once 1\ndisable unw": ("info unwinder", "![disabled]"),
    "delete mem": ("info mem", "Using memory regions provided by the target."),
    "info line vfs_read": ("whatis $_", "type = void\n"),
    "break vfs_read\ninfo breakpoints": ("whatis $_", "type = void\n"),
    "thread name mine": ("thread find mine", "No threads match"),
    "set language ada": ("show language", '"auto; currently c"'),
}


@pytest.fixture(scope="session")
def seen() -> dict[str, int]:
    """What one test of a pair leaves to the other."""
    return {}


def machine_of(kgdb) -> int:
    return attachment_of(kgdb).machine.pid


@pytest.mark.parametrize("turn", ["a", "b"])
@pytest.mark.parametrize("command", LEFT)
def test_what_is_left(kgdb, command, turn, seen):
    ask, expected = LEFT[command]
    if turn == "a":
        seen[command] = machine_of(kgdb)
        kgdb.execute(command)
        return
    assert seen[command] == machine_of(kgdb), "another machine would show nothing"
    if ask.startswith("!"):
        with pytest.raises(KgdbError, match=expected):
            kgdb.execute(ask[1:])
    elif expected.startswith("!"):
        assert expected[1:] not in kgdb.execute(ask)
    else:
        assert expected in kgdb.execute(ask)


@pytest.mark.parametrize("turn", ["a", "b"])
def test_a_value_that_was_returned(kgdb, turn):
    kgdb.breakpoint("vfs_read", condition="count == 17")
    kgdb.type("dd if=/dev/zero of=/dev/null bs=17 count=1")
    kgdb.execute("continue")
    assert "Value returned is $1 = " in kgdb.execute("finish")


@pytest.mark.parametrize(
    "command",
    [
        "disable", "dis", "disable {0}", "disable breakpoints {0}-{1}", "dis br", "enable once {0}",
        "enable count 2 {0}", "en del {0} {1}", "enable breakpoints once {0}", "delete {0}",
        "d br {0}-{1}", "disable {0}.1",
    ],
)  # fmt: skip
def test_breakpoints_leave_nothing(kgdb, command):
    kgdb.execute("break vfs_read")
    kgdb.execute("break vfs_write")
    numbers = [row.number for row in attachment_of(kgdb).breakpoints.rows()]
    kgdb.execute(command.format(*numbers))
    assert attachment_of(kgdb).gdb_is_pristine


def test_a_convenience_variable_by_the_handle_a(kgdb):
    kgdb.evaluate("$one = 1")
    kgdb.assign("$two", 2)
    assert kgdb.evaluate("$one + $two") == 3


def test_a_convenience_variable_by_the_handle_b(kgdb):
    assert kgdb.execute("output $one").strip() == "void"
    assert kgdb.execute("output $two").strip() == "void"


def test_a_register_is_no_convenience_variable(kgdb):
    kgdb.assign("$rax", 1)
    assert attachment_of(kgdb).gdb_is_pristine
    kgdb.execute("info registers")
    assert attachment_of(kgdb).gdb_is_pristine


KILL = "python import os, signal; os.kill(os.getpid(), signal.SIGKILL)"


@pytest.mark.parametrize("smp", [1, pytest.param(2, marks=pytest.mark.kgdb(smp=2))])
@pytest.mark.parametrize("left", ["stopped", "running"])
@pytest.mark.parametrize("turn", ["dies", "goes on"])
def test_a_gdb_that_dies(kgdb, turn, left, smp, seen):
    """The kernel is restored, the machine is the same, and the next test has another gdb."""
    name = f"{left} {smp}"
    if turn == "dies":
        seen[name] = machine_of(kgdb)
        with pytest.raises(DebuggerDied):
            kgdb.execute(KILL)
        return
    assert seen[name] == machine_of(kgdb)
    with kgdb.breakpoint("vfs_read") as read:
        kgdb.type("cat /proc/version")
        assert kgdb.cont().breakpoint is read
    assert kgdb.run("echo alive").output == "alive\n"


@pytest.mark.parametrize("turn", ["leaves", "goes on"])
def test_a_gdb_that_leaves_the_machine(kgdb, turn, seen):
    if turn == "leaves":
        seen["left"] = machine_of(kgdb)
        with pytest.raises(DebuggerDied, match="not on the machine"):
            kgdb.execute("python gdb.execute('disconnect')")
        return
    assert seen["left"] == machine_of(kgdb)
    assert kgdb.run("echo alive").output == "alive\n"
