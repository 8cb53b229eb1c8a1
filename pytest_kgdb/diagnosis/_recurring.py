"""What keeps a CPU in an interrupt by coming again at once: hrtimers and tasklets."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from ._locks import lock_name

if TYPE_CHECKING:
    import drgn

    from ._stack import StackFrame

__all__ = ["BETWEEN", "Recurring", "recurring"]

# arch/x86/kernel/apic/apic.c; kernel/time/hrtimer.c, the second for hrtimers of softirqs
_HRTIMERS: Final = frozenset(
    {"local_apic_timer_interrupt", "hrtimer_interrupt", "hrtimer_run_softirq"}
)
# kernel/softirq.c; the second does the first's work in 6.1.192 and 6.12.
_SOFTIRQS: Final = frozenset({"__do_softirq", "handle_softirqs", "tasklet_action_common"})

BETWEEN: Final = _HRTIMERS | _SOFTIRQS | {"__hrtimer_run_queues"}
"""Where a CPU is at all times that is called again and again, and does not stay in one call."""


class Recurring(NamedTuple):
    """What a CPU is interrupted for again and again, if it is the same at several times."""

    kind: str
    """What the CPU does then."""
    what: str
    """In words, with its function."""


def recurring(program: drgn.Program, cpu: int, frames: Sequence[StackFrame]) -> Recurring | None:
    """Return the hrtimer or the tasklet that a CPU in such an interrupt has before it.

    :param frames: the CPU's stack.
    :return: None where there is none, or it is not certain.
    """
    import drgn

    names = {frame.name for frame in frames}
    with contextlib.suppress(AttributeError, LookupError, ValueError, drgn.FaultError):
        if not names.isdisjoint(_HRTIMERS):
            return next(_due_hrtimers(program, cpu), None)
        if not names.isdisjoint(_SOFTIRQS):
            return next(_scheduled_tasklets(program, cpu), None)
    return None


def _due_hrtimers(program: drgn.Program, cpu: int) -> Iterator[Recurring]:
    """Yield those that run, or are due (kernel/time/hrtimer.c, __hrtimer_run_queues).

    The kernel's tick is none.
    """
    import drgn
    from drgn.helpers.linux.percpu import per_cpu

    now = program["tk_core"].timekeeper.tkr_mono.base.value_()
    bases = per_cpu(program["hrtimer_bases"], cpu).clock_base
    for index in range(len(bases)):
        base = bases[index]
        timer = base.running
        if not timer and (node := base.active.rb_root.rb_leftmost):
            timer = drgn.container_of(node, "struct hrtimer", "node.node")
            if timer.node.expires.value_() - base.offset.value_() > now:
                continue
        if not timer:
            continue
        function = program.symbol(timer.function.value_()).name
        if not function.startswith("tick_"):
            name = lock_name(program, timer.value_(), "hrtimer")
            what = f"the hrtimer {name}, whose function is {function}"
            yield Recurring("running an hrtimer that is always due", what)


def _scheduled_tasklets(program: drgn.Program, cpu: int) -> Iterator[Recurring]:
    """Yield the first of those that are scheduled (kernel/softirq.c, tasklet_vec)."""
    from drgn.helpers.linux.percpu import per_cpu

    for vector in ("tasklet_vec", "tasklet_hi_vec"):
        if tasklet := per_cpu(program[vector], cpu).head:
            function = program.symbol(tasklet.func.value_()).name  # a union with `callback`
            name = lock_name(program, tasklet.value_(), "tasklet_struct")
            what = f"the tasklet {name}, whose function is {function}"
            yield Recurring("running a tasklet that is scheduled again each time", what)
