"""A machine under a handle: the parts, each made with what it needs of the others."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ..actions import ActionLog
from ..console import ConsoleInput, PrintedLog, ShellReadiness
from ..deadline import WaitLimit
from ..debugger import (
    BreakpointTable,
    Constants,
    Debugger,
    FirstCause,
    Gdb,
    GdbError,
    Generation,
    Locations,
    Reason,
    Remember,
    Resumed,
    RunControl,
    StopSubscriber,
    c_string,
    define_current,
    errno_of,
    number_of,
)
from ..elf import ElfFile
from ..errors import ConfigError, DebuggerDied, KgdbError
from ..guest import FileTransfer, IdleWait, Shell
from ..memory import KernelMemory
from ..modules import (
    KernelModules,
    KernelSourceText,
    ModuleRegistry,
    Modules,
    ModuleSymbols,
    ModuleTracker,
    frame_of_unloaded,
    name_of_unloaded,
)
from ..recipes import FailEachRunner, KunitRunner, LeakDetector, ModuleReferences, PatchRunner
from ..rsp import Relay
from ..splats import SplatWatch
from ..trace import FreeingHooks, Instruments, PointerFailures
from ._cpu_stacks import CpuStacks
from ._machine import AttachedMachine, MachineSaver, MemoryFactory, RunningView
from ._prompt import Prompt
from ._refused import refused
from ._snapshots import SnapshotKeeping, SnapshotsOfTest

if TYPE_CHECKING:
    from ..kernel import CodeAddress, Kernel

__all__ = ["Attachment"]

# `$name = 1`, `$name += 1`, `$name++`, `--$name` (gdb manual, "Convenience Vars")
_ASSIGNED: Final = re.compile(
    r"\$([A-Za-z_]\w*)\s*(?:(?:[-+*/%&|^]|<<|>>)?=(?!=)|\+\+|--)|(?:\+\+|--)\s*\$([A-Za-z_]\w*)"
)


class _TypedText(StopSubscriber):
    """Has the guest get what was typed while its kernel was stopped."""

    def __init__(self, typed: ConsoleInput) -> None:
        self._input = typed

    def resumed(self, event: Resumed) -> None:  # noqa: ARG002 # as every subscriber's
        """Send it: the kernel is about to run."""
        self._input.release()


class Attachment:
    """gdb attached to one machine's stopped kernel, and all that a handle does with it.

    :param machine: the machine, as far as every one has it.
    :param memory: returns the kernel's memory, given whether the kernel is stopped, and the files
        of its modules.
    :param running: shows a machine whose kernel runs.
    :param interrupt: asks the running kernel to stop.
    :param snapshots: saves and restores the machine.
    :param reason: why the kernel is stopped now.
    :param printed: knows what the kernel prints on the console; None where nobody does.
    :param shell_ready: knows whether the guest has a shell yet; None where it always has.
    :param idle: waits until the running kernel has nothing to do; None where that is not known.
    :param spoiled: is called when a test first leaves something in gdb.
    :param remember: keeps what gdb says of the kernel from session to session.
    :param actions: records what the test does.
    :param save_machine: saves the stopped machine as a file.
    :param interrupts_in_guest: whether it is a command in the guest that interrupts.
    """

    def __init__(
        self,
        kernel: Kernel,
        *,
        gdb: Gdb,
        machine: AttachedMachine,
        memory: MemoryFactory,
        running: RunningView,
        relay: Relay,
        interrupt: Callable[[], None],
        snapshots: SnapshotKeeping,
        registry: ModuleRegistry,
        generation: Generation,
        waits: WaitLimit,
        reason: Reason,
        printed: PrintedLog | None,
        shell_ready: ShellReadiness | None = None,
        idle: IdleWait | None = None,
        spoiled: Callable[[], None],
        remember: Remember,
        actions: ActionLog,
        save_machine: MachineSaver,
        interrupts_in_guest: Callable[[], bool] = lambda: False,
        interrupt_is_heard: Callable[[], bool] = lambda: True,
    ) -> None:
        source = kernel.debug_source
        self.source = KernelSourceText(
            kernel.sources, registry, machine.directory / "sources", kernel.vmlinux
        )
        console = machine.console
        self.kernel = kernel
        self.gdb = gdb
        self.machine = machine
        self.relay = relay
        self.registry = registry
        self.causes = causes = FirstCause(
            gdb, machine, console, relay, has_panicked=lambda: self.memory.has_panicked()
        )
        self.debugger = debugger = Debugger(
            gdb,
            generation=generation,
            door=relay.door,
            first_cause=causes.first,
            explain=relay.explain,
        )
        self.run_control = run_control = RunControl(
            debugger,
            gdb,
            relay,
            causes=causes,
            console=console,
            interrupt=interrupt,
            waits=waits,
            source=self.source,
            interrupts_in_guest=interrupts_in_guest,
            interrupt_is_heard=interrupt_is_heard,
        )
        elf = ElfFile(kernel.vmlinux)
        self.locations = Locations(
            debugger,
            elf,
            kernel.vmlinux.with_name("System.map"),
            refusal=registry.refusal,
            functions=registry.functions,
            explain=registry.explain,
        )
        # The order in which they subscribe to run control is the order in which they are told of
        # a stop: see StopSubscriber.
        run_control.subscribe(causes)
        self.breakpoints = BreakpointTable(
            debugger,
            gdb,
            run_control,
            self.locations,
            expects=registry.expects,
            ended_watches=relay.take_ended_watches,
            refused=relay.take_refused,
        )
        relay.use_code_refusal(registry.refusal)
        self.constants = Constants(debugger, remember)
        self._kernel_modules = KernelModules(
            self.constants, lambda address, size: self.memory.read(address, size)
        )
        freeing = FreeingHooks(
            relay, lambda names: self.constants.symbols(elf, names), self._kernel_modules
        )
        self.instruments = Instruments(
            debugger,
            run_control,
            relay,
            self.locations,
            self.source,
            freeing,
            PointerFailures(self.source, lambda: self._code(elf)),
        )
        run_control.connected(reason)
        if debugger.door == "qemu":
            define_current(debugger)
        self.memory: KernelMemory = memory(run_control, registry)
        self._module_symbols = ModuleSymbols(
            debugger,
            self.breakpoints,
            self._kernel_modules,
            registry,
            machine.directory,
            self.source.substitutions,
        )
        self._tracker = ModuleTracker(
            run_control,
            self.breakpoints,
            self.instruments,
            kernel=self._kernel_modules,
            registry=registry,
            symbols=self._module_symbols,
            freeing=freeing,
            register=relay.register,
            enabled="MODULES" in kernel.config,
        )
        self.splats = SplatWatch(
            machine,
            console,
            self.memory,
            run_control,
            paused=running.paused,
            causes=causes,
            source=source,
            name_of=lambda address: name_of_unloaded(registry, address),
        )
        self._running = running
        self.cpu_stacks = CpuStacks(running, self.memory, source, paused=running.paused)
        run_control.subscribe(self.cpu_stacks)
        self.shell = Shell(
            run_control,
            console,
            causes=causes,
            oopses=self.splats,
            waits=waits,
            printed=printed,
            ready=shell_ready,
            idle=idle,
        )
        run_control.subscribe(_TypedText(console.input))
        self.snapshots = SnapshotsOfTest(snapshots, run_control, self.splats, causes)
        actions.attach(debugger, self.source)
        run_control.subscribe(actions)
        self._actions = actions
        self._save_machine = save_machine
        self._waits = waits
        self._on_spoiled = spoiled
        self.gdb_is_pristine = True
        """Whether gdb has nothing in it that another test could find."""
        self.prompt = Prompt(
            debugger,
            run_control,
            self.breakpoints,
            relay,
            wrote=self.wrote,
            waits=waits,
            spoiled=self.spoil_gdb,
            lost=self._lost_gdb,
            unpack_sources=self.unpack_sources,
            directory=machine.directory,
        )

    def unpack_sources(self, download: bool) -> None:
        """Make the kernel's source files available to gdb.

        :param download: whether to download them, where they are not on this host.
        :raises KgdbError: they cannot be had.
        """
        if not (download or self.source.is_local):
            return
        self.source.unpack()
        self.find_sources_again()

    def find_sources_again(self) -> None:
        """Have gdb look again for source files that were missing."""
        # By itself gdb does not look again for a file that was missing when it looked last
        # (gdb/source.c, forget_cached_source_info).
        self.debugger.console(
            "python gdb.execute('set directories ' + gdb.parameter('directories'))"
        )

    # Made when a test first asks for them

    @cached_property
    def files(self) -> FileTransfer:
        """Files into the guest and out of it."""
        return FileTransfer(self.shell, self.run_control, self.memory, self._waits)

    @cached_property
    def modules(self) -> Modules:
        """The guest's modules."""
        refusal = None
        if "MODULES" not in self.kernel.config:
            refusal = ConfigError(
                f"the kernel {self.kernel.release} has no modules",
                hint="build it with CONFIG_MODULES=y",
            )
        return Modules(
            self.run_control,
            self.shell,
            self.files,
            self.memory,
            kernel=self._kernel_modules,
            registry=self.registry,
            symbols=self._module_symbols,
            tracker=self._tracker,
            refusal=refusal,
            actions=self._actions,
        )

    @cached_property
    def leaks(self) -> LeakDetector:
        """The kernel's own detector of leaks."""
        return LeakDetector(
            self.run_control,
            self.shell,
            self.splats,
            config=self.kernel.config,
            waits=self._waits,
            assign=self.assign,
            breakpoints_disabled=self.breakpoints.disabled,
            frame_of_unloaded=lambda address: frame_of_unloaded(self.registry, address),
        )

    @cached_property
    def fail_each(self) -> FailEachRunner:
        """Scenarios with one call failing."""
        has_modules = "MODULES" in self.kernel.config
        references = ModuleReferences(
            self._kernel_modules.listing, self.constants, self.memory.read
        )
        return FailEachRunner(
            self.run_control,
            self.shell,
            self.splats,
            self.leaks,
            self.snapshots,
            self.modules if has_modules else None,
            references.counts if has_modules else dict,
        )

    @cached_property
    def fail_each_of_patch(self) -> PatchRunner:
        """Scenarios with one call in a patch's lines failing."""
        return PatchRunner(
            self.fail_each,
            self.snapshots,
            self.instruments,
            address=self._address_of,
            read=self.memory.read,
        )

    def _address_of(self, place: CodeAddress) -> int | None:
        """Return where code is in the kernel; None if it is not there now."""
        if not place.module:
            return place.offset  # nokaslr: as it is linked
        loaded = self.registry.loaded.get(place.module)
        if loaded is None or place.section not in loaded.sections:
            return None
        address = loaded.sections[place.section] + place.offset
        return None if loaded.init_freed and loaded.holds(address, init=True) else address

    def _code(self, elf: ElfFile) -> Iterator[tuple[int, bytes]]:
        """Yield the kernel's code as linked, and that of the modules whose symbols gdb has."""
        for name in (".text", ".init.text"):
            if name in elf.sections:
                yield elf.sections[name].address, elf.section_bytes(name)
        for module in self.registry.loaded.values():
            code = [module.sections.get(name, 0) for name in (".text", ".init.text")]
            for start, end, is_init in module.ranges:
                if not (is_init and module.init_freed) and any(start <= at < end for at in code):
                    yield start, self.memory.read(start, end - start)

    @cached_property
    def kunit(self) -> KunitRunner:
        """KUnit suites."""
        return KunitRunner(
            self.shell, self.splats, self.memory, modules_dir=self.kernel.modules_dir
        )

    # What takes several of the parts

    def assign(self, expression: str, value: object) -> None:
        """Assign to a variable, a member or a register (gdb's `set var`)."""
        self.run_control.require_stopped("assign()")
        plain = _number_or_text(value) if isinstance(value, str) else number_of(value)
        if plain is None:
            raise KgdbError(
                f"{expression} cannot be assigned {value!r}", hint="a number, or a C expression"
            )
        self.note_expression(f"{expression} = {plain}")
        c_string(f"{expression} = {plain}")  # one line
        with self.explaining_refusal(f"cannot assign to {expression}"):
            self.debugger.request("assign", expression=expression, value=plain)
        self.wrote()

    def dump(self, path: Path) -> None:
        """Write a vmcore of the machine as it is; a running kernel is paused for it.

        :raises KgdbError: it cannot be written.
        """
        self.memory.require_ram()
        with self.causes.named(), self._running.paused():
            self.memory.dump(path, self._running.registers())

    def take_up(self, message: str | None) -> None:
        """Be at the stop of a machine that was saved with modules loaded, by another session.

        :param message: the stop's.
        :raises KgdbError: gdb does not take the symbols of a module.
        """
        if "MODULES" in self.kernel.config and self.registry.watched:
            self._module_symbols.sync(self.registry.watched)
        stop = self.run_control.stop
        assert stop is not None
        self.run_control.record_at_frame(stop.reason, message)

    def save(self, path: Path) -> None:
        """Save the machine as a file; a running kernel is stopped for it, and goes on.

        :raises KgdbError: it cannot be saved.
        """
        with self.causes.named(), self.run_control.kept_stopped():
            stop = self.run_control.stop
            assert stop is not None
            self._save_machine(path, stop)

    def _lost_gdb(self, command: str) -> KgdbError:
        self.spoil_gdb()
        return self.relay.failure or DebuggerDied(
            f"after '{command.strip()}' gdb is not on the machine any more",
            log=self.debugger.transcript,
            hint="the next test gets a new gdb, on the same machine",
        )

    def spoil_gdb(self) -> None:
        """Note that a test has left something in gdb: the next one gets another gdb."""
        if self.gdb_is_pristine:
            self.gdb_is_pristine = False
            self._on_spoiled()

    @property
    def gdb_serves_another_test(self) -> bool:
        """Whether gdb is there, on the machine, and as it was at the start."""
        return self.gdb_is_pristine and self.gdb.alive and self.relay.failure is None

    def note_expression(self, text: str) -> None:
        """Note what an expression leaves in gdb: a convenience variable, `$name = 1`."""
        if not self.gdb_is_pristine:
            return
        for before, after in _ASSIGNED.findall(text):
            name = before or after
            if self.debugger.request("is_convenience", name=name)["convenience"]:
                self.spoil_gdb()

    @contextlib.contextmanager
    def explaining_refusal(self, what: str) -> Iterator[None]:
        """Say of what gdb has asked the target for why it was refused, for which gdb has no words.

        :param what: begins the message.
        """
        self.relay.take_refusal()
        try:
            yield
        except GdbError as error:
            refusal = self.relay.take_refusal()
            if refusal is None:
                raise
            raise refused(what, refusal, error, self.debugger.transcript) from error

    def wrote(self) -> None:
        """Note that memory or registers were written: what was read before is read anew."""
        self.debugger.generation.wrote()
        self.memory.invalidate()

    @contextlib.contextmanager
    def restoring(self, reason: Reason, *, keep_breakpoints: bool = False) -> Iterator[None]:
        """Around what restores the machine to a snapshot; the relay is detached meanwhile.

        :param reason: why the kernel is stopped there.
        :param keep_breakpoints: insert them in the restored kernel; they are deleted otherwise.
        """
        with (
            self.breakpoints.restoring(keep=keep_breakpoints) as remove,
            self.run_control.restoring(reason, remove, keep_breakpoints=keep_breakpoints),
        ):
            yield

    @contextlib.contextmanager
    def replacing_gdb(self, reason: Reason, connect: Callable[[], None]) -> Iterator[None]:
        """Around the same for another test, with another gdb.

        :param reason: why the kernel is stopped there.
        :param connect: connects the new gdb, which has the symbols of no module yet.
        """
        self.registry.loaded.clear()

        def connect_and_define() -> None:
            connect()
            if self.debugger.door == "qemu":
                define_current(self.debugger)

        with self.run_control.replacing(reason, connect_and_define):
            yield
        self.gdb_is_pristine = True

    def close(self) -> None:
        """End the instruments, and let go of guest memory: the machine is about to end."""
        self.debugger.generation.advance()
        self.registry.detach()
        self.breakpoints.clear()
        self.instruments.end()
        self.memory.close()


def _number_or_text(text: str) -> int | str:
    """Return the number of an error by name, `-ENOMEM`; the text of any other expression."""
    number = None
    if text.lstrip().startswith(("-E", "ERR_PTR(")):
        with contextlib.suppress(KgdbError):  # an enumerator may begin in the same way
            number = errno_of(text)
    return text if number is None else number
