"""What of a stopped kernel can be read without its help."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from ..errors import KgdbError, StaleError
from ..klog import LogLine, SplatFrame
from ._backing import Backing, DebuggerMemory, GuestMemory
from ._dmesg import Layout, Ring, render
from ._elf import Vmlinux
from ._kernel import Placement, ReadFunction
from ._memory import Ram, ram_layout
from ._modules import ModuleFiles
from ._pagetable import PageTable
from ._physical import PhysicalMemory
from ._vmcoreinfo import parse, vmcoreinfo

if TYPE_CHECKING:
    import drgn

    from ._program import ModuleKey

_FIRST_KERNEL_ADDRESS = 1 << 63


class State:
    """Memory and objects of one booted kernel, as long as it stands still.

    Everything raises StaleError while the kernel runs. Nothing read is kept from one stop to the
    next, except that drgn objects that are values are copies, made when they were read.

    :param vmlinux: the kernel with its symbols and debug info.
    :param ram: the file behind QEMU's `memory-backend-file`, or an open one.
    :param memory_bytes: the guest's memory.
    :param machine: QEMU's machine type, which says where in the guest RAM is.
    :param is_stopped: whether the kernel stands still.
    :param generation: a number that changes whenever the kernel has moved.
    :param modules: `.ko` files, and directories with such, that the guest may load.
    """

    def __init__(
        self,
        *,
        vmlinux: Path,
        ram: Path | BinaryIO,
        memory_bytes: int,
        is_stopped: Callable[[], bool],
        generation: Callable[[], int],
        machine: str = "pc",
        modules: Iterable[Path] = (),
    ) -> None:
        memory = Ram(ram, ram_layout(memory_bytes, machine))
        self._start(GuestMemory(Vmlinux(vmlinux), memory), is_stopped, generation, modules)

    @classmethod
    def through_debugger(
        cls,
        *,
        vmlinux: Path,
        read: ReadFunction,
        is_stopped: Callable[[], bool],
        generation: Callable[[], int],
        kernel_offset: int = 0,
        modules: Iterable[Path] = (),
    ) -> State:
        """Make the state of a machine whose memory is not ours: a board on a serial line.

        :param read: reads virtual memory; raises KgdbError where nothing is mapped.
        :param kernel_offset: where KASLR put the image, from its link address.
        """
        state = cls.__new__(cls)
        memory = DebuggerMemory(Vmlinux(vmlinux), read, kernel_offset)
        state._start(memory, is_stopped, generation, modules)
        return state

    def _start(
        self,
        backing: Backing,
        is_stopped: Callable[[], bool],
        generation: Callable[[], int],
        modules: Iterable[Path],
    ) -> None:
        self._memory = backing
        self._is_stopped = is_stopped
        self._generation = generation
        self._files = ModuleFiles(modules)
        self._seen: int | None = None
        self._program: drgn.Program | None = None
        self._program_seen: int | None = None
        self._loaded: frozenset[ModuleKey] = frozenset()
        self._placement: Placement | None = None
        self._log_layout: Layout | None = None
        self._closed = False
        self._is_halted = False
        self.physical = PhysicalMemory(self._backing, lambda: self.program)

    def close(self) -> None:
        """Let go of guest RAM; the state and its program cannot be used any more. Idempotent."""
        self._closed = True
        self._program = None
        self._memory.close()

    def invalidate(self) -> None:
        """Forget what was found out at this stop: memory was written behind our back."""
        self._seen = self._program_seen = None

    def _check(self) -> None:
        if self._closed:
            raise StaleError("the machine whose memory this was is gone")
        if not self._is_halted and not self._is_stopped():
            raise StaleError(
                "the kernel is running: its memory changes while it is read",
                hint="stop it first: interrupt(), or a breakpoint and wait()",
            )

    def _backing(self) -> Backing:
        self._check()
        generation = self._generation()
        if generation != self._seen:
            self._memory.refresh()
            self._seen = generation
        return self._memory

    def read(self, address: int, size: int) -> bytes:
        """Read the kernel's virtual memory: image, modules, vmalloc, any RAM.

        :raises KgdbError: not all of it is mapped; the message names the address that is not.
        :raises StaleError: the kernel is running.
        """
        return self._backing().read(address, size)

    def read_user(self, task: drgn.Object | int, address: int, size: int) -> bytes:
        """Read the virtual memory of a process.

        :param task: a pid; a `struct task_struct *` or `struct mm_struct *`; or the kernel
            address of a page table's top level (`mm->pgd`).
        :raises KgdbError: not all of it is in memory; a page may be swapped out, or not yet
            touched.
        :raises StaleError: the kernel is running.
        """
        backing = self._backing()
        name = "the page tables of the process"
        if isinstance(task, int) and task < _FIRST_KERNEL_ADDRESS:
            name = f"the page tables of pid {task}"
            task = self._task(task)
        root = backing.table.translate(_pgd(task))[0]
        return PageTable(backing.physical, root, backing.placement.levels, name).read(address, size)

    def _task(self, task: drgn.Object | int) -> drgn.Object:
        from ._program import find_task

        return find_task(self.program, task)

    def dmesg(self) -> str:
        """Return the kernel's log buffer, oldest line first, as dmesg(1) prints it.

        :raises StaleError: the kernel is running.
        """
        read, ring, layout = self._log() or (None, 0, None)
        if read is None or layout is None:  # before 5.10
            from drgn.helpers.linux.printk import get_dmesg

            return get_dmesg(self.program).decode(errors="replace")
        return render(read, ring, layout)

    def log_end(self) -> int:
        """Return the number that the next record of the kernel's log will have.

        :raises KgdbError: the log cannot be read that way.
        :raises StaleError: the kernel is running.
        """
        return self._need_log().next_seq()

    def log_since(self, seq: int) -> list[LogLine] | None:
        """Return the lines of the kernel's log from a record on; None where some are lost.

        :raises KgdbError: the log cannot be read that way.
        :raises StaleError: the kernel is running.
        """
        return self._need_log().lines(seq)

    def _need_log(self) -> Ring:
        known = self._log()
        if known is None:
            raise KgdbError("the kernel's log is of a form from before Linux 5.10")
        return Ring(*known)

    def _log(self) -> tuple[ReadFunction, int, Layout] | None:
        """Return how to read the log: None before 5.10, which had another form."""
        backing = self._backing()
        vmlinux, offset = backing.vmlinux, backing.placement.offset
        pointer = vmlinux.symbol("prb")
        if pointer is None:
            return None
        if self._log_layout is None:
            info = vmcoreinfo(vmlinux, backing.placement, backing.read)
            self._log_layout = Layout.from_vmcoreinfo(parse(info)) or Layout.from_program(
                self.program
            )
        ring = int.from_bytes(backing.read(pointer + offset, 8), "little")
        return backing.read, ring, self._log_layout

    @contextlib.contextmanager
    def halted(self) -> Iterator[None]:
        """Around reads of a machine that stands still by itself: kgdb does not know of it."""
        before, self._is_halted = self._is_halted, True
        self.invalidate()
        try:
            yield
        finally:
            self._is_halted = before
            self.invalidate()

    def symbolise(self, frames: Sequence[SplatFrame], source: Path | None) -> list[SplatFrame]:
        """Return a splat's frames with the lines of the source that our debug info has for them.

        :param source: the directory by which the debug info calls the kernel's source.
        :raises StaleError: the kernel is running.
        """
        from ._symbols import symbolise

        return symbolise(self.program, frames, source)

    @property
    def program(self) -> drgn.Program:
        """The stopped kernel as a drgn program, with the modules that are loaded now.

        It stays the same object until a module is unloaded or another kernel is booted.

        :raises StaleError: the kernel is running.
        """
        backing = self._backing()
        if self._program is not None and self._program_seen == self._seen:
            return self._program
        from ._program import load_modules, loaded_modules, make_program

        program = self._program
        if program is None or self._placement != backing.placement:
            program = make_program(backing, self._files, self._check)
            loaded = loaded_modules(program)
        else:
            loaded = loaded_modules(program)
            if not self._loaded <= loaded:
                # drgn cannot forget a module, and would find the symbols of what is gone.
                program = make_program(backing, self._files, self._check)
        load_modules(program)
        self._program, self._placement = program, backing.placement
        self._loaded, self._program_seen = loaded, self._seen
        return program

    def add_modules(self, *paths: Path) -> None:
        """Name further `.ko` files, or directories with such, that the guest may load."""
        self._files.add(paths)
        self._program = None

    def stack_trace(self, task: drgn.Object | int) -> drgn.StackTrace:
        """Return the stack of any task, sleeping or stopped by kgdb on its CPU.

        :param task: a pid or a `struct task_struct *`.
        :raises KgdbError: there is no such task, or its registers are not in memory.
        :raises StaleError: the kernel is running.
        """
        from ._program import stack_trace

        return stack_trace(self.program, self._task(task))

    def on_cpus(self, dump: str, source: Path | None) -> str:
        """Return what each CPU does: its task, its stack, its general registers.

        For a kernel that does not stop: the machine itself is to be halted around this.

        :param dump: what QEMU's `info registers -a` says.
        :param source: the directory by which the debug info calls the kernel's source.
        """
        from ._cpus import general_registers, on_cpus

        dump = dump.replace("\r", "")
        with self.halted():
            try:
                told = list(on_cpus(self.program, dump, source))
            except Exception as error:
                # Whatever is broken in the kernel's memory, the registers are there.
                told = [f"(no stacks: {error})"]
        return "\n".join([*told, general_registers(dump)])


def _pgd(task: drgn.Object | int) -> int:
    """Return the kernel address of a process's page tables."""
    if isinstance(task, int):
        return task
    mm = task if task.type_.type_name() == "struct mm_struct *" else task.mm
    if not mm:
        raise KgdbError(
            f"task {task.pid.value_()} has no memory of its own: a kernel thread, or one that exits"
        )
    return int(mm.pgd.value_())
