"""The stacks of all CPUs of a kernel that hangs, by the registers that QEMU reports."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import drgn

_CPU: Final = re.compile(r"^CPU#(\d+)$", re.M)
# QEMU, target/i386/cpu-dump.c: the 16 general registers, RIP and RFL, and the state after them.
_REGISTER: Final = re.compile(r"\b(R(?:[A-D]X|[SD]I|[BS]P|IP|FL|\d+)) *=([0-9a-f]{8,16})")
_USER: Final = re.compile(r"\bCPL=3\b")

# arch/x86/include/asm/ptrace.h
_PT_REGS: Final = {
    **{f"r{number}": f"R{number}" for number in range(8, 16)},
    **{name: f"R{name.upper()}" for name in ("ax", "bx", "cx", "dx", "si", "di", "bp", "sp", "ip")},
    "flags": "RFL",
}
_MAX_FRAMES: Final = 20


def cpu_stacks(program: drgn.Program, dump: str, source: Path | None) -> Iterator[str]:
    """Yield for each CPU its task and its stack, in lines.

    :param dump: the output of QEMU's `info registers -a`; the machine must be paused since.
    :param source: the directory of the kernel's source in the debug info.
    """
    from drgn.helpers.linux.sched import cpu_curr

    numbers = _CPU.split(dump)[1:]
    for number, text in zip(numbers[::2], numbers[1::2], strict=True):
        lines = [f"CPU {number}"]
        try:
            task = cpu_curr(program, int(number))
            comm = task.comm.string_().decode(errors="replace")
            lines[0] += f", task {task.pid.value_()} ({comm})"
            if task.pid.value_() == 0 and not _USER.search(text):
                if _is_idle(program, text):
                    lines[0] += ", idle"
                lines += _frames(program, text, source)
            elif _USER.search(text):
                lines.append("  in user mode")
            else:
                lines += _frames(program, text, source)
        except Exception as error:
            # The kernel may be broken in any way, and the other CPUs must be reported.
            lines.append(f"  (its stack cannot be read: {error})")
        yield "\n".join(lines)


def _is_idle(program: drgn.Program, text: str) -> bool:
    """Whether a CPU that has nothing to run waits for an interrupt (kernel/sched/idle.c)."""
    dumped = dict(_REGISTER.findall(text))
    try:
        name = program.symbol(int(dumped["RIP"], 16)).name
    except (LookupError, KeyError):
        return False
    return bool(re.search(r"idle|safe_halt|^(?:acpi|intel)_\w*(?:enter|mwait)", name))


def _frames(program: drgn.Program, text: str, source: Path | None) -> Iterator[str]:
    import drgn

    dumped = dict(_REGISTER.findall(text))
    values = {field: int(dumped[name], 16) for field, name in _PT_REGS.items() if name in dumped}
    trace = program.stack_trace(drgn.Object(program, "struct pt_regs", value=values))
    for level, frame in enumerate(trace):
        if level == _MAX_FRAMES:
            yield "  …"
            return
        try:
            name, line, _ = frame.source()
            where = f" at {name.removeprefix(f'{source}/')}:{line}"
        except LookupError:
            where = ""
        yield f"  #{level} {frame.name or hex(frame.pc)}{where}"


def general_registers(dump: str) -> str:
    """Return the lines of a dump with general registers, without segments and vectors."""
    return "\n".join(
        line for line in dump.splitlines() if _CPU.match(line) or _REGISTER.match(line)
    )
