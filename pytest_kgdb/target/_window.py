"""A file in the guest's memory that both sides can read and write."""

from __future__ import annotations

import contextlib
import itertools
from types import TracebackType
from typing import TYPE_CHECKING, Final

from ..errors import GuestCommandError, KgdbError, TimeoutError

if TYPE_CHECKING:
    from ._handle import Kgdb

__all__ = ["BLOCK", "MAX_BLOCKS", "Window"]

BLOCK: Final = 1 << 16
MAX_BLOCKS: Final = 128
_PAGE: Final = 4096

# Open before the process that keeps it open is there, which may not have run when we look.
_FD: Final = 9

_NO_ROOM: Final = 66
_SECONDS: Final = 10.0

# Where a guest has a tmpfs (or, on the smallest, a ramfs): their files are pages and nothing else.
_PLACES: Final = "/run /dev/shm /tmp /dev"

_numbers = itertools.count(1)


class Window:
    """A file on a tmpfs of the guest, held open by a process so that its pages can be found.

    The serial console carries some tens of kilobytes in a second. Guest memory is ours: a program
    in the guest copies between the file and this one, and we between this one and the host.

    As a context manager it is removed at the end.

    :param shell: shell commands that find out what is to be moved, and leave in `n` how many
        blocks this file is to have.
    :param then: shell commands for when the file is there; `$w` is a directory for their own.
    """

    def __init__(self, kgdb: Kgdb, shell: str, then: str, *, timeout: float) -> None:
        self._kgdb = kgdb
        self._name = f"pytest-kgdb-{next(_numbers)}"
        script = (
            f"{shell}; for d in {_PLACES}; do w=$d/{self._name}; mkdir $w 2>/dev/null || continue; "
            f"dd if=/dev/zero of=$w/data bs={BLOCK} count=$n 2>/dev/null && break; "
            f"rm -r $w; w=; done; [ $w ] || exit {_NO_ROOM}; exec {_FD}<$w/data; "
            f"sleep 1000000 >/dev/null 2>&1 & echo $! >$w/pid; echo kgdb-window $! $w; {then}"
        )
        try:
            result = kgdb.run(script, timeout)
            if result.status == _NO_ROOM:
                raise GuestCommandError(
                    f"the guest has no room for {MAX_BLOCKS * BLOCK >> 20} MiB in any of {_PLACES}",
                    log=kgdb.console.log,
                    hint="make room there, or give it more --kgdb-memory",
                )
            before, found, rest = result.output.partition("kgdb-window ")
            if result.status != 0 or not found:
                raise GuestCommandError(
                    result.output.strip() or f"status {result.status}", log=kgdb.console.log
                )
        except BaseException as error:
            self._give_up(error)
            raise
        words, _, told = rest.partition("\n")
        pid, self.directory = words.split()
        self._pid = int(pid)
        self.told = before, told
        """What the commands wrote."""
        self._removed = False

    def __enter__(self) -> Window:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            self._give_up(error)
        elif not self._removed:
            self._kgdb.run(self.end(), _SECONDS)

    def end(self) -> str:
        """Return the shell command that removes it, to be run with other commands."""
        self._removed = True
        return f"kill {self._pid}; rm -r {self.directory}"

    def _give_up(self, error: BaseException) -> None:
        """Remove what there is of it; what went wrong before is what is told."""
        kgdb = self._kgdb
        # Stopped elsewhere, at a breakpoint say, it runs no more commands.
        if kgdb.stop is None or kgdb.stop.reason != "interrupt":
            return
        with contextlib.suppress(KgdbError):
            if isinstance(error, TimeoutError):  # the shell still waits for the command
                kgdb.resume()
                kgdb.console.sendcontrol("c")
                kgdb.console.synchronise(timeout=_SECONDS)
                kgdb.interrupt()
            kgdb.run(
                f"for d in {_PLACES}; do w=$d/{self._name}; [ ! -d $w ] || "
                "{ kill $(cat $w/pid); rm -rf $w; }; done",
                _SECONDS,
            )

    def read(self, size: int) -> bytes:
        """Read the file's first bytes."""
        physical = self._kgdb.physical
        pieces = [physical.read(address, count) for address, count in self._extents(size)]
        return b"".join(pieces)

    def write(self, data: bytes) -> None:
        """Write the file's first bytes."""
        physical = self._kgdb.physical
        view = memoryview(data)
        for address, count in self._extents(len(data)):
            physical.write(address, bytes(view[:count]))
            view = view[count:]

    def _extents(self, size: int) -> list[tuple[int, int]]:
        """Return where in physical memory the file's first bytes are, as addresses and sizes.

        Looked up at each stop: a running kernel may move a page (mm/migrate.c).
        """
        extents: list[list[int]] = []
        left = size
        for address in self._pages(-(-size // _PAGE)):
            count = min(left, _PAGE)
            left -= count
            if extents and sum(extents[-1]) == address:
                extents[-1][1] += count
            else:
                extents.append([address, count])
        return [(address, count) for address, count in extents]

    def _pages(self, count: int) -> list[int]:
        """Return the physical addresses of the file's first pages (`struct address_space`)."""
        import drgn
        from drgn.helpers.linux.fs import fget
        from drgn.helpers.linux.mm import compound_order, page_to_phys
        from drgn.helpers.linux.pid import find_task
        from drgn.helpers.linux.xarray import xa_for_each

        program = self._kgdb.program
        task = find_task(program, self._pid)
        if not task:
            raise KgdbError("the guest has ended the process that kept the file to be copied by")
        pages = fget(task, _FD).f_mapping.i_pages.address_of_()
        found: dict[int, int] = {}
        for index, entry in xa_for_each(pages):
            page = drgn.cast("struct page *", entry)
            start = page_to_phys(page).value_()
            for offset in range(1 << compound_order(page).value_()):
                found[index + offset] = start + offset * _PAGE
            if index + 1 >= count:
                break
        try:
            return [found[index] for index in range(count)]
        except KeyError as error:
            raise KgdbError(
                f"page {error} of the file to be copied by is not in the guest's memory"
            ) from None
