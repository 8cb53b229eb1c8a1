"""Values, memory and the log of a real kernel."""

from __future__ import annotations

import pytest

from pytest_kgdb.errors import KgdbError
from pytest_kgdb.handle import attachment_of


def test_numbers(kgdb):
    assert kgdb.evaluate("1 + 2") == 3
    assert int(kgdb.evaluate("sizeof(long)")) == 8
    assert kgdb.evaluate("panic_timeout") == 0
    assert not kgdb.evaluate("panic_timeout")
    assert kgdb.evaluate("init_task.prio") > 0
    assert [0] * kgdb.evaluate("2") == [0, 0]


def test_structs_and_pointers(kgdb):
    task = kgdb.evaluate("&init_task")
    assert task.type == "struct task_struct *"
    assert task["pid"] == 0
    assert task.dereference()["comm"].string() == "swapper/0"
    assert task["comm"] == "swapper/0"
    assert task["comm"][0] == ord("s")
    assert int(task) == kgdb.evaluate("init_task").address
    assert task["comm"].address == kgdb.evaluate("init_task.comm").address
    assert len(task["comm"]) == 16
    assert task["parent"] == task


def test_an_enumerator_by_name(kgdb):
    assert kgdb.evaluate("system_state") == "SYSTEM_RUNNING"
    assert str(kgdb.evaluate("system_state")) == "SYSTEM_RUNNING"


def test_a_char_pointer(kgdb):
    assert kgdb.evaluate("linux_banner").string().startswith("Linux version ")
    assert kgdb.evaluate("saved_command_line").string().find("nokaslr") > 0


def test_assign_is_seen_by_the_guest(kgdb):
    before = kgdb.evaluate("panic_on_oops")
    assert before == 0
    kgdb.assign("panic_on_oops", 1)
    assert before == 1, "the value lies in memory, and is read again after a write"
    assert kgdb.run("cat /proc/sys/kernel/panic_on_oops").output == "1\n"


def test_read_and_write(kgdb):
    address = kgdb.evaluate("init_task.comm").address
    assert kgdb.read(address, 9) == b"swapper/0"
    kgdb.write(address, b"idle\0")
    assert kgdb.read(address, 5) == b"idle\0"
    assert kgdb.evaluate("init_task.comm").string() == "idle"


def test_a_large_write(kgdb):
    address = int(kgdb.evaluate("(unsigned long)&__log_buf"))
    data = bytes(range(256)) * 8
    before = kgdb.read(address, len(data))
    kgdb.write(address, data)
    assert kgdb.read(address, len(data)) == data
    kgdb.write(address, before)
    assert "Linux version" in kgdb.dmesg()


def test_memory_that_is_not_there(kgdb):
    with pytest.raises(KgdbError, match="0xdead000000000100"):
        kgdb.read(0xDEAD000000000100, 8)
    with pytest.raises(KgdbError, match="Cannot access memory"):
        int(kgdb.evaluate("*(int *)0xdead000000000100"))


def test_an_unknown_name(kgdb):
    with pytest.raises(KgdbError, match='No symbol "no_such_thing"'):
        kgdb.evaluate("no_such_thing")


def test_whose_fault_an_error_is(kgdb):
    """The test's if it names what is not there, or what cannot be; not if memory is not mapped."""
    task = kgdb.evaluate("&init_task")
    frame = kgdb.interrupt().frame
    for number, of_the_test in enumerate(
        (
            lambda: kgdb.evaluate("nosuch"),
            lambda: kgdb.evaluate("&nosuch + 1"),
            lambda: kgdb.evaluate("sizeof(struct nosuch)"),
            lambda: kgdb.evaluate("sizeof(union nosuch)"),
            lambda: kgdb.evaluate("(enum nosuch)1"),
            lambda: kgdb.evaluate("(nosuch_t)1"),
            lambda: kgdb.evaluate("init_task.nosuch"),
            lambda: kgdb.evaluate("init_task + 1.5"),
            lambda: frame.evaluate("nosuch"),
            lambda: task["nosuch"],
            lambda: kgdb.evaluate("init_task")["nosuch"],
            lambda: kgdb.evaluate("init_task")[3],
            lambda: task.cast("struct nosuch *"),
            lambda: task.cast("nosuch_t"),
            lambda: kgdb.per_cpu("nosuch", 0),
            lambda: kgdb.per_cpu("runqueues", 999),
            lambda: kgdb.assign("nosuch", 1),
            lambda: kgdb.assign("init_task.nosuch", 1),
            lambda: kgdb.assign("panic_on_oops", "nosuch"),
            lambda: kgdb.execute("print nosuch"),
            lambda: kgdb.execute("print 1\nprint nosuch"),
            lambda: kgdb.execute("ptype struct nosuch"),
            lambda: kgdb.execute("info line nosuch"),
            lambda: kgdb.execute("list nosuch"),
            lambda: kgdb.execute("x/4x &nosuch"),
            lambda: kgdb.execute("set var nosuch = 1"),
            lambda: kgdb.execute("nosuch"),
        )
    ):
        with pytest.raises(KgdbError) as caught:
            of_the_test()
        assert caught.value.by_test, (number, caught.value)
    for of_the_kernel in (
        lambda: int(kgdb.evaluate("*(int *)8")),
        lambda: kgdb.evaluate("(char *)8").string(),
        lambda: kgdb.execute("x/4x 8"),
        lambda: kgdb.read(8, 4),
    ):
        with pytest.raises(KgdbError) as caught:
            of_the_kernel()
        assert not caught.value.by_test, caught.value


def test_arguments_and_locals(kgdb):
    kgdb.breakpoint("vfs_read", condition="count == 17")
    kgdb.type("dd if=/dev/zero of=/dev/null bs=17 count=1")
    frame = kgdb.cont().frame
    assert set(frame.args) == {"file", "buf", "count", "pos"}
    assert frame.args["count"] == 17
    assert frame.args["file"]["f_op"].type == "const struct file_operations *"
    assert "ret" in frame.locals
    assert "count=17" in repr(frame.args)
    with pytest.raises(KeyError, match="no 'nothing'"):
        frame.args["nothing"]
    caller = frame.up()
    assert caller.level == 1
    assert caller.function == "ksys_read"
    assert caller.args["count"] == 17


def test_source_lines(kgdb):
    kgdb.breakpoint("vfs_read")
    kgdb.type("cat /proc/version")
    frame = kgdb.cont().frame
    assert frame.file == "fs/read_write.c"
    text = frame.source(context=3)
    assert len(text.splitlines()) == 7
    assert f">{frame.line:6d}" in text


def test_a_backtrace_ends_at_the_kernels_entry(kgdb):
    kgdb.breakpoint("vfs_read")
    kgdb.type("cat /proc/version")
    functions = [frame.function for frame in kgdb.cont().backtrace()]
    assert functions[0] == "vfs_read"
    assert functions[-1].startswith("entry_SYSCALL_64")
    assert len(kgdb.stop.backtrace(limit=2)) == 2


def test_execute_is_gdbs_command_line(kgdb):
    assert "swapper/0" in kgdb.execute("print init_task.comm")
    with pytest.raises(KgdbError, match="Undefined command"):
        kgdb.execute("no-such-command")


@pytest.mark.kgdb(stub="kgdb")
def test_the_kernels_tasks_are_gdbs_threads(kgdb):
    assert kgdb.execute("info threads").count("\n") > 5


def test_execute_may_move_the_kernel(kgdb):
    before = kgdb.generation
    kgdb.execute("stepi")
    assert kgdb.stopped
    assert kgdb.generation > before


def test_dmesg(kgdb):
    log = kgdb.dmesg()
    assert "Linux version" in log.splitlines()[0]
    kgdb.run("echo from the test > /dev/kmsg")
    lines = kgdb.dmesg().splitlines()
    if lines[-1].endswith("sysrq: DEBUG"):  # by which kgdb is interrupted
        lines.pop()
    assert "from the test" in lines[-1]


@pytest.mark.kgdb(at="kgdbwait", stub="kgdb")
def test_dmesg_in_early_boot(kgdb):
    assert "Linux version" in kgdb.dmesg()
    assert "Run /init" not in kgdb.dmesg()


def test_the_same_answers_from_gdb_and_from_guest_memory(kgdb):
    """What the relay answers from guest memory is what kgdb itself would say."""
    expressions = ["$rip", "$rsp", "$rbp", "$eflags", "init_task.comm", "jiffies_64", "$cs", "$r12"]
    ours = [kgdb.execute(f"output/x {expression}") for expression in expressions]
    with attachment_of(kgdb).relay.without_guest_memory():
        kgdb.execute("maintenance flush register-cache")
        kgdb.execute("maintenance flush dcache")
        theirs = [kgdb.execute(f"output/x {expression}") for expression in expressions]
    assert ours == theirs
