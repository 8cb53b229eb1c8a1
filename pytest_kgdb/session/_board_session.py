"""A session on a board: the machine is there already, and there is one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ..board import (
    Board,
    BoardAccess,
    BoardInterrupt,
    await_kgdb,
    await_shell,
    stop_running,
    take_up,
)
from ..deadline import WaitLimit
from ..debugger import Reason, gdb_version, launch_gdb
from ..errors import BootError, KgdbError, TimeoutError
from ..handle import Kgdb, MachineSlot
from ..kernel import Built, build_external
from ..modules import ModuleRegistry
from ..settings import LabgridTarget
from ._attach import attach, load_scripts
from ._board_vm import BoardVm, check_board_kernel
from ._index import index_cache, symbol_index
from ._logs import make_log_directory
from ._report import save_artifacts, sections, story

if TYPE_CHECKING:
    from ..cache import Cache
    from ..kernel import Kernel
    from ..progress import Progress
    from ..recipes import Coverage
    from ..report import Section, Story
    from ..settings import Settings, TestRequest

__all__ = ["BoardSession"]

_RANKS: Final = {"none": 0, "reboot": 1, "snapshot": 2}


class BoardSession:
    """Lends out the handle on a board's kernel.

    :param access: how the board is reached.
    """

    stub: str = "kgdb"
    """Whose stub gdb is attached to."""

    coverage: Coverage | None = None
    """Which code runs on a board is not recorded."""

    def __init__(
        self,
        settings: Settings,
        access: BoardAccess,
        kernel: Kernel,
        *,
        cache: Cache,
        progress: Progress,
    ) -> None:
        check_board_kernel(kernel)
        self.settings = settings
        self._access = access
        self.kernel = kernel
        self._cache = cache
        self._progress = progress
        self._waits = WaitLimit(settings.timeout)
        self._slot = MachineSlot(kernel, waits=self._waits)
        self._kgdb = Kgdb(self._slot)
        self._registry = ModuleRegistry(kernel, (), self._build_module)
        self._board: Board | None = None
        self._interrupt: BoardInterrupt | None = None
        self._vm: BoardVm | None = None
        self._number = 0
        self._mark = 0

    def _build_module(self, path: Path, variables: Sequence[str]) -> Built:
        given = (*self.settings.make, *self.settings.module_make, *variables)
        return build_external(self.kernel, path, self._cache, self._progress, given)

    # Lending

    def lacks(self, request: TestRequest) -> str | None:
        """Return why a test cannot have what it asks for; None if it can."""
        settings = self.settings
        resets = self._access.reset is not None
        if _RANKS[request.isolation] > _RANKS["reboot" if resets else "none"]:
            reset = "" if resets else f", and without {self._missing} it is not rebooted"
            return f"isolation={request.isolation!r}: a board has no snapshots{reset}"
        if request.at == "kgdbwait" and not resets:
            return f"at='kgdbwait': a board is there only after {self._missing}"
        for name, value in vars(request.machine).items():
            if value != getattr(settings, name):
                return f"{name}={value!r}: the board is as it is"
        return None

    def acquire(self, request: TestRequest) -> Kgdb:
        """Return the handle on the board's kernel, in the state that a test asks for.

        :raises KgdbError: it cannot be had; the message says why.
        """
        # A boot takes what it takes, however little one test waits.
        self._waits.set(max(request.timeout, self.settings.timeout))
        if request.isolation == "reboot" or request.at == "kgdbwait":
            self._reboot(request.at)
        else:
            self._go_on()
        self._live.fresh = False
        self.begin_test()
        self._waits.set(request.timeout)
        return self._kgdb

    def release(self) -> None:
        """Take the handle back from a test."""

    def begin_test(self) -> None:
        """A test begins on the kernel as the last one left it."""
        vm = self._live
        self._mark = vm.machine.console.mark()
        vm.gdb.clear_tail()
        vm.attachment.splats.begin()
        self._slot.actions.begin()

    def end_test(self, nodeid: str) -> None:
        """A test has ended."""

    def check_splats(self) -> None:
        """Judge what the kernel reported of itself since the test began, or since the last time.

        :raises SplatError: the test did not expect it; or what it did expect did not come.
        """
        attachment = self._slot.attachment
        if attachment is not None:
            attachment.splats.check()

    @property
    def handle(self) -> Kgdb:
        """The handle as it is; on the board's kernel, taken up now, if it is on none."""
        if self._vm is None or not self._vm.alive:
            self.acquire(self.settings.for_marker({}, "kgdb_session"))
        return self._kgdb

    @property
    def _live(self) -> BoardVm:
        assert self._vm is not None
        return self._vm

    # The board

    def _open(self) -> tuple[Board, BoardInterrupt]:
        """Return the board, whose lines are opened first if need be."""
        if self._board is not None and self._board.lines.lost is not None:
            self._close_vm()
            self._board.close()
            self._board = None
        if self._board is None or self._interrupt is None:
            self._board = Board(
                self._access,
                log=self.logs / "console.log",
                waits=self._waits,
                attend=self._attend,
            )
            self._interrupt = BoardInterrupt(self._board)
        return self._board, self._interrupt

    def _attend(self) -> None:
        """While a test waits on the console, serve a stop that no test is to see."""
        if self._vm is not None:
            _ = self._vm.attachment.run_control.stopped

    def _go_on(self) -> None:
        """Have the kernel that runs stopped at the shell's prompt, whoever had it before."""
        vm = self._vm
        if vm is not None and vm.alive:
            try:
                if not vm.fresh:
                    vm.begin_anew()
                return
            except KgdbError as error:
                self._progress.say(
                    f"the board's kernel cannot be used on ({error.message.splitlines()[0]}); "
                    f"{'resetting it' if self._access.reset else 'taking it up anew'}"
                )
                if self._access.reset is not None:
                    self._reboot("ready")
                    return
        self._close_vm()
        board, interrupt = self._open()
        board.expect_boot(reset=False)
        self._connect(lambda: take_up(board, interrupt), "ready")

    def _reboot(self, at: str) -> None:
        """Reset the board, and have its kernel stopped in early boot, or at the shell."""
        self._close_vm()
        board, interrupt = self._open()
        board.expect_boot(reset=True)
        assert self._access.reset is not None
        self._access.reset(self.logs / "reset.log", self._waits.seconds)

        def boot() -> Reason:
            if at == "kgdbwait":
                try:
                    await_kgdb(board, self._waits.seconds)
                except TimeoutError as error:
                    raise BootError(
                        error.message,
                        log=error.log,
                        hint="does its boot loader give its kernel kgdbwait?",
                        late=True,
                    ) from error
                return "int3"
            if await_shell(board, self._waits.deadline()) == "kgdb":
                return "int3"
            stop_running(board, interrupt)
            return "interrupt"

        self._connect(boot, at)

    def _connect(self, stop: Callable[[], Reason], at: str) -> None:
        """Start gdb, have the kernel stopped meanwhile, and connect the two.

        :param stop: has it stopped, and returns why it is.
        """
        board, interrupt = self._open()
        self._number += 1
        logs = self.logs / f"gdb-{self._number}"
        logs.mkdir(parents=True)
        index = symbol_index(self.kernel, self._cache)
        index.begin()
        index.wait(self._waits.seconds)
        process = launch_gdb(
            self.kernel, index_cache=index_cache(self._cache), log=logs / "gdb.stderr"
        )
        try:
            reason = stop()
        except BaseException:
            process.close_unread()
            raise
        self._vm = vm = BoardVm(
            board,
            self.kernel,
            self._slot,
            self._registry,
            process,
            interrupt=interrupt,
            reason=reason,
            number=self._number,
            transcript=logs / "gdb.log",
            waits=self._waits,
            remember=self._remember,
        )
        if reason == "int3" and at == "ready":
            try:
                vm.advance_to_shell()
            except BaseException:
                self._close_vm()
                raise

    def _remember(self, key: str, compute: Callable[[], str]) -> str:
        return self._cache.memo("gdb-numbers", f"{self.kernel.key}\n{key}", compute)

    @property
    def _missing(self) -> str:
        """What a board lacks that is not reset."""
        labgrid = isinstance(self.settings.target, LabgridTarget)
        return "a driver with labgrid's PowerProtocol" if labgrid else "--kgdb-reset"

    # Reporting

    @cached_property
    def logs(self) -> Path:
        """The directory of this run's logs; the last runs' are kept beside it."""
        return make_log_directory(self._cache.root / "logs")

    @property
    def console_log(self) -> Path:
        """Everything that the board's console showed."""
        return self.logs / "console.log"

    @property
    def transcript(self) -> Path:
        """The present gdb's conversation."""
        return self._vm.gdb.transcript if self._vm is not None else self.logs / "none"

    def describe(self) -> list[str]:
        """Return what a user should know of the machine, in lines."""
        way = ""
        if self._interrupt is not None:
            way = "; it is interrupted by a " + (
                "break" if self._interrupt.by_break else "command in its shell"
            )
        return [
            f"Linux {self.kernel.release} ({self.kernel.name}) on the board on "
            f"{self._access.describe()}, gdb {gdb_version()}{way}"
        ]

    def commands(self) -> list[str]:
        """Return nothing: somebody else has started the machine."""
        return []

    def report_sections(self) -> list[Section]:
        """Return what a failed test's report shows of the kernel, gdb and the console."""
        return [] if self._vm is None else sections(self._vm, self._mark, self._slot.actions)

    def story(self) -> Story:
        """Return what has happened on the kernel since the test began."""
        return story(self._vm, self._mark, self._slot.actions)

    def save_artifacts(self, directory: Path, *, dump: bool, machine: bool) -> None:  # noqa: ARG002 # both are refused
        """Save what a failed test's artifacts have besides the report and the logs.

        :raises OSError: a file cannot be written.
        """
        if self._vm is not None:
            save_artifacts(self._vm, self._mark, self._slot.actions, directory)

    def attach(self, *, tests: bool = False, commands: Sequence[str] = ("frame",)) -> bool:
        """Give the user gdb on the board's kernel as it is.

        :param tests: whether tests go on afterwards.
        :param commands: gdb's commands to begin with.
        :return: whether the user wants the run of the tests to end.
        :raises ConfigError: there is no terminal.
        """
        _ = self.handle
        attachment, say = self._live.attachment, self._progress.say
        load_scripts(attachment, self.settings, self._cache, say)
        return attach(attachment, say, tests=tests, commands=commands)

    # The end

    def _close_vm(self) -> None:
        vm, self._vm = self._vm, None
        if vm is not None:
            vm.close()

    def close(self) -> None:
        """End gdb, and close the lines; the board's kernel runs on."""
        self._close_vm()
        board, self._board = self._board, None
        if board is not None:
            with contextlib.suppress(KgdbError):
                board.close()

    def __enter__(self) -> BoardSession:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
