"""The memory and objects of a stopped kernel."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, Protocol

from ..errors import KgdbError, StaleError
from ..kernel import Vmlinux
from ..klog import LogLine, RingCursor, SplatFrame
from ._backing import Backing, DebuggerBacking, RamBacking, WriteFunction
from ._module_files import ModuleFiles, ModuleLookup
from ._physical import PhysicalMemory
from ._placement import Placement, ReadFunction
from ._printk import PrintkLayout, PrintkRing, render
from ._ram import Ram, ram_layout
from ._user import FIRST_KERNEL_ADDRESS, user_table, virtual_address
from ._vmcoreinfo import parse, vmcoreinfo

if TYPE_CHECKING:
    import drgn

    from ._program import ModuleKey

__all__ = ["KernelMemory", "StopState"]

_END_RECORDS: Final = 3  # of the log


class StopState(Protocol):
    """Whether the kernel is stopped."""

    @property
    def stopped(self) -> bool:
        """Whether it is stopped."""

    @property
    def generation(self) -> int:
        """A number that changes whenever the kernel has run."""


class KernelMemory:
    """Memory and objects of one booted kernel, while it is stopped.

    Everything raises StaleError while the kernel runs. Nothing is cached from one stop to the
    next, except drgn objects that are values, which were copied when they were read.

    :param vmlinux: the kernel with its symbols and debug information.
    :param ram: the file of QEMU's `memory-backend-file`: its path, or the open file.
    :param memory_bytes: the size of the guest's RAM.
    :param stop_state: whether the kernel is stopped.
    :param machine: QEMU's machine type, which determines where in the guest the RAM is.
    :param modules: knows the files of the modules that the guest may load.
    :param read_user: reads the memory of the user program whose task stopped.
    :param original: returns what was read at an address without what is inserted there for
        coverage.
    :param registers: returns all CPUs' registers, as QEMU's monitor shows them, where QEMU stops
        the machine, and not kgdb the kernel.
    """

    _machine_registers: Callable[[], str] | None = None
    _read_user: ReadFunction | None = None
    _original: Callable[[int, bytes], bytes] | None = None

    def __init__(
        self,
        *,
        vmlinux: Path,
        ram: Path | BinaryIO,
        memory_bytes: int,
        stop_state: StopState,
        machine: str = "pc",
        modules: ModuleLookup | None = None,
        read_user: ReadFunction | None = None,
        original: Callable[[int, bytes], bytes] | None = None,
        registers: Callable[[], str] | None = None,
    ) -> None:
        self._machine_registers = registers
        self._read_user = read_user
        self._original = original
        backing = RamBacking(Vmlinux(vmlinux), Ram(ram, ram_layout(memory_bytes, machine)))
        self._start(backing, stop_state, modules)

    @classmethod
    def through_debugger(
        cls,
        *,
        vmlinux: Path,
        read: ReadFunction,
        stop_state: StopState,
        kernel_offset: int = 0,
        modules: ModuleLookup | None = None,
        write: WriteFunction | None = None,
    ) -> KernelMemory:
        """Return the memory of a machine whose RAM is not a file: a board on a serial line.

        :param read: reads virtual memory; raises KgdbError where nothing is mapped.
        :param kernel_offset: what KASLR added to the image's link address.
        :param write: writes virtual memory; None if physical memory is not to be written.
        """
        memory = cls.__new__(cls)
        backing = DebuggerBacking(Vmlinux(vmlinux), read, kernel_offset, write)
        memory._start(backing, stop_state, modules)
        return memory

    def _start(self, backing: Backing, stop_state: StopState, modules: ModuleLookup | None) -> None:
        self._memory = backing
        self._stop_state = stop_state
        self._modules = ModuleFiles() if modules is None else modules
        self._seen: int | None = None  # the generation at which the kernel was found
        self._program: drgn.Program | None = None
        self._program_seen: int | None = None
        self._panicked = False  # when the program was last looked at
        self._program_files: int | None = None  # the version of the modules' files
        self._loaded: frozenset[ModuleKey] = frozenset()
        self._placement: Placement | None = None
        self._log_layout: PrintkLayout | None = None
        self._cpus: list[dict[str, int]] | None = None  # their registers
        self._cpus_seen: int | None = None
        self._closed = False
        self._paused = False
        self.physical = PhysicalMemory(self._backing, lambda: self.program)

    def close(self) -> None:
        """Unmap the RAM. Nothing can be read any more, by the program neither. Idempotent."""
        self._closed = True
        self._forget_program()
        self._memory.close()

    def invalidate(self) -> None:
        """Discard what was read at this stop: memory was written meanwhile."""
        self._seen = self._program_seen = self._cpus_seen = None

    def _check(self) -> None:
        if self._closed:
            raise StaleError("the machine whose memory this was is gone")
        if not self._paused and not self._stop_state.stopped:
            raise StaleError(
                "the kernel is running: its memory changes while it is read",
                hint="stop it first: interrupt(), or a breakpoint and wait()",
            )

    def _backing(self) -> Backing:
        self._check()
        generation = self._stop_state.generation
        if generation != self._seen:
            self._memory.refresh()
            self._seen = generation
        return self._memory

    def read(self, address: int, size: int) -> bytes:
        """Read virtual memory: image, modules, vmalloc, direct map; the task's that stopped.

        :raises KgdbError: not all of it is mapped; the message names the address that is not.
        :raises StaleError: the kernel is running.
        """
        backing, address = self._backing(), virtual_address(address)
        if address < FIRST_KERNEL_ADDRESS and self._read_user is not None:
            return self._read_user(address, size)
        data = backing.read(address, size)
        return data if self._original is None else self._original(address, data)

    def read_user(self, task: drgn.Object | int, address: int, size: int) -> bytes:
        """Read the virtual memory of a process.

        :param task: a pid; a `struct task_struct *` or `struct mm_struct *`; or the kernel
            address of the top level of its page tables (`mm->pgd`).
        :raises KgdbError: not all of it is in RAM: pages may be swapped out, or not touched yet.
        :raises StaleError: the kernel is running.
        """
        backing = self._backing()
        name = "the process"
        if isinstance(task, int) and task < 0:
            task = virtual_address(task)
        if not isinstance(task, int) or task < FIRST_KERNEL_ADDRESS:
            task = self._task(task)
            if task.type_.type_name() != "struct mm_struct *":
                name = f"task {task.pid.value_()} ({task.comm.string_().decode(errors='replace')})"
        return user_table(backing, _pgd(task), name).read(virtual_address(address), size)

    def _task(self, task: drgn.Object | int) -> drgn.Object:
        from ._program import find_task

        return find_task(self.program, task)

    def dmesg(self) -> str:
        """Return the kernel's log buffer, oldest line first, as dmesg(1) prints it.

        :raises StaleError: the kernel is running.
        """
        log = self._log()
        if log is None:  # before 5.10
            from drgn.helpers.linux.printk import get_dmesg

            return get_dmesg(self.program).decode(errors="replace")
        _, ring, layout = log
        return render(PrintkRing(self._backing().many_reads(), ring, layout).records())

    def dmesg_end(self) -> str:
        """Return the last lines of :meth:`dmesg`, which are fast to read on a slow line, too.

        :raises StaleError: the kernel is running.
        """
        log = self._log()
        if log is None:
            return self.dmesg()
        ring = PrintkRing(*log)
        return render(ring.records(max(1, ring.next_seq() - _END_RECORDS)))

    def log_end(self) -> RingCursor:
        """Return the position of the end of the kernel's log.

        :raises KgdbError: the log cannot be read: the kernel is older than 5.10, or it is damaged.
        :raises StaleError: the kernel is running.
        """
        return RingCursor(self._need_log().next_seq())

    def log_since(self, cursor: RingCursor) -> list[LogLine] | None:
        """Return the lines of the kernel's log since a position; None if some were overwritten.

        :raises KgdbError: the log cannot be read: the kernel is older than 5.10, or it is damaged.
        :raises StaleError: the kernel is running.
        """
        return self._need_log().lines(cursor.seq)

    def _need_log(self) -> PrintkRing:
        log = self._log()
        if log is None:
            raise KgdbError("the kernel's log is of a form from before Linux 5.10")
        return PrintkRing(*log)

    def _log(self) -> tuple[ReadFunction, int, PrintkLayout] | None:
        """Return the arguments of PrintkRing; None before Linux 5.10, which had another form."""
        backing = self._backing()
        vmlinux, offset = backing.vmlinux, backing.placement.offset
        pointer = vmlinux.symbol("prb")
        if pointer is None:
            return None
        if self._log_layout is None:
            info = vmcoreinfo(vmlinux, backing.placement, backing.read)
            self._log_layout = PrintkLayout.from_vmcoreinfo(
                parse(info)
            ) or PrintkLayout.from_program(self.program)
        ring = int.from_bytes(backing.read(pointer + offset, 8), "little")
        return backing.read, ring, self._log_layout

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Allow reads of a running kernel for the time of a `with`: QEMU has paused the machine."""
        before, self._paused = self._paused, True
        self.invalidate()
        try:
            yield
        finally:
            self._paused = before
            self.invalidate()

    def symbolise(self, frames: Sequence[SplatFrame], source: Path | None) -> list[SplatFrame]:
        """Return the frames of a splat with their source lines, where those are known.

        :param source: the directory of the kernel's source in the debug information.
        :raises StaleError: the kernel is running.
        """
        from ._symbols import symbolise

        return symbolise(self.program, frames, source, self._modules)

    @property
    def program(self) -> drgn.Program:
        """The stopped kernel as a drgn program, with the modules that are loaded now.

        It stays the same object until a module is unloaded, a module's file is added, the kernel
        has panicked, or another kernel is booted.

        :raises KgdbError: vmlinux has no debug information, or is not the running kernel's.
        :raises StaleError: the kernel is running.
        """
        backing = self._backing()
        files = self._modules.version
        program = self._program if self._program_files == files else None
        if program is not None and self._program_seen == self._seen:
            return program
        if self._panicked:
            program = None  # drgn keeps who panicked, and the machine may have been restored since
        self._panicked = self._has_panicked(backing)
        from ._program import load_modules, loaded_modules

        if program is None or self._placement != backing.placement:
            program = self._make_program(backing)
            loaded = loaded_modules(program)
        else:
            loaded = loaded_modules(program)
            if not self._loaded <= loaded:
                # drgn cannot remove a module, and would find the symbols of the unloaded one.
                program = self._make_program(backing)
        load_modules(program)
        if program is not self._program:
            self._forget_program()
        self._program, self._placement, self._program_files = program, backing.placement, files
        self._loaded, self._program_seen = loaded, self._seen
        return program

    def _make_program(self, backing: Backing) -> drgn.Program:
        from ._program import make_program

        registers = None if self._machine_registers is None else self._cpu_registers
        return make_program(backing, self._modules, self._check, registers)

    def _cpu_registers(self) -> list[dict[str, int]]:
        """Return the registers of the CPUs, which QEMU is asked for once at each stop."""
        from ._vmcore import machine_registers

        assert self._machine_registers is not None
        generation = self._stop_state.generation
        if self._cpus is None or self._cpus_seen != generation:
            self._cpus = machine_registers(self._machine_registers())
            self._cpus_seen = generation
        return self._cpus

    def _forget_program(self) -> None:
        """Free the program, which is as large as the index of vmlinux, now and not some time.

        Its cache has objects that refer to it (drgn/helpers/linux/mm.py, _page0): a garbage
        collection that frees it may not come in hundreds of tests.
        """
        if self._program is not None:
            self._program.cache.clear()
            self._program = None

    def has_panicked(self) -> bool | None:
        """Return whether the kernel has panicked, also of one that runs, or whose QEMU has ended.

        None where that is not known: its memory is not at hand, or damaged.
        """
        backing = self._memory
        if self._closed or not isinstance(backing, RamBacking):
            return None
        if backing.vmlinux.symbol("panic_cpu") is None:
            return None
        with contextlib.suppress(KgdbError), self.paused():
            return self._has_panicked(self._backing())
        return None

    @staticmethod
    def _has_panicked(backing: Backing) -> bool:
        # kernel/panic.c: -1 until a CPU panics.
        address = backing.vmlinux.symbol("panic_cpu")
        if address is None:
            return False
        return backing.read(address + backing.placement.offset, 4) != b"\xff\xff\xff\xff"

    def stack_trace(self, task: drgn.Object | int) -> drgn.StackTrace:
        """Return the stack of a task that sleeps, or is on a CPU that kgdb has stopped.

        :param task: a pid or a `struct task_struct *`.
        :raises KgdbError: there is no such task, or its registers are not in memory.
        :raises StaleError: the kernel is running.
        """
        from ._program import stack_trace

        return stack_trace(self.program, self._task(task))

    def require_ram(self) -> Ram:
        """Return the guest's RAM.

        :raises KgdbError: it is not a file here: the machine is a board.
        """
        if not isinstance(self._memory, RamBacking):
            raise KgdbError(
                "a dump needs the file of the guest's RAM", hint="this machine has none"
            )
        return self._memory.physical

    def dump(self, path: Path, dump: str) -> None:
        """Write a vmcore; QEMU must have paused the machine, or kgdb stopped the kernel.

        The registers of a CPU that kgdb has stopped are those with which it came there.

        :param dump: the output of QEMU's `info registers -a`.
        :raises KgdbError: it cannot be written.
        """
        from ._vmcore import machine_registers, write_vmcore

        with self.paused():
            backing = self._backing()
            cpus = machine_registers(dump)
            for cpu, registers in self._stopped_registers():
                if cpu < len(cpus):
                    cpus[cpu].update(registers)
            write_vmcore(
                path,
                self.require_ram(),
                vmcoreinfo=vmcoreinfo(backing.vmlinux, backing.placement, backing.read),
                page_offset=backing.placement.page_offset,
                cpus=cpus,
            )

    def _stopped_registers(self) -> Iterator[tuple[int, dict[str, int]]]:
        """Yield the CPUs that kgdb has stopped, with the registers of then."""
        from ._crash_notes import stopped_registers
        from ._vmcore import pt_regs_values

        # Whatever is broken in the kernel's memory, QEMU's registers are true.
        with contextlib.suppress(Exception):
            for cpu, data in stopped_registers(self.program):
                yield cpu, pt_regs_values(data)


def _pgd(task: drgn.Object | int) -> int:
    """Return the kernel address of the top level of a process's page tables."""
    if isinstance(task, int):
        return task
    mm = task if task.type_.type_name() == "struct mm_struct *" else task.mm
    if not mm:
        raise KgdbError(
            f"task {task.pid.value_()} has no memory of its own: a kernel thread, or one that exits"
        )
    return int(mm.pgd.value_())
