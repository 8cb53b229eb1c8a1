"""Breakpoints on a real kernel: their options, and where they may not be."""

from __future__ import annotations

import contextlib
import re

import pytest

from pytest_kgdb.errors import KgdbError, TimeoutError
from pytest_kgdb.handle import attachment_of

OPEN = "do_sys_openat2"


def test_printk_is_a_function_on_every_kernel(kgdb):
    with kgdb.breakpoint("printk") as printk:
        kgdb.type("echo h > /proc/sysrq-trigger")
        stop = kgdb.cont()
        assert stop.breakpoint is printk
        assert stop.frame.args["fmt"].string()


def test_a_file_and_line(kgdb):
    kgdb.breakpoint(OPEN, temporary=True)
    kgdb.type("cat /proc/version; cat /proc/version")
    line = kgdb.cont().frame.line
    with kgdb.breakpoint(f"fs/open.c:{line}"):
        assert kgdb.cont().frame.line == line


def test_explicit_locations(kgdb):
    with kgdb.breakpoint("-function vfs_read", condition="count == 17") as read:
        assert read.location == "-function vfs_read"
        kgdb.type("dd if=/dev/zero of=/dev/null bs=17 count=1")
        assert kgdb.cont().breakpoint is read
    assert kgdb.until("-q -function ksys_read").frame.function == "ksys_read"
    line = kgdb.stop.frame.line
    with kgdb.breakpoint(f"-source fs/read_write.c -line {line}") as there:
        assert there.address is not None
    entry = kgdb.evaluate("(unsigned long)copy_process")
    with kgdb.breakpoint("-function copy_process -label fork_out") as label:
        assert label.address != entry
    with kgdb.spy("-function vfs_write") as spy:
        kgdb.run("echo x")
    assert spy.count
    with pytest.raises(KgdbError, match="no_such_function"):
        kgdb.breakpoint("-function no_such_function")
    kgdb.breakpoint("-function demo_init", pending=True, condition="1 == 1").delete()


@pytest.mark.parametrize("location", ["-p", "-p vfs_read", "-pfoo", "-probe-stap x", "-label out"])
def test_no_gdb_dies_of_a_location(kgdb, location):
    for use in (kgdb.breakpoint, kgdb.until, kgdb.spy, lambda place: kgdb.override(place, 0)):
        with pytest.raises(KgdbError, match=f"no breakpoint at {location}: "):
            use(location)
    with contextlib.suppress(KgdbError):  # it may wait for a module
        kgdb.execute(f"break {location}")
    for row in attachment_of(kgdb).breakpoints.rows():
        kgdb.execute(f"condition {row.number} 1 == 1")
    assert kgdb.run("echo alive").output == "alive\n"


def test_an_address(kgdb):
    address = int(kgdb.evaluate(f"(unsigned long)&{OPEN}"))
    with kgdb.breakpoint(f"*{address:#x}") as there:
        assert there.address == address
        kgdb.type("cat /proc/version")
        assert kgdb.cont().frame.address == address


@pytest.mark.parametrize("hardware", [False, True])
@pytest.mark.parametrize("place", [f"*{OPEN}+1", f" *({OPEN} + 1)", "*clear_page_erms+1"])
def test_an_address_within_an_instruction(kgdb, place, hardware):
    """An int3 there would make another instruction of it."""
    with pytest.raises(
        KgdbError, match=r"is within an instruction, '\w+.*', which begins at 0x\w+; "
    ):
        kgdb.breakpoint(place, hardware=hardware)
    with pytest.raises(KgdbError, match="is within an instruction"):
        kgdb.until(place)
    assert kgdb.execute("info breakpoints").startswith("No breakpoints")
    assert kgdb.run("echo fine").output == "fine\n"


def test_each_instruction_has_its_address(kgdb):
    offsets = re.findall(r"<\+(\d+)>:", kgdb.execute(f"disassemble {OPEN}"))
    for offset in offsets:
        kgdb.breakpoint(f"*({OPEN}+{offset})").delete()


def test_a_condition_in_the_location(kgdb):
    """As gdb's own `break` takes it."""
    refused = r"(?s)not part of the location.*condition=\"count == 17\""
    for location in ("vfs_read if count == 17", "nosuch if count == 17"):
        for pending in (False, True):
            with pytest.raises(KgdbError, match=refused):
                kgdb.breakpoint(location, pending=pending)
    with pytest.raises(KgdbError, match=r"(?s)no spy on vfs_read if count == 17: a condition"):
        kgdb.spy("vfs_read if count == 17")
    with pytest.raises(KgdbError, match=r"(?s)no override on vfs_read if count == 17.*when="):
        kgdb.override("vfs_read if count == 17", 0)


def test_a_condition(kgdb):
    with kgdb.breakpoint("vfs_read", condition="count == 17") as read:
        assert read.condition == "count == 17"
        kgdb.type("cat /proc/version; dd if=/dev/zero of=/dev/null bs=17 count=1")
        stop = kgdb.cont()
        assert stop.frame.args["count"] == 17
    assert read.hits == 1


def test_an_ignore_count(kgdb):
    with kgdb.breakpoint("vfs_read", condition="count == 17", ignore_count=2):
        kgdb.type("for i in 1 2 3; do dd if=/dev/zero of=/dev/null bs=17 count=$i; done")
        assert kgdb.cont().task.comm == "dd"


def test_a_temporary_one_is_gone_after_its_hit(kgdb):
    once = kgdb.breakpoint(OPEN, temporary=True)
    kgdb.type("cat /proc/version; cat /proc/version; echo done")
    assert kgdb.cont().breakpoint is once
    assert once.hits == 1
    assert not once.enabled
    kgdb.resume()
    kgdb.console.expect_exact("done", timeout=20)


def test_disabled_and_enabled_again(kgdb):
    opened = kgdb.breakpoint(OPEN)
    opened.enabled = False
    assert not opened.enabled
    assert kgdb.run("cat /proc/version").status == 0
    assert opened.hits == 0
    opened.enabled = True
    kgdb.type("cat /proc/version")
    assert kgdb.cont().breakpoint is opened
    opened.delete()
    opened.delete()
    assert "deleted" in repr(opened)
    with pytest.raises(KgdbError, match="was deleted"):
        opened.enabled = True


def test_deleting_one_while_the_kernel_runs(kgdb):
    opened = kgdb.breakpoint(OPEN)
    kgdb.resume()
    opened.delete()
    assert not kgdb.stopped
    assert kgdb.run("cat /proc/version").status == 0


def test_a_hardware_breakpoint_is_hit(kgdb):
    with kgdb.breakpoint(OPEN, hardware=True) as opened:
        kgdb.type("cat /proc/version")
        stop = kgdb.cont()
        assert stop.breakpoint is opened
        assert stop.frame.function == OPEN


@pytest.mark.parametrize("smp", [1, pytest.param(2, marks=pytest.mark.kgdb(smp=2))])
def test_watchpoints_name_the_writer(kgdb, smp):
    with (
        kgdb.watchpoint("panic_on_oops") as oops,
        kgdb.watchpoint("panic_timeout") as timeout,
        kgdb.watchpoint("init_task.comm[0]") as never,
    ):
        for value in (1, 2, 3):
            kgdb.type(f"echo {value} > /proc/sys/kernel/panic_on_oops")
            stop = kgdb.cont()
            assert stop.reason == "watchpoint"
            assert stop.breakpoint is oops
            assert kgdb.evaluate("panic_on_oops") == value
            writers = [frame.function for frame in stop.backtrace()]
            assert "proc_dointvec" in "".join(name or "" for name in writers)
        kgdb.type("echo 7 > /proc/sys/kernel/panic")
        assert kgdb.cont().breakpoint is timeout
    assert (oops.hits, timeout.hits, never.hits) == (3, 1, 0)
    assert kgdb.run("cat /proc/sys/kernel/panic").output == "7\n"


def test_a_read_watchpoint(kgdb):
    with kgdb.watchpoint("panic_on_oops", access="read") as read:
        kgdb.type("cat /proc/sys/kernel/panic_on_oops")
        stop = kgdb.cont()
        assert stop.reason == "watchpoint"
        assert stop.breakpoint is read


def test_a_watchpoint_on_what_an_argument_points_at(kgdb):
    kgdb.breakpoint("do_filp_open", temporary=True)
    kgdb.type("cat /proc/version")
    kgdb.cont()
    with kgdb.watchpoint("pathname->refcnt") as count:
        assert kgdb.cont().breakpoint is count


def test_what_cannot_be_watched(kgdb):
    with pytest.raises(KgdbError, match="write, read, access"):
        kgdb.watchpoint("panic_on_oops", access="rw")
    with pytest.raises(KgdbError, match="16 bytes; a watchpoint has 1, 2, 4, 8"):
        kgdb.watchpoint("init_task.comm")
    with pytest.raises(KgdbError, match="not located in memory"):
        kgdb.watchpoint("1 + 1")


def test_hardware_breakpoints_fire_each_time(kgdb):
    with kgdb.breakpoint(OPEN, hardware=True) as opened:
        kgdb.type("for i in 1 2 3 4 5; do cat /proc/version; done")
        for number in range(1, 6):
            assert kgdb.cont().breakpoint is opened
            assert opened.hits == number


@pytest.mark.kgdb(smp=2)
def test_hardware_breakpoints_on_two_cpus(kgdb):
    """Both come to it at once, now and then."""
    for _ in range(2):
        kgdb.run("(while :; do cat /proc/version; done) >/dev/null 2>&1 &")
    with kgdb.breakpoint(OPEN, hardware=True) as opened:
        for _ in range(30):
            assert kgdb.cont().breakpoint is opened
    assert kgdb.run("echo alive").output == "alive\n"


@pytest.mark.kgdb(smp=2)
@pytest.mark.parametrize("hardware", [True, False])
def test_each_call_on_two_cpus_is_one_hit(kgdb, hardware):
    """Its first instruction is not emulated: while one CPU steps off it, the other comes there."""
    calls = kgdb.breakpoint("version_proc_show", hardware=hardware)
    end = kgdb.breakpoint("uptime_proc_show")
    loop = "(i=0; while [ $i -lt 25 ]; do cat /proc/version; i=$((i+1)); done) >/dev/null 2>&1"
    kgdb.type(f"{loop} & {loop} & wait; cat /proc/uptime")
    while (stop := kgdb.cont()).breakpoint is calls:
        pass
    assert stop.breakpoint is end
    assert calls.hits == 50


def test_many_breakpoints_at_once(kgdb):
    names = [
        "vfs_read", "vfs_write", "vfs_open", "do_filp_open", "do_exit", "do_sys_openat2",
        "vfs_fstatat", "ksys_read", "ksys_write",
    ]  # fmt: skip
    breakpoints = [kgdb.breakpoint(name) for name in names]
    kgdb.type("while :; do cat /proc/version; done")
    seen = {kgdb.cont().breakpoint.location for _ in range(12)}
    assert len(seen) >= 4
    assert sum(point.hits for point in breakpoints) == 12


@pytest.mark.kgdb(at="kgdbwait")
def test_init_text_is_welcome_early(kgdb):
    with kgdb.breakpoint("console_on_rootfs"):
        assert kgdb.cont().frame.function == "console_on_rootfs"


def test_init_text_is_refused_when_it_is_gone(kgdb):
    with pytest.raises(KgdbError, match=r"\.init\.text.*freed.*kgdbwait"):
        kgdb.breakpoint("console_on_rootfs")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("exc_page_fault", "noinstr"),
        ("asm_exc_int3", "entry code"),
        ("kgdb_handle_exception", "kprobe blocklist"),
        ("notify_die", "kprobe blocklist"),
    ],
)
@pytest.mark.kgdb(stub="kgdb")
def test_where_no_breakpoint_may_be(kgdb, name, reason):
    with pytest.raises(KgdbError, match=reason):
        kgdb.breakpoint(name)
    assert kgdb.run("echo fine").output == "fine\n"


def test_a_name_that_does_not_exist(kgdb):
    with pytest.raises(KgdbError, match=r"(?s)not defined.*did you mean do_sys_openat2") as caught:
        kgdb.breakpoint("do_sys_openat3")
    assert "Traceback" not in str(caught.value)


def test_inserting_while_the_kernel_runs_is_refused(kgdb):
    kgdb.resume()
    with pytest.raises(KgdbError, match=r"needs a stopped kernel.*\n.*interrupt"):
        kgdb.breakpoint(OPEN)


def test_a_newline_begins_no_other_command(kgdb):
    with pytest.raises(KgdbError, match="one line"):
        kgdb.breakpoint("vfs_read\nshell touch /tmp/kgdb-must-not-be")
    with pytest.raises(KgdbError, match="one line"):
        kgdb.assign("panic_timeout", "1\n-gdb-exit")
    assert kgdb.evaluate("panic_timeout") == 0


def test_one_that_cannot_be_inserted_leaves_the_kernel_usable(kgdb):
    with pytest.raises(KgdbError, match="Cannot access memory at address 0x10"):
        kgdb.breakpoint("*0x10")
    assert kgdb.run("echo still here").output == "still here\n"


def test_commands_of_the_prompt(kgdb, tmp_path):
    opened = kgdb.breakpoint(OPEN)
    script = tmp_path / "commands.gdb"
    script.write_text(f'commands {opened.number}\nsilent\nprintf "dfd=%d\\n", dfd\nend\n')
    kgdb.execute(f"source {script}")
    assert [line.partition(",")[0] for line in opened.commands] == ["silent", 'printf "dfd=%d\\n"']
    assert [row.number for row in attachment_of(kgdb).breakpoints.refresh()] == [opened.number]
    kgdb.type("cat /proc/version")
    assert kgdb.cont().breakpoint is opened


FILES = "while :; do cat /proc/version; done > /dev/null &"


@pytest.mark.parametrize("first", ["hardware", "other"])
@pytest.mark.parametrize("other", ["breakpoint", "temporary", "spy"])
def test_a_hardware_breakpoint_and_another_at_its_address(kgdb, first, other):
    """Both count, and the one that stays goes on alone."""

    def make_other():
        if other == "spy":
            return kgdb.spy(OPEN)
        return kgdb.breakpoint(OPEN, temporary=other == "temporary")

    second = make_other() if first == "other" else None
    hardware = kgdb.breakpoint(OPEN, hardware=True)
    second = second or make_other()
    kgdb.type(FILES)
    for hits in (1, 2, 3):
        assert kgdb.cont().frame.function == OPEN
        assert hardware.hits == hits
    if other != "temporary":
        assert (second.count if other == "spy" else second.hits) == 3
        second.delete()
    for hits in (4, 5):
        assert kgdb.cont().breakpoint is hardware
        assert hardware.hits == hits
    hardware.delete()
    with pytest.raises(TimeoutError):
        kgdb.cont(timeout=1)


def test_what_stays_when_the_hardware_breakpoint_goes(kgdb):
    hardware, second = kgdb.breakpoint(OPEN, hardware=True), kgdb.breakpoint(OPEN)
    kgdb.type(FILES)
    kgdb.cont()
    hardware.delete()
    for hits in (2, 3, 4):
        assert kgdb.cont().breakpoint is second
        assert second.hits == hits
    assert hardware.hits == 1


@pytest.mark.parametrize("condition", ["", " "])
def test_an_empty_condition(kgdb, condition):
    with pytest.raises(KgdbError, match="empty condition"):
        kgdb.breakpoint("vfs_read", condition=condition)
    with kgdb.breakpoint("vfs_read", condition="count == 17") as read:
        with pytest.raises(KgdbError, match="empty condition"):
            read.condition = condition
        assert read.condition == "count == 17"
        read.condition = None
        assert read.condition is None
