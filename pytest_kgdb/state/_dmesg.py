"""The printk ring buffer, read from outside (kernel/printk/printk_ringbuffer.c)."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ..errors import KgdbError
from ._kernel import ReadFunction

if TYPE_CHECKING:
    import drgn

# kernel/printk/printk_ringbuffer.h: DESC_FLAGS_SHIFT, enum desc_state, BLK_DATALESS.
_STATE_SHIFT: Final = 62
_ID_MASK: Final = (1 << _STATE_SHIFT) - 1
_COMMITTED: Final = (1, 2)
_WORD: Final = 8

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
    "timestamp": ("printk_info", "ts_nsec"),
    "text_len": ("printk_info", "text_len"),
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
    for timestamp, text in _records(read, ring, layout):
        seconds, nanoseconds = divmod(timestamp, 10**9)
        prefix = f"[{seconds:5d}.{nanoseconds // 1000:06d}] "
        lines += [prefix + line for line in text.decode(errors="replace").split("\n")]
    return "".join(f"{line}\n" for line in lines)


def _records(read: ReadFunction, ring: int, layout: Layout) -> Iterator[tuple[int, bytes]]:
    """Yield time and text of each record, oldest first."""
    offset, size = layout.offsets, layout.sizes
    head = read(ring, size["printk_ringbuffer"])

    def word(part: str, member: str, fmt: str = "<Q") -> int:
        return int(struct.unpack_from(fmt, head, offset[part] + offset[member])[0])

    count = 1 << word("ring_descs", "count_bits", "<I")
    descs, infos = word("ring_descs", "descs"), word("ring_descs", "infos")
    newest, oldest = word("ring_descs", "head_id"), word("ring_descs", "tail_id")
    data, data_bits = word("ring_text", "data"), word("ring_text", "size_bits", "<I")
    if (newest - oldest & _ID_MASK) >= count or data_bits > 40:
        raise KgdbError(
            f"the kernel's log buffer at {ring:#x} makes no sense: descriptors {oldest:#x} to "
            f"{newest:#x} of {count}",
            hint="something wrote over it, or the kernel has not set it up yet",
        )
    for number in range((newest - oldest & _ID_MASK) + 1):
        identity = oldest + number & _ID_MASK
        index = identity % count
        desc = read(descs + index * size["prb_desc"], size["prb_desc"])
        (state,) = struct.unpack_from("<Q", desc, offset["state"])
        begin, end = (
            int(struct.unpack_from("<Q", desc, offset["lpos"] + offset[name])[0])
            for name in ("begin", "next")
        )
        if state & _ID_MASK != identity or state >> _STATE_SHIFT not in _COMMITTED:
            continue  # being written
        info = read(infos + index * size["printk_info"], size["printk_info"])
        (timestamp,) = struct.unpack_from("<Q", info, offset["timestamp"])
        (length,) = struct.unpack_from("<H", info, offset["text_len"])
        yield timestamp, _text(read, data, data_bits, begin, end, length)


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
