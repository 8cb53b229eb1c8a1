"""The printk ring buffer, read from outside (kernel/printk/printk_ringbuffer.c)."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from ..errors import KgdbError
from ..klog import LogLine
from ._kernel import ReadFunction

if TYPE_CHECKING:
    import drgn

# kernel/printk/printk_ringbuffer.h: DESC_FLAGS_SHIFT, enum desc_state, BLK_DATALESS.
_STATE_SHIFT: Final = 62
_ID_MASK: Final = (1 << _STATE_SHIFT) - 1
_COMMITTED: Final = (1, 2)
_REUSABLE: Final = 3
_WORD: Final = 8
_CALLER_CPU: Final = 0x80000000  # kernel/printk/printk.c, printk_caller_id

# The offsets that reading takes, by their names in VMCOREINFO (log_buf_vmcoreinfo_setup).
_OFFSETS: Final = {
    "ring_descs": ("printk_ringbuffer", "desc_ring"),
    "ring_text": ("printk_ringbuffer", "text_data_ring"),
    "count_bits": ("prb_desc_ring", "count_bits"),
    "descs": ("prb_desc_ring", "descs"),
    "infos": ("prb_desc_ring", "infos"),
    "head_id": ("prb_desc_ring", "head_id"),
    "tail_id": ("prb_desc_ring", "tail_id"),
    "state": ("prb_desc", "state_var"),
    "lpos": ("prb_desc", "text_blk_lpos"),
    "begin": ("prb_data_blk_lpos", "begin"),
    "next": ("prb_data_blk_lpos", "next"),
    "seq": ("printk_info", "seq"),
    "timestamp": ("printk_info", "ts_nsec"),
    "text_len": ("printk_info", "text_len"),
    "caller": ("printk_info", "caller_id"),
    "size_bits": ("prb_data_ring", "size_bits"),
    "data": ("prb_data_ring", "data"),
}
_SIZES: Final = ("printk_ringbuffer", "prb_desc", "printk_info")


@dataclass(frozen=True)
class Layout:
    """Where the members are that we read, and how long the structures are."""

    offsets: Mapping[str, int]
    sizes: Mapping[str, int]

    @classmethod
    def from_vmcoreinfo(cls, fields: Mapping[str, str]) -> Layout | None:
        """Take it from the kernel's own description; None where that is silent."""
        try:
            return cls(
                {key: int(fields[f"OFFSET({s}.{m})"]) for key, (s, m) in _OFFSETS.items()},
                {name: int(fields[f"SIZE({name})"]) for name in _SIZES},
            )
        except (KeyError, ValueError):
            return None

    @classmethod
    def from_program(cls, program: drgn.Program) -> Layout:
        """Take it from debug info: loading that takes longer.

        :raises LookupError: the kernel is from before 5.10, which had another buffer.
        """
        import drgn

        types = {name: program.type(f"struct {name}") for name, _ in _OFFSETS.values()}
        return cls(
            {key: drgn.offsetof(types[s], m) for key, (s, m) in _OFFSETS.items()},
            {name: drgn.sizeof(types[name]) for name in _SIZES},
        )


def render(read: ReadFunction, ring: int, layout: Layout) -> str:
    """Return the buffer as dmesg(1) prints it: a time before each line.

    :param ring: address of the `struct printk_ringbuffer`.
    """
    lines = []
    for record in Ring(read, ring, layout).records():
        seconds, nanoseconds = divmod(record.timestamp, 10**9)
        prefix = f"[{seconds:5d}.{nanoseconds // 1000:06d}] "
        lines += [prefix + line for line in record.text.decode(errors="replace").split("\n")]
    return "".join(f"{line}\n" for line in lines)


class Record(NamedTuple):
    """One record of the log."""

    seq: int
    timestamp: int
    """Nanoseconds since the boot."""
    caller: int
    """A task's pid, or a CPU (kernel/printk/printk.c, printk_caller_id)."""
    text: bytes


class Ring:
    """The log buffer at one moment.

    :param ring: address of the `struct printk_ringbuffer`.
    :raises KgdbError: it makes no sense.
    """

    def __init__(self, read: ReadFunction, ring: int, layout: Layout) -> None:
        self._read = read
        self._layout = layout
        offset = layout.offsets
        head = read(ring, layout.sizes["printk_ringbuffer"])

        def word(part: str, member: str, fmt: str = "<Q") -> int:
            return int(struct.unpack_from(fmt, head, offset[part] + offset[member])[0])

        self._count = 1 << word("ring_descs", "count_bits", "<I")
        self._descs, self._infos = word("ring_descs", "descs"), word("ring_descs", "infos")
        self._newest, self._oldest = word("ring_descs", "head_id"), word("ring_descs", "tail_id")
        self._data = word("ring_text", "data")
        self._data_bits = word("ring_text", "size_bits", "<I")
        if (self._newest - self._oldest & _ID_MASK) >= self._count or self._data_bits > 40:
            raise KgdbError(
                f"the kernel's log buffer at {ring:#x} makes no sense: descriptors "
                f"{self._oldest:#x} to {self._newest:#x} of {self._count}",
                hint="something wrote over it, or the kernel has not set it up yet",
            )

    def _info(self, identity: int) -> bytes:
        size = self._layout.sizes["printk_info"]
        return self._read(self._infos + identity % self._count * size, size)

    def next_seq(self) -> int:
        """Return the number that the next record will have."""
        (newest,) = struct.unpack_from("<Q", self._info(self._newest), self._layout.offsets["seq"])
        return int(newest) + 1

    def records(self, since: int = 0) -> Iterator[Record]:
        """Yield the records, oldest first, from a number on."""
        held = self._newest - self._oldest & _ID_MASK
        # Numbers go up by one from descriptor to descriptor.
        wanted = min(held, self.next_seq() - 1 - since) if since else held
        for number in range(held - wanted, held + 1):
            record = self._record(self._oldest + number & _ID_MASK)
            if record is not None and record.seq >= since:
                yield record

    def lines(self, since: int) -> list[LogLine] | None:
        """Return the lines of the records from a number on; None where some are gone already."""
        held = self._newest - self._oldest & _ID_MASK
        first = self.next_seq() - 1 - held
        # Text goes before its descriptor does (printk_ringbuffer.c, data_push_tail).
        if first > since or self._is_reusable(self._oldest + (since - first) & _ID_MASK):
            return None
        return [
            LogLine(line, record.timestamp // 1000 / 1e6, _caller(record.caller), record.seq)
            for record in self.records(since)
            for line in record.text.decode(errors="replace").split("\n")
        ]

    def _is_reusable(self, identity: int) -> bool:
        size = self._layout.sizes["prb_desc"]
        desc = self._read(self._descs + identity % self._count * size, size)
        (state,) = struct.unpack_from("<Q", desc, self._layout.offsets["state"])
        return bool(state == _REUSABLE << _STATE_SHIFT | identity)

    def _record(self, identity: int) -> Record | None:
        offset, size = self._layout.offsets, self._layout.sizes["prb_desc"]
        desc = self._read(self._descs + identity % self._count * size, size)
        (state,) = struct.unpack_from("<Q", desc, offset["state"])
        begin, end = (
            int(struct.unpack_from("<Q", desc, offset["lpos"] + offset[name])[0])
            for name in ("begin", "next")
        )
        if state & _ID_MASK != identity or state >> _STATE_SHIFT not in _COMMITTED:
            return None  # being written
        info = self._info(identity)
        (seq,) = struct.unpack_from("<Q", info, offset["seq"])
        (timestamp,) = struct.unpack_from("<Q", info, offset["timestamp"])
        (length,) = struct.unpack_from("<H", info, offset["text_len"])
        (caller,) = struct.unpack_from("<I", info, offset["caller"])
        text = _text(self._read, self._data, self._data_bits, begin, end, length)
        return Record(seq, timestamp, caller, text)


def _caller(number: int) -> str:
    """Return who printed a record, as CONFIG_PRINTK_CALLER shows it."""
    return f"C{number & ~_CALLER_CPU}" if number & _CALLER_CPU else f"T{number}"


def _text(read: ReadFunction, data: int, bits: int, begin: int, end: int, length: int) -> bytes:
    """Return a record's text (printk_ringbuffer.c, get_data)."""
    if begin & end & 1:
        return b""  # BLK_DATALESS
    mask = (1 << bits) - 1
    if begin >> bits == end >> bits:
        start, room = begin & mask, end - begin
    else:  # it did not fit before the end of the ring, and stands at its start
        start, room = 0, end & mask
    # A block begins with its descriptor's id.
    return read(data + start + _WORD, max(0, min(length, room - _WORD)))
