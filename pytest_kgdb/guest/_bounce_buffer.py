"""A file in the guest's memory that both sides can read and write."""

from __future__ import annotations

import contextlib
import itertools
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Protocol

from ..debugger import RunControl
from ..errors import GuestCommandError, KgdbError, TimeoutError
from ._shell import Shell

if TYPE_CHECKING:
    import drgn

__all__ = ["BLOCK", "MAX_BLOCKS", "BounceBuffer"]

BLOCK: Final = 1 << 16
MAX_BLOCKS: Final = 128
_PAGE: Final = 4096

# Open before the process that keeps it open is there, which may not have run when we look.
_FD: Final = 9

_NO_ROOM: Final = 66
_SECONDS: Final = 10.0

# Where a guest has a tmpfs (or, on the smallest, a ramfs): their files are pages and nothing else.
_PLACES: Final = "/run /dev/shm /tmp /dev"

# Leaves in `p` what kill(1) is given at the end: the process that holds the file, and behind it the
# process group of the command, in which its other programs are. Only a shell with job control gives
# a command a group of its own, and /proc may not be there (proc(5), /proc/PID/stat: pgrp).
_PROCESSES: Final = (
    "p=$!; g=; s=; { read -r _ _ _ _ g _ </proc/$p/stat; read -r _ _ _ _ s _ </proc/$$/stat; } "
    '2>/dev/null; [ -z "$g" ] || [ "$g" = "$s" ] || p="$p -$g"'
)

_numbers = itertools.count(1)


class GuestMemory(Protocol):
    """The part of the kernel's memory that is used here."""

    @property
    def program(self) -> drgn.Program:
        """The stopped kernel as a drgn program."""

    @property
    def physical(self) -> Any:
        """The guest's physical memory: `read` and `write`."""


class BounceBuffer:
    """A file on a tmpfs of the guest, held open by a process so that its pages can be found.

    The serial console carries some tens of kilobytes in a second. Guest memory is ours: a program
    in the guest copies between the file and this one, and we between this one and the host.

    As a context manager it is removed at the end.

    :param prepare: shell commands that find out what is to be moved, and leave in `n` how many
        blocks this file is to have.
    :param then: shell commands for when the file is there; `$w` is a directory for their own.
    :param hint: what can be done if there was not enough time.
    """

    def __init__(
        self,
        shell: Shell,
        run_control: RunControl,
        memory: GuestMemory,
        prepare: str,
        then: str,
        *,
        timeout: float,
        hint: str,
    ) -> None:
        self._shell = shell
        self._run_control = run_control
        self._memory = memory
        self._name = f"pytest-kgdb-{next(_numbers)}"
        script = (
            f"{prepare}; for d in {_PLACES}; do w=$d/{self._name}; "
            "mkdir $w 2>/dev/null || continue; "
            f"dd if=/dev/zero of=$w/data bs={BLOCK} count=$n 2>/dev/null && break; "
            f"rm -r $w; w=; done; [ $w ] || exit {_NO_ROOM}; exec {_FD}<$w/data; "
            f"sleep 1000000 >/dev/null 2>&1 & {_PROCESSES}; echo $p >$w/pid; "
            f"echo kgdb-buffer $w $p; {then}"
        )
        try:
            result = shell.run(script, timeout, own=True, hint=hint)
            if result.status == _NO_ROOM:
                raise GuestCommandError(
                    f"the guest has no room for {MAX_BLOCKS * BLOCK >> 20} MiB in any of {_PLACES}",
                    log=shell.console.log,
                    hint="make room there, or give it more --kgdb-memory",
                )
            before, tag, rest = result.output.partition("kgdb-buffer ")
            if result.status != 0 or not tag:
                raise GuestCommandError(
                    result.output.strip() or f"status {result.status}", log=shell.console.log
                )
        except BaseException as error:
            self._clean_up(error)
            raise
        words, _, output = rest.partition("\n")
        self.directory, *self._processes = words.split()
        self.output = before, output
        """What the commands wrote: before the buffer was there, and then."""
        self._removed = False

    def __enter__(self) -> BounceBuffer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            self._clean_up(error)
        elif not self._removed:
            self._shell.run(self.end(), _SECONDS, own=True)

    def end(self) -> str:
        """Return the shell command that removes it, to be run with other commands."""
        self._removed = True
        return f"kill {' '.join(self._processes)}; rm -r {self.directory}"

    def _clean_up(self, error: BaseException) -> None:
        """Remove what there is of it; what went wrong before is what is reported."""
        control, console = self._run_control, self._shell.console
        # Stopped elsewhere, at a breakpoint say, it runs no more commands.
        if control.stop is None or control.stop.reason != "interrupt":
            return
        with contextlib.suppress(KgdbError):
            if isinstance(error, TimeoutError):  # the shell still waits for the command
                control.resume()
                console.synchronise(timeout=_SECONDS, interrupt=True)
                control.interrupt()
            self._shell.run(
                f"for d in {_PLACES}; do w=$d/{self._name}; [ ! -d $w ] || "
                "{ kill $(cat $w/pid); rm -rf $w; }; done",
                _SECONDS,
                own=True,
            )

    def read(self, size: int) -> bytes:
        """Read the file's first bytes."""
        physical = self._memory.physical
        pieces = [physical.read(address, count) for address, count in self._extents(size)]
        return b"".join(pieces)

    def write(self, data: bytes) -> None:
        """Write the file's first bytes."""
        physical = self._memory.physical
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

        program = self._memory.program
        task = find_task(program, int(self._processes[0]))
        if not task:
            raise KgdbError("the guest has ended the process that kept the bounce buffer open")
        pages = fget(task, _FD).f_mapping.i_pages.address_of_()
        addresses: dict[int, int] = {}
        for index, entry in xa_for_each(pages):
            page = drgn.cast("struct page *", entry)
            start = page_to_phys(page).value_()
            for offset in range(1 << compound_order(page).value_()):
                addresses[index + offset] = start + offset * _PAGE
            if index + 1 >= count:
                break
        try:
            return [addresses[index] for index in range(count)]
        except KeyError as error:
            raise KgdbError(
                f"page {error} of the bounce buffer is not in the guest's memory"
            ) from None
