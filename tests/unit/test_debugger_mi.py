"""MI: replies by token, gdb's second answers, its silence and its end."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from scripted_gdb import Command, ScriptedGdb, wait_until

from pytest_kgdb.deadline import WaitLimit
from pytest_kgdb.debugger import Gdb, GdbError, GdbProcess, Record, c_string
from pytest_kgdb.errors import DebuggerDied, TimeoutError
from pytest_kgdb.process import Child

Start = Callable[[str], tuple[Gdb, ScriptedGdb]]


@pytest.fixture
def waits() -> WaitLimit:
    return WaitLimit(5.0)


@pytest.fixture
def start(tmp_path: Path, waits: WaitLimit) -> Iterator[Start]:
    with contextlib.ExitStack() as stack:

        def make(script: str) -> tuple[Gdb, ScriptedGdb]:
            transport = ScriptedGdb(script)
            gdb = Gdb(transport, transcript=tmp_path / "gdb.log", waits=waits)
            stack.callback(transport.check)
            stack.enter_context(gdb)
            return gdb, transport

        yield make


# Replies


def test_a_reply_is_the_one_with_the_commands_token(start: Start) -> None:
    gdb, _ = start(
        """
        < =thread-group-added,id="i1"
        < ~"Reading symbols from vmlinux...\\n"
        > -break-delete 5
        < =thread-created,id="8",group-id="i1"
        < ~"\\nThread "
        < 99^done,wrong="a reply to nobody"
        < ^done,right="1"
        < =thread-exited,id="7",group-id="i1"
        > -break-delete 6
        < #1^done,wrong="the reply again"
        < ^done,right="2"
        """
    )
    assert gdb.command("-break-delete 5") == {"right": "1"}
    assert gdb.command("-break-delete 6") == {"right": "2"}


def test_a_reply_without_a_payload(start: Start) -> None:
    gdb, _ = start("> -break-delete\n< ^done")
    assert gdb.command("-break-delete") is None


def test_an_error_is_gdbs_own(start: Start) -> None:
    gdb, _ = start(
        """
        > -kgdb {"op": "evaluate", "expression": "GFP_KERNEL"}
        < ^error,msg="No symbol \\"GFP_KERNEL\\" in current context."
        > -frobnicate
        < ^error
        """
    )
    with pytest.raises(GdbError, match=r'No symbol "GFP_KERNEL" in current context\.'):
        gdb.command(r'-kgdb "{\"op\": \"evaluate\", \"expression\": \"GFP_KERNEL\"}"')
    with pytest.raises(GdbError, match="gave no reason"):
        gdb.command("-frobnicate")


def test_what_a_command_of_the_command_line_prints(start: Start) -> None:
    gdb, _ = start(
        r"""
        < ~"Reading symbols from vmlinux...\n"
        > (gdb) tbreak vfs_read
        < ~"Temporary breakpoint 2 at 0xffffffff811b25a0: "
        < =breakpoint-created,bkpt={number="2",type="breakpoint",disp="del",enabled="y"}
        < &"a word to the log\n"
        < ~"file fs/read_write.c, line 454.\n"
        < ^done
        > (gdb) info symbol 0xffffffff810e8d00
        < ~"rethook_trampoline_handler in section .text\n"
        < ^done
        """
    )
    printed = "Temporary breakpoint 2 at 0xffffffff811b25a0: file fs/read_write.c, line 454.\n"
    assert gdb.console("tbreak vfs_read") == printed
    symbol = "rethook_trampoline_handler in section .text\n"
    assert gdb.console("info symbol 0xffffffff810e8d00") == symbol


@pytest.mark.parametrize("size", [1, 7, 4096])
def test_output_arrives_in_whatever_pieces(start: Start, size: int) -> None:
    gdb, transport = start("> -kgdb {}\n...")
    line = '1^done,text="Zürich"\r\n(gdb) \n*stopped,reason="end-stepping-range"\n'.encode()
    pieces = [line[at : at + size] for at in range(0, len(line), size)]

    def answer(_: Command) -> None:
        for piece in pieces:
            transport.write(piece)

    transport.on_command = answer  # type: ignore[assignment,method-assign]
    assert gdb.command("-kgdb {}") == {"text": "Zürich"}
    event = gdb.next_event(5)
    assert event is not None
    assert event["payload"] == {"reason": "end-stepping-range"}
    transport._steps.clear()


@pytest.mark.parametrize("text", ["print 1\nprint 2", "print 1\rprint 2"])
def test_a_command_is_one_line(start: Start, text: str) -> None:
    gdb, transport = start("")
    with pytest.raises(GdbError, match="one line"):
        gdb.command(f"-{text}")
    with pytest.raises(GdbError, match="one line"):
        gdb.console(text)
    with pytest.raises(GdbError, match="one line"):
        c_string(text)
    assert transport.commands == []


def test_quoting() -> None:
    assert c_string('print "a\\n"') == r'"print \"a\\n\""'


# The commands of a breakpoint: gdb 13.1, whose mi3 has them as no list and no tuple of MI


def test_a_breakpoint_with_commands(start: Start) -> None:
    gdb, _ = start(
        r"""
        > -break-list
        < ^done,BreakpointTable={nr_rows="2",body=[bkpt={number="1",ignore="2",script={"silent","printf \"a=%d\\n\", x"},original-location="vfs_read"},bkpt={number="2",original-location="vfs_write"}]}
        > -break-list
        < ^done,BreakpointTable={body=[bkpt={number="1",script=["silent"],original-location="vfs_read"}]}
        """  # noqa: E501
    )
    table = gdb.command("-break-list", timeout=2)["BreakpointTable"]["body"]
    assert table[0]["script"] == ["silent", 'printf "a=%d\\n", x']
    assert [row["original-location"] for row in table] == ["vfs_read", "vfs_write"]
    table = gdb.command("-break-list")["BreakpointTable"]["body"]
    assert table[0]["script"] == ["silent"], "as mi4 has it"


@pytest.mark.parametrize("line", ["=foo,bar", '=cmd-param-changed,param="a', "7^done,x"])
def test_what_cannot_be_parsed_ends_nothing(start: Start, line: str) -> None:
    gdb, _ = start(f"< {line}\n> -break-delete\n< ^done")
    gdb.command("-break-delete", timeout=2)
    assert line in gdb.tail()


# Silence


def test_a_reply_that_never_comes(start: Start) -> None:
    gdb, transport = start("> -break-list\n...")
    began = time.monotonic()
    with pytest.raises(TimeoutError, match=r"did not answer '-break-list' in 0.05 s") as caught:
        gdb.command("-break-list", timeout=0.05)
    assert 0.05 <= time.monotonic() - began < 2
    assert caught.value.log == gdb.transcript
    transport.proceed()


def test_the_limit_may_change_between_two_commands(start: Start, waits: WaitLimit) -> None:
    gdb, transport = start("> -break-list\n...\n> (gdb) info line\n...")
    waits.set(0.02)
    with pytest.raises(TimeoutError, match=r"in 0.02 s"):
        gdb.command("-break-list")
    waits.set(0.04)
    transport.proceed()
    with pytest.raises(TimeoutError, match=r"in 0.04 s"):
        gdb.console("info line")
    transport.proceed()


def test_a_late_reply_is_not_taken_for_anothers(start: Start) -> None:
    gdb, transport = start(
        """
        > -break-list
        ...
        < #1^done,late="1"
        > -break-delete
        < ^done,right="1"
        > -break-enable 1
        < #1^error,msg="late again"
        < ^done,right="2"
        """
    )
    with pytest.raises(TimeoutError):
        gdb.command("-break-list", timeout=0.02)
    transport.proceed()
    assert gdb.command("-break-delete") == {"right": "1"}
    assert gdb.command("-break-enable 1") == {"right": "2"}
    assert not gdb.has_events
    assert gdb._replies == {}, "nobody will take it"


# gdb's end


def test_gdbs_end_in_the_middle_of_a_command(start: Start) -> None:
    gdb, transport = start("> -exec-continue\n< ^run")
    transport.words = "gdb: internal error\n"
    transport.end()
    with pytest.raises(DebuggerDied, match=r"(?s)exit status 1.*-exec-continue.*internal") as died:
        gdb.command("-exec-continue")
    assert died.value.log == gdb.transcript
    assert not gdb.alive
    transport._steps.clear()


def test_each_command_after_gdbs_end_says_so(start: Start) -> None:
    gdb, _ = start("> -exec-continue\nEND")
    for command in ("-exec-continue", "-break-list"):
        with pytest.raises(DebuggerDied, match=command):
            gdb.command(command)
    with pytest.raises(DebuggerDied, match="waiting for a stop"):
        gdb.next_event(5)


def test_events_from_before_gdbs_end_are_still_there(start: Start) -> None:
    gdb, _ = start('< *stopped,reason="end-stepping-range"\nEND')
    wait_until(lambda: not gdb.alive)
    assert gdb.next_event(0) is not None
    with pytest.raises(DebuggerDied):
        gdb.next_event(0)


def test_closing_ends_gdb(start: Start) -> None:
    gdb, transport = start("")
    gdb.close()
    assert transport.closed
    assert not gdb.alive


# Events


RESUMED = """
    > -exec-continue
    < ^running
    < *running,thread-id="all"
"""
# gdb says that it aborted, and why before.
WHY = "Warning:\nCannot insert breakpoint 9.\nCannot access memory at address 0x10"
ABORTED = r"""
    < &"Warning:\n"
    < &"Cannot insert breakpoint 9.\n"
    < &"Cannot access memory at address 0x10\n"
    < &"\n"
    < #1^error,msg="Command aborted."
"""


def test_a_stop_is_an_event(start: Start) -> None:
    gdb, _ = start(RESUMED + '< *stopped,reason="breakpoint-hit",bkptno="1"')
    gdb.command("-exec-continue")
    event = gdb.next_event(5)
    assert event is not None
    assert event["payload"]["bkptno"] == "1"
    assert gdb.next_event(0) is None
    assert not gdb.target_running


def test_events_are_taken_in_their_order_or_dropped(start: Start) -> None:
    gdb, _ = start('< *stopped,a="1"\n< *stopped,a="2"\n< *stopped,a="3"\n> -x\n< ^done')
    gdb.command("-x")
    events = [gdb.next_event(0), gdb.next_event(0)]
    assert [event and event["payload"]["a"] for event in events] == ["1", "2"]
    gdb.drop_events()
    assert not gdb.has_events


SYNCED = """
    > -no-command
    < ^error,msg="Undefined MI command: no-command",code="undefined-command"
    > -no-command
    < ^error,msg="Undefined MI command: no-command",code="undefined-command"
"""


def test_of_several_stops_the_last_counts(start: Start) -> None:
    first, last = r'< ~"one\n"' + '\n< *stopped,a="1"\n', r'< ~"two\n"' + '\n< *stopped,a="2"\n'
    gdb, _ = start(RESUMED + first + "< *running\n" + last + r'< ~"end\n"' + SYNCED)
    gdb.command("-exec-continue")
    event = gdb.next_event(5)
    assert event is not None
    assert event["payload"]["a"] == "1"
    gdb.sync_events(event)
    event = gdb.next_event(5)
    assert event is not None
    assert (event["payload"]["a"], event["text"]) == ("2", "one\ntwo\nend\n")
    assert not gdb.has_events


def test_a_stop_that_gdb_has_gone_on_from_is_none(start: Start) -> None:
    first, last = r'< ~"one\n"' + "\n< *stopped\n", r'< ~"two\n"' + '\n< *stopped,a="2"\n'
    gdb, transport = start(RESUMED + first + "< *running" + SYNCED + "...\n" + last)
    gdb.command("-exec-continue")
    gdb.sync_events()
    assert gdb.next_event(0.1) is None
    assert gdb.target_running
    transport.proceed()
    event = gdb.next_event(5)
    assert event is not None
    assert (event["payload"]["a"], event["text"]) == ("2", "one\ntwo\n")


def test_a_script_that_fails_behind_a_stop(start: Start) -> None:
    failed = r'< #1^error,msg="No symbol \"x\" in current context."'
    gdb, _ = start(RESUMED + "< *stopped\n" + failed + SYNCED)
    gdb.command("-exec-continue")
    gdb.sync_events()
    event = gdb.next_event(5)
    assert event is not None
    assert event["error"]["payload"] == {"msg": 'No symbol "x" in current context.'}


def test_events_wait_until_gdb_reads_commands_again(start: Start) -> None:
    wanted = "> -no-command\n> -no-command\n...\n"
    answers = "< #2^done\n...\n< #3^done\n"
    gdb, transport = start(RESUMED + "< *stopped\n" + wanted + answers)
    gdb.command("-exec-continue")
    gdb.sync_events()
    assert gdb.next_event(0.05) is None
    transport.proceed()
    assert gdb.next_event(0.05) is None, "what was posted is done by the second"
    transport.proceed()
    assert gdb.next_event(5) is not None


def test_the_target_runs_until_a_stop(start: Start) -> None:
    gdb, transport = start(RESUMED + "...\n< *stopped")
    assert not gdb.target_running
    gdb.command("-exec-continue")
    assert gdb.target_running
    transport.proceed()
    assert gdb.next_event(5) is not None
    assert not gdb.target_running


def test_a_second_answer_before_the_first_was_seen(start: Start) -> None:
    gdb, transport = start(RESUMED + ABORTED + "> -break-delete\n< ^done")
    transport.at_once = True
    with pytest.raises(GdbError, match=f"^{re.escape(WHY)}$"):
        gdb.command("-exec-continue")
    assert not gdb.target_running
    assert not gdb.has_events
    assert gdb.command("-break-delete") is None


def test_a_second_answer_that_comes_late_is_an_event(start: Start) -> None:
    gdb, transport = start(RESUMED + "..." + ABORTED + "> -break-delete\n< ^done")
    gdb.command("-exec-continue")
    assert gdb.target_running
    transport.proceed()
    event = gdb.next_event(5)
    assert event is not None
    assert (event["type"], event["payload"]) == ("result", {"msg": WHY})
    assert not gdb.target_running
    assert gdb.command("-break-delete") is None
    assert not gdb.has_events


def test_an_error_of_a_command_whose_kernel_has_stopped_is_no_second_answer(start: Start) -> None:
    gdb, transport = start(RESUMED + "< *stopped\n..." + ABORTED + "> -x\n< ^done")
    gdb.command("-exec-continue")
    transport.proceed()
    gdb.command("-x")
    assert gdb.next_event(0) is not None
    assert gdb.next_event(0) is None


def test_who_waits_elsewhere_is_woken_by_events_and_by_the_end(tmp_path: Path) -> None:
    woken: list[str] = []
    transport = ScriptedGdb('...\n< *stopped\n...\n< =thread-created,id="1"\nEND')
    gdb = Gdb(
        transport,
        transcript=tmp_path / "gdb.log",
        waits=WaitLimit(5),
        on_event=lambda: woken.append("stop" if gdb.alive else "end"),
    )
    with gdb:
        transport.proceed()
        wait_until(lambda: woken)
        transport.proceed()
        wait_until(lambda: len(woken) == 2)
    assert woken == ["stop", "end"]


def test_records_are_shown_in_their_order(start: Start) -> None:
    gdb, _ = start(
        """
        > -exec-continue
        < ^running
        < *running,thread-id="all"
        < =breakpoint-modified,bkpt={number="1",times="1"}
        < *stopped,reason="breakpoint-hit"
        > -x
        < ^done
        """
    )
    seen: list[str] = []
    shown: Callable[[Record], None] = lambda record: seen.append(record["message"])  # noqa: E731
    gdb.subscribe(shown)
    gdb.command("-exec-continue")
    gdb.command("-x")
    assert seen == ["running", "breakpoint-modified", "stopped"]


# The transcript


def test_both_sides_are_in_the_transcript(start: Start) -> None:
    gdb, _ = start("> -break-list\n< ^done\n> -break-delete\n< ^done")
    gdb.command("-break-list")
    gdb.clear_tail()
    gdb.command("-break-delete")
    gdb.close()
    lines = [line.split(maxsplit=1)[1] for line in gdb.transcript.read_text().splitlines()]
    assert lines == ["> 1-break-list", "< 1^done", "> 2-break-delete", "< 2^done"]
    assert [line.split()[-1] for line in gdb.tail().splitlines()] == ["2-break-delete", "2^done"]
    assert gdb.tail(1).endswith("2^done")


def test_gdb_is_killed_before_it_sees_the_end_of_its_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At which it would kill its target: the kernel that the next gdb is about to have."""
    seen = tmp_path / "seen"
    process = GdbProcess(["sh", "-c", f"echo; cat; touch {seen}"], log=tmp_path / "log")
    assert process.read() == b"\n"
    kill = Child.kill

    def late(child: Child) -> int:
        time.sleep(0.3)
        return kill(child)

    monkeypatch.setattr(Child, "kill", late)
    process.close()
    assert process.read() == b""
    assert not seen.exists()


class OutputHeldOpen(ScriptedGdb):
    """A gdb that has started what holds its output open: `shell sleep 1000 &`."""

    def close(self) -> None:
        self.closed = True


def test_what_a_gdb_says_that_was_replaced(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says so late, and its output ends late; neither is the new one's."""
    monkeypatch.setattr("pytest_kgdb.debugger._mi._READER_SECONDS", 0.01)
    gdb, first = start("")
    held = OutputHeldOpen("")
    gdb.replace(held)
    assert first.closed
    gdb.replace(ScriptedGdb("> -gdb-version\n< ^done"))
    held.say('*stopped,reason="exited"', '*running,thread-id="all"')
    held.end()
    time.sleep(0.1)
    assert gdb.alive
    assert (gdb.target_running, gdb.has_events) == (False, False)
    gdb.command("-gdb-version")


@pytest.mark.parametrize(
    ("message", "by_test"),
    [
        ('No symbol "x" in current context.', True),
        ('No symbol "x" in specified context.', True),
        ("No struct type named x.", True),
        ("No type named x.", True),
        ("There is no member named x.", True),
        ('Function "x" not defined.', True),
        ('no breakpoint at x: Function "x" not defined', True),
        ("No source file named x.c.", True),
        ("Cannot subscript requested type.", True),
        ("Can't do that binary op on that type", True),
        ("Attempt to take contents of a non-pointer value.", True),
        ('Undefined command: "x".  Try "help".', True),
        ('Undefined info command: "x".  Try "help info".', True),
        ("Cannot access memory at address 0x8", False),
        ("Division by zero", False),
        ("No symbol in current context.", False),
    ],
)
def test_whose_fault_an_error_is(message: str, by_test: bool) -> None:
    assert GdbError(message).by_test == by_test
