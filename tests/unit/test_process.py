"""Children that behave."""

from __future__ import annotations

import builtins
import os
import re
import shlex
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from pytest_kgdb.errors import ConfigError, KgdbError, TimeoutError
from pytest_kgdb.process import PIPE, Child, CommandFailed, run, which


def spawn_sleeper(prelude: str = "") -> Child:
    """A shell that says `up` and sleeps, its sleep a child of its own."""
    child = Child.spawn(["sh", "-c", f"{prelude} echo up; sleep 60 & wait"], name="sleeper")
    deadline = time.monotonic() + 10
    while "up" not in child.tail():
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return child


def test_which_returns_an_absolute_path() -> None:
    assert Path(which("sh", package="dash")).is_absolute()


def test_which_names_the_package() -> None:
    with pytest.raises(ConfigError, match=r"no-such-program(?s:.)*apt install its-package"):
        which("no-such-program", package="its-package")


def test_run_returns_both_outputs_as_they_came() -> None:
    done = run(["sh", "-c", "echo out; echo err >&2; echo more"], timeout=10)
    assert (done.status, done.output) == (0, "out\nerr\nmore\n")


def test_run_feeds_more_than_a_pipe_holds() -> None:
    data = b"0123456789abcde\n" * 100_000
    assert run(["cat"], timeout=10, input=data).output.encode() == data


def test_run_says_what_failed_and_how() -> None:
    with pytest.raises(CommandFailed, match=r"tool failed with status 3: sh -c") as failed:
        run(["sh", "-c", "echo the reason; exit 3"], name="tool", timeout=10)
    assert failed.value.status == 3
    assert failed.value.output == "the reason\n"
    assert "\n  the reason" in str(failed.value)


def test_run_names_the_signal() -> None:
    with pytest.raises(CommandFailed, match="was ended by SIGSEGV"):
        run(["sh", "-c", "kill -SEGV $$"], timeout=10)


def test_run_leaves_a_bad_status_to_who_asks_for_it() -> None:
    assert run(["false"], timeout=10, check=False).status == 1


def test_run_stops_what_takes_too_long() -> None:
    begun = time.monotonic()
    with pytest.raises(TimeoutError, match=r"still running after 0.2 s(?s:.)*last words"):
        run(["sh", "-c", "echo last words; exec sleep 60"], timeout=0.2)
    assert time.monotonic() - begun < 5


def test_the_timeout_is_also_the_built_in_one() -> None:
    with pytest.raises(builtins.TimeoutError):
        run(["sleep", "60"], timeout=0)


def test_run_appends_to_a_log_and_returns_only_its_own(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("before\n")
    assert run(["echo", "now"], timeout=10, log=log).output == "now\n"
    assert log.read_text() == "before\nnow\n"


def test_the_error_leads_to_the_log(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match=f"log: {tmp_path}/log"):
        run(["false"], timeout=10, log=tmp_path / "log")


def test_a_program_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match="cannot start it: there is no program 'no-such'"):
        Child.spawn(["no-such"], name="it")


def test_a_program_relative_to_where_it_runs(tmp_path: Path) -> None:
    program = tmp_path / "here"
    program.write_text("#!/bin/sh\npwd\n")
    program.chmod(0o755)
    assert run(["./here"], timeout=10, cwd=tmp_path).output == f"{tmp_path}\n"


def test_a_directory_that_is_not_there() -> None:
    with pytest.raises(KgdbError, match=r"cannot start true \(true\).*No such file"):
        run(["true"], timeout=10, cwd="/no/such/directory")


def test_the_environment_is_the_given_one() -> None:
    environment = {"PATH": os.environ["PATH"], "ONLY": "this"}
    names = {
        line.partition("=")[0] for line in run(["env"], timeout=10, env=environment).output.split()
    }
    assert names == {"PATH", "ONLY", "PYTEST_KGDB_OWNER"}


def test_descriptors_are_inherited_when_named() -> None:
    reader, writer = os.pipe()
    try:
        script = f"echo hello >/proc/self/fd/{writer}"
        with Child.spawn(["sh", "-c", script], name="it", pass_fds=[writer]) as child:
            assert child.wait(10) == 0
        assert os.read(reader, 100) == b"hello\n"
    finally:
        os.close(reader)
        os.close(writer)


def test_lines_are_handed_on_as_they_come() -> None:
    lines: list[str] = []
    done = run(["sh", "-c", r"printf 'a\nb\r\n\ncafé\377\nlast'"], timeout=10, on_line=lines.append)
    assert lines == ["a", "b", "", "café\N{REPLACEMENT CHARACTER}", "last"]
    assert done.output == "a\nb\r\n\ncafé\N{REPLACEMENT CHARACTER}\nlast"


def test_a_line_without_end_is_handed_on_in_pieces() -> None:
    lines: list[str] = []
    run(["head", "-c", "1000000", "/dev/zero"], timeout=10, on_line=lines.append)
    assert len(lines) > 1
    assert sum(map(len, lines)) == 1_000_000


def test_a_reader_of_lines_that_fails_is_heard_of_and_blocks_nobody() -> None:
    def fail(line: str) -> None:
        raise ZeroDivisionError(line)

    with pytest.raises(ZeroDivisionError, match="1"):
        run(["seq", "100000"], timeout=10, on_line=fail)


def test_a_conversation() -> None:
    with Child.spawn(["cat"], name="cat", stdin=PIPE, stdout=PIPE) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(b"hello\n")
        assert child.stdout.read(100) == b"hello\n"
        child.stdin.close()
        assert child.stdout.read(100) == b""
        assert child.wait(10) == 0


def test_the_log_holds_the_errors_of_who_is_talked_to(tmp_path: Path) -> None:
    with Child.spawn(
        ["sh", "-c", "echo out; echo err >&2"], name="it", stdout=PIPE, log=tmp_path / "log"
    ) as child:
        assert child.wait(10) == 0
        assert child.stdout is not None
        assert child.stdout.read(100) == b"out\n"
    assert child.tail() == (tmp_path / "log").read_text().strip() == "err"


def test_tail_is_the_last_lines() -> None:
    with Child.spawn(["seq", "1000000"], name="seq") as child:
        assert child.wait(10) == 0
        assert child.tail(3) == "999998\n999999\n1000000"


def test_poll_and_wait_agree() -> None:
    with Child.spawn(["sh", "-c", "exit 7"], name="it") as child:
        assert child.wait(10) == 7
        assert child.poll() == 7
        assert child.wait(0) == 7
        assert child.stop() == 7
        assert child.kill() == 7


def test_it_leads_a_session_of_its_own() -> None:
    with spawn_sleeper() as child:
        assert os.getsid(child.pid) == os.getpgid(child.pid) == child.pgid == child.pid
        assert child.poll() is None


def test_stop_asks_first() -> None:
    child = spawn_sleeper("trap 'exit 5' TERM;")
    assert child.stop() == 5


def test_stop_does_not_wait_for_ever() -> None:
    child = spawn_sleeper("trap '' TERM;")
    begun = time.monotonic()
    assert child.stop(grace=0.2) == -signal.SIGKILL
    assert 0.2 <= time.monotonic() - begun < 5


def test_stop_reaches_who_was_suspended() -> None:
    child = spawn_sleeper("trap 'exit 5' TERM;")
    os.kill(child.pid, signal.SIGSTOP)
    assert child.stop(grace=10) == 5


def test_the_group_goes_with_its_leader() -> None:
    # The sleep keeps the pipe's writing end: its end is the pipe's end.
    reader, writer = os.pipe()
    child = Child.spawn(["sh", "-c", "sleep 60 & exit 0"], name="it", pass_fds=[writer])
    os.close(writer)
    assert child.wait(10) == 0
    with os.fdopen(reader) as pipe:
        assert pipe.read() == ""


@pytest.mark.parametrize("ended", ["killed", "by itself"])
def test_the_group_is_gone_when_its_leader_is(ended: str) -> None:
    # To give back so much memory takes longer than the leader's end.
    member = "data = bytes([1]) * (600 << 20); print('up', flush=True); input()"
    last = "wait" if ended == "killed" else "read line"
    child = Child.spawn(
        ["sh", "-c", f'{shlex.quote(sys.executable)} -c "{member}" & echo pid $!; {last}'],
        name="it",
        stdin=PIPE,
    )
    deadline = time.monotonic() + 10
    while "up" not in child.tail():
        assert time.monotonic() < deadline
        time.sleep(0.005)
    pid = int(re.findall(r"pid (\d+)", child.tail())[0])
    if ended == "killed":
        child.kill()
    else:
        assert child.stdin is not None
        child.stdin.close()
        child.wait(10)
    assert state(pid) in ("gone", "zombie")


def state(pid: int) -> str:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return "gone"
    return "zombie" if text.rpartition(")")[2].split()[0] in "ZX" else text


def test_output_that_a_stranger_holds_open_does_not_hold_us(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pytest_kgdb.process._child._DRAIN_SECONDS", 0.1)
    lines: list[str] = []
    begun = time.monotonic()
    run(["sh", "-c", "echo a; exec setsid -f sleep 4"], timeout=10, on_line=lines.append)
    assert lines == ["a"]
    assert time.monotonic() - begun < 3


def test_a_child_outlives_the_thread_that_asked_for_it() -> None:
    # The kernel's parent-death signal comes with the end of a thread.
    children: list[Child] = []
    thread = threading.Thread(target=lambda: children.append(spawn_sleeper()))
    thread.start()
    thread.join()
    with children[0] as child, pytest.raises(TimeoutError):
        child.wait(0.1)


def test_many_threads_at_once() -> None:
    outputs: list[str] = []
    threads = [
        threading.Thread(
            target=lambda number: outputs.append(run(["echo", str(number)], timeout=30).output),
            args=(number,),
        )
        for number in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(int, outputs)) == list(range(20))


def test_nothing_is_left_open() -> None:
    def count() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    def use_all() -> None:
        run(["true"], timeout=10, input=b"x")
        run(["echo"], timeout=10, on_line=lambda line: None)
        Child.spawn(["cat"], name="cat", stdin=PIPE, stdout=PIPE).stop()

    use_all()
    before = count()
    for _ in range(10):
        use_all()
    assert count() == before


def test_no_program_is_started_by_the_import() -> None:
    code = "import threading, pytest_kgdb.process as p; print(threading.active_count())"
    assert run([sys.executable, "-c", code], timeout=30).output == "1\n"
