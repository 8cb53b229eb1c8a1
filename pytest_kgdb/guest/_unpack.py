"""Files into a guest that has just come up, by one command and one stop that nobody sees."""

from __future__ import annotations

from typing import Final, Protocol

from ..errors import GuestCommandError, KgdbError
from ..rsp import CONTINUE, Action, Event, Hook
from ._shell import Shell

__all__ = ["UnpackingRelay", "unpack"]

_SECONDS: Final = 60.0


class UnpackingRelay(Protocol):
    """The part of the relay that is used here."""

    def add_hook(self, address: int, hook: Hook) -> None:
        """Have a function called whenever a CPU comes to an address."""

    def remove_hook(self, address: int, hook: Hook) -> None:
        """Undo that."""

    def write_user(self, address: int, data: bytes) -> None:
        """Write the memory of the user program whose task stopped."""


def unpack(shell: Shell, relay: UnpackingRelay, ksys_write: int, archive: bytes) -> None:
    """Unpack a cpio archive in the guest's root directory; the kernel must be stopped.

    The serial console carries some tens of kilobytes in a second. So `dd` in the guest writes as
    many zeros to `cpio`, by one system call, and they are replaced in its memory as it calls.

    :param ksys_write: the address of the function, whose arguments are those of write(2)
        (fs/read_write.c, since 4.17).
    :raises KgdbError: it could not be unpacked.
    """
    size = len(archive)
    replaced: list[int] = []
    failure: list[KgdbError] = []

    def replace(event: Event) -> Action:
        if event.registers["dx"] == size and not replaced:
            replaced.append(event.registers["si"])
            try:
                relay.write_user(replaced[0], archive)
            except KgdbError as error:
                failure.append(error)
        return CONTINUE

    relay.add_hook(ksys_write, replace)
    try:
        result = shell.run(
            f"cd / && dd if=/dev/zero bs={size} count=1 2>/dev/null | cpio -idmu 2>&1", _SECONDS
        )
    finally:
        relay.remove_hook(ksys_write, replace)
    if failure:
        raise failure[0]
    if not replaced or result.status != 0:
        raise GuestCommandError(
            f"cpio could not unpack {size} bytes in the guest (status {result.status}): "
            + (result.output.strip() if replaced else "dd did not write them at once"),
            log=shell.console.log,
        )
