"""Where a kernel has what is read of it at a stop, from its symbols and debug information."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ..arch import X86_64
from ..cache import Cache
from ..errors import ConfigError
from ._patched_sites import SITE_SYMBOLS, PatchedSites, SiteTable
from ._vmlinux import Vmlinux

if TYPE_CHECKING:
    import drgn

FREEING_INITMEM: Final = 2
"""The third state, in which init memory is freed (init/main.c, kernel_init; include/linux/kernel.h,
enum system_states)."""


@dataclass(frozen=True)
class KgdbLayout:
    """Addresses, offsets and sizes of kgdb's variables (kernel/debug/debug_core.c and .h).

    Addresses are as linked.
    """

    kgdb_active: int
    """`kgdb_active`: the number of the CPU whose registers gdb sees, or -1."""

    kgdb_info: int
    """`kgdb_info`: an array of `struct debuggerinfo_struct`, one for each CPU."""

    info_size: int
    """`sizeof(struct debuggerinfo_struct)`."""

    debuggerinfo: int
    """Offset of its member `debuggerinfo`, the `struct pt_regs *` of the CPU's exception."""

    task: int
    """Offset of its member `task`."""

    startup: int = 0
    """`startup_64`, where the kernel begins (arch/x86/kernel/head_64.S): executed once, and not
    freed."""

    startup_size: int = 0
    """Its size; 0 where it is no part of what the kernel keeps."""

    debug_exception: int | None = None
    """`asm_exc_debug`, where a single step ends (arch/x86/include/asm/idtentry.h, since 5.8)."""

    int3_exception: int | None = None
    """`asm_exc_int3`, where an int3 leads (arch/x86/include/asm/idtentry.h, since 5.8)."""

    kgdbreboot: int | None = None
    """`kgdbreboot`: what kgdb does when the kernel is about to reboot (dbg_notify_reboot)."""

    @property
    def unused_code(self) -> range:
        """Addresses of the kernel's code that are executed no more."""
        return range(self.startup, self.startup + self.startup_size)


@dataclass(frozen=True)
class StopLayout:
    """What leads to the memory of the task that stopped, and to what the console has printed.

    Addresses are as linked.
    """

    current_task: int
    """`current_task`, relative to the base of GS: the task that is on the CPU
    (arch/x86/include/asm/current.h)."""

    task_mm: int
    """Offset of `mm` in `struct task_struct`."""

    task_pid: int
    """Offset of `pid` in `struct task_struct`."""

    task_comm: int
    """Offset of `comm` in `struct task_struct`."""

    mm_pgd: int
    """Offset of `pgd` in `struct mm_struct`."""

    console_rx: int | None = None
    """`serial8250_ports[0].port.icount.rx`: how many characters the driver of the console has read
    (include/linux/serial_core.h, struct uart_icount); None if the kernel has another driver."""

    console_state: int | None = None
    """`serial8250_ports[0].port.state`: a pointer to that port's `struct uart_state`."""

    state_iflags: int = 0
    """Offset of `port.iflags` in `struct uart_state`."""

    state_tty: int = 0
    """Offset of `port.tty` in `struct uart_state`: a pointer to a `struct tty_struct`, if open."""

    tty_readers: int = 0
    """Offset of `read_wait.head` in `struct tty_struct`: a list of who waits for input."""

    console_driver: int | None = None
    """`serial8250_ports[0].port.cons`: the `struct console *` of that driver."""

    console_seq: int | None = None
    """Offset of `seq` in `struct console`: the number of the record that it prints next; None
    before 5.18 (commit a699449bb13b "printk: refactor and rework printing logic")."""

    init_text: int = 0
    """`_sinittext`, where the code begins that is freed once the kernel has booted."""

    init_text_size: int = 0
    """Its size; 0 where that is not known."""

    system_state: int = 0
    """`system_state`, which tells whether it has been (include/linux/kernel.h)."""

    self_jump: int = 0
    """Where code is a jump to itself; 0 if it is nowhere so."""

    kgdb: KgdbLayout | None = None
    """kgdb's variables; None if the kernel was built without kgdb."""

    patched: PatchedSites | None = None
    """The tables of what it patches as it runs; None if it has none that is known, or no kgdb."""

    def has_freed(self, address: int, read: Callable[[int, int], bytes]) -> bool:
        """Whether an address is that of code which the kernel has freed, for others to use.

        :param read: reads the kernel's memory (address, size); raises KgdbError if it cannot.
        """
        if not self.init_text <= address < self.init_text + self.init_text_size:
            return False
        return int.from_bytes(read(self.system_state, 4), "little") >= FREEING_INITMEM

    @classmethod
    def read(cls, path: Path) -> StopLayout | None:
        """Return the layout of a vmlinux; None if the file has no tasks, as no kernel.

        It takes a second: the debug information is indexed.

        :raises ConfigError: the file has no symbol table or no debug information.
        """
        vmlinux = Vmlinux(path)
        try:
            current = vmlinux.symbol("current_task")
            hot = vmlinux.symbol("pcpu_hot")
            active, info = vmlinux.symbol("kgdb_active"), vmlinux.symbol("kgdb_info")
            ports = vmlinux.symbol("serial8250_ports")
            startup, startup_size = _startup(vmlinux)
            reboot = vmlinux.symbol("kgdbreboot")
            debug_exception = vmlinux.symbol("asm_exc_debug")
            int3_exception = vmlinux.symbol("asm_exc_int3")
            system_state = vmlinux.symbol("system_state")
            init, init_end = vmlinux.symbol("_sinittext"), vmlinux.symbol("_einittext")
            self_jump = _self_jump(vmlinux)
            sites = {name: vmlinux.symbol(name) for name in SITE_SYMBOLS}
        finally:
            vmlinux.close()
        if current is None and hot is None:
            return None
        import drgn  # slow to import, and needed once for each kernel

        program = _types_of(path)
        try:
            if current is None:
                # From 6.2 to 6.14 (commit d7b6d709a76a "x86/percpu: Move current_top_of_stack next
                # to current_task").
                assert hot is not None
                current = hot + drgn.offsetof(program.type("struct pcpu_hot"), "current_task")
            kgdb = None
            if active is not None and info is not None:
                element = program.type("struct debuggerinfo_struct")
                kgdb = KgdbLayout(
                    kgdb_active=active,
                    kgdb_info=info,
                    info_size=drgn.sizeof(element),
                    debuggerinfo=drgn.offsetof(element, "debuggerinfo"),
                    task=drgn.offsetof(element, "task"),
                    startup=startup,
                    startup_size=startup_size,
                    kgdbreboot=reboot,
                    debug_exception=debug_exception,
                    int3_exception=int3_exception,
                )
            task = program.type("struct task_struct")
            console_rx = console_state = console_driver = console_seq = None
            state_iflags = state_tty = tty_readers = 0
            if ports is not None:
                port = program.type("struct uart_8250_port")
                console_rx = ports + drgn.offsetof(port, "port.icount.rx")
                console_state = ports + drgn.offsetof(port, "port.state")
                state = program.type("struct uart_state")
                state_iflags = drgn.offsetof(state, "port.iflags")
                state_tty = drgn.offsetof(state, "port.tty")
                tty_readers = drgn.offsetof(program.type("struct tty_struct"), "read_wait.head")
                console_driver = ports + drgn.offsetof(port, "port.cons")
                console = program.type("struct console")
                if console.has_member("seq"):
                    console_seq = drgn.offsetof(console, "seq")
            return cls(
                current_task=current,
                task_mm=drgn.offsetof(task, "mm"),
                task_pid=drgn.offsetof(task, "pid"),
                task_comm=drgn.offsetof(task, "comm"),
                mm_pgd=drgn.offsetof(program.type("struct mm_struct"), "pgd"),
                console_rx=console_rx,
                console_state=console_state,
                state_iflags=state_iflags,
                state_tty=state_tty,
                tty_readers=tty_readers,
                console_driver=console_driver,
                console_seq=console_seq,
                init_text=init or 0,
                init_text_size=init_end - init if init and init_end and system_state else 0,
                system_state=system_state or 0,
                self_jump=self_jump,
                kgdb=kgdb,
                patched=PatchedSites.read(sites, program) if kgdb is not None else None,
            )
        except LookupError as error:
            raise ConfigError(
                f"{path} has no usable debug information: {error}",
                hint="build it with CONFIG_DEBUG_INFO_DWARF5=y",
            ) from error

    def dump(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self)

    @classmethod
    def load(cls, values: dict[str, Any] | None) -> StopLayout | None:
        """Return what `dump` was called on; None for None."""
        if values is None:
            return None
        kgdb, patched = values["kgdb"], values.get("patched")
        if patched is not None:
            tables = tuple(SiteTable(**table) for table in patched["tables"])
            patched = PatchedSites(**{**patched, "tables": tables})
        kgdb = None if kgdb is None else KgdbLayout(**kgdb)
        return cls(**{**values, "kgdb": kgdb, "patched": patched})


def _startup(vmlinux: Vmlinux) -> tuple[int, int]:
    """Return the address and the size of `startup_64`, which ends where the other CPUs begin."""
    names = ("_stext", "startup_64", "secondary_startup_64", "_etext")
    first, startup, end, last = (vmlinux.symbol(name) for name in names)
    if first is None or startup is None or end is None or last is None:
        return 0, 0
    if not first <= startup < end <= last:
        return 0, 0
    return startup, end - startup


def _self_jump(vmlinux: Vmlinux) -> int:
    """Return an address at which a jump to itself can be executed; 0 if there is none.

    The bytes may be within other instructions. The last ones, for what is executed but once is at
    the beginning.
    """
    text = vmlinux.sections.get(".text")
    at = vmlinux.section_bytes(".text").rfind(X86_64.self_jump) if text is not None else -1
    return text.address + at if text is not None and at >= 0 else 0


_MEMBERS: Final = " ".join(
    field.name
    for kind in (KgdbLayout, PatchedSites, SiteTable, StopLayout)
    for field in fields(kind)
)
FACT: Final = f"stop-layout-{hashlib.sha256(_MEMBERS.encode()).hexdigest()[:8]}"
"""Its name among what is stored of a kernel: another one when it has other members."""


def stop_layout(path: Path, key: str, cache: Cache) -> StopLayout | None:
    """Return the layout of a vmlinux, from the cache if it was read before.

    :param key: the kernel's key.
    :raises ConfigError: the file has no symbol table or no debug information.
    """

    def read() -> str:
        layout = StopLayout.read(path)
        return json.dumps(None if layout is None else layout.dump())

    return StopLayout.load(json.loads(cache.memo(FACT, key, read)))


def _types_of(path: Path) -> drgn.Program:
    """Return a program that has the types of a file, and no memory."""
    import drgn

    program = drgn.Program(drgn.Platform(drgn.Architecture.X86_64))
    program.set_enabled_debug_info_finders([])
    # Not a main module: in a program without memory, drgn does not take a kernel's file as one.
    program.extra_module("kernel", create=True).try_file(path, force=True)
    return program
