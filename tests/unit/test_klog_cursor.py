"""Positions in the kernel's log, of which there are two sources."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pytest_kgdb.klog import (
    ConsoleCursor,
    LogCursor,
    LogLine,
    RingCursor,
    Splat,
    SplatKey,
    console_lines,
    find_splats,
)


def ring(seq: int) -> LogLine:
    return LogLine("text", seq=seq)


def console(offset: int) -> LogLine:
    return LogLine("text", seq=offset, source="console")


def cursor(seq: int | None, offset: int) -> LogCursor:
    return LogCursor(ConsoleCursor(offset), None if seq is None else RingCursor(seq))


@pytest.mark.parametrize(("at", "precedes"), [(6, False), (7, True), (8, True)])
def test_each_source_by_itself(at: int, precedes: bool) -> None:
    assert RingCursor(7).precedes(ring(at)) == precedes
    assert ConsoleCursor(7).precedes(console(at)) == precedes


def test_sources_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="was not read from the ring"):
        RingCursor(7).precedes(console(7))
    with pytest.raises(ValueError, match="was not read from the console"):
        ConsoleCursor(7).precedes(ring(7))


def test_an_entry_is_compared_with_the_position_in_its_source() -> None:
    here = cursor(10, 5000)
    assert here.precedes(ring(10))
    assert not here.precedes(ring(9))
    assert here.precedes(console(5000))
    assert not here.precedes(console(4999))


def test_without_a_position_in_the_ring() -> None:
    here = cursor(None, 5000)
    assert not here.precedes(ring(10))
    assert here.precedes(console(5000))


def test_following() -> None:
    lines = [ring(seq) for seq in (8, 9, 10, 11)]
    shown = [console(offset) for offset in (4990, 5000)]
    assert cursor(10, 5000).following(lines) == lines[2:]
    assert cursor(10, 5000).following(shown) == shown[1:]
    # A line too many rather than one too few.
    assert cursor(None, 5000).following(lines) == lines
    assert cursor(None, 5000).following(shown) == shown[1:]


class TestRewound:
    """The machine was restored: the ring ends earlier, the console goes on."""

    END = cursor(20, 9000)

    def test_positions(self) -> None:
        assert cursor(10, 5000).rewound(self.END) == cursor(10, 5000)
        assert cursor(30, 5000).rewound(self.END) == cursor(20, 5000)
        assert cursor(None, 5000).rewound(self.END) == cursor(None, 5000)
        assert cursor(30, 5000).rewound(cursor(None, 9000)) == cursor(30, 5000)

    def test_which_positions_survive(self) -> None:
        assert cursor(20, 5000).survives(self.END)
        assert not cursor(21, 5000).survives(self.END)
        assert cursor(None, 5000).survives(self.END)
        assert not cursor(21, 5000).survives(cursor(None, 9000))

    def test_which_entries_are_kept(self) -> None:
        assert self.END.keeps(ring(19))
        assert not self.END.keeps(ring(20))
        assert self.END.keeps(console(19))
        assert self.END.keeps(console(9999))
        assert not cursor(None, 9000).keeps(ring(0))

    def test_a_later_splat_at_the_same_place(self) -> None:
        """It is judged although one with the same number was judged before."""
        judged = {SplatKey("ring", 15, "WARNING: a"), SplatKey("ring", 25, "WARNING: b")}
        judged.add(SplatKey("console", 25, "WARNING: b"))
        assert {key for key in judged if self.END.keeps(key)} == {
            SplatKey("ring", 15, "WARNING: a"),
            SplatKey("console", 25, "WARNING: b"),
        }


class TestSplats:
    TEXT = b"[    1.000000] hello\n[    2.000000] WARNING: CPU: 0 PID: 1 at a.c:1 f+0x1/0x2\n"

    def test_the_source_is_that_of_the_lines(self) -> None:
        lines = console_lines(self.TEXT, offset=100)
        (splat,) = find_splats(lines)
        assert splat.key == ("console", 121, splat.title)
        (splat,) = find_splats([replace(line, source="ring", seq=7) for line in lines])
        assert splat.key == ("ring", 7, splat.title)

    def test_frames_do_not_change_the_key(self) -> None:
        splat = Splat("WARN", "title", "", "", seq=7, source="console")
        assert splat.with_frames([]).key == splat.key

    def test_a_splat_read_in_both_sources_is_the_same_splat(self) -> None:
        splat = Splat("WARN", "title", "", "", seq=7)
        assert splat == replace(splat, seq=700, source="console")
        assert splat.key != replace(splat, source="console").key
