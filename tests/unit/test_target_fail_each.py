"""What is told of failures."""

from __future__ import annotations

from pytest_kgdb.target._fail_each import FailEach, Outcome, Verdict


def outcome(number: int, verdict: Verdict, path: tuple[str, ...] = ()) -> Outcome:
    return Outcome(number, verdict, "why" * (verdict != "handled"), None, path, None, None, "")


def test_the_report() -> None:
    report = FailEach(
        "kmalloc",
        [outcome(1, "handled"), outcome(2, "oops", ("#1 probe at a.c:3",)), outcome(3, "handled")],
        calls=3,
        complete=True,
    )
    assert not report.ok
    assert [each.number for each in report.bad] == [2]
    assert len(report) == 3
    assert report[-1].ok
    assert str(report).splitlines() == [
        "kmalloc failed in 3 calls, one after the other: 1 not handled (leaks were not looked for)",
        "    call 2: oops: why",
        "        #1 probe at a.c:3",
    ]
    assert "limit= was reached" in str(FailEach("f", [], calls=9, complete=False))
