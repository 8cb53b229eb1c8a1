"""drgn on tasks that run: their stacks, and who panicked."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_kgdb.elf import ElfFile
from pytest_kgdb.errors import KgdbError

UNLISTED = Path(__file__).parent / "modules/unlisted/unlisted.ko"


def read17(kgdb, function="vfs_read"):
    """Stop in a read of 17 bytes by dd."""
    with kgdb.breakpoint(function, condition="count == 17"):
        kgdb.type("dd if=/dev/zero of=/dev/null bs=17 count=1")
        return kgdb.cont()


@pytest.mark.kgdb(smp=2)
def test_the_stack_of_each_cpu(kgdb):
    from drgn.helpers.linux.sched import cpu_curr, idle_task

    stop = read17(kgdb)
    program = kgdb.program
    for trace in (
        program.stack_trace(stop.task.pid),
        program.thread(stop.task.pid).stack_trace(),
        program.stack_trace(cpu_curr(program, stop.cpu)),
    ):
        assert trace[0].name == "vfs_read"
        assert trace[0]["count"] == 17
        assert "entry_SYSCALL_64" in [frame.name for frame in trace]
    # The other CPU was stopped wherever it was.
    other = cpu_curr(program, 1 - stop.cpu)
    names = [frame.name for frame in program.stack_trace(other)]
    if other == idle_task(program, 1 - stop.cpu):
        assert "do_idle" in names


def test_the_stack_follows_the_task(kgdb):
    stop = read17(kgdb)
    program = kgdb.program
    assert program.stack_trace(stop.task.pid)[0].name == "vfs_read"
    stop = kgdb.finish()
    assert kgdb.program is program
    assert program.stack_trace(stop.task.pid)[0].name == "ksys_read"


def test_a_task_in_any_form(kgdb):
    task = read17(kgdb).task
    program = kgdb.program
    for form in (task, task["pid"], task.pid, kgdb.current, kgdb.evaluate("*current")):
        assert kgdb.stack_trace(form)[0].name == "vfs_read"
    ours = kgdb.drgn_object(task)
    for form in (ours, ours.pid, ours[0]):
        assert kgdb.stack_trace(form)[0].name == "vfs_read"
    with pytest.raises(KgdbError, match="no task with pid 99999"):
        kgdb.stack_trace(99999)
    assert program is kgdb.program


def test_nobody_has_panicked(kgdb):
    from drgn.helpers.linux.panic import panic_task

    for question in (lambda: panic_task(kgdb.program), kgdb.program.crashed_thread):
        with pytest.raises(LookupError, match="panic_cpu"):
            question()


@pytest.mark.kgdb(smp=2)
def test_who_panicked(kgdb):
    from drgn.helpers.linux.panic import panic_task

    kgdb.snapshot("alive")
    for name in ("first", "second"):
        kgdb.type(f"printf {name} > /proc/$$/comm; echo c > /proc/sysrq-trigger")
        stop = kgdb.cont()
        assert stop.reason == "panic"
        task = panic_task(kgdb.program)
        assert task.value_() == int(stop.task)
        assert task.comm.string_().decode() == name
        thread = kgdb.program.crashed_thread()
        assert thread.object == task
        assert "sysrq_handle_crash" in [frame.name for frame in thread.stack_trace()]
        kgdb.restore("alive")
        with pytest.raises(LookupError):
            panic_task(kgdb.program)


def test_the_present_time(kgdb):
    from drgn.helpers.linux.timekeeping import ktime_get_real_seconds

    now = int(kgdb.run("date +%s").output)
    assert 0 <= ktime_get_real_seconds(kgdb.program).value_() - now <= 2


def test_the_stack_of_a_module_without_orc(kgdb):
    """By its file's own `.debug_frame`; the kernel's unwinder gives up there."""
    from drgn.helpers.linux.pid import for_each_task

    module = kgdb.modules.load(UNLISTED)
    with ElfFile(module.file) as file:
        assert ".orc_unwind" not in file.section_names
    kgdb.run("echo 1 > /sys/module/unlisted/parameters/wait & sleep 0.1")
    traces = [
        [frame.name for frame in kgdb.stack_trace(task)] for task in for_each_task(kgdb.program)
    ]
    (names,) = [trace for trace in traces if "unlisted_inner" in trace]
    inner = names.index("unlisted_inner")
    assert names[inner : inner + 3] == ["unlisted_inner", "unlisted_outer", "set_wait"]
    assert {"vfs_write", "do_syscall_64"} < set(names[inner:])
