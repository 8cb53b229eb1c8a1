"""Why a kernel does not come to where it was to come: in one line, and what is behind it."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeVar

from ..errors import KgdbError
from ._command import Story, likeliest_first
from ._cpus import CpuSample, general_registers
from ._loops import Loop, loop_of
from ._samples import Samples
from ._tasks import WaitingTask

__all__ = ["Diagnosis", "diagnose", "explained"]

E = TypeVar("E", bound=KgdbError)

# Run states of a machine that is at a stop of its debugger (qapi/run-state.json, RunState).
_OF_DEBUGGERS: Final = ("running", "paused")

_MAX_TASKS: Final = 6
_MAX_LINES: Final = 36
_MAX_CHAIN: Final = 4
_MAX_REGISTER_LINES: Final = 12


@dataclass(frozen=True)
class Diagnosis:
    """What a machine does instead of what was waited for."""

    headline: str
    """In one line; empty where nothing can be told."""
    text: str
    """What each CPU does, and which tasks wait, with their stacks."""
    deaf: bool = False
    """Whether no interrupt reaches the kernel any more, so that nothing but QEMU can stop it."""
    unless_stopped: Diagnosis | None = None
    """The kernel is in its debugger: what it does if that is for a call that a spy sees."""


def explained(
    error: E,
    diagnosis: Diagnosis,
    *,
    hint: str | None = None,
    limit: int | None = None,
    notes: Sequence[str] = (),
) -> E:
    """Return the error of a wait that ran out, with what the machine does instead.

    :param hint: what to do; that of the error otherwise.
    :param limit: how many lines of stacks may follow.
    :param notes: what may be behind it, for the lines below the first.
    """
    first, *rest = error.message.splitlines()
    if diagnosis.headline:
        first = f"{first}: {diagnosis.headline}"
    lines = [first, *notes, *rest]
    if diagnosis.text:
        text = diagnosis.text.splitlines()
        lines += ["what the kernel does:", *text[:limit]]
        if limit is not None and len(text) > limit:
            lines.append("…")
    result = copy.copy(error)  # with what else is known of it
    if diagnosis.headline and result.undiagnosed is None:
        result.undiagnosed = error.message.partition("\n")[0]
    result.message = "\n".join(lines)
    result.args = (result.message,)
    result.hint = hint or error.hint
    return result


def diagnose(samples: Samples) -> Diagnosis:
    """Return what is wrong, by what was seen of a machine at several times."""
    text = "\n".join(_bounded(samples))
    in_debugger = any(cpu.in_debugger for cpu in samples.last)
    if samples.status == "debug" or (in_debugger and samples.status in _OF_DEBUGGERS):
        # At a stop that has come while somebody looked.
        outside = [[cpu.outside_debugger() for cpu in cpus] for cpus in samples.cpus]
        running = _of_running(replace(samples, cpus=outside))
        return Diagnosis("the kernel has come to its debugger", text, unless_stopped=running)
    if samples.status != "running":
        return Diagnosis(f"{samples.status}: QEMU has stopped the machine", text, deaf=True)
    return _of_running(samples)


def _of_running(samples: Samples) -> Diagnosis:
    """Return what is wrong with a machine that runs."""
    text = "\n".join(_bounded(samples))
    if samples.last and not any(cpu.started for cpu in samples.last):
        return Diagnosis(_before_the_kernel(samples.by_cpu()[0]), text)
    looks = len(samples.cpus)
    loops = [loop for task in samples.by_task() if (loop := loop_of(task, looks)) is not None]
    deaf = [loop for loop in loops if loop.deaf]
    inside = [loop for loop in loops if not loop.user]
    if inside:
        registers = general_registers(samples.dump).splitlines()[:_MAX_REGISTER_LINES]
        words = _looping(deaf or inside)
        return Diagnosis(words, "\n".join([text, *registers]), deaf=bool(deaf))
    return Diagnosis(_of_tasks(samples, loops), text)


def _of_tasks(samples: Samples, loops: Sequence[Loop]) -> str:
    """Return what the tasks do or wait for, where no CPU loops in the kernel.

    Kernel threads come last: many wait uninterruptibly for work.
    """
    chains = samples.stuck()
    circle = next((chain for chain in chains if _is_deadlock(chain)), None)
    if circle is not None:
        return _deadlock(circle)
    stories = [Story(loop.pid, _looping(loops)) for loop in loops]
    stories += [
        Story(task.pid, _hangs(chains, chain), task.since, task.waits_idly)
        for chain in chains
        if (task := chain[0]).waits_by_itself and task.program
    ]
    ordered = likeliest_first(stories, samples.processes)
    if ordered and not ordered[0].often:
        return ordered[0].words
    if busy := _busy(samples):
        return busy
    readers = [str(chain[0]) for chain in chains if chain[0].reads_input]
    reads = f"{readers[-1]} waits for input" if readers else ""
    if ordered and not reads:
        return ordered[0].words
    threads = [chain for chain in chains if chain[0].uninterruptible]
    if threads:
        words = _hangs(chains, threads[0])
        return f"idle: {reads}; {words}" if reads else words
    if polling := _polling(samples.chains or ()):
        return polling
    if samples.chains is None:
        return ""
    return "; ".join(filter(None, ["idle: nothing is blocked", reads]))


def _before_the_kernel(cpus: Sequence[CpuSample]) -> str:
    """Return what the first CPU does in the BIOS, in a boot loader, or in the decompressor."""
    last = cpus[-1]
    if last.waits and not last.interrupts:
        return f"halted with interrupts off before the kernel: CPU 0 at {last.pc:#x}"
    same = len({cpu.pc for cpu in cpus}) == 1
    return f"{'spinning' if same else 'running'} before the kernel: CPU 0 at {last.pc:#x}"


def _looping(loops: Sequence[Loop]) -> str:
    return "; ".join(
        str(loop) if not index or loop.kind != loops[0].kind else loop.where
        for index, loop in enumerate(loops)
    )


def _hangs(chains: Sequence[Sequence[WaitingTask]], chain: Sequence[WaitingTask]) -> str:
    """Return what a task waits for, and how many others wait that have nothing to do with it."""
    task = chain[0]
    if task.stopped_by:
        return f"stopped: {task}, by {task.stopped_by}"
    kind = "blocked" if task.uninterruptible else "waiting"
    return f"{kind}: {_chain(chain)}{_and_others(chains, chain)}"


def _chain(chain: Sequence[WaitingTask]) -> str:
    """Return a task with what it waits for, and where those are that hold that."""
    circular = chain[-1] in chain[:-1]
    tasks = chain[:-1] if circular else chain
    words = f"{tasks[0]} " + ", which is ".join(_in_words(task) for task in tasks[:_MAX_CHAIN])
    return f"{words}: perhaps a deadlock" if circular else words


def _is_deadlock(chain: Sequence[WaitingTask]) -> bool:
    """Whether tasks wait for each other, and each is known to have what the one before waits for.

    A reader that took a lock last may have released it since.
    """
    circle = _circle(chain)
    return bool(circle) and all(task.wait is not None and task.wait.holders for task in circle)


def _circle(chain: Sequence[WaitingTask]) -> Sequence[WaitingTask]:
    """Return those tasks of a chain that wait for each other, each once."""
    return chain[chain.index(chain[-1]) : -1]


def _deadlock(chain: Sequence[WaitingTask]) -> str:
    return f"deadlock: {_chain(_circle(chain))}"


def _in_words(task: WaitingTask) -> str:
    return ", ".join(filter(None, [f"in {task.place}", task.reason]))


def _and_others(chains: Sequence[Sequence[WaitingTask]], chain: Sequence[WaitingTask]) -> str:
    """Return how many tasks wait that have nothing to do with a chain."""
    number = sum(1 for task, *_ in chains if task not in chain and task.waits_by_itself)
    return f"; and {number} more" if number else ""


def _polling(chains: Sequence[Sequence[WaitingTask]]) -> str:
    """Return the program, or the task that is to run the first one, that only waits again."""
    for task, *_ in chains:
        polls = task.wait is not None and task.wait.text == "a timer"
        if polls and (task.program or task.pid == 1):
            return f"polling: {task} {_in_words(task)}"
    return ""


def _busy(samples: Samples) -> str:
    """Return which tasks run, where that is not in one place."""
    looks = [
        [cpu for cpu in cpus if cpu.started and not cpu.idle and cpu.pid > 0]
        for cpus in samples.cpus
    ]
    numbers = Counter(cpu.number for busy in looks for cpu in busy)
    often = {number for number, count in numbers.items() if 2 * count > len(looks)}
    if not often and 2 * sum(map(bool, looks)) > len(looks):
        # A task that moves from CPU to CPU.
        often = set(numbers)
    seen: dict[str, set[str]] = {}
    for cpu in (cpu for busy in looks for cpu in busy if cpu.number in often):
        where = "user mode" if cpu.user else "the kernel"
        seen.setdefault(f"{cpu.task} on CPU {cpu.number}", set()).add(where)
    words = [f"{task}, in {' and in '.join(sorted(where))}" for task, where in seen.items()]
    return f"running: {'; '.join(words[:3])}" if words else ""


def _bounded(samples: Samples) -> Iterator[str]:
    """Yield what CPUs and tasks do, in no more lines than a screen has."""
    left = _MAX_LINES
    idle: list[str] = []
    parts: list[list[str]] = []
    for cpu in samples.last:
        lines = list(cpu.lines())
        if cpu.idle:
            idle.append(lines[0])
        else:
            parts.append(lines)
    tasks = list(_shown_tasks(samples.chains or ()))
    parts += [task.lines().splitlines() for task in tasks[:_MAX_TASKS]]
    for line in idle:
        yield line
        left -= 1
    for number, lines in enumerate(parts):
        if len(lines) > left:
            yield f"… and {len(parts) - number} more"
            return
        yield from lines
        left -= len(lines)
    if len(tasks) > _MAX_TASKS:
        yield f"… and {len(tasks) - _MAX_TASKS} more tasks"
    yield from samples.errors


def _shown_tasks(chains: Sequence[Sequence[WaitingTask]]) -> Iterator[WaitingTask]:
    """Yield the tasks that wait, each followed by those that hold what it waits for, once."""
    shown: set[int] = set()
    for chain in chains:
        for task in chain if chain[0].waits_by_itself else ():
            if task.address not in shown:
                shown.add(task.address)
                yield task
