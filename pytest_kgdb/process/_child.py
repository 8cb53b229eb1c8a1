"""A child, from its start to its end."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import select
import shlex
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, BinaryIO, Final, cast

from ..errors import ConfigError, KgdbError, TimeoutError
from ._keeper import KEEPER, TAG

DEVNULL: Final = subprocess.DEVNULL
PIPE: Final = subprocess.PIPE

_TAIL_BYTES: Final = 64 * 1024  # as much of the output as `tail` looks at
_LINE_BYTES: Final = 64 * 1024  # a longer line is handed on in pieces
_DEATH_SECONDS: Final = 10.0  # from SIGKILL to the exit: longer means stuck in the kernel
_DRAIN_SECONDS: Final = 2.0  # from the exit to the end of the output
_LONG_SECONDS: Final = 1e6  # poll(2) takes no more milliseconds than an int holds


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
        """As asked for."""
        self.name = name
        """What the messages call it."""
        self.pid = popen.pid
        self.pgid = popen.pid
        self.log = log
        """The file that its output goes to."""
        self.stdin = cast("BinaryIO | None", popen.stdin)
        """Unbuffered; left to its one writer, who closes it to say that there is no more."""
        self.stdout = cast("BinaryIO | None", popen.stdout if source is not popen.stdout else None)
        """Unbuffered; left to its one reader, also when the child is stopped."""
        self._popen = popen
        self._status: int | None = None
        self._sink = sink
        self._lock = threading.RLock()
        self._failure: BaseException | None = None
        self._pidfd = pidfd
        self._drainer: threading.Thread | None = None
        try:
            KEEPER.adopt(self)
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
        program = _find(words[0], cwd, environment)
        if program is None:
            raise ConfigError(f"cannot start {name}: there is no program {words[0]!r}")
        environment[TAG] = KEEPER.tag
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
            return KEEPER.start(start)
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
                + quoted(self.tail()),
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
        try:
            if not self._ended(0):
                # A child that is stopped (SIGSTOP, SIGTTOU) sees no SIGTERM before SIGCONT.
                self._signal(signal.SIGTERM)
                self._signal(signal.SIGCONT)
                self._ended(grace)
        finally:  # also for a second Ctrl-C: no more patience
            status = self.kill()
        return status

    def kill(self) -> int:
        """End the whole group by SIGKILL.

        :raises TimeoutError: it outlived that, stuck in the kernel.
        """
        self._signal(signal.SIGKILL)
        if not self._ended(_DEATH_SECONDS):
            raise TimeoutError(
                f"{self.name} (pid {self.pid}) did not die within {_DEATH_SECONDS:g} s of SIGKILL"
            )
        assert self._status is not None
        return self._status

    def tail(self, lines: int = 20) -> str:
        """Return the last lines of its output (of its standard error, where `stdout` is read)."""
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
        # Not before: another thread may be using them, and a closed number is soon somebody
        # else's file. Never while it runs: until its end the keeper holds us.
        for stream in (self.stdin, self.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        os.close(self._pidfd)
        os.close(self._sink)

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
        poller.register(self._pidfd, select.POLLIN)
        if not poller.poll(math.ceil(min(max(0.0, timeout), _LONG_SECONDS) * 1000)):
            return False
        self._reap()
        return True

    def _reap(self) -> None:
        with self._lock:
            if self._status is not None:
                return
            # In this order: the leader, dead but not yet reaped, keeps the number of the group
            # from being given to a stranger while its last members are killed.
            self._signal(signal.SIGKILL)
            KEEPER.release(self)
            self._status = self._popen.wait()
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


def quoted(tail: str) -> str:
    """Return output as the end of a message: indented, on lines of its own."""
    return "\n" + "\n".join(f"  {line}" for line in tail.splitlines()) if tail else ""


def _find(program: str, cwd: Path | str | None, environment: Mapping[str, str]) -> str | None:
    if "/" in program:  # relative to where it is to run, as execve(2) would have it
        return shutil.which(str(Path(cwd or ".", program).absolute()))
    found = shutil.which(program, path=environment.get("PATH", os.defpath))
    return found and str(Path(found).absolute())


@functools.cache
def _setpriv() -> list[str]:
    # setpriv(1), of util-linux, asks for the signal between fork and exec, which Python can only
    # do by a `preexec_fn`: unsafe with threads, and a slow fork. Without it there is the guardian.
    found = shutil.which("setpriv")
    return [found, "--pdeathsig", "KILL", "--"] if found else []


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


def _open_sink(log: Path | None, name: str) -> int:
    if log is None:
        return os.memfd_create(f"pytest-kgdb {name}"[:200], os.MFD_CLOEXEC)
    return os.open(log, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
