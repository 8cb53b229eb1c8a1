"""The printk ring buffer (kernel/printk/printk_ringbuffer.c), as a kernel would leave it."""

from __future__ import annotations

import struct

import pytest

from pytest_kgdb.errors import KgdbError
from pytest_kgdb.klog import LogLine
from pytest_kgdb.memory._printk import PrintkLayout, PrintkRing, render
from pytest_kgdb.memory._vmcoreinfo import parse

RING, DESCS, INFOS, DATA = 0x1000, 0x2000, 0x4000, 0x8000
COUNT_BITS, DATA_BITS = 3, 9
RESERVED, COMMITTED, FINALIZED, REUSABLE = range(4)
NO_TEXT = 3

# Linux 6.1 on x86-64.
VMCOREINFO = """\
SIZE(printk_ringbuffer)=88
OFFSET(printk_ringbuffer.desc_ring)=0
OFFSET(printk_ringbuffer.text_data_ring)=48
OFFSET(prb_desc_ring.count_bits)=0
OFFSET(prb_desc_ring.descs)=8
OFFSET(prb_desc_ring.infos)=16
OFFSET(prb_desc_ring.head_id)=24
OFFSET(prb_desc_ring.tail_id)=32
SIZE(prb_desc)=24
OFFSET(prb_desc.state_var)=0
OFFSET(prb_desc.text_blk_lpos)=8
OFFSET(prb_data_blk_lpos.begin)=0
OFFSET(prb_data_blk_lpos.next)=8
SIZE(printk_info)=88
OFFSET(printk_info.seq)=0
OFFSET(printk_info.ts_nsec)=8
OFFSET(printk_info.text_len)=16
OFFSET(printk_info.caller_id)=20
OFFSET(prb_data_ring.size_bits)=0
OFFSET(prb_data_ring.data)=8
"""
LAYOUT = PrintkLayout.from_vmcoreinfo(parse(VMCOREINFO))


class Ring:
    """A writer's view of the buffer."""

    def __init__(self, first: int = 0) -> None:
        self.memory = bytearray(0x10000)
        self.first = self.next = first
        self.lpos = self.seq = 0

    def read(self, address: int, size: int) -> bytes:
        return bytes(self.memory[address : address + size])

    def put(self, fmt: str, address: int, *values: int) -> None:
        struct.pack_into(fmt, self.memory, address, *values)

    def say(
        self,
        text: bytes,
        *,
        at: int = 0,
        state: int = FINALIZED,
        length: int | None = None,
        dataless: bool = False,
        caller: int = 0,
        level: int = 0,
        facility: int = 0,
    ) -> None:
        size = 1 << DATA_BITS
        block = (8 + len(text) + 7) & ~7
        begin, end = self.lpos, self.lpos + block
        start = begin % size
        if begin // size != end // size:  # it would not fit: it goes to the start of the ring
            end = (begin // size + 1) * size + block
            start = 0
        index = self.next % (1 << COUNT_BITS)
        if dataless:
            begin = end = NO_TEXT
        else:
            self.put("<Q", DATA + start, self.next)
            self.memory[DATA + start + 8 : DATA + start + 8 + len(text)] = text
            self.lpos = end
        self.put("<QQQ", DESCS + index * 24, state << 62 | self.next, begin, end)
        stored = len(text) if length is None else length
        flags = level << 13 | facility
        self.put("<QQHHI", INFOS + index * 88, self.seq, at, stored, flags, caller)
        self.seq += 1
        self.next += 1
        self.first = max(self.first, self.next - (1 << COUNT_BITS))

    def text(self) -> str:
        self.finish()
        assert LAYOUT is not None
        return render(PrintkRing(self.read, RING, LAYOUT).records())

    def lines(self, since: int) -> list[LogLine] | None:
        self.finish()
        assert LAYOUT is not None
        return PrintkRing(self.read, RING, LAYOUT).lines(since)

    def finish(self) -> None:
        self.put("<IIQQQQ", RING, COUNT_BITS, 0, DESCS, INFOS, max(self.next - 1, 0), self.first)
        self.put("<IIQ", RING + 48, DATA_BITS, 0, DATA)


def test_one_line_each_with_its_time() -> None:
    ring = Ring()
    ring.say(b"Linux version 6.1")
    ring.say(b"later", at=1_234_567_890)
    ring.say(b"much later", at=123_456_000_001_000, state=COMMITTED)
    assert ring.text() == (
        "[    0.000000] Linux version 6.1\n[    1.234567] later\n[123456.000001] much later\n"
    )


def test_a_record_of_several_lines() -> None:
    ring = Ring()
    ring.say(b"first\nsecond\n", at=10**9)
    assert ring.text() == "[    1.000000] first\n[    1.000000] second\n[    1.000000] \n"


def test_what_is_being_written_is_left_out() -> None:
    ring = Ring()
    ring.say(b"done")
    ring.say(b"half", state=RESERVED)
    ring.say(b"gone", state=REUSABLE)
    ring.say(b"done too")
    assert ring.text() == "[    0.000000] done\n[    0.000000] done too\n"


def test_a_record_of_another_time_is_left_out() -> None:
    ring = Ring()
    ring.say(b"a")
    ring.say(b"b")
    ring.put("<Q", DESCS, FINALIZED << 62 | 8)  # the writer has taken this one again
    assert ring.text() == "[    0.000000] b\n"


def test_empty_and_cut_records() -> None:
    ring = Ring()
    ring.say(b"", dataless=True)
    ring.say(b"cut off here", length=200)
    assert ring.text() == "[    0.000000] \n[    0.000000] cut off here\0\0\0\0\n"


def test_bytes_that_are_no_text() -> None:
    ring = Ring()
    ring.say(b"caf\xc3\xa9 \xff")
    assert ring.text() == "[    0.000000] café �\n"


@pytest.mark.parametrize("first", [0, 5, (1 << 62) - 6])
def test_many_times_round(first: int) -> None:
    """The text ring wraps every few records; ids wrap at 62 bits."""
    ring = Ring(first)
    lines = []
    for number in range(6 if first > 100 else 500):
        line = f"message {number} " + "x" * (number % 13)
        ring.say(line.encode(), at=number * 10**9)
        lines.append(f"[{number:5d}.000000] {line}\n")
        assert ring.text() == "".join(lines[-8:])


def test_ids_wrap() -> None:
    ring = Ring((1 << 62) - 2)
    for _ in range(2):
        ring.say(b"before")
    ring.next = 0
    ring.say(b"after")
    ring.first = (1 << 62) - 2
    assert ring.text().split() == ["[", "0.000000]", "before"] * 2 + ["[", "0.000000]", "after"]


def test_a_damaged_buffer_is_said_to_be_so() -> None:
    ring = Ring()
    ring.say(b"text")
    ring.text()
    ring.put("<Q", RING + 24, 1 << 40)
    with pytest.raises(KgdbError, match="log buffer at 0x1000 makes no sense"):
        PrintkRing(ring.read, RING, LAYOUT)  # type: ignore[arg-type]


def test_a_kernel_that_says_nothing_of_its_buffer() -> None:
    assert PrintkLayout.from_vmcoreinfo({}) is None
    assert PrintkLayout.from_vmcoreinfo({**parse(VMCOREINFO), "SIZE(prb_desc)": "x"}) is None


def test_lines_from_a_number_on_with_who_printed_them() -> None:
    ring = Ring()
    ring.say(b"before", at=10**9)
    ring.say(b"one\ntwo", at=2 * 10**9, caller=77)
    ring.say(b"half", state=RESERVED)
    ring.say(b"three", at=3 * 10**9, caller=0x80000001)
    ring.say(b"mine", at=4 * 10**9, caller=78, level=3, facility=1)
    assert ring.lines(1) == [
        LogLine("one", 2.0, "T77", 1),
        LogLine("two", 2.0, "T77", 1),
        LogLine("three", 3.0, "C1", 3),
        LogLine("mine", 4.0, "T78", 4, by_program=True),
    ]
    assert ring.lines(5) == []


def test_lines_that_the_buffer_has_lost() -> None:
    ring = Ring()
    for number in range(20):
        ring.say(f"line {number}".encode())
    assert ring.lines(5) is None
    ring.put("<Q", DESCS + ring.first % 8 * 24, REUSABLE << 62 | ring.first)
    assert ring.lines(ring.first) is None, "its text is gone, and its descriptor is not yet"
    assert ring.lines(ring.first + 1) is not None
    lines = ring.lines(15)
    assert lines is not None
    assert [line.text for line in lines] == [f"line {number}" for number in range(15, 20)]
