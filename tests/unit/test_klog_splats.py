"""Splats and log lines, as kernels of several versions and configurations print them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pytest_kgdb.klog import KINDS, LogLine, Splat, console_lines, find_splats

RULE = "=" * 66
CUT = "------------[ cut here ]------------"
END = "---[ end trace 0000000000000000 ]---"
CPU = "CPU: 1 PID: 77 Comm: cat Tainted: G        W  O       6.1.0 #1"
TRACE = [
    "Call Trace:",
    " <TASK>",
    " dump_stack_lvl+0x34/0x48",
    " bad_fn+0x10/0x20 [mod]",
    " </TASK>",
]

# Each is one splat: its kind, the function and the lines.
SPLATS: list[tuple[str, str, list[str]]] = [
    (
        "WARN",
        "bad_fn",
        [CUT, "WARNING: CPU: 1 PID: 77 at mm/x.c:12 bad_fn+0x10/0x20", CPU, *TRACE, END],
    ),
    (
        "refcount",
        "bad_fn",
        [
            CUT,
            "refcount_t: underflow; use-after-free.",
            "WARNING: CPU: 1 PID: 77 at lib/refcount.c:28 refcount_warn_saturate+0xba/0x110",
            CPU,
            *TRACE,
            END,
        ],
    ),
    (
        "list corruption",
        "bad_fn",
        [
            "list_del corruption. prev->next should be ff11, but was 0. (prev=ff12)",
            CUT,
            "kernel BUG at lib/list_debug.c:59!",
            "invalid opcode: 0000 [#1] SMP",
            CPU,
            "RIP: 0010:__list_del_entry_valid+0x8b/0x90",
            *TRACE,
            END,
        ],
    ),
    (
        "BUG",
        "bad_fn",
        [
            CUT,
            "kernel BUG at mm/x.c:12!",
            "Oops: invalid opcode: 0000 [#1] PREEMPT SMP",
            "CPU: 1 UID: 0 PID: 77 Comm: cat Not tainted 6.12.1 #1",
            "RIP: 0010:bad_fn+0x10/0x20 [mod]",
            *TRACE,
            END,
        ],
    ),
    (
        "oops",
        "bad_fn",
        [
            "BUG: kernel NULL pointer dereference, address: 0000000000000008",
            "#PF: supervisor read access in kernel mode",
            "#PF: error_code(0x0000) - not-present page",
            "PGD 0 P4D 0 ",
            "Oops: 0000 [#1] PREEMPT SMP",
            CPU,
            "RIP: 0010:bad_fn+0x10/0x20",
            *TRACE,
            END,
        ],
    ),
    (
        "oops",
        "bad_fn",
        ["divide error: 0000 [#1] SMP", CPU, "RIP: 0010:bad_fn+0x10/0x20", *TRACE, END],
    ),
    (
        "general protection",
        "bad_fn",
        [
            "general protection fault, probably for non-canonical address 0xdead: 0000 [#1] SMP",
            CPU,
            "RIP: 0010:bad_fn+0x10/0x20",
            *TRACE,
            END,
        ],
    ),
    (
        "KASAN",
        "bad_fn",
        [
            RULE,
            "BUG: KASAN: slab-out-of-bounds in bad_fn+0x10/0x20 [mod]",
            "Write of size 1 at addr ffff888007a4c07b by task cat/77",
            "",
            CPU,
            *TRACE,
            "",
            "Allocated by task 77:",
            " kasan_save_stack+0x33/0x60",
            "",
            "The buggy address belongs to the object at ffff888007a4c000",
            " which belongs to the cache kmalloc-128 of size 128",
            "Memory state around the buggy address:",
            " ffff888007a4bf00: fc fc fc fc",
            ">ffff888007a4c000: 00 00 00 03",
            "                               ^",
            RULE,
        ],
    ),
    (
        "UBSAN",
        "bad_fn",
        [
            CUT,
            "UBSAN: array-index-out-of-bounds in mm/x.c:12:3",
            "index 8 is out of range for type 'int [8]'",
            CPU,
            *TRACE,
            "---[ end trace ]---",
        ],
    ),
    (
        "UBSAN",
        "bad_fn",
        [RULE, "UBSAN: shift-out-of-bounds in mm/x.c:12:3", "shift exponent", CPU, *TRACE, RULE],
    ),
    (
        "KCSAN",
        "bad_fn",
        [
            RULE,
            "BUG: KCSAN: data-race in bad_fn / other_fn",
            "",
            "write to 0xffffffffc008a000 of 4 bytes by task 77 on cpu 1:",
            " bad_fn+0x10/0x20",
            "",
            "read to 0xffffffffc008a000 of 4 bytes by task 78 on cpu 0:",
            " other_fn+0x10/0x20",
            "",
            "Reported by Kernel Concurrency Sanitizer on:",
            CPU,
            RULE,
        ],
    ),
    (
        "lockdep",
        "bad_fn",
        [
            "=" * 54,
            "WARNING: possible circular locking dependency detected",
            "6.1.0 #1 Tainted: G        W  O      ",
            "-" * 54,
            "cat/77 is trying to acquire lock:",
            "ffffffff82a00000 (a){+.+.}-{3:3}, at: bad_fn+0x10/0x20",
            "",
            "but task is already holding lock:",
            "ffffffff82a00040 (b){+.+.}-{3:3}, at: bad_fn+0x5/0x20",
            "",
            "which lock already depends on the new lock.",
            "",
            "stack backtrace:",
            CPU,
            *TRACE,
        ],
    ),
    (
        "RCU stall",
        "bad_fn",
        [
            "rcu: INFO: rcu_preempt self-detected stall on CPU",
            "rcu: \t1-....: (2099 ticks this GP) idle=1b4c/1/0x4000000000000000",
            "\t(t=2100 jiffies g=1234 q=5 ncpus=2)",
            CPU,
            "RIP: 0010:bad_fn+0x10/0x20",
            *TRACE,
        ],
    ),
    (
        "hung task",
        "bad_fn",
        [
            "INFO: task cat:77 blocked for more than 120 seconds.",
            "      Tainted: G        W  O       6.1.0 #1",
            '"echo 0 > /proc/sys/kernel/hung_task_timeout_secs" disables this message.',
            "task:cat             state:D stack:0     pid:77    ppid:1      flags:0x00004000",
            "Call Trace:",
            " <TASK>",
            " __schedule+0x2c3/0x8d0",
            " schedule+0x5e/0xd0",
            " bad_fn+0x10/0x20 [mod]",
            " </TASK>",
        ],
    ),
    (
        "soft lockup",
        "bad_fn",
        [
            "watchdog: BUG: soft lockup - CPU#1 stuck for 22s! [cat:77]",
            "Modules linked in: mod(O)",
            CPU,
            "RIP: 0010:bad_fn+0x10/0x20",
            *TRACE,
        ],
    ),
    (
        "interrupt",
        "bad_fn",
        [
            'irq 10: nobody cared (try booting with the "irqpoll" option)',
            CPU,
            "Call Trace:",
            " <IRQ>",
            " dump_stack_lvl+0x33/0x42",
            " __report_bad_irq+0x30/0xa2",
            " </IRQ>",
            "handlers:",
            "[<(____ptrval____)>] bad_fn [mod] threaded [<(____ptrval____)>] other_fn [mod]",
            "Disabling IRQ #10",
        ],
    ),
    (
        "interrupt",
        "",
        [
            "irq 16: bogus return value fffffff4",
            CPU,
            "Call Trace:",
            " dump_stack_lvl+0x33/0x42",
            "handlers:",
            "[<0000000012345678>] a_fn",
            "[<0000000012345679>] another_fn [mod]",
        ],
    ),
    (
        "atomic",
        "bad_fn",
        ["BUG: scheduling while atomic: cat/77/0x00000002", "Modules linked in:", CPU, *TRACE],
    ),
    (
        "atomic",
        "bad_fn",
        [
            "BUG: sleeping function called from invalid context at mm/x.c:12",
            "in_atomic(): 1, irqs_disabled(): 0, non_block: 0, pid: 77, name: cat",
            "preempt_count: 1, expected: 0",
            CPU,
            *TRACE,
        ],
    ),
    (
        "slab",
        "bad_fn",
        [
            RULE,
            "BUG kmalloc-64 (Tainted: G    B   W  O): Right Redzone overwritten",
            "-" * 77,
            "",
            "0xffff888007a4c040-0xffff888007a4c040 @offset=64. First byte 0x0 instead of 0xcc",
            "Slab 0xffffea0000000000 objects=21 used=8",
            "Object   ffff888007a4c000: 6b 6b",
            CPU,
            *TRACE,
        ],
    ),
    (
        "memory leak",
        "",
        ["kmemleak: 1 new suspected memory leaks (see /sys/kernel/debug/kmemleak)"],
    ),
    (
        "memory leak",
        "bad_fn",
        [
            "kmemleak: unreferenced object 0xffff888005c5e2c0 (size 64):",
            'kmemleak:   comm "cat", pid 77, jiffies 4294900000 (age 6.060s)',
            "kmemleak:   hex dump (first 32 bytes):",
            "kmemleak:     6c 6c 6c 6c 6c 6c 6c 6c 6c 6c 6c 6c 6c 6c 6c 6c  llllllllllllllll",
            "kmemleak:   backtrace:",
            "kmemleak:     [<00000000d5cb8d4a>] __kmalloc+0x26/0x90",
            "kmemleak:     [<00000000a0cc8d4a>] bad_fn+0x10/0x20 [mod]",
            "kmemleak:     [<00000000a0cc8d4b>] 0xffffffffc0005040",
            "kmemleak: 1 new suspected memory leaks (see /sys/kernel/debug/kmemleak)",
        ],
    ),
    (
        "memory leak",
        "bad_fn",
        [
            "unreferenced object 0xffff888005c5e2c0 (size 8):",
            '  comm "cat", pid 77, jiffies 4294900000',
            "  hex dump (first 8 bytes):",
            "    6c 6c 6c 6c 6c 6c 6c 6c                          llllllll",
            "  backtrace (crc 47e5c9c7):",
            "    [<00000000d5cb8d4a>] __kmalloc_cache_noprof+0x26/0x90",
            "    [<(____ptrval____)>] bad_fn+0x10/0x20 [mod]",
        ],
    ),
    (
        "workqueue lockup",
        "",
        [
            "BUG: workqueue lockup - pool cpus=0 node=0 flags=0x0 nice=0 stuck for 31s!",
            "Showing busy workqueues and worker pools:",
            "workqueue events: flags=0x0",
            "  pwq 0: cpus=0 node=0 flags=0x0 nice=0 active=3/256 refcnt=4",
            "    in-flight: 7:bad_fn [mod]",
            "    pending: bad_job [mod], vmstat_shepherd",
            "pool 2: cpus=0 flags=0x4 nice=0 hung=0s workers=2 idle: 5",
        ],
    ),
    (
        "UBSAN",
        "bad_fn",
        [
            RULE,
            "UBSAN: shift-out-of-bounds in mod.c:96:11",
            "shift exponent 40 is too large for 32-bit type 'int'",
            CPU,
            "Call Trace:",
            " dump_stack_lvl+0x4c/0x5f",
            " ubsan_epilogue+0x5/0x2c",
            " __ubsan_handle_shift_out_of_bounds.cold+0x61/0xfb",
            " bad_fn.part.0.cold+0x15/0x1c [mod]",
            RULE,
        ],
    ),
    (
        "panic",
        "bad_fn",
        [
            "Kernel panic - not syncing: sysrq triggered crash",
            CPU,
            *TRACE,
            END,
        ],
    ),
]
IDS = [f"{number}-{kind}" for number, (kind, *_) in enumerate(SPLATS)]
# Lines of a healthy kernel, to stand before and behind.
HEALTHY = [
    "Linux version 6.1.0",
    "sysrq: DEBUG",
    "EXT4-fs (vda): mounted filesystem without journal. Quota mode: none.",
    "cat[77]: segfault at 0 ip 0000 sp 0000 error 4 in busybox",
    "clocksource: Watchdog remote CPU 1 read timed out",
    "BUG_ON is a macro; WARNING signs are yellow",
    "WARNINGS: none",
]


def lines(texts: list[str], caller: str | None = "T77", *, at: float = 1.0) -> list[LogLine]:
    return [LogLine(text, at, caller, seq) for seq, text in enumerate(texts)]


def one(texts: list[str], caller: str | None = "T77") -> Splat:
    (splat,) = find_splats(lines(texts, caller))
    return splat


def test_a_healthy_kernel_has_none() -> None:
    assert find_splats(lines(HEALTHY)) == []
    assert find_splats(lines(HEALTHY, None)) == []


@pytest.mark.parametrize("caller", ["T77", None], ids=["with-caller", "without-caller"])
@pytest.mark.parametrize(("kind", "function", "texts"), SPLATS, ids=IDS)
def test_each_kind(kind: str, function: str, texts: list[str], caller: str | None) -> None:
    splat = one([*HEALTHY, *texts, *HEALTHY], caller)
    assert splat.kind == kind
    assert splat.kind in KINDS
    assert splat.text == "\n".join(texts)
    assert (splat.function or "") == function
    if function:
        assert (splat.pid, splat.comm) == (77, "cat")
    if CPU in texts:
        assert (splat.cpu, splat.taint) == (1, "OW")


@pytest.mark.parametrize(("kind", "function", "texts"), SPLATS, ids=IDS)
def test_cut_off_at_any_line_it_still_is_one(kind: str, function: str, texts: list[str]) -> None:
    """The kernel may stop in the midst of it."""
    first = next(n for n in range(len(texts)) if find_splats(lines(texts[: n + 1])))
    for end in range(first + 1, len(texts)):
        assert [splat.kind for splat in find_splats(lines(texts[:end]))] == [kind]


@pytest.mark.parametrize(("kind", "function", "texts"), SPLATS, ids=IDS)
def test_two_at_once(kind: str, function: str, texts: list[str]) -> None:
    """Two callers that print line by line in turn."""
    other = [
        "BUG: scheduling while atomic: dd/9/0x00000002",
        "CPU: 0 PID: 9 Comm: dd Not tainted 6.1",
    ]
    other += [" theirs_a+0x1/0x2", " theirs_b+0x1/0x2"]
    turns = []
    for seq in range(max(len(texts), len(other))):
        turns += [
            LogLine(report[seq], 1.0, caller, 2 * seq)
            for report, caller in ((texts, "T77"), (other, "C0"))
            if seq < len(report)
        ]
    splats = find_splats(turns)
    assert [splat.kind for splat in splats] == [kind, "atomic"]
    assert {splat.text for splat in splats} == {"\n".join(texts), "\n".join(other)}


def test_what_a_warning_says() -> None:
    begun = [CUT, "the disk is full: 7", "WARNING: CPU: 1 PID: 77 at mm/x.c:12 bad_fn+0x10/0x20"]
    splat = one([*begun, CPU, *TRACE, END])
    assert (splat.message, splat.file, splat.line) == ("the disk is full: 7", "mm/x.c", 12)
    assert splat.title == begun[2]
    assert one([begun[2], "said behind", CPU, *TRACE, END]).message == "said behind"


def test_a_panic_is_part_of_what_led_to_it() -> None:
    oops = SPLATS[4][2]
    splat = one([*oops, "Kernel panic - not syncing: Fatal exception"])
    assert splat.kind == "oops"
    assert splat.is_fatal
    assert splat.text.endswith("Fatal exception")


def test_a_panic_behind_a_warning_has_another_cause() -> None:
    warn = SPLATS[0][2]
    splats = find_splats(lines([*warn, "Kernel panic - not syncing: sick unto death"]))
    assert [(splat.kind, splat.is_fatal) for splat in splats] == [("WARN", False), ("panic", True)]
    # kernel/panic.c, __warn: before the last line.
    splat = one([*warn[:-1], "Kernel panic - not syncing: kernel: panic_on_warn set ..."])
    assert (splat.kind, splat.is_fatal) == ("WARN", True)


def test_a_splat_in_a_line() -> None:
    warning = "WARNING: CPU: 1 PID: 77 at mm/x.c:12 bad_fn+0x10/0x20"
    assert one([CUT, warning, CPU, *TRACE, END]).summary == warning
    said = [CUT, "the disk is full: 7", "and more", warning, CPU, *TRACE, END]
    assert one(said).summary == f"{warning}: the disk is full: 7"
    assert one([CUT, " ", warning, CPU, *TRACE, END]).summary == warning
    refcount = next(text for kind, _, text in SPLATS if kind == "refcount")
    splat = one(refcount)
    line = f"{refcount[2]}: refcount_t: underflow; use-after-free, in bad_fn"
    assert splat.summary == line
    frames = [replace(frame, file="mm/x.c", line=12) for frame in splat.frames]
    assert splat.with_frames(frames).summary == f"{line} at mm/x.c:12"
    stall = "rcu: INFO: rcu_sched detected stalls on CPUs/tasks:"
    assert one([stall, CPU, *TRACE]).summary == f"{stall[:-1]}, in bad_fn"
    # kernel/rcu/tree_stall.h, rcu_check_gp_kthread_starvation: that thread's stack comes first.
    thread = ["rcu: RCU grace-period kthread stack dump:", "Call Trace:", " <TASK>",
              " schedule+0x53/0xc0", " rcu_gp_fqs_loop+0x110/0x490", " </TASK>"]  # fmt: skip
    last = ["rcu: Stack dump where RCU GP kthread last ran:", CPU, "RIP: 0010:spin+0x4/0x20 [mod]"]
    splat = one([stall, *thread, *last, "Call Trace:", " <TASK>", " kthread+0xbb/0xe0", " </TASK>"])
    assert splat.function == "spin"


@pytest.mark.parametrize(
    "waits",
    [
        ["schedule_timeout", "__wait_for_common"],
        ["schedule_preempt_disabled", "__mutex_lock.constprop.0"],
        ["rwsem_down_write_slowpath", "down_write"],
        ["schedule_timeout", "__down_common", "down"],
        ["schedule_timeout", "__wait_for_common", "__flush_work.isra.0"],
    ],
)
def test_a_hung_task_is_named_by_who_waits(waits: list[str]) -> None:
    headline, *_ = report = next(text for kind, _, text in SPLATS if kind == "hung task")
    at = report.index(" bad_fn+0x10/0x20 [mod]")
    report = [*report[:at], *(f" {name}+0x1/0x2" for name in waits), *report[at:]]
    assert one(report).function == "bad_fn"
    assert one(report).summary == f"{headline[:-1]}, in bad_fn"


def test_one_behind_the_other() -> None:
    warn = SPLATS[0][2]
    splats = find_splats(lines([*warn, "a line between", *warn, *warn]))
    assert [splat.text for splat in splats] == ["\n".join(warn)] * 3


def test_frames() -> None:
    splat = one(
        [
            "BUG: scheduling while atomic: cat/77/0x00000002",
            "RIP: 0010:inner.cold+0x1f/0x40",
            " ? doubtful+0x2/0x3",
            " caller+0xa/0xb [mod]",
            " [<ffffffff81000000>] older+0x1/0x2",
            "FS:  0000000015cf83c0(0000) GS:ff1100000f600000(0000)",
        ]
    )
    fields = [(f.function, f.offset, f.size, f.module, f.reliable, f.is_call) for f in splat.frames]
    assert fields == [
        ("inner.cold", 0x1F, 0x40, None, True, False),
        ("doubtful", 2, 3, None, False, True),
        ("caller", 10, 11, "mod", True, True),
        ("older", 1, 2, None, True, True),
    ]


def test_console_lines() -> None:
    text = (
        b"# echo hi\r\nhi[    1.500000] WARNING: one\r\n there\r\n"
        b"[    1.500001][   T77] two\r\n[    1.500000] WARNING: one\r\n[    1.6"
    )
    assert console_lines(text, offset=100) == [
        LogLine("WARNING: one", 1.5, None, 113, "console"),
        LogLine("two", 1.500001, "T77", 150, "console"),
    ]
    assert console_lines(text, [b"[    1.500001][   T77] two\r\n"])[-1].text == "WARNING: one"
    assert console_lines(b"[    1.500000] BUG: half a li")[0].text == "BUG: half a li"


def test_what_a_program_has_written_is_no_splat() -> None:
    warn = ["WARNING: CPU: 0 PID: 1 at x.c:3 f+0x1/0x2", "RIP: 0010:f+0x1/0x2", "Call Trace:"]
    mine = [replace(line, by_program=True) for line in lines(["BUG: mine", *warn])]
    assert find_splats(mine) == []
    first, *rest = lines(warn)
    (splat,) = find_splats([first, *mine, *rest])
    assert splat.text.splitlines() == warn
