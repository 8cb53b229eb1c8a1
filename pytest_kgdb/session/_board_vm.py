"""A board's kernel with a debugger on it, until it is reset, or left."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ..board import Board, BoardInterrupt, await_shell
from ..console import Console
from ..deadline import WaitLimit
from ..debugger import Gdb, GdbProcess, Reason, Remember, Stop
from ..errors import BootError, ConfigError, KgdbError
from ..handle import Attachment, MachineSlot
from ..kernel import Vmlinux
from ..memory import KernelMemory, ModuleLookup, PacketMemory, StopState
from ..modules import ModuleRegistry
from ..rsp import LineKgdbBackend, Relay
from ._image_boot import missing_parameters

if TYPE_CHECKING:
    from ..kernel import Kernel

__all__ = ["BoardVm"]

_LEAVE_SECONDS: Final = 5.0  # for a kernel to stop, when the session ends


class _NoSnapshots:
    """A board's part of snapshots (handle.SnapshotKeeping): there are none."""

    names: tuple[str, ...] = ()

    def save_named(self, name: str, stop: Stop) -> None:  # noqa: ARG002 # as of those that can
        """Refuse."""
        raise ConfigError(
            f"snapshot({name!r}): a board cannot be saved",
            hint="what needs snapshots (snapshot, restore, fail_each) needs a guest in QEMU",
        )

    def restore_named(self, name: str) -> None:
        """Nothing is saved by which this could be called."""
        raise ConfigError(f"restore({name!r}): a board cannot be saved")


def _refuse_to_save(path: Path, _stop: Stop) -> None:
    """Refuse to save a board as a file (handle.MachineSaver)."""
    raise ConfigError(
        f"save({str(path)!r}): a board cannot be saved",
        hint="a machine as a file needs a guest in QEMU",
    )


class _OutOfSight:
    """What is seen of a board while its kernel runs (handle.RunningView): nothing."""

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Refuse."""
        raise KgdbError("a board's memory can be read while its kernel is stopped only")
        yield

    def status(self) -> str:
        """Return that it runs, for all that is known."""
        return "running"

    def registers(self) -> str:
        """Refuse."""
        raise KgdbError("a board's registers can be read while its kernel is stopped only")


class BoardVm:
    """gdb on a board whose kernel is stopped in kgdb.

    :param process: gdb, which becomes this one's.
    :param slot: where the handle that tests hold finds the machine.
    :param number: how many there were before on this board.
    :param reason: why the kernel is stopped.
    :param remember: keeps what gdb says of the kernel from session to session.
    :raises BootError: the kernel is not the one whose symbols there are.
    """

    def __init__(
        self,
        board: Board,
        kernel: Kernel,
        slot: MachineSlot,
        registry: ModuleRegistry,
        process: GdbProcess,
        *,
        interrupt: BoardInterrupt,
        reason: Reason,
        number: int,
        transcript: Path,
        waits: WaitLimit,
        remember: Remember,
    ) -> None:
        self.machine = board
        self.kernel = kernel
        self._waits = waits
        self._left = False
        self.fresh = True
        """Whether no test has had it."""
        with contextlib.ExitStack() as stack:
            stack.callback(process.close)
            self.gdb = stack.enter_context(
                Gdb(process, transcript=transcript, waits=waits, on_event=board.console.poke)
            )
            backend = LineKgdbBackend(
                board.lines.connect_kgdb, waits=waits, check=board.check_storage
            )
            self._relay = relay = Relay(board.directory / f"gdb-{number}", backend)
            stack.callback(relay.close)
            _check_kernel(relay, board, kernel)
            assert kernel.stop_layout is not None  # as checked of a kernel for a board
            memory = PacketMemory(
                kernel.vmlinux, backend.read_kernel, backend.write_kernel, kernel.stop_layout
            )
            stack.callback(memory.close)
            self.gdb.command(f"-target-select remote {relay.path}")
            relay.use_guest_memory(memory, kernel.stop_layout)
            self.attachment = Attachment(
                kernel,
                gdb=self.gdb,
                machine=board,
                memory=functools.partial(self._memory, backend),
                running=_OutOfSight(),
                relay=relay,
                interrupt=interrupt.send,
                snapshots=_NoSnapshots(),
                registry=registry,
                generation=slot.generation,
                waits=waits,
                reason=reason,
                printed=None,
                spoiled=lambda: None,
                remember=remember,
                actions=slot.actions,
                save_machine=_refuse_to_save,
                interrupts_in_guest=interrupt.in_guest,
            )
            stack.callback(self.attachment.close)
            slot.fill(self.attachment)
            stack.callback(slot.empty, self.attachment)
            stack.callback(self._leave)
            self._check_parameters()
            board.watch()
            self._stack = stack.pop_all()

    def _memory(
        self, backend: LineKgdbBackend, stop_state: StopState, modules: ModuleLookup
    ) -> KernelMemory:
        def write(address: int, data: bytes) -> None:
            with self._relay.locked():
                backend.write_kernel(address, data)

        return KernelMemory.through_debugger(
            vmlinux=self.kernel.vmlinux,
            read=self._relay.read,
            stop_state=stop_state,
            modules=modules,
            write=write,
        )

    def _check_parameters(self) -> None:
        missing = missing_parameters(self.attachment.debugger)
        if missing:
            raise BootError(
                f"the kernel of {self.machine.name} was booted without {' and '.join(missing)}",
                log=self.machine.console.log,
                hint="its boot loader must give it these parameters (docs/board.md)",
            )

    @property
    def alive(self) -> bool:
        """Whether the board and gdb are there."""
        return self.machine.alive and self.gdb.alive

    def advance_to_shell(self) -> None:
        """Let a kernel that waited in kgdb run until a shell is on the console, and stop it.

        :raises BootError: it stopped on its way.
        """
        control = self.attachment.run_control
        control.resume()
        await_shell(self.machine, self._waits.deadline(), self._check_boot)
        control.interrupt()

    def _check_boot(self) -> None:
        control = self.attachment.run_control
        if not control.stopped:
            return
        control.check_refused()
        console: Console = self.machine.console
        raise BootError(
            f"the kernel stopped on its way to the shell: {control.stop!r}\n"
            f"the console's last lines are:\n{console.tail(15)}",
            log=console.log,
            hint="to be there when it happens: a test with the marker kgdb(at='kgdbwait')",
        )

    def begin_anew(self) -> None:
        """Have a kernel that tests had stopped at the shell's prompt, without breakpoints.

        :raises KgdbError: it cannot be had so.
        """
        control, console = self.attachment.run_control, self.machine.console
        control.interrupt(timeout=_LEAVE_SECONDS)
        self.attachment.instruments.end()
        self.attachment.breakpoints.delete_all()
        control.resume()
        console.synchronise(timeout=10.0, interrupt=True)
        control.interrupt()
        console.drop()

    def _leave(self) -> None:
        """Let the kernel run without a debugger, as it was before, if it is still there."""
        with contextlib.suppress(KgdbError):
            if not self.alive:
                return
            self.attachment.run_control.interrupt(timeout=_LEAVE_SECONDS)
            self._relay.leave()
            if self.machine.echoes:
                self.machine.console.sendline("stty echo; set +o ignoreeof")

    def close(self) -> None:
        """End gdb; the kernel runs on."""
        self._stack.close()


def check_board_kernel(kernel: Kernel) -> None:
    """Check that a kernel can be debugged on a board.

    :raises ConfigError: it was built without kgdb.
    """
    if kernel.stop_layout is None or kernel.stop_layout.kgdb is None:
        raise ConfigError(
            f"{kernel.spec} was built without kgdb", hint="CONFIG_KGDB_SERIAL_CONSOLE=y"
        )


def _check_kernel(relay: Relay, board: Board, kernel: Kernel) -> None:
    """Check that the kernel which is stopped is the one whose symbols there are."""
    vmlinux = Vmlinux(kernel.vmlinux)
    try:
        address, banner = vmlinux.need("linux_banner"), vmlinux.banner
    finally:
        vmlinux.close()
    try:
        there = relay.read(address, len(banner))
    except KgdbError as error:
        if type(error) is not KgdbError:
            raise  # nobody answers
        there = b""
    if there == banner:
        return
    raise BootError(
        f"the kernel of {board.name} is not that of {kernel.vmlinux}, or it was booted without "
        f"nokaslr: at linux_banner it has\n  {_first_line(there)}\nand not\n  "
        f"{_first_line(banner)}",
        log=board.console.log,
        hint="--kgdb-kernel names the build directory of what the board has booted",
    )


def _first_line(text: bytes) -> str:
    return repr(text.partition(b"\n")[0].decode("ascii", "replace"))
