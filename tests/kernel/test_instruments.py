"""Instruments on a real kernel: what functions are called with, and made to return."""

from __future__ import annotations

import time

import pytest

from pytest_kgdb.errors import KgdbError
from pytest_kgdb.handle import attachment_of

OPEN = "do_sys_openat2"
READS = "dd if=/dev/zero of=/dev/null bs=17 count=20 2>/dev/null"


def test_a_spy_counts_and_records(kgdb):
    with kgdb.spy("vfs_read", collect=["count == 17", "file->f_path.dentry->d_iname"]) as reads:
        assert kgdb.run(READS).status == 0
        assert kgdb.stopped
    ours = [call for call in reads.calls if call.args["count"] == 17]
    assert len(ours) == 20
    assert reads.count == len(reads.calls)
    assert reads.dropped == 0
    for call in ours:
        assert call.task.comm == "dd"
        assert call.task.pid == ours[0].task.pid > 1
        assert call["count == 17"] == 1
        assert call.collected["file->f_path.dentry->d_iname"] == "zero"
        assert call.args["file"] == ours[0].args["file"] > 1 << 63
        assert call.cpu == 0
    times = [call.time for call in reads.calls]
    assert times == sorted(times)
    assert 0 < times[0] < times[-1] + 0.001 < 600
    assert [call.number for call in reads.calls] == list(range(1, reads.count + 1))


def test_a_spy_that_is_gone_sees_nothing(kgdb):
    with kgdb.spy(OPEN) as opens:
        kgdb.run("cat /proc/version")
    before = opens.count
    assert before >= 1
    assert not opens.active
    kgdb.run("cat /proc/version")
    assert opens.count == before


def test_a_spy_leaves_while_the_kernel_runs(kgdb):
    opens = kgdb.spy(OPEN)
    kgdb.type("for i in $(seq 60); do cat /proc/uptime; done >/dev/null; echo over")
    kgdb.resume()
    deadline = time.monotonic() + 30
    while opens.count < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    opens.delete()
    opens.delete()
    assert not kgdb.stopped
    before = opens.count
    assert 5 <= before < 60
    kgdb.console.expect_exact("over", timeout=60)
    assert kgdb.run("echo fine").output == "fine\n"
    assert opens.count == before


def test_what_calls_return(kgdb):
    with kgdb.spy(OPEN, returns=True) as opens:
        kgdb.run("cat /proc/version; cat /no/such/file")
    assert all(call.returned for call in opens.calls)
    values = [call.return_value for call in opens.calls]
    assert -2 in values
    assert any(value >= 0 for value in values)
    with kgdb.spy(OPEN) as opens:
        kgdb.run("cat /proc/version")
    with pytest.raises(KgdbError, match="returns=True"):
        opens.calls[0].return_value  # noqa: B018


def test_returns_of_calls_that_wait(kgdb):
    """Two tasks sleep in the same function; each return goes to its own call."""
    with kgdb.spy("hrtimer_nanosleep", returns=True) as sleeps:
        kgdb.run("sleep 0.4 & sleep 0.2; wait")
    sleeps_of = {call.task.pid: call for call in sleeps.calls}
    assert len(sleeps_of) == 2
    assert all(call.return_value == 0 for call in sleeps_of.values())


@pytest.mark.parametrize("name", ["do_exit", "do_group_exit"])
def test_a_call_whose_task_ends_does_not_return(kgdb, name):
    """Another task gets its memory, and comes to the same places."""
    with kgdb.spy(name, returns=True) as exits:
        kgdb.run("for i in 1 2 3 4 5 6; do cat /proc/version > /dev/null; done")
    calls = [call for call in exits.calls if call.task.comm == "cat"]
    assert len(calls) == 6
    assert not any(call.returned for call in calls)
    words = rf"of {name}: (?:its task, cat\[\d+\], has ended|it has not returned)"
    for call in calls:
        with pytest.raises(KgdbError, match=words):
            call.return_value  # noqa: B018 # it raises


def test_a_bound_on_what_is_kept(kgdb):
    with kgdb.spy("vfs_read", keep=5) as reads:
        kgdb.run(READS)
    assert len(reads.calls) == 5
    assert reads.count >= 20
    assert reads.dropped == reads.count - 5
    assert reads.calls[-1].number == reads.count


def test_the_cost_of_a_spy(kgdb):
    with kgdb.spy("vfs_read") as reads:
        assert str(reads.cost) == "no call yet"
        kgdb.run("dd if=/dev/zero of=/dev/null bs=17 count=100 2>/dev/null")
    print(reads.cost)
    assert 100 <= reads.cost.calls == reads.count
    assert 0 < reads.cost.here < 0.1
    assert reads.cost.here < reads.cost.per_call < 0.1
    assert "ms for each of" in str(reads.cost)


def test_a_breakpoint_at_a_spied_address_stops(kgdb):
    with kgdb.spy("vfs_read") as reads, kgdb.breakpoint("vfs_read", condition="count == 17") as at:
        kgdb.type(READS)
        for number in range(1, 6):
            stop = kgdb.cont()
            assert stop.breakpoint is at
            assert stop.frame.function == "vfs_read"
            assert sum(call.args["count"] == 17 for call in reads.calls) == number
        at.delete()
        kgdb.resume()
        kgdb.console.synchronise(timeout=20)
        kgdb.interrupt()
    assert sum(call.args["count"] == 17 for call in reads.calls) == 20


def test_the_frame_that_is_selected_stays_so(kgdb):
    """Its `$pc` is on the kernel's stack."""
    kgdb.breakpoint("vfs_read", temporary=True)
    kgdb.type("dd if=/dev/zero of=/dev/null bs=17 count=3")
    kgdb.cont()
    kgdb.execute("up 2")
    selected, stack = kgdb.execute("frame"), int(kgdb.evaluate("(unsigned long)$sp"))
    before = kgdb.read(stack - 64, 128)
    with kgdb.spy("vfs_write", collect=["count"]) as writes:
        assert kgdb.execute("frame") == selected
        assert kgdb.read(stack - 64, 128) == before
        kgdb.run("true")
        assert 17 in [call["count"] for call in writes.calls]


def test_stepping_over_a_spied_address(kgdb):
    with kgdb.spy("do_filp_open") as opens:
        kgdb.breakpoint(OPEN, temporary=True)
        kgdb.type("cat /proc/version; echo done")
        kgdb.cont()
        before = opens.count  # the shell's exec opens, too
        assert kgdb.until("do_filp_open").frame.function == "do_filp_open"
        assert opens.count == before + 1
        for _ in range(5):
            kgdb.stepi()
        assert opens.count == before + 1
        assert kgdb.finish().frame.function == OPEN
        kgdb.resume()
        kgdb.console.expect_exact("done", timeout=20)


def test_two_spies_on_one_function(kgdb):
    with kgdb.spy(OPEN) as one, kgdb.spy(OPEN, returns=True) as other:
        kgdb.run("cat /proc/version")
        assert one.count == other.count >= 1
        one.delete()
        kgdb.run("cat /proc/version")
        assert other.count > one.count


@pytest.mark.kgdb(smp=2)
def test_a_spy_on_two_processors(kgdb):
    busy = "dd if=/dev/zero of=/dev/null bs=17 count=150 2>/dev/null"
    with kgdb.spy("vfs_read", returns=True) as reads:
        kgdb.run(f"taskset 1 {busy} & taskset 2 {busy}; wait")
    ours = [call for call in reads.calls if call.args["count"] == 17]
    assert len(ours) == 300
    assert all(call.return_value == 17 for call in ours)
    assert {call.cpu for call in ours} == {0, 1}
    assert len({call.task.pid for call in ours}) == 2


def test_a_spy_outlasts_a_restore_to_a_named_point(kgdb):
    with kgdb.spy(OPEN) as opens:
        kgdb.snapshot("here")
        kgdb.run("cat /proc/version")
        before = opens.count
        kgdb.restore("here")
        assert opens.count == before >= 1
        kgdb.run("cat /proc/version")
        assert opens.count > before
    assert kgdb.run("echo fine").output == "fine\n"


@pytest.fixture
def not_ours(kgdb):
    """A machine whose memory is only kgdb's, as on a board."""
    with attachment_of(kgdb).relay.without_guest_memory():
        yield


@pytest.mark.usefixtures("not_ours")
def test_where_guest_memory_is_not_ours(kgdb):
    with kgdb.spy("vfs_read", collect=["file->f_path.dentry->d_iname"], returns=True) as reads:
        kgdb.run(READS)
        with kgdb.breakpoint("vfs_read", condition="count == 17"):
            kgdb.type(READS)
            assert kgdb.cont().frame.args["count"] == 17
    ours = [call for call in reads.calls if call.args["count"] == 17]
    assert len(ours) == 21
    assert {call["file->f_path.dentry->d_iname"] for call in ours} == {"zero"}
    assert {call.return_value for call in ours[:20]} == {17}


@pytest.mark.kgdb(stub="kgdb")
def test_where_kgdb_must_not_be(kgdb):
    with pytest.raises(KgdbError, match=r"no spy on exc_page_fault.*noinstr"):
        kgdb.spy("exc_page_fault")
    with pytest.raises(KgdbError, match=r"no spy on notify_die.*kprobe blocklist"):
        kgdb.spy("notify_die")
    with pytest.raises(KgdbError, match=r"no override on exc_page_fault.*noinstr"):
        kgdb.override("exc_page_fault", None)


def test_what_cannot_be_spied_on(kgdb):
    with pytest.raises(KgdbError, match=r"(?s)not defined.*did you mean do_sys_openat2"):
        kgdb.spy("do_sys_openat3")
    with pytest.raises(KgdbError, match="no spy on do_syscall_x64: gcc inlined it everywhere, in "):
        kgdb.spy("do_syscall_x64")
    with pytest.raises(KgdbError, match="'nosuch' cannot be read at its entry: No symbol"):
        kgdb.spy(OPEN, collect=["nosuch"])
    with pytest.raises(KgdbError, match=r"'file->f_path' cannot be read.*struct path"):
        kgdb.spy("vfs_read", collect=["file->f_path"])
    kgdb.resume()
    with pytest.raises(KgdbError, match="needs a stopped kernel"):
        kgdb.spy(OPEN)
    kgdb.interrupt()
    assert kgdb.run("echo fine").output == "fine\n"


def test_an_override_forces_an_error(kgdb):
    with kgdb.override(OPEN, "-EMFILE", when="dfd == -100") as forced:
        result = kgdb.run("cat /proc/version")
    assert result.status != 0
    assert "Too many open files" in result.output
    assert forced.forced == forced.calls >= 1
    assert forced.last.return_value == -24
    assert forced.last.args["dfd"] == -100
    assert forced.last.task.comm in ("sh", "cat")
    assert kgdb.run("cat /proc/version").status == 0


def test_an_override_of_a_pointer(kgdb):
    with kgdb.override("do_filp_open", "ERR_PTR(-EIO)", when=lambda call: call.task.pid > 1):
        assert "Input/output error" in kgdb.run("cat /proc/version").output
    by_cat = lambda call: call.task.comm == "cat"  # noqa: E731 # not what the shell opens
    with kgdb.override("getname_flags", "-ENOMEM", times=1, when=by_cat) as names:
        assert "Cannot allocate memory" in kgdb.run("cat /proc/version").output
        assert kgdb.run("cat /proc/version").status == 0
        assert names.calls > names.forced == 1


def test_overrides_skip_and_end(kgdb):
    with kgdb.override("vfs_read", -5, skip=2, times=3, when="count == 17") as reads:
        kgdb.run("for i in 1 2 3 4 5 6 7; do dd if=/dev/zero of=/dev/null bs=17 count=1; done")
        results = kgdb.run("dd if=/dev/zero of=/dev/null bs=17 count=1")
    assert reads.forced == 3
    assert results.status == 0
    assert reads.calls >= 8


def test_overrides_of_types(kgdb):
    with kgdb.override("ns_capable", False, when="cap == 21") as denied:  # CAP_SYS_ADMIN
        assert kgdb.run("hostname nobody").status != 0
    assert denied.forced >= 1
    assert denied.last.return_value is False
    with kgdb.override("ksys_sync", None) as synced:
        assert kgdb.run("sync").status == 0
    assert synced.forced == 1
    with (
        kgdb.spy("vfs_read", returns=True) as reads,
        kgdb.override("vfs_read", 5, when="count == 17"),
    ):
        kgdb.run("dd if=/dev/zero of=/dev/null bs=17 count=1")
    assert [call.return_value for call in reads.calls if call.args["count"] == 17] == [5]


def test_an_override_under_a_breakpoint(kgdb):
    with kgdb.override(OPEN, "-EMFILE", times=1) as forced, kgdb.breakpoint(OPEN, temporary=True):
        kgdb.type("cat /proc/version; echo over")
        stop = kgdb.cont()
        assert stop.frame.function == OPEN
        assert forced.forced == 1
        assert kgdb.finish().frame.function != OPEN
        kgdb.resume()
        kgdb.console.expect_exact("Too many open files", timeout=20)
        kgdb.console.expect_exact("over", timeout=20)


@pytest.mark.kgdb(smp=2)
def test_an_override_on_two_processors(kgdb):
    busy = "dd if=/dev/zero of=/dev/null bs=17 count=60"
    with kgdb.override("vfs_read", 3, when="count == 17") as reads:
        result = kgdb.run(f"taskset 1 {busy} & taskset 2 {busy}; wait")
    assert reads.forced == 120
    assert result.output.count("0+60 records in") == 2


def test_what_a_condition_raises_is_reported(kgdb):
    kgdb.override(OPEN, 0, when=lambda call: call.args["nosuch"])
    with pytest.raises(KgdbError, match=r"instrument stopped the kernel: KeyError.*no 'nosuch'"):
        kgdb.run("cat /proc/version")
    assert kgdb.stopped


def test_what_cannot_be_overridden(kgdb):
    inlined = "no override on do_syscall_x64: gcc inlined it everywhere, in "
    with pytest.raises(KgdbError, match=inlined):
        kgdb.override("do_syscall_x64", None)
    with pytest.raises(KgdbError, match="32 bits, which cannot hold"):
        kgdb.override("build_open_flags", 1 << 40)
    with pytest.raises(KgdbError, match="returns nothing, not -12"):
        kgdb.override("ksys_sync", "-ENOMEM")
    with pytest.raises(KgdbError, match="there is no error ENOSUCH"):
        kgdb.override(OPEN, "-ENOSUCH")
    with pytest.raises(KgdbError, match="cannot be read at its entry: No symbol"):
        kgdb.override(OPEN, 0, when="nosuch == 1")
    with pytest.raises(KgdbError, match="cannot return b'x'"):
        kgdb.override(OPEN, b"x")


def test_each_failure_of_a_function_in_turn(kgdb):
    kgdb.run("echo kept > /tmp/kept")
    report = kgdb.fail_each(
        "getname_flags", "cat /proc/version && cat /tmp/kept", "-ENOMEM", when="current->pid > 1"
    )
    assert report.ok, report
    assert report.complete
    assert 2 <= len(report) == report.calls
    assert [failure.number for failure in report] == list(range(1, len(report) + 1))
    for failure in report:
        assert failure.call.return_value == (1 << 64) - 12
        assert " at fs/" in failure.path[0]
        assert "entry_SYSCALL_64" in failure.path[-1]
    assert any("Cannot allocate memory" in failure.console for failure in report)
    assert kgdb.run("cat /tmp/kept").output == "kept\n", "as it was at the call"


def test_what_a_failure_leads_to_is_reported(kgdb):
    """The scenario stops where the first failure is: it is still to come then."""

    def scenario(kgdb):
        kgdb.breakpoint(OPEN, temporary=True)
        kgdb.type("cat /proc/version; echo over")
        assert kgdb.cont().frame.function == OPEN
        kgdb.resume()
        kgdb.console.expect_exact("over", timeout=20)
        assert "Linux version" in kgdb.console.before

    report = kgdb.fail_each(OPEN, scenario, "-EMFILE")
    assert not report.ok, report[0].console
    bad = report.bad[-1]
    assert bad.verdict == "failed"
    assert "AssertionError" in bad.message
    assert "Too many open files" in bad.console
    assert " at fs/open.c" in bad.path[0]
    assert f"{OPEN} failed in {len(report)} calls" in str(report)


def test_a_failure_that_panics_and_one_that_hangs(kgdb):
    with pytest.raises(KgdbError, match="the scenario never called sysrq_handle_crash"):
        kgdb.fail_each("sysrq_handle_crash", "true", None)
    with pytest.raises(KgdbError, match=r"does not even pass when no call.*panic"):
        kgdb.fail_each("__handle_sysrq", "echo c > /proc/sysrq-trigger", None)

    def wait(kgdb):
        kgdb.run("sleep 0.1; echo done", timeout=20)

    def slow(kgdb):
        kgdb.run("cat /proc/version | grep -q Linux || sleep 60", timeout=3)

    assert kgdb.fail_each("hrtimer_nanosleep", wait, 0, limit=1).ok
    report = kgdb.fail_each("version_proc_show", slow, 0)
    assert [failure.verdict for failure in report] == ["hang"]
    assert "did not end in 3 s" in report[0].message
    assert kgdb.run("echo fine").output == "fine\n"
