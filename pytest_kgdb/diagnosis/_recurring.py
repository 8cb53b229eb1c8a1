"""What keeps a CPU in interrupts by coming again at once: timers, tasklets, irq_works, devices."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from ._locks import lock_name

if TYPE_CHECKING:
    import drgn

    from ._stack import StackFrame

__all__ = ["BETWEEN", "IRQ_WORKS", "CountedIrq", "Recurring", "counted_irqs", "recurring", "storm"]

# arch/x86/kernel/apic/apic.c; kernel/time/hrtimer.c, the second for hrtimers of softirqs
_HRTIMERS: Final = frozenset(
    {"local_apic_timer_interrupt", "hrtimer_interrupt", "hrtimer_run_softirq"}
)
# kernel/softirq.c; the second does the first's work in 6.1.192 and 6.12.
_SOFTIRQS: Final = frozenset({"__do_softirq", "handle_softirqs", "tasklet_action_common"})

# arch/x86/kernel/irq.c, since 5.8; do_IRQ() before.
_IRQS: Final = frozenset({"common_interrupt", "__common_interrupt", "do_IRQ"})
_AGAIN: Final = "running a tasklet that is scheduled again each time"
_STORM: Final = 5_000
"""How often a device's interrupt comes while a CPU is looked at, which takes a second or two, if it
is not acknowledged: 30,000 to 70,000 times under TCG; busy ones come a few hundred times."""
_STORM_OF_SLOW: Final = 200
"""So few are enough where the CPU was in such an interrupt most of the times: on a host that has
much else to do, the guest does little while it is looked at."""

IRQ_WORKS: Final = frozenset(
    {
        *("asm_sysvec_irq_work", "sysvec_irq_work", "__sysvec_irq_work"),
        *("irq_work_run", "irq_work_run_list", "irq_work_single"),
    }
)
"""Where a CPU is now and again that has an irq_work queued again each time (kernel/irq_work.c;
arch/x86/kernel/irq_work.c): at the end of the interrupt the next one comes, and what is interrupted
gets no further. The entry's and the exit's own code has no frames."""

BETWEEN: Final = _HRTIMERS | _SOFTIRQS | {"__hrtimer_run_queues"}
"""Where a CPU is at all times that is called again and again, and does not stay in one call."""


class Recurring(NamedTuple):
    """What a CPU is interrupted for again and again, if it is the same at several times."""

    kind: str
    """What the CPU does then."""
    what: str
    """In words, with its function."""
    certain: bool = False
    """Whether it comes again for certain, so that to see it once is enough."""


class CountedIrq(NamedTuple):
    """A device's interrupt, how often a CPU has had it, and its handlers."""

    number: int
    times: int
    handlers: tuple[str, ...]


def recurring(program: drgn.Program, cpu: int, frames: Sequence[StackFrame]) -> Recurring | None:
    """Return the hrtimer, tasklet or irq_work that a CPU in such an interrupt has before it.

    :param frames: the CPU's stack.
    :return: None where there is none, or it is not certain.
    """
    import drgn

    names = {frame.name for frame in frames}
    with contextlib.suppress(AttributeError, LookupError, ValueError, drgn.FaultError):
        if not names.isdisjoint(_HRTIMERS):
            return next(_due_hrtimers(program, cpu), None)
        # While one is called, it is in no list; it is where ksoftirqd has not begun yet.
        if not names.isdisjoint(_SOFTIRQS | {"smpboot_thread_fn"}):
            return next(_scheduled_tasklets(program, cpu), None)
        if not names.isdisjoint(IRQ_WORKS):
            return next(_queued_irq_works(program, cpu), None)
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
            # tasklet_action_common() schedules it again until tasklet_enable().
            disabled = tasklet.count.counter.value_() > 0
            kind = "waiting for a tasklet that is disabled" if disabled else _AGAIN
            yield Recurring(kind, what, certain=disabled)


def _queued_irq_works(program: drgn.Program, cpu: int) -> Iterator[Recurring]:
    """Yield the first of those that are queued (kernel/irq_work.c, raised_list and lazy_list)."""
    import drgn
    from drgn.helpers.linux.percpu import per_cpu

    for queue in ("raised_list", "lazy_list"):
        if node := per_cpu(program[queue], cpu).first:
            kind = program.type("struct irq_work")
            # Since 5.11 its node is that of a call of a function on another CPU.
            member = "node.llist" if kind.has_member("node") else "llnode"
            work = drgn.container_of(node, kind, member)
            function = program.symbol(work.func.value_()).name
            name = lock_name(program, work.value_(), "irq_work")
            what = f"the irq_work {name}, whose function is {function}"
            yield Recurring("running an irq_work that is queued again each time", what)


def counted_irqs(
    program: drgn.Program, cpu: int, frames: Sequence[StackFrame]
) -> tuple[CountedIrq, ...]:
    """Return the interrupts that have handlers, if the CPU is in one of them; nothing otherwise.

    :param frames: the CPU's stack.
    """
    import drgn
    from drgn.helpers.linux.irq import for_each_irq_desc, irq_desc_kstat_cpu

    if _IRQS.isdisjoint(frame.name for frame in frames):
        return ()
    with contextlib.suppress(AttributeError, LookupError, ValueError, drgn.FaultError):
        return tuple(
            CountedIrq(number, irq_desc_kstat_cpu(desc, cpu), tuple(_handlers(program, desc)))
            for number, desc in for_each_irq_desc(program)
            if desc.action
        )
    return ()


def _handlers(program: drgn.Program, desc: drgn.Object) -> Iterator[str]:
    """Yield the names of an interrupt's handlers (include/linux/interrupt.h, irqaction)."""
    action = desc.action.read_()
    while action:
        yield program.symbol(action.handler.value_()).name
        action = action.next.read_()


def storm(
    first: Sequence[CountedIrq], last: Sequence[CountedIrq], *, mostly: bool
) -> Recurring | None:
    """Return the interrupt that has come again and again between two times; None for none.

    :param mostly: whether the CPU was in a device's interrupt most of the times in between.
    """
    least = _STORM_OF_SLOW if mostly else _STORM
    before = {irq.number: irq.times for irq in first}
    often = [irq for irq in last if irq.times - before.get(irq.number, irq.times) >= least]
    if len(often) != 1:
        return None
    (irq,) = often
    plural = "s are" if len(irq.handlers) > 1 else " is"
    what = f"irq {irq.number}, whose handler{plural} {' and '.join(irq.handlers)}"
    return Recurring("in an interrupt that comes again at once", what)
