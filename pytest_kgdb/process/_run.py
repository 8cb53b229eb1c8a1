"""Commands that are run to completion."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import ConfigError, KgdbError
from ..host import install
from ._child import DEVNULL, Child, quoted


class CommandFailed(KgdbError):
    """A command ended with an exit status other than 0."""

    def __init__(self, message: str, *, status: int, output: str, log: Path | None) -> None:
        super().__init__(message, log=log)
        self.status = status
        self.output = output


@dataclass(frozen=True)
class Completed:
    """The result of a command."""

    status: int
    """The exit status; a negative number is the signal that ended it."""
    output: str
    """Standard output and standard error, in the order in which they were written."""


def system_path() -> str:
    """Return PATH with the directories of depmod and mke2fs, which may be on that of root only."""
    return os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"


def which(program: str, *, package: str, system: bool = False) -> str:
    """Return the absolute path of a program on PATH.

    :param package: the Debian package that has it, for the error's hint.
    :param system: whether to search `system_path()` instead.
    :raises ConfigError: it is not installed.
    """
    path = shutil.which(program, path=system_path() if system else None)
    if path is None:
        raise ConfigError(
            f"{program} is needed, and is not installed (or not on PATH)",
            hint=install(package),
        )
    return str(Path(path).absolute())


def program_key(path: Path) -> str:
    """Return what a fact about a program is remembered by: it is another if the file is."""
    stat = path.stat()
    return f"{path} {stat.st_size} {stat.st_mtime_ns}"


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
    """Run a program to completion and return its status and output.

    :param timeout: seconds; the program is stopped after them.
    :param log: a file to append the output to.
    :param check: whether a status other than 0 raises CommandFailed.
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
        completed = Completed(status, child.output(start))
        if check and status != 0:
            raise CommandFailed(
                f"{name} {_ending(status)}: {shlex.join(words)}" + quoted(child.tail()),
                status=status,
                output=completed.output,
                log=log,
            )
    return completed


@contextlib.contextmanager
def _as_stdin(data: bytes | None) -> Iterator[int]:
    """Yield a file with the input; a pipe would have to be written while the output is read."""
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
