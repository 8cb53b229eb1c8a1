"""A vmcore of a live kernel, as drgn and crash open it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess

import drgn
import pytest
from drgn.helpers.linux.pid import for_each_task
from drgn.helpers.linux.printk import get_dmesg
from drgn.helpers.linux.sched import cpu_curr

from pytest_kgdb.errors import KgdbError


def opened(path, kernel):
    program = drgn.Program()
    program.set_core_dump(path)
    program.load_debug_info([kernel.vmlinux])
    return program


def names(trace):
    return [frame.name for frame in trace]


@pytest.mark.kgdb(smp=2)
def test_a_stopped_kernel(kgdb, kgdb_kernel, tmp_path):
    with kgdb.breakpoint("vfs_read", condition="count == 17"):
        kgdb.type("dd if=/dev/zero of=/dev/null bs=17 count=1")
        stop = kgdb.cont()
    path = kgdb.dump(tmp_path / "vmcore")
    program = opened(path, kgdb_kernel)
    assert program["init_uts_ns"].name.release.string_().decode() == kgdb_kernel.release
    for theirs, ours in zip(
        get_dmesg(program).decode().splitlines(), kgdb.dmesg().splitlines(), strict=True
    ):
        # Of a record of several lines, only the first has a time with drgn.
        assert theirs == ours or ours.endswith(f"] {theirs}")
    tasks = {task.pid.value_(): task.comm.string_() for task in for_each_task(program)}
    assert tasks == {task.pid.value_(): task.comm.string_() for task in for_each_task(kgdb.program)}
    assert tasks[stop.task.pid] == b"dd"
    # The stack begins where kgdb stopped the CPU, not within kgdb.
    task = cpu_curr(program, stop.cpu)
    assert task.pid == stop.task.pid
    trace = program.stack_trace(task)
    assert trace[0].name == "vfs_read"
    assert trace[0]["count"] == 17
    other = names(program.stack_trace(cpu_curr(program, 1 - stop.cpu)))
    assert other
    assert not any("kgdb" in (name or "") for name in other[:1])
    # It changed nothing.
    assert kgdb.stop is stop
    assert stop.frame.function == "vfs_read"
    assert kgdb.run("echo fine").output == "fine\n"


def test_a_running_kernel(kgdb, kgdb_kernel, tmp_path):
    kgdb.type("echo begun; while true; do true; done")
    kgdb.resume()
    kgdb.console.expect("begun")
    program = opened(kgdb.dump(tmp_path / "vmcore"), kgdb_kernel)
    assert not kgdb.stopped
    assert len(list(for_each_task(program))) > 5
    assert program.stack_trace(cpu_curr(program, 0))
    kgdb.interrupt()


def crash_reads(kernel):
    """Whether crash is not older than what it would have to know of the kernel.

    8.0.2, of Debian 12, reads 6.1, and dies on 6.12.
    """
    shown = subprocess.run(["crash", "--version"], capture_output=True, text=True).stdout
    version = re.search(r"^crash (\d+)\.(\d+)\.(\d+)", shown, re.M)
    return kernel.version < (6, 12) or tuple(map(int, version.groups())) > (8, 0, 2)


def test_a_panic(kgdb, kgdb_kernel, tmp_path):
    kgdb.type("echo c > /proc/sysrq-trigger")
    stop = kgdb.cont()
    assert stop.reason == "panic"
    path = kgdb.dump(tmp_path / "vmcore")
    program = opened(path, kgdb_kernel)
    thread = program.crashed_thread()
    assert thread.tid == stop.task.pid
    assert "sysrq_handle_crash" in names(thread.stack_trace())
    # drgn has shown that the file is whole.
    if shutil.which("crash") is None or not crash_reads(kgdb_kernel):
        return
    done = subprocess.run(
        ["crash", "-s", kgdb_kernel.vmlinux, path],
        input="sys\nbt\nlog\nquit\n",
        env={**os.environ, "HOME": str(tmp_path), "TERM": "dumb", "CRASHPAGER": "cat"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    output = done.stdout + done.stderr
    assert f"RELEASE: {kgdb_kernel.release}" in output
    assert 'PANIC: "Kernel panic - not syncing: sysrq triggered crash"' in output
    assert "sysrq_handle_crash at" in output
    assert "sysrq: Trigger a crash" in output


def test_where_it_cannot_be_written(kgdb, tmp_path):
    with pytest.raises(KgdbError, match="cannot be written: No such file or directory"):
        kgdb.dump(tmp_path / "none" / "vmcore")
    assert kgdb.stopped
