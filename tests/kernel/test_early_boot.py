"""`kgdboc_earlycon`: kgdb on a boot console, before most of the kernel is initialised."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest

from pytest_kgdb.kernel import Kernel

pytestmark = pytest.mark.kgdb(append="kgdboc_earlycon", timeout=60, stub="kgdb")
EARLY = pytest.mark.kgdb(at="kgdbwait")


@EARLY
def test_where_it_waits(kgdb: Any) -> None:
    assert kgdb.stop.reason == "int3"
    functions = [frame.function for frame in kgdb.stop.backtrace()]
    assert {"kgdboc_earlycon_init", "setup_arch", "start_kernel"} <= set(functions)
    assert kgdb.stop.task.comm == "swapper"
    assert kgdb.evaluate("system_state") == 0  # include/linux/kernel.h, SYSTEM_BOOTING
    assert "KGDB: Waiting for connection from remote gdb..." in kgdb.dmesg()


@EARLY
@pytest.mark.parametrize(
    "function",
    [
        "setup_per_cpu_areas",
        "trap_init",
        "kmem_cache_init",
        "sched_init",
        "init_IRQ",
        "vfs_caches_init",
        "kernel_init",
    ],
)
def test_stops_on_the_way_up(kgdb: Any, kgdb_kernel: Kernel, function: str) -> None:
    """The kernel prints on the debugger's line meanwhile: what looks like a packet is none."""
    with contextlib.ExitStack() as stack:
        if function == "vfs_caches_init" and kgdb_kernel.config.get("X86_KERNEL_IBT") == "y":
            # It seals ENDBR before that, and finds an int3 (arch/x86/kernel/alternative.c).
            stack.enter_context(kgdb.expect_splat("apply_seal_endbr", "WARN"))
        stop_on_the_way_up(kgdb, function)


def stop_on_the_way_up(kgdb: Any, function: str) -> None:
    breakpoint_ = kgdb.breakpoint(function)
    stop = kgdb.cont()
    assert (stop.reason, stop.breakpoint) == ("breakpoint", breakpoint_)
    assert stop.frame.function == function
    assert kgdb.next().reason == "step"
    breakpoint_.delete()
    kgdb.breakpoint("run_init_process")
    assert kgdb.cont().frame.args["init_filename"].string() == "/init"


@EARLY
def test_a_spy_on_what_kgdbwait_is_too_late_for(kgdb: Any) -> None:
    with kgdb.spy("register_console", collect=["newcon->name"]) as registered:
        kgdb.breakpoint("run_init_process", temporary=True)
        kgdb.cont()
    assert [call["newcon->name"] for call in registered.calls][-1] == "ttyS"


@pytest.mark.parametrize("time", [1, 2])
def test_a_shell_as_always(kgdb: Any, time: int) -> None:
    log = kgdb.dmesg()
    assert "KGDB: Replacing I/O driver kgdboc_earlycon with kgdboc" in log
    assert kgdb.run("echo $((40 + 2))").output == "42\n"
    kgdb.breakpoint("do_sys_openat2")
    kgdb.type("cat /proc/uptime")
    assert kgdb.cont().frame.args["filename"].string() in ("/proc/uptime", "/etc/ld.so.cache")
    assert kgdb.finish().return_value >= 0


@EARLY
def test_an_interrupt_before_the_console_is_open(kgdb: Any) -> None:
    kgdb.resume()
    assert kgdb.interrupt().reason == "interrupt"
    assert kgdb.run("echo alive").output == "alive\n"


@EARLY
def test_a_file_for_a_kernel_that_is_to_boot_first(kgdb: Any, tmp_path: Path) -> None:
    """The drgn program is made before the kernel has described its memory."""
    assert kgdb.program["system_state"].value_() == 0
    (tmp_path / "file").write_bytes(bytes(range(256)) * 400)
    kgdb.put(tmp_path / "file", "/run/file")
    kgdb.get("/run/file", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == (tmp_path / "file").read_bytes()


def test_a_file_behind_that_test(kgdb: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"text")
    kgdb.put(tmp_path / "file", "/run/file")
    assert kgdb.run("cat /run/file").output == "text"


@pytest.mark.kgdb(smp=2)
def test_two_cpus(kgdb: Any) -> None:
    assert kgdb.run("nproc").output == "2\n"
    kgdb.resume()
    assert kgdb.interrupt().reason == "interrupt"
