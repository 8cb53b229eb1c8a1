"""What a machine does that does not come to where it was to come: told by samples of it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

from pytest_kgdb.diagnosis import (
    CpuSample,
    Diagnosis,
    Samples,
    WaitingTask,
    diagnose,
    explained,
    sample_cpus,
)
from pytest_kgdb.diagnosis._command import Process, Story, likeliest_first
from pytest_kgdb.diagnosis._recurring import CountedIrq, Recurring
from pytest_kgdb.diagnosis._stack import StackFrame, place_of
from pytest_kgdb.diagnosis._timers import RunningTimer
from pytest_kgdb.diagnosis._wait import Holder, Wait
from pytest_kgdb.errors import BootError, KgdbError, TimeoutError
from pytest_kgdb.handle._cpu_stacks import CpuStacks

DUMP = """CPU#0\r
RAX=0000000000000000 RBX=ffffffff81e11600\r
RIP=ffffffff81024bae RFL=00000046 [---Z-P-] CPL=0 II=0 A20=1 SMM=0 HLT=0\r
CPU#1
RIP=ffffffff81024bae RFL=00000246 [---Z-P-] CPL=0 II=0 A20=1 SMM=0 HLT=1
CPU#2
RIP=000000000047b7a0 RFL=00000246 [---Z-P-] CPL=3 II=0 A20=1 SMM=0 HLT=0
CPU#3
EIP=0000fff0 EFL=00000002 [-------] CPL=0 II=0 A20=1 SMM=0 HLT=1
"""

KERNEL = 0xFFFFFFFF81000000
ON, OFF = 0x246, 0x46

ENTRY = StackFrame("do_syscall_64", "arch/x86/entry/common.c", 76, 0x7000)
WRITE = StackFrame("ksys_write", "fs/read_write.c", 637, 0x6000)
SPIN = StackFrame("demo_spin", "/src/demo.c", 30, 0x5000)
TIMER = StackFrame("update_process_times", "kernel/time/timer.c", 1, 0x4000)
IDLE = StackFrame("default_idle", "arch/x86/kernel/process.c", 743, 0x5000)


def cpu(*frames: StackFrame, flags: int = ON, **fields: Any) -> CpuSample:
    values: dict[str, Any] = {"user": False, "waits": False, "pid": 52, "comm": "dd"}
    registers = {"RFL": flags, "RIP": fields.pop("rip", KERNEL)}
    # As drgn has it: the innermost frame is always one that was interrupted.
    stack = [replace(frame, interrupted=True) for frame in frames[:1]] + list(frames[1:])
    return CpuSample(0, registers, **{**values, **fields, "frames": tuple(stack)})


IDLE_WORDS = "idle: nothing is blocked"
IDLE_CPU = cpu(IDLE, pid=0, comm="swapper/0", waits=True)


def task(pid: int = 60, **fields: Any) -> WaitingTask:
    values: dict[str, Any] = {
        "comm": "cat", "uninterruptible": True, "program": True, "has_tty": False, "switches": 1,
        "frames": (SPIN, WRITE, ENTRY),
    }  # fmt: skip
    return WaitingTask(pid * 0x1000, pid, **{**values, **fields})


def samples(*cpus: CpuSample, chains: list[list[WaitingTask]] | None = None) -> Samples:
    taken = Samples(None, cpus=[[one] for one in cpus], dump=DUMP)
    taken.chains = [] if chains is None else chains
    return taken


def headline(*cpus: CpuSample, chains: list[list[WaitingTask]] | None = None) -> str:
    return diagnose(samples(*cpus, chains=chains)).headline


# One look


def test_registers() -> None:
    cpus = sample_cpus(None, DUMP, None)
    assert [one.interrupts for one in cpus[:3]] == [False, True, True]
    assert [one.waits for one in cpus] == [False, True, False, True]
    assert [one.user for one in cpus] == [False, False, True, False]
    assert [one.started for one in cpus] == [True, True, True, False]
    assert list(cpus[3].lines()) == ["CPU 3, not in the kernel, at 0xfff0"]
    assert sample_cpus(None, "", None) == []


def test_interrupts_of_what_was_interrupted() -> None:
    fault = replace(SPIN, interrupted=True, flags=ON)
    look = cpu(TIMER, fault, ENTRY, flags=OFF)
    assert [look.interrupts_in(depth) for depth in (3, 2, 1)] == [False, True, True]
    assert not look.interrupts, "in the handler they are off"
    assert cpu(fault, ENTRY, flags=OFF).interrupts_in(2) is False, "the innermost is the CPU's"
    inlined = replace(SPIN, name="cpu_relax", interrupted=True)
    look = cpu(inlined, replace(fault, flags=None), ENTRY, flags=OFF)
    assert [look.interrupts_in(depth) for depth in (3, 2, 1)] == [False] * 3
    look = cpu(TIMER, replace(fault, flags=OFF), ENTRY, flags=ON)
    assert [look.interrupts_in(depth) for depth in (3, 2, 1)] == [True, False, False]
    # On the way into the handler.
    look = cpu(TIMER, replace(fault, flags=None), ENTRY, flags=OFF)
    assert [look.interrupts_in(depth) for depth in (3, 2)] == [False, None]
    # A fault in a fault's handler.
    inner = replace(TIMER, interrupted=True, flags=OFF)
    innermost = replace(IDLE, sp=0x3000)
    assert cpu(innermost, inner, fault, ENTRY, flags=OFF).interrupts_in(2)


def test_where_a_stack_waits() -> None:
    schedule = StackFrame("schedule", "kernel/sched/core.c", 1)
    lock = StackFrame("__mutex_lock", "kernel/locking/mutex.c", 2)
    inlined = StackFrame("lock_page", "include/linux/pagemap.h", 3)
    assert place_of([schedule, lock, inlined, SPIN, WRITE]) == SPIN
    assert place_of([]) is None
    halt = StackFrame("native_halt", "arch/x86/include/asm/irqflags.h", 57)
    stop = StackFrame("stop_this_cpu", "arch/x86/kernel/process.c", 800)
    machine = StackFrame("native_machine_halt", "arch/x86/kernel/reboot.c", 700)
    reboot = StackFrame("__do_sys_reboot", "kernel/reboot.c", 750)
    assert place_of([halt, stop, machine, reboot, ENTRY]) == reboot
    # Nobody but the syscall itself: what is nearest to that.
    sleep = StackFrame("hrtimer_nanosleep", "kernel/time/hrtimer.c", 4)
    assert place_of([schedule, sleep, ENTRY]) == sleep
    assert SPIN.place == "demo_spin (demo.c:30)"
    assert WRITE.place == "ksys_write (fs/read_write.c:637)"
    assert StackFrame("0xffffffffc0000000").place == "0xffffffffc0000000"


@pytest.mark.parametrize(
    "frames",
    [
        "kthread_park kernel/kthread.c",
        "kthread_flush_work kernel/kthread.c, __kthread_cancel_work_sync kernel/kthread.c",
        "__flush_work kernel/workqueue.c, cancel_delayed_work_sync kernel/workqueue.c",
        "call_usermodehelper_exec kernel/umh.c, call_usermodehelper kernel/umh.c",
        "async_synchronize_cookie_domain kernel/async.c, async_synchronize_full kernel/async.c",
        "csd_lock_wait kernel/smp.c, smp_call_function_single kernel/smp.c",
        "stop_machine_cpuslocked kernel/stop_machine.c, stop_machine kernel/stop_machine.c",
        "tasklet_unlock_wait kernel/softirq.c, tasklet_kill kernel/softirq.c",
        "__debugfs_file_removed fs/debugfs/inode.c, remove_one fs/debugfs/inode.c, "
        "simple_recursive_removal fs/libfs.c, debugfs_remove fs/debugfs/inode.c",
        "proc_entry_rundown fs/proc/inode.c, proc_remove fs/proc/generic.c",
        "kernfs_drain fs/kernfs/dir.c, __kernfs_remove fs/kernfs/dir.c, "
        "kernfs_remove_by_name_ns fs/kernfs/dir.c, sysfs_remove_file_ns fs/sysfs/file.c, "
        "device_remove_file drivers/base/core.c",
    ],
)
def test_what_waits_for_others_is_not_the_place(frames: str) -> None:
    pairs = [frame.split() for frame in frames.split(", ")]
    stack = [StackFrame(name, file, 1) for name, file in pairs]
    assert place_of([*stack, SPIN, WRITE]) == SPIN


def test_a_drivers_function_with_such_a_name() -> None:
    remove = StackFrame("remove_one", "/src/demo.c", 1)
    assert place_of([remove, SPIN]) == remove


def test_the_threads_of_softirqs() -> None:
    """They run something else each time."""
    begins = [StackFrame("run_ksoftirqd", "kernel/softirq.c", 1),
              StackFrame("smpboot_thread_fn", "kernel/smpboot.c", 2)]  # fmt: skip
    looks = [cpu(StackFrame(name, "kernel/softirq.c", 3, 0x4000), *begins) for name in "abcde"]
    assert headline(*looks) == "running: dd[52] on CPU 0, in the kernel"


# CPUs


def test_a_loop() -> None:
    looks = [cpu(SPIN, WRITE, ENTRY), cpu(TIMER, SPIN, WRITE, ENTRY), cpu(SPIN, WRITE, ENTRY)]
    assert headline(*looks) == "spinning: CPU 0 in demo_spin (demo.c:30), dd[52]"
    assert headline(*looks[:2]) == "running: dd[52] on CPU 0, in the kernel", "too few"
    deaf = [replace(look, registers={"RFL": OFF, "RIP": KERNEL}) for look in looks]
    assert headline(*deaf) == "spinning with interrupts off: CPU 0 in demo_spin (demo.c:30), dd[52]"
    assert diagnose(samples(*deaf)).deaf
    assert not diagnose(samples(*looks)).deaf
    assert not diagnose(samples(*deaf[:2], looks[2])).deaf


def test_a_look_at_which_the_stack_ends_early() -> None:
    """An exception's entry has places where there is nothing to unwind by."""
    handler = StackFrame("asm_exc_page_fault", "arch/x86/include/asm/idtentry.h", 570, 0x4800)
    fault = replace(SPIN, interrupted=True, flags=OFF)
    looks = [cpu(SPIN, WRITE, ENTRY, flags=OFF), cpu(handler, fault, WRITE, ENTRY, flags=OFF)] * 2
    early = cpu(handler, flags=OFF)
    words = (
        "looping in an exception with interrupts off: CPU 0 in demo_spin (demo.c:30), page fault "
        "after page fault, dd[52]"
    )
    for number in range(5):
        assert headline(*looks[:number], early, *looks[number:]) == words
    assert diagnose(samples(*looks, early)).deaf
    assert headline(*looks[:2], early) == "running: dd[52] on CPU 0, in the kernel", "too few"


def test_an_exception_that_is_mostly_seen_before_it_is_taken() -> None:
    """And once on the way back, whose frames do not say what that is of."""
    handler = StackFrame("exc_page_fault", "arch/x86/mm/fault.c", 1503, 0x4800)
    back = StackFrame("common_interrupt_return", "arch/x86/entry/entry_64.S", 699, 0x4800)
    fault = replace(SPIN, interrupted=True, flags=OFF)
    taken = [cpu(handler, fault, WRITE, ENTRY, flags=OFF)]
    looks = [*[cpu(SPIN, WRITE, ENTRY, flags=OFF)] * 7, cpu(back, fault, WRITE, ENTRY, flags=OFF)]
    assert headline(*looks, *taken).startswith("looping in an exception with interrupts off")
    assert headline(*looks).startswith("spinning with interrupts off")
    elsewhere = cpu(SPIN, WRITE, ENTRY, flags=OFF, rip=KERNEL + 9)
    assert headline(*looks, *taken, elsewhere).startswith("spinning with interrupts off")


def test_what_interrupts_a_cpu_again_and_again() -> None:
    softirq = StackFrame("handle_softirqs", "kernel/softirq.c", 596, 0x4000)
    action = StackFrame("tasklet_action_common", "kernel/softirq.c", 827, 0x3000)
    base = [StackFrame("smpboot_thread_fn", "kernel/smpboot.c", 164, 0x5000)]
    tasklet = Recurring("running a tasklet", "the tasklet mine")
    other = Recurring("running a tasklet", "the tasklet another")
    inside = cpu(action, softirq, *base, recurring=tasklet)
    taken = cpu(action, softirq, *base)
    words = "running a tasklet: CPU 0, the tasklet mine"
    assert headline(inside, taken, taken, inside) == words
    between = cpu(*base)
    assert headline(inside, inside, taken, between) == words, "ksoftirqd's own loop"
    assert headline(inside, taken, taken, taken) != words, "it may be there by chance"
    assert headline(inside, inside, taken, replace(taken, recurring=other)) != words
    within = StackFrame("mine_function", "/src/mine.c", 3, 0x2000)
    looks = [cpu(within, action, softirq, *base, recurring=other)] * 4
    assert headline(*looks) == "spinning: CPU 0 in mine_function (mine.c:3), dd[52]"
    assert headline(*[taken] * 4).startswith("spinning: CPU 0 in tasklet_action_common")


def test_a_tasklet_that_wakes_a_program_each_time() -> None:
    """As tasklet_kill() is woken by one that is disabled; it and ksoftirqd take turns."""
    softirq = StackFrame("handle_softirqs", "kernel/softirq.c", 596, 0x4000)
    tasklet = Recurring("waiting for a tasklet", "the tasklet mine")
    in_turn = [
        one
        for number in range(4)
        for one in (
            cpu(softirq, pid=12, comm="ksoftirqd/0", switches=number, recurring=tasklet),
            cpu(SPIN, WRITE, ENTRY, switches=number),
        )
    ]
    assert headline(*in_turn) == "waiting for a tasklet: CPU 0, the tasklet mine"
    others = [replace(one, recurring=None) for one in in_turn]
    once = [replace(in_turn[0], recurring=tasklet._replace(certain=True)), *others[1:]]
    assert headline(*once).startswith("waiting for a tasklet: ")
    assert headline(in_turn[0], *others[1:]).startswith("running: ")
    assert headline(*others).startswith("running: ")


def test_an_irq_work_that_comes_again_and_again() -> None:
    """Most of the time is spent on the way in and out, where no frames can be seen."""
    inside = StackFrame("sysvec_irq_work", "arch/x86/kernel/irq_work.c", 17, 0x3000)
    again = Recurring("running an irq_work", "the irq_work mine")
    taken = cpu(inside, SPIN, WRITE, ENTRY, recurring=again)
    entry = cpu(flags=OFF)
    looks = [taken, entry, entry, taken, entry, taken, entry]
    assert headline(*looks) == "running an irq_work: CPU 0, the irq_work mine"
    assert "irq_work" not in headline(taken, *[entry] * 6), "it may be there by chance"


def test_a_device_s_interrupt_that_comes_again_and_again() -> None:
    """The idle task, or another, gets an instruction in between."""

    def interrupted(times: int, *handlers: str, number: int = 10, others: int = 0) -> CpuSample:
        handler = StackFrame("common_interrupt", "arch/x86/kernel/irq.c", 242, 0x3000)
        irqs = (
            CountedIrq(4, others, ("serial8250_interrupt",)),
            CountedIrq(number, times, handlers),
        )
        return cpu(handler, IDLE, pid=0, comm="swapper/0", irqs=irqs)

    words = "in an interrupt that comes again at once: CPU 0, irq 10, whose handler"
    often = [interrupted(1, "mine"), IDLE_CPU, interrupted(9_000, "mine")]
    assert headline(*often) == f"{words} is mine"
    shared = [interrupted(1, "mine", "other"), IDLE_CPU, interrupted(9_000, "mine", "other")]
    assert headline(*shared) == f"{words}s are mine and other"
    few = [interrupted(1, "mine"), IDLE_CPU, IDLE_CPU, interrupted(300, "mine")]
    assert headline(*few) == IDLE_WORDS
    assert headline(*few, *few[-1:] * 2) == f"{words} is mine", "of a slow guest"
    few = [interrupted(number, "mine") for number in range(5)]
    assert "comes again" not in headline(*few), "it may be there by chance"
    assert headline(IDLE_CPU, IDLE_CPU, interrupted(9_000, "mine")) == IDLE_WORDS, "one look"
    other = interrupted(9_000, "mine", number=11)
    assert headline(interrupted(1, "mine"), IDLE_CPU, other) == IDLE_WORDS, "it is a new one"


def test_the_line_of_a_loop_is_the_one_where_it_mostly_is() -> None:
    other = replace(SPIN, line=31)
    looks = [cpu(SPIN, ENTRY), cpu(SPIN, ENTRY), cpu(other, ENTRY)]
    assert headline(*looks) == "spinning: CPU 0 in demo_spin (demo.c:30), dd[52]"


def test_system_calls_one_after_another_are_no_loop() -> None:
    looks = [cpu(SPIN, WRITE, ENTRY, entry=bytes([number])) for number in range(4)]
    assert headline(*looks) == "running: dd[52] on CPU 0, in the kernel"
    assert headline(*[cpu(ENTRY)] * 4) == "running: dd[52] on CPU 0, in the kernel"
    looks = [cpu(SPIN, ENTRY), cpu(SPIN, ENTRY), cpu(user=True)]
    assert headline(*looks) == "running: dd[52] on CPU 0, in the kernel and in user mode"


def test_a_task_that_sleeps_in_between_does_not_loop() -> None:
    looks = [cpu(SPIN, ENTRY, switches=number) for number in range(4)]
    assert headline(*looks).startswith("running: ")
    assert headline(cpu(SPIN, ENTRY), IDLE_CPU, cpu(SPIN, ENTRY)).startswith("running: ")


def test_an_exception_after_another() -> None:
    fault = replace(SPIN, interrupted=True, flags=ON)
    entry = StackFrame("asm_exc_page_fault", "arch/x86/include/asm/idtentry.h", 608, 0x4000)
    inside = cpu(TIMER, entry, fault, WRITE, ENTRY, flags=OFF)
    looks = [inside, cpu(SPIN, WRITE, ENTRY), inside]
    assert headline(*looks) == (
        "looping in an exception: CPU 0 in demo_spin (demo.c:30), page fault after page fault, "
        "dd[52]"
    )
    assert not diagnose(samples(*looks)).deaf
    first = "looping in an exception: CPU 0 in demo_spin"
    # Each look is on the way into the handler: nothing is said of interrupts.
    entering = cpu(entry, replace(fault, flags=None), WRITE, ENTRY, flags=OFF)
    assert headline(*[entering] * 3).startswith(first)
    assert not diagnose(samples(*[entering] * 3)).deaf
    off = cpu(TIMER, entry, replace(fault, flags=OFF), WRITE, ENTRY, flags=OFF)
    assert diagnose(samples(*[off] * 3)).deaf
    # Mostly between two of them, at the instruction that faults.
    deaf = cpu(SPIN, WRITE, ENTRY, flags=OFF)
    words = first.replace(":", " with interrupts off:")
    assert headline(*[deaf] * 6, off, deaf).startswith(words)
    elsewhere = cpu(SPIN, WRITE, ENTRY, flags=OFF, rip=KERNEL + 4)
    assert headline(*[deaf] * 3, *[elsewhere] * 3, off, deaf).startswith("spinning with")


def test_hlt() -> None:
    looks = [cpu(SPIN, ENTRY, flags=OFF, waits=True)] * 3
    assert headline(*looks) == "halted with interrupts off: CPU 0 in demo_spin (demo.c:30), dd[52]"
    # An offline CPU waits in the same way.
    dead = StackFrame("native_play_dead", "arch/x86/kernel/smpboot.c", 1)
    looks = [cpu(dead, flags=OFF, waits=True, pid=0, comm="swapper/0")] * 3
    assert headline(*looks) == "idle: nothing is blocked"


def test_a_spinlock() -> None:
    slow = StackFrame("queued_spin_lock_slowpath", "kernel/locking/qspinlock.c", 327, 0x5000)
    looks = [cpu(slow, SPIN, WRITE, ENTRY, flags=OFF, spins_for="the spinlock demo.lock")] * 3
    first = "spinning with interrupts off: CPU 0 in demo_spin (demo.c:30), dd[52], waiting for"
    assert headline(*looks) == f"{first} the spinlock demo.lock"
    looks = [replace(look, spins_for="an rwlock") for look in looks]
    assert headline(*looks) == f"{first} an rwlock"
    # An interrupt came while it spun, and does not return.
    ipi = StackFrame("demo_ipi", "/src/demo.c", 40, 0x4000)
    beneath = replace(slow, interrupted=True, flags=ON)
    looks = [cpu(ipi, beneath, SPIN, WRITE, ENTRY, flags=OFF, spins_for="an rwlock")] * 3
    assert headline(*looks) == "spinning with interrupts off: CPU 0 in demo_ipi (demo.c:40), dd[52]"


def test_a_timer() -> None:
    timer = RunningTimer("the timer demo.timer", 1, "demo_timeout")
    runs = [StackFrame("demo_timeout", "/src/demo.c", 9), StackFrame("call_timer_fn")]
    full, short = timer.words(runs), timer.words(runs[1:])
    assert full == "the timer demo.timer, whose function demo_timeout has not returned on CPU 1"
    assert short == "the timer demo.timer, whose function has not returned on CPU 1"
    assert timer._replace(function="").words(runs) == short
    wait = StackFrame("del_timer_sync", "kernel/time/timer.c", 1400, 0x4000)
    looks = [
        cpu(wait, SPIN, WRITE, ENTRY, timer=timer, spins_for=words) for words in (full, short)
    ] * 2
    first = "spinning: CPU 0 in demo_spin (demo.c:30), dd[52]"
    assert headline(*looks) == f"{first}, waiting for {full}"
    other = timer._replace(cpu=0)
    looks[0] = replace(looks[0], timer=other, spins_for=other.words([]))
    assert headline(*looks) == first
    looks[0] = replace(looks[0], timer=None, spins_for=None)
    assert headline(*looks) == first


def test_an_interrupt_of_an_idle_cpu_is_not_idle() -> None:
    """Whatever its functions are called."""
    below = StackFrame("default_idle", "arch/x86/kernel/process.c", 743, 0x7000, interrupted=True)
    tick = StackFrame("rcu_is_cpu_rrupt_from_idle", "kernel/rcu/tree.c", 1, 0x4000)
    looks = [cpu(frame, SPIN, below, pid=0, comm="swapper/0") for frame in (SPIN, tick, SPIN, SPIN)]
    assert headline(*looks) == "spinning: CPU 0 in demo_spin (demo.c:30), swapper/0[0]"
    assert IDLE_CPU.idle


def test_user_mode() -> None:
    looks = [
        cpu(user=True),
        cpu(TIMER, StackFrame("asm_sysvec_apic_timer_interrupt")),
        cpu(user=True),
    ]
    assert headline(*looks) == "running in user mode: dd[52] on CPU 0"


def test_a_task_that_is_preempted_loops_still() -> None:
    """A kernel thread is seen now and then; what it takes the CPU from has not slept for that."""
    other = cpu(TIMER, pid=9, comm="kworker/u2:0", switches=70)
    program, spins = cpu(user=True), cpu(SPIN, WRITE, ENTRY)
    for looks in ([program] * 3 + [other], [other] + [program] * 3, [program] * 7 + [other] * 3):
        assert headline(*looks) == "running in user mode: dd[52] on CPU 0"
    words = "spinning: CPU 0 in demo_spin (demo.c:30), dd[52]"
    assert headline(spins, other, spins, spins) == words
    # As often as the loop, or too few looks at this, or it slept while the other ran.
    slept = replace(program, switches=1)
    for looks in ([program, other] * 3, [program, other, program], [program] * 3 + [other, slept]):
        assert headline(*looks).startswith("running: dd[52] on CPU 0, in user mode")
    # Whoever is preempted hears interrupts, whatever its own samples show.
    looks = [cpu(SPIN, WRITE, ENTRY, flags=OFF)] * 3
    assert diagnose(samples(*looks)).deaf
    assert not diagnose(samples(*looks, other)).deaf


def test_a_task_that_moves_to_another_cpu() -> None:
    program = cpu(user=True)
    moved = replace(program, number=1)
    idle = replace(IDLE_CPU, number=1)
    looks = [[program, idle], [IDLE_CPU, moved], [program, idle], [IDLE_CPU, moved]]
    assert diagnose(Samples(None, cpus=looks, chains=[], dump=DUMP)).headline == (
        "running in user mode: dd[52] on CPU 1"
    )
    # One that is in several places.
    inside = replace(cpu(SPIN, WRITE, ENTRY), number=1)
    looks = [[program, idle], [IDLE_CPU, inside], [program, idle], [IDLE_CPU, inside]]
    assert diagnose(Samples(None, cpus=looks, chains=[], dump=DUMP)).headline == (
        "running: dd[52] on CPU 0, in user mode; dd[52] on CPU 1, in the kernel"
    )
    # Each CPU's idle task is another.
    looks = [[replace(IDLE_CPU, number=n, frames=(SPIN,), comm=f"swapper/{n}") for n in (0, 1)]]
    assert diagnose(Samples(None, cpus=looks * 3, chains=[], dump=DUMP)).headline == (
        "spinning: CPU 0 in demo_spin (demo.c:30), swapper/0[0]; "
        "CPU 1 in demo_spin (demo.c:30), swapper/1[0]"
    )


def test_a_kernel_whose_memory_cannot_be_read() -> None:
    taken = Samples(None, cpus=[[cpu(flags=OFF, pid=-1)]] * 3)
    assert diagnose(taken).headline == (f"spinning with interrupts off: CPU 0 in {KERNEL:#x}")
    assert diagnose(Samples(None, errors=["(not available)"])).text == "(not available)"


@pytest.mark.parametrize(
    ("registers", "waits", "words"),
    [
        ({"EIP": 0xFFF0, "EFL": 2}, True, "halted with interrupts off before the kernel"),
        ({"RIP": 0x100000, "RFL": 2}, False, "spinning before the kernel"),
    ],
)
def test_before_the_kernel(registers: dict[str, int], waits: bool, words: str) -> None:
    look = CpuSample(0, registers, user=False, waits=waits)
    pc = next(iter(registers.values()))
    assert diagnose(Samples(None, cpus=[[look]] * 3)).headline == f"{words}: CPU 0 at {pc:#x}"
    moved = replace(look, registers={"RIP": 0x200000, "RFL": ON}, waits=False)
    words = "running before the kernel: CPU 0 at 0x200000"
    assert diagnose(Samples(None, cpus=[[look], [moved]])).headline == words


def test_a_stop_that_has_just_come() -> None:
    debugger = StackFrame("kgdb_cpu_enter", "kernel/debug/debug_core.c", 594)
    taken = samples(*[cpu(debugger, SPIN, ENTRY, flags=OFF)] * 3)
    taken.status = "paused"
    assert diagnose(taken).headline == "the kernel has come to its debugger"
    assert not diagnose(taken).deaf
    taken = samples(*[cpu(SPIN, WRITE, ENTRY)] * 3)
    taken.status = "debug"  # at one of QEMU's stub
    assert diagnose(taken).headline == "the kernel has come to its debugger"


def test_a_kernel_in_its_debugger_for_calls_that_a_spy_sees() -> None:
    """What it does is what it did when it came there."""
    debugger = StackFrame("kgdb_cpu_enter", "kernel/debug/debug_core.c", 594, 0x3000)
    trap = StackFrame("exc_int3", "arch/x86/kernel/traps.c", 1, 0x4000)
    for flags, words in ((ON, "spinning"), (OFF, "spinning with interrupts off")):
        called = replace(SPIN, interrupted=True, flags=flags)
        spied = diagnose(samples(*[cpu(debugger, trap, called, ENTRY, flags=OFF)] * 3))
        assert spied.unless_stopped is not None
        assert spied.unless_stopped.headline == f"{words}: CPU 0 in demo_spin (demo.c:30), dd[52]"
        assert spied.unless_stopped.deaf is (flags == OFF)
        assert "kgdb_cpu_enter" not in spied.unless_stopped.text
    # A stack that ends within the debugger.
    spied = diagnose(samples(*[cpu(debugger, trap, flags=OFF)] * 3))
    assert spied.headline == "the kernel has come to its debugger"


def test_a_kernel_in_its_debugger_whose_machine_qemu_has_stopped() -> None:
    debugger = StackFrame("kgdb_cpu_enter", "kernel/debug/debug_core.c", 594)
    taken = samples(cpu(debugger, SPIN, ENTRY, flags=OFF))
    taken.status = "io-error"
    assert diagnose(taken).headline == "io-error: QEMU has stopped the machine"
    assert diagnose(taken).deaf


# Tasks


def test_a_blocked_task() -> None:
    wait = Wait("the mutex lock", 1, (Holder(61 * 0x1000, "sh[61]"),))
    holder = task(61, comm="sh", frames=(WRITE, ENTRY))
    other = task(62)
    chains = [[task(wait=wait), holder], [other]]
    assert headline(IDLE_CPU, chains=chains) == (
        "blocked: cat[60] in demo_spin (demo.c:30), waiting for the mutex lock held by sh[61], "
        "which is in ksys_write (fs/read_write.c:637); and 1 more"
    )
    text = diagnose(samples(IDLE_CPU, chains=chains)).text
    assert "task 60 (cat), blocked, waiting for the mutex lock held by sh[61]\n  #0" in text
    assert text.count("task 61 (sh)") == 1
    assert headline(IDLE_CPU, chains=[[task(wait=Wait("a mutex"))]]).endswith("for a mutex")


def test_tasks_that_wait_for_each_other() -> None:
    one = task(60, wait=Wait("the mutex a", 1, (Holder(61 * 0x1000, "sh[61]"),)))
    two = task(61, comm="sh", wait=Wait("the mutex b", 2, (Holder(60 * 0x1000, "cat[60]"),)))
    place = "demo_spin (demo.c:30)"
    assert headline(IDLE_CPU, chains=[[task(62), one, two, one], [one, two, one]]) == (
        f"deadlock: cat[60] in {place}, waiting for the mutex a held by sh[61], which is in "
        f"{place}, waiting for the mutex b held by cat[60]"
    )
    itself = task(60, wait=Wait("the mutex a", 1, (Holder(60 * 0x1000, "cat[60]"),)))
    assert headline(IDLE_CPU, chains=[[itself, itself]]) == (
        f"deadlock: cat[60] in {place}, waiting for the mutex a held by itself "
        "(or by a task that has ended)"
    )


def test_a_reader_that_need_not_hold_it() -> None:
    """No deadlock is claimed of a lock whose readers have but a number."""
    held, reader = "held by 1 reader", Holder(61 * 0x1000, "sh[61]")
    place = "demo_spin (demo.c:30)"
    one = task(60, wait=Wait("the rwsem a", 1, (), held, reader))
    two = task(61, comm="sh", wait=Wait("the mutex b", 2, (Holder(60 * 0x1000, "cat[60]"),)))
    words = (
        f"blocked: cat[60] in {place}, waiting for the rwsem a held by 1 reader, last taken by "
        f"reader sh[61], which is in {place}"
    )
    assert headline(IDLE_CPU, chains=[[one, replace(two, wait=None)]]) == words
    assert headline(IDLE_CPU, chains=[[one, two, one]]) == (
        f"{words}, waiting for the mutex b held by cat[60]: perhaps a deadlock"
    )
    itself = task(60, wait=Wait("the rwsem a", 1, (), held, Holder(60 * 0x1000, "cat[60]")))
    words = f"blocked: cat[60] in {place}, waiting for the rwsem a held by 1 reader, last taken by"
    doubt = "(or by a task that has ended)"
    assert headline(IDLE_CPU, chains=[[itself, itself]]) == (
        f"{words} itself {doubt}: perhaps a deadlock"
    )
    # What is certain comes first.
    sure = task(62, wait=Wait("the mutex c", 3, (Holder(62 * 0x1000, "cat[62]"),)))
    assert headline(IDLE_CPU, chains=[[itself, itself], [sure, sure]]).startswith(
        "deadlock: cat[62]"
    )
    # One that waits behind a circle is not in it.
    behind = task(63, wait=Wait("the rwsem d", 4, (), held, Holder(60 * 0x1000, "cat[60]")))
    sure = task(60, wait=Wait("the mutex c", 3, (Holder(60 * 0x1000, "cat[60]"),)))
    assert headline(IDLE_CPU, chains=[[behind, sure, sure]]).startswith("deadlock: cat[60]")


def test_a_holder_that_began_after_the_wait() -> None:
    wait = Wait("the mutex lock", 1, (Holder(61 * 0x1000, "sh[61]", doubtful=True),))
    assert headline(IDLE_CPU, chains=[[task(wait=wait)]]) == (
        "blocked: cat[60] in demo_spin (demo.c:30), waiting for the mutex lock held by sh[61] "
        "(or by a task that has ended)"
    )


def test_a_task_that_has_run_since_is_not_stuck() -> None:
    taken = samples(IDLE_CPU, chains=[[task()]])
    taken._first_switches = {task(switches=0).key}
    assert diagnose(taken).headline == "idle: nothing is blocked"
    taken._first_switches = {task().key}
    assert diagnose(taken).headline.startswith("blocked: cat[60]")


def test_nothing_is_blocked() -> None:
    read = StackFrame("n_tty_read", "drivers/tty/n_tty.c", 1)
    wait = StackFrame("do_wait", "kernel/exit.c", 1)
    shells = [task(40, comm="sh", uninterruptible=False, frames=(read, ENTRY))]
    shells += [task(41, comm="init", uninterruptible=False, frames=(wait, ENTRY))]
    assert headline(IDLE_CPU, chains=[[shell] for shell in shells]) == (
        "idle: nothing is blocked; sh[40] waits for input"
    )
    waits = task(uninterruptible=False, wait=Wait("the wait queue demo.queue"))
    assert headline(IDLE_CPU, chains=[[shells[0]], [waits]]) == (
        "waiting: cat[60] in demo_spin (demo.c:30), waiting for the wait queue demo.queue"
    )


def test_which_program_is_the_command() -> None:
    """The shell, if it waits for no child; else whoever went to sleep last, and has work to do."""
    processes = {40: Process(1, 10), 52: Process(40, 60), 53: Process(40, 70), 61: Process(1, 65)}

    def first(*stories: Story) -> int:
        orders = {likeliest_first(order, processes)[0].pid for order in permutations(stories)}
        assert len(orders) == 1
        return orders.pop()

    job, later = Story(52, "", 100), Story(61, "", 200)
    assert first(job, later) == 61
    assert first(job, later, Story(40, "", 90)) == 40, "it is the other one's parent"
    assert first(job, Story(53, "", 90)) == 52
    assert first(job, Story(61, "", 200, often=True)) == 52
    # What runs has begun when its process did; the shell's own loop at any time.
    assert first(job, Story(53, "")) == 52
    assert first(Story(52, "", 62), Story(53, "")) == 53, "it has begun since"
    assert first(Story(40, ""), later) == 40
    assert first(Story(99, ""), later) == 99, "it is not known"
    assert likeliest_first([Story(1, "", 5), later], {1: Process(0, 1), **processes})[0] is later
    damaged = {70: Process(71, 1), 71: Process(70, 1)}
    assert len(likeliest_first([Story(70, ""), Story(71, "")], damaged)) == 2


def test_kernel_threads_come_last() -> None:
    thread = task(9, comm="worker", program=False)
    program = task(uninterruptible=False, wait=Wait("the wait queue queue"))
    chains = [[thread], [program]]
    place = "demo_spin (demo.c:30)"
    waits = f"waiting: cat[60] in {place}, waiting for the wait queue queue; and 1 more"
    assert headline(IDLE_CPU, chains=chains) == waits
    assert headline(*[cpu(user=True)] * 4, chains=[[thread]]) == (
        "running in user mode: dd[52] on CPU 0"
    )
    assert headline(IDLE_CPU, chains=[[thread]]) == f"blocked: worker[9] in {place}"
    read = StackFrame("n_tty_read", "drivers/tty/n_tty.c", 1)
    shell = task(40, comm="sh", uninterruptible=False, frames=(read, ENTRY))
    asleep = task(1, comm="init", uninterruptible=False, wait=Wait("a signal"))
    assert headline(IDLE_CPU, chains=[[thread], [shell], [asleep]]) == (
        f"idle: sh[40] waits for input; blocked: worker[9] in {place}; and 1 more"
    )
    assert headline(IDLE_CPU, chains=[[shell], [asleep]]) == (
        "idle: nothing is blocked; sh[40] waits for input"
    )
    stopped = task(uninterruptible=False, stopped_by="a signal")
    assert headline(IDLE_CPU, chains=[[thread], [stopped]]) == "stopped: cat[60], by a signal"


def test_a_task_that_only_waits_again() -> None:
    taken = samples(IDLE_CPU, chains=[[task(1, comm="swapper/0", wait=Wait("a timer"))]])
    taken._first_switches = set()
    assert diagnose(taken).headline == (
        "polling: swapper/0[1] in demo_spin (demo.c:30), waiting for a timer"
    )


def test_the_text_fits_a_screen() -> None:
    chains = [[task(pid, frames=(SPIN,) * 30)] for pid in range(60, 90)]
    lines = diagnose(samples(IDLE_CPU, chains=chains)).text.splitlines()
    assert len(lines) < 40
    assert lines[-1].startswith("… and ")


def test_an_error_with_few_lines_of_stacks() -> None:
    error = BootError("it did not boot\nthe console", log="console.log", hint="a hint", late=True)
    late = explained(error, Diagnosis("it spins", "one\ntwo\nthree"), limit=2)
    assert isinstance(late, BootError)
    assert late.message.splitlines() == [
        "it did not boot: it spins", "the console", "what the kernel does:", "one", "two", "…",
    ]  # fmt: skip
    assert (late.log, late.hint, late.late) == (error.log, "a hint", True)
    assert str(late).startswith("it did not boot: it spins\n")
    assert error.message == "it did not boot\nthe console"
    assert (error.undiagnosed, late.undiagnosed) == (None, "it did not boot")
    assert explained(late, Diagnosis("a task waits", "")).undiagnosed == "it did not boot"
    assert explained(error, Diagnosis("", "")).undiagnosed is None
    assert explained(error, Diagnosis("", "")).message == error.message


# The machine


class FakeMachine:
    def __init__(self) -> None:
        self.state = "running"
        self.looks = 0
        self.error: Exception | None = None

    def status(self) -> str:
        if self.error is not None:
            raise self.error
        return self.state

    def registers(self) -> str:
        return DUMP

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        self.looks += 1
        yield


class NoMemory:
    def paused(self) -> Any:
        return contextlib.nullcontext()

    @property
    def program(self) -> Any:
        raise KgdbError("there are no page tables")


@pytest.fixture
def machine() -> FakeMachine:
    return FakeMachine()


@pytest.fixture
def stacks(machine: FakeMachine) -> CpuStacks:
    return CpuStacks(machine, NoMemory(), Path("/src"), paused=machine.paused)


def test_memory_that_cannot_be_read(machine: FakeMachine, stacks: CpuStacks) -> None:
    diagnosis = stacks.diagnose()
    assert diagnosis.deaf
    assert diagnosis.headline.startswith(
        "spinning with interrupts off: CPU 0 in 0xffffffff81024bae"
    )
    assert "(the kernel's memory cannot be read: there are no page tables)" in diagnosis.text
    assert machine.looks > 3


def test_a_machine_that_somebody_has_paused_stays_so(
    machine: FakeMachine, stacks: CpuStacks
) -> None:
    machine.state = "paused"
    assert stacks.diagnose().headline == "paused: QEMU has stopped the machine"
    assert machine.looks == 0


def test_stops_that_no_test_sees_are_waited_out(
    machine: FakeMachine, stacks: CpuStacks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through QEMU's stub the machine is in them at any time."""
    states = iter(["debug", "debug"])
    monkeypatch.setattr(machine, "status", lambda: next(states, "running"))
    assert stacks.diagnose().headline.startswith("spinning with interrupts off: CPU 0")
    monkeypatch.setattr(machine, "status", lambda: "debug")
    assert stacks.diagnose().headline == "the kernel has come to its debugger"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (
            TimeoutError("no answer in 2 s"),
            "QEMU does not answer on its monitor\n(no answer in 2 s)",
        ),
        (KgdbError("a board"), "(not available: a board)"),
        (ValueError("ours"), "(no diagnosis: ValueError('ours'))"),
    ],
)
def test_a_diagnosis_never_raises(
    machine: FakeMachine, stacks: CpuStacks, error: Exception, expected: str
) -> None:
    machine.error = error
    assert stacks.read() == expected
