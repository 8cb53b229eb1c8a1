"""What the CPUs do, by the registers that QEMU reports: at one time, and over several."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ._irqs import HANDLER_WAITS, awaited_handler
from ._locks import comm_of, spinning_lock, spins_in, task_name
from ._recurring import CountedIrq, Recurring, counted_irqs, recurring
from ._stack import StackFrame, frames_of, lines_of, stack_of
from ._timers import TIMER_WAITS, RunningTimer, awaited_timer

if TYPE_CHECKING:
    import drgn

__all__ = ["CpuSample", "general_registers", "running_tasks", "sample_cpus"]

_CPU: Final = re.compile(r"^CPU#(\d+)$", re.M)
# QEMU, target/i386/cpu-dump.c: the 16 general registers, RIP and RFL, and the state after them.
_REGISTER: Final = re.compile(r"\b(R(?:[A-D]X|[SD]I|[BS]P|IP|FL|\d+)|EIP|EFL) *=([0-9a-f]{8,16})")
_STATE: Final = re.compile(r"\bCPL=(\d).*\bHLT=(\d)")

# arch/x86/include/asm/ptrace.h
_PT_REGS: Final = {
    **{f"r{number}": f"R{number}" for number in range(8, 16)},
    **{name: f"R{name.upper()}" for name in ("ax", "bx", "cx", "dx", "si", "di", "bp", "sp", "ip")},
    "flags": "RFL",
}
# Intel SDM volume 1, "EFLAGS Register"
_INTERRUPT_FLAG: Final = 1 << 9
_WORD: Final = 8
_FIRST_KERNEL_ADDRESS: Final = 1 << 63
# How a CPU waits for an interrupt (kernel/sched/idle.c), and how one that is offline waits to be
# started again (arch/x86/kernel/smpboot.c).
_IDLE_NAMES: Final = re.compile(r"idle|safe_halt|^(?:acpi|intel)_\w*(?:enter|mwait)|play_dead")
_SHOWN_FRAMES: Final = 12
_DEBUGGER: Final = "kgdb_cpu_enter"  # kernel/debug/debug_core.c


@dataclass(frozen=True)
class CpuSample:
    """A CPU at one time; the machine was paused."""

    number: int
    registers: dict[str, int]
    user: bool
    """Whether it was in user mode."""
    waits: bool
    """Whether it had executed `hlt`, and no interrupt had come since."""
    pid: int = -1
    """Of the task that it ran; -1 where that cannot be read."""
    comm: str = ""
    switches: int = 0
    """How often that task has left a CPU by itself (`nvcsw`)."""
    entry: bytes = b""
    """The registers with which that task entered the kernel (`struct pt_regs`)."""
    frames: Sequence[StackFrame] = field(default=(), repr=False)
    spins_for: str | None = None
    """What it spun for, in words: a lock, a timer, a handler; None for none."""
    timer: RunningTimer | None = None
    """The timer that it spun for."""
    recurring: Recurring | None = None
    """What it was interrupted for."""
    irqs: tuple[CountedIrq, ...] = ()
    """What it may have been interrupted by, if it was in a device's interrupt."""
    error: str = ""
    """Why there are no frames."""

    def spins_within(self, depth: int) -> bool:
        """Whether it spun in a frame, or in what that called; not beneath, where it came later.

        :param depth: of the frame, counted from the outermost, which is 1.
        """
        waits = HANDLER_WAITS | TIMER_WAITS
        inner = self.frames[: len(self.frames) - depth + 1]
        return any(frame.name in waits or spins_in(frame.name) for frame in inner)

    @property
    def interrupts(self) -> bool:
        """Whether interrupts were on."""
        return bool(self.registers.get("RFL", self.registers.get("EFL", 0)) & _INTERRUPT_FLAG)

    def interrupts_in(self, depth: int) -> bool | None:
        """Whether interrupts were on in a frame, also if one, or an exception, came since.

        :param depth: counted from the outermost, which is 1.
        :return: None where it is not known, as on the way into a handler.
        """
        # The innermost, and what it is inlined into, is where the CPU is: its flags are the CPU's.
        inner = self.frames[: len(self.frames) - depth + 1]
        interrupted = [one for one in inner if one.interrupted and one.sp != inner[0].sp]
        if not interrupted:
            return self.interrupts
        flags = interrupted[-1].flags
        return None if flags is None else bool(flags & _INTERRUPT_FLAG)

    @property
    def pc(self) -> int:
        """Where it was."""
        return self.registers.get("RIP", self.registers.get("EIP", 0))

    @property
    def started(self) -> bool:
        """Whether the kernel, or a program, runs on it."""
        return self.user or self.pc >= _FIRST_KERNEL_ADDRESS

    @property
    def idle(self) -> bool:
        """Whether it had nothing to run, and waited for an interrupt."""
        return (
            self.pid == 0
            and not self.user
            # An interrupt's functions may have such names, too (rcu_is_cpu_rrupt_from_idle).
            and not any(
                frame.interrupted and frame.sp != self.frames[0].sp for frame in self.frames
            )
            and any(_IDLE_NAMES.search(frame.name) for frame in self.frames[:3])
        )

    @property
    def in_debugger(self) -> bool:
        """Whether it is in kgdb, for which all the others wait (kernel/debug/debug_core.c)."""
        return any(frame.name == _DEBUGGER for frame in self.frames)

    def outside_debugger(self) -> CpuSample:
        """Return what it did when it came to kgdb; the same if it is not there."""
        if not self.in_debugger:
            return self
        names = [frame.name for frame in self.frames]
        inner = len(names) - 1 - names[::-1].index(_DEBUGGER)
        outer = [n for n, one in enumerate(self.frames) if n > inner and one.interrupted]
        if not outer:
            return self
        frames = self.frames[outer[0] :]
        flags = {} if frames[0].flags is None else {"RFL": frames[0].flags}
        return replace(self, frames=frames, registers={**self.registers, **flags})

    @property
    def task(self) -> str:
        """The task that it ran, as in the kernel's own messages: `cat[52]`."""
        return f"{self.comm}[{self.pid}]" if self.pid >= 0 else "an unknown task"

    def lines(self) -> Iterator[str]:
        """Yield what it did, in lines."""
        if not self.started:
            yield f"CPU {self.number}, not in the kernel, at {self.pc:#x}"
            return
        head = f"CPU {self.number}"
        if self.pid >= 0:
            head += f", task {self.pid} ({self.comm})"
        if self.idle:
            yield f"{head}, idle"
            return
        if not self.interrupts:
            head += ", interrupts off"
        yield head
        if self.user:
            yield "  in user mode"
        elif self.error:
            yield f"  (its stack cannot be read: {self.error})"
        yield from lines_of(self.frames, _SHOWN_FRAMES)


def sample_cpus(program: drgn.Program | None, dump: str, source: Path | None) -> list[CpuSample]:
    """Return what each CPU does.

    :param program: the kernel; None if there is only its registers to go by.
    :param dump: the output of QEMU's `info registers -a`; the machine must be paused since.
    :param source: the directory of the kernel's source in the debug information.
    """
    parts = _CPU.split(dump.replace("\r", ""))[1:]
    cpus = [
        _sample(program, int(number), text, source)
        for number, text in zip(parts[::2], parts[1::2], strict=True)
    ]
    frames = {cpu.number: cpu.frames for cpu in cpus}
    return [
        replace(cpu, spins_for=cpu.timer.words(frames.get(cpu.timer.cpu, ())))
        if cpu.timer is not None
        else cpu
        for cpu in cpus
    ]


def running_tasks(program: drgn.Program) -> list[str]:
    """Return the tasks that run, idle ones left out, each with its CPU: `cat[52] on CPU 0`."""
    from drgn.helpers.linux.cpumask import for_each_online_cpu
    from drgn.helpers.linux.sched import cpu_curr

    tasks = ((cpu, cpu_curr(program, cpu)) for cpu in for_each_online_cpu(program))
    return [f"{task_name(task)} on CPU {cpu}" for cpu, task in tasks if task.pid]


def _sample(program: drgn.Program | None, number: int, text: str, source: Path | None) -> CpuSample:
    registers = {name: int(value, 16) for name, value in _REGISTER.findall(text)}
    state = _STATE.search(text)
    user, waits = state is not None and state[1] == "3", state is not None and state[2] == "1"
    plain = CpuSample(number, registers, user, waits)
    if program is None or not plain.started:
        return plain
    pid, comm, switches, entry, error = -1, "", 0, b"", ""
    frames: list[StackFrame] = []
    spins_for = timer = again = None
    irqs: tuple[CountedIrq, ...] = ()
    # The kernel may be broken in any way, and whatever can be read is reported.
    try:
        from drgn.helpers.linux.sched import cpu_curr

        task = cpu_curr(program, number)
        pid, comm = task.pid.value_(), comm_of(task)
        switches = task.nvcsw.value_()
        entry = _entry_registers(program, task)
    except Exception as caught:
        error = str(caught)
    if not user:
        try:
            trace = _trace(program, registers)
            frames = _with_flags(program, trace, frames_of(trace, source))
            spins_for = spinning_lock(program, trace) or awaited_handler(trace)
            timer = awaited_timer(program, trace, registers)
            again = recurring(program, number, frames)
            irqs = counted_irqs(program, number, frames)
        except Exception as caught:
            error = str(caught)
    return CpuSample(
        number,
        registers,
        user,
        waits,
        pid,
        comm,
        switches,
        entry,
        tuple(frames),
        spins_for,
        timer,
        again,
        irqs,
        error,
    )


def _entry_registers(program: drgn.Program, task: drgn.Object) -> bytes:
    """Return what is at the end of a task's stack (arch/x86/include/asm/processor.h)."""
    start, size = stack_of(task)
    registers: int = program.type("struct pt_regs").size
    data: bytes = program.read(start + size - registers, registers)
    return data


def _with_flags(
    program: drgn.Program, trace: drgn.StackTrace, frames: Sequence[StackFrame]
) -> list[StackFrame]:
    """Return the frames, those that were interrupted with their flags."""
    result: list[StackFrame] = []
    for level, frame in enumerate(frames):
        flags = None
        if frame.interrupted and result:
            inner = result[-1]
            inlined = inner.sp == frame.sp
            flags = inner.flags if inlined else _saved_flags(program, inner.sp, trace[level].pc)
        result.append(replace(frame, flags=flags))
    return result


def _saved_flags(program: drgn.Program, sp: int, pc: int) -> int | None:
    """Return the flags that were saved of interrupted code; None where they are not found.

    They are in the registers on the stack (arch/x86/entry/entry_64.S, idtentry_body), or, before
    these are complete and behind them, in what the CPU has pushed: perhaps an error code, and the
    address and the flags of what is interrupted (Intel SDM volume 3, "64-Bit Mode Stack Frame").

    :param sp: the stack pointer of the handler's frame.
    :param pc: where the code was interrupted.
    """
    import drgn

    with contextlib.suppress(drgn.FaultError):
        registers = drgn.Object(program, "struct pt_regs", address=sp)
        if registers.ip.value_() == pc:
            return int(registers.flags.value_())
        for address in (sp, sp + _WORD):
            if program.read_u64(address) == pc:
                return int(program.read_u64(address + 2 * _WORD))
    return None


def _trace(program: drgn.Program, registers: dict[str, int]) -> drgn.StackTrace:
    import drgn

    values = {field: registers[name] for field, name in _PT_REGS.items() if name in registers}
    return program.stack_trace(drgn.Object(program, "struct pt_regs", value=values))


def general_registers(dump: str) -> str:
    """Return the lines of a dump with general registers, without segments and vectors."""
    return "\n".join(
        line
        for line in dump.replace("\r", "").splitlines()
        if _CPU.match(line) or _REGISTER.match(line)
    )
