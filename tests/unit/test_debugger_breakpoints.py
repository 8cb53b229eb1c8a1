"""The table of breakpoints: what a test made, what gdb's prompt made, what no test sees."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_gdb import Command, FakeGdb, Parts, Refused

from pytest_kgdb.debugger import Breakpoint, BreakpointRow, GdbError, Watchpoint
from pytest_kgdb.debugger import _breakpoint_table as table_module
from pytest_kgdb.debugger._locations import MAX_BREAKPOINTS
from pytest_kgdb.errors import DebuggerDied, KgdbError, MachineDied

OPEN, READ = "do_sys_openat2", "vfs_read"


def row_of(parts: Parts, breakpoint: Breakpoint) -> BreakpointRow:
    (row,) = [row for row in parts.table.rows() if row.number == breakpoint.number]
    return row


@contextlib.contextmanager
def restored(parts: Parts, *, keep: bool) -> Iterator[None]:
    """Do what a restore of the machine does with the table, gdb being told to remove and add."""
    with parts.table.restoring(keep=keep) as remove:
        remove()
        yield
    from pytest_kgdb.debugger import Restored

    parts.table.restored(Restored(keep))


# Inserting


def test_a_breakpoint_has_what_gdb_says_of_it(parts: Parts, gdb: FakeGdb) -> None:
    opened = parts.table.insert(OPEN, condition="dfd == 3", ignore_count=2)
    assert (opened.number, opened.location, opened.address) == (1, OPEN, 0xFFFFFFFF811B09C0)
    assert (opened.enabled, opened.condition, opened.hits) == (True, "dfd == 3", 0)
    assert (opened.ignore_count, opened.commands) == (2, ())
    (sent,) = gdb.sent("-break-insert")
    assert (sent.options, sent.arguments) == ({"-c": "dfd == 3", "-i": "2"}, (OPEN,))


def test_options(parts: Parts, gdb: FakeGdb) -> None:
    parts.table.insert(OPEN, temporary=True)
    parts.table.insert(OPEN, hardware=True)
    assert [one.options for one in gdb.sent("-break-insert")] == [{"-t": None}, {"-h": None}]


def test_what_gdb_keeps_without_a_word(parts: Parts, gdb: FakeGdb) -> None:
    """gdb waits for what it could not insert in a file that was added."""
    parts.relay.refused = {0x1234}  # of another command
    kept = parts.table.insert(OPEN)
    insert = gdb._do_break_insert

    def refused(command: Command) -> list[str]:
        parts.relay.refused = {0xFFFFFFFF811B09C0}
        return insert(command)

    gdb._do_break_insert = refused  # type: ignore[method-assign]
    with pytest.raises(GdbError, match=r"Cannot insert breakpoint 2\."):
        parts.table.insert(OPEN)
    with pytest.raises(GdbError, match=r"Cannot insert breakpoint 3\."):
        parts.table.insert_internal(OPEN, lambda: True)
    assert [row.number for row in parts.table.rows()] == [kept.number]
    assert [int(one.arguments[0]) for one in gdb.sent("-break-delete")] == [2, 3]


def test_what_gdb_keeps_without_a_word_at_its_prompt(parts: Parts, gdb: FakeGdb) -> None:
    parts.table.insert(READ)
    parts.prompt(f"break {OPEN}")
    assert parts.table.unreported() == ""
    parts.relay.refused = {0xFFFFFFFF811B09C0}
    row = next(row for row in parts.table.rows() if row.number == 2)
    row.update({"number": "2", "addr": "<PENDING>"})
    assert (row.address, row.locations) == (None, ())
    assert parts.table.unreported() == "Cannot insert breakpoint 2."
    assert parts.table.unreported() == ""


@pytest.mark.parametrize(
    "words",
    [
        "Warning:\nCannot insert breakpoint 2.\nCannot access memory at address 0x10\n",
        "Warning:\nCannot insert hardware breakpoint 2.\n",
        "Warning:\nCannot insert hardware breakpoint 2:Remote failure reply: 0e.\n",  # gdb 16
        "Warning:\nCould not insert hardware watchpoint 2.\n",
    ],
)
def test_what_gdb_has_made_at_its_prompt_and_not_inserted(
    parts: Parts, gdb: FakeGdb, words: str
) -> None:
    parts.table.insert(READ)
    parts.prompt(f"break {OPEN}")
    assert parts.table.forget_not_inserted(words).endswith(f"point 2 at {OPEN}")
    assert list(gdb.rows) == [1]


def test_a_function_at_several_addresses(parts: Parts) -> None:
    inlined = parts.table.insert("kmalloc")
    assert inlined.address is None
    assert [place.number for place in row_of(parts, inlined).locations] == ["1.1", "1.2"]
    assert row_of(parts, inlined).locations[1].address == 0xFFFFFFFF81015CD8


def test_a_location_that_is_not_there(parts: Parts, gdb: FakeGdb) -> None:
    with pytest.raises(KgdbError, match='no breakpoint at nosuch: Function "nosuch" not defined'):
        parts.table.insert("nosuch")
    assert gdb.sent("-break-insert") == []


def test_one_that_waits_for_its_module(parts: Parts, gdb: FakeGdb) -> None:
    waits: list[bool] = []
    parts.table.on_insert(waits.append)
    parts.table.insert(OPEN, pending=True)
    pending = parts.table.insert("demo_init", pending=True)
    assert waits == [False, True]
    assert pending.address is None
    assert row_of(parts, pending).locations == ()
    assert [one.options for one in gdb.sent("-break-insert")] == [{}, {"-f": None}]
    # The module comes.
    gdb.symbols["demo_init"] = 0xFFFFFFFFA0005014
    gdb.rows[2].places = gdb.make("demo_init").places
    gdb.say(f"=breakpoint-modified,{gdb.rows[2].record()}")
    gdb.wait_read()
    assert pending.address == 0xFFFFFFFFA0005014


def test_one_of_a_known_module_waits_unasked(tmp_path: Path) -> None:
    parts = Parts(tmp_path, FakeGdb({}), expects=lambda location: location == "demo_init")
    assert parts.table.insert("demo_init").address is None
    with pytest.raises(KgdbError):
        parts.table.insert("demo_exit")
    parts.close()


def test_a_running_kernel_takes_none(parts: Parts, gdb: FakeGdb) -> None:
    opened = parts.table.insert(OPEN)
    parts.run_control.resume()
    for change in (
        lambda: parts.table.insert(READ),
        lambda: parts.table.watch("panic_on_oops", "write"),
        lambda: setattr(opened, "enabled", False),
        lambda: setattr(opened, "condition", "dfd == 3"),
    ):
        with pytest.raises(KgdbError, match="needs a stopped kernel"):
            change()
    assert len(gdb.rows) == 1


def test_there_is_a_limit(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_BREAKPOINTS == 1000, "include/linux/kgdb.h, KGDB_MAX_BREAKPOINTS"
    monkeypatch.setattr(table_module, "MAX_BREAKPOINTS", 2)
    first = parts.table.insert(OPEN)
    parts.table.insert(READ)
    with pytest.raises(KgdbError, match="at most 2 breakpoints"):
        parts.table.insert("vfs_write")
    first.delete()
    parts.table.insert("vfs_write")


def test_one_that_gdb_cannot_insert_does_not_stay(parts: Parts, gdb: FakeGdb) -> None:
    with pytest.raises(GdbError, match="Cannot access memory at address 0x10"):
        parts.table.insert("*0x10")
    assert gdb.rows == {}, "gdb would try again at each resume, and refuse it"
    assert parts.table.rows() == []


def test_a_condition_that_gdb_does_not_take(parts: Parts, gdb: FakeGdb) -> None:
    def refuse(_: object) -> list[str]:
        raise Refused('No symbol "nosuch" in current context.')

    gdb.replies["-break-insert"] = refuse
    with pytest.raises(GdbError, match="nosuch"):
        parts.table.insert(OPEN, condition="nosuch == 1")
    assert parts.table.rows() == []
    assert gdb.sent("-break-delete") == []


# Hits


def test_a_hit_names_its_breakpoint(parts: Parts, gdb: FakeGdb) -> None:
    opened = parts.table.insert(OPEN)
    for hits in (1, 2):
        stop = parts.stop_by(lambda: gdb.hit(1))
        assert (stop.reason, stop.breakpoint, opened.hits) == ("breakpoint", opened, hits)


def test_two_at_one_place_are_both_hit(parts: Parts, gdb: FakeGdb) -> None:
    first, second = parts.table.insert(OPEN), parts.table.insert(OPEN)
    assert parts.stop_by(lambda: gdb.hit(1)).breakpoint is first
    assert (first.hits, second.hits) == (1, 1)


def test_a_temporary_one_ends_by_its_hit(parts: Parts, gdb: FakeGdb) -> None:
    once = parts.table.insert(OPEN, temporary=True)
    stop = parts.stop_by(lambda: gdb.hit(1))
    assert stop.breakpoint is once
    assert (once.hits, once.enabled) == (1, False)
    gdb.wait_read()
    assert parts.table.rows() == []
    with pytest.raises(KgdbError, match="was deleted, and cannot be changed"):
        once.enabled = True
    once.delete()
    assert gdb.sent("-break-delete") == []


def test_a_temporary_one_whose_end_is_known_before_its_stop(parts: Parts, gdb: FakeGdb) -> None:
    once = parts.table.insert(OPEN, temporary=True)
    parts.run_control.resume()
    gdb.hit(1)
    gdb.wait_read()  # both records are there: only then does the test look
    assert parts.run_control.wait().breakpoint is once


def test_ignored_hits(parts: Parts, gdb: FakeGdb) -> None:
    opened = parts.table.insert(OPEN, ignore_count=1)
    parts.run_control.resume()
    gdb.hit(1)
    gdb.wait_read()
    assert (parts.run_control.stopped, opened.ignore_count, opened.hits) == (False, 0, 1)
    gdb.hit(1)
    assert parts.run_control.wait().breakpoint is opened
    assert opened.hits == 2, "gdb counts those that it ignored, too"


# gdb's prompt


def test_what_the_prompt_changes_shows(parts: Parts) -> None:
    opened = parts.table.insert(OPEN)
    parts.prompt("disable 1", "condition 1 dfd == 3", "ignore 1 5")
    assert (opened.enabled, opened.condition, opened.ignore_count) == (False, "dfd == 3", 5)
    parts.prompt("enable 1", "condition 1")
    assert (opened.enabled, opened.condition) == (True, None)


def test_commands_of_the_prompt_show(parts: Parts, gdb: FakeGdb) -> None:
    opened = parts.table.insert(OPEN)
    read = parts.table.insert(READ)
    gdb.set_script(1, "silent", 'printf "dfd=%d\\n", dfd')
    gdb.wait_read()
    assert opened.commands == ("silent", 'printf "dfd=%d\\n", dfd')
    assert opened.location == OPEN
    assert [row.number for row in parts.table.refresh()] == [1, 2]
    assert read.commands == ()


def test_a_hit_that_gdb_is_silent_of(parts: Parts, gdb: FakeGdb) -> None:
    opened = parts.table.insert(OPEN)
    gdb.set_script(1, "silent")
    stop = parts.stop_by(lambda: gdb.hit(1))
    assert (stop.reason, stop.breakpoint) == ("breakpoint", opened)
    interrupted = parts.stop_by(lambda: gdb.stop())
    assert interrupted.breakpoint is None


@pytest.mark.parametrize("count", [-1, 2**31, 10**12, "3", None])
def test_what_cannot_be_ignored(parts: Parts, gdb: FakeGdb, count: Any) -> None:
    with pytest.raises(KgdbError, match="is no number of hits to ignore"):
        parts.table.insert(OPEN, ignore_count=count)
    assert not gdb.rows
    assert parts.table.insert(OPEN, ignore_count=2**31 - 1).ignore_count == 2**31 - 1


def test_commands_that_go_on(parts: Parts, gdb: FakeGdb) -> None:
    opened, read = parts.table.insert(OPEN), parts.table.insert(READ)
    gdb.set_script(1, "silent", "continue")
    control = parts.run_control
    stop = parts.stop_by(lambda: [gdb.hit(number) for number in (1, 1, 2)])
    assert (stop.breakpoint, opened.hits) == (read, 2)
    generation = control.generation
    with pytest.raises(TimeoutError):
        parts.stop_by(lambda: gdb.hit(1), timeout=0.05)
    assert not control.stopped
    gdb.hit(2)
    assert control.wait().breakpoint is read
    assert control.generation == generation + 1, "no test has seen the other"


def test_an_earlier_hit_of_a_script(parts: Parts, gdb: FakeGdb) -> None:
    parts.table.insert(OPEN)

    def go_on() -> None:
        gdb.hit(1)
        gdb.say('*running,thread-id="all"')
        gdb.stop()

    gdb.on_resume = go_on
    parts.prompt("continue")
    assert parts.run_control.adopt_resume() is not None
    stop = parts.run_control.stop
    assert stop is not None
    assert stop.breakpoint is None


def test_commands_that_stay(parts: Parts, gdb: FakeGdb) -> None:
    opened, read = parts.table.insert(OPEN), parts.table.insert(READ)
    gdb.set_script(1, "print 1")
    assert parts.stop_by(lambda: gdb.hit(2)).breakpoint is read
    assert not gdb.sent("-no-command"), "others cost nothing"
    assert parts.stop_by(lambda: gdb.hit(1)).breakpoint is opened
    assert gdb.sent("-no-command")


def test_one_of_the_prompts_is_a_breakpoint_too(parts: Parts, gdb: FakeGdb) -> None:
    parts.prompt("break vfs_read", "tbreak vfs_write")
    assert [(row.number, row.text, row.temporary) for row in parts.table.rows()] == [
        (1, READ, False),
        (2, "vfs_write", True),
    ]
    first = parts.stop_by(lambda: gdb.hit(1)).breakpoint
    assert (first.location, first.hits) == (READ, 1)
    assert parts.stop_by(lambda: gdb.hit(1)).breakpoint is first
    temporary = parts.stop_by(lambda: gdb.hit(2)).breakpoint
    assert (temporary.location, temporary.hits, temporary.enabled) == ("vfs_write", 1, False)
    first.enabled = False
    assert not gdb.rows[1].enabled


def test_what_the_prompt_deletes_is_deleted(parts: Parts, gdb: FakeGdb) -> None:
    opened, read = parts.table.insert(OPEN), parts.table.insert(READ)
    parts.prompt("delete 1")
    assert "deleted" in repr(opened)
    assert read.enabled
    opened.delete()
    assert gdb.sent("-break-delete") == []
    parts.prompt("delete")
    assert parts.table.rows() == []


# Changing


def test_what_is_changed_here_shows_though_gdb_announces_nothing(
    parts: Parts, gdb: FakeGdb
) -> None:
    opened = parts.table.insert(OPEN)
    opened.enabled = False
    assert (opened.enabled, gdb.rows[1].enabled) == (False, False)
    opened.condition = "name[0] == '\"'"
    assert (opened.condition, gdb.rows[1].condition) == ("name[0] == '\"'",) * 2
    opened.condition = None
    assert (opened.condition, gdb.rows[1].condition) == (None, None)
    opened.enabled = True
    assert (opened.enabled, gdb.rows[1].enabled) == (True, True)


def test_a_with_deletes_at_its_end(parts: Parts, gdb: FakeGdb) -> None:
    with parts.table.insert(OPEN) as opened:
        assert gdb.rows
    assert gdb.rows == {}
    assert repr(opened) == f"<Breakpoint 1 at {OPEN}: deleted>"


def test_deleting_while_the_kernel_runs(parts: Parts, gdb: FakeGdb) -> None:
    opened = parts.table.insert(OPEN)
    parts.run_control.resume()
    assert gdb.running
    opened.delete()
    names = [command.name for command in gdb.sent("-exec-continue", "-break-delete")]
    assert names == ["-exec-continue", "-break-delete", "-exec-continue"]
    assert gdb.running
    assert not parts.run_control.stopped
    opened.delete()
    assert len(gdb.sent("-break-delete")) == 1


def test_deleting_at_the_moment_of_a_stop_leaves_the_stop(parts: Parts, gdb: FakeGdb) -> None:
    opened, read = parts.table.insert(OPEN), parts.table.insert(READ)
    parts.run_control.resume()
    gdb.hit(2)
    gdb.wait_read()
    opened.delete()
    assert parts.run_control.stopped
    assert parts.run_control.wait().breakpoint is read


@pytest.mark.parametrize("other", [False, True])
def test_deleting_at_the_moment_of_its_own_stop(parts: Parts, gdb: FakeGdb, other: bool) -> None:
    """Nobody waits for that any more, unless another one is there as well."""
    opened = parts.table.insert(OPEN)
    others = [parts.table.insert(OPEN)] if other else []
    parts.run_control._send_interrupt = lambda: gdb.hit(1)
    parts.run_control.resume()
    opened.delete()
    assert parts.run_control.stopped is other
    assert [row.number for row in parts.table.rows()] == [one.number for one in others]


def test_deleting_what_a_deaf_kernel_has(parts: Parts, gdb: FakeGdb) -> None:
    """It cannot be stopped for that: gdb deletes it at the next stop, if there is one."""
    opened, read = parts.table.insert(OPEN), parts.table.insert(READ)
    parts.run_control.resume()
    parts.run_control.hears_interrupts = False
    opened.delete()
    assert not opened.enabled
    assert gdb.sent("-break-delete") == []
    assert not parts.run_control.stopped

    gdb.on_resume = lambda: gdb.hit(read.number)
    gdb.hit(opened.number)
    assert parts.run_control.wait(5).breakpoint is read
    assert [row.number for row in parts.table.rows()] == [read.number]
    assert list(gdb.rows) == [read.number]
    assert parts.run_control.hears_interrupts


def test_a_restore_deletes_what_a_deaf_kernel_had(parts: Parts, gdb: FakeGdb) -> None:
    opened, read = parts.table.insert(OPEN), parts.table.insert(READ)
    parts.run_control.resume()
    parts.run_control.hears_interrupts = False
    opened.delete()
    parts.run_control._stopped = True  # as around a restore
    with parts.table.restoring(keep=True) as remove:
        remove()
        assert list(gdb.rows) == [read.number]
    assert gdb.rows[read.number].enabled


@pytest.mark.parametrize("gone", ["gdb", "machine"])
def test_a_finalizer_deletes_one_when_there_is_nothing_left(
    parts: Parts, gdb: FakeGdb, gone: str
) -> None:
    opened = parts.table.insert(OPEN)
    parts.run_control.resume()
    if gone == "gdb":
        gdb.end()
    else:
        parts.machine.alive = False
    with pytest.raises((DebuggerDied, MachineDied)):
        parts.run_control.wait(2)
    opened.delete()
    assert "deleted" in repr(opened)


@pytest.mark.parametrize("gone", ["gdb", "machine"])
def test_deleting_when_there_is_nothing_left(parts: Parts, gdb: FakeGdb, gone: str) -> None:
    def die() -> None:
        if gone == "gdb":
            gdb.end()
        else:
            parts.machine.alive = False
        parts.run_control.wait(2)

    opened = parts.table.insert(OPEN)
    parts.run_control.resume()
    with pytest.raises((DebuggerDied, MachineDied)), opened:
        die()
    assert "deleted" in repr(opened)


def test_deleting_all_while_the_kernel_runs(parts: Parts, gdb: FakeGdb) -> None:
    for function in (OPEN, "vfs_read"):
        parts.table.insert(function)
    parts.run_control.resume()
    parts.table.delete_all()
    assert gdb.rows == {}
    assert gdb.running
    assert not parts.run_control.stopped


def test_deleting_all_keeps_the_internal_ones(parts: Parts, gdb: FakeGdb) -> None:
    opened = parts.table.insert(OPEN)
    parts.table.insert_internal("do_init_module", lambda: False)
    parts.prompt("break vfs_read")
    parts.table.delete_all()
    assert [row.original for row in gdb.rows.values()] == ["*do_init_module"]
    assert not opened.enabled
    parts.table.delete_all()
    assert len(gdb.sent("-break-delete")) == 1


def test_all_are_forgotten_with_their_machine(parts: Parts, gdb: FakeGdb) -> None:
    opened = parts.table.insert(OPEN)
    parts.table.insert_internal("do_init_module", lambda: False)
    parts.table.clear()
    assert "deleted" in repr(opened)
    assert parts.table.rows() == []
    opened.delete()
    assert gdb.sent("-break-delete") == []


# Watchpoints


def test_a_watchpoint_is_by_address(parts: Parts, gdb: FakeGdb) -> None:
    gdb.numbers = {
        "(unsigned long)&(panic_on_oops)": 0xFFFFFFFF8228B9BC,
        "sizeof(panic_on_oops)": 4,
    }
    watch = parts.table.watch("panic_on_oops", "write")
    assert isinstance(watch, Watchpoint)
    assert (watch.expression, watch.access, watch.number) == ("panic_on_oops", "write", 1)
    assert gdb.rows[1].original == "*(signed int *)0xffffffff8228b9bc"
    parts.run_control.resume()
    gdb.say('=breakpoint-modified,bkpt={number="1",type="hw watchpoint",times="1"}')
    gdb.stop(
        'reason="watchpoint-trigger"',
        'wpt={number="1",exp="*(signed int *)0xffffffff8228b9bc"}',
        'value={old="0",new="-1"}',
    )
    stop = parts.run_control.wait()
    assert (stop.reason, stop.breakpoint, stop.old, stop.new) == ("watchpoint", watch, 0, -1)
    assert watch.hits == 1
    watch.delete()
    assert gdb.rows == {}


@pytest.mark.parametrize(
    ("access", "command", "member", "old", "new"),
    [("read", "rwatch", 'hw-rwpt={number="1"},value={value="65 \'A\'"}', None, 65),
     ("access", "awatch", 'hw-awpt={number="1"},value={old="1",new="2"}', 1, 2)],
)  # fmt: skip
def test_watchpoints_of_reads(
    parts: Parts, gdb: FakeGdb, access: str, command: str, member: str, old: int, new: int
) -> None:
    gdb.numbers = {"(unsigned long)&(letter)": 0x1000, "sizeof(letter)": 1, "unsigned letter": 1}
    kind: Any = access
    watch = parts.table.watch("letter", kind)
    (sent,) = gdb.sent("console")
    assert sent.arguments == (f"{command} *(unsigned char *)0x1000",)
    parts.run_control.resume()
    gdb.stop(f'reason="{access}-watchpoint-trigger"', member)
    stop = parts.run_control.wait()
    assert (stop.reason, stop.breakpoint, stop.old, stop.new) == ("watchpoint", watch, old, new)


def test_what_cannot_be_watched(parts: Parts, gdb: FakeGdb) -> None:
    gdb.numbers = {"(unsigned long)&(init_task)": 0x1000, "sizeof(init_task)": 9792}
    with pytest.raises(KgdbError, match="init_task has 9792 bytes; a watchpoint has 1, 2, 4, 8"):
        parts.table.watch("init_task", "write")
    wrong: Any = "execute"
    with pytest.raises(KgdbError, match="no access 'execute'"):
        parts.table.watch("init_task", wrong)
    gdb.numbers = {"(unsigned long)&(x)": 0x1000, "sizeof(x)": 4}
    gdb.replies["console"] = lambda _: ['~"Watchpoint 1: x\\n"', "^done"]
    with pytest.raises(KgdbError, match=r"made no watchpoint of x: Watchpoint 1: x"):
        parts.table.watch("x", "write")
    assert parts.table.rows() == []


# Internal breakpoints


def test_an_internal_one_is_inserted_once_at_the_first_instruction(
    parts: Parts, gdb: FakeGdb
) -> None:
    parts.table.insert_internal("do_init_module", lambda: False)
    parts.table.insert_internal("do_init_module", lambda: True)
    (sent,) = gdb.sent("-break-insert")
    assert sent.arguments == ("*do_init_module",)
    assert parts.table.rows() == []
    assert [row.number for row in parts.table.refresh()] == [1]
    with pytest.raises(GdbError):
        parts.table.insert_internal("nosuch", lambda: False)
    parts.table.remove_internal("do_init_module")
    parts.table.remove_internal("do_init_module")
    assert gdb.rows == {}
    assert len(gdb.sent("-break-delete")) == 1


def test_its_hit_is_served_and_the_kernel_goes_on(parts: Parts, gdb: FakeGdb) -> None:
    served: list[int] = []
    parts.table.insert_internal("do_init_module", lambda: bool(served.append(1)))
    opened = parts.table.insert(OPEN)

    def events() -> None:
        gdb.hit(1)
        gdb.on_resume = lambda: gdb.hit(2)

    assert parts.stop_by(events).breakpoint is opened
    assert served == [1]


def test_a_handler_may_have_the_kernel_stay(parts: Parts, gdb: FakeGdb) -> None:
    parts.table.insert_internal("do_init_module", lambda: True)
    stop = parts.stop_by(lambda: gdb.hit(1))
    assert (stop.reason, stop.breakpoint) == ("breakpoint", None)


def test_one_of_the_tests_at_the_same_place_stops(parts: Parts, gdb: FakeGdb) -> None:
    served: list[int] = []
    parts.table.insert_internal("do_init_module", lambda: bool(served.append(1)))
    mine = parts.table.insert("do_init_module")
    stop = parts.stop_by(lambda: gdb.hit(1))
    assert (stop.breakpoint, mine.hits, served) == (mine, 1, [1])


def test_an_ignored_one_at_the_same_place_does_not(parts: Parts, gdb: FakeGdb) -> None:
    parts.table.insert_internal("do_init_module", lambda: False)
    parts.table.insert("do_init_module", ignore_count=1)
    mine = parts.table.insert(OPEN)

    def events() -> None:
        gdb.hit(1)
        gdb.on_resume = lambda: gdb.hit(3)

    assert parts.stop_by(events).breakpoint is mine


def test_it_is_disabled_around_a_step(parts: Parts, gdb: FakeGdb) -> None:
    parts.table.insert_internal("do_init_module", lambda: False)
    parts.table.insert_internal("free_module", lambda: False)
    during: list[bool] = []

    def end_of_step() -> None:
        during.extend(row.enabled for row in gdb.rows.values())
        gdb.stop('reason="end-stepping-range"')

    gdb.on_resume = end_of_step
    assert parts.run_control.step("-exec-next").reason == "step"
    assert during == [False, False]
    assert all(row.enabled for row in gdb.rows.values())
    gdb.on_resume = lambda: gdb.stop('reason="end-stepping-range"')
    parts.run_control.resume()
    parts.run_control.wait()
    assert len(gdb.sent("-break-disable")) == 1, "around steps only"


def test_what_the_prompt_put_within_an_instruction_is_deleted(parts: Parts, gdb: FakeGdb) -> None:
    mine = parts.table.insert(OPEN)
    decode = gdb.agent["locations"]
    gdb.agent["locations"] = lambda location: {
        **decode(location),
        "within": [[0x10, "nop"] if location == "*0x11" else None],
    }
    parts.prompt(f"break {READ}", "break *0x11", "break *0x12")
    with pytest.raises(KgdbError, match=r"breakpoint 3 at \*0x11 was deleted: 0x11 is within"):
        parts.table.check_others()
    assert list(gdb.rows) == [1, 2, 4]
    assert [row.number for row in parts.table.rows()] == [1, 2, 4]
    parts.table.check_others()
    assert mine.enabled


def test_it_is_enabled_after_a_restore_out_of_a_step(parts: Parts, gdb: FakeGdb) -> None:
    parts.table.insert_internal(OPEN, lambda: False)
    with pytest.raises(TimeoutError):
        parts.run_control.step("-exec-finish", 0.01)
    assert not gdb.rows[1].enabled
    with restored(parts, keep=True):
        parts.run_control.record_stop("interrupt")
    assert gdb.rows[1].enabled


def test_a_step_without_internal_ones_says_nothing(parts: Parts, gdb: FakeGdb) -> None:
    parts.table.insert(OPEN)
    gdb.on_resume = lambda: gdb.stop('reason="end-stepping-range"')
    parts.run_control.step("-exec-step")
    assert gdb.sent("-break-disable", "-break-enable") == []


def test_one_that_the_prompt_deleted_is_inserted_anew(parts: Parts, gdb: FakeGdb) -> None:
    parts.table.insert_internal("do_init_module", lambda: False)
    parts.prompt("delete")
    parts.table.repair_internal()
    assert list(gdb.rows) == [2]


@pytest.mark.parametrize("change", ["disable 1", "condition 1 $_exitcode", "ignore 1 5"])
def test_one_that_the_prompt_changed_is_inserted_anew(
    parts: Parts, gdb: FakeGdb, change: str
) -> None:
    parts.table.insert_internal("do_init_module", lambda: False)
    parts.table.repair_internal()
    assert list(gdb.rows) == [1], "it is as it was"
    parts.prompt(change)
    parts.table.repair_internal()
    assert list(gdb.rows) == [2]
    row = gdb.rows[2]
    assert (row.enabled, row.condition, row.ignore) == (True, None, 0)


# Disabled for a while


def test_disabled_for_a_while(parts: Parts, gdb: FakeGdb) -> None:
    opened, read = parts.table.insert(OPEN), parts.table.insert(READ)
    parts.table.insert_internal("do_init_module", lambda: False)
    parts.prompt("disable 2")
    with parts.table.disabled():
        assert [row.enabled for row in gdb.rows.values()] == [False, False, True]
    assert [row.enabled for row in gdb.rows.values()] == [True, False, True]
    with parts.table.disabled([2, 3, 99]):
        assert [row.enabled for row in gdb.rows.values()] == [True, False, False]
    assert [row.enabled for row in gdb.rows.values()] == [True, False, True]
    assert (opened.enabled, read.enabled) == (True, False)


def test_disabled_for_what_fails(parts: Parts, gdb: FakeGdb) -> None:
    opened = parts.table.insert(OPEN)
    with pytest.raises(ZeroDivisionError), parts.table.disabled():
        raise ZeroDivisionError
    assert (opened.enabled, gdb.rows[1].enabled) == (True, True)


def test_one_deleted_meanwhile_is_not_enabled(parts: Parts, gdb: FakeGdb) -> None:
    opened = parts.table.insert(OPEN)
    with parts.table.disabled():
        opened.delete()
    assert gdb.sent("-break-enable") == []


# Restores


def test_a_tests_own_restore_keeps_them(parts: Parts, gdb: FakeGdb) -> None:
    opened, read = parts.table.insert(OPEN), parts.table.insert(READ)
    parts.table.insert_internal("do_init_module", lambda: False)
    parts.prompt("disable 2", "condition 1 dfd == 3")
    with restored(parts, keep=True):
        assert not any(row.enabled for row in gdb.rows.values()), "none is in the target"
    assert [row.enabled for row in gdb.rows.values()] == [True, False, True]
    assert (opened.enabled, opened.condition, read.enabled) == (True, "dfd == 3", False)


def test_one_that_was_disabled_for_a_while_is_enabled_by_a_restore(
    parts: Parts, gdb: FakeGdb
) -> None:
    parts.table.insert(OPEN)

    def refuse(_: object) -> list[str]:
        raise Refused("Cannot execute this command while the target is running.")

    def interrupt() -> None:
        gdb.replies["-break-enable"] = refuse
        raise TimeoutError

    with pytest.raises(TimeoutError), parts.table.disabled():
        interrupt()
    del gdb.replies["-break-enable"]
    with restored(parts, keep=True):
        pass
    assert gdb.rows[1].enabled


def test_another_test_begins_without(parts: Parts, gdb: FakeGdb) -> None:
    opened = parts.table.insert(OPEN)
    parts.table.insert_internal("do_init_module", lambda: False)
    parts.prompt("break vfs_read")
    with restored(parts, keep=False):
        assert gdb.rows == {}
    assert "deleted" in repr(opened)
    assert parts.table.rows() == parts.table.refresh() == []
    parts.table.insert_internal("do_init_module", lambda: False)
    assert len(gdb.rows) == 1
    assert gdb.sent("-break-enable") == []


# What a wait says that ran out


def test_where_the_kernel_was_to_stop(parts: Parts) -> None:
    assert parts.table.awaited() == ", having no breakpoint to stop at"
    parts.table.insert_internal("do_init_module", lambda: False)
    assert parts.table.awaited() == ", having no breakpoint to stop at"
    for _ in range(6):
        parts.table.insert(OPEN)
    assert parts.table.awaited().count(f"{OPEN} (0 hits)") == 5


# Rows


def test_a_location_that_is_disabled() -> None:
    row = BreakpointRow(5)
    row.update(
        {
            "number": "5",
            "enabled": "y",
            "addr": "<MULTIPLE>",
            "locations": [
                {"number": "5.1", "enabled": "y", "addr": "0x10"},
                {"number": "5.2", "enabled": "n", "addr": "0x20"},
            ],
        }
    )
    assert [(one.number, one.address, one.enabled) for one in row.locations] == [
        ("5.1", 16, True),
        ("5.2", 32, False),
    ]
    assert row.address is None


def test_one_with_a_single_location() -> None:
    row = BreakpointRow(3)
    row.update({"number": "3", "enabled": "n", "addr": "0xffffffffa0000000"})
    assert not row.enabled
    assert [(one.number, one.address, one.enabled) for one in row.locations] == [
        ("3.1", 0xFFFFFFFFA0000000, True)
    ]
    row.update({"number": "3", "enabled": "y", "addr": "<PENDING>"})
    assert (row.enabled, row.locations, row.address) == (True, (), None)


@pytest.mark.parametrize("script", [["silent", "print 1"], {"script": ["silent", "print 1"]}])
def test_commands_in_both_forms(script: object) -> None:
    row = BreakpointRow(1)
    row.update({"number": "1", "script": script})
    assert row.commands == ("silent", "print 1")


def test_no_module_of_the_package_writes_breakpoints_but_the_table() -> None:
    writers = {
        path.name
        for path in Path(table_module.__file__).parents[1].rglob("*.py")
        if re.search(r"-break-(?!list)\w+", path.read_text())
    }
    assert writers == {"_breakpoint_table.py"}


# Memory that the kernel frees


def gone(parts: Parts, *addresses: int) -> None:
    in_freed_memory = parts.table.in_freed_memory
    in_freed_memory.forget(lambda address: address in addresses, "module demo is gone")


def test_a_condition_on_memory_that_is_gone(parts: Parts, gdb: FakeGdb) -> None:
    gdb.agent["condition"] = lambda text, location: {"condition": text, "addresses": [0x1234]}
    opened = parts.table.insert(OPEN, condition="demo == 3")
    gone(parts, 0x5678)
    assert gdb.rows[opened.number].condition == "demo == 3"
    gone(parts, 0x1234)
    assert gdb.rows[opened.number].condition == '$_gone("module demo is gone")'
    assert opened.condition == "demo == 3"
    parts.table.refresh()
    assert opened.condition == "demo == 3", "as the test has it"
    gone(parts, 0x1234)
    assert len(gdb.sent("-break-condition")) == 1
    opened.condition = "demo == 4"
    assert gdb.rows[opened.number].condition == "demo == 4"


def test_a_breakpoint_that_is_gone_itself_waits(parts: Parts, gdb: FakeGdb) -> None:
    gdb.agent["condition"] = lambda text, location: {"condition": text, "addresses": [0x1234]}
    opened = parts.table.insert(OPEN, condition="demo == 3")
    assert opened.address is not None
    gone(parts, 0x1234, opened.address)
    assert gdb.rows[opened.number].condition == "demo == 3"


def test_a_watchpoint_on_memory_that_is_gone(parts: Parts, gdb: FakeGdb) -> None:
    inserted: list[bool] = []
    parts.table.on_insert(inserted.append)
    gdb.numbers = {"(unsigned long)&(panic_timeout)": 0x1234, "sizeof(panic_timeout)": 4}
    watched = parts.table.watch("panic_timeout", "write")
    assert inserted == [False]
    (address,) = row_of(parts, watched).reads
    gone(parts, address)
    assert gdb.rows == {}
    assert repr(watched) == "<Watchpoint 1 at panic_timeout: deleted: module demo is gone>"
    words = parts.table.awaited()
    assert words == (
        ", having no breakpoint to stop at; "
        "watchpoint 1 at panic_timeout is deleted: module demo is gone"
    )
    watched.delete()
    parts.table.clear()
    assert parts.table.awaited() == ", having no breakpoint to stop at"
