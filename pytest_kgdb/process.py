"""Children: in groups of their own, tied to our death, always drained, stopped in time.

Two things see to it that nothing outlives us, whatever ends us. The kernel kills each child when
the thread that started it dies (`PR_SET_PDEATHSIG`, prctl(2)); and a guardian, one small `sh` in
a session of its own, holds the reading end of a pipe: when that ends it kills the groups that were
registered with it, and then whatever still carries our tag in its environment.
"""

from __future__ import annotations

import atexit
import contextlib
import math
import os
import queue
import select
import shlex
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, BinaryIO, Final, cast

from .errors import ConfigError, KgdbError, TimeoutError

__all__ = ["DEVNULL", "PIPE", "Child", "CommandFailed", "Completed", "run", "which"]

DEVNULL: Final = subprocess.DEVNULL
PIPE: Final = subprocess.PIPE

_TAG: Final = "PYTEST_KGDB_OWNER"  # in the environment of every child: which process it belongs to
_TAIL_BYTES: Final = 64 * 1024  # as much of the output as `tail` looks at
_LINE_BYTES: Final = 64 * 1024  # a longer line is handed on in pieces
_DEATH_SECONDS: Final = 10.0  # from SIGKILL to the exit: longer means stuck in the kernel
_DRAIN_SECONDS: Final = 2.0  # from the exit to the end of the output

# Reads "+GROUP" and "-GROUP" until we are gone. Signals meant for us must not take it along. The
# last part finds what left its group, and a child whose group we died too early to register.
_GUARDIAN: Final = r"""
trap '' HUP INT QUIT TERM
groups=
while read -r sign group; do
    case $sign in
    +) groups="$groups $group" ;;
    -)  left=
        for each in $groups; do [ "$each" = "$group" ] || left="$left $each"; done
        groups=$left ;;
    esac
done
for group in $groups; do kill -KILL -- "-$group"; done
for round in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
    found=$(grep -lszFx -e "$1" /proc/[0-9]*/environ) || exit 0
    for each in $found; do
        each=${each#/proc/}
        kill -KILL "${each%/environ}"
    done
    sleep 0.1
done
"""


class CommandFailed(KgdbError):
    """A command ended with a status other than 0."""

    def __init__(
        self, message: str, *, argv: tuple[str, ...], status: int, output: str, log: Path | None
    ) -> None:
        super().__init__(message, log=log)
        self.argv = argv
        self.status = status
        self.output = output


@dataclass(frozen=True)
class Completed:
    """A command that ran to its end."""

    argv: tuple[str, ...]
    status: int
    """The exit status; a negative number is the signal that ended it."""
    output: str
    """Its standard output and standard error, as they came."""


def which(program: str, *, package: str) -> str:
    """Return the absolute path of a program.

    :param package: the Debian package that brings it, for the error.
    :raises ConfigError: it is not installed.
    """
    found = shutil.which(program)
    if found is None:
        raise ConfigError(
            f"{program} is needed, and is not installed (or not on PATH)",
            hint=f"apt install {package}",
        )
    return str(Path(found).absolute())


class Child:
    """A running program, and the process group that it leads."""

    def __init__(
        self,
        popen: subprocess.Popen[bytes],
        *,
        argv: tuple[str, ...],
        name: str,
        log: Path | None,
        sink: int,
        source: IO[bytes] | None,
        on_line: Callable[[str], None] | None,
    ) -> None:
        self.argv = argv
        """As asked for."""
        self.name = name
        """What the messages call it."""
        self.pid = popen.pid
        self.pgid = popen.pid
        self.log = log
        """The file that its output goes to."""
        self.stdin = cast("BinaryIO | None", popen.stdin)
        self.stdout = cast("BinaryIO | None", popen.stdout if source is not popen.stdout else None)
        self._popen = popen
        self._status: int | None = None
        self._sink = sink
        self._lock = threading.RLock()
        self._failure: BaseException | None = None
        self._pidfd = -1
        self._drainer: threading.Thread | None = None
        try:
            _keeper.adopt(self)
            self._pidfd = os.pidfd_open(self.pid)
            if source is not None:
                self._drainer = threading.Thread(
                    target=self._drain, args=(source, on_line), name=f"drain {name}", daemon=True
                )
                self._drainer.start()
        except BaseException:
            self.kill()
            raise

    @classmethod
    def spawn(
        cls,
        argv: Sequence[str | Path],
        *,
        name: str,
        log: Path | None = None,
        cwd: Path | str | None = None,
        env: Mapping[str, str] | None = None,
        stdin: int | None = DEVNULL,
        stdout: int | None = None,
        on_line: Callable[[str], None] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> Child:
        """Start a program in a session and process group of its own.

        Without `stdout` both outputs go to the log; with `PIPE` the caller reads the standard
        output from `stdout`, and the log holds the standard error.

        :param name: what the messages call it.
        :param log: appended to; without one the output is kept in memory, for `tail`.
        :param env: its whole environment, where it is not to be ours.
        :param on_line: called with each line of the output, in a thread of ours.
        :param pass_fds: descriptors that it inherits, under their numbers.
        :raises ConfigError: there is no such program.
        """
        words = tuple(os.fspath(word) for word in argv)
        environment = dict(os.environ if env is None else env)
        program = shutil.which(words[0], path=environment.get("PATH", os.defpath))
        if program is None:
            raise ConfigError(f"cannot start {name}: there is no program {words[0]!r}")
        environment[_TAG] = _keeper.tag

        def start() -> Child:
            sink = _open_sink(log, name)
            output: int = sink
            error: int = subprocess.STDOUT
            if stdout is not None:
                output, error = stdout, sink if on_line is None else PIPE
            elif on_line is not None:
                output = PIPE
            try:
                popen = subprocess.Popen(
                    # setpriv(1) asks for the signal between fork and exec, which Python can only
                    # do by a `preexec_fn`: unsafe with threads, and a slow fork.
                    [*_setpriv(), program, *words[1:]],
                    bufsize=0,
                    stdin=stdin,
                    stdout=output,
                    stderr=error,
                    cwd=cwd,
                    env=environment,
                    start_new_session=True,
                    pass_fds=pass_fds,
                )
            except BaseException:
                os.close(sink)
                raise
            source = None
            if on_line is not None:
                source = popen.stdout if stdout is None else popen.stderr
            return cls(
                popen, argv=words, name=name, log=log, sink=sink, source=source, on_line=on_line
            )

        try:
            return _keeper.start(start)
        except OSError as error:
            raise KgdbError(f"cannot start {name} ({shlex.join(words)}): {error}") from error

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        state = "running" if self._status is None else f"status {self._status}"
        return f"<Child {self.name!r} pid={self.pid} {state}>"

    def poll(self) -> int | None:
        """Return the exit status (a signal as a negative number), None while it runs."""
        return self._status if self._ended(0) else None

    def wait(self, timeout: float) -> int:
        """Wait for the end and return the exit status.

        :param timeout: seconds.
        :raises TimeoutError: it was still running; it is left so.
        """
        if not self._ended(timeout):
            raise TimeoutError(
                f"{self.name} was still running after {timeout:g} s: {shlex.join(self.argv)}"
                + _quoted(self.tail()),
                log=self.log,
            )
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        assert self._status is not None
        return self._status

    def stop(self, grace: float = 2.0) -> int:
        """End the whole group, by SIGTERM and, `grace` seconds later, by SIGKILL.

        :raises TimeoutError: it outlived even that, stuck in the kernel.
        """
        if not self._ended(0):
            # A child that is stopped (SIGSTOP, SIGTTOU) sees no SIGTERM before SIGCONT.
            self._signal(signal.SIGTERM)
            self._signal(signal.SIGCONT)
            try:
                self._ended(grace)
            except BaseException:
                self.kill()  # the second Ctrl-C: no more patience
                raise
        return self.kill()

    def kill(self) -> int:
        """End the whole group by SIGKILL.

        :raises TimeoutError: it outlived that, stuck in the kernel.
        """
        self._signal(signal.SIGKILL)
        if not self._ended(_DEATH_SECONDS):
            raise TimeoutError(
                f"{self.name} (pid {self.pid}) did not die within {_DEATH_SECONDS:g} s of SIGKILL"
            )
        for stream in (self.stdin, self.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        assert self._status is not None
        return self._status

    def tail(self, lines: int = 20) -> str:
        """Return the last lines of its output (of its standard error, where `stdout` is read)."""
        with self._lock:
            if self._sink < 0:
                return ""
            size = os.fstat(self._sink).st_size
            text = os.pread(self._sink, _TAIL_BYTES, max(0, size - _TAIL_BYTES))
        return "\n".join(text.decode(errors="replace").splitlines()[-lines:])

    def output(self, start: int = 0) -> str:
        """Return all of the log from an offset on."""
        parts = []
        while part := os.pread(self._sink, 1 << 20, start):
            parts.append(part)
            start += len(part)
        return b"".join(parts).decode(errors="replace")

    def __del__(self) -> None:
        # Only reached after the end: until then the keeper holds us.
        if getattr(self, "_sink", -1) >= 0:
            os.close(self._sink)
            self._sink = -1

    def _signal(self, number: int) -> None:
        """Signal the group, which is sure to be ours for as long as its leader is not reaped."""
        with self._lock:
            if self._status is None:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self.pgid, number)

    def _ended(self, timeout: float) -> bool:
        """Whether it ended within so many seconds; if so, reap it."""
        if self._status is not None:
            return True
        poller = select.poll()
        try:
            poller.register(self._pidfd, select.POLLIN)
            if not poller.poll(math.ceil(max(0.0, timeout) * 1000)):
                return False
        except OSError:
            if self._status is None:  # not just reaped by another thread
                raise
        self._reap()
        return True

    def _reap(self) -> None:
        with self._lock:
            if self._status is not None:
                return
            # In this order: the leader, dead but not yet reaped, keeps the number of the group
            # from being given to a stranger while its last members are killed.
            self._signal(signal.SIGKILL)
            _keeper.release(self)
            self._status = self._popen.wait()
            os.close(self._pidfd)
            self._pidfd = -1
        if self._drainer is not None and self._drainer is not threading.current_thread():
            self._drainer.join(_DRAIN_SECONDS)

    def _drain(self, source: IO[bytes], on_line: Callable[[str], None] | None) -> None:
        rest = b""
        with source:
            while True:
                try:
                    data = os.read(source.fileno(), 1 << 16)
                except OSError:
                    data = b""
                # A full disk must not stop the child: what counts is that somebody reads.
                with contextlib.suppress(OSError):
                    os.write(self._sink, data)
                *lines, rest = (rest + data).split(b"\n")
                if rest and (not data or len(rest) > _LINE_BYTES):
                    lines.append(rest)
                    rest = b""
                for line in lines:
                    if on_line is None:
                        break
                    try:
                        on_line(line.decode(errors="replace").rstrip("\r"))
                    except BaseException as error:
                        self._failure = error  # `wait` raises it, where somebody can see it
                        on_line = None
                if not data:
                    return


def run(
    argv: Sequence[str | Path],
    *,
    name: str | None = None,
    timeout: float,
    cwd: Path | str | None = None,
    env: Mapping[str, str] | None = None,
    input: bytes | None = None,
    log: Path | None = None,
    check: bool = True,
    on_line: Callable[[str], None] | None = None,
) -> Completed:
    """Run a program to its end and return its status and output.

    :param timeout: seconds; after them it is stopped.
    :param log: the output is appended to this file, too.
    :param check: whether a status other than 0 is an error.
    :raises CommandFailed: the status was not 0.
    :raises TimeoutError: it was still running after `timeout`.
    """
    words = tuple(os.fspath(word) for word in argv)
    name = name or Path(words[0]).name
    start = log.stat().st_size if log is not None and log.exists() else 0
    with _as_stdin(input) as stdin:
        child = Child.spawn(
            words, name=name, log=log, cwd=cwd, env=env, stdin=stdin, on_line=on_line
        )
    with child:
        status = child.wait(timeout)
        completed = Completed(words, status, child.output(start))
        if check and status != 0:
            raise CommandFailed(
                f"{name} {_ending(status)}: {shlex.join(words)}" + _quoted(child.tail()),
                argv=words,
                status=status,
                output=completed.output,
                log=log,
            )
    return completed


class _Start:
    """One child that somebody waits for."""

    def __init__(self, start: Callable[[], Child]) -> None:
        self.start = start
        self.done = threading.Event()
        self.lock = threading.Lock()
        self.abandoned = False
        self.child: Child | None = None
        self.error: BaseException | None = None


class _Keeper:
    """The thread that starts the children, the guardian that ends them, and which there are.

    All children are started by one thread that lives as long as the process does. PDEATHSIG
    comes when the *thread* that started a child dies, so that a child started by a short-lived
    one would be killed for no reason. And no KeyboardInterrupt is ever raised in it, between the
    fork and the moment at which somebody knows of the child.
    """

    def __init__(self) -> None:
        self.tag = f"{os.getpid()}-{os.urandom(8).hex()}"
        self._lock = threading.RLock()
        self._live: dict[int, Child] = {}
        self._guardian: subprocess.Popen[bytes] | None = None
        self._starts: queue.SimpleQueue[_Start] | None = None

    def start(self, start: Callable[[], Child]) -> Child:
        """Run `start` in the starting thread and return what it returns."""
        with self._lock:
            if self._starts is None:
                self._starts = queue.SimpleQueue()
                threading.Thread(
                    target=self._serve, args=(self._starts,), name="start children", daemon=True
                ).start()
        order = _Start(start)
        try:
            self._starts.put(order)
            order.done.wait()
        except BaseException:
            with order.lock:
                order.abandoned = True
                child = order.child
            if child is not None:
                child.kill()
            raise
        if order.error is not None:
            raise order.error
        assert order.child is not None
        return order.child

    @staticmethod
    def _serve(starts: queue.SimpleQueue[_Start]) -> None:
        while True:
            order = starts.get()
            child = None
            try:
                if not order.abandoned:
                    child = order.start()
            except BaseException as error:
                order.error = error
            with order.lock:
                order.child = child
                unwanted = order.abandoned
            if unwanted and child is not None:
                child.kill()
            order.done.set()
            del order, child  # or the last child would be held until the next is started

    def adopt(self, child: Child) -> None:
        """Take a child on: it will not outlive us."""
        with self._lock:
            self._live[child.pid] = child
            self._tell("+", child.pgid)

    def release(self, child: Child) -> None:
        """Forget a child, dead but not yet reaped."""
        with self._lock:
            if self._live.pop(child.pid, None) is not None:
                self._tell("-", child.pgid)

    def end_all(self) -> None:
        """Kill what is left when the interpreter ends."""
        for child in list(self._live.values()):
            with contextlib.suppress(KgdbError, OSError):
                child.kill()

    def forget(self) -> None:
        """Start afresh in a forked process: the children are its parent's, not its own."""
        guardian = self._guardian
        if guardian is not None and guardian.stdin is not None:
            # A copy of the pipe, left open here, would keep the guardian from seeing the end.
            guardian.stdin.close()
            guardian.returncode = 0
        self.__init__()  # type: ignore[misc]

    def _tell(self, sign: str, group: int) -> None:
        word = f"{sign} {group}\n".encode()
        try:
            self._pipe().write(word)
        except BrokenPipeError:  # somebody killed it: a new one, told of all
            self._guardian = None
            pipe = self._pipe()
            for child in self._live.values():
                pipe.write(f"+ {child.pgid}\n".encode())

    def _pipe(self) -> IO[bytes]:
        if self._guardian is None:
            self._guardian = subprocess.Popen(
                ["/bin/sh", "-c", _GUARDIAN, "pytest-kgdb-guardian", f"{_TAG}={self.tag}"],
                bufsize=0,
                stdin=PIPE,
                stdout=DEVNULL,
                stderr=DEVNULL,
                cwd="/",
                env={"PATH": os.defpath},  # without the tag of a pytest around this one
                start_new_session=True,
            )
        assert self._guardian.stdin is not None
        return self._guardian.stdin


_keeper: Final = _Keeper()
atexit.register(_keeper.end_all)
os.register_at_fork(after_in_child=_keeper.forget)


def _setpriv() -> list[str]:
    found = shutil.which("setpriv")  # util-linux; without it there is still the guardian
    return [found, "--pdeathsig", "KILL", "--"] if found else []


def _open_sink(log: Path | None, name: str) -> int:
    if log is None:
        return os.memfd_create(f"pytest-kgdb {name}"[:200], os.MFD_CLOEXEC)
    return os.open(log, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)


@contextlib.contextmanager
def _as_stdin(data: bytes | None) -> Iterator[int]:
    """A file with the input: a pipe would have to be fed while the output is read."""
    if data is None:
        yield DEVNULL
        return
    descriptor = os.memfd_create("pytest-kgdb input", os.MFD_CLOEXEC)
    with os.fdopen(descriptor, "r+b") as file:
        file.write(data)
        file.seek(0)
        yield descriptor


def _ending(status: int) -> str:
    if status >= 0:
        return f"failed with status {status}"
    with contextlib.suppress(ValueError):
        return f"was ended by {signal.Signals(-status).name}"
    return f"was ended by signal {-status}"


def _quoted(tail: str) -> str:
    return "\n" + "\n".join(f"  {line}" for line in tail.splitlines()) if tail else ""
