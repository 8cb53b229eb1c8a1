"""First steps with a debugger on a kernel."""

from __future__ import annotations


def test_the_kernel_stops_before_every_message(kgdb):
    """`break printk`, `continue`: the kernel stops before each message."""
    messages = []
    with kgdb.breakpoint("printk") as printk:
        kgdb.type("echo h > /proc/sysrq-trigger")
        while not messages or "\n" not in messages[-1]:
            stop = kgdb.cont()
            assert stop.breakpoint is printk
            messages.append(stop.frame.args["fmt"].string())
    assert "HELP" in "".join(messages)
    assert printk.hits == len(messages)


def test_an_open_from_the_system_call_to_the_file_name(kgdb):
    """Follow `open` to where the kernel has copied the name into its own memory."""
    kgdb.breakpoint("do_sys_openat2", temporary=True)
    kgdb.type("cat /proc/version")
    assert kgdb.cont().frame.function == "do_sys_openat2"

    stop = kgdb.until("do_filp_open")
    names = [stop.frame.args["pathname"]["name"].string()]
    while "/proc/version" not in names:
        with kgdb.breakpoint("do_filp_open"):
            names.append(kgdb.cont().frame.args["pathname"]["name"].string())
    callers = [frame.function for frame in kgdb.stop.backtrace()]
    assert "do_sys_openat2" in callers


def test_step_over_lines(kgdb):
    """`next` goes from line to line and stays in the function."""
    kgdb.breakpoint("do_sys_openat2", temporary=True)
    kgdb.type("cat /proc/uptime")
    first = kgdb.cont().frame.line
    stop = kgdb.next()
    assert stop.reason == "step"
    assert stop.frame.function == "do_sys_openat2"
    assert stop.frame.line != first
    assert stop.frame.file == "fs/open.c"
    assert f">{stop.frame.line:6d}" in stop.frame.source(context=2)


def test_init_task(kgdb):
    """Read a structure: the first task of the kernel."""
    task = kgdb.evaluate("init_task")
    assert task["pid"] == 0
    assert task["comm"] == "swapper/0"
    assert task["mm"] == 0, "an idle task has no address space"


def test_one_process_out_of_two(kgdb):
    """A conditional breakpoint ignores every process but one."""
    first, second = (int(kgdb.run("sleep 1000 >/dev/null & echo $!").output) for _ in range(2))
    with kgdb.breakpoint("do_send_sig_info", condition=f"p->pid == {second}") as signal:
        kgdb.type(f"kill -USR1 {first}; kill -USR2 {second}")
        stop = kgdb.cont()
        assert stop.frame.args["p"]["pid"] == second
        assert stop.frame.args["sig"] == 12
    assert signal.hits == 1


def test_interrupt_a_running_kernel(kgdb):
    """Stop a running kernel, which gdb's Ctrl-C cannot do through kgdb."""
    kgdb.resume()
    assert not kgdb.stopped
    stop = kgdb.interrupt()
    assert stop.reason == "interrupt"
    assert stop.task.comm
    assert kgdb.evaluate("system_state") == "SYSTEM_RUNNING"


def test_change_the_kernel(kgdb):
    """The guest sees what gdb writes."""
    kgdb.assign("panic_on_oops", 1)
    assert kgdb.run("cat /proc/sys/kernel/panic_on_oops").output == "1\n"


def test_what_a_function_returns(kgdb):
    """`finish` runs until the function returns, and shows its return value."""
    kgdb.breakpoint("do_sys_openat2", temporary=True)
    kgdb.type("cat /no/such/file")
    kgdb.cont()
    stop = kgdb.finish()
    assert stop.reason == "finished"
    assert stop.return_value == -2, "ENOENT"
