"""A child process, from its start to its end."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import resource
import select
import shlex
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, BinaryIO, Final, cast

from ..errors import ConfigError, KgdbError, TimeoutError
from ._reaper import REAPER, TAG

DEVNULL: Final = subprocess.DEVNULL
PIPE: Final = subprocess.PIPE

_TAIL_BYTES: Final = 64 * 1024  # how much of the output's end `tail` reads
_LINE_BYTES: Final = 64 * 1024  # a longer line is passed on in pieces
_DEATH_SECONDS: Final = 10.0  # from SIGKILL to the exit: longer means stuck in the kernel
_DRAIN_SECONDS: Final = 2.0  # from the exit to the end of the output
_POLL_SECONDS: Final = 0.001
_LONG_SECONDS: Final = 1e6  # poll(2) takes its milliseconds as an int


class Child:
    """A running program, and the process group that it leads."""

    def __init__(
        self,
        popen: subprocess.Popen[bytes],
        pidfd: int,
        *,
        argv: tuple[str, ...],
        name: str,
        log: Path | None,
        sink: int,
        source: IO[bytes] | None,
        on_line: Callable[[str], None] | None,
    ) -> None:
        self.argv = argv
        """The command line, as given."""
        self.name = name
        """Its name in messages."""
        self.pid = popen.pid
        self.pgid = popen.pid
        self.log = log
        """The file that its output is appended to; None if it is kept in memory."""
        self.stdin = cast("BinaryIO | None", popen.stdin)
        """Unbuffered; the caller writes to it, and closes it at the end of the input."""
        self.stdout = cast("BinaryIO | None", popen.stdout if source is not popen.stdout else None)
        """Unbuffered; the caller reads it. Stopping the child does not close it."""
        self._popen = popen
        self._status: int | None = None
        self._sink = sink
        self._lock = threading.RLock()
        self._failure: BaseException | None = None
        self._pidfd = pidfd
        self._drainer: threading.Thread | None = None
        try:
            REAPER.register(self)
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
        memory: int | None = None,
    ) -> Child:
        """Start a program in a session and process group of its own.

        By default, standard output and standard error both go to the log. With `stdout=PIPE` the
        caller reads the standard output from `stdout`, and only the standard error is logged.

        :param name: its name in messages.
        :param log: the file to append to; by default the output is kept in memory, for `tail`.
        :param env: its whole environment; ours by default.
        :param on_line: called with each line of the output, in another thread.
        :param pass_fds: descriptors that it inherits, with their numbers.
        :param memory: bytes of address space that it and its children may each have (RLIMIT_AS).
        :raises ConfigError: there is no such program.
        :raises KgdbError: it could not be started.
        """
        words = tuple(os.fspath(word) for word in argv)
        environment = dict(os.environ if env is None else env)
        program = _find(words[0], cwd, environment)
        if program is None:
            raise ConfigError(f"cannot start {name}: there is no program {words[0]!r}")
        environment[TAG] = REAPER.tag
        drained = on_line is not None

        def start() -> Child:
            sink = _open_sink(log, name)
            try:
                popen, pidfd = _popen(
                    [program, *words[1:]],
                    stdin=stdin,
                    stdout=stdout if stdout is not None else PIPE if drained else sink,
                    stderr=subprocess.STDOUT if stdout is None else PIPE if drained else sink,
                    cwd=cwd,
                    env=environment,
                    pass_fds=pass_fds,
                )
            except BaseException:
                os.close(sink)
                raise
            if memory is not None:
                _limit_memory(popen.pid, memory)
            source = None
            if drained:
                source = popen.stdout if stdout is None else popen.stderr
            return cls(
                popen,
                pidfd,
                argv=words,
                name=name,
                log=log,
                sink=sink,
                source=source,
                on_line=on_line,
            )

        try:
            return REAPER.start(start)
        except KgdbError:  # our own TimeoutError is an OSError, too
            raise
        except OSError as error:
            raise KgdbError(f"cannot start {name} ({shlex.join(words)}): {error}") from error

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        state = "running" if self._status is None else f"status {self._status}"
        return f"<Child {self.name!r} pid={self.pid} {state}>"

    def poll(self) -> int | None:
        """Return the exit status (minus the signal that ended it), or None while it runs."""
        return self._status if self._ended(0) else None

    def wait(self, timeout: float) -> int:
        """Wait until it ends and return the exit status.

        :param timeout: seconds.
        :raises TimeoutError: it still runs; it is not stopped.
        """
        if not self._ended(timeout):
            raise TimeoutError(
                f"{self.name} was still running after {timeout:g} s: {shlex.join(self.argv)}"
                + quoted(self.tail()),
                log=self.log,
            )
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        assert self._status is not None
        return self._status

    def stop(self, grace: float = 2.0) -> int:
        """Send the process group SIGTERM and, `grace` seconds later, SIGKILL.

        :raises TimeoutError: it survived SIGKILL for 10 seconds, stuck in the kernel.
        """
        try:
            if not self._ended(0):
                # A stopped child (SIGSTOP, SIGTTOU) handles SIGTERM only after SIGCONT.
                self._signal(signal.SIGTERM)
                self._signal(signal.SIGCONT)
                self._ended(grace)
        finally:  # a second Ctrl-C ends the grace period
            status = self.kill()
        return status

    def kill(self) -> int:
        """Send the process group SIGKILL.

        :raises TimeoutError: it survived for 10 seconds, stuck in the kernel.
        """
        self._signal(signal.SIGKILL)
        if not self._ended(_DEATH_SECONDS):
            raise TimeoutError(
                f"{self.name} (pid {self.pid}) did not die within {_DEATH_SECONDS:g} s of SIGKILL"
            )
        assert self._status is not None
        return self._status

    def tail(self, lines: int = 20) -> str:
        """Return the last lines of the log, which lacks standard output if `stdout` is PIPE."""
        size = os.fstat(self._sink).st_size
        text = os.pread(self._sink, _TAIL_BYTES, max(0, size - _TAIL_BYTES))
        return "\n".join(text.decode(errors="replace").splitlines()[-lines:])

    def output(self, start: int = 0) -> str:
        """Return the log from a byte offset to its end."""
        parts = []
        while part := os.pread(self._sink, 1 << 20, start):
            parts.append(part)
            start += len(part)
        return b"".join(parts).decode(errors="replace")

    def __del__(self) -> None:
        # Not earlier: another thread may be using them, and a closed descriptor's number is reused.
        # While the child runs, the reaper has a reference to this object.
        for stream in (self.stdin, self.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        os.close(self._pidfd)
        os.close(self._sink)

    def _signal(self, number: int) -> None:
        """Signal the group; its number cannot be reused while its leader is not reaped."""
        with self._lock:
            if self._status is None:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self.pgid, number)

    def _ended(self, timeout: float) -> bool:
        """Wait for its end and reap it; return whether it ended."""
        if self._status is not None:
            return True
        poller = select.poll()
        poller.register(self._pidfd, select.POLLIN)
        if not poller.poll(math.ceil(min(max(0.0, timeout), _LONG_SECONDS) * 1000)):
            return False
        self._reap()
        return True

    def _reap(self) -> None:
        with self._lock:
            if self._status is not None:
                return
            # In this order: until its leader is reaped, the group's number cannot be reused, so
            # SIGKILL reaches only what is left of this group.
            self._signal(signal.SIGKILL)
            REAPER.unregister(self)
            self._status = self._popen.wait()
            _await_group(self.pgid)
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
                # Keep reading when the disk is full, or the child would block on its output.
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
                        self._failure = error  # raised by `wait`
                        on_line = None
                if not data:
                    return


def _await_group(pgid: int) -> None:
    """Wait, 10 seconds at most, until nothing runs in a process group that was sent SIGKILL.

    Its leader can be gone before a compiler's memory is: that process still has its files open.
    """
    deadline = time.monotonic() + _DEATH_SECONDS
    while _group_exists(pgid) and any(_runs_in(path, pgid) for path in _processes()):
        if time.monotonic() > deadline:  # stuck in the kernel, and cannot run any more
            return
        time.sleep(_POLL_SECONDS)


def _group_exists(pgid: int) -> bool:
    # One system call in the usual case. What init has not reaped yet counts as existing here.
    try:
        os.killpg(pgid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _processes() -> Iterator[Path]:
    return Path("/proc").glob("[0-9]*/stat")


def _runs_in(stat: Path, pgid: int) -> bool:
    """Whether this process belongs to the group and has a thread that has not exited."""
    try:
        # proc(5): the fields after the command's name, which may contain anything.
        fields = stat.read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return False
    state, process_group, threads = fields[0], int(fields[2]), int(fields[17])
    return process_group == pgid and not (state in "ZX" and threads <= 1)


def quoted(tail: str) -> str:
    """Return output for the end of a message: indented, on lines of its own."""
    return "\n" + "\n".join(f"  {line}" for line in tail.splitlines()) if tail else ""


def _find(program: str, cwd: Path | str | None, environment: Mapping[str, str]) -> str | None:
    if "/" in program:  # relative to the child's working directory, as in execve(2)
        return shutil.which(str(Path(cwd or ".", program).absolute()))
    path = shutil.which(program, path=environment.get("PATH", os.defpath))
    return path and str(Path(path).absolute())


@functools.cache
def _setpriv() -> list[str]:
    # setpriv(1), of util-linux, sets PDEATHSIG between fork and exec. Python can do that only in a
    # `preexec_fn`, which is unsafe with threads and makes the fork slow. Without setpriv the reaper
    # alone sees to it.
    path = shutil.which("setpriv")
    return [path, "--pdeathsig", "KILL", "--"] if path else []


def _popen(
    argv: Sequence[str],
    *,
    stdin: int | None,
    stdout: int,
    stderr: int,
    cwd: Path | str | None,
    env: Mapping[str, str],
    pass_fds: Sequence[int],
) -> tuple[subprocess.Popen[bytes], int]:
    popen = subprocess.Popen(
        [*_setpriv(), *argv],
        bufsize=0,
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        cwd=cwd,
        env=env,
        start_new_session=True,
        pass_fds=pass_fds,
    )
    try:
        return popen, os.pidfd_open(popen.pid)  # Linux 5.3
    except BaseException:
        popen.kill()
        popen.wait()
        raise


def _limit_memory(pid: int, size: int) -> None:
    # Not before the exec, as it would hold for us, too; not by a `preexec_fn` (see above).
    with contextlib.suppress(OSError):  # it has ended
        _, hard = resource.prlimit(pid, resource.RLIMIT_AS)
        if hard != resource.RLIM_INFINITY:
            size = min(size, hard)
        resource.prlimit(pid, resource.RLIMIT_AS, (size, size))


def _open_sink(log: Path | None, name: str) -> int:
    if log is None:
        return os.memfd_create(f"pytest-kgdb {name}"[:200], os.MFD_CLOEXEC)
    return os.open(log, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
