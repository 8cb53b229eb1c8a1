"""What a person is shown of a machine: the commands that run it, and where its kernel is."""

from __future__ import annotations

import contextlib
import linecache
import re
import shlex
import shutil
import textwrap
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from ..debugger import in_a_line
from ..errors import KgdbError
from ..escape import clean
from ..machine import by_hand, storage_by_hand
from ..report import ACTIONS, MACHINE, Section, Story, cut

if TYPE_CHECKING:
    from ..actions import ActionEntry, ActionLog, Instrument, SeenCall
    from ..debugger import Frame, Gdb, Stop
    from ..handle import AttachedMachine, Attachment
    from ..kernel import Kernel
    from ._vm import Vm

# arch/x86/include/asm/idtentry.h: how an interrupt or an exception enters the kernel.
_ENTRY: Final = re.compile(
    r"(?:asm_)?(?:common_interrupt|sysvec_|exc_|irqentry_)\w*$|ret_from_intr$"
)

# What of a splat is left out in brief: registers and code (arch/x86/kernel/process_64.c,
# __show_regs; dumpstack.c, show_opcodes), the user program's RIP, and what was merely found on the
# stack.
_NOISE: Final = re.compile(
    r"(?:\[ *[\d.]+\]\S* )?(?:"
    r"(?:R[A-Z0-9][A-Z0-9]|FS|CS|CR2|DR[0-7]|PKRU|Code|Hardware name|Modules linked in|#PF):"
    r"(?! ?0010:)| \? | ?</?TASK>)"
)
_RUNNING: Final = "running; what its CPUs do:\n"

# Of each spy the calls, of the console the lines, and around a stop the source in a story.
_STORY_CALLS: Final = 200
_STORY_LINES: Final = 300
_STORY_CONTEXT: Final = 4

_INTERRUPT_SECONDS: Final = 5.0  # that a kernel has to stop, so that its machine is saved

WHERE: Final = "kgdb: where the kernel is"
CONSOLE: Final = "kgdb: console since the test began"
GDB: Final = "kgdb: gdb's conversation, its end"

__all__ = ["commands", "save_artifacts", "save_state", "sections", "story"]


def commands(vm: Vm, kernel: Kernel) -> list[str]:
    """Return what a person would type to go on without us, as lines for a shell."""
    ready = "when the console says that kgdb waits" if vm.spec.stub == "kgdb" else "at any time"
    return [
        "# the same machine by hand; its files and sockets are in the current directory",
        *(shlex.join(command) for command in storage_by_hand(vm.spec)),
        f"{shlex.join(by_hand(vm.spec))} &",
        "# its console, in another terminal there",
        "socat -,raw,echo=0 unix-connect:console",
        f"# gdb, in a third one, {ready}",
        shlex.join(["gdb", "-ex", f"target remote {vm.spec.stub}", str(kernel.vmlinux)]),
    ]


class ReportedMachine(Protocol):
    """The part of a machine with its debugger that a report shows."""

    @property
    def machine(self) -> AttachedMachine:
        """The machine."""

    @property
    def gdb(self) -> Gdb:
        """gdb on it."""

    @property
    def kernel(self) -> Kernel:
        """Its kernel."""

    @property
    def attachment(self) -> Attachment:
        """gdb attached to it."""


def sections(vm: ReportedMachine, mark: int, actions: ActionLog) -> list[Section]:
    """Return what a failed test's report shows of the kernel, the test, the console and gdb.

    :param mark: where on the console the test began.
    :param actions: what the test did.
    """
    text = vm.machine.console.shown(mark)
    conversation = vm.gdb.tail(40)  # before gdb is asked for the report itself
    log = actions.lines()
    parts = []
    with contextlib.suppress(KgdbError):
        where, brief = _where(vm)
        parts.append(Section(WHERE, where, head=22, tail=4, brief=brief))
    with contextlib.suppress(KgdbError):
        splats = vm.attachment.splats.unreported()
        text_of_all = "\n\n".join(splat.symbolised for splat in splats)
        brief = _in_brief(text_of_all)
        parts.append(Section("kgdb: splats", text_of_all, head=20, tail=2, brief=brief))
    parts.append(Section(ACTIONS, "\n".join(log), head=3, tail=8))
    parts.append(Section(CONSOLE, text, head=0, tail=8, brief=_in_brief(text)))
    parts.append(Section(GDB, conversation, verbosity=2))
    return parts


def save_artifacts(vm: ReportedMachine, mark: int, actions: ActionLog, directory: Path) -> None:
    """Save the console with times, and the configuration.

    :param mark: where on the console the test began.
    :raises OSError: a file cannot be written.
    """
    lines = [
        f"{1000 * (when - actions.origin):9.0f} ms  {line}"
        for when, line in vm.machine.console.timed(mark)
    ]
    (directory / "console-times.txt").write_text(clean("\n".join(lines)) + "\n", encoding="utf-8")
    if vm.kernel.config.exists():
        shutil.copyfile(vm.kernel.config, directory / "kernel.config")


def save_state(vm: Vm, directory: Path, *, dump: bool, machine: bool) -> None:
    """Save the registers, and a vmcore and the machine if asked to.

    :raises OSError: a file cannot be written.
    """
    if not vm.machine.alive:
        return

    def save_registers() -> None:
        registers = vm.machine.registers().replace("\r", "")
        (directory / "registers.txt").write_text(registers, encoding="utf-8")

    def save_machine() -> None:
        if not vm.attachment.run_control.stopped:
            vm.attachment.run_control.interrupt(_INTERRUPT_SECONDS)
        vm.attachment.save(directory / MACHINE)

    steps = [
        save_registers,
        *([lambda: vm.attachment.dump(directory / "vmcore")] if dump else []),
        *([save_machine] if machine else []),
    ]
    errors = []
    for step in steps:
        try:
            step()
        except KgdbError as error:
            errors.append(clean(str(error)))
    if errors:
        (directory / "errors.txt").write_text("\n\n".join(errors) + "\n", encoding="utf-8")


def story(vm: ReportedMachine | None, mark: int, actions: ActionLog) -> Story:
    """Return what has happened since the test began.

    :param mark: where on the console that was.
    """
    origin = actions.origin
    calls = [
        (call.host_time - origin, _call_text(instrument, call))
        for instrument in actions.instruments
        for call in instrument.calls[-_STORY_CALLS:]
    ]
    lines = vm.machine.console.timed(mark)[-_STORY_LINES:] if vm is not None else []
    return {
        "seconds": actions.now,
        "dropped": actions.dropped,
        "runs": actions.runs,
        "actions": [{**asdict(action), "source": _source(action)} for action in actions.actions],
        "calls": calls,
        "console": [
            (when - origin, cut(shown))
            for when, line in lines
            if when >= origin and (shown := clean(line))
        ],
    }


def _call_text(instrument: Instrument, call: SeenCall) -> str:
    text = str(call)  # <1: vfs_read(…) by cat>
    return f"{type(instrument).__name__.lower()} {text.strip('<>')}"


def _source(action: ActionEntry) -> list[dict[str, object]]:
    """Return the lines of source around a stop."""
    if action.path is None or action.line is None:
        return []
    lines = linecache.getlines(action.path)
    first = max(1, action.line - _STORY_CONTEXT)
    return [
        {"text": f"{number:6d}  {text.rstrip()}", "here": number == action.line}
        for number, text in enumerate(lines[first - 1 : action.line + _STORY_CONTEXT], first)
    ]


def _in_brief(text: str) -> str:
    """Return the lines of a log without what is left out in brief."""
    return "\n".join(line for line in text.splitlines() if not _NOISE.match(line))


def _where(vm: ReportedMachine) -> tuple[str, str | None]:
    """Return where the kernel is, and the same in brief."""
    if not vm.machine.alive:
        return f"gone: {vm.machine.name} has ended", None
    attachment = vm.attachment
    if not vm.gdb.alive:
        stacks = attachment.cpu_stacks.read()
        return f"gdb has ended and cannot be asked; what the kernel's CPUs do:\n{stacks}", None
    if not attachment.run_control.stopped:
        brief, registers = attachment.cpu_stacks.read(), attachment.cpu_stacks.registers()
        return f"{_RUNNING}{brief}\n{registers}", _RUNNING + brief
    stop = attachment.run_control.stop
    assert stop is not None
    lines = [in_a_line(stop)]
    if stop.reason == "interrupt":
        # Who waits is to be known; the interrupt's own way into the debugger is not.
        with contextlib.suppress(KgdbError):
            lines += attachment.cpu_stacks.waiting_tasks()
    frames = _frames(stop)
    if frames:
        lines += _innermost(frames[0], with_source=attachment.source.is_local)
    lines += [f"{frame}{' (inlined)' * frame.inlined}" for frame in frames]
    return "\n".join(lines), None


def _frames(stop: Stop) -> list[Frame]:
    """Return the frames of a stop without the debugger's own; those of what was interrupted."""
    frames = stop.backtrace(limit=40)
    if stop.reason == "interrupt":
        entries = [
            number for number, frame in enumerate(frames, 1) if _ENTRY.match(frame.function or "")
        ]
        frames = frames[entries[-1] if entries else len(frames) :]
    else:
        frames = frames[stop.frame.level :]
    return frames[:20]


def _innermost(frame: Frame, *, with_source: bool) -> list[str]:
    """Return the source at a frame, with the arguments and the locals that are named there.

    :param with_source: whether the source is on this host; nothing is downloaded for a report.
    """
    lines = []
    source = ""
    with contextlib.suppress(KgdbError):
        if with_source:
            source = frame.source(context=2)
            lines.append(source)
    with contextlib.suppress(KgdbError):
        names = set(re.findall(r"[A-Za-z_]\w*", source))
        variables = [
            *frame.args.summaries().items(),
            *((name, text) for name, text in frame.locals.summaries().items() if name in names),
        ]
        shown = [f"{name} = {text}" for name, text in dict(variables).items()]
        lines += textwrap.wrap(
            ", ".join(shown), 96, initial_indent="    ", subsequent_indent="    "
        )
    return lines
