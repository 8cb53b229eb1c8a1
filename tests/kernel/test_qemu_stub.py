"""gdb on QEMU's own stub, instead of the kernel's."""

from __future__ import annotations

import contextlib
import errno
import re
import time
from dataclasses import replace

import migrating
import pytest

from pytest_kgdb import initrd
from pytest_kgdb.cache import Cache
from pytest_kgdb.errors import KernelPanic, KgdbError, TimeoutError
from pytest_kgdb.progress import Silent
from pytest_kgdb.session import Session
from pytest_kgdb.settings import from_pytest

KERNEL_SPACE = 1 << 63
OPEN = "do_sys_openat2"


@pytest.fixture(scope="module")
def session(pytestconfig, kgdb_kernel):
    settings = replace(
        from_pytest(pytestconfig),
        stub="qemu",
        initrd="busybox",
        disk="none",
        boot="kernel",
        append="",
        memory=256,
        smp=1,
        origins={},
    )
    progress = Silent()
    cache = Cache(settings.cache_dir, progress=progress)
    ram = initrd.prepare(settings, kgdb_kernel, [], cache, progress)
    with Session(settings, kgdb_kernel, ram, None, cache=cache, progress=progress) as session:
        yield session


@pytest.fixture
def stub(session, request):
    wants = session.settings.for_marker(getattr(request, "param", {}), request.node.nodeid)
    yield session.acquire(wants)
    session.release()


def machine(**marker):
    """As pytest.mark.kgdb, for the fixture here."""
    return pytest.mark.parametrize("stub", [marker], indirect=True, ids=[str(marker)])


@machine(at="kgdbwait")
def test_before_the_kernels_first_function(stub):
    assert stub.stop.reason == "breakpoint"
    assert stub.stop.frame.function == "start_kernel"
    assert stub.stop.frame.file == "init/main.c"
    assert stub.stop.cpu == 0
    assert stub.stop.task.comm == "swapper"
    with stub.breakpoint("setup_arch") as arch:  # before the kernel could have a debugger
        assert stub.cont().breakpoint is arch
    with stub.breakpoint("kernel_init", temporary=True):
        assert stub.cont().task.comm == "swapper/0"
        assert stub.stop.task.pid == 1


def test_the_kernel_runs_as_it_would_without_a_debugger(stub):
    words = stub.run("cat /proc/cmdline").output.split()
    assert not [word for word in words if word.startswith(("kgdb", "rodata"))]
    assert "nokaslr" in words


def test_a_breakpoint(stub):
    stub.run("echo here > /tmp/file")
    with stub.breakpoint(
        "do_sys_openat2", condition='$_streq((char *)filename, "/tmp/file") && current->pid > 1'
    ) as at:
        stub.type("cat /tmp/file")
        stop = stub.cont()
        assert stop.breakpoint is at
        assert stop.task.comm == "cat"
        assert stub.evaluate("current->pid") == stop.task.pid > 1
        assert stop.frame.args["filename"].string() == "/tmp/file"
        assert "do_syscall_64" in [frame.function for frame in stop.backtrace()]
        assert stub.program["init_task"].comm.string_() == b"swapper/0"
        assert stub.finish().reason == "finished"
        assert int(stub.stop.return_value) >= 3
    assert stub.run("echo on").output.endswith("on\n")
    assert at.hits == 1


def test_steps(stub):
    with stub.breakpoint("do_sys_openat2", temporary=True):
        stub.type("cat /etc/passwd")
        stub.cont()
    before = stub.stop.frame.address
    assert stub.stepi().reason == "step"
    assert stub.stop.frame.address != before
    line = stub.stop.frame.line
    assert stub.next().frame.function == "do_sys_openat2"
    assert stub.stop.frame.line != line


def test_where_kgdb_must_not_be(stub):
    """The entry of an exception: noinstr, and on the debugger's own way."""
    with stub.breakpoint("exc_page_fault") as fault:
        stub.type("cat /etc/passwd")
        assert stub.cont().breakpoint is fault
        assert stub.stop.frame.function == "exc_page_fault"


def test_a_program_that_runs_is_interrupted(stub):
    stub.type("echo by''now; while :; do :; done")
    stub.resume()
    stub.console.expect("bynow")
    stub.interrupt()
    end = time.monotonic() + 60
    while stub.stop.frame.address >= KERNEL_SPACE:  # a tick of the clock, mostly
        assert time.monotonic() < end
        stub.resume()
        stub.interrupt()
    assert stub.stop.reason == "interrupt"
    assert stub.stop.task.comm == "sh"
    assert stub.stop.cpu == 0
    assert "Linux version" in stub.dmesg()
    assert int(stub.evaluate("init_task.pid")) == 0


def read_17(stub):
    """Have a dd call vfs_read, and stop there."""
    with stub.breakpoint("vfs_read", condition="count == 17"):
        stub.type("dd if=/dev/zero of=/dev/null bs=17 count=1; echo over")
        return stub.cont()


def test_an_oops(stub):
    """Of any kernel, with kgdb or without."""
    entry = read_17(stub)
    task, address = entry.task.pid, entry.frame.address
    stub.assign("$rdi", 0)
    stop = stub.cont()
    assert stop.reason == "oops"
    assert "NULL pointer dereference" in stop.message
    assert stop.frame.level == 0
    assert stop.frame.function == "vfs_read"
    assert address < stop.registers["rip"] == stop.frame.address < address + 0x200
    assert stop.task.pid == task
    assert "ksys_read" in [frame.function for frame in stop.backtrace()]
    assert "D" not in stop.taint
    (splat,) = stub.splats
    assert (splat.kind, splat.function) == ("oops", "vfs_read")
    fault = stop.frame.address
    stub.snapshot("oopsed")
    assert stub.run("echo alive").output.endswith("alive\n")
    stub.restore("oopsed")
    assert (stub.stop.reason, stub.stop.frame.address) == ("oops", fault)
    assert stub.run("echo alive").output.endswith("alive\n")


def test_a_panic(stub):
    stub.type("echo c > /proc/sysrq-trigger")
    stop = stub.cont()
    assert (stop.reason, stop.message) == ("panic", "sysrq triggered crash")
    assert stop.frame.function == "sysrq_handle_crash"
    assert stop.registers["rip"] == stop.frame.address
    assert stub.splats[0].kind == "panic"
    with pytest.raises(KernelPanic, match="sysrq triggered crash"):
        stub.cont()


def test_an_int3(stub):
    """The kernel is where it was interrupted, so that it can be stepped and its registers set."""
    address = read_17(stub).frame.address
    code = stub.read(address, 1)
    stub.write(address, b"\xcc")
    stop = stub.cont()
    assert (stop.reason, stop.task.comm) == ("int3", "dd")
    assert stub.evaluate("(unsigned long)$pc") == address + 1
    stub.write(address, code)
    stub.assign("$rip", address)
    assert stub.stepi().frame.function == "vfs_read"
    stub.resume()
    stub.console.expect_exact("over", timeout=60)


def test_no_hook_of_the_plugins_own_is_seen(stub):
    assert "No breakpoints" in stub.execute("info breakpoints")
    for name in ("notify_die", "panic"):
        with stub.breakpoint(name) as own:
            assert own.hits == 0
    with stub.breakpoint("panic") as panic:
        stub.type("echo c > /proc/sysrq-trigger")
        assert stub.cont().breakpoint is panic
        assert stub.cont().reason == "panic"
        assert panic.hits == 1


def test_more_breakpoints_than_a_kernel_has_room_for(stub):
    """kernel/debug/debug_core.c has 1,000 of them, KGDB_MAX_BREAKPOINTS."""
    stub.execute(
        "python\nbegin = int(gdb.parse_and_eval('(unsigned long)panic'))\n"
        "code = gdb.selected_frame().architecture().disassemble(begin, count=1100)\n"
        "for instruction in code: gdb.Breakpoint('*%d' % instruction['addr'])\nend"
    )  # where nothing comes by
    assert "1100 " in stub.execute("info breakpoints")
    assert read_17(stub).frame.function == "vfs_read"


@machine(smp=2)
def test_the_other_cpu(stub):
    with stub.breakpoint("proc_pid_status"):
        stub.type("taskset 2 cat /proc/self/status")
        stop = stub.cont()
        assert (stop.cpu, stop.task.comm) == (1, "cat")
        assert stub.next().cpu == 1
    assert stub.run("echo on").output.endswith("on\n")


@migrating.each_way
@migrating.others
@machine(smp=2)
def test_a_step_whose_task_goes_to_another_cpu(stub, way, others):
    migrating.check(stub, way, others)


WAYS = {"cont": (OPEN, True), "finish": ("__x64_sys_openat", True)}


@pytest.mark.parametrize("way", WAYS)
def test_a_watched_local_ends_with_its_function(stub, way):
    stub.breakpoint(OPEN, temporary=True)
    stub.type("cat /proc/version")
    stub.cont()
    watched = stub.watchpoint("op.intent")
    while (getattr(stub, way)().frame.function, "deleted" in repr(watched)) != WAYS[way]:
        assert stub.stop.reason in ("watchpoint", "finished")
    assert watched.hits > 0
    if way == "cont":
        assert (stub.stop.reason, stub.stop.breakpoint) == ("watchpoint", watched)
        assert "returns whose op.intent it is" in stub.stop.message
    else:
        assert (stub.stop.reason, stub.stop.return_value) == ("finished", 3)
    assert stub.run("echo on").output.endswith("on\n")


def test_a_watchpoint(stub):
    with stub.watchpoint("panic_timeout") as watched:
        stub.type("echo 7 > /proc/sys/kernel/panic")
        stop = stub.cont()
        assert stop.breakpoint is watched
        assert (stop.old, stop.new) == (0, 7)


@pytest.mark.parametrize("left", ["running", "stopped", "panicked", "interrupted"])
def test_it_is_put_back_whatever_was_left(session, left):
    wants = session.settings.for_marker({}, "the test")
    kgdb = session.acquire(wants)
    kgdb.run("echo here > /tmp/file")
    kgdb.breakpoint("do_sys_openat2")
    if left == "running":
        kgdb.delete_breakpoints()
        kgdb.resume()
    elif left == "stopped":
        kgdb.type("cat /tmp/file")
        assert kgdb.cont().reason == "breakpoint"
    elif left == "panicked":
        kgdb.delete_breakpoints()
        kgdb.type("echo c > /proc/sysrq-trigger")
        assert kgdb.cont().reason == "panic"
        with pytest.raises(KernelPanic, match="sysrq triggered crash"):
            kgdb.cont()
    session.release()
    kgdb = session.acquire(wants)
    assert kgdb.stop.reason == "interrupt"
    assert kgdb.run("cat /tmp/file").status == 1  # nor does the breakpoint stop it
    session.release()


def test_points_of_ones_own(stub):
    stub.run("echo one > /tmp/file")
    with stub.breakpoint(
        "do_sys_openat2", condition='$_streq((char *)filename, "/tmp/file") && current->pid > 1'
    ) as at:
        stub.snapshot("one")
        stub.type("echo two > /tmp/file")
        stub.cont()
        stub.restore("one")
        stub.type("cat /tmp/file")
        assert stub.cont().breakpoint is at
    assert stub.run("cat /tmp/file").output.endswith("one\n")


def test_a_spy(stub):
    with stub.spy(OPEN, collect=["how->flags"], returns=True) as opens:
        stub.run("cat /etc/passwd; cat /no/such/file")
    of_cat = [call for call in opens.calls if call.task.comm == "cat"]
    assert [call.args["filename"] for call in of_cat] == ["/etc/passwd", "/no/such/file"]
    assert [call["how->flags"] & 3 for call in of_cat] == [0, 0]
    assert of_cat[0].return_value >= 3
    assert of_cat[1].return_value == -errno.ENOENT
    assert of_cat[1].task.pid > of_cat[0].task.pid > 1
    assert {call.cpu for call in opens.calls} == {0}
    times = [call.time for call in opens.calls]
    assert times == sorted(times)
    before = opens.count
    stub.run("cat /etc/passwd")
    assert opens.count == before


@machine(smp=2)
def test_a_spy_on_two_processors(stub):
    """None is missed, and none counted twice: the others stand still where one steps off a call."""
    busy = "dd if=/dev/zero of=/dev/null bs=17 count=40 2>/dev/null"
    with stub.spy("vfs_read", returns=True) as reads:
        stub.run(f"taskset 1 {busy} & taskset 2 {busy}; wait")
    ours = [call for call in reads.calls if call.args["count"] == 17]
    assert len(ours) == 80
    assert all(call.return_value == 17 for call in ours)
    assert {call.cpu for call in ours} == {0, 1}
    assert len({call.task.pid for call in ours}) == 2


def test_copies_that_gcc_made(stub):
    with stub.spy("__set_oom_adj", returns=True) as calls:
        stub.run("echo 5 > /proc/self/oom_score_adj")
    (call,) = calls.calls
    assert (call.copy, call.args["oom_adj"], call.return_value) == ("__set_oom_adj.isra.0", 5, 0)
    with pytest.raises(KgdbError, match="gcc removed the parameter `file` of __set_oom_adj"):
        call.args["file"]
    symbols = stub.run("grep link_path_walk /proc/kallsyms").output
    copies = re.findall(r" (link_path_walk\.[\w.]+)$", symbols, re.MULTILINE)
    # Which of them the call goes through is gcc's choice.
    with contextlib.ExitStack() as stack:
        forced = {name: stack.enter_context(stub.override(name, "-EACCES")) for name in copies}
        assert "Permission denied" in stub.run("cat /proc/version").output
    assert [name for name, override in forced.items() if override.forced]
    assert all(one.last.copy == name for name, one in forced.items() if one.forced)


def test_a_spy_where_kgdb_must_not_be(stub):
    with stub.spy("exc_page_fault") as faults:
        stub.run("cat /etc/passwd")
    assert faults.count > 10
    assert {call.task.comm for call in faults.calls} >= {"cat"}


def test_an_override(stub):
    with stub.override(OPEN, "-EMFILE", when="how->flags & 0x10000", times=1) as override:
        assert "Too many open files" in stub.run("ls /proc/self/fd 2>&1").output
        assert stub.run("ls /proc/self/fd").status == 0
    assert override.forced == 1
    assert override.last.task.comm == "ls"
    assert stub.run("ls /proc/self/fd").status == 0


def test_each_failure_of_a_function_in_turn(stub):
    report = stub.fail_each("do_filp_open", "cat /proc/version", "-ENOMEM", when="current->pid > 1")
    assert report.ok, report
    assert report.complete
    assert len(report) >= 2
    assert "entry_SYSCALL_64" in report[0].path[-1]
    assert any("Cannot allocate memory" in failure.console for failure in report)


def test_a_breakpoint_and_steps_at_a_spied_address(stub):
    with stub.spy(OPEN) as opens, stub.breakpoint(OPEN, condition="current->pid > 1") as at:
        stub.type("cat /etc/passwd; cat /etc/passwd; echo over")
        for number in range(1, 3):
            assert stub.cont().breakpoint is at
            assert opens.count == number
        stub.stepi()
        assert stub.finish().frame.function != OPEN
        at.delete()
        stub.resume()
        stub.console.expect_exact("over", timeout=20)
        stub.interrupt()
    assert opens.count == 2


def test_interrupts_between_calls(stub):
    """Wherever it comes: in a call that is being served, and in the step off it."""
    with stub.spy("vfs_read") as reads:
        stub.type(
            "echo by''now; while :; do dd if=/dev/zero of=/dev/null count=9 2>/dev/null; done"
        )
        stub.resume()
        stub.console.expect("bynow", timeout=60)
        before = reads.count
        for _ in range(20):
            assert stub.interrupt().reason == "interrupt"
            stub.resume()
        end = time.monotonic() + 60
        while reads.count < before + 20:
            assert time.monotonic() < end
            time.sleep(0.01)
        stub.interrupt()
    assert all(call.args["count"] for call in reads.calls)


def test_a_spy_that_is_left_in_a_running_kernel(session):
    """Its calls go on while the log is read at the end of the test."""
    settings = session.settings.for_marker({}, "the test")
    for _ in range(3):
        kgdb = session.acquire(settings)
        reads = kgdb.spy("vfs_read")
        kgdb.type("while :; do dd if=/dev/zero of=/dev/null count=9 2>/dev/null; done")
        kgdb.resume()
        end = time.monotonic() + 60
        while reads.count < 5:
            assert time.monotonic() < end
            time.sleep(0.01)
        for _ in range(5):
            assert not kgdb.splats
        session.release()
    kgdb = session.acquire(settings)
    assert kgdb.run("echo on").output == "on\n"
    session.release()


def test_a_spy_outlasts_a_restore(stub):
    with stub.spy(OPEN) as opens:
        stub.snapshot("here")
        stub.run("cat /etc/passwd")
        before = opens.count
        stub.restore("here")
        assert opens.count == before >= 1
        stub.run("cat /etc/passwd")
        assert opens.count > before


@machine(smp=2)
def test_the_stack_of_a_task_that_runs(stub):
    """Nobody has saved its registers in memory: QEMU has them."""
    stub.type("while :; do :; done & dd if=/dev/zero of=/dev/null bs=17 count=1")
    with stub.breakpoint("vfs_read", condition="count == 17"):
        stop = stub.cont()
    trace = stub.stack_trace(stop.task)
    assert (trace[0].name, trace[1].name) == ("vfs_read", "ksys_read")
    assert trace[0].pc == stop.frame.address
    assert len(stub.stack_trace(2)) > 2
    # A register that gdb sets is QEMU's.
    stub.assign("$rip", "$rip + 1")
    assert stub.stack_trace(stop.task)[0].pc == trace[0].pc + 1


@machine(smp=2)
def test_the_stack_beneath_an_interrupt_by_qemu(stub):
    """It comes anywhere: in the kernel, or in a program, of which the stack is not known."""
    # QEMU names the CPU that stopped last: each runs the two in turn.
    loops = ("while :; do :; done", "while :; do cat /proc/self/maps; done > /dev/null")
    stub.type("".join(f"taskset {cpu} sh -c '{loop}' & " for cpu in (1, 2) for loop in loops))
    stub.resume()
    seen = set()
    for _ in range(200):
        time.sleep(0.01)
        stop = stub.interrupt()
        in_kernel = stop.frame.address >= KERNEL_SPACE
        seen.add(in_kernel)
        names = [frame.name for frame in stub.stack_trace(stop.task) if frame.pc >= KERNEL_SPACE]
        if in_kernel:
            ours = [frame.function for frame in stop.backtrace()]
            assert [name for name in names if name in ours]
        else:
            assert not names
        if seen == {True, False}:
            break
        stub.resume()
    assert seen == {True, False}


@machine(at="kgdbwait")
def test_the_log_before_and_after_its_first_line(stub):
    assert stub.dmesg() == ""
    with stub.breakpoint("rest_init"):
        stub.cont()
    lines = stub.dmesg().splitlines()
    assert "Linux version " in lines[0]
    assert "Run /init" not in stub.dmesg()
    assert stub.program["system_state"].value_() < stub.program["SYSTEM_RUNNING"].value_()


def test_a_programs_memory(stub):
    stub.breakpoint("do_sys_openat2", temporary=True)
    stub.type("cat /proc/version")
    name = stub.cont().frame.args["filename"]
    assert name == "/proc/version"
    assert stub.read(int(name), 5) == b"/proc"
    with pytest.raises(KgdbError, match="0x44 is not mapped in the page tables of task"):
        stub.read(0x44, 4)
    assert stub.run("echo on").output == "on\n"


def current_of(stub, cpu):
    """The address of the task on a CPU, by the variable behind `current`."""
    try:
        return int(stub.per_cpu("current_task", cpu))
    except KgdbError:  # from 6.2 to 6.14 it is in another (arch/x86/include/asm/current.h)
        return int(stub.per_cpu("pcpu_hot", cpu)["current_task"])


@machine(smp=2)
def test_a_programs_memory_is_that_of_the_cpu_that_gdb_has_selected(stub):
    """gdb's threads are CPUs, and each runs a shell."""
    loop = "while :; do echo {0}{0}{0}; done > /dev/null"
    stub.type(f"taskset 1 sh -c '{loop.format(1)}' & taskset 2 sh -c '{loop.format(2)}' &")
    compared = 0
    with stub.breakpoint("vfs_write", condition="count == 4"):
        for _ in range(20):
            stop = stub.cont()
            other = 1 - stop.cpu
            task = stub.per_cpu("runqueues", other)["curr"]
            if not int(task["mm"]) or int(task) != current_of(stub, other):
                continue  # it is idle, or about to run (kernel/sched/core.c, context_switch)
            arguments = int(task["mm"]["arg_start"])
            if not arguments or task["comm"].string() != "sh":
                continue  # its program is being loaded (fs/exec.c, setup_arg_pages)
            theirs = stub.read_user(task, arguments, 20)
            with pytest.raises(KgdbError, match=f"{arguments:#x} is not mapped"):
                stub.read(arguments, 20)  # of the CPU that stopped; stacks are randomised
            stub.execute(f"thread {other + 1}")
            shown = stub.execute(f"x/20xb {arguments:#x}")
            assert bytes(int(byte, 16) for byte in shown.split() if ":" not in byte) == theirs
            with pytest.raises(KgdbError, match=f"{arguments:#x} is not mapped"):
                stub.read(arguments, 20)
            compared += 1
    assert compared


@machine(append="pti=on")
def test_the_kernels_memory_while_a_program_runs(stub):
    """The CPU has page tables loaded that lack it."""
    # A shell of its own: one that Ctrl-C interrupts within malloc() would keep its lock.
    stub.type("/bin/sh -c 'echo by\"\"now; while :; do :; done'")
    stub.resume()
    stub.console.expect("bynow")
    until = time.monotonic() + 20
    while stub.interrupt().frame.address >= KERNEL_SPACE:
        assert time.monotonic() < until
        stub.resume()
    assert stub.stop.task.comm == "sh"
    assert "Linux version" in stub.evaluate("linux_banner").string()
    stub.assign("panic_timeout", 7)
    assert stub.evaluate("panic_timeout") == 7
    stub.console.send("\x03")
    assert stub.run("cat /proc/sys/kernel/panic").output.endswith("7\n")


def test_a_device_is_read_and_read_only_code_written(stub):
    """As through kgdb with `rodata=off`: tests patch code, and constants."""
    banner = int(stub.evaluate("(unsigned long)&linux_proc_banner"))
    assert stub.read(banner, 10) == b"%s version"
    stub.write(banner + 3, b"V")
    assert stub.run("cat /proc/version").output.startswith("Linux Version")
    address = int(stub.evaluate("(unsigned long)&version_proc_show"))
    code = stub.read(address, 8)
    stub.write(address, b"\xb8\xf4\xff\xff\xff\xc3" + code[6:])  # mov $-ENOMEM, %eax; ret
    assert "Cannot allocate memory" in stub.run("cat /proc/version 2>&1").output
    stub.write(address, code)
    assert stub.run("cat /proc/version").output.startswith("Linux")
    hpet = int(stub.evaluate("(unsigned long)hpet_virt_address"))
    assert stub.evaluate(f"*(unsigned int *){hpet:#x} & 0xff") == 1, "its revision"


@pytest.mark.parametrize("address", [0x44, 1 << 47, (1 << 64) - (1 << 31) - (1 << 30), (1 << 63)])
def test_nothing_is_written_where_nothing_is_mapped(stub, address):
    for use in (
        lambda: stub.write(address, b"x"),
        lambda: stub.assign(f"*(char *){address:#x}", 1),
        lambda: stub.execute(f"set var *(long *){address:#x} = 1"),
    ):
        with pytest.raises(KgdbError, match=rf"{address:#x}.*mapped|no address"):
            use()
    assert stub.run("echo on").output == "on\n"


@pytest.mark.slow
def test_a_kernel_that_was_looked_at_can_be_interrupted(stub):
    """QEMU reports each pause, and hears nothing before that has been acknowledged."""
    stub.snapshot("before")
    for _ in range(8):
        with pytest.raises(TimeoutError, match=r"did not end in 1 s: \w+: sleep\[\d+\] in "):
            stub.run("sleep 100", timeout=1)
        assert stub.stopped
        stub.restore("before")


def test_a_loop_with_interrupts_off(stub):
    """The stub stops it, unlike kgdb."""
    stub.breakpoint("vfs_read", temporary=True)
    stub.type("cat /proc/version")
    stub.cont()
    stub.assign("$eflags", int(stub.evaluate("$eflags")) & ~0x200)
    stub.write(int(stub.evaluate("$pc")), b"\xeb\xfe")  # jmp to itself
    with pytest.raises(TimeoutError, match=r"off: CPU 0 in vfs_read \(fs/read_write\.c:\d+\), \w+"):
        stub.cont(timeout=1)
    assert stub.interrupt().frame.function == "vfs_read"


def test_the_monitor_is_qemus(stub):
    assert "VM status" in stub.execute("monitor info status")
    assert "info registers" in stub.execute("monitor help info")  # in several packets
    assert "RIP=" in stub.execute("monitor info registers")
    for command in ("monitor quit", "mon c", "monitor loadvm x", "monitor system_reset"):
        with pytest.raises(KgdbError, match="was not given to gdb"):
            stub.execute(command)
    assert stub.run("echo on").output == "on\n"
