"""Tasks that are at the same place at several times: in a loop, in an exception, or waiting."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ._cpus import CpuSample
from ._recurring import BETWEEN, IRQ_WORKS, Recurring, storm
from ._stack import StackFrame, place_of

__all__ = ["Loop", "loop_of"]

# arch/x86/include/asm/idtentry.h: asm_exc_page_fault, asm_exc_general_protection
_EXCEPTION: Final = re.compile(r"(?:asm_)?exc_(\w+)")
# Fewer do not show that a CPU is in one place.
_LEAST: Final = 3
# How often what is interrupted for must have been seen.
_AGAIN: Final = 2


@dataclass(frozen=True)
class Loop:
    """A task that does not leave a place."""

    kind: str
    """What it does there."""
    where: str
    """The CPU, the place, the task, and what it waits for."""
    deaf: bool
    """Whether its interrupts are off."""
    user: bool = False
    """Whether it is a user program that loops."""
    pid: int = -1
    """Of the task."""

    def __str__(self) -> str:
        return f"{self.kind}: {self.where}"


def loop_of(samples: Sequence[CpuSample], looks: int) -> Loop | None:
    """Return the place that a task does not leave; None where it leaves it, or the CPU.

    What loops is preempted now and then by the kernel's own threads (kworker, ksoftirqd), and goes
    on where a CPU is free; it has not left its CPU by itself (`nvcsw`) for that.

    :param samples: of the CPUs that ran it, the earliest first.
    :param looks: how often the machine was looked at.
    """
    last = samples[-1]
    if len(samples) < _LEAST or not last.started:
        return None
    often = 2 * len(samples) > looks
    if often and (again := _storm(samples) or _recurring(samples, IRQ_WORKS, 4)):
        # Whatever task, and be it the idle one, gets an instruction in between.
        return Loop(again.kind, f"CPU {last.number}, {again.what}", deaf=False, pid=last.pid)
    # ksoftirqd may wake somebody each time, who waits again.
    if last.comm.startswith("ksoftirqd/") and (again := _recurring(samples, share=4)):
        return Loop(again.kind, f"CPU {last.number}, {again.what}", deaf=False, pid=last.pid)
    if not often:
        return None
    if any(sample.idle or sample.switches != last.switches for sample in samples):
        return None
    if any(sample.user for sample in samples) and not any(map(_in_syscall, samples)):
        where = f"{last.task} on CPU {last.number}"
        return Loop("running in user mode", where, deaf=False, user=True, pid=last.pid)
    if any(sample.user for sample in samples):
        return None
    whole = _whole(samples)
    if len(whole) < _LEAST:
        return None
    place, depth = _common_place(whole)
    states = {sample.interrupts_in(depth) for sample in whole} - {None}
    # Whoever was preempted heard an interrupt.
    deaf = states == {False} and len(samples) == looks
    off = " with interrupts off" if deaf else ""
    where = f"CPU {last.number} in {place.place if place else hex(last.pc)}"
    task = f", {last.task}" if last.pid >= 0 else ""
    if deaf and all(sample.waits for sample in samples):
        return Loop("halted with interrupts off", where + task, deaf)
    # Or out of it for an instant, as ksoftirqd between two softirqs.
    if (place is None or place.name in BETWEEN) and (again := _recurring(whole)):
        return Loop(again.kind + off, f"CPU {last.number}, {again.what}", deaf)
    if place is None:
        if not deaf or len({sample.pc for sample in samples}) > 1:
            return None
        return Loop(f"spinning{off}", where + task, deaf)
    if exception := _exception(whole, place):
        return Loop(f"looping in an exception{off}", f"{where}, {exception}{task}", deaf)
    awaited = _awaited(whole, depth)
    wait = f", waiting for {awaited}" if awaited else ""
    return Loop(f"spinning{off}", where + task + wait, deaf)


def _awaited(samples: Sequence[CpuSample], depth: int) -> str:
    """Return what a CPU spun for at all times, in words; empty if it is not the same.

    :param depth: of the function that it does not leave: what that has interrupted does not count.
    """
    if not all(sample.spins_within(depth) for sample in samples if sample.spins_for):
        return ""
    if len({sample.timer or sample.spins_for for sample in samples}) > 1:
        return ""
    # A timer's function is missing at a look at which the stack of its CPU ends early.
    return max((sample.spins_for or "" for sample in samples), key=len)


def _recurring(
    samples: Sequence[CpuSample], within: frozenset[str] = BETWEEN, share: int = 2
) -> Recurring | None:
    """Return what came again and again while a CPU was in such interrupts most of the times.

    It is not seen while the kernel is about to call it.

    :param within: the functions in which such an interrupt is.
    :param share: what part of the times is enough: more than one in so many.
    """
    inside = sum(any(frame.name in within for frame in sample.frames) for sample in samples)
    seen = Counter(sample.recurring for sample in samples if sample.recurring is not None)
    again, times = seen.popitem() if len(seen) == 1 else (None, 0)
    if again is None or again.certain:
        return again
    return again if share * inside > len(samples) and times >= _AGAIN else None


def _storm(samples: Sequence[CpuSample]) -> Recurring | None:
    """Return the interrupt of a device that leaves a CPU no time; None for none."""
    on_cpu = [sample for sample in samples if sample.number == samples[-1].number]
    counted = [sample.irqs for sample in on_cpu if sample.irqs]
    if not counted:
        return None
    return storm(counted[0], counted[-1], mostly=2 * len(counted) > len(on_cpu))


def _in_syscall(sample: CpuSample) -> bool:
    """Whether a program had called the kernel; it is interrupted otherwise."""
    return any(frame.name.startswith("do_syscall_64") for frame in sample.frames)


def _whole(samples: Sequence[CpuSample]) -> Sequence[CpuSample]:
    """Return the samples whose stacks lead to how the kernel was entered, as most of them do.

    Between some instructions of an entry there is nothing to unwind a stack by, and it ends there
    (arch/x86/entry/entry_64.S, where UNWIND_HINT_REGS comes after the stack is switched).
    """
    ends = Counter(sample.frames[-1].sp for sample in samples if sample.frames)
    if not ends:
        return samples
    end, number = ends.most_common(1)[0]
    if 2 * number <= len(samples):
        return samples
    return [sample for sample in samples if sample.frames and sample.frames[-1].sp == end]


def _common(samples: Sequence[CpuSample]) -> list[StackFrame]:
    """Return the frames that all stacks have in common, innermost first, as in the last one."""
    stacks = [sample.frames for sample in samples]
    number = 0
    shortest = min(len(stack) for stack in stacks)
    while number < shortest:
        frames = {(stack[-1 - number].name, stack[-1 - number].sp) for stack in stacks}
        if len(frames) > 1:
            # An inner frame that differs in its stack pointer alone is another call.
            break
        number += 1
    return list(stacks[-1][len(stacks[-1]) - number :])


def _common_place(samples: Sequence[CpuSample]) -> tuple[StackFrame | None, int]:
    """Return the function that a CPU has not left, at the line where it was most of the time.

    None if it may have: a system call that was made again has the same frames. The second is its
    depth in each stack, counted from the outermost frame; 0 for none.
    """
    common = _common(samples)
    place = place_of(common)
    if place is None or place.is_base:
        return None, 0
    if _in_syscall(samples[-1]) and len({sample.entry for sample in samples}) > 1:
        return None, 0
    depth = len(common) - common.index(place)
    lines = Counter(sample.frames[-depth].line for sample in samples if len(sample.frames) >= depth)
    line = max(lines, key=lambda number: lines[number])
    return StackFrame(place.name, place.file, line, place.sp, place.interrupted), depth


def _exception(samples: Sequence[CpuSample], place: StackFrame) -> str:
    """Return the exception that a function takes again and again, in words; empty for none."""
    names: Counter[str] = Counter()
    others: set[int] = set()  # where it was otherwise, without those on the way back
    for sample in samples:
        for inner, frame in zip(sample.frames, sample.frames[1:], strict=False):
            match = _EXCEPTION.fullmatch(inner.name)
            if match and frame.name == place.name and frame.interrupted:
                names[match[1]] += 1
                break
        else:
            if not any(one.name == place.name and one.interrupted for one in sample.frames[1:]):
                others.add(sample.pc)
    # One that is between its exceptions at one instruction always does nothing else.
    if not names or (2 * names.total() < len(samples) and len(others) > 1):
        return ""
    name = names.most_common(1)[0][0].replace("_", " ")
    return f"{name} after {name}"
