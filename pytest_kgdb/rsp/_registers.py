"""The registers of a stopped CPU, under the names of the kernel's `struct pt_regs`."""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection, Sequence
from typing import Final, Protocol

from ..arch import X86_64
from ..errors import KgdbError

__all__ = ["PacketRegisters", "PtRegs", "Readable", "RegisterFile"]

_TABLE: Final = X86_64.registers


def _as_struct(registers: Sequence[tuple[str, int]]) -> struct.Struct:
    return struct.Struct("<" + "".join("Q" if size == 8 else "I" for _, size in registers))


_PT_REGS: Final = struct.Struct(f"<{len(_TABLE.pt_regs)}Q")
_OFFSET: Final = {name: 8 * index for index, name in enumerate(_TABLE.pt_regs)}
_SENT_BY_KGDB: Final = _TABLE.gdb[: _TABLE.kgdb]
_KGDB: Final = _as_struct(_SENT_BY_KGDB)
_KGDB_MASKS: Final = tuple((name, (1 << 8 * size) - 1) for name, size in _SENT_BY_KGDB)
_QEMU: Final = _as_struct(_TABLE.gdb)
_NUMBERS: Final = {name: number for number, (name, _) in enumerate(_TABLE.gdb)}
_PLACES: Final = {
    name: (sum(size for _, size in _TABLE.gdb[:number]), _TABLE.gdb[number][1])
    for name, number in _NUMBERS.items()
}


class Readable(Protocol):
    """Registers by name; a name that there is not raises KeyError."""

    def __getitem__(self, name: str, /) -> int: ...


class RegisterFile(Readable, Protocol):
    """The same, and they can be set.

    Setting one raises KgdbError where the target does not allow it.
    """

    def __setitem__(self, name: str, value: int, /) -> None: ...


class PtRegs:
    """The registers of the interrupted task, in its `struct pt_regs` in guest memory.

    :param read: reads guest memory.
    :param write: writes it.
    :param address: where the structure is.
    """

    def __init__(
        self,
        read: Callable[[int, int], bytes],
        write: Callable[[int, bytes], None],
        address: int,
    ) -> None:
        self._address = address
        self._write = write
        self._values: dict[str, int] = dict(
            zip(_TABLE.pt_regs, _PT_REGS.unpack(read(address, _PT_REGS.size)), strict=True)
        )

    def __getitem__(self, name: str) -> int:
        return self._values[name]

    def __setitem__(self, name: str, value: int) -> None:
        value &= (1 << 64) - 1
        self._values[name] = value
        self._write(self._address + _OFFSET[name], value.to_bytes(8, "little"))

    def g_reply(self) -> bytes:
        """Return the reply to a `g` packet; what the structure lacks (ds, es) is zero."""
        values = self._values
        return (
            _KGDB.pack(*(values.get(name, 0) & mask for name, mask in _KGDB_MASKS)).hex().encode()
        )

    def number(self, number: int) -> bytes | None:
        """Return the reply to a `p` packet; None for a register that is not in the structure."""
        if number >= len(_SENT_BY_KGDB):
            return None
        name, size = _SENT_BY_KGDB[number]
        if name not in self._values:
            return None
        value = self._values[name] & (1 << 8 * size) - 1
        return value.to_bytes(size, "little").hex().encode()

    def set_number(self, number: int, data: bytes) -> bool:
        """Do what a `P` packet asks; False for a register that is not in the structure."""
        if number >= len(_SENT_BY_KGDB):
            return False
        name, size = _SENT_BY_KGDB[number]
        if name not in self._values:
            return False
        self[name] = int.from_bytes(data[:size], "little")
        return True


class PacketRegisters:
    """The registers of the selected thread, read by a `g` packet and set by `P` packets.

    :param request: sends the target a packet and returns its reply.
    :param target: its name, for messages.
    :param fixed: registers that it does not set.
    """

    def __init__(
        self,
        request: Callable[[bytes], bytes],
        target: str,
        fixed: Collection[str] = (),
    ) -> None:
        self._request = request
        self._target = target
        self._fixed = fixed
        self._data = data = bytearray(_from_hex(request(b"g")))
        layout, registers = _QEMU, _TABLE.gdb
        if len(data) < layout.size:
            layout, registers = _KGDB, _SENT_BY_KGDB
        if len(data) < layout.size:
            raise KgdbError(f"{target} sends no registers")
        self._values: dict[str, int] = dict(
            zip((name for name, _ in registers), layout.unpack_from(data), strict=True)
        )

    def __getitem__(self, name: str) -> int:
        return self._values[name]

    def __setitem__(self, name: str, value: int) -> None:
        if name in self._fixed:
            raise KgdbError(f"{self._target} does not set {name}")
        at, size = _PLACES[name]
        value &= (1 << 8 * size) - 1
        if value == self._values[name]:
            return
        data = value.to_bytes(size, "little")
        reply = self._request(b"P%x=%b" % (_NUMBERS[name], data.hex().encode()))
        if reply != b"OK":
            raise KgdbError(f"{self._target} does not set {name} (it replied {reply!r})")
        self._values[name] = value
        self._data[at : at + size] = data

    def g_reply(self, instead: Readable | None = None) -> bytes:
        """Return the reply to a `g` packet.

        :param instead: has the general registers, the program counter and the flags.
        """
        data = bytearray(self._data)
        for name in _TABLE.pt_regs if instead is not None else ():
            if instead is not None and name in _PLACES:
                at, size = _PLACES[name]
                value = instead[name] & (1 << 8 * size) - 1
                data[at : at + size] = value.to_bytes(size, "little")
        return data.hex().encode()


def _from_hex(reply: bytes) -> bytes:
    try:
        return bytes.fromhex(reply.decode())
    except ValueError:  # E01, or `x` for what is not available
        return b""
