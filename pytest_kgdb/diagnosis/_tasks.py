"""The tasks of a kernel that wait: where, for what, and who has it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ..deadline import Deadline
from ._command import Process
from ._locks import comm_of, task_name
from ._records import Tasks
from ._stack import StackFrame, frames_of, lines_of, place_of
from ._wait import Holder, Wait
from ._waits import IDLE_WAITS, last_ran, wait_of

if TYPE_CHECKING:
    import drgn

__all__ = ["TaskList", "WaitingTask"]

_SHOWN_FRAMES: Final = 14

# include/linux/sched.h: the bits of a task's state.
_UNINTERRUPTIBLE: Final = 0x2
_NOLOAD: Final = 0x400  # an idle kernel thread, which waits for work
_SIGNALLED: Final = 0x4  # __TASK_STOPPED
_TRACED: Final = 0x8  # __TASK_TRACED
# f5d39b020809 "freezer,sched: Rewrite core freezer logic" (in v6.1); TASK_UNINTERRUPTIBLE before.
_FROZEN: Final = 0x8000
_WAITING: Final = 0x3  # TASK_INTERRUPTIBLE, TASK_UNINTERRUPTIBLE
_NOT_RUNNABLE: Final = _WAITING | _SIGNALLED | _TRACED | _FROZEN

# What frozen tasks wait in: kernel/freezer.c; kernel/signal.c, of version 2 of cgroups.
_FREEZER: Final = frozenset({"__refrigerator", "do_freezer_trap"})

# A shell that waits for its command (kernel/exit.c) or for input (drivers/tty/n_tty.c) hangs not.
_CHILD: Final = "do_wait"
_INPUT: Final = "n_tty_read"


@dataclass(frozen=True)
class WaitingTask:
    """A task that waits."""

    address: int
    pid: int
    comm: str
    uninterruptible: bool
    program: bool
    """Whether it runs a user program; it is a kernel thread otherwise."""
    has_tty: bool
    switches: int
    """How often it has left a CPU by itself: the same number means that it has not run since."""
    frames: Sequence[StackFrame] = field(default=(), repr=False)
    wait: Wait | None = None
    since: int | None = None
    """When it went to sleep, in nanoseconds since boot; None where that is not known."""
    stopped_by: str = ""
    """Who has stopped it, in words: a signal, its tracer, or the freezer."""

    def __str__(self) -> str:
        return f"{self.comm}[{self.pid}]"

    @property
    def key(self) -> tuple[int, int, int]:
        """What changes when it runs."""
        return self.address, self.pid, self.switches

    @property
    def reads_input(self) -> bool:
        """Whether it waits for what a user types."""
        return any(frame.name == _INPUT for frame in self.frames)

    @property
    def awaits_child(self) -> bool:
        """Whether it waits for the end of its child, as a shell for its command."""
        return any(frame.name == _CHILD for frame in self.frames)

    @property
    def waits_by_itself(self) -> bool:
        """Whether what it waits for is neither input nor a child."""
        return not (self.reads_input or self.awaits_child)

    @property
    def waits_idly(self) -> bool:
        """Whether programs wait so that have nothing to do."""
        idly = self.wait is not None and self.wait.text in IDLE_WAITS
        return idly and not self.uninterruptible

    @property
    def place(self) -> str:
        """The function that waits, with file and line."""
        frame = place_of(self.frames)
        return frame.place if frame is not None else "(its stack cannot be read)"

    @property
    def holders(self) -> str:
        """Who has what it waits for, in words."""
        if self.wait is None or self.wait.names_holders:
            return ""
        # A lock has but its owner's address, and a new task may have that of one that has ended.
        names = [self._name(holder) for holder in self.wait.holders[:4]]
        if names:
            return f"held by {', '.join(names)}"
        if self.wait.last is None:
            return self.wait.holding
        reader = "" if self.wait.last.address == self.address else "reader "
        return f"{self.wait.holding}, last taken by {reader}{self._name(self.wait.last)}"

    def _name(self, holder: Holder) -> str:
        mine = holder.address == self.address
        doubt = " (or by a task that has ended)" if mine or holder.doubtful else ""
        return f"{'itself' if mine else holder.name}{doubt}"

    @property
    def reason(self) -> str:
        """What it waits for and who has that, in words; empty where that cannot be told."""
        if self.wait is None:
            return ""
        return " ".join(filter(None, [f"waiting for {self.wait.text}", self.holders]))

    def lines(self) -> str:
        """Return it with its stack, in lines."""
        kind = "blocked" if self.uninterruptible else "waiting"
        kind = f"stopped by {self.stopped_by}" if self.stopped_by else kind
        head = f"task {self.pid} ({self.comm}), {kind}"
        head = ", ".join(filter(None, [head, self.reason]))
        return "\n".join([head, *lines_of(self.frames, _SHOWN_FRAMES)])


class TaskList:
    """The tasks of a kernel at one time.

    :param source: the directory of the kernel's source in the debug information.
    :param deadline: when to stop reading: a damaged list may have no end.
    """

    def __init__(self, program: drgn.Program, source: Path | None, deadline: Deadline) -> None:
        from drgn.helpers.linux.pid import for_each_task

        self._program = program
        self._source = source
        self._deadline = deadline
        tasks: dict[int, drgn.Object] = {}
        for task in for_each_task(program):
            tasks[task.value_()] = task
            if deadline.expired:
                break
        self._tasks = Tasks(program, tasks)
        self._views: dict[int, WaitingTask] = {}

    def switches(self) -> set[tuple[int, int, int]]:
        """Return what :attr:`WaitingTask.key` has of each task."""
        return {
            (address, task.pid.value_(), task.nvcsw.value_())
            for address, task in self._tasks.by_address.items()
        }

    def view(self, address: int) -> WaitingTask | None:
        """Return a task by its address; None for one that does not wait."""
        task = self._tasks.get(address)
        if task is None or not _state(task) & _NOT_RUNNABLE:
            return None
        if address not in self._views:
            self._views[address] = self._read(task)
        return self._views[address]

    def _read(self, task: drgn.Object) -> WaitingTask:
        frames: list[StackFrame] = []
        wait = None
        # The kernel may be broken in any way, and the other tasks must be reported.
        try:
            frames = frames_of(self._program.stack_trace(task), self._source)
            wait = wait_of(self._tasks, task, frames)
        except Exception:  # noqa: S110 # what is missing is shown as missing
            pass
        return WaitingTask(
            task.value_(),
            task.pid.value_(),
            comm_of(task),
            bool(_state(task) & _UNINTERRUPTIBLE),
            bool(task.mm),
            bool(task.signal and task.signal.tty),
            task.nvcsw.value_(),
            tuple(frames),
            wait,
            last_ran(self._tasks, task),
            _stopped_by(task, frames),
        )

    def waiting(self) -> list[WaitingTask]:
        """Return the tasks that wait, as far as a test may wait for them.

        First those that wait uninterruptibly, the programs' before the kernel's; then the commands
        of the terminals' shells, or all programs where none has a terminal.
        """
        blocked: list[WaitingTask] = []
        commands: list[WaitingTask] = []
        others: list[WaitingTask] = []
        for address, task in self._tasks.by_address.items():
            if self._deadline.expired:
                break
            state = _state(task)
            uninterruptible = state & _UNINTERRUPTIBLE and not state & _NOLOAD
            if not uninterruptible and not (state & _NOT_RUNNABLE and task.mm):
                continue
            view = self.view(address)
            if view is None:
                continue
            if uninterruptible:
                blocked.append(view)
            else:
                (commands if view.has_tty else others).append(view)
        blocked.sort(key=lambda view: not view.program)
        # The shell of a small initrd has no terminal of its own.
        return [*blocked, *(commands or others)]

    def processes(self) -> dict[int, Process]:
        """Return the programs' places among each other, by their process ids."""
        return {
            task.pid.value_(): Process(task.real_parent.pid.value_(), task.start_time.value_())
            for task in self._tasks.by_address.values()
            if task.mm
        }

    def chain(self, view: WaitingTask) -> list[WaitingTask]:
        """Return a task, the one that holds what it waits for, and so on.

        Of readers it is the one that took it last, which need not be one that holds it. The last
        one is the first again if they wait for each other.
        """
        chain = [view]
        while (wait := chain[-1].wait) is not None and wait.next is not None:
            holder = self.view(wait.next.address)
            if holder is None:
                break
            chain.append(holder)
            if holder in chain[:-1]:
                break
        return chain


def _stopped_by(task: drgn.Object, frames: Sequence[StackFrame]) -> str:
    """Return who has stopped a task, in words; empty where it waits by itself."""
    state = _state(task)
    if state & _FROZEN or any(frame.name in _FREEZER for frame in frames):
        return "the freezer"
    if state & _SIGNALLED:
        return "a signal"
    # Its tracer is its parent meanwhile (kernel/ptrace.c, __ptrace_link).
    return f"its tracer {task_name(task.parent)}" if state & _TRACED else ""


def _state(task: drgn.Object) -> int:
    # Since 5.14 its name says that it is to be read once.
    field = "__state" if any(m.name == "__state" for m in task.type_.type.members) else "state"
    return int(task.member_(field).value_())
