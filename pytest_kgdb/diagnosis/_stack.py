"""Stacks as drgn unwinds them, frame by frame, and the frame that a reader looks for."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import drgn

__all__ = ["StackFrame", "frames_of", "lines_of", "place_of", "stack_of"]

_FIRST_KERNEL_ADDRESS: Final = 1 << 63
_MAX_FRAMES: Final = 64
_PAGE_SIZE: Final = 4096
# arch/x86/include/asm/page_64_types.h, THREAD_SIZE; KASAN doubles it.
_THREAD_SIZE: Final = 4 * _PAGE_SIZE

# Frames that wait for somebody else, by file: the scheduler, locks, timers; what is inlined from a
# header; how a machine is shut down; and by name, in files that have more than that:
# mm/filemap.c, kernel/kthread.c, kernel/workqueue.c, kernel/irq/manage.c, kernel/softirq.c,
# kernel/smp.c, kernel/stop_machine.c, kernel/umh.c, kernel/async.c; arch/x86/kernel/process.c, in
# which a shutdown ends; and what removes a file that is in use: fs/debugfs/inode.c,
# fs/proc/generic.c, fs/kernfs/dir.c, fs/sysfs.
_WAITING_FILES: Final = re.compile(
    r"kernel/(?:sched|locking|time|rcu)/|(?:arch/x86/)?include/|lib/dump_stack\.c$|arch/x86/lib/|"
    r"arch/x86/kernel/reboot\.c$"
)
_WAITING_NAMES: Final = re.compile(
    r"(?:__)?folio_(?:wait|lock|put_wait)\w*|(?:__)?lock_(?:page|folio)\w*|wait_on_page\w*|"
    r"kthread_(?:stop\w*|park|flush_work\w*|destroy_worker)|"
    r"(?:__)?kthread_cancel_(?:delayed_)?work\w*|"
    r"(?:__)?flush_(?:delayed_|rcu_)?work\w*|(?:__)?cancel_(?:delayed_)?work\w*|"
    r"__flush_workqueue|drain_workqueue|destroy_workqueue|"
    r"(?:__)?synchronize_(?:hard)?irq|disable_(?:hard)?irq|(?:__)?free_irq|"
    r"tasklet_(?:kill|disable|unlock_\w+)|"
    r"csd_lock_wait|smp_call_(?:function|on)_\w+|on_each_cpu\w*|"
    r"stop_machine\w*|stop_(?:one|two)_cpus?|(?:__)?stop_cpus|"
    r"call_usermodehelper\w*|__request_module|async_synchronize_\w+|"
    r"__debugfs_file_removed|simple_recursive_removal|debugfs_remove|"
    r"proc_entry_rundown|proc_remove|remove_proc_(?:entry|subtree)|"
    r"kernfs_drain|(?:__)?kernfs_remove\w*|sysfs_remove_\w+|device_remove_file|"
    r"native_queued_spin_lock_slowpath|__delay|delay_\w+|__const_udelay|__udelay|"
    r"stop_this_cpu"
)
# As the names, where others may have the same.
_WAITING_PLACES: Final = frozenset({("remove_one", "fs/debugfs/inode.c")})
# Below these nobody is who waits: how the kernel is entered (arch/x86/entry), and how a kernel
# thread begins (kernel/kthread.c, kernel/workqueue.c, kernel/smpboot.c, kernel/softirq.c,
# kernel/sched/idle.c, init/main.c).
_BASE_FILES: Final = re.compile(r"arch/x86/(?:entry|kernel/(?:head|process))")
_BASE_NAMES: Final = frozenset(
    {
        *("kthread", "ret_from_fork", "ret_from_fork_asm", "worker_thread", "process_one_work"),
        *("smpboot_thread_fn", "run_ksoftirqd"),
        *(
            "process_scheduled_works",
            "do_idle",
            "cpu_startup_entry",
            "rest_init",
            "start_secondary",
        ),
        *("kernel_init", "do_syscall_x64", "do_syscall_64", "x64_sys_call"),
    }
)


@dataclass(frozen=True)
class StackFrame:
    """A frame of a stack."""

    name: str
    """The function, or an address."""
    file: str = ""
    """In the kernel's tree, or an absolute path; empty where it is unknown."""
    line: int = 0
    sp: int = 0
    """The stack pointer, which inlined frames share with the one that they are inlined into."""
    interrupted: bool = False
    """Whether an interrupt or an exception came here, or it is the innermost."""
    flags: int | None = None
    """The flags that it was interrupted with; None where they are not known."""

    def __str__(self) -> str:
        return f"{self.name} at {self.file}:{self.line}" if self.file else self.name

    @property
    def place(self) -> str:
        """The function with its file and line; of a file outside of the tree its name alone."""
        if not self.file:
            return self.name
        file = PurePosixPath(self.file)
        return f"{self.name} ({file.name if file.is_absolute() else file}:{self.line})"

    @property
    def is_base(self) -> bool:
        """Whether it is how the kernel was entered, or how a kernel thread begins."""
        return self.name in _BASE_NAMES or bool(
            _BASE_FILES.match(self.file) and not _WAITING_NAMES.fullmatch(self.name)
        )

    @property
    def is_waiting(self) -> bool:
        """Whether it belongs to what functions wait by."""
        return bool(
            _WAITING_FILES.match(self.file)
            or _WAITING_NAMES.fullmatch(self.name)
            or (self.name, self.file) in _WAITING_PLACES
        )


def frames_of(trace: Iterable[drgn.StackFrame], source: Path | None) -> list[StackFrame]:
    """Return the kernel's frames of a stack, innermost first.

    :param source: the directory of the kernel's source in the debug information.
    """
    frames: list[StackFrame] = []
    for frame in trace:
        try:
            pc = frame.pc
        except LookupError:
            pc = 0
        if pc < _FIRST_KERNEL_ADDRESS or len(frames) == _MAX_FRAMES:
            break
        try:
            file, line, _ = frame.source()
            file = file.removeprefix(f"{source}/").removeprefix("./")
        except LookupError:
            file, line = "", 0
        try:
            sp = frame.sp
        except LookupError:
            sp = 0
        frames.append(StackFrame(frame.name or hex(pc), file, line, sp, frame.interrupted))
    return frames


def place_of(frames: Sequence[StackFrame]) -> StackFrame | None:
    """Return the frame that waits or loops, without what it waits by; None for an empty stack."""
    last: StackFrame | None = None
    for frame in frames:
        if frame.is_base:
            return last or frame
        last = frame
        if not frame.is_waiting:
            return frame
    return last


def lines_of(frames: Sequence[StackFrame], limit: int) -> list[str]:
    """Return a stack in lines, the scheduler's own frames left out.

    :param limit: frames that are shown.
    """
    inner = 0
    while inner < len(frames) and frames[inner].file.startswith("kernel/sched/core.c"):
        inner += 1
    shown = frames[inner if inner < len(frames) else 0 :]
    lines = [f"  #{level} {frame}" for level, frame in enumerate(shown[:limit])]
    return [*lines, "  …"] if len(shown) > limit else lines


def stack_of(task: drgn.Object) -> tuple[int, int]:
    """Return the address and the size of a task's kernel stack."""
    size = _THREAD_SIZE
    # With CONFIG_VMAP_STACK (include/linux/sched.h); the first task's is not among them.
    with contextlib.suppress(AttributeError):
        if area := task.stack_vm_area:
            size = area.nr_pages.value_() * _PAGE_SIZE
    return task.stack.value_(), size
