"""The lines by which splats are recognised, each with the file of the kernel that prints it."""

from __future__ import annotations

import re
from typing import Final

from ._panic import PANIC_WORDS

__all__ = [
    "CONTINUED",
    "CUT_HERE",
    "FATAL",
    "HANDLER",
    "KINDS",
    "LOOSE",
    "RULE",
    "WORDS",
    "headline",
    "is_detail",
    "stage_of",
]

# kernel/panic.c, CUT_HERE
CUT_HERE: Final = re.compile(r"^-+\[ cut here \]-+$")
RULE: Final = re.compile(r"^(?:={20,}|-{20,})$")

# The first that matches counts.
_HEADLINES: Final[tuple[tuple[str, str], ...]] = (
    # mm/kasan/report.c, kernel/kcsan/report.c, mm/kmsan/report.c, mm/kfence/report.c
    ("KASAN", r"^BUG: KASAN: |^KASAN: \S+ in range"),
    ("KCSAN", r"^BUG: KCSAN: "),
    ("KMSAN", r"^BUG: KMSAN: "),
    ("KFENCE", r"^BUG: KFENCE: "),
    ("UBSAN", r"^UBSAN: |^Internal error: UBSAN"),  # lib/ubsan.c
    # mm/kmemleak.c, kmemleak_scan; print_unreferenced, with kmemleak.verbose=1 or in debugfs
    (
        "memory leak",
        r"^kmemleak: \d+ new suspected memory leaks|^(?:kmemleak: )?unreferenced object 0x|"
        r"^BUG: memory leak",
    ),
    # kernel/rcu/tree_stall.h, tasks.h; srcu
    ("RCU stall", r"^(?:rcu: )?INFO: rcu\w* (?:self-)?detected .*stall|^rcu_tasks detected stalls"),
    ("hung task", r"^INFO: task \S+:\d+ (?:<[^>]*> )?blocked (?:in I/O wait )?for more than "),
    ("soft lockup", r"^(?:watchdog: )?BUG: soft lockup - CPU#\d+ stuck"),
    ("hard lockup", r"Watchdog detected hard LOCKUP on cpu|^watchdog: BUG: hard lockup"),
    ("workqueue lockup", r"^BUG: workqueue lockup"),
    # kernel/locking/lockdep.c, kernel/rcu/update.c
    (
        "lockdep",
        r"^(?:WARNING|INFO|BUG): (?:possible (?:circular locking dependency|recursive locking|irq "
        r"lock inversion dependency|.*deadlock scenario)|inconsistent lock state|"
        r"\S+-safe -> \S+-unsafe lock order|bad unlock balance|held lock freed|bad contention|"
        r"suspicious RCU usage|lock held when returning to user|Nested lock was not taken|"
        r"trying to register non-static key|Invalid wait context|\S+/\d+ still has locks held|"
        r"nested lock)|^\[ BUG: |^BUG: MAX_LOCK(?:DEP|_DEPTH)|^DEBUG_LOCKS_WARN_ON",
    ),
    # kernel/sched/core.c, kernel/smp.c, lib/smp_processor_id.c
    (
        "atomic",
        r"^BUG: (?:scheduling while atomic: |sleeping function called from invalid context|"
        r"using \S+ in preemptible|workqueue leaked (?:lock or )?atomic)",
    ),
    # arch/x86/kernel/traps.c
    ("general protection", r"^(?:Oops: )?general protection fault"),
    (
        "oops",
        r"^BUG: (?:kernel NULL pointer dereference|unable to handle|stack guard page was hit|"
        r"TASK stack guard page|IRQ stack guard page|\S+ stack guard page was hit|"
        r"kernel stack overflow)|^Unable to handle kernel |^Internal error: |"
        r"^Oops(?:\[#\d+\]|: )|^[a-z][a-z ]+: [0-9a-f]{4} \[#\d+\]|^traps: PANIC: ",
    ),
    ("BUG", r"^kernel BUG at |^Kernel BUG at "),  # lib/bug.c
    # mm/slub.c, slab_bug; mm/page_alloc.c, bad_page; mm/memory.c
    ("slab", r"^BUG [\w-]+ \([^)]*\): "),
    ("bad page", r"^BUG: (?:Bad page|Bad rss-counter|non-zero pgtables_bytes)"),
    ("panic", rf"^{PANIC_WORDS}"),
    ("WARN", r"^WARNING: "),
    ("BUG", r"^BUG: |^BUG at "),
    ("oops", r"^Kernel stack overflow|^Bad mode in "),
    ("WARN", r"^unregister_netdevice: waiting for |^VFS: Busy inodes after unmount"),
    ("interrupt", r"^irq \d+: (?:nobody cared|bogus return value)"),  # kernel/irq/spurious.c
)
_HEADLINE: Final = re.compile(
    "|".join(f"(?P<k{number}>{pattern})" for number, (_, pattern) in enumerate(_HEADLINES))
)
WORDS: Final = re.compile(r"^(?:refcount_t: |list_(?:add|del) corruption)")
"""What lib/refcount.c and lib/list_debug.c print before the headline of a WARN or a BUG."""

KINDS: Final = (
    *dict.fromkeys(kind for kind, _ in _HEADLINES),
    "refcount",
    "list corruption",
)
"""The kinds of splats."""

FATAL: Final = frozenset({"oops", "BUG", "general protection", "panic"})
"""Kinds at which the kernel enters the debugger, and then kills the task or panics."""

CONTINUED: Final = frozenset({"oops", "general protection", "BUG"})
"""Kinds that may follow another headline of the same event: `invalid opcode: 0000 [#1]`."""

LOOSE: Final = frozenset(
    {"KASAN", "KCSAN", "KMSAN", "KFENCE", "UBSAN", "lockdep", "slab", "RCU stall", "bad page"}
)
"""Kinds with free text: sections, tables, explanations."""

HANDLER: Final = r"^\[<[^>]+>\] (?P<handler>[A-Za-z_]\w*)(?: \[\w+\])?(?: threaded \[.*)?$"
"""One of an interrupt that nobody cared for (kernel/irq/spurious.c, __report_bad_irq)."""

# The stages of a splat, in its order (kernel/panic.c, __warn; arch/x86/kernel/dumpstack.c,
# __die and show_regs; mm/kasan/report.c and the others). Lines with a name come once in a splat.
_STAGES: Final[tuple[tuple[int, str | None, str], ...]] = (
    (6, None, r"^-+\[ end trace |^Disabling IRQ #\d+"),
    (
        5,
        None,
        r"^(?:kmemleak: )?\s*(?:\[<[^>]+>\]\s*)?(?:\? )?"
        r"(?:[A-Za-z_][\w.$]*\+0x[0-9a-f]+/0x[0-9a-f]+|(?<=>\] )0x[0-9a-f]+$)",
    ),
    (5, None, rf"^handlers:$|{HANDLER}"),
    (5, None, r"^ ?</?(?:TASK|IRQ|NMI|SOFTIRQ|#\w+|ENTRY|EXCEPTION)[^>]*>"),
    (4, "trace", r"^(?:Call Trace|Call trace|Backtrace|stack backtrace):"),
    (2, "modules", r"^Modules linked in:|^Unloaded tainted modules:"),
    (2, "CPU", r"^CPU: \d+ "),
    (2, "hardware", r"^Hardware name: "),
    (2, None, r"^Tainted: |^Workqueue: |^Stopper: |^irq event stamp|^(?:hard|soft)irqs last"),
    (3, None, r"^(?:RIP|RSP|R[A-D]X|R[SD]I|RBP|R\d\d|FS|CS|CR\d|DR\d|ORIG_RAX|Code|PKRU|EFLAGS): "),
    (
        1,
        None,
        r"^#PF: |^PGD |^Oops: |^KASAN: |^in_atomic\(\): |^preempt_count: |^RCU nest depth|"
        r"^Preemption disabled at|^caller is |^\S+ \[#\d+\]",
    ),
    (
        4,
        None,
        r'^ +(?:Not tainted|Tainted: )|^"echo 0 > |^task:|^(?:rcu: )?\t|^(?:\d+|no) locks? held '
        r"by |^ ?#\d+: |^INFO: lockdep is turned off|^(?:Read|Write|Access) of size |"
        r"^(?:read|write)(?: \(\w+\))? to 0x|^(?:Allocated|Freed) by task|^The buggy |"
        r"^Memory state around|^[ >]?[0-9a-f]{16}: |^Sending NMI|^NMI backtrace|^rcu: |"
        r"^value changed: |^Reported by|"
        r'^(?:kmemleak: )?  (?:comm "|hex dump \(|backtrace\b|  [0-9a-f]{2} )|'
        r"^(?:Object|Redzone|Padding|Bytes b4) |^Slab 0x|^FIX |^\(t=|^page:|^page dumped|^flags: |"
        r"^raw: |"
        # kernel/workqueue.c, show_all_workqueues
        r"^Showing (?:busy workqueues|backtraces of running workers)|^workqueue \S+: flags=|"
        r"^(?:  pwq|pool) \d+: cpus=|^    (?:in-flight|pending|inactive|delayed): ",
    ),
)
_STAGE: Final = re.compile(
    "|".join(f"(?P<s{number}>{pattern})" for number, (_, _, pattern) in enumerate(_STAGES))
)


def headline(text: str) -> str | None:
    """Return the kind of splat that a line is the headline of; None for other lines."""
    match = _HEADLINE.search(text)
    if match is None or match.lastgroup is None:
        return None
    return _HEADLINES[int(match.lastgroup[1:])][0]


def is_detail(text: str) -> bool:
    """Whether a line is a part of a splat, or of a stack, that does not say what happened."""
    if headline(text) is not None:
        return False
    return bool(stage_of(text) or CUT_HERE.match(text) or RULE.match(text))


def stage_of(text: str) -> tuple[int, str | None] | None:
    """Return the stage of a splat that a line belongs to, and its name if it comes only once.

    None for lines that match no stage.
    """
    match = _STAGE.search(text)
    if match is None or match.lastgroup is None:
        return None
    stage, name, _ = _STAGES[int(match.lastgroup[1:])]
    return stage, name
