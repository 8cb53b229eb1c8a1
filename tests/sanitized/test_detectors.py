"""What the kernel's own detectors report, on a kernel that has them: real bugs, real reports."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import pytest

from pytest_kgdb.errors import SplatError
from pytest_kgdb.handle import attachment_of

MODULE = Path(__file__).parent / "modules" / "broken" / "broken.c"
SOURCE = MODULE.read_text().splitlines()


class Bug(NamedTuple):
    """A word for /proc/broken, and what the kernel is to say to it."""

    word: str
    kind: str
    pattern: str
    function: str
    line: str | None = None
    """The word behind HERE in the source; the same where it is None."""
    before: str = "true"
    """What is done in the guest first."""
    last: str | None = None
    """What the report's last line is."""
    smp: int = 1


END = r"---\[ end trace.*\]---"
RULE = "=+"
STALL = "echo 3 > /sys/module/rcupdate/parameters/rcu_cpu_stall_timeout"
BUGS = [
    Bug("freed", "KASAN", "KASAN: (?:slab-)?use-after-free", "broken_freed", last=RULE),
    Bug("bounds", "KASAN", "KASAN: slab-out-of-bounds", "broken_bounds", last=RULE),
    Bug("global", "KASAN", "KASAN: global-out-of-bounds", "broken_global", last=RULE),
    Bug("stack", "KASAN", "KASAN: stack-out-of-bounds", "broken_stack", last=RULE),
    Bug("vmalloc", "KASAN", "KASAN: vmalloc-out-of-bounds", "broken_vmalloc", last=RULE),
    Bug("twice", "KASAN", "KASAN: double-free", "broken_twice", last=RULE),
    Bug("index", "UBSAN", "UBSAN: array-index-out-of-bounds", "broken_index"),
    Bug("shift", "UBSAN", "UBSAN: shift-out-of-bounds", "broken_shift"),
    Bug("order", "lockdep", "possible circular locking dependency", "broken_order"),
    Bug("irq", "lockdep", "inconsistent lock state", "broken_irq"),
    Bug("unlock", "lockdep", "bad unlock balance", "broken_unlock"),
    Bug("rcu", "lockdep", "suspicious RCU usage", "broken_rcu"),
    Bug("sleep", "atomic", "sleeping function called from invalid context", "broken_sleep"),
    Bug("schedule", "atomic", "scheduling while atomic", "broken_schedule"),
    # With one CPU, no grace period would have begun that its CPU could hold up.
    Bug(
        "stall", "RCU stall", "self-detected stall", "broken_spin", line="spin", before=STALL,
        smp=2,
    ),
    Bug(
        "lockup", "soft lockup", "soft lockup - CPU#0 stuck", "broken_spin", line="spin",
        before="echo 1 > /proc/sys/kernel/watchdog_thresh",
    ),
    Bug(
        "hang", "hung task", r"blocked for more than \d+ seconds", "broken_hang",
        before="echo 1 > /proc/sys/kernel/hung_task_timeout_secs",
    ),
    Bug("refcount", "refcount", "addition on 0; use-after-free", "broken_refcount", last=END),
    Bug("list", "list corruption", "list_add corruption", "broken_list", last=END),
]  # fmt: skip
PLAIN = ("bounds", "order", "sleep")
SCANS = 300.0  # seconds: kmemleak reads most of the guest's memory, with KASAN looking on
bugs = pytest.mark.parametrize(
    "bug",
    [pytest.param(entry, id=entry.word, marks=pytest.mark.kgdb(smp=entry.smp)) for entry in BUGS],
)


def line_of(word: str) -> int:
    (number,) = [n for n, line in enumerate(SOURCE, 1) if f"/* HERE {word} */" in line]
    return number


@bugs
def test_it_is_known_for_what_it_is(broken, bug: Bug) -> None:
    broken.run(bug.before)
    with broken.expect_splat(bug.pattern, bug.kind) as expected:
        assert broken.run(f"(echo {bug.word} > /proc/broken)").status == 0
    print(*broken.splats, sep="\n\n")
    splat = expected.splats[0]
    assert splat.kind == bug.kind
    assert not splat.is_fatal
    assert splat.function == bug.function
    # Its place is in the module, whatever it was reported by.
    assert splat.file is not None
    assert splat.file.endswith("modules/broken/broken.c")
    assert splat.line == line_of(bug.line or bug.word)
    assert re.search(
        rf"{bug.function}(?:\.cold)?\+0x\S+ \[broken\].*broken\.c:{splat.line}\b", str(splat)
    )
    assert splat.comm == "sh"
    assert splat.pid > 1
    if bug.last is not None:
        assert re.fullmatch(bug.last, splat.text.splitlines()[-1])
    # The report is one, and nothing else is taken for another.
    assert {entry.kind for entry in broken.splats} == {bug.kind}
    assert "O" in splat.taint


@pytest.mark.parametrize("bug", [entry for entry in BUGS if entry.word in PLAIN], ids=PLAIN)
def test_an_unexpected_one_fails_the_test(broken, bug: Bug) -> None:
    broken.run(bug.before)
    broken.run(f"(echo {bug.word} > /proc/broken)")
    with pytest.raises(SplatError, match=bug.pattern) as failure:
        attachment_of(broken).splats.check()  # what is done at the end of every test
    assert f"broken.c:{line_of(bug.line or bug.word)}" in str(failure.value)


def test_an_interrupts_wait_is_not_a_stall(broken) -> None:
    """The kernel stands in the debugger for longer than its detectors wait."""
    import time

    broken.run(STALL)
    broken.run("echo 1 > /proc/sys/kernel/watchdog_thresh")
    time.sleep(7)
    broken.run("sleep 3")
    assert broken.splats == []


def test_a_stalled_workqueue(broken) -> None:
    broken.run("echo 1 > /sys/module/workqueue/parameters/watchdog_thresh; sleep 1")
    with broken.expect_splat("pool cpus=0 .* stuck for", "workqueue lockup") as expected:
        broken.run("(echo work > /proc/broken)")
    print(expected.splats[0])
    assert {entry.kind for entry in broken.splats} == {"workqueue lockup"}
    text = expected.splats[0].text
    assert re.search(r"in-flight: \d+:broken_job \[broken\]", text)
    assert re.search(r"pending: .*\bbroken_late \[broken\]", text)


def test_a_leak_that_is_reported_at_length(broken) -> None:
    """kmemleak.verbose has the log tell what is in debugfs otherwise."""
    leaks = "/sys/kernel/debug/kmemleak"
    broken.assign("jiffies_min_age", 0)  # one that has just been allocated counts, too
    broken.run("echo Y > /sys/module/kmemleak/parameters/verbose")
    with broken.expect_splat(
        r"unreferenced object 0x\w+ \(size (?:333|512)\)", "memory leak"
    ) as leak:
        scan = f"echo scan > {leaks}"
        broken.run(f"(echo leak > /proc/broken); {scan}; {scan}", timeout=SCANS)
    (splat,) = leak.splats
    print(splat)
    assert len(broken.splats) == 1
    assert (splat.function, splat.line) == ("broken_leak", line_of("leak"))
    assert splat.comm == "sh"
    assert splat.text.splitlines()[-1].startswith("kmemleak: 1 new suspected memory leaks")
    assert "broken.c" in splat.file
