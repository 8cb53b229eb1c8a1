"""Debian's kernel as shipped, through QEMU's stub: what a user's tests would do."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

DRIVERS = Path(__file__).parents[2] / "example_suite/drivers"
OPEN = "do_sys_openat2"


def test_the_kernel(kgdb, kgdb_kernel):
    assert kgdb.run("uname -r").output == f"{kgdb_kernel.release}\n"
    assert kgdb_kernel.is_shipped
    assert ".".join(map(str, kgdb_kernel.version)) in kgdb.run("uname -v").output
    assert kgdb_kernel.version[2] > 0
    assert f"Linux version {kgdb_kernel.release}" in kgdb.dmesg()
    assert "KGDB_SERIAL_CONSOLE" not in kgdb_kernel.config


def test_a_breakpoint_with_lines_of_the_source(kgdb):
    condition = '$_streq((char *)filename, "/etc/passwd") && current->pid > 1'
    with kgdb.breakpoint(OPEN, condition=condition) as at:
        kgdb.type("cat /etc/passwd")
        stop = kgdb.cont()
    assert stop.breakpoint is at
    assert stop.frame.file == "fs/open.c"
    caller = stop.frame.up()
    assert OPEN in caller.source(context=0)
    assert f"{stop.frame.line}\t" in kgdb.execute("list")
    assembler = stop.backtrace()[-1]
    assert (assembler.function, assembler.file) == (
        "entry_SYSCALL_64",
        "arch/x86/entry/entry_64.S",
    )
    assert "do_syscall_64" in assembler.source()


def test_a_spy(kgdb):
    with kgdb.spy(OPEN, collect=["how->flags"], returns=True) as opens:
        kgdb.run("cat /etc/passwd; cat /no/such/file")
    of_cat = [call for call in opens.calls if call.task.comm == "cat"]
    assert [call.args["filename"] for call in of_cat] == ["/etc/passwd", "/no/such/file"]
    assert [call["how->flags"] & 3 for call in of_cat] == [0, 0]
    assert of_cat[0].return_value >= 3
    assert of_cat[1].return_value == -errno.ENOENT


def test_an_override(kgdb):
    with kgdb.override(OPEN, "-EMFILE", when="how->flags & 0x10000", times=1) as override:
        assert "Too many open files" in kgdb.run("ls /proc/self/fd 2>&1").output
    assert override.forced == 1
    assert kgdb.run("ls /proc/self/fd").status == 0


def test_drgn(kgdb):
    program = kgdb.program
    assert program["init_task"].comm.string_() == b"swapper/0"
    comms = [thread.object.comm.string_() for thread in program.threads()]
    assert {b"init", b"kthreadd"} <= set(comms)


def test_modprobe(kgdb):
    """The guest has the modules that were shipped; the host, what gdb and drgn need of them."""
    assert kgdb.run("modprobe dummy numdummies=2").status == 0
    assert "dummy1" in kgdb.run("ls /sys/class/net").output
    assert kgdb.modules["dummy"].state == "live"
    assert kgdb.evaluate("numdummies") == 2
    assert kgdb.program["numdummies"].value_() == 2
    assert kgdb.run("ip addr add 10.0.0.1/24 dev dummy0; ip link set dummy0 up").status == 0
    with kgdb.breakpoint("dummy_xmit") as xmit:
        kgdb.type("ping -c 1 -W 1 10.0.0.2")
        stop = kgdb.cont()
    assert stop.breakpoint is xmit
    assert stop.frame.file == "drivers/net/dummy.c"


def test_what_a_module_needs_is_loaded_first(kgdb):
    assert kgdb.run("modprobe virtio_blk").status == 0
    assert {"virtio", "virtio_ring", "virtio_blk"} <= {module.name for module in kgdb.modules}
    kgdb.modules.load("virtio_pci")
    assert "virtio_pci" in kgdb.modules


def test_init_of_a_module(kgdb):
    kgdb.modules.load_stopped("dummy", numdummies=2)
    with kgdb.breakpoint("dummy_init_one") as init_one:
        stop = kgdb.cont()
        assert stop.breakpoint is init_one
        assert stop.frame.up().function == "dummy_init_module"
    assert kgdb.run("cat /sys/module/dummy/initstate").output == "live\n"


@pytest.mark.kgdb(qemu_arg="-device edu")
def test_a_driver_that_is_built_against_the_shipped_headers(kgdb):
    module = kgdb.modules.load_stopped(DRIVERS / "edu")
    with kgdb.breakpoint("edu_probe") as probe:
        stop = kgdb.cont()
        assert stop.breakpoint is probe
        assert "edu_probe" in stop.frame.source(context=3)
    assert kgdb.run(f"cat /sys/module/{module.name}/initstate").output == "live\n"
    assert "E" in kgdb.run(f"cat /sys/module/{module.name}/taint").output  # not signed
    assert not kgdb.splats


def test_steps(kgdb):
    with kgdb.breakpoint(OPEN, temporary=True):
        kgdb.type("cat /etc/passwd")
        kgdb.cont()
    line = kgdb.stop.frame.line
    assert kgdb.next().frame.function == OPEN
    assert kgdb.stop.frame.line != line
    assert kgdb.finish().reason == "finished"


def test_drgns_stack_of_the_task_that_stopped(kgdb):
    kgdb.breakpoint("vfs_read", temporary=True)
    kgdb.type("cat /proc/version")
    stop = kgdb.cont()
    names = [frame.name for frame in kgdb.stack_trace(stop.task)]
    assert names[:2] == ["vfs_read", "ksys_read"]
    assert "do_syscall_64" in names


@pytest.mark.kgdb(at="kgdbwait")
def test_before_init(kgdb):
    assert kgdb.stop.frame.function == "start_kernel"
    with kgdb.breakpoint("run_init_process", temporary=True):
        assert kgdb.cont().task.pid == 1
