"""What QEMU before 8.0 cannot watch on several CPUs."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final

from ._refusal import Refusal

__all__ = ["WatchedPages"]

# target/i386/cpu-param.h, TARGET_PAGE_BITS.
_PAGE: Final = 0x1000

# What the packets' kinds have QEMU look for: gdb manual, "Packets"; QEMU, gdbstub,
# gdb_breakpoint_insert.
_ACCESSES: Final = {b"2": {"write"}, b"3": {"read"}, b"4": {"read", "write"}}


class WatchedPages:
    """Passes on what inserts and removes watchpoints, and refuses those that would miss accesses.

    QEMU before 8.0 looks at a page's flags before an atomic instruction of the guest: those for
    reads and those for writes being the same, it has the host do the instruction, and no watchpoint
    is looked for (accel/tcg/cputlb.c, atomic_mmu_lookup; commit 417aeaff542e, "Trigger watchpoints
    from atomic_mmu_lookup"). They are the same where nothing of a page is watched, and where it is
    for both. With one CPU there are no atomic instructions to TCG.

    :param request: sends the target a `Z` or `z` packet for a watchpoint, and returns its reply.
    :param inserted: returns what is inserted, as `Z` has it.
    :param misses_atomics: whether it is such a QEMU, with several CPUs under TCG.
    """

    def __init__(
        self,
        request: Callable[[bytes], bytes],
        inserted: Callable[[], Collection[bytes]],
        *,
        misses_atomics: bool,
    ) -> None:
        self._request = request
        self._inserted = inserted
        self._misses_atomics = misses_atomics
        self._refusal: Refusal | None = None

    def allows(self, key: bytes) -> bool:
        """Whether a watchpoint, as `Z` has it, and those that are inserted would miss nothing."""
        if not self._misses_atomics:
            return True
        watched: dict[int, set[str]] = {}
        for one in {key, *self._inserted()}:
            kind, address, size = one.split(b",")
            first, last = int(address, 16), int(address, 16) + int(size, 16) - 1
            for page in range(first // _PAGE, last // _PAGE + 1):
                watched.setdefault(page, set()).update(_ACCESSES.get(kind, ()))
        return all(len(accesses) == 1 for accesses in watched.values() if accesses)

    def request(self, payload: bytes) -> bytes:
        """Do what `Z2` to `Z4` and `z2` to `z4` ask; an error where accesses would be missed."""
        if payload[:1] == b"Z" and not self.allows(payload[1:]):
            address = int(payload.split(b",")[1], 16)
            self._refusal = Refusal(
                "with several CPUs, QEMU before 8.0 misses atomic instructions (`lock incl`) on a "
                f"page that is watched for reads and for writes, as that of {address:#x} would be",
                'watch for writes alone (access="write"), or on one CPU (--kgdb-smp=1)',
            )
            return b"E0e"
        return self._request(payload)

    def take_refusal(self) -> Refusal | None:
        """Return, once, why one was refused last; None if none was."""
        refusal, self._refusal = self._refusal, None
        return refusal
