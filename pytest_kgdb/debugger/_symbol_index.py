"""gdb's index of a kernel's symbols, made before a gdb on a machine needs it."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import Final, Protocol

from ..elf import ElfFile
from ..errors import KgdbError
from ..process import Child
from ._memory_limit import memory_limit

__all__ = ["SymbolIndex", "index_settings"]

# 5 s for a kernel as distributions ship them; without an index, gdb is slower, and works.
_SECONDS: Final = 60.0

_OWN: Final = frozenset({".gdb_index", ".debug_names"})


def index_settings(directory: Path) -> tuple[str, ...]:
    """Return the settings with which gdb keeps its indexes in a directory."""
    return f"set index-cache directory {directory}", "set index-cache enabled on"


class IndexedFiles(Protocol):
    """What an index is made of."""

    @property
    def vmlinux(self) -> Path:
        """The kernel with its symbols and debug info."""

    @property
    def build_id(self) -> str:
        """Its build id, in hexadecimal digits: the name of the index."""


class SymbolIndex:
    """The index of one kernel in gdb's index cache (gdb manual, "Index Files").

    gdb writes it after it has read all of the debug info. The gdb that has just done so does not
    use it, and is slow: gdb 13 takes 20 s for the first structure of Debian's cloud kernel, and
    0.4 s with an index, which it takes 5 s to make.

    :param directory: gdb's index cache.
    """

    def __init__(self, kernel: IndexedFiles, directory: Path) -> None:
        self._vmlinux = kernel.vmlinux
        self._build_id = kernel.build_id
        self._path = directory / f"{kernel.build_id}.gdb-index"
        self._tried = directory / f"{kernel.build_id}.tried"
        self._child: Child | None = None

    def begin(self) -> None:
        """Begin to make it, if there is none; errors are left to the gdb that is used."""
        if (
            not self._build_id
            or self._child is not None
            or self._path.exists()
            or self._tried.exists()
        ):
            return
        gdb = shutil.which("gdb")
        if gdb is None or self._has_its_own():
            return
        directory = self._path.parent
        argv = [gdb, "-nx", "-q", "-batch"]
        for setting in (
            "set auto-load off",
            "set debuginfod enabled off",
            *index_settings(directory),
        ):
            argv += ["-iex", setting]
        # Any name: gdb looks it up in all of the debug info.
        argv += ["-ex", "info line start_kernel", str(self._vmlinux)]
        with contextlib.suppress(KgdbError, OSError):
            directory.mkdir(parents=True, exist_ok=True)
            self._child = Child.spawn(argv, name="gdb", memory=memory_limit())

    def wait(self, timeout: float) -> None:
        """Wait for what `begin` has begun.

        :param timeout: seconds, after which gdb has to do without; a minute at the most.
        """
        child, self._child = self._child, None
        if child is None:
            return
        with contextlib.suppress(KgdbError, OSError), child:
            child.wait(min(timeout, _SECONDS))
        if not self._path.exists() and (timeout >= _SECONDS or child.poll() == 0):
            # gdb does not index everything (files that dwz has made small): once is enough.
            with contextlib.suppress(OSError):
                self._tried.touch()

    def _has_its_own(self) -> bool:
        """Whether the vmlinux has an index in it, as some distributions' have."""
        try:
            with ElfFile(self._vmlinux) as elf:
                return not _OWN.isdisjoint(elf.section_names)
        except (KgdbError, OSError):
            return True
