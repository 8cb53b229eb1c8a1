"""The kernel's log: the printk ring buffer (kernel/printk/printk_ringbuffer.c, since 5.10)."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from ..errors import KgdbError
from ..klog import LogLine
from ._placement import ReadFunction

if TYPE_CHECKING:
    import drgn

# kernel/printk/printk_ringbuffer.h: DESC_FLAGS_SHIFT, enum desc_state, BLK_DATALESS.
_STATE_SHIFT: Final = 62
_ID_MASK: Final = (1 << _STATE_SHIFT) - 1
_COMMITTED: Final = (1, 2)
_REUSABLE: Final = 3
_WORD: Final = 8
# Behind the length: the facility, a byte; and flags, 5 bits, with the level (struct printk_info).
_FACILITY: Final = 2
_LEVEL: Final = 3
_CALLER_CPU: Final = 0x80000000  # kernel/printk/printk.c, printk_caller_id

# The offsets that are needed, by their names in VMCOREINFO (log_buf_vmcoreinfo_setup).
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
class PrintkLayout:
    """Offsets of the members that are read, and sizes of the structures."""

    offsets: Mapping[str, int]
    sizes: Mapping[str, int]

    @classmethod
    def from_vmcoreinfo(cls, fields: Mapping[str, str]) -> PrintkLayout | None:
        """Return the layout by VMCOREINFO; None if that lacks a field."""
        try:
            return cls(
                {key: int(fields[f"OFFSET({s}.{m})"]) for key, (s, m) in _OFFSETS.items()},
                {name: int(fields[f"SIZE({name})"]) for name in _SIZES},
            )
        except (KeyError, ValueError):
            return None

    @classmethod
    def from_program(cls, program: drgn.Program) -> PrintkLayout:
        """Return the layout by the debug information, which takes longer to load.

        :raises LookupError: the kernel is older than 5.10, which had another buffer.
        """
        import drgn

        types = {name: program.type(f"struct {name}") for name, _ in _OFFSETS.values()}
        return cls(
            {key: drgn.offsetof(types[s], m) for key, (s, m) in _OFFSETS.items()},
            {name: drgn.sizeof(types[name]) for name in _SIZES},
        )


def render(records: Iterable[Record]) -> str:
    """Return records as dmesg(1) prints them, with a time before each line."""
    lines = []
    for record in records:
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
    """The pid of a task, or a CPU (kernel/printk/printk.c, printk_caller_id)."""
    text: bytes
    level: int
    """How urgent it is, 0 most (include/linux/kern_levels.h)."""
    facility: int = 0
    """What printed it, as syslog(3) counts: the kernel is 0, which no program can write to
    /dev/kmsg (kernel/printk/printk.c, devkmsg_write)."""

    def lines(self) -> list[LogLine]:
        """Return its lines; of most records it is one."""
        return [
            LogLine(
                line,
                self.timestamp // 1000 / 1e6,
                _caller(self.caller),
                self.seq,
                by_program=self.facility != 0,
            )
            for line in self.text.decode(errors="replace").split("\n")
        ]


class PrintkRing:
    """The log buffer of a stopped kernel.

    :param ring: address of the `struct printk_ringbuffer`.
    :raises KgdbError: the buffer is damaged, or not set up yet.
    """

    def __init__(self, read: ReadFunction, ring: int, layout: PrintkLayout) -> None:
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
        """Return the sequence number of the next record."""
        (newest,) = struct.unpack_from("<Q", self._info(self._newest), self._layout.offsets["seq"])
        return int(newest) + 1

    def records(self, since: int = 0) -> Iterator[Record]:
        """Yield the records from a sequence number on, oldest first."""
        count = self._newest - self._oldest & _ID_MASK
        # The sequence numbers of successive descriptors are successive.
        newer = min(count, self.next_seq() - 1 - since) if since else count
        for number in range(count - newer, count + 1):
            record = self._record(self._oldest + number & _ID_MASK)
            if record is not None and record.seq >= since:
                yield record

    def lines(self, since: int) -> list[LogLine] | None:
        """Return the lines from a sequence number on; None if some were overwritten."""
        first = self.first_seq()
        # A text is overwritten before its descriptor (printk_ringbuffer.c, data_push_tail).
        if first > since or self._is_reusable(self._oldest + (since - first) & _ID_MASK):
            return None
        return [line for record in self.records(since) for line in record.lines()]

    def first_seq(self) -> int:
        """Return the sequence number of the oldest record."""
        return self.next_seq() - 1 - (self._newest - self._oldest & _ID_MASK)

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
            return None  # it is being written
        info = self._info(identity)
        (seq,) = struct.unpack_from("<Q", info, offset["seq"])
        (timestamp,) = struct.unpack_from("<Q", info, offset["timestamp"])
        (length,) = struct.unpack_from("<H", info, offset["text_len"])
        (caller,) = struct.unpack_from("<I", info, offset["caller"])
        text = _text(self._read, self._data, self._data_bits, begin, end, length)
        behind = offset["text_len"]
        facility, level = info[behind + _FACILITY], info[behind + _LEVEL] >> 5
        return Record(seq, timestamp, caller, text, level, facility)


def _caller(number: int) -> str:
    """Return the caller of a record, in the form of CONFIG_PRINTK_CALLER."""
    return f"C{number & ~_CALLER_CPU}" if number & _CALLER_CPU else f"T{number}"


def _text(read: ReadFunction, data: int, bits: int, begin: int, end: int, length: int) -> bytes:
    """Return a record's text (printk_ringbuffer.c, get_data)."""
    if begin & end & 1:
        return b""  # BLK_DATALESS
    mask = (1 << bits) - 1
    if begin >> bits == end >> bits:
        start, room = begin & mask, end - begin
    else:  # it did not fit before the end of the ring, and is at its start
        start, room = 0, end & mask
    # A block begins with the id of its descriptor.
    return read(data + start + _WORD, max(0, min(length, room - _WORD)))
