"""gdb, as a session starts it."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ..errors import ConfigError
from ..mi import Gdb
from ..process import run, which
from ..target import agent_path

if TYPE_CHECKING:
    from ..kernel import Kernel

__all__ = ["command_line", "start_gdb", "version"]

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
    # Otherwise each stop takes every breakpoint out, and each resume plants it again.
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
)


@cache
def version() -> str:
    """Return gdb's version.

    :raises ConfigError: there is no gdb, or it is too old.
    """
    gdb = which("gdb", package="gdb")
    first = run([gdb, "-nx", "--version"], timeout=30).output.partition("\n")[0]
    found = re.search(r"(\d+)\.(\d+)[\d.]*\s*$", first) or re.search(r"(\d+)\.(\d+)", first)
    if found is None:
        raise ConfigError(f"{gdb} does not tell its version: {first!r}", hint="install GNU gdb")
    if (int(found[1]), int(found[2])) < _MINIMUM:
        raise ConfigError(
            f"{gdb} is version {found[0].strip()}; pytest-kgdb needs "
            f"{'.'.join(map(str, _MINIMUM))} or newer",
            hint="install a newer gdb; Debian 12 has 13.1",
        )
    return found[0].strip()


def command_line(kernel: Kernel, index_cache: Path) -> list[str]:
    """Return gdb's command line for a kernel."""
    argv = [which("gdb", package="gdb"), "-nx", "-q", "--interpreter=mi3"]
    settings = [
        *_SETTINGS,
        f"set index-cache directory {index_cache}",
        "set index-cache enabled on",
    ]
    if kernel.debug_source and kernel.source and kernel.debug_source != kernel.source:
        settings.append(f"set substitute-path {kernel.debug_source} {kernel.source}")
    for each in settings:
        argv += ["-iex", each]
    return [*argv, "-x", agent_path(), str(kernel.vmlinux)]


def start_gdb(
    kernel: Kernel,
    *,
    index_cache: Path,
    transcript: Path,
    timeout: float,
    on_event: Callable[[], None],
) -> Gdb:
    """Start gdb on a kernel; it reads the symbols while the machine boots."""
    index_cache.mkdir(parents=True, exist_ok=True)
    return Gdb(
        command_line(kernel, index_cache),
        transcript=transcript,
        timeout=timeout,
        on_event=on_event,
    )
