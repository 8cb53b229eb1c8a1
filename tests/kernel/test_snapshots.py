"""A test's own snapshots, on a real kernel: back to them from anywhere, breakpoints as they are."""

from __future__ import annotations

import re
import time

import pytest

from pytest_kgdb.errors import KgdbError, StaleError

EARLY = pytest.mark.kgdb(at="kgdbwait")


def jiffies(kgdb) -> int:
    return int(kgdb.evaluate("jiffies_64"))


def test_back_and_forth(kgdb):
    kgdb.run("echo one >/tmp/file")
    kgdb.snapshot("one")
    then = jiffies(kgdb)
    kgdb.run("echo two >/tmp/file; mkdir /tmp/more")
    kgdb.snapshot("two")
    for _ in range(3):
        kgdb.restore("one")
        assert kgdb.stopped
        assert jiffies(kgdb) == then
        assert kgdb.run("cat /tmp/file; ls -1 /tmp").output == "one\nfile\n"
        kgdb.restore("two")
        assert kgdb.run("cat /tmp/file; ls -1 /tmp").output == "two\nfile\nmore\n"


def test_names_end_with_the_test(kgdb):
    with pytest.raises(KgdbError, match="there is no snapshot 'one' of this test") as caught:
        kgdb.restore("one")
    assert caught.value.hint == "snapshot('one') makes one"
    kgdb.snapshot("mine")
    with pytest.raises(KgdbError, match="no snapshot 'other'") as caught:
        kgdb.restore("other")
    assert caught.value.hint == "there are mine"


def test_a_name_again(kgdb):
    kgdb.snapshot("here")
    kgdb.run("echo later >/tmp/file")
    kgdb.snapshot("here")
    kgdb.run("rm /tmp/file")
    kgdb.restore("here")
    assert kgdb.run("cat /tmp/file").output == "later\n"


@pytest.mark.parametrize("name", ["", "a b", "-x", "a\nb", "x" * 101])
def test_names_that_qemu_would_misread(kgdb, name):
    with pytest.raises(KgdbError, match="cannot name a snapshot"):
        kgdb.snapshot(name)


@pytest.mark.parametrize("name", ["ready", "kgdbwait"])
def test_names_of_the_points_are_free(kgdb, name):
    kgdb.run("echo mine >/tmp/mine")
    kgdb.snapshot(name)
    kgdb.run("rm /tmp/mine")
    kgdb.restore(name)
    assert kgdb.run("cat /tmp/mine").output == "mine\n"


def test_and_are_not_in_the_points_way(kgdb):
    assert kgdb.run("cat /tmp/mine").status == 1


def test_a_running_kernel_runs_on(kgdb):
    kgdb.resume()
    kgdb.snapshot("running")
    assert not kgdb.stopped
    assert kgdb.run("echo there").output == "there\n"
    kgdb.restore("running")
    assert kgdb.stopped
    assert kgdb.stop.reason == "interrupt"
    assert kgdb.run("echo there").output == "there\n"


def test_what_was_read_is_stale(kgdb):
    kgdb.snapshot("here")
    stop, value = kgdb.stop, kgdb.evaluate("init_task")
    program = kgdb.program
    before = program["jiffies_64"].value_()
    kgdb.run("true")
    kgdb.restore("here")
    with pytest.raises(StaleError):
        _ = stop.frame
    with pytest.raises(StaleError):
        _ = value["pid"]
    assert kgdb.program["jiffies_64"].value_() == before


LONG = "x" * 200  # more than QEMU reads ahead for the port


@pytest.mark.parametrize("at", ["ready", pytest.param("kgdbwait", marks=EARLY)])
def test_what_was_typed_before_is_read_after(kgdb, at):
    """Each time: the kernel has read none of it."""
    kgdb.type(f"dd if=/dev/zero of=/dev/null bs=17 count=1; : {LONG}")
    kgdb.type(f"dd if=/dev/zero of=/dev/null bs=19 count=1; : {LONG}")
    kgdb.snapshot("typed")
    for count in (17, 19, 17):
        kgdb.breakpoint("vfs_read", condition=f"count == {count}", temporary=True)
        assert kgdb.cont().frame.args["count"] == count
        kgdb.restore("typed")
    kgdb.breakpoint("vfs_read", condition="count == 19", temporary=True)
    kgdb.execute("continue")
    assert kgdb.stop.frame.args["count"] == 19
    assert kgdb.run("echo alive").output == "alive\n"


def test_what_was_typed_after_is_forgotten(kgdb):
    kgdb.snapshot("before")
    kgdb.type("echo typed >/tmp/file")
    kgdb.restore("before")
    assert kgdb.run("cat /tmp/file").status == 1


class TestBreakpoints:
    """Those of now hold, whichever there were then."""

    def test_one_that_was_there_is_there(self, kgdb):
        seen = kgdb.breakpoint("do_sys_openat2")
        kgdb.snapshot("here")
        for hits in (1, 2, 3):
            kgdb.type("cat /proc/version")
            stop = kgdb.cont()
            assert (stop.reason, stop.breakpoint) == ("breakpoint", seen)
            assert seen.hits == hits
            kgdb.restore("here")
        kgdb.type("cat /proc/version")
        assert kgdb.cont().breakpoint is seen

    def test_at_a_breakpoint(self, kgdb):
        def name() -> str:
            return kgdb.stop.frame.args["pathname"]["name"].string()

        with kgdb.breakpoint("do_filp_open") as seen:
            kgdb.type("cat /no/such/file")
            kgdb.cont()
            while name() != "/no/such/file":
                kgdb.cont()
            kgdb.snapshot("at")
            for _ in range(3):
                assert int(kgdb.finish().return_value) & 0xFFFFFFFF == 0xFFFFFFFE
                kgdb.restore("at")
                assert (kgdb.stop.reason, kgdb.stop.breakpoint) == ("breakpoint", seen)
                assert kgdb.stop.frame.function == "do_filp_open"
                assert (name(), kgdb.stop.task.comm) == ("/no/such/file", "cat")
        assert kgdb.run("echo the shell is there").output == "the shell is there\n"

    def test_one_that_is_deleted_stays_deleted(self, kgdb):
        seen = kgdb.breakpoint("do_sys_openat2")
        kgdb.snapshot("here")
        seen.delete()
        kgdb.restore("here")
        assert "Linux" in kgdb.run("cat /proc/version").output
        assert seen.hits == 0

    def test_one_that_is_new_is_there(self, kgdb):
        kgdb.snapshot("here")
        seen = kgdb.breakpoint("do_sys_openat2")
        kgdb.restore("here")
        kgdb.type("cat /proc/version")
        assert kgdb.cont().breakpoint is seen

    def test_one_that_is_disabled_stays_disabled(self, kgdb):
        seen = kgdb.breakpoint("do_sys_openat2")
        kgdb.snapshot("here")
        seen.enabled = False
        kgdb.restore("here")
        assert "Linux" in kgdb.run("cat /proc/version").output
        seen.enabled = True
        kgdb.type("cat /proc/version")
        assert kgdb.cont().breakpoint is seen

    def test_conditions_are_kept(self, kgdb):
        seen = kgdb.breakpoint("do_sys_openat2", condition="0")
        kgdb.snapshot("here")
        kgdb.restore("here")
        assert "Linux" in kgdb.run("cat /proc/version").output
        assert seen.hits == 0

    def test_the_snapshot_itself_has_none(self, kgdb):
        seen = kgdb.breakpoint("do_sys_openat2")
        text = int(kgdb.evaluate("(unsigned long)&do_sys_openat2"))
        before = kgdb.read(text, 4)
        kgdb.snapshot("here")
        assert "do_sys_openat2" in kgdb.execute("info breakpoints")
        seen.delete()
        kgdb.restore("here")
        kgdb.resume()
        kgdb.interrupt()
        assert kgdb.read(text, 4) == before
        # What kgdb has in its table it would insert again (kernel/debug/debug_core.c).
        states = {entry.state.value_() for entry in kgdb.program["kgdb_break"]}
        names = kgdb.program.type("enum kgdb_bpstate").enumerators
        live = {e.value for e in names if e.name in ("BP_SET", "BP_ACTIVE")}
        assert not states & live

    def test_out_of_a_running_kernel(self, kgdb):
        seen = kgdb.breakpoint("do_sys_openat2", condition='$_streq(filename, "no") && 0')
        kgdb.snapshot("here")
        kgdb.resume()
        kgdb.restore("here")
        seen.condition = None
        kgdb.type("cat /proc/version")
        assert kgdb.cont().breakpoint is seen

    def test_a_watchpoint(self, kgdb):
        watched = kgdb.watchpoint("panic_on_oops")
        kgdb.snapshot("here")
        for _ in range(2):
            kgdb.type("echo 1 > /proc/sys/kernel/panic_on_oops")
            stop = kgdb.cont()
            assert (stop.reason, stop.breakpoint) == ("watchpoint", watched)
            kgdb.restore("here")
            assert kgdb.evaluate("panic_on_oops") == 0
        watched.delete()
        assert kgdb.run("echo 1 > /proc/sys/kernel/panic_on_oops").status == 0

    def test_a_watchpoint_out_of_a_running_kernel(self, kgdb):
        watched = kgdb.watchpoint("panic_on_oops")
        kgdb.snapshot("here")
        kgdb.resume()
        kgdb.restore("here")
        kgdb.type("echo 1 > /proc/sys/kernel/panic_on_oops")
        assert kgdb.cont().breakpoint is watched


@pytest.mark.parametrize("way", ["hit", "condition"])
def test_while_gdb_steps_over_a_breakpoint(kgdb, way):
    """Of another task than that of the snapshot, and over a call, which is not emulated."""
    kgdb.snapshot("before")
    calls = re.findall(r"(0xf\w+) <\+\d+>:\s+call ", kgdb.execute("disassemble vfs_read"))
    for milliseconds in range(10):
        kgdb.resume()
        kgdb.run("dd if=/dev/zero of=/dev/null bs=1 2>/dev/null &")
        kgdb.interrupt()
        condition = None if way == "hit" else '$_strlen("abc") == 2'
        breakpoint = kgdb.breakpoint(f"*{calls[0]}", condition=condition)
        if way == "hit":
            kgdb.cont()
        kgdb.resume()
        time.sleep(milliseconds / 1000)
        kgdb.restore("before")
        breakpoint.delete()


def test_out_of_a_panic(kgdb):
    kgdb.snapshot("before")
    for _ in range(2):
        kgdb.type("echo c > /proc/sysrq-trigger")
        assert kgdb.cont().reason == "panic"
        kgdb.restore("before")
    assert kgdb.run("echo alive").output == "alive\n"


def test_into_a_panic(kgdb):
    kgdb.type("echo c > /proc/sysrq-trigger")
    kgdb.cont()
    kgdb.snapshot("dead")
    kgdb.resume()
    kgdb.restore("dead")
    assert (kgdb.stop.reason, kgdb.stop.message) == ("panic", "sysrq triggered crash")
    assert "panic" in [frame.function for frame in kgdb.stop.backtrace()]


@pytest.mark.kgdb(smp=2)
def test_on_two_processors(kgdb):
    seen = kgdb.breakpoint("do_sys_openat2")
    kgdb.snapshot("here")
    for _ in range(5):
        kgdb.type("cat /proc/version")
        assert kgdb.cont().breakpoint is seen
        kgdb.restore("here")
    seen.delete()
    assert kgdb.run("nproc").output == "2\n"


@pytest.mark.kgdb(isolation="reboot")
def test_on_a_machine_of_ones_own(kgdb):
    kgdb.snapshot("here")
    kgdb.run("echo x > /tmp/x")
    kgdb.restore("here")
    assert kgdb.run("ls /tmp").output == ""


@pytest.mark.kgdb(at="kgdbwait")
def test_in_early_boot(kgdb):
    with kgdb.breakpoint("run_init_process", temporary=True):
        kgdb.cont()
    kgdb.snapshot("init")
    kgdb.restore("init")
    assert kgdb.stop.frame.function == "run_init_process"
    kgdb.resume()
    kgdb.console.wait_for(b"pytest-kgdb: ready", mark=0, timeout=60)


def test_spies_and_overrides_hold_as_breakpoints_do(kgdb):
    kgdb.snapshot("before")
    with kgdb.spy("do_sys_openat2") as spy, kgdb.override("do_filp_open", -13):
        kgdb.snapshot("with")
        assert "ermission denied" in kgdb.run("cat /proc/version").output
        seen = spy.count
        assert seen
        kgdb.restore("with")
        assert "ermission denied" in kgdb.run("cat /proc/version").output
        assert spy.count > seen
        kgdb.restore("before")  # they are those of now
        assert "ermission denied" in kgdb.run("cat /proc/version").output
    kgdb.restore("with")
    assert "Linux" in kgdb.run("cat /proc/version").output


def test_the_whole_stop_is_there_again(kgdb):
    with kgdb.watchpoint("panic_on_oops"):
        kgdb.type("echo 7 > /proc/sys/kernel/panic_on_oops")
        kgdb.cont()
    kgdb.snapshot("watched")
    kgdb.type("echo c > /proc/sysrq-trigger")
    assert kgdb.cont().frame.function == "sysrq_handle_crash"
    kgdb.snapshot("panicked")
    kgdb.restore("watched")
    assert (kgdb.stop.reason, kgdb.stop.new) == ("watchpoint", 7)
    kgdb.restore("panicked")
    assert (kgdb.stop.reason, kgdb.stop.frame.function) == ("panic", "sysrq_handle_crash")
    assert kgdb.stop.frame.level > 1
    assert kgdb.execute("frame").startswith(f"#{kgdb.stop.frame.level} ")
