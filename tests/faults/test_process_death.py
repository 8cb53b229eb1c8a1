"""Parents that die in every way: whatever they started goes with them."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

SOON = 10.0  # seconds: far more than it takes, far less than the sleeps

# A family: the child, one in its group, one that ignores signals, one in a session of its own,
# one that has neither our tag nor our group's leader as its parent.
FAMILY = r"""
sleep 600 &
echo "group $!"
(trap '' TERM INT HUP; exec sleep 600) &
echo "deaf $!"
setsid sh -c 'echo "away $$"; exec sleep 600' &
env -i sleep 600 &
echo "bare $!"
echo "child $$"
wait
"""

PARENT = """
import os, signal, sys, threading, time
from pytest_kgdb.process import Child, run
from pytest_kgdb.process._reaper import REAPER

def family():
    child = Child.spawn(["sh", "-c", FAMILY], name="family")
    while len(child.tail().splitlines()) < 5:
        time.sleep(0.01)
    print(child.tail(), flush=True)
    return child

def reaper():
    return REAPER._process

def ready():
    print("reaper", reaper().pid, flush=True)
    print("ready", flush=True)
    sys.stdin.readline()

"""


class Parent:
    """A Python process that runs a script over `process`, seen from outside."""

    def __init__(self, script: str, stack: ExitStack) -> None:
        code = f"FAMILY = {FAMILY!r}\n" + PARENT + textwrap.dedent(script)
        self.popen = stack.enter_context(
            subprocess.Popen(
                [sys.executable, "-c", code],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        )
        stack.callback(self.popen.kill)
        self.pidfds: dict[str, int] = {}
        output = ""
        assert self.popen.stdout is not None
        for line in self.popen.stdout:
            if line == "ready\n":
                return
            output += line
            if match := re.fullmatch(r"(\w+) (\d+)\n", line):
                # Taken while it lives, so that it can be no other process later on.
                pidfd = os.pidfd_open(int(match[2]))
                stack.callback(os.close, pidfd)
                self.pidfds[f"{match[1]} {match[2]}"] = pidfd
        raise AssertionError(f"it never came to be ready:\n{output}")

    def go(self) -> str:
        """Let it go on behind `ready()`, and return what it says until its end."""
        assert self.popen.stdin is not None
        assert self.popen.stdout is not None
        self.popen.stdin.close()
        return self.popen.stdout.read()

    def left(self, within: float = SOON) -> set[str]:
        """Who is still there after so many seconds."""
        deadline = time.monotonic() + within
        alive = set()
        for name, pidfd in self.pidfds.items():
            poller = select.poll()
            poller.register(pidfd, select.POLLIN)
            if not poller.poll(max(0.0, deadline - time.monotonic()) * 1000):
                alive.add(name.split()[0])
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        return alive


@pytest.fixture
def parent() -> Iterator[Callable[[str], Parent]]:
    with ExitStack() as stack:
        yield lambda script: Parent(script, stack)


def test_the_family_lives_as_long_as_its_parent(parent: Callable[[str], Parent]) -> None:
    it = parent("child = family(); ready()")
    assert it.left(within=0.1) == {"group", "deaf", "away", "bare", "child", "reaper"}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGSEGV])
def test_a_parent_that_is_killed(parent: Callable[[str], Parent], number: int) -> None:
    it = parent("child = family(); ready()")
    it.popen.send_signal(number)
    assert not it.left()


def test_a_parent_whose_whole_group_is_killed(parent: Callable[[str], Parent]) -> None:
    it = parent("child = family(); ready()")
    os.killpg(it.popen.pid, signal.SIGKILL)
    assert not it.left()


def test_a_parent_that_just_ends(parent: Callable[[str], Parent]) -> None:
    it = parent("child = family(); ready()")
    it.go()
    assert it.popen.wait(SOON) == 0
    assert not it.left(within=0)  # all of it, the reaper too, before the parent was gone


def test_a_parent_that_fails_in_a_context(parent: Callable[[str], Parent]) -> None:
    it = parent("""
        with family():
            ready()
            raise SystemExit(3)
    """)
    it.go()
    assert it.popen.wait(SOON) == 3
    assert not it.left(within=0)


def test_a_parent_that_leaves_by_the_back_door(parent: Callable[[str], Parent]) -> None:
    it = parent("child = family(); ready(); os._exit(0)")
    it.go()
    assert not it.left()


def test_a_parent_whose_fork_lives_on(parent: Callable[[str], Parent]) -> None:
    # The fork has a copy of the pipe that the reaper reads: it must let go of it.
    it = parent("""
        child = family()
        pid = os.fork()
        if pid == 0:
            time.sleep(600)
        print("fork", pid, flush=True)
        ready()
    """)
    it.popen.kill()
    (fork,) = (pidfd for name, pidfd in it.pidfds.items() if name.startswith("fork"))
    try:
        others = {name: pidfd for name, pidfd in it.pidfds.items() if pidfd != fork}
        it.pidfds = others
        assert not it.left()
    finally:
        signal.pidfd_send_signal(fork, signal.SIGKILL)


def test_a_fork_has_children_of_its_own(parent: Callable[[str], Parent]) -> None:
    it = parent("""
        child = family()
        if os.fork() == 0:
            try:
                with Child.spawn(["sleep", "600"], name="another"):
                    pass
            finally:
                os._exit(0)
        os.wait()
        assert child.poll() is None, "the fork's end took our child along"
        ready()
    """)
    it.popen.kill()
    assert not it.left()


def test_without_its_reaper_the_child_still_goes(parent: Callable[[str], Parent]) -> None:
    it = parent("""
        child = Child.spawn(["sleep", "600"], name="sleep")
        # Only the reaper kills it until setpriv has made way for the program.
        while open(f"/proc/{child.pid}/comm").read() != "sleep\\n":
            time.sleep(0.001)
        reaper().kill()
        print("child", child.pid, flush=True)
        ready()
    """)
    it.popen.kill()
    assert not it.left()


def test_a_new_reaper_has_all_groups(parent: Callable[[str], Parent]) -> None:
    it = parent("""
        first = family()
        reaper().kill()
        reaper().wait()
        second = family()
        ready()
    """)
    it.popen.kill()
    assert len(it.pidfds) == 11
    assert not it.left()


def test_a_parent_that_is_killed_before_the_reaper_registers_the_child(
    parent: Callable[[str], Parent],
) -> None:
    it = parent("""
        def register(child):
            while len(child.tail().splitlines()) < 2:
                time.sleep(0.01)
            print(child.tail(), flush=True)
            ready()
        REAPER.register = register
        Child.spawn(["sh", "-c", 'sleep 600 & echo "group $!"; echo "child $$"; wait'], name="it")
    """)
    it.popen.kill()
    assert len(it.pidfds) == 3
    assert not it.left()


def test_what_was_stopped_is_not_killed_again(parent: Callable[[str], Parent]) -> None:
    it = parent("""
        for _ in range(50):
            run(["true"], timeout=10)
        child = family()
        ready()
    """)
    it.popen.kill()
    assert not it.left()


def test_interrupts_at_any_time_leave_nobody(parent: Callable[[str], Parent]) -> None:
    # Alarms that raise KeyboardInterrupt, anywhere between asking for a child and its end.
    it = parent("""
        import random
        def interrupt(*_):
            global struck
            struck = True
            raise KeyboardInterrupt
        signal.signal(signal.SIGALRM, interrupt)
        random.seed(1)
        struck = False
        for _ in range(150):
            struck = False
            try:
                signal.setitimer(signal.ITIMER_REAL, random.uniform(0.0001, 0.006))
                while not struck:  # one raised in a __del__ goes no further
                    with Child.spawn(["sh", "-c", "sleep 600 & wait"], name="it"):
                        time.sleep(random.uniform(0, 0.002))
            except KeyboardInterrupt:
                pass
        assert run(["echo", "still working"], timeout=10).output == "still working\\n"
        ready()
        print(REAPER.tag)
    """)
    out = it.go()
    assert it.popen.wait(SOON) == 0, out
    tag = out.strip().encode()
    assert re.fullmatch(rb"\d+-[0-9a-f]{16}", tag), out
    assert not it.left(within=0)
    assert not [path for path in Path("/proc").glob("[0-9]*/environ") if tag in environment(path)]


def environment(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_ctrl_c_ends_a_command_under_way(parent: Callable[[str], Parent]) -> None:
    it = parent("""
        import pytest_kgdb.process._child as _child
        _child._DRAIN_SECONDS = 0.1  # one of the family holds the output open
        def announce(line):
            print(line, flush=True)
            if line.startswith("child"):
                print("ready", flush=True)
        run(["sh", "-c", FAMILY], timeout=600, on_line=announce)
    """)
    it.popen.send_signal(signal.SIGINT)
    assert it.go().endswith("KeyboardInterrupt\n")
    it.popen.wait(SOON)
    assert not it.left(within=0)


def test_the_second_ctrl_c_ends_the_patience(parent: Callable[[str], Parent]) -> None:
    it = parent("""
        child = Child.spawn(["sh", "-c", "trap '' TERM; echo up; sleep 600"], name="deaf")
        while "up" not in child.tail():
            time.sleep(0.01)
        print("child", child.pid, flush=True)
        print("ready", flush=True)
        child.stop(grace=600)
    """)
    time.sleep(0.2)  # whether it came to the grace or not, the outcome is the same
    it.popen.send_signal(signal.SIGINT)
    it.go()
    assert it.popen.wait(SOON) != 0
    assert not it.left(within=0)


def test_a_log_that_takes_no_more_does_not_block_a_child_that_is_read(
    parent: Callable[[str], Parent], tmp_path: Path
) -> None:
    it = parent(f"""
        import resource
        from pathlib import Path
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        log = Path({str(tmp_path / "log")!r})
        lines = []
        done = run(["seq", "100000"], timeout=10, log=log, on_line=lines.append)
        assert (done.status, len(lines), log.stat().st_size) == (0, 100000, 4096)
        ready()
    """)
    it.go()
    assert it.popen.wait(SOON) == 0
