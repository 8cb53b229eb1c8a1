"""What is told of failures."""

from __future__ import annotations

from pytest_kgdb.klog import LogLine, Splat, find_splats
from pytest_kgdb.target._fail_each import FailEach, Outcome, Verdict
from pytest_kgdb.target._leaks import LeakBaseline


def outcome(number: int, verdict: Verdict, path: tuple[str, ...] = ()) -> Outcome:
    return Outcome(number, verdict, "why" * (verdict != "handled"), None, path, None, None, "")


def test_the_report() -> None:
    report = FailEach(
        "kmalloc",
        [outcome(1, "handled"), outcome(2, "oops", ("#1 probe at a.c:3",)), outcome(3, "handled")],
        calls=3,
        complete=True,
        unsought="there is no detector",
    )
    assert not report.ok
    assert [each.number for each in report.bad] == [2]
    assert len(report) == 3
    assert report[-1].ok
    assert str(report).splitlines() == [
        "kmalloc failed in 3 calls, one after the other: 1 not handled "
        "(leaks were not looked for: there is no detector)",
        "    call 2: oops: why",
        "        #1 probe at a.c:3",
    ]
    short = str(FailEach("f", [], calls=9, complete=False))
    assert "limit= was reached" in short
    assert "(leaks were looked for)" in short


def leak(size: int, *path: str) -> Splat:
    (made,) = find_splats(
        LogLine(text, None, "x", seq)
        for seq, text in enumerate(
            [
                f"unreferenced object 0xffff88800{len(path)}{size} (size {size}):",
                '  comm "sh", pid 1, jiffies 4294900000',
                "  backtrace:",
                *(f"    [<00000000>] {name}+0x5/0x10" for name in path),
            ]
        )
    )
    return made


def test_leaks_that_there_are_anyway() -> None:
    usual = [leak(64, "kmalloc_trace", "setup"), leak(64, "kmalloc_trace", "setup")]
    baseline = LeakBaseline(usual)
    assert baseline.beyond(usual) == []
    other, third = leak(32, "kmalloc_trace", "setup"), leak(64, "kmalloc_trace", "probe")
    assert baseline.beyond([*usual, other, third]) == [other, third]
    assert baseline.beyond([*usual, usual[0]]) == [usual[0]], "one more of them"
    assert baseline.beyond([]) == []
    assert baseline.beyond(usual) == [], "and it forgets nothing"
