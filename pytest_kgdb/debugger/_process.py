"""gdb as a process: its version, its command line, its pipes."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Final, Protocol

from ..errors import ConfigError, KgdbError
from ..process import PIPE, Child, run, which
from ._memory_limit import memory_limit
from ._symbol_index import index_settings
from ._template import GdbTemplate

__all__ = [
    "GdbProcess",
    "agent_paths",
    "command_line",
    "gdb_version",
    "launch_gdb",
    "launch_template",
]

# 12 brought gdb.MICommand, and the present spelling of the index cache's settings (gdb/NEWS).
_MINIMUM: Final = (12, 0)

_SETTINGS: Final = (
    # A kernel tree's own scripts are code of whoever made the tree.
    "set auto-load off",
    "set debuginfod enabled off",
    "set pagination off",
    "set confirm off",
    "set width 0",
    "set height 0",
    "set history save off",
    "set style enabled off",
    # Otherwise gdb asks whether one is to wait that has no location, and goes on without an answer.
    "set breakpoint pending off",
    # Otherwise each stop removes every breakpoint, and each resume inserts it again.
    "set breakpoint always-inserted on",
    # A stop's record would hold all arguments, each a read from the kernel.
    "set print frame-arguments none",
    "set print thread-events off",
    "set mi-async on",
    # Past a system call's entry the stack is the user's.
    "set backtrace past-entry off",
    "set remotetimeout 30",
    "set tcp auto-retry off",
    "set startup-with-shell off",
    # Otherwise a file of the same name in the directory that pytest runs in would be shown.
    "set directories $cdir",
    # A function that is called in a stopped kernel may sleep, or take a lock that is held.
    "set may-call-functions off",
)


class SourcePlace(Protocol):
    """Where gdb is to read a kernel's source from."""

    @property
    def directory(self) -> Path:
        """The directory, which need not be there yet."""


class DebugFiles(Protocol):
    """What gdb must know of a kernel."""

    @property
    def vmlinux(self) -> Path:
        """The kernel with its symbols and debug info."""

    @property
    def sources(self) -> SourcePlace:
        """The files that it was compiled from."""

    @property
    def debug_source(self) -> Path | None:
        """Where the debug info says that it is."""

    @property
    def source_prefixes(self) -> tuple[str, ...]:
        """Where it says, further, that the source is."""


# Run by gdb in this order, in one namespace.
_AGENT: Final = ("gdb_agent.py", "gdb_prompt.py", "gdb_template.py")


def agent_paths() -> list[str]:
    """Return the paths of the scripts that run inside gdb."""
    data = resources.files("pytest_kgdb") / "data"
    return [str(data / name) for name in _AGENT]


@cache
def gdb_version() -> str:
    """Return gdb's version.

    :raises ConfigError: there is no gdb, or it is too old.
    """
    gdb = which("gdb", package="gdb")
    first = run([gdb, "-nx", "--version"], timeout=30).output.partition("\n")[0]
    match = re.search(r"(\d+)\.(\d+)[\d.]*\s*$", first) or re.search(r"(\d+)\.(\d+)", first)
    if match is None:
        raise ConfigError(f"{gdb} does not tell its version: {first!r}", hint="install GNU gdb")
    if (int(match[1]), int(match[2])) < _MINIMUM:
        raise ConfigError(
            f"{gdb} is version {match[0].strip()}; pytest-kgdb needs "
            f"{'.'.join(map(str, _MINIMUM))} or newer",
            hint="install a newer gdb; Debian 12 has 13.1",
        )
    return match[0].strip()


def command_line(kernel: DebugFiles, index_cache: Path) -> list[str]:
    """Return gdb's command line for a kernel.

    :param index_cache: directory for gdb's index cache (gdb manual, "Index Files").
    """
    argv = [which("gdb", package="gdb"), "-nx", "-q", "--interpreter=mi3"]
    settings = [
        *_SETTINGS,
        *index_settings(index_cache),
        # gdb's Python keeps no compiled modules otherwise (gdb manual, "Python Commands"), and
        # would compile the agent's at each start.
        "python import sys; sys.dont_write_bytecode = False",
    ]
    directory = kernel.sources.directory
    for prefix in (kernel.debug_source, *kernel.source_prefixes):
        # What is there now may be of another revision.
        if prefix and Path(prefix) != directory:
            settings.append(f'set substitute-path "{prefix}" "{directory}"')
    for setting in settings:
        argv += ["-iex", setting]
    for script in agent_paths():
        argv += ["-x", script]
    return [*argv, str(kernel.vmlinux)]


class GdbProcess:
    """A gdb child and its pipes: the :class:`MiTransport` of a real gdb.

    :param log: file that gets gdb's standard error.
    """

    def __init__(self, argv: Sequence[str], *, log: Path) -> None:
        self._child = Child.spawn(
            argv, name="gdb", log=log, stdin=PIPE, stdout=PIPE, memory=memory_limit()
        )
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._stdin, self._stdout = self._child.stdin, self._child.stdout

    def send(self, line: str) -> None:
        """Write one line; raises OSError or ValueError if gdb is gone."""
        self._stdin.write(f"{line}\n".encode())

    def read(self) -> bytes:
        """Wait for output and return it; `b""` once gdb has closed its output."""
        data = self._stdout.read(65536)
        if not data:
            self._stdout.close()  # by its one reader, which has seen the end
        return data

    def fate(self) -> str:
        """Return how gdb ended, waiting at most 1 s for its end."""
        with contextlib.suppress(KgdbError):
            self._child.wait(1.0)
        status = self._child.poll()
        if status is None:
            return "its output ended"
        return f"killed by signal {-status}" if status < 0 else f"exit status {status}"

    def last_words(self) -> str:
        """Return the last 5 lines of gdb's standard error."""
        return self._child.tail(5)

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._child.pid

    def __enter__(self) -> GdbProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End gdb; always, and within seconds.

        It is killed before it can see the end of its input, at which it would kill its target.
        """
        self._child.kill()
        with contextlib.suppress(OSError, ValueError):
            self._stdin.close()

    def close_unread(self) -> None:
        """End gdb before anybody has begun to read its output."""
        self.close()
        self._stdout.close()


def launch_template(
    kernel: DebugFiles, *, index_cache: Path, directory: Path, log: Path
) -> GdbTemplate:
    """Start a gdb on a kernel that others are forked from, without waiting for it.

    :param directory: for its socket.
    """
    return GdbTemplate(command_line(kernel, index_cache), directory / "gdb-template", log=log)


def launch_gdb(kernel: DebugFiles, *, index_cache: Path, log: Path) -> GdbProcess:
    """Start gdb on a kernel; it reads the symbols while the machine starts.

    :param index_cache: directory for gdb's index cache.
    :param log: file that gets gdb's standard error.
    """
    index_cache.mkdir(parents=True, exist_ok=True)
    return GdbProcess(command_line(kernel, index_cache), log=log)
