"""The console, with the test at QEMU's end of the socket."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pexpect
import pytest

from pytest_kgdb.console import Console, ShellReadiness
from pytest_kgdb.console._shell import new_tag
from pytest_kgdb.console._transcript import Transcript
from pytest_kgdb.deadline import WaitLimit
from pytest_kgdb.errors import (
    ConfigError,
    GuestCommandError,
    KgdbError,
    MachineDied,
    TimeoutError,
)
from pytest_kgdb.klog import LogLine

LIMIT = 10.0


class Printed:
    """What the kernel has printed.

    :param lines: the answer.
    """

    def __init__(self, lines: list[LogLine] | None) -> None:
        self.lines = lines
        self.asked: list[int] = []

    def position(self) -> int:
        return 7

    def printed(self, since: int) -> list[LogLine] | None:
        self.asked.append(since)
        return self.lines


class Guest:
    """The other ends of a console's connections."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.waits = WaitLimit(LIMIT)
        self.attended = 0
        self.on_attend: Callable[[], None] = lambda: None
        self.ends: list[socket.socket] = []
        self.console: Console

    @property
    def end(self) -> socket.socket:
        """Of the present connection."""
        return self.ends[-1]

    def connect(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        ours.settimeout(LIMIT)
        self.ends.append(ours)
        return theirs

    def attend(self) -> None:
        self.attended += 1
        self.on_attend()

    def start(self, history: bytes = b"") -> Console:
        self.console = Console(
            self.connect,
            self.directory / "console.log",
            waits=self.waits,
            attend=self.attend,
            history=history,
        )
        return self.console

    def prints(self, text: bytes) -> None:
        self.end.sendall(text)

    def shows(self, text: bytes) -> None:
        """Print something, and wait until the console has it."""
        mark = self.console.mark()
        self.prints(text)
        self.console.wait_for(re.escape(text), mark=mark)

    def typed(self, size: int = 65536) -> bytes:
        return self.end.recv(size)

    def has_shell(self, answers: Callable[[str], bytes | None]) -> None:
        """Answer in a thread what Console.run() and synchronise() type.

        :param answers: returns a command's output; None for one that does not end.
        """
        threading.Thread(target=self._serve, args=(self.end, answers), daemon=True).start()

    @staticmethod
    def _serve(end: socket.socket, answers: Callable[[str], bytes | None]) -> None:
        variable = ""
        for raw in end.makefile("rb"):
            line = raw.decode(errors="surrogateescape").rstrip("\n")
            end.sendall(b"# " + raw.replace(b"\n", b"\r\n"))
            if piece := re.match(r"kgdb_command=(\$\{kgdb_command\})?(.*)", line):
                variable = (variable if piece[1] else "") + piece[2].strip("'")
            elif asked := re.match(r"printf '\\006%s\\n' (\S+) \|\| ", line):
                end.sendall(b"\x06%s\r\n" % asked[1].encode())
            elif command := re.match(r"\(printf '\\036%s\\n' (\S+); eval (.*) </dev/null\)", line):
                output = answers(variable if "$kgdb_command" in command[2] else command[2])
                if output is not None:
                    tag = command[1].encode()
                    end.sendall(b"\x1e%s\r\n%s\x1f%s 3\r\n" % (tag, output, tag))


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[Guest]:
    guest = Guest(tmp_path)
    yield guest
    guest.console.close()
    for end in guest.ends:
        end.close()


def test_a_shell_that_ends_during_a_command(guest: Guest) -> None:
    console = guest.start()

    def end(command: str) -> bytes | None:
        if command == "true":
            return b""
        guest.prints(b"Killed\r\n\x06kgdb-0\r\n# ")
        return None

    guest.has_shell(end)
    with pytest.raises(GuestCommandError, match=r"^the guest's shell ended during 'kill -9 \$\$'"):
        console.run("kill -9 $$")
    assert console.run("true").status == 3
    assert "kgdb-0" not in console.tail()


class TestTimeout:
    def test_it_is_the_limit_of_the_running_test(self, guest: Guest) -> None:
        console = guest.start()
        assert console.timeout == LIMIT
        guest.waits.set(0.05)
        assert console.timeout == 0.05
        for timeout in (-1, 0.05):
            with pytest.raises(pexpect.TIMEOUT):
                console.expect("never", timeout=timeout)
        with pytest.raises(TimeoutError, match=r"in 0\.05 s"):
            console.wait_for(b"never", mark=0)

    def test_a_test_may_set_its_own(self, guest: Guest) -> None:
        console = guest.start()
        console.timeout = 0.05
        with pytest.raises(pexpect.TIMEOUT):
            console.expect("never")
        assert guest.waits.seconds == LIMIT
        console.timeout = None
        assert console.timeout is None
        console.timeout = -1
        assert console.timeout == LIMIT


class TestExpect:
    def test_what_comes(self, guest: Guest) -> None:
        console = guest.start()
        guest.prints(b"login: root\r\n# ")
        assert console.expect([r"(\w+)\r\n", "#"]) == 0
        match: Any = console.match
        assert (console.before, match.group(1)) == ("login: ", "root")
        console.sendline("id")
        console.sendcontrol("c")
        assert guest.typed() == b"id\n\x03"
        assert console.input.sent == 4

    def test_the_guest_is_attended_to(self, guest: Guest) -> None:
        """A hidden stop has to be resumed, or what is waited for never comes."""
        console = guest.start()
        guest.on_attend = lambda: guest.prints(b"go on\r\n") if guest.attended == 2 else None
        for number in range(1, 20):
            threading.Timer(0.05 * number, console.poke).start()
        console.expect("go on")
        assert guest.attended >= 2

    def test_a_closed_console(self, guest: Guest) -> None:
        console = guest.start()
        assert console.isalive()
        guest.end.close()
        with pytest.raises(pexpect.EOF):
            console.expect("never")
        assert console.eof
        assert not console.isalive()
        with pytest.raises(MachineDied, match="does not take input"):
            console.send("x")

    def test_after_a_drop_only_what_is_new(self, guest: Guest) -> None:
        console = guest.start()
        guest.shows(b"old\r\n")
        console.drop()
        guest.prints(b"new\r\n")
        console.expect("new")
        assert console.before == ""

    def test_it_is_not_interactive(self, guest: Guest) -> None:
        with pytest.raises(KgdbError, match="attach"):
            guest.start().interact()


class TestText:
    def test_marks(self, guest: Guest) -> None:
        console = guest.start()
        guest.shows(b"one")
        mark = console.mark()
        guest.shows(b"two")
        assert (console.since(), console.since(mark)) == (b"onetwo", b"two")

    def test_what_is_no_longer_in_memory(
        self, guest: Guest, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("pytest_kgdb.console._transcript.KEPT_BYTES", 1000)
        console = guest.start()
        mark = console.mark()
        for number in range(500):
            guest.prints(b"line %03d\r\n" % number)
        console.wait_for(b"line 499\r\n", mark=mark)
        assert console.mark() == 5000
        assert 1000 <= len(console.since(mark)) <= 2000
        assert console.since(4990) == b"line 499\r\n"
        console.expect("line 499")
        assert len((guest.directory / "console.log").read_bytes()) == 5000

    def test_drain(self, guest: Guest) -> None:
        """All that was written is there at once: the kernel has stopped and prints no more."""
        console = guest.start()
        for number in range(50):
            guest.prints(b"%d" % number * 1000)
            console.drain()
            assert console.since().endswith(b"%d" % number * 1000)

    def test_the_history(self, guest: Guest) -> None:
        console = guest.start(b"booted\r\n")
        assert console.since() == b"booted\r\n"
        console.timeout = 0.05
        with pytest.raises(pexpect.TIMEOUT):
            console.expect("booted")
        console.flush()
        assert (guest.directory / "console.log").read_bytes() == b"booted\r\n"

    def test_what_other_kernels_have_shown(self, guest: Guest) -> None:
        console = guest.start(b"booted\r\n")
        guest.shows(b"replaced\r\n")
        console.disconnect()
        console.reconnect()
        guest.shows(b"mine\r\n")
        assert console.earlier(console.mark()) == b"booted\r\nmine\r\n"
        assert console.since() == b"booted\r\nreplaced\r\nmine\r\n"
        assert console.tail() == "    mine"

    def test_what_is_the_plugins_own_is_shown_to_nobody(self, guest: Guest) -> None:
        history = b"# [    0.500000] sysrq: DEBUG\r\n"  # of the boot
        console = guest.start(history)
        debug = b"[    1.500000] sysrq: DEBUG\r\n"
        console.note_sysrq()
        text = [
            b"[    1.000000] demo: probed\r\n\x06kgdb-1\r\n# " + debug,
            b"\x1ekgdb-2\r\nof the test\r\n\x1fkgdb-2 1\r\n# " + debug,  # the test's own
            b"root@box:~# \x1dkgdb-3\r\nkgdb-buffer 53 /run/pytest-kgdb-1\r\n",
            b"[    2.000000] demo: removed\r\n\x1fkgdb-3 0\r\nkgdb-4\r\n",
        ]
        guest.shows(b"".join(text))
        lines = [
            *("[    1.000000] demo: probed", "of the test", "# [    1.500000] sysrq: DEBUG"),
            *("[    2.000000] demo: removed", "kgdb-4"),
        ]
        assert console.shown().splitlines() == lines
        assert [line.strip() for line in console.tail().splitlines()] == lines
        assert [line for _, line in console.timed(0)] == lines
        assert console.since(len(history)) == b"".join(text)
        mark = console.mark()
        guest.shows(b"\x1dkgdb-5\r\nmore\r\n")  # it hangs
        assert console.shown(mark) == ""
        guest.shows(b"[    3.000000] demo: stuck\r\n")
        assert console.shown(mark) == "[    3.000000] demo: stuck\r\n"
        guest.shows(b"\x1ekgdb-6\r\nof the next test\r\n\x1fkgdb-6 0\r\n")
        assert console.shown(mark) == "[    3.000000] demo: stuck\r\nof the next test\r\n"

    def test_a_sysrq_that_a_replaced_kernel_did_not_answer(self, guest: Guest) -> None:
        console = guest.start()
        console.note_sysrq()
        console.disconnect()
        console.reconnect()
        guest.shows(b"sysrq: DEBUG\r\n")
        assert console.shown() == "sysrq: DEBUG\r\n"

    def test_prompts_cost_no_time(self, guest: Guest) -> None:
        console = guest.start()
        guest.shows(b"# " * 100_000 + b"x" * 100_000 + b"\x06kgdb-1\r\n" * 20_000)
        began = time.monotonic()
        assert console.shown().startswith("# # ")
        assert time.monotonic() - began < LIMIT / 2

    def test_nothing_in_the_tail(self, guest: Guest) -> None:
        assert guest.start().tail() == "    (none)"

    def test_a_wait_ends_with_qemu(self, guest: Guest) -> None:
        console = guest.start()
        guest.end.close()
        with pytest.raises(MachineDied, match="closed the console"):
            console.wait_for(b"never", mark=0)

    def test_a_wait_may_be_ended_meanwhile(self, guest: Guest) -> None:
        def stopped() -> None:
            raise KgdbError("it stopped")

        with pytest.raises(KgdbError, match="it stopped"):
            guest.start().wait_for(b"never", mark=0, meanwhile=stopped)


class TestFlood:
    def test_searching_takes_a_fifth_of_the_time(
        self, guest: Guest, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """All of the text is searched; at each piece that comes, a flood would never end."""
        console = guest.start()
        real, cost, searches = console.since, 0.01, 0

        def since(mark: int = 0) -> bytes:
            nonlocal searches
            searches += 1
            time.sleep(cost)
            return real(mark)

        monkeypatch.setattr(console, "since", since)
        ended = threading.Event()

        def flood() -> None:
            while not ended.is_set():
                guest.end.sendall(b"x" * 100)
                time.sleep(0.001)

        thread = threading.Thread(target=flood)
        thread.start()
        try:
            began = time.monotonic()
            threading.Timer(1.0, guest.end.sendall, [b"END"]).start()
            assert console.wait_for(b"E?ND", mark=0)[0] == b"END"
            seconds = time.monotonic() - began
        finally:
            ended.set()
            thread.join()
        assert 2 <= searches <= seconds / (5 * cost) + 2


class TestConnection:
    def test_what_was_sent_is_lost(self, guest: Guest) -> None:
        console = guest.start()
        console.send("lost")
        assert console.input.unread() > 0
        console.disconnect()
        console.reconnect()
        assert (console.input.sent, console.input.unread()) == (0, 0)
        console.send("kept")
        assert guest.typed() == b"kept"

    def test_what_is_sent_before_the_guest_has_opened_it_waits(self, guest: Guest) -> None:
        console = guest.start()
        is_open = threading.Event()
        console.input.hold_until(is_open.is_set, lambda: True)
        assert console.send("early, ") == 7
        console.send("in order")
        assert (console.input.sent, console.input.unread()) == (0, 15)
        is_open.set()
        assert guest.typed() == b"early, in order"
        console.input.hold_until(pytest.fail, lambda: True)
        console.send("later")
        assert guest.typed() == b"later"
        assert (console.input.sent, console.input.unread()) == (20, 0)

    def test_what_is_sent_while_the_kernel_is_stopped_waits(self, guest: Guest) -> None:
        console = guest.start()
        runs = threading.Event()
        console.input.hold_until(lambda: True, runs.is_set)
        console.send("first, ")
        console.send("second")
        assert (console.input.kept, console.input.sent) == (b"first, second", 0)
        console.input.release()
        assert guest.typed() == b"first, second"
        assert console.input.kept == b""
        console.input.release()
        console.input.send_at_once(b"g")
        assert guest.typed() == b"g"
        console.input.keep(b"by a snapshot")
        runs.set()
        assert guest.typed() == b"by a snapshot"
        console.send(", at once")
        assert guest.typed() == b", at once"

    def test_more_than_there_is_room_for(self, guest: Guest) -> None:
        """Whoever waited for room would keep the kernel stopped that is to make it."""
        console = guest.start()
        runs = threading.Event()
        console.input.hold_until(lambda: True, runs.is_set)
        text = bytes(range(256)) * 4096
        console.send(text)
        console.input.release()
        assert 0 < console.input.sent < len(text)
        assert console.input.send_at_once(b"g") == 0
        runs.set()
        console.send("the end")
        typed = guest.end.makefile("rb")
        assert typed.read(len(text) + 7) == text + b"the end"
        assert (console.input.sent, console.input.kept) == (len(text) + 7, b"")
        console.send(text)
        assert typed.read(len(text)) == text

    def test_one_thread_sends_it(self, guest: Guest) -> None:
        console = guest.start()
        console.input.hold_until(lambda: True, lambda: False)
        before = threading.active_count()
        for _ in range(5):
            console.send("text")
            console.input.release()
        console.send("more")
        assert threading.active_count() == before + 1

    def test_a_console_that_is_closed_takes_nothing(self, guest: Guest) -> None:
        console = guest.start()
        console.input.hold_until(lambda: True, lambda: False)
        guest.end.close()
        console.wait_beyond(0, LIMIT)
        with pytest.raises(MachineDied, match="does not take input"):
            console.send("text")
        assert console.input.kept == b""

    def test_a_kernel_that_runs_before_it_has_opened_it(self, guest: Guest) -> None:
        console = guest.start()
        is_open = threading.Event()
        console.input.hold_until(is_open.is_set, lambda: True)
        console.send("text")
        console.input.release()
        assert console.input.kept == b"text"
        is_open.set()
        assert guest.typed() == b"text"

    def test_what_says_whether_it_is_open_may_be_closed_then(self, guest: Guest) -> None:
        console = guest.start()
        asked, answer = threading.Event(), threading.Event()
        closed: list[bool] = []

        def is_open() -> bool:
            asked.set()
            answer.wait(LIMIT)
            assert not closed
            return False

        console.input.hold_until(is_open, lambda: True)
        sender = threading.Thread(target=console.send, args=("text",))
        sender.start()
        asked.wait(LIMIT)
        threading.Timer(0.05, answer.set).start()
        console.input.hold_until(lambda: True, lambda: False)
        closed.append(True)
        sender.join()
        assert console.input.kept == b"text"

    def test_what_waits_is_lost_with_the_connection(self, guest: Guest) -> None:
        console = guest.start()
        looks: list[bool] = []

        def is_open() -> bool:
            looks.append(True)
            return len(guest.ends) > 1

        console.input.hold_until(is_open, lambda: True)
        console.send("lost")
        console.disconnect()
        assert console.input.unread() == 0
        console.reconnect()
        looks.clear()
        console.send("kept")
        assert looks == [True], "it is another guest's console"
        assert guest.typed() == b"kept"

    def test_read_by_qemu(self, guest: Guest) -> None:
        console = guest.start()
        console.send("text")
        guest.typed()
        assert console.input.unread() == 0

    def test_twice_closed(self, guest: Guest) -> None:
        console = guest.start()
        console.close()
        console.close()
        assert not console.isalive()


class TestReadiness:
    READY = re.compile(rb"ready\r?\n")

    def readiness(self, guest: Guest) -> ShellReadiness:
        return ShellReadiness(guest.start(b"ready\n"), self.READY)

    def wait(self, readiness: ShellReadiness, seconds: float = LIMIT) -> None:
        readiness.wait(seconds, lambda: None)

    def test_there_from_the_beginning(self, guest: Guest) -> None:
        readiness = self.readiness(guest)
        assert readiness.is_there
        self.wait(readiness, 0)

    def test_still_to_come(self, guest: Guest) -> None:
        readiness = self.readiness(guest)
        readiness.set(False)
        assert not readiness.is_there
        with pytest.raises(TimeoutError, match=r"(?s)shell was not there.*pytest-kgdb: ready"):
            self.wait(readiness, 0.02)
        guest.prints(b"ready\r\n")
        self.wait(readiness)
        assert readiness.is_there

    def test_seen_by_chance(self, guest: Guest) -> None:
        readiness = self.readiness(guest)
        readiness.set(False)
        guest.shows(b"ready\n")
        assert readiness.is_there
        readiness.set(False)
        assert not readiness.is_there, "another one"
        readiness.set(True)
        assert readiness.is_there

    def test_a_stop_on_the_way(self, guest: Guest) -> None:
        readiness = self.readiness(guest)
        readiness.set(False)

        def stopped() -> None:
            raise KgdbError("stopped")

        with pytest.raises(KgdbError, match="stopped"):
            readiness.wait(LIMIT, stopped)


class TestRun:
    def test_a_command(self, guest: Guest) -> None:
        console = guest.start()
        guest.has_shell(lambda command: b"ran " + command.encode() + b"\r\n")
        result = console.run("ls /")
        assert (result.status, result.output) == (3, "ran 'ls /'\n")

    def test_a_long_one_is_typed_in_pieces(self, guest: Guest) -> None:
        console = guest.start()
        commands: list[str] = []
        guest.has_shell(lambda command: commands.append(command) or b"")
        console.run("x" * 3000)
        assert commands == ["x" * 3000]

    @pytest.mark.parametrize("size", [1, 2000])
    def test_control_characters_are_typed_so_that_a_terminal_takes_them(
        self, guest: Guest, size: int
    ) -> None:
        console = guest.start()
        commands: list[str] = []
        guest.has_shell(lambda command: commands.append(command) or b"")
        console.run("x" * size + "\t\x03\r\x7f\udcff")
        assert [command.strip("'") for command in commands] == [
            "x" * size + "\t\x16\x03\x16\r\x16\x7f\udcff"
        ]

    @pytest.mark.parametrize(
        ("command", "reason"),
        [("a\0b", "no shell has NUL in a word"), ("\ud800", r"no text \(surrogates not allowed\)")],
    )
    def test_what_cannot_be_typed(self, guest: Guest, command: str, reason: str) -> None:
        console = guest.start()
        with pytest.raises(ConfigError, match=f"cannot be typed: .*{reason}"):
            console.run(command)

    def test_without_the_kernels_messages(self, guest: Guest) -> None:
        console = guest.start(b"[    1.000000] booted\r\n")
        record = b"[    2.000000] new\r\n"
        guest.has_shell(lambda _: b"out" + record + b"put\r\n[    1.000000] booted\r\n")
        assert console.run("dmesg").output == "output\n[    1.000000] booted\n"

    def test_what_the_kernel_printed_is_known(self, guest: Guest) -> None:
        """A trace may have the same line twice; what else looks like a record is a program's."""
        console = guest.start(b"[    1.000000] booted\r\n")
        trace = b"[    2.000000]  ? f+0x1/0x2\r\n" * 2 + b"[    2.000000][   T12]  g\r\n"
        output = b"[    1.000000] booted\r\n[    3.000000] mine\r\n"
        guest.has_shell(lambda _: b"out" + trace + b"put\r\n" + output + trace)
        printed = Printed(
            [LogLine(" ? f+0x1/0x2", 2.0), LogLine(" g", 2.0, "T12"), LogLine(" ? f+0x1/0x2", 2.0)]
        )
        assert console.run("dmesg", printed=printed).output == "output\n" + (
            (output + trace).decode().replace("\r", "")
        )
        assert printed.asked == [7]
        # Where nobody knows, a record that comes again is taken for a program's.
        assert console.run("true", printed=Printed(None)).output.startswith("out[")

    def test_a_garbled_message(self, guest: Guest) -> None:
        console = guest.start()
        guest.has_shell(
            lambda _: b"[    2.000000] do_sysl_64\r\n[    2.000000] x\r\n[    2.000000] mine\r\n"
        )
        printed = Printed([LogLine("x", 2.0), LogLine("do_syscall_64", 2.0)])
        assert console.run("x", printed=printed).output == "[    2.000000] mine\n"

    def test_lost_messages(self, guest: Guest) -> None:
        console = guest.start()
        guest.has_shell(lambda _: b"one\r\n** 12 printk messages dropped **\r\ntwo\r\n")
        assert console.run("x").output == "one\ntwo\n"

    def test_a_record_in_the_midst_of_a_tag(self, guest: Guest) -> None:
        """The same one twice."""
        console = guest.start()

        def shell(command: str) -> bytes:
            tag = str(command).strip("'").encode()
            return b"done\r\n\x1f" + tag[:3] + b"[    2.000000] x\r\n" * 2 + tag[3:] + b" 0\r\n"

        guest.has_shell(shell)
        next_tag = f"kgdb-{int(new_tag()[5:]) + 1}"
        printed = Printed([LogLine("x", 2.0)] * 2)
        result = console.run(next_tag, printed=printed)
        assert (result.status, result.output) == (0, "done\n")

    def test_an_output_without_end_that_looks_like_a_record(self, guest: Guest) -> None:
        console = guest.start()
        guest.has_shell(lambda _: b"[    2.000000] no end")
        assert console.run("printf").output == "[    2.000000] no end"

    def test_one_that_does_not_end(self, guest: Guest) -> None:
        console = guest.start()
        guest.has_shell(lambda _: None)
        with pytest.raises(TimeoutError, match=r"'sleep 9' did not end in 0\.1 s") as caught:
            console.run("sleep 9", timeout=0.1)
        assert "timeout= for run()" in str(caught.value.hint)

    def test_the_limit_of_the_running_test(self, guest: Guest) -> None:
        console = guest.start()
        guest.waits.set(0.05)
        with pytest.raises(TimeoutError, match=r"in 0\.05 s"):
            console.run("true")
        with pytest.raises(KgdbError, match=r"no shell answered on the console in 0\.05 s"):
            console.synchronise()

    def test_qemu_ends(self, guest: Guest) -> None:
        console = guest.start()
        guest.end.shutdown(socket.SHUT_WR)
        with pytest.raises(MachineDied, match="during 'true'"):
            console.run("true")

    def test_a_shell_that_did_not_hear(self, guest: Guest) -> None:
        """It was interrupted, and drops what was typed behind the Ctrl-C."""
        console = guest.start()
        started = time.monotonic()
        threading.Timer(0.1, lambda: (guest.typed(), guest.has_shell(lambda _: b""))).start()
        console.synchronise()
        assert time.monotonic() - started < LIMIT

    def test_a_loop_that_ends_at_the_third_interrupt(
        self, guest: Guest, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("pytest_kgdb.console._console._SHELL_ANSWERS", 0.02)
        console, typed = guest.start(), bytearray()

        def shell() -> None:
            while typed.count(b"\x03") < 3:
                typed.extend(guest.end.recv(65536))
            guest.has_shell(lambda _: b"")

        threading.Thread(target=shell, daemon=True).start()
        console.synchronise(interrupt=True)
        assert [line[:1] == b"\x03" for line in typed.splitlines()[:4]] == [True, False] * 2


def test_the_time_of_each_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([10.0, 11.0, 12.0, 13.0])
    monkeypatch.setattr("time.monotonic", lambda: next(now))
    transcript = Transcript(tmp_path / "log", b"of the boot\r\n")
    mark = transcript.end
    for piece in (b"one\r\ntw", b"o\r\n", b"\r\nthree\r\n", b"fo"):
        transcript.add(piece)
    transcript.close()
    # A line's time is that of its first byte.
    assert transcript.timed(mark) == [(10.0, "one"), (10.0, "two"), (12.0, "three"), (13.0, "fo")]
    assert transcript.timed(transcript.end) == []


def test_the_times_of_few_pieces_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_kgdb.console._transcript._TIMES", 2)
    now = iter(map(float, range(100)))
    monkeypatch.setattr("time.monotonic", lambda: next(now))
    transcript = Transcript(tmp_path / "log", b"")
    for number in range(5):
        transcript.add(b"%d\n" % number)
    transcript.close()
    assert transcript.timed(0) == [(3.0, "0"), (3.0, "1"), (3.0, "2"), (3.0, "3"), (4.0, "4")]
