"""The drgn program of a stopped kernel."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import KgdbError
from ._backing import Backing
from ._crash_notes import CRASH_NOTES, CpuRegisters, provide_crash_notes
from ._module_files import ModuleLookup
from ._vmcoreinfo import vmcoreinfo

if TYPE_CHECKING:
    import drgn

_FINDER = "pytest-kgdb"

ModuleKey = tuple[str, int, int]
"""A loaded module: its name, the address of its `struct module`, its `enum module_state`."""


def make_program(
    backing: Backing,
    modules: ModuleLookup,
    check: Callable[[], None],
    registers: CpuRegisters | None = None,
) -> drgn.Program:
    """Make a program with the debug information of the kernel, without its modules'.

    :param modules: knows the files of the modules.
    :param check: called before each read of memory; raises to refuse it.
    :param registers: those of all CPUs; None if they are where kgdb saves them.
    :raises KgdbError: vmlinux has no debug info, or is not the running kernel's.
    """
    import drgn

    program = drgn.Program(drgn.Platform(drgn.Architecture.X86_64))
    info = vmcoreinfo(backing.vmlinux, backing.placement, backing.read)
    # Adds drgn's own walk of the page tables; segments that are added later precede it.
    program.set_linux_kernel_custom(info + CRASH_NOTES, is_live=False)
    for segment in backing.segments(check):
        program.add_memory_segment(*segment)
    provide_crash_notes(program, backing.read, registers)

    vmlinux = backing.vmlinux.path

    def find(missing: Sequence[drgn.Module]) -> None:
        for module in missing:
            paths: Iterable[Path] = ()
            if isinstance(module, drgn.MainModule):
                paths = [vmlinux]
            elif isinstance(module, drgn.RelocatableModule):
                paths = modules.candidates(module.name)
            for path in paths:
                if module.wants_debug_file():
                    module.try_file(path)

    # Only this one: the standard ones search the modules of this host, and the network.
    program.register_debug_info_finder(_FINDER, find, enable_index=0)
    program.set_enabled_debug_info_finders([_FINDER])
    main = program.main_module("kernel", create=True)
    if build_id := re.search(r"^BUILD-ID=(\w+)$", info, re.MULTILINE):
        main.build_id = bytes.fromhex(build_id[1])
    main.try_file(vmlinux)
    if main.wants_debug_file():
        raise KgdbError(
            f"{vmlinux} cannot be used for the running kernel: it has no debug info, "
            f"or its build id is not {main.build_id.hex() if main.build_id else 'known'}",
            hint="build with CONFIG_DEBUG_INFO_DWARF5=y, and give the vmlinux of that build",
        )
    return program


def loaded_modules(program: drgn.Program) -> frozenset[ModuleKey]:
    """Return the modules in the kernel's list; none if that is damaged."""
    import drgn
    from drgn.helpers.linux.module import for_each_module

    try:
        return frozenset(
            (
                module.name.string_().decode(errors="replace"),
                module.value_(),
                module.state.value_(),
            )
            for module in for_each_module(program)
        )
    except (LookupError, drgn.FaultError):  # LookupError: built without CONFIG_MODULES
        return frozenset()


def load_modules(program: drgn.Program) -> None:
    """Add the loaded modules to a program, with debug information where their file is known."""
    import drgn
    from drgn.helpers.linux.module import module_address_regions

    new = [module for module, is_new in program.loaded_modules() if is_new]
    for module in new:
        if isinstance(module, drgn.RelocatableModule):
            # drgn itself omits the memory that a module has only until its init has run.
            regions = module_address_regions(module.object)
            module.address_ranges = [(start, start + size) for start, size in regions if size]
            _allow_no_orc(module)
    if new:
        # Modules without a file have names and addresses all the same.
        with suppress(drgn.MissingDebugInfoError):
            program.load_module_debug_info(*new)


def _allow_no_orc(module: drgn.RelocatableModule) -> None:
    """Have drgn unwind by the file of a module for which objtool has made no ORC tables.

    drgn 0.3 looks for those of the kernel's memory first, and with no section of that name it does
    without the file's `.debug_frame`, too.
    """
    import drgn

    with suppress(AttributeError, LookupError, drgn.FaultError):  # a kernel without ORC
        if module.object.arch.num_orcs.value_() == 0:
            for name in (".orc_unwind", ".orc_unwind_ip"):
                module.section_addresses.setdefault(name, module.address)


def find_task(program: drgn.Program, task: drgn.Object | int) -> drgn.Object:
    """Return the `struct task_struct *` of a pid; a task is returned as it is.

    :raises KgdbError: there is no such task.
    """
    import drgn
    from drgn.helpers.linux.pid import find_task as look_up

    if not isinstance(task, int):
        kind = drgn.TypeKind
        if task.type_.kind == kind.STRUCT:
            return task.address_of_()
        if task.type_.kind == kind.POINTER:
            return task
        task = int(task)  # task.pid
    pointer = look_up(program, task) if 0 <= task < 1 << 31 else None
    if not pointer:
        raise KgdbError(
            f"the guest has no task with pid {task}",
            hint=None
            if pointer is not None
            else "a task by its address: evaluate('(struct task_struct *)ADDRESS')",
        )
    return pointer


def stack_trace(program: drgn.Program, task: drgn.Object) -> drgn.StackTrace:
    """Return a task's stack; of a task on a CPU, from where that CPU has stopped.

    :raises KgdbError: the task is running, and its CPU's registers are not known.
    """
    import drgn

    try:
        return program.stack_trace(task)
    except (LookupError, drgn.FaultError) as error:
        raise KgdbError(
            f"task {task.pid.value_()} ({task.comm.string_().decode(errors='replace')}) was "
            "running when the machine was stopped, and its registers are not in memory",
            hint="stop the kernel by kgdb (a breakpoint, interrupt()), or ask gdb",
        ) from error
