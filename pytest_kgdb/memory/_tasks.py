"""The tasks of a stopped kernel that wait, and where: for a wait of the test's that ran out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import drgn

__all__ = ["blocked_tasks"]

_MOST_TASKS: Final = 8
_MOST_FRAMES: Final = 16

# include/linux/sched.h: the bits of a task's state.
_UNINTERRUPTIBLE: Final = 0x2
_NOLOAD: Final = 0x400  # an idle kernel thread, which waits for work

# What every task that waits is in (kernel/sched/core.c).
_SCHEDULER: Final = ("context_switch", "__schedule", "schedule", "preempt_schedule")
# A shell that waits for its command (kernel/exit.c) or for input (drivers/tty/n_tty.c) hangs not.
_IDLE: Final = frozenset({"do_wait", "n_tty_read"})


def blocked_tasks(program: drgn.Program, source: Path | None) -> Iterator[str]:
    """Yield the tasks that wait, each with its stack in lines, those with a terminal's last.

    These are the tasks that wait uninterruptibly, and the commands of the terminals' shells.

    :param source: the directory of the kernel's source in the debug info.
    """
    from drgn.helpers.linux.pid import for_each_task

    blocked: list[drgn.Object] = []
    commands: list[drgn.Object] = []
    others: list[drgn.Object] = []
    for task in for_each_task(program):
        state = _state(task)
        if state & _UNINTERRUPTIBLE and not state & _NOLOAD:
            blocked.append(task)
        elif state and task.mm:
            (commands if task.signal.tty else others).append(task)
    # The shell of a small initrd has no terminal of its own.
    shown = 0
    for task in (*blocked, *(commands or others)):
        stack = list(_stack(program, task, source))
        if _IDLE.intersection(name for name, _ in stack):
            continue
        if shown == _MOST_TASKS:
            yield "… and more"
            return
        shown += 1
        comm = task.comm.string_().decode(errors="replace")
        kind = "blocked" if _state(task) & _UNINTERRUPTIBLE else "waiting"
        lines = [f"task {task.pid.value_()} ({comm}), {kind}"]
        lines += [f"  #{level} {text}" for level, (_, text) in enumerate(stack)]
        yield "\n".join(lines)


def _state(task: drgn.Object) -> int:
    # Since 5.14 its name says that it is to be read once.
    field = "__state" if any(m.name == "__state" for m in task.type_.type.members) else "state"
    return int(task.member_(field).value_())


def _stack(
    program: drgn.Program, task: drgn.Object, source: Path | None
) -> Iterator[tuple[str, str]]:
    """Yield the functions that a task is in, and each with its file and line."""
    try:
        trace = program.stack_trace(task)
    except ValueError:  # it is on a CPU by now
        return
    inside = False
    for level, frame in enumerate(trace):
        name = frame.name or hex(frame.pc)
        inside = inside or name not in _SCHEDULER
        if not inside:
            continue
        if level == _MOST_FRAMES + len(_SCHEDULER):
            return
        try:
            file, line, _ = frame.source()
            where = f" at {file.removeprefix(f'{source}/')}:{line}"
        except LookupError:
            where = ""
        yield name, f"{name}{where}"
