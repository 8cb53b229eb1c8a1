"""What runs on both sides say of a change."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from pytest_kgdb.gate._verdicts import (
    Result,
    Run,
    Verdict,
    exit_status,
    judge,
    reason_of,
    repeats_for,
    summary,
)
from pytest_kgdb.plugin._lockstep import ENOUGH

_STATUS = {"p": "PASS", "f": "FAIL", "e": "ERROR", "m": "MISS", "s": "SKIP"}


def runs(letters: str, message: str = "assert 1 == 2", *, kernel: bool = True) -> list[Run]:
    return [
        Run(_STATUS[letter], "" if letter == "p" else message, 0.1, kernel) for letter in letters
    ]


@pytest.mark.parametrize(
    ("base", "patched", "verdict"),
    [
        ("fff", "ppp", Verdict.PROVES),
        ("ppp", "ppp", Verdict.PASSES_BOTH),
        ("fff", "fff", Verdict.FAILS_BOTH),
        ("ppp", "fff", Verdict.BROKEN),
        ("fpf", "ppp", Verdict.FLAKY),
        ("fff", "ppf", Verdict.FLAKY),
        ("pfp", "fff", Verdict.FLAKY),
        # Once a test has passed and failed on one kernel, no further run changes that.
        ("pfm", "ppp", Verdict.FLAKY),
        ("ppp", "fpe", Verdict.FLAKY),
        ("pfs", "ppp", Verdict.FLAKY),
        ("pf", "", Verdict.FLAKY),
        ("fff", "ppm", Verdict.CANNOT_TELL),
        ("mff", "ppp", Verdict.CANNOT_TELL),
        ("eee", "ppp", Verdict.CANNOT_TELL),
        ("fff", "eee", Verdict.CANNOT_TELL),
        ("sss", "ppp", Verdict.CANNOT_TELL),
        ("sss", "sss", Verdict.NOT_TESTED),
        ("", "ppp", Verdict.CANNOT_TELL),
        ("fff", "", Verdict.CANNOT_TELL),
    ],
)
def test_verdicts(base: str, patched: str, verdict: Verdict) -> None:
    assert judge("test", runs(base), runs(patched)).verdict is verdict


@pytest.mark.parametrize(
    ("base", "patched", "verdict"),
    [
        ("ppp", "ppp", Verdict.NOT_TESTED),
        ("fff", "fff", Verdict.NOT_TESTED),
        ("fff", "ppp", Verdict.FLAKY),
        ("ppf", "ppp", Verdict.FLAKY),
        ("mmm", "ppp", Verdict.CANNOT_TELL),
    ],
)
def test_verdicts_where_both_kernels_are_the_same(
    base: str, patched: str, verdict: Verdict
) -> None:
    assert judge("test", runs(base), runs(patched), unchanged="the same").verdict is verdict


def with_subtest(letter: str, **subtests: str) -> Run:
    statuses = {name: _STATUS[one] for name, one in subtests.items()}
    return replace(*runs(letter), subtests=statuses)


def test_subtests_that_are_skipped() -> None:
    # As on a kernel without a case's hardware.
    both = [with_subtest("f", fix="f", other="s")], [with_subtest("p", fix="p", other="s")]
    assert judge("test", *both).verdict is Verdict.PROVES
    # The base died before the second one.
    died = [with_subtest("f")], [with_subtest("p", fix="p", other="s")]
    assert judge("test", *died).verdict is Verdict.PROVES
    left_out = [with_subtest("f", fix="f", other="p")], [with_subtest("p", fix="s", other="p")]
    result = judge("test", *left_out)
    assert result.verdict is Verdict.CANNOT_TELL
    assert result.reason == "its subtest fix was skipped in some of its runs"


@pytest.mark.parametrize(
    ("base", "patched", "verdict"),
    [
        ("f", "pppp", Verdict.CANNOT_TELL),
        ("ffff", "p", Verdict.CANNOT_TELL),
        ("ppp", "pppp", Verdict.CANNOT_TELL),
        ("s", "s", Verdict.CANNOT_TELL),
        ("ffff", "pppp", Verdict.PROVES),
        ("fffff", "pppp", Verdict.PROVES),
        # It stays true whatever further runs come to.
        ("fp", "pp", Verdict.FLAKY),
    ],
)
def test_runs_that_did_not_take_place(base: str, patched: str, verdict: Verdict) -> None:
    sides = runs(base), runs(patched)
    assert judge("test", *sides, asked=4).verdict is verdict
    if verdict is Verdict.CANNOT_TELL:
        assert judge("test", *sides, asked=4, unchanged="the same").verdict is verdict


def test_why_runs_did_not_take_place() -> None:
    early = judge("test", runs("f"), runs("pppp"), asked=4)
    assert early.reason.startswith("it has 1 of 4 runs (what ends pytest early, as -x and")
    assert early.reason.endswith(" on the base")
    once = [[replace(run, repeated=False) for run in runs(letter)] for letter in "fp"]
    assert "only functions that name kgdb or kgdb_session" in judge("test", *once, asked=4).reason
    # Others are run once, as ever.
    plain = runs("p", kernel=False)
    assert judge("test", plain, plain, asked=4).verdict is Verdict.NOT_TESTED


def test_a_test_without_a_kernel() -> None:
    for letter in "pf":
        result = judge("test", *[runs(letter, kernel=False)] * 2)
        assert (result.verdict, result.reason) == (Verdict.NOT_TESTED, "it uses no kernel")


@pytest.mark.parametrize("sides", ["fp", "pf"])
@pytest.mark.parametrize("kernel", [False, True])
def test_a_test_that_seems_to_have_no_kernel(sides: str, *, kernel: bool) -> None:
    base, patched = (runs(letter, kernel=False) for letter in sides)
    result = judge("test", base, [replace(run, kernel=kernel) for run in patched])
    assert result.verdict is Verdict.CANNOT_TELL
    side = "base" if sides == "fp" else "patched kernel"
    assert result.reason == f"it uses no kernel, and fails on the {side}: assert 1 == 2"


def test_a_patched_kernel_that_does_not_boot() -> None:
    lost = runs("mm", "BootError: the kernel panicked")
    dead = [replace(run, boot="panicked") for run in lost]
    assert judge("test", runs("pp"), dead).verdict is Verdict.BROKEN
    assert judge("test", dead, runs("pp")).verdict is Verdict.CANNOT_TELL
    # Whatever the words are.
    assert judge("test", runs("pp"), lost).verdict is Verdict.CANNOT_TELL
    assert judge("test", runs("pp"), runs("mm", "MachineDied: QEMU")).verdict is Verdict.CANNOT_TELL


def test_a_test_that_fails_for_different_reasons() -> None:
    base = [*runs("f", "assert -12 == 0"), *runs("f", "KernelPanic: it oopsed")]
    result = judge("test", base, runs("pp"))
    assert result.verdict is Verdict.CANNOT_TELL
    assert "assert -12 == 0; KernelPanic: it oopsed" in result.reason
    # Numbers differ from run to run.
    base = [*runs("f", "pid 17 at 0xffffc900"), *runs("f", "pid 18 at 0xffffc800")]
    assert judge("test", base, runs("pp")).verdict is Verdict.PROVES


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("assert 1.5 == 2", "assert 20 == 31.75", True),
        ("freed 0xffff888003a4c000", "freed 0xFFFF888007B1D0E0", True),
        ("freed ffff888003a4c000 twice", "freed ffff888007b1d0e0 twice", True),
        ("BUG in 00000000deadbeef", "BUG in 00000000cafe0123", True),
        ("no acceded000x", "no effaced000x", False),  # a word
        ("the cache is dead", "the cache is fade", False),
    ],
)
def test_a_reason_is_the_same_from_run_to_run(one: str, other: str, *, same: bool) -> None:
    assert (reason_of(Run("FAIL", one)) == reason_of(Run("FAIL", other))) is same


def test_a_hang_is_one_wherever_the_kernel_was_meanwhile() -> None:
    base = [
        Run(
            "FAIL",
            f"TimeoutError: it did not end in 60 s: spinning: {where}",
            reason="TimeoutError: it did not end in 60 s",
        )
        for where in ("CPU 0 in __blkdev_issue_discard (block/blk-lib.c:67)", "CPU 0 in bio_alloc")
    ]
    result = judge("test", base, runs("pp"))
    assert (result.verdict, result.reason) == (Verdict.PROVES, base[0].message)


def test_the_first_reason_is_told() -> None:
    assert judge("test", runs("f", "1 != 2"), runs("p")).reason == "1 != 2"
    result = judge("test", runs("fpp"), runs("ppp"))
    assert result.reason.startswith("it failed in 1 of 3 runs on the base, in 0 of 3")
    assert judge("test", runs("e", "NameError: x"), runs("p")).reason == "on the base: NameError: x"


def test_confidence() -> None:
    assert [repeats_for(value) for value in (0.5, 0.9, 0.99, 0.999)] == [7, 22, 44, 66]
    for wrong in (0, 1, -1, 99):
        with pytest.raises(ValueError, match="between 0 and 1"):
            repeats_for(wrong)


@pytest.mark.parametrize("further", ["", "p", "f", "e", "m", "s", "pfems"])
@pytest.mark.parametrize("sides", [("pf", "pp"), ("ff", "fp"), ("mpf", "mm"), ("fpf", "")])
def test_further_runs_change_no_verdict_of_a_test_that_varies(
    sides: tuple[str, str], further: str
) -> None:
    """What makes it right to end the repetitions of such a test early."""
    base, patched = sides
    assert judge("test", runs(base), runs(patched)).verdict is Verdict.FLAKY
    longer = judge("test", runs(base + further), runs(patched + further))
    assert longer.verdict is Verdict.FLAKY
    assert judge("test", runs(base + further), runs(patched)).verdict is Verdict.FLAKY


def gated(random: Random, base: float, patched: float, number: int) -> Verdict:
    """The verdict on a test that fails at such rates, its runs cut short as the gate does."""
    sides: tuple[list[Run], list[Run]] = [], []
    for repeat in range(1, number + 1):
        if repeat > ENOUGH and judge("test", *sides).verdict is Verdict.FLAKY:
            break
        for side, rate in zip(sides, (base, patched), strict=True):
            side += runs("f" if random.random() < rate else "p")
    return judge("test", *sides).verdict


@pytest.mark.parametrize(
    ("base", "patched"),
    [(0.1, 0.1), (0.5, 0.5), (0.9, 0.9), (0.1, 0), (0, 0.1), (0.9, 0), (1, 0.9), (0.5, 1)],
)
def test_a_flaky_test_is_seen_to_be_flaky(base: float, patched: float) -> None:
    random, number, gates = Random(1), repeats_for(0.99), 500
    wrong = sum(gated(random, base, patched, number) is not Verdict.FLAKY for _ in range(gates))
    # 1 in 100, and for the width of the distribution twice as much again.
    assert wrong <= 0.03 * gates
    # What it comes to over all gates: nothing else than one thing on each side is missed.
    missed = [rate**number + (1 - rate) ** number for rate in (base, patched)]
    assert missed[0] * missed[1] <= 0.01


@pytest.mark.parametrize(
    ("verdicts", "status"),
    [
        ([Verdict.PROVES], 0),
        ([Verdict.PROVES, Verdict.PASSES_BOTH, Verdict.NOT_TESTED], 0),
        ([Verdict.PASSES_BOTH], 1),
        ([Verdict.NOT_TESTED], 1),
        ([], 1),
        ([Verdict.PROVES, Verdict.BROKEN], 1),
        ([Verdict.PROVES, Verdict.FAILS_BOTH], 1),
        ([Verdict.BROKEN, Verdict.FLAKY], 1),
        ([Verdict.PROVES, Verdict.FLAKY], 6),
        ([Verdict.CANNOT_TELL], 6),
    ],
)
def test_exit_status(verdicts: list[Verdict], status: int) -> None:
    results = [judge_as(verdict) for verdict in verdicts]
    assert exit_status(results, None) == status
    assert summary(status) == {0: "proven", 1: "not proven", 6: "inconclusive"}[status]


def judge_as(verdict: Verdict) -> Result:
    result = judge("test", runs("p"), runs("p"))
    return type(result)(result.test, verdict, "", result.base, result.patched)


def test_a_policy_of_the_users() -> None:
    broken, flaky = judge_as(Verdict.BROKEN), judge_as(Verdict.FLAKY)
    assert exit_status([broken], [Verdict.BROKEN]) == 0
    assert exit_status([broken, flaky], [Verdict.BROKEN]) == 6
    assert exit_status([broken, flaky], [Verdict.FLAKY]) == 1
    assert exit_status([judge_as(Verdict.PASSES_BOTH)], [Verdict.PROVES]) == 1
