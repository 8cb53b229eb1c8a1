"""Hangs on a real kernel: the first line of the error says what hangs, where, and for what."""

from __future__ import annotations

import re
import subprocess
import time
from pathlib import Path

import pytest
from drgn import cast
from drgn.helpers.linux.pid import for_each_task

from pytest_kgdb.diagnosis._records import Tasks
from pytest_kgdb.diagnosis._waits import _is_idle_worker
from pytest_kgdb.errors import GuestCommandError, KernelPanic, MachineDied, TimeoutError
from pytest_kgdb.handle import attachment_of

HANGS = Path(__file__).parent / "modules/hangs"
STORM = Path(__file__).parent / "modules/storm/storm.ko"
RAISE = "/sys/module/storm/parameters/raise"
SOURCE = (HANGS / "hangs.c").read_text().splitlines()
SECONDS = 1.0
SH = r"sh\[\d+\]"


def at(function, mark=None):
    """A function of the module, at the only line with a comment, as a regular expression."""
    comment = f"/* {mark or function.removeprefix('hang_')} */"
    (line,) = [number for number, text in enumerate(SOURCE, 1) if comment in text]
    return rf"{function} \(hangs\.c:{line}\)"


@pytest.fixture
def hangs(kgdb):
    kgdb.modules.load(HANGS)
    return kgdb


def first_line(kgdb, command, wait=None):
    """The end of the first line of a time-out, which comes soon after it: what hangs."""
    began = time.monotonic()
    if wait is None:
        wait = lambda: kgdb.run(command, timeout=SECONDS)  # noqa: E731 # as the callers'
    elif command:
        kgdb.type(command)
    with pytest.raises(TimeoutError) as caught:
        wait()
    # Five seconds for the diagnosis, and what one look takes on a host that is busy.
    assert time.monotonic() - began < SECONDS + 10, caught.value.message
    line = caught.value.message.splitlines()[0]
    match = re.fullmatch(r"(?:the guest's command '.*' did not end|the kernel did not stop) in 1 s"
                         r"(?:, having no breakpoint to stop at)?: (.*)", line)  # fmt: skip
    assert match is not None, line
    return match[1]


def hang(word):
    return f"echo {word} > /sys/kernel/debug/hangs"


SLEEPS = rf"{at('sleeper')}, waiting for a timer"
BLOCKED = {
    "mutex": rf"{at('hang_mutex')}, waiting for the mutex device\.lock held by sleeper\[\d+\], "
    rf"which is in {SLEEPS}",
    "read": rf"{at('hang_read')}, waiting for the rwsem rwsem \(to read\) held by sleeper\[\d+\], "
    rf"which is in {SLEEPS}",
    "write": rf"{at('hang_write')}, waiting for the rwsem rwsem \(to write\) held by 1 reader, "
    rf"last taken by reader sleeper\[\d+\], which is in {SLEEPS}",
    "behind": rf"{at('hang_behind')}, waiting for the rwsem rwsem \(to read, behind the writer "
    r"writer\[\d+\]\) held by 1 reader, last taken by reader sleeper\[\d+\], which is in "
    rf"{SLEEPS}; and 1 more",
    "upgrade": rf"{at('hang_upgrade')}, waiting for the rwsem at 0x[0-9a-f]{{16}} "
    r"\(kmalloc-\d+\) \(to write\) held by 1 reader, last taken by itself \(or by a task that has "
    r"ended\): perhaps a deadlock",
    "read_mixed": rf"{at('hang_mixed', 'mixed first')}, waiting for the mutex lock_a held by "
    rf"mixed\[\d+\], which is in {at('mixed', 'mixed second')}, waiting for the rwsem rwsem \(to "
    rf"write\) held by 1 reader, last taken by reader {SH}: perhaps a deadlock",
    "percpu_read": rf"{at('hang_percpu_read')}, waiting for the percpu_rwsem percpu \(to read\) "
    "held by a writer",
    "percpu_write": rf"{at('hang_percpu_write')}, waiting for the percpu_rwsem percpu \(to write\) "
    "held by 1 reader",
    "percpu_behind": rf"{at('hang_percpu_read')}, waiting for the percpu_rwsem percpu \(to read, "
    rf"behind the writer writer\[\d+\]\), which is in {at('hang_percpu_write')}, waiting for the "
    r"percpu_rwsem percpu \(to write\) held by 1 reader",
    "srcu": rf"{at('hang_srcu')}, waiting for a grace period of the SRCU srcu, which has 1 reader",
    "semaphore": rf"{at('hang_semaphore')}, waiting for the semaphore semaphore",
    "completion": rf"{at('hang_completion')}, waiting for the completion completion",
    "folio": rf"{at('hang_folio')}, waiting for the lock of a folio at 0x[0-9a-f]{{16}}",
    "bit": rf"{at('hang_bit')}, waiting for bit 3 of device\.flags",
    "var": rf"{at('hang_var')}, waiting for device\.references",
    "kthread": rf"{at('hang_kthread', 'stop')}, waiting for stuck\[\d+\] to end, "
    rf"which is in {at('stuck_thread', 'thread')}, waiting for the completion completion",
    "work": rf"{at('hang_work', 'flush')}, waiting for the work stuck_work of kworker/\S+\[\d+\], "
    rf"which is in {at('stuck_work', 'work')}, waiting for the completion completion",
    "queue": rf"{at('hang_queue')}, waiting for the workqueue hangs, the work stuck_work of "
    rf"kworker/\S+\[\d+\], which is in {at('stuck_work', 'work')}, waiting for the completion "
    r"completion",
    "late": rf"{at('hang_late')}, waiting for the workqueue late, the work stuck_work of "
    rf"kworker/\S+\[\d+\], which is in {at('stuck_work', 'work')}, waiting for the completion "
    "completion; and 1 more",
    "drain": rf"{at('hang_drain')}, waiting for the workqueue drain; and 2 more",
    "queued": rf"{at('hang_queued')}, waiting for the work later_work, behind the work stuck_work "
    rf"of kworker/\S+\[\d+\], which is in {at('stuck_work', 'work')}, waiting for the completion "
    "completion",
    "full": rf"{at('hang_full')}, waiting for the work later_work of the workqueue full, which has "
    "not begun; and 2 more",
    "cancel": rf"{at('hang_cancel')}, waiting for the work stuck_work of kworker/\S+\[\d+\], which "
    rf"is in {at('stuck_work', 'work')}, waiting for the completion completion",
    "simple": rf"{at('hang_simple')}, waiting for the wait queue simple",
    "park": rf"{at('hang_park')}, waiting for stuck\[\d+\] to park, "
    rf"which is in {at('stuck_thread', 'thread')}, waiting for the completion completion",
    "kthread_work": rf"{at('hang_kthread_work', 'cancel kthread work')}, waiting for the work "
    r"stuck_kthread_work of works\[\d+\], which is in "
    rf"{at('stuck_kthread_work', 'kthread work')}, waiting for the completion completion",
    "remove": rf"{at('hang_remove')}, waiting for the users of a file in debugfs",
    "helper": rf"{at('hang_helper')}, waiting for a helper program",
    "usleep": rf"{at('hang_usleep')}, waiting for a timer",
    "wake_up": at("hang_wake_up"),
    "rt_mutex": rf"{at('hang_rt_mutex')}, waiting for the rt_mutex rt_lock held by "
    rf"sleeper\[\d+\], which is in {SLEEPS}",
}


@pytest.mark.parametrize("word", BLOCKED)
def test_blocked(hangs, word):
    assert re.fullmatch(f"blocked: {SH} in {BLOCKED[word]}", first_line(hangs, hang(word)))
    assert hangs.stopped, "as before the command"


def test_deadlock_of_two(hangs):
    assert re.fullmatch(
        rf"deadlock: {SH} in {at('hang_abba', 'first')}, waiting for the mutex lock_b held by "
        rf"abba\[\d+\], which is in {at('abba', 'second')}, waiting for the mutex lock_a held by "
        rf"{SH}",
        first_line(hangs, hang("abba")),
    )


def test_deadlock_of_a_mutex_and_an_rwsem(hangs):
    assert re.fullmatch(
        rf"deadlock: {SH} in {at('hang_mixed', 'mixed first')}, waiting for the mutex lock_a held "
        rf"by mixed\[\d+\], which is in {at('mixed', 'mixed second')}, waiting for the rwsem rwsem "
        rf"\(to write\) held by {SH}",
        first_line(hangs, hang("write_mixed")),
    )


def test_deadlock_of_a_work(hangs):
    """It takes the mutex that is held by who waits for it."""
    assert re.fullmatch(
        rf"deadlock: {SH} in {at('hang_locked')}, waiting for the work locking_work of "
        rf"kworker/\S+\[\d+\], which is in {at('locking_work', 'locking work')}, waiting for the "
        rf"mutex lock_a held by {SH}",
        first_line(hangs, hang("locked")),
    )


@pytest.mark.parametrize("word", ["disable_irq", "free_irq"])
def test_deadlock_of_an_interrupt(hangs, kgdb_kernel, word):
    """Its handler's thread takes the mutex that is held by who waits for it."""
    wait = r"the thread irq/\d+-demo\[\d+\] of irq \d+"
    if word == "free_irq" and kgdb_kernel.version < (6, 12):
        wait = r"irq/\d+-demo\[\d+\] to end"  # later ones wait for what it does before
    assert re.fullmatch(
        rf"deadlock: {SH} in {at(f'hang_{word}')}, waiting for {wait}, which is in "
        rf"{at('irq_function', 'irq function')}, waiting for the mutex lock_a held by {SH}",
        first_line(hangs, hang(word)),
    )


def test_deadlock_of_one(hangs):
    assert re.fullmatch(
        rf"deadlock: {SH} in {at('hang_allocated', 'allocated')}, waiting for the mutex at "
        r"0x[0-9a-f]{16} \(kmalloc-32\) held by itself \(or by a task that has ended\)",
        first_line(hangs, hang("allocated")),
    )


def test_deadlock_that_a_signal_ends(hangs):
    assert re.fullmatch(
        rf"deadlock: {SH} in {at('hang_opposite', 'one order')}, waiting for the mutex lock_b held "
        rf"by opposite\[\d+\], which is in {at('opposite', 'other order')}, waiting for the mutex "
        rf"lock_a held by {SH}",
        first_line(hangs, f"{hang('idle_thread')}; {hang('opposite')}"),
    )


IDLE = r"stuck_thread \(hangs\.c:\d+\), waiting for the completion completion"
NEXT_TO_A_THREAD = {
    hang("event"): f"waiting: {SH} in {at('hang_event')}, waiting for the wait queue queue; and 1 "
    "more",
    hang("interruptible"): f"waiting: {SH} in {at('hang_interruptible')}, waiting for the mutex "
    rf"device\.lock held by sleeper\[\d+\], which is in {SLEEPS}; and 1 more",
    "while :; do :; done": f"running in user mode: {SH} on CPU 0",
    "sleep 100": r"waiting: sleep\[\d+\] in \w+ \(kernel/time/[\w-]+\.c:\d+\), waiting for a "
    "timer; and 1 more",
    r'sh -c "kill -STOP \$\$"': r"stopped: sh\[\d+\], by a signal",
    f"({hang('held')}) & sleep 0.3; {hang('wanted')}": f"waiting: {SH} in {at('hang_wanted')}, "
    rf"waiting for the mutex lock_a held by {SH}, which is in {at('hang_held')}, waiting for the "
    "wait queue queue; and 1 more",
    f"({hang('mutex')}) & sleep 0.3; {hang('event')}": f"waiting: {SH} in {at('hang_event')}, "
    r"waiting for the wait queue queue; and \d more",
    f"{hang('mutex')} | cat": rf"blocked: {SH} in {BLOCKED['mutex']}; and \d more",
}


@pytest.mark.parametrize("command", NEXT_TO_A_THREAD)
def test_a_kernel_thread_that_waits_is_not_what_hangs(hangs, command):
    """It waits uninterruptibly, as many do that have no work."""
    hangs.run(hang("idle_thread"))
    assert re.fullmatch(NEXT_TO_A_THREAD[command], first_line(hangs, command))


def test_a_breakpoint_that_is_not_reached_next_to_a_thread_that_waits(hangs):
    hangs.run(hang("idle_thread"))
    line = first_line(hangs, "", lambda: hangs.cont(timeout=SECONDS))
    assert re.fullmatch(rf"idle: {SH} waits for input; blocked: idle\[\d+\] in {IDLE}", line)


def test_a_lock_whose_owner_has_ended(hangs):
    """Another task has come by its memory: it began after the wait, and cannot have the lock."""
    hangs.run(f"{hang('ended')} & sleep 0.3")
    locked = hangs.program["lock_a"].owner.counter
    for _ in range(40):
        hangs.run("for n in 1 2 3 4 5 6 7 8; do sleep 1000 & done")
        pids = [task.pid.value_() for task in for_each_task(hangs.program)
                if task.value_() == locked.value_() & (1 << 64) - 8]  # fmt: skip
        if pids:
            break
    (pid,) = pids
    assert re.fullmatch(
        rf"blocked: {SH} in {at('hang_ended')}, waiting for the mutex lock_a held by "
        rf"\w+\[{pid}\] \(or by a task that has ended\), which is in .*",
        first_line(hangs, "", lambda: hangs.cont(timeout=SECONDS)),
    )


def test_workers_without_work_hold_nothing(hangs):
    hangs.run(f"{hang('work')} & sleep 0.3")
    # Those that have begun (include/linux/sched.h, PF_WQ_WORKER): one may just have been made.
    workers = [task for task in for_each_task(hangs.program)
               if task.comm.string_().startswith(b"kworker/") and task.flags & 0x20]  # fmt: skip
    # Workers sleep until there is work; others than ours may have some at this stop.
    asleep = [task for task in workers
              if cast("struct worker *", cast("struct kthread *", task.worker_private).data).flags
              & hangs.program["WORKER_IDLE"]]  # fmt: skip
    assert asleep
    tasks = Tasks(hangs.program, {})
    assert [task.pid.value_() for task in asleep if not _is_idle_worker(tasks, task)] == []
    busy = [task for task in workers if not _is_idle_worker(tasks, task)]
    traces = [[frame.name for frame in hangs.stack_trace(task)] for task in busy]
    # One that makes another worker has work of its own.
    assert all({"process_one_work", "manage_workers"}.intersection(trace) for trace in traces)
    assert sum("stuck_work" in trace for trace in traces) == 1
    assert not _is_idle_worker(tasks, hangs.program["init_task"].address_of_())


def test_waiting_for_an_event(hangs):
    assert re.fullmatch(
        f"waiting: {SH} in {at('hang_event')}, waiting for the wait queue queue",
        first_line(hangs, hang("event")),
    )


def test_waiting_for_what_is_on_its_stack(hangs):
    assert re.fullmatch(
        f"waiting: {SH} in {at('hang_on_stack', 'on stack')}, waiting for the completion on its "
        "own stack",
        first_line(hangs, hang("on_stack"), lambda: hangs.cont(timeout=SECONDS)),
    )


def test_waiting_programs(kgdb):
    assert re.fullmatch(
        r"waiting: sleep\[\d+\] in \w+ \(kernel/time/[\w-]+\.c:\d+\), waiting for a timer",
        first_line(kgdb, "sleep 100"),
    )


def test_a_program_that_waits_for_input(kgdb):
    assert re.fullmatch(
        r"idle: nothing is blocked; cat\[\d+\] waits for input",
        first_line(kgdb, "cat", lambda: kgdb.cont(timeout=SECONDS)),
    )


def test_a_program_whose_name_is_a_command_of_a_ci(hangs):
    name = r'printf "x\r::error::y" > /proc/self/comm'
    assert re.fullmatch(
        rf"blocked: x : :error::y\[\d+\] in {BLOCKED['completion']}",
        first_line(hangs, f"{name}; {hang('completion')}"),
    )


FREEZERS = {
    "cgroup -o freezer": "echo $$ > /cg/a/tasks; echo FROZEN > /cg/a/freezer.state",
    "cgroup2": "echo $$ > /cg/a/cgroup.procs; echo 1 > /cg/a/cgroup.freeze",
}


@pytest.mark.parametrize("kind", FREEZERS)
def test_a_program_that_is_frozen(kgdb, kind):
    kgdb.run(f"mkdir /cg; mount -t {kind} none /cg; mkdir /cg/a")
    command = f'sh -c "{FREEZERS[kind]}; echo done"'.replace("$", r"\$")
    assert re.fullmatch(r"stopped: sh\[\d+\], by the freezer", first_line(kgdb, command))


TRACER = """
#define call(number, a, b, c, d) ({ \
    long result; \
    register long fourth asm("r10") = d; \
    asm volatile("syscall" : "=a"(result) : "a"((long)number), "D"((long)a), "S"((long)b), \
                 "d"((long)c), "r"(fourth) : "rcx", "r11", "memory"); \
    result; })
void _start(void)
{
    if (!call(57, 0, 0, 0, 0)) {                  /* fork */
        call(101, 0, 0, 0, 0);                    /* ptrace(PTRACE_TRACEME) */
        call(62, call(39, 0, 0, 0, 0), 10, 0, 0); /* kill(getpid(), SIGUSR1) */
    }
    for (;;)
        call(34, 0, 0, 0, 0);                     /* pause */
}
"""


def test_a_program_that_its_tracer_has_stopped(kgdb, tmp_path):
    (tmp_path / "tracer.c").write_text(TRACER)
    argv = ["gcc", "-O1", "-nostdlib", "-static", "-o", tmp_path / "tracer", tmp_path / "tracer.c"]
    subprocess.run(argv, check=True, timeout=60)
    kgdb.put(tmp_path / "tracer", "/run/tracer")
    assert re.fullmatch(
        r"stopped: tracer\[\d+\], by its tracer tracer\[\d+\]",
        first_line(kgdb, "/run/tracer"),
    )


def test_nothing_hangs(kgdb):
    assert re.fullmatch(
        f"idle: nothing is blocked; {SH} waits for input",
        first_line(kgdb, "true", lambda: kgdb.cont(timeout=SECONDS)),
    )


def test_a_program_that_loops(kgdb):
    assert re.fullmatch(
        f"running in user mode: {SH} on CPU 0", first_line(kgdb, "while :; do :; done")
    )


# CPUs that do not leave a place


SPINNING = {
    "spin": f"spinning: CPU 0 in {at('hang_spin')}, {SH}",
    "deaf": f"spinning with interrupts off: CPU 0 in {at('hang_deaf')}, {SH}",
    "spinlock": f"spinning with interrupts off: CPU 0 in {at('hang_spinlock')}, {SH}, waiting for "
    "the spinlock spinlock",
    "rwlock": f"spinning with interrupts off: CPU 0 in {at('hang_rwlock')}, {SH}, waiting for "
    "the rwlock rwlock",
    "exception": f"looping in an exception: CPU 0 in {at('hang_exception', 'fault')}, page fault "
    f"after page fault, {SH}",
    "deaf_exception": "looping in an exception with interrupts off: CPU 0 in "
    f"{at('hang_exception', 'fault')}, page fault after page fault, {SH}",
    "own_irq": f"spinning with interrupts off: CPU 0 in {at('own_irq', 'own irq')}, {SH}, waiting "
    r"for the handlers of irq \d+",
    "hlt": f"halted with interrupts off: CPU 0 in {at('hang_hlt')}, {SH}",
}


@pytest.mark.parametrize("word", SPINNING)
def test_spinning(hangs, word):
    assert re.fullmatch(SPINNING[word], first_line(hangs, hang(word)))
    # QEMU's stub stops what kgdb cannot.
    hears = "interrupts off" not in SPINNING[word]
    assert hangs.stopped == (hears or attachment_of(hangs).relay.door == "qemu")


@pytest.mark.kgdb(stub="kgdb")
def test_an_interrupt_that_nobody_hears(hangs):
    expected = f"spinning with interrupts off: CPU 0 in {at('hang_deaf')}, {SH}"
    line = first_line(hangs, hang("deaf"), lambda: hangs.cont(timeout=SECONDS))
    assert re.fullmatch(expected, line)
    line = first_line(hangs, "", lambda: hangs.interrupt(timeout=SECONDS))
    assert re.fullmatch(expected, line)


def test_a_kernel_that_was_halted(kgdb):
    assert re.fullmatch(
        r"halted with interrupts off: CPU 0 in __do_sys_reboot \(kernel/reboot\.c:\d+\), "
        r"halt\[\d+\]",
        first_line(kgdb, "halt -f"),
    )


@pytest.mark.kgdb(smp=2)
def test_two_cpus(hangs):
    assert re.fullmatch(
        r"spinning with interrupts off: CPU 0 in spin_here \(hangs\.c:\d+\), \S+\[\d+\]; "
        r"CPU 1 in spin_here \(hangs\.c:\d+\), \S+\[\d+\]",
        first_line(hangs, hang("all")),
    )


def running(function, mark=None):
    """What a first line says of a CPU that runs a timer's function, whatever that interrupted."""
    return rf"CPU [01] in {at(function, mark)}, \S+\[\d+\]"


def test_a_timer_that_waits_for_itself(hangs):
    assert re.fullmatch(
        f"spinning: {running('own_timer', 'own timer')}, waiting for the timer device.timer, whose "
        "function own_timer has not returned on CPU 0",
        first_line(hangs, hang("own_timer")),
    )


def test_an_hrtimer_that_is_always_due(hangs):
    """Its function returns HRTIMER_RESTART, and does not forward it."""
    assert first_line(hangs, hang("due")) == (
        "running an hrtimer that is always due with interrupts off: CPU 0, the hrtimer "
        "device.hrtimer, whose function is always_due"
    )


def test_a_tasklet_that_schedules_itself(hangs):
    assert first_line(hangs, hang("tasklet")) == (
        "running a tasklet that is scheduled again each time: CPU 0, the tasklet tasklet, whose "
        "function is again"
    )


def test_a_tasklet_that_is_disabled(hangs):
    """Each time that it is scheduled again, who waits for it is woken, and waits again."""
    assert first_line(hangs, hang("tasklet_kill")) == (
        "waiting for a tasklet that is disabled: CPU 0, the tasklet tasklet, whose function is "
        "again"
    )


def test_an_irq_work_that_queues_itself(hangs):
    """Its interrupt is served before the console's, so that kgdb hears no sysrq."""
    assert first_line(hangs, hang("irq_work")) == (
        "running an irq_work that is queued again each time: CPU 0, the irq_work irq_work, whose "
        "function is queue_again"
    )


@pytest.mark.parametrize(
    "cpus", [pytest.param(n, marks=pytest.mark.kgdb(smp=n, qemu_arg="-device edu")) for n in (1, 2)]
)
def test_an_interrupt_that_is_never_acknowledged(kgdb, cpus):
    kgdb.modules.load(STORM)
    line = first_line(kgdb, f"echo deaf > {RAISE}")
    assert re.fullmatch(
        r"in an interrupt that comes again at once: CPU [01], irq \d+, whose handler is "
        "deaf_handler",
        line,
    )


@pytest.mark.kgdb(qemu_arg="-device edu")
def test_an_interrupt_that_nobody_cares_for(kgdb):
    """The kernel switches it off after 100,000 times (kernel/irq/spurious.c)."""
    kgdb.modules.load(STORM)
    with kgdb.expect_splat("nobody cared", kind="interrupt") as expected:
        kgdb.type(f"echo strange > {RAISE}")
        kgdb.resume()
        kgdb.console.expect(r"Disabling IRQ #\d+")
    (splat,) = expected.splats
    assert (splat.function, splat.text.splitlines()[-2].split()[1]) == ("deaf_handler",) * 2
    assert re.fullmatch(r"irq \d+: nobody cared \(.*\), in deaf_handler", splat.summary)


@pytest.mark.kgdb(smp=2)
@pytest.mark.parametrize("kind", ["timer", "hrtimer"])
def test_a_timer_whose_function_does_not_return(hangs, kind):
    waits = rf"CPU ([01]) in {at(f'hang_{kind}')}, {SH}, waiting for the {kind} device\.{kind}, "
    waits += rf"whose function stuck_{kind} has not returned on CPU ([01])"
    runs = running(f"stuck_{kind}", f"{kind} function")
    assert_spins_for_the_other(waits, runs, first_line(hangs, hang(kind)))


@pytest.mark.kgdb(smp=2)
def test_a_timer_that_waits_for_the_lock_of_who_waits_for_it(hangs):
    waits = rf"CPU ([01]) in {at('hang_timer_lock')}, {SH}, waiting for the timer device\.timer, "
    waits += r"whose function locking_timer has not returned on CPU ([01])"
    runs = f"{running('locking_timer', 'locking timer')}, waiting for the spinlock spinlock"
    assert_spins_for_the_other(waits, runs, first_line(hangs, hang("timer_lock")))


def assert_spins_for_the_other(waits, runs, line):
    """Of two CPUs, in the order of their numbers, one waits for the timer of the other."""
    match = re.fullmatch(f"spinning: (?:{waits}; {runs}|{runs}; {waits})", line)
    assert match is not None, line
    assert sorted(filter(None, match.groups())) == ["0", "1"]


@pytest.mark.kgdb(smp=2)
@pytest.mark.parametrize(
    ("word", "wait"), [("rcu", "a grace period of RCU"), ("rcu_barrier", "the callbacks of RCU")]
)
def test_a_grace_period_that_a_cpu_holds_up(hangs, word, wait):
    """That CPU is the cause; whoever waits for it is among the tasks."""
    hangs.type(hang(word))
    with pytest.raises(TimeoutError) as caught:
        hangs.cont(timeout=SECONDS)
    message = caught.value.message
    cpu = re.search(rf": spinning: CPU ([01]) in {at('spin_thread', 'spin thread')}", message)
    waits = re.search(
        rf"^task \d+ \(sh\), blocked, waiting for {wait} \(CPUs? ([\d, ]+) ha.* reported no "
        "quiescent state\\)$", message, re.M,
    )  # fmt: skip
    assert cpu is not None, message
    assert waits is not None, message
    # The other one has, unless the kernel's thread that takes note of that has not run yet.
    assert cpu[1] in waits[1].split(", ")


@pytest.mark.kgdb(smp=2)
def test_a_lock_whose_holder_spins(hangs):
    """The one that spins is the cause, and the other CPU is idle."""
    assert re.fullmatch(
        f"spinning: CPU [01] in {at('hang_spin')}, {SH}",
        first_line(hangs, f"({hang('spin')}) & {hang('semaphore')}"),
    )


@pytest.mark.slow
@pytest.mark.kgdb(at="kgdbwait")
def test_a_boot(kgdb):
    """Before the first program is there, by a function that jumps to itself."""
    kgdb.write(int(kgdb.evaluate("(unsigned long)&run_init_process")), b"\xeb\xfe")
    with pytest.raises(TimeoutError) as caught:
        kgdb.cont(timeout=20)
    place = r"run_init_process \(init/main\.c:\d+\)"
    line = caught.value.message.splitlines()[0]
    assert line.startswith("the kernel did not stop in 20 s, having no breakpoint to stop at: ")
    assert re.search(rf": spinning: CPU 0 in {place}, swapper/0\[1\]$", line)


# The machine itself


def test_a_machine_that_somebody_has_paused(kgdb):
    monitor = attachment_of(kgdb).machine.monitor
    kgdb.resume()
    kgdb.run("true")  # the kernel has been resumed in earnest
    monitor.execute("stop")
    line = first_line(kgdb, "", lambda: kgdb.wait(timeout=SECONDS))
    assert line == "paused: QEMU has stopped the machine"
    assert monitor.execute("query-status")["status"] == "paused", "as it was"
    monitor.execute("cont")
    assert kgdb.interrupt().reason == "interrupt"


def test_triple_fault(hangs):
    with pytest.raises(MachineDied) as caught:
        hangs.run(hang("triple"))
    assert re.fullmatch(
        r"QEMU ended while a test was using it: exit status 0, after a triple fault, while "
        rf"{SH} on CPU 0 ran",
        caught.value.message,
    )


# Failures that are no hangs: what happened, and where, is in the first line, too


OOPSES = {
    "null": ("fail_null", "null", "BUG: kernel NULL pointer dereference, address: 0{15}8"),
    "overflow": ("fail_overflow", None, "kernel stack overflow"),
    "invalid": ("fail_invalid", "invalid", "invalid opcode"),
    "stack": ("fail_stack", "stack", "double fault"),
    "bug_work": ("bug_work", "bug work", rf"kernel BUG at {re.escape(str(HANGS))}/hangs\.c:\d+!"),
}


@pytest.mark.parametrize("word", OOPSES)
def test_oopses(hangs, word):
    with pytest.raises(GuestCommandError) as caught:
        hangs.run(hang(word))
    function, mark, message = OOPSES[word]
    line = r"\d+" if mark is None else re.search(r":(\d+)", at(function, mark))[1]
    place = rf"{function} at {re.escape(str(HANGS))}/hangs\.c:{line}"
    assert re.fullmatch(
        f"'echo {word} > .*' did not end: the kernel stopped meanwhile, "
        f"<Stop oops in #0 {place}: {message}>",
        caught.value.message.splitlines()[0],
    )


def test_out_of_memory(kgdb):
    kgdb.run("echo 1 > /proc/sys/vm/panic_on_oom; mkdir /t; mount -t tmpfs -o size=100% none /t")
    with pytest.raises(KernelPanic) as caught:
        kgdb.run("dd if=/dev/zero of=/t/file bs=1M")
    assert re.fullmatch(
        "the kernel panicked during 'dd .*': 'Out of memory: system-wide panic_on_oom is enabled'",
        caught.value.message.splitlines()[0],
    )
