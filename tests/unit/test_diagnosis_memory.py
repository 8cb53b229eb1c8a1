"""What a task waits for and who holds it, read from memory of several kernels' forms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import drgn
import pytest
from fake_kernel_memory import FakeMemory

from pytest_kgdb.diagnosis._irqs import awaited_handler
from pytest_kgdb.diagnosis._locks import Holding, task_name
from pytest_kgdb.diagnosis._records import Tasks
from pytest_kgdb.diagnosis._rwsems import rwsem_holding, rwsem_mode
from pytest_kgdb.diagnosis._stack import StackFrame
from pytest_kgdb.diagnosis._tasks import WaitingTask, _stopped_by
from pytest_kgdb.diagnosis._timers import RunningTimer, awaited_timer
from pytest_kgdb.diagnosis._wait import Holder, Wait
from pytest_kgdb.diagnosis._waits import wait_of

STACK_SIZE = 16384
ABSENT = drgn.AbsenceReason.OPTIMIZED_OUT


class FakeKernel(FakeMemory):
    """With tasks, whose stacks have records of waits."""

    def __init__(self) -> None:
        super().__init__()
        self.struct("atomic", counter="long")
        self.struct("sched_entity", exec_start="unsigned long long")
        self.struct(
            "task_struct", 512, stack="void *", pid="int", comm="char [16]", flags="unsigned int",
            start_time="unsigned long long", se="struct sched_entity", worker_private="void *",
        )  # fmt: skip
        self.tasks: dict[int, drgn.Object] = {}
        self._used: dict[int, int] = {}

    def task(self, pid: int, comm: str, /, **values: int | drgn.Object) -> drgn.Object:
        """Put a task into memory, with a stack."""
        task = self.new("struct task_struct", pid=pid, **values)
        for index, letter in enumerate(comm.encode()):
            self.write(task.comm[index], letter)
        stack = self.new(f"char [{STACK_SIZE}]")
        self.set(task, stack=stack)
        pointer = task.address_of_()
        self.tasks[pointer.value_()] = pointer
        self._used[pointer.value_()] = stack.address_ + STACK_SIZE // 2
        return pointer

    def on_stack(
        self, task: drgn.Object, words: str, /, **values: int | drgn.Object
    ) -> drgn.Object:
        """Put a record onto a task's stack."""
        type_ = self.program.type(words)
        address = self._used[task.value_()]
        self._used[task.value_()] += -(-type_.size // 8) * 8 + 64
        record = drgn.Object(self.program, type_, address=address)
        if "_" in values:
            self.write(record, values["_"])
        else:
            self.set(record, **values)
        return record

    def wait(self, task: drgn.Object, *frames: StackFrame) -> Wait | None:
        return wait_of(Tasks(self.program, self.tasks), task, list(frames))


@pytest.fixture
def kernel() -> FakeKernel:
    return FakeKernel()


def reason(wait: Wait | None, task: drgn.Object) -> str:
    """What the first line says of a wait."""
    pid = task.pid.value_()
    comm = task.comm.string_().decode()
    view = WaitingTask(task.value_(), pid, comm, True, True, False, 1, (), wait)
    return view.reason


@pytest.mark.parametrize("name", ["__state", "state"])
def test_who_has_stopped_a_task(name: str) -> None:
    kernel = FakeKernel()
    kernel.struct("task_struct", 512, **{name: "unsigned int"}, pid="int", comm="char [16]",
                  stack="void *", parent="struct task_struct *")  # fmt: skip
    tracer = kernel.task(50, "strace")
    stopped = kernel.task(60, "sh", parent=tracer)
    waits = StackFrame("demo_wait", "/src/demo.c", 30)

    def by(state: int, *frames: StackFrame) -> str:
        kernel.write(stopped.member_(name), state)
        return _stopped_by(stopped, [*frames, waits])

    assert [by(0x1), by(0x2)] == ["", ""]
    assert by(0x4) == by(0x104) == "a signal"  # with TASK_WAKEKILL
    assert by(0x8) == "its tracer strace[50]"
    assert by(0x8000) == "the freezer"
    assert by(0x2, StackFrame("__refrigerator", "kernel/freezer.c", 1)) == "the freezer"
    assert by(0x1, StackFrame("do_freezer_trap", "kernel/signal.c", 1)) == "the freezer"


def test_a_task_with_a_hostile_name(kernel: FakeKernel) -> None:
    assert task_name(kernel.task(60, "a\n::error::\x1b[2J")) == "a : :error::[60]"


# Semaphores of readers and writers


RWSEM = StackFrame("rwsem_down_write_slowpath", "kernel/locking/rwsem.c", 1)
WRITE, READ = 0, 1


@dataclass
class Rwsem:
    """A semaphore in memory."""

    kernel: FakeKernel
    lock: drgn.Object

    def holding(self, count: int, owner: drgn.Object | int) -> Holding:
        value = owner if isinstance(owner, int) else owner.value_()
        self.kernel.set(self.lock, count__counter=count, owner__counter=value)
        return rwsem_holding(self.lock, self.kernel.tasks)

    def wait(self, *waiters: tuple[drgn.Object, int]) -> None:
        """Make tasks wait for it."""
        records = [
            self.kernel.on_stack(task, "struct rwsem_waiter", task=task, type=kind)
            for task, kind in waiters
        ]
        self.kernel.link(self.lock.wait_list, *[record.list for record in records])


@pytest.fixture
def rwsem(kernel: FakeKernel) -> Rwsem:
    kernel.enum("rwsem_waiter_type", RWSEM_WAITING_FOR_WRITE=WRITE, RWSEM_WAITING_FOR_READ=READ)
    kernel.struct("rwsem_waiter", list="struct list_head", task="struct task_struct *",
                  type="enum rwsem_waiter_type")  # fmt: skip
    kernel.struct("rw_semaphore", count="struct atomic", owner="struct atomic",
                  wait_list="struct list_head")  # fmt: skip
    return Rwsem(kernel, kernel.variable("sem", "struct rw_semaphore"))


@pytest.mark.parametrize("flags", [0x2, 0x4, 0x6])
def test_who_holds_an_rwsem(kernel: FakeKernel, rwsem: Rwsem, flags: int) -> None:
    """With each bit that a kernel has in the owner, from 5.3 to 6.12."""
    task = kernel.task(7, "sh")
    assert rwsem.holding(0x3, task) == Holding((task,))
    reader = task.value_() | 0x1 | flags
    assert rwsem.holding(0x102, reader) == Holding((), "held by 1 reader", task)
    assert rwsem.holding(0x702, 0x1 | flags) == Holding((), "held by 7 readers"), "by nobody's name"
    assert rwsem.holding(0x102, 0xDEAD000 | 0x1 | flags).last is None, "it has ended"
    # What is read between two writes of the kernel.
    assert rwsem.holding(0x1, reader) == Holding((), "held by a writer")
    assert rwsem.holding(0x1, 0) == Holding((), "held by a writer")
    assert rwsem.holding(0x102, task).last is None, "a writer that has just released it"
    assert rwsem.holding(0x2, reader) == Holding(), "readers that have left"
    assert rwsem.holding(-(1 << 63) | 0x102, 0).words == "held by 1 reader"
    words = rwsem.holding(0x1, 0xDEAD000).words
    assert words == "whose owner 0xdead000 is no task (any more)"


def test_who_waits_for_an_rwsem(kernel: FakeKernel, rwsem: Rwsem) -> None:
    one, two, other = (kernel.task(pid, "dd") for pid in (7, 8, 9))
    rwsem.wait((one, READ), (two, WRITE), (other, READ))
    rwsem.holding(0x102, 0)
    assert rwsem_mode(rwsem.lock, one) == " (to read)"
    assert rwsem_mode(rwsem.lock, two) == " (to write)"
    assert rwsem_mode(rwsem.lock, other) == " (to read, behind the writer dd[8])"
    rwsem.holding(0x3, one)
    assert rwsem_mode(rwsem.lock, other) == " (to read)", "a writer holds it"
    assert rwsem_mode(rwsem.lock, kernel.task(10, "dd")) == ""


def test_a_list_of_waiters_that_has_no_end(kernel: FakeKernel, rwsem: Rwsem) -> None:
    one, two = kernel.task(7, "dd"), kernel.task(8, "dd")
    rwsem.wait((one, READ))
    record = rwsem.lock.wait_list.next
    kernel.set(record, next=record)
    assert rwsem_mode(rwsem.lock, two) == ""


def test_an_rwsem_in_words(kernel: FakeKernel, rwsem: Rwsem) -> None:
    task, reader = kernel.task(7, "dd"), kernel.task(8, "cat")
    rwsem.wait((task, WRITE))
    rwsem.holding(0x102, reader.value_() | 0x1)
    wait = kernel.wait(task, RWSEM)
    assert reason(wait, task) == (
        "waiting for the rwsem sem (to write) held by 1 reader, last taken by reader cat[8]"
    )
    assert wait is not None
    assert wait.next == Holder(reader.value_(), "cat[8]")
    assert not wait.holders
    rwsem.holding(0x102, task.value_() | 0x1)
    assert reason(kernel.wait(task, RWSEM), task) == (
        "waiting for the rwsem sem (to write) held by 1 reader, last taken by itself "
        "(or by a task that has ended)"
    )
    rwsem.holding(0x3, reader)
    words = "waiting for the rwsem sem (to write) held by cat[8]"
    assert reason(kernel.wait(task, RWSEM), task) == words


def test_a_reader_that_began_after_the_wait(kernel: FakeKernel, rwsem: Rwsem) -> None:
    kernel.variable("__gtod_offset", "unsigned long long")
    task = kernel.task(7, "dd", se__exec_start=10**9)
    reader = kernel.task(8, "cat", start_time=2 * 10**9)
    rwsem.wait((task, WRITE))
    rwsem.holding(0x102, reader.value_() | 0x1)
    assert reason(kernel.wait(task, RWSEM), task).endswith(
        "held by 1 reader, last taken by reader cat[8] (or by a task that has ended)"
    )


def test_an_rwsem_of_another_form(kernel: FakeKernel) -> None:
    """As with PREEMPT_RT: there is no record of a wait, and no count."""
    kernel.struct("rw_semaphore", rwbase="struct atomic")
    task = kernel.task(7, "dd")
    assert reason(kernel.wait(task, RWSEM), task) == "waiting for a rwsem"


def test_a_lock_that_has_no_owner(kernel: FakeKernel, rwsem: Rwsem) -> None:
    kernel.struct("rw_semaphore", count="struct atomic", wait_list="struct list_head")
    lock = kernel.variable("bare", "struct rw_semaphore", count__counter=0x102)
    task = kernel.task(7, "dd")
    Rwsem(kernel, lock).wait((task, WRITE))
    words = "waiting for the rwsem bare (to write)"
    assert reason(kernel.wait(task, RWSEM), task) == words


# Timers whose functions run


@dataclass
class FakeFrame:
    """A frame of a CPU's stack."""

    name: str | None
    sp: int
    variables: dict[str, drgn.Object]

    def __getitem__(self, name: str) -> drgn.Object:
        return self.variables[name]


@dataclass
class Timers:
    """Two CPUs' timers in memory, and a stack of one that waits."""

    kernel: FakeKernel
    bases: list[drgn.Object]
    first: drgn.Object
    second: drgn.Object
    stack: int
    function: str = "del_timer_sync"

    def awaited(
        self, *variables: drgn.Object, registers: Mapping[str, int] | None = None
    ) -> RunningTimer | None:
        """Return what a CPU waits for in a function, with the value of its argument."""
        frames = [
            FakeFrame("inlined", self.stack, {}),
            FakeFrame(self.function, self.stack, dict(zip(["timer"], variables, strict=False))),
            FakeFrame(None, self.stack + 64, {}),
        ]
        trace: Any = frames
        return awaited_timer(self.kernel.program, trace, registers or {})

    def run(self, cpu: int, timer: drgn.Object | int) -> None:
        self.kernel.set(self.bases[cpu][1], running_timer=timer)


@pytest.fixture
def timers(kernel: FakeKernel) -> Timers:
    kernel.struct("timer_list", expires="unsigned long", function="void *")
    kernel.struct("timer_base", lock="unsigned int", running_timer="struct timer_list *")
    bases = kernel.per_cpu("timer_bases", "struct timer_base [2]")
    function = kernel.function("demo_timeout")
    first = kernel.variable("first", "struct timer_list", function=function)
    second = kernel.variable("second", "struct timer_list", function=function)
    stack = kernel.new("char [4096]")
    return Timers(kernel, bases, first, second, stack.address_ + 2048)


@pytest.mark.parametrize(
    "function",
    ["del_timer_sync", "timer_delete_sync", "__timer_delete_sync", "timer_shutdown_sync"],
)
def test_a_timer_that_is_awaited(timers: Timers, function: str) -> None:
    timers.function = function
    argument = timers.first.address_of_()
    assert timers.awaited(argument) is None, "none runs"
    timers.run(1, timers.first)
    assert timers.awaited(argument) == RunningTimer("the timer first", 1, "demo_timeout")
    assert timers.awaited(timers.second.address_of_()) is None, "another one runs"
    timers.function = "mod_timer"
    assert timers.awaited(argument) is None, "it does not wait"


def test_a_timer_whose_argument_the_compiler_has_removed(timers: Timers) -> None:
    absent = drgn.Object(timers.kernel.program, "struct timer_list *", absence_reason=ABSENT)
    first, second = timers.first.address_, timers.second.address_
    expected = RunningTimer("the timer first", 0, "demo_timeout")
    timers.run(0, timers.first)
    assert timers.awaited(absent) is None
    assert timers.awaited(absent, registers={"RBX": first}) == expected
    assert timers.awaited(registers={"RBX": first}) == expected, "no such variable"
    timers.kernel.words(timers.stack, {-48: first})
    assert timers.awaited(absent) == expected, "saved by a function that was called"
    timers.run(1, timers.second)
    assert timers.awaited(absent) == expected
    assert timers.awaited(absent, registers={"RBX": second}) is None, "it may be either"
    timers.kernel.words(timers.stack, {-48: 0, 64: first})
    assert timers.awaited(absent) is None, "it is the caller's"


def test_a_timer_without_a_function(timers: Timers) -> None:
    """It has been freed by its own, as a timer's function may do."""
    timers.run(0, timers.first)
    timers.kernel.set(timers.first, function=0xDEAD)
    assert timers.awaited(timers.first.address_of_()) == RunningTimer("the timer first", 0, "")


@pytest.mark.parametrize("kept", ["nothing", "timer_bases", "no member"])
def test_timers_of_another_form(timers: Timers, kept: str) -> None:
    argument = timers.first.address_of_()
    timers.run(0, timers.first)
    if kept == "no member":
        timers.kernel.struct("timer_base", lock="unsigned int")
        timers.kernel.per_cpu("timer_bases", "struct timer_base [2]")
    for name in list(timers.kernel.variables):
        if kept != "no member" and name != kept:
            del timers.kernel.variables[name]
    assert timers.awaited(argument) is None


def test_an_hrtimer_that_is_awaited(kernel: FakeKernel, timers: Timers) -> None:
    kernel.struct("hrtimer", node="unsigned long", function="void *")
    kernel.struct("hrtimer_clock_base", index="unsigned int", running="struct hrtimer *")
    kernel.struct("hrtimer_cpu_base", cpu="unsigned int",
                  clock_base="struct hrtimer_clock_base [8]")  # fmt: skip
    timers.function = "hrtimer_cancel"
    function = kernel.function("demo_expired")
    timer = kernel.variable("demo", "struct hrtimer", function=function).address_of_()
    assert timers.awaited(timer) is None
    bases = kernel.per_cpu("hrtimer_bases", "struct hrtimer_cpu_base")
    assert timers.awaited(timer) is None
    kernel.set(bases[1].clock_base[6], running=timer)
    assert timers.awaited(timer) == RunningTimer("the hrtimer demo", 1, "demo_expired")


# Semaphores of readers and writers with a count for each CPU


DOWN_READ = StackFrame("__percpu_down_read", "kernel/locking/percpu-rwsem.c", 1)
DOWN_WRITE = StackFrame("percpu_down_write", "kernel/locking/percpu-rwsem.c", 1)


@dataclass
class PercpuRwsem:
    """A semaphore in memory."""

    kernel: FakeKernel
    counts: list[drgn.Object]
    lock: drgn.Object

    def queue(self, *waiters: drgn.Object) -> None:
        """Make tasks wait in its queue."""
        records = [
            self.kernel.on_stack(task, "struct wait_queue_entry", private=task) for task in waiters
        ]
        self.kernel.link(self.lock.waiters.head, *[record.entry for record in records])

    def block(self, writer: drgn.Object | int = 0) -> None:
        """Let a writer have it, or wait for its readers."""
        self.kernel.set(self.lock, block__counter=1, writer__task=writer)

    def reason(self, task: drgn.Object, frame: StackFrame) -> str:
        return reason(self.kernel.wait(task, frame), task)


@pytest.fixture
def percpu_rwsem(kernel: FakeKernel) -> PercpuRwsem:
    kernel.struct("wait_queue_entry", flags="unsigned int", private="void *", func="void *",
                  entry="struct list_head")  # fmt: skip
    kernel.struct("wait_queue_head", lock="unsigned int", head="struct list_head")
    kernel.struct("rcuwait", task="struct task_struct *")
    kernel.struct("atomic_t", counter="int")
    kernel.struct("percpu_rw_semaphore", rss="unsigned long [4]", read_count="unsigned int *",
                  writer="struct rcuwait", waiters="struct wait_queue_head",
                  block="struct atomic_t")  # fmt: skip
    counts = kernel.per_cpu("count", "unsigned int")
    lock = kernel.variable("sem", "struct percpu_rw_semaphore", read_count=counts[0])
    kernel.link(lock.waiters.head)
    return PercpuRwsem(kernel, counts, lock)


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ((1, 0), " held by 1 reader"),
        ((-2, 5), " held by 3 readers"),
        ((0, 0), ""),
        ((0, -1), ""),
    ],
)
def test_the_readers_of_a_percpu_rwsem(
    kernel: FakeKernel, percpu_rwsem: PercpuRwsem, counts: tuple[int, int], words: str
) -> None:
    task = kernel.task(7, "dd")
    for variable, count in zip(percpu_rwsem.counts, counts, strict=True):
        kernel.write(variable, count)
    nothing = "waiting for a percpu_rwsem (to write)"
    assert percpu_rwsem.reason(task, DOWN_WRITE) == nothing
    kernel.on_stack(task, "unsigned long", _=percpu_rwsem.lock)
    assert percpu_rwsem.reason(task, DOWN_WRITE) == nothing, "it is nobody's"
    percpu_rwsem.block(kernel.task(8, "cat"))
    assert percpu_rwsem.reason(task, DOWN_WRITE) == nothing, "it is another one's"
    percpu_rwsem.block(task)
    assert percpu_rwsem.reason(task, DOWN_WRITE) == (
        f"waiting for the percpu_rwsem sem (to write){words}"
    )


def test_a_percpu_rwsem_that_may_be_either(kernel: FakeKernel, percpu_rwsem: PercpuRwsem) -> None:
    task = kernel.task(7, "dd")
    other = kernel.variable("other", "struct percpu_rw_semaphore")
    kernel.link(other.waiters.head)
    for lock in (percpu_rwsem.lock, other):
        kernel.set(lock, block__counter=1, writer__task=task)
        kernel.on_stack(task, "unsigned long", _=lock)
    assert percpu_rwsem.reason(task, DOWN_WRITE) == "waiting for a percpu_rwsem (to write)"


def test_who_waits_for_a_percpu_rwsem(kernel: FakeKernel, percpu_rwsem: PercpuRwsem) -> None:
    reader, other, writer = (kernel.task(pid, "dd") for pid in (7, 8, 9))
    percpu_rwsem.queue(reader, other)
    read = "waiting for the percpu_rwsem sem (to read"
    assert percpu_rwsem.reason(reader, DOWN_READ) == f"{read})", "it has just been released"
    percpu_rwsem.block()
    assert percpu_rwsem.reason(reader, DOWN_READ) == f"{read}) held by a writer"
    assert percpu_rwsem.reason(other, DOWN_WRITE) == (
        "waiting for the percpu_rwsem sem (to write) held by a writer"
    )
    percpu_rwsem.block(writer)
    assert percpu_rwsem.reason(reader, DOWN_READ) == f"{read}, behind the writer dd[9])"
    wait = kernel.wait(reader, DOWN_READ)
    assert wait is not None
    assert wait.next == Holder(writer.value_(), "dd[9]")
    percpu_rwsem.block(0xDEAD000)
    assert percpu_rwsem.reason(reader, DOWN_READ) == f"{read}) held by a writer"


@pytest.mark.parametrize("absent", ["type", "block", "waiters", "writer", "read_count"])
def test_a_percpu_rwsem_of_another_form(
    kernel: FakeKernel, percpu_rwsem: PercpuRwsem, absent: str
) -> None:
    """As before 5.7, when it had an rwsem in it."""
    reader, writer = kernel.task(7, "dd"), kernel.task(8, "dd")
    percpu_rwsem.queue(reader)
    percpu_rwsem.block(writer)
    kernel.on_stack(writer, "unsigned long", _=percpu_rwsem.lock)
    members = {"read_count": "unsigned int *", "writer": "struct rcuwait",
               "waiters": "struct wait_queue_head", "block": "struct atomic_t"}  # fmt: skip
    members.pop(absent, None)
    kernel.struct("percpu_rw_semaphore", rss="unsigned long [4]", **members)
    if absent == "type":
        del kernel.types["struct percpu_rw_semaphore"]
    assert percpu_rwsem.reason(reader, DOWN_READ).startswith("waiting for ")
    write = percpu_rwsem.reason(writer, DOWN_WRITE)
    assert write.startswith("waiting for ")
    assert "held" not in write


# Grace periods


COMPLETION = StackFrame("do_wait_for_common", "kernel/sched/completion.c", 85)


def rcu_stack(function: str) -> tuple[StackFrame, ...]:
    return COMPLETION, StackFrame(function, "kernel/rcu/tree.c", 1)


@dataclass
class Rcu:
    """Two CPUs that are both below one node, in memory."""

    kernel: FakeKernel
    state: drgn.Object
    node: drgn.Object
    task: drgn.Object

    def reason(self, function: str = "__wait_rcu_gp") -> str:
        return reason(self.kernel.wait(self.task, *rcu_stack(function)), self.task)


@pytest.fixture
def rcu(kernel: FakeKernel) -> Rcu:
    return new_rcu(kernel)


def new_rcu(kernel: FakeKernel) -> Rcu:
    kernel.struct(
        "task_struct", 512, stack="void *", pid="int", comm="char [16]", flags="unsigned int",
        start_time="unsigned long long", se="struct sched_entity", worker_private="void *",
        rcu_node_entry="struct list_head",
    )  # fmt: skip
    kernel.struct("rcu_state", gp_seq="unsigned long")
    kernel.struct("rcu_node", qsmask="unsigned long", expmask="unsigned long",
                  blkd_tasks="struct list_head", gp_tasks="struct list_head *",
                  exp_tasks="struct list_head *")  # fmt: skip
    kernel.struct("rcu_data", mynode="struct rcu_node *", grpmask="unsigned long")
    node = kernel.variable("node", "struct rcu_node")
    kernel.link(node.blkd_tasks)
    for cpu, data in enumerate(kernel.per_cpu("rcu_data", "struct rcu_data")):
        kernel.set(data, mynode=node, grpmask=1 << cpu)
    state = kernel.variable("rcu_state", "struct rcu_state", gp_seq=0x15)
    return Rcu(kernel, state, node, kernel.task(7, "dd"))


@pytest.mark.parametrize(
    ("function", "words"),
    [
        ("synchronize_rcu", "a grace period of RCU"),
        ("rcu_sync_enter", "a grace period of RCU"),
        ("rcu_barrier", "the callbacks of RCU"),
    ],
)
def test_what_holds_up_a_grace_period(rcu: Rcu, function: str, words: str) -> None:
    assert rcu.reason(function) == f"waiting for {words}", "its end is about to be noted"
    rcu.kernel.set(rcu.node, qsmask=2, expmask=1)
    cpu = f"waiting for {words} (CPU 1 has reported no quiescent state)"
    assert rcu.reason(function) == cpu
    rcu.kernel.set(rcu.node, qsmask=3)
    assert rcu.reason(function) == (
        f"waiting for {words} (CPUs 0, 1 have reported no quiescent state)"
    )
    rcu.kernel.set(rcu.state, gp_seq=0x14)
    assert rcu.reason(function) == f"waiting for {words}", "none is in progress"


def test_what_holds_up_an_expedited_grace_period(rcu: Rcu) -> None:
    words = "waiting for an expedited grace period of RCU"
    rcu.kernel.set(rcu.node, qsmask=3)
    assert rcu.reason("synchronize_rcu_expedited") == words
    rcu.kernel.set(rcu.node, expmask=1)
    assert rcu.reason("synchronize_rcu_expedited") == (
        f"{words} (CPU 0 has reported no quiescent state)"
    )


def test_tasks_that_hold_up_a_grace_period(rcu: Rcu) -> None:
    """They are those from the first one on, which the node has; newer ones come before it."""
    newer, first, second = (rcu.kernel.task(pid, "cat") for pid in (8, 9, 10))
    entries = [task.rcu_node_entry for task in (newer, first, second)]
    rcu.kernel.link(rcu.node.blkd_tasks, *entries)
    assert rcu.reason() == "waiting for a grace period of RCU"
    rcu.kernel.set(rcu.node, gp_tasks=entries[1])
    assert rcu.reason() == "waiting for a grace period of RCU held by cat[9], cat[10]"
    assert rcu.reason("synchronize_rcu_expedited").endswith("of RCU")
    rcu.kernel.set(rcu.node, gp_tasks=entries[2])
    wait = rcu.kernel.wait(rcu.task, *rcu_stack("synchronize_rcu"))
    assert wait is not None
    assert wait.next == Holder(second.value_(), "cat[10]")
    # A damaged list, and tasks of another form (without CONFIG_PREEMPT_RCU).
    rcu.kernel.set(rcu.node, gp_tasks=0xDEAD000)
    assert rcu.reason() == "waiting for a grace period of RCU"


@pytest.mark.parametrize("absent", ["rcu_state", "rcu_data", "gp_seq", "mynode", "qsmask"])
def test_rcu_of_another_form(kernel: FakeKernel, absent: str) -> None:
    kernel.absent.add(absent)
    rcu = new_rcu(kernel)
    kernel.set(rcu.node, qsmask=3)
    assert rcu.reason() == "waiting for a grace period of RCU"


def test_rcu_that_waits_for_a_mutex(rcu: Rcu) -> None:
    """Its own mutex, which has a holder (kernel/rcu/tree.c, rcu_barrier)."""
    mutex = StackFrame("__mutex_lock", "kernel/locking/mutex.c", 1)
    wait = rcu.kernel.wait(rcu.task, mutex, *rcu_stack("rcu_barrier")[1:])
    assert reason(wait, rcu.task) == "waiting for a mutex"


def test_rcu_tasks(rcu: Rcu) -> None:
    frames = [*rcu_stack("__wait_rcu_gp"), StackFrame("synchronize_rcu_tasks")]
    wait = rcu.kernel.wait(rcu.task, *frames)
    assert reason(wait, rcu.task) == "waiting for a grace period of RCU tasks"


@dataclass
class Srcu:
    """A `struct srcu_struct` in memory."""

    kernel: FakeKernel
    lock: drgn.Object
    data: list[drgn.Object]
    task: drgn.Object

    def count(self, *counts: tuple[int, int, int, int]) -> None:
        for data, numbers in zip(self.data, counts, strict=True):
            member = "srcu_lock_count__{}", "srcu_unlock_count__{}"
            names = [words.format(index) for words in member for index in (0, 1)]
            self.kernel.set(data, **{
                f"{name}__counter" if self.atomic else name: number
                for name, number in zip(names, numbers, strict=True)
            })  # fmt: skip

    atomic: bool = False

    def reason(self, function: str = "__synchronize_srcu") -> str:
        return reason(self.kernel.wait(self.task, *rcu_stack(function)), self.task)


@pytest.fixture(params=["unsigned long", "atomic_long_t"])
def srcu(kernel: FakeKernel, request: pytest.FixtureRequest) -> Srcu:
    return new_srcu(kernel, request.param)


def new_srcu(kernel: FakeKernel, count: str) -> Srcu:
    kernel.types["atomic_long_t"] = kernel.program.typedef_type(
        "atomic_long_t", kernel.program.type("struct atomic")
    )
    kernel.struct("srcu_data", srcu_lock_count=f"{count} [2]",
                  srcu_unlock_count=f"{count} [2]", ssp="struct srcu_struct *")  # fmt: skip
    kernel.struct("srcu_struct", srcu_idx="unsigned long", sda="struct srcu_data *")
    data = kernel.per_cpu("demo_data", "struct srcu_data")
    lock = kernel.variable("demo", "struct srcu_struct", sda=data[0])
    kernel.set(data[0], ssp=lock)
    return Srcu(kernel, lock, data, kernel.task(7, "dd"), count == "atomic_long_t")


def test_the_readers_of_an_srcu(srcu: Srcu) -> None:
    assert srcu.reason() == "waiting for a grace period of SRCU"
    srcu.kernel.on_stack(srcu.task, "unsigned long", _=srcu.lock)
    assert srcu.reason() == "waiting for a grace period of the SRCU demo"
    srcu.count((4, 3, 2, 0), (1, 0, 2, 1))
    assert srcu.reason() == "waiting for a grace period of the SRCU demo, which has 3 readers"
    assert srcu.reason("srcu_barrier").startswith("waiting for the callbacks of the SRCU demo")
    srcu.count((1, 0, (1 << 64) - 1, 0), (0, 0, 1, 0))
    assert srcu.reason().endswith("which has 1 reader"), "counts wrap"
    srcu.count((0, 0, 1, 0), (0, 0, 0, 0))
    assert srcu.reason() == "waiting for a grace period of the SRCU demo"
    srcu.kernel.set(srcu.data[0], ssp=0)
    assert srcu.reason() == "waiting for a grace period of SRCU", "it is something else"


@pytest.mark.parametrize("absent", ["sda", "ssp", "srcu_lock_count"])
def test_an_srcu_of_another_form(kernel: FakeKernel, absent: str) -> None:
    kernel.absent.add(absent)
    srcu = new_srcu(kernel, "unsigned long")
    srcu.count((4, 3, 2, 0), (1, 0, 2, 1))
    kernel.on_stack(srcu.task, "unsigned long", _=srcu.lock)
    name = "the SRCU demo" if absent == "srcu_lock_count" else "SRCU"
    assert srcu.reason() == f"waiting for a grace period of {name}"
    del kernel.types["struct srcu_struct"]
    assert srcu.reason() == "waiting for a grace period of SRCU", "as before it is used"


# Kernel threads that park, and their works


@dataclass
class Kthread:
    """A kernel thread with works, and a task that waits for it."""

    kernel: FakeKernel
    record: drgn.Object
    worker: drgn.Object
    task: drgn.Object

    def reason(self, completion: drgn.Object) -> str:
        record = self.kernel.on_stack(self.task, "struct swait_queue", task=self.task)
        self.kernel.link(completion.wait.task_list, record.task_list)
        stack = COMPLETION, StackFrame("demo_wait", "/src/demo.c", 30)
        return reason(self.kernel.wait(self.task, *stack), self.task)


@pytest.fixture
def kthread(kernel: FakeKernel) -> Kthread:
    kernel.struct(
        "task_struct", 512, stack="void *", pid="int", comm="char [16]", flags="unsigned int",
        start_time="unsigned long long", se="struct sched_entity", worker_private="void *",
        vfork_done="struct completion *",
    )  # fmt: skip
    kernel.struct("swait_queue_head", lock="unsigned int", task_list="struct list_head")
    kernel.struct("swait_queue", task="struct task_struct *", task_list="struct list_head")
    kernel.struct("completion", done="unsigned int", wait="struct swait_queue_head")
    kernel.struct("kthread", data="void *", parked="struct completion", exited="struct completion")
    kernel.struct("kthread_work", node="struct list_head", func="void *",
                  worker="struct kthread_worker *")  # fmt: skip
    kernel.struct("kthread_worker", work_list="struct list_head", task="struct task_struct *",
                  current_work="struct kthread_work *")  # fmt: skip
    kernel.struct("kthread_flush_work", work="struct kthread_work", done="struct completion")
    for function in ("kthread_flush_work_fn", "demo_work"):
        kernel.variables[function] = kernel.new("unsigned long")
        kernel.symbol(function, kernel.variables[function].address_)
    record = kernel.new("struct kthread")
    thread = kernel.task(8, "demo", flags=0x200000, worker_private=record)
    work = kernel.new("struct kthread_work", func=kernel.variables["demo_work"])
    worker = kernel.new("struct kthread_worker", task=thread, current_work=work)
    return Kthread(kernel, record, worker, kernel.task(7, "dd"))


def test_a_thread_that_is_to_park(kthread: Kthread) -> None:
    assert kthread.reason(kthread.record.parked) == "waiting for demo[8] to park"


def test_a_work_of_a_kthread_worker(kernel: FakeKernel, kthread: Kthread) -> None:
    flush = kernel.on_stack(
        kthread.task, "struct kthread_flush_work", work__worker=kthread.worker,
        work__func=kernel.variables["kthread_flush_work_fn"],
    )  # fmt: skip
    kernel.link(kthread.worker.work_list, flush.work.node)
    assert kthread.reason(flush.done) == "waiting for the work demo_work of demo[8]"
    other = kernel.new("struct kthread_work")
    kernel.link(kthread.worker.work_list, other.node, flush.work.node)
    assert kthread.reason(flush.done) == "waiting for the works of demo[8]", "behind another one"
    kernel.set(flush, work__func=kernel.variables["demo_work"])
    assert "waiting for the completion " in kthread.reason(flush.done)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        ("call_usermodehelper_exec", "a helper program"),
        ("__debugfs_file_removed", "the users of a file in debugfs"),
        ("proc_entry_rundown", "the users of a file in /proc"),
    ],
)
def test_a_completion_by_who_waits(
    kernel: FakeKernel, kthread: Kthread, function: str, words: str
) -> None:
    completion = kernel.new("struct completion")
    record = kernel.on_stack(kthread.task, "struct swait_queue", task=kthread.task)
    kernel.link(completion.wait.task_list, record.task_list)
    wait = kernel.wait(kthread.task, COMPLETION, StackFrame(function, "fs/demo.c", 1))
    assert wait == Wait(words, completion.address_)


def test_a_simple_wait_queue(kernel: FakeKernel, kthread: Kthread) -> None:
    queue = kernel.variable("queue", "struct swait_queue_head")
    record = kernel.on_stack(kthread.task, "struct swait_queue", task=kthread.task)
    kernel.link(queue.task_list, record.task_list)
    wait = kernel.wait(kthread.task, StackFrame("demo_wait", "/src/demo.c", 30))
    assert reason(wait, kthread.task) == "waiting for the wait queue queue"


# Works that have not begun, and workqueues that are flushed


PENDING, INACTIVE, PWQ, LINKED = 1, 2, 4, 8
COLOR = 0x20
FLUSH = StackFrame("__flush_work", "kernel/workqueue.c", 1)


@dataclass
class Workqueue:
    """A workqueue, with a work that somebody waits for."""

    kernel: FakeKernel
    queue: drgn.Object
    pool_queue: drgn.Object
    work: drgn.Object
    task: drgn.Object

    def data(self, bits: int) -> int:
        return int(self.pool_queue.address_) | bits

    def run(self, pid: int, pool_queue: drgn.Object | None = None, color: int = 0) -> drgn.Object:
        """Let a worker run another work."""
        kernel = self.kernel
        worker = kernel.new(
            "struct worker",
            current_pwq=self.pool_queue if pool_queue is None else pool_queue,
            current_func=kernel.variables["demo_work"],
            current_color=color,
        )
        kernel.link(worker.scheduled)
        kthread = kernel.new("struct kthread", data=worker)
        return kernel.task(pid, "kworker", flags=0x200020, worker_private=kthread)

    def barrier(self) -> drgn.Object:
        """Put the record of a flush onto the task's stack."""
        barrier = self.kernel.on_stack(
            self.task, "struct wq_barrier", work__func=self.kernel.variables["wq_barrier_func"],
            work__data__counter=self.data(PENDING | INACTIVE | PWQ),
        )  # fmt: skip
        self.wait(barrier.done)
        return barrier

    def wait(self, completion: drgn.Object) -> None:
        record = self.kernel.on_stack(self.task, "struct swait_queue", task=self.task)
        self.kernel.link(completion.wait.task_list, record.task_list)

    def reason(self) -> str:
        return reason(self.kernel.wait(self.task, COMPLETION, FLUSH), self.task)


@pytest.fixture(params=["6.8", "6.12"])
def workqueue(kernel: FakeKernel, request: pytest.FixtureRequest) -> Workqueue:
    return new_workqueue(kernel, request.param)


def new_workqueue(kernel: FakeKernel, version: str) -> Workqueue:
    active = {"max_active": "int"}
    kernel.struct(
        "task_struct", 512, stack="void *", pid="int", comm="char [16]", flags="unsigned int",
        start_time="unsigned long long", se="struct sched_entity", worker_private="void *",
        vfork_done="struct completion *",
    )  # fmt: skip
    kernel.struct("swait_queue_head", lock="unsigned int", task_list="struct list_head")
    kernel.struct("swait_queue", task="struct task_struct *", task_list="struct list_head")
    kernel.struct("completion", done="unsigned int", wait="struct swait_queue_head")
    kernel.struct("kthread", data="void *", exited="struct completion")
    kernel.struct("work_struct", data="struct atomic", entry="struct list_head", func="void *")
    kernel.struct("wq_barrier", work="struct work_struct", done="struct completion")
    kernel.struct("wq_flusher", list="struct list_head", flush_color="int",
                  done="struct completion")  # fmt: skip
    kernel.struct("workqueue_struct", list="struct list_head",
                  first_flusher="struct wq_flusher *", name="char [8]",
                  **(active if version == "6.12" else {}))  # fmt: skip
    kernel.struct("pool_workqueue", wq="struct workqueue_struct *", nr_active="int",
                  **(active if version == "6.8" else {}))  # fmt: skip
    kernel.struct("worker", current_func="void *", current_pwq="struct pool_workqueue *",
                  current_color="unsigned int", scheduled="struct list_head")  # fmt: skip
    flags = {"WORK_STRUCT_FLAG_BITS": 8}
    if version == "6.12":
        flags = {"WORK_STRUCT_FLAG_BITS": 4, "WORK_STRUCT_PWQ_SHIFT": 8}
    for name, bits in flags.items():
        kernel.variables[name] = drgn.Object(kernel.program, "int", value=bits)
    for function in ("wq_barrier_func", "demo_work", "later_work"):
        kernel.variables[function] = kernel.new("unsigned long")
        kernel.symbol(function, kernel.variables[function].address_)
    queue = kernel.new("struct workqueue_struct")
    for index, letter in enumerate(b"demo"):
        kernel.write(queue.name[index], letter)
    kernel.link(kernel.variable("workqueues", "struct list_head"), queue.list)
    pool_queue = kernel.new("struct pool_workqueue", aligned=256, wq=queue)
    kernel.set(queue if version == "6.12" else pool_queue, max_active=1)
    work = kernel.new("struct work_struct", func=kernel.variables["later_work"])
    return Workqueue(kernel, queue, pool_queue, work, kernel.task(7, "dd"))


NOT_BEGUN = "waiting for the work later_work of the workqueue demo, which has not begun"


def test_a_work_that_has_not_begun(kernel: FakeKernel, workqueue: Workqueue) -> None:
    worker = workqueue.run(8)
    barrier = workqueue.barrier()
    kernel.set(workqueue.work, data__counter=workqueue.data(PENDING | PWQ | LINKED))
    head = kernel.new("struct list_head")
    other = kernel.new("struct wq_barrier", work__func=kernel.variables["wq_barrier_func"],
                       work__data__counter=workqueue.data(PENDING | PWQ | LINKED))  # fmt: skip
    kernel.link(head, workqueue.work.entry, barrier.work.entry)
    assert workqueue.reason() == NOT_BEGUN, "nothing is said of why it has not"
    behind = "waiting for the work later_work, behind the work demo_work of kworker[8]"
    data = workqueue.data(PENDING | PWQ | LINKED | INACTIVE | COLOR)
    kernel.set(workqueue.work, data__counter=data)
    assert workqueue.reason() == behind
    wait = kernel.wait(workqueue.task, COMPLETION, FLUSH)
    assert wait is not None
    assert wait.next == Holder(worker.value_(), "kworker[8]")
    kernel.link(head, workqueue.work.entry, other.work.entry, barrier.work.entry)
    assert workqueue.reason() == behind, "another task waits for it, too"
    workqueue.run(9)
    assert workqueue.reason() == NOT_BEGUN, "either may be what it is behind"


def test_a_work_of_a_queue_that_runs_several(kernel: FakeKernel, workqueue: Workqueue) -> None:
    workqueue.run(8)
    barrier = workqueue.barrier()
    kernel.set(workqueue.work, data__counter=workqueue.data(PENDING | PWQ | LINKED | INACTIVE))
    kernel.link(kernel.new("struct list_head"), workqueue.work.entry, barrier.work.entry)
    for owner in (workqueue.queue, workqueue.pool_queue):
        if owner.type_.has_member("max_active"):
            kernel.set(owner, max_active=2)
    assert workqueue.reason() == NOT_BEGUN


def test_a_work_that_another_cpu_runs(kernel: FakeKernel, workqueue: Workqueue) -> None:
    """Of the same queue, which lets each CPU run one."""
    workqueue.run(8, kernel.new("struct pool_workqueue", aligned=256, wq=workqueue.queue))
    barrier = workqueue.barrier()
    kernel.set(workqueue.work, data__counter=workqueue.data(PENDING | PWQ | LINKED | INACTIVE))
    kernel.link(kernel.new("struct list_head"), workqueue.work.entry, barrier.work.entry)
    assert workqueue.reason() == NOT_BEGUN


OWN = "waiting for the completion on its own stack"


def test_what_is_no_work(kernel: FakeKernel, workqueue: Workqueue) -> None:
    """The list's head is before the record, or a work of another queue, or what is no record."""
    barrier = workqueue.barrier()
    link = kernel.link
    head = kernel.new("struct list_head")
    link(head, barrier.work.entry)
    assert workqueue.reason() == OWN
    link(head, workqueue.work.entry, barrier.work.entry)
    assert workqueue.reason() == OWN, "it is not linked to the next"
    elsewhere = kernel.new("struct pool_workqueue", aligned=256, wq=workqueue.queue).address_
    kernel.set(workqueue.work, data__counter=elsewhere | PENDING | PWQ | LINKED)
    assert workqueue.reason() == OWN
    kernel.set(workqueue.work, data__counter=workqueue.data(PENDING | PWQ | LINKED))
    assert workqueue.reason() == NOT_BEGUN
    kernel.set(barrier.work, func=kernel.variables["demo_work"])
    assert workqueue.reason() == OWN


def test_a_queue_that_is_flushed(kernel: FakeKernel, workqueue: Workqueue) -> None:
    flusher = kernel.on_stack(workqueue.task, "struct wq_flusher", flush_color=3)
    workqueue.wait(flusher.done)
    assert workqueue.reason() == OWN
    kernel.set(workqueue.queue, first_flusher=flusher)
    assert workqueue.reason() == "waiting for the workqueue demo"
    workqueue.run(8, color=4)
    assert workqueue.reason() == "waiting for the workqueue demo", "it has come later"
    workqueue.run(9, color=3)
    words = "waiting for the workqueue demo, the work demo_work of kworker[9]"
    assert workqueue.reason() == words
    workqueue.run(10, color=3)
    assert workqueue.reason() == "waiting for the workqueue demo"


def test_a_queue_whose_works_have_no_colour(kernel: FakeKernel) -> None:
    """Before 5.15: the one that runs may have come after the flush."""
    kernel.absent.add("current_color")
    workqueue = new_workqueue(kernel, "6.8")
    flusher = kernel.on_stack(workqueue.task, "struct wq_flusher", flush_color=3)
    workqueue.wait(flusher.done)
    kernel.set(workqueue.queue, first_flusher=flusher)
    workqueue.run(8)
    assert workqueue.reason() == "waiting for the workqueue demo"


def test_lists_of_works_that_have_no_end(kernel: FakeKernel, workqueue: Workqueue) -> None:
    completion = kernel.new("struct completion")
    workqueue.wait(completion)
    worker = workqueue.run(8)
    work = kernel.new("struct work_struct")
    record = drgn.cast("struct kthread *", worker.worker_private).data
    scheduled = drgn.cast("struct worker *", record).scheduled
    for head, entry in (
        (kernel.variables["workqueues"], workqueue.queue.list),
        (scheduled, work.entry),
    ):
        kernel.set(head, next=entry)
        kernel.set(entry, next=entry)
    assert workqueue.reason() == f"waiting for the completion at {completion.address_:#x}"


@pytest.mark.parametrize(
    "absent", ["WORK_STRUCT_FLAG_BITS", "max_active", "current_pwq", "entry", "current_color"]
)
def test_works_of_another_form(kernel: FakeKernel, absent: str) -> None:
    kernel.absent.add(absent)
    workqueue = new_workqueue(kernel, "6.8")
    workqueue.run(8)
    barrier = workqueue.barrier()
    kernel.set(workqueue.work, data__counter=workqueue.data(PENDING | PWQ | LINKED | INACTIVE))
    if absent == "entry":
        assert workqueue.reason() == OWN
        return
    kernel.link(kernel.new("struct list_head"), workqueue.work.entry, barrier.work.entry)
    behind = "waiting for the work later_work, behind the work demo_work of kworker[8]"
    expected = {"current_color": behind, "WORK_STRUCT_FLAG_BITS": OWN}
    assert workqueue.reason() == expected.get(absent, NOT_BEGUN)


# Bits and variables


@dataclass
class Bits:
    """A task that waits for something to change."""

    kernel: FakeKernel
    task: drgn.Object

    def wait_for(self, wakes: str, bit: int, word: int) -> drgn.Object:
        """Put the record of a wait onto its stack, and in a queue."""
        record = self.kernel.on_stack(
            self.task, "struct wait_bit_queue_entry", wq_entry__private=self.task,
            wq_entry__func=self.kernel.function(wakes), key__flags=word, key__bit_nr=bit,
        )  # fmt: skip
        queue = self.kernel.new("struct wait_queue_head")
        self.kernel.link(queue.head, record.wq_entry.entry)
        return record

    def reason(self, function: str = "out_of_line_wait_on_bit") -> str:
        frame = StackFrame(function, "kernel/sched/wait_bit.c", 1)
        return reason(self.kernel.wait(self.task, frame), self.task)


@pytest.fixture
def bits(kernel: FakeKernel) -> Bits:
    return new_bits(kernel)


def new_bits(kernel: FakeKernel) -> Bits:
    kernel.struct("wait_queue_entry", flags="unsigned int", private="void *", func="void *",
                  entry="struct list_head")  # fmt: skip
    kernel.struct("wait_queue_head", lock="unsigned int", head="struct list_head")
    kernel.struct("wait_bit_key", flags="void *", bit_nr="int", timeout="unsigned long")
    kernel.struct("wait_bit_queue_entry", key="struct wait_bit_key",
                  wq_entry="struct wait_queue_entry")  # fmt: skip
    kernel.struct("device", lock="int", bits="unsigned long [2]", count="struct atomic")
    return Bits(kernel, kernel.task(7, "dd"))


def test_a_bit(kernel: FakeKernel, bits: Bits) -> None:
    device = kernel.variable("device", "struct device")
    record = bits.wait_for("wake_bit_function", 3, device.bits[1].address_)
    assert bits.reason() == "waiting for bit 3 of device.bits[1]"
    kernel.set(record, key__flags=device.address_ + 2)
    assert bits.reason() == "waiting for bit 3 of device+0x2"
    kernel.set(record, key__flags=0xDEAD000)
    assert bits.reason() == "waiting for bit 3 of the variable at 0xdead000"
    kernel.set(record, wq_entry__func=kernel.function("autoremove_wake_function"))
    assert "bit" not in bits.reason(), "another kind of record"


def test_a_variable(kernel: FakeKernel, bits: Bits) -> None:
    device = kernel.variable("device", "struct device")
    record = bits.wait_for("var_wake_function", -1, device.count.address_)
    assert bits.reason() == "waiting for device.count.counter"
    kernel.set(record, key__flags=0xDEAD000)
    assert bits.reason() == "waiting for the variable at 0xdead000"


@pytest.mark.parametrize("absent", ["key", "bit_nr", "wq_entry", "func"])
def test_bits_of_another_form(kernel: FakeKernel, absent: str) -> None:
    kernel.absent.add(absent)
    bits = new_bits(kernel)
    if absent == "wq_entry":
        assert bits.reason() == ""
        return
    bits.wait_for("wake_bit_function", 3, 0xDEAD000)
    assert "bit" not in bits.reason()


@pytest.mark.parametrize(
    ("member", "function"),
    [("folio", "folio_wait_bit_common"), ("page", "wait_on_page_bit_common"),
     ("page", "__lock_page"), ("neither", "__folio_lock_killable")],
)  # fmt: skip
def test_a_page(kernel: FakeKernel, member: str, function: str) -> None:
    """A folio since 5.16."""
    bits = new_bits(kernel)
    assert bits.reason(function) == "waiting for a folio"
    kernel.enum("pageflags", PG_locked=0, PG_dirty=4, PG_writeback=15)
    kernel.struct("wait_page_queue", **{member: "void *"}, bit_nr="int",
                  wait="struct wait_queue_entry")  # fmt: skip
    record = kernel.on_stack(bits.task, "struct wait_page_queue", wait__private=bits.task)
    assert bits.reason(function) == "waiting for a folio", "it is in no list"
    kernel.set(record, **{member: 0xFFFF})
    kernel.link(kernel.new("struct list_head"), record.wait.entry)
    names = {
        0: f"the lock of a {member}",
        15: f"a {member}'s writeback",
        4: f"PG_dirty of a {member}",
    }
    for bit, words in names.items():
        kernel.set(record, bit_nr=bit)
        expected = "a folio" if member == "neither" else f"{words} at 0xffff"
        assert bits.reason(function) == f"waiting for {expected}"
    kernel.set(record, bit_nr=99)
    assert bits.reason(function) == "waiting for a folio", "there is no such bit"


# Interrupts


@dataclass
class Irq:
    """An interrupt whose handlers have threads, and a task that waits for them."""

    kernel: FakeKernel
    desc: drgn.Object
    task: drgn.Object

    def thread(self, pid: int, irq: int, function: str = "irq_thread") -> drgn.Object:
        action = self.kernel.new("struct irqaction", irq=irq)
        kthread = self.kernel.new("struct kthread", data=action,
                                  threadfn=self.kernel.function(function))  # fmt: skip
        return self.kernel.task(pid, "irq/9-demo", flags=0x200000, worker_private=kthread)

    def reason(self) -> str:
        frame = StackFrame("synchronize_irq", "kernel/irq/manage.c", 1)
        return reason(self.kernel.wait(self.task, frame), self.task)


def new_irq(kernel: FakeKernel) -> Irq:
    new_bits(kernel)
    kernel.struct("kthread", threadfn="void *", data="void *")
    kernel.struct("irqaction", thread="void *", irq="unsigned int")
    kernel.struct("irq_data", mask="unsigned int", irq="unsigned int")
    kernel.struct("irq_desc", irq_data="struct irq_data",
                  wait_for_threads="struct wait_queue_head")  # fmt: skip
    desc = kernel.new("struct irq_desc", irq_data__irq=9)
    task = kernel.task(7, "rmmod")
    record = kernel.on_stack(task, "struct wait_queue_entry", private=task)
    if "wait_for_threads" not in kernel.absent:
        kernel.link(desc.wait_for_threads.head, record.entry)
    return Irq(kernel, desc, task)


def test_the_threads_of_an_interrupt(kernel: FakeKernel) -> None:
    irq = new_irq(kernel)
    irq.thread(8, 10)
    irq.thread(9, 9, "another_thread")
    kernel.task(10, "kthreadd", flags=0x200000)
    assert irq.reason() == "waiting for the threads of irq 9"
    thread = irq.thread(11, 9)
    assert irq.reason() == "waiting for the thread irq/9-demo[11] of irq 9"
    wait = kernel.wait(irq.task, StackFrame("__synchronize_irq", "kernel/irq/manage.c", 1))
    assert wait is not None
    assert wait.next == Holder(thread.value_(), "irq/9-demo[11]")
    irq.thread(12, 9)
    assert irq.reason() == "waiting for the threads of irq 9", "either may be the one"


@pytest.mark.parametrize("absent", ["irq_data", "wait_for_threads", "threadfn", "irq"])
def test_interrupts_of_another_form(kernel: FakeKernel, absent: str) -> None:
    kernel.absent.add(absent)
    irq = new_irq(kernel)
    irq.thread(8, 9)
    assert "irq/9" not in irq.reason()


def test_an_interrupt_whose_handler_is_awaited(kernel: FakeKernel) -> None:
    desc = new_irq(kernel).desc.address_of_()
    outer = FakeFrame("own_handler", 0, {"desc": desc})
    absent = drgn.Object(kernel.program, "struct irq_desc *", absence_reason=ABSENT)
    fault = drgn.Object(kernel.program, "struct irq_desc *", value=0xDEAD000)

    def awaited(**variables: drgn.Object) -> str | None:
        trace: Any = [FakeFrame("__synchronize_hardirq", 0, variables), outer]
        return awaited_handler(trace)

    assert awaited(desc=desc) == "the handlers of irq 9"
    assert awaited() is awaited(desc=absent) is awaited(desc=fault) is None
    only: Any = [outer]
    assert awaited_handler(only) is None
