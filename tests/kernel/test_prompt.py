"""gdb's own commands, typed at its prompt by `execute()`, on a real kernel."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from pytest_kgdb.errors import KgdbError
from pytest_kgdb.handle import attachment_of

DEMO = Path(__file__).parent / "modules" / "demo"
COPIES = DEMO.parent / "copies"
READ = "while :; do dd if=/dev/zero of=/dev/null bs=17 count=1 2>/dev/null; done"


@pytest.fixture
def reading(kgdb):
    """The kernel at the entry of a read of 17 bytes."""
    with kgdb.breakpoint("vfs_read", condition="count == 17"):
        kgdb.type(READ)
        kgdb.cont()
    return kgdb


def assert_agreed(kgdb) -> None:
    """Handle and gdb mean the same stop, and the kernel goes on from it."""
    assert kgdb.stopped
    assert kgdb.stop.frame.address == int(kgdb.evaluate("(long)$pc")) & (1 << 64) - 1
    generation = kgdb.generation
    assert kgdb.stepi().reason == "step"
    assert kgdb.generation != generation


@pytest.mark.parametrize(
    ("command", "instead"),
    [
        ("detach", "resume"), ("det", "resume"), ("server detach", "resume"),
        ("with print pretty on -- detach", "resume"), ("k", "restore"), ("kill", "restore"),
        ("disconnect", "resume"), ("target remote x", "connected"), ("tar rem x", "connected"),
        ("file", "connected"), ("symbol-file", "add-symbol-file"), ("run", "kgdbwait"),
        ("r", "kgdbwait"), ("start", "kgdbwait"), ("attach 1", "connected"), ("record", "snapshot"),
        ("reverse-step", "snapshot"), ("checkpoint", "snapshot"),
        ("continue&", "wait"), ("c &", "wait"), ("stepi&", "wait"), ("quit", "returning"),
        ("q", "returning"), ("inferior 1", "one kernel"), ("tstart", "spy"),
        ("thread apply all detach", "resume"), ("frame apply all kill", "restore"),
        ("pipe detach | cat", "resume"), ('interpreter-exec mi "-exec-continue"', "methods"),
        ("catch fork", "kernel_clone"), ("tcatch exec", "execve"), ("catch syscall open", "_sys_"),
        ("shell", "attach"), ("set may-call-functions on", "override"),
    ],
)  # fmt: skip
def test_what_would_cost_the_handle_its_gdb(kgdb, command, instead):
    with pytest.raises(KgdbError, match="was not given to gdb") as error:
        kgdb.execute(command)
    assert instead in str(error.value)
    assert_agreed(kgdb)


@pytest.mark.kgdb(stub="kgdb")
def test_the_monitor_is_kdbs(kgdb):
    with pytest.raises(KgdbError, match=r"(?s)was not given to gdb.*on_cpus"):
        kgdb.execute("monitor help")
    assert_agreed(kgdb)


def test_what_aliases_and_definitions_hide(kgdb):
    kgdb.execute("alias leave = detach")
    kgdb.execute("alias -a away = continue &")
    with pytest.raises(KgdbError, match="was not given"):
        kgdb.execute("define leaving\ndetach\nend")
    for command in ("leave", "away"):
        with pytest.raises(KgdbError, match="was not given"):
            kgdb.execute(command)
    assert_agreed(kgdb)


@pytest.mark.parametrize(
    "call", ["call vfs_read(0, 0, 0, 0)", "print vfs_read(0, 0, 0, 0)", "output schedule()"]
)
def test_a_function_is_not_called(kgdb, call):
    with pytest.raises(KgdbError, match="Cannot call functions"):
        kgdb.execute(call)
    assert_agreed(kgdb)


@pytest.mark.parametrize(
    "command", ["commands", "define twice", "document next", "if 1", "while 1", "python", "py"]
)
def test_a_first_line_alone(kgdb, command):
    with pytest.raises(KgdbError, match="more lines"):
        kgdb.execute(command)
    assert_agreed(kgdb)


def test_several_lines(kgdb):
    assert kgdb.execute("python\nprint(1 + 1)\nend") == "2\n"
    assert kgdb.execute("if init_task.pid == 0\necho idle\\n\nelse\necho no\\n\nend") == "idle\n"
    kgdb.execute("define twice\necho once,\necho $arg0\\n\nend")
    assert kgdb.execute("twice more") == "once,more\n"
    with pytest.raises(KgdbError, match="No symbol") as error:
        kgdb.execute("echo first\\n\nprint no_such_symbol")
    assert "/" not in error.value.message, "the script is nobody's file"


def test_the_commands_of_a_breakpoint(kgdb):
    kgdb.execute("break vfs_read if count == 17\ncommands\necho read %d\\n\nend")
    kgdb.type(READ)
    assert "vfs_read" in kgdb.execute("continue")
    assert kgdb.stop.frame.function == "vfs_read"


@pytest.mark.parametrize(
    "commands",
    [
        "silent\ncontinue", "print count\ncontinue",
        "python gdb.post_event(lambda: gdb.execute('continue'))",
    ],
)  # fmt: skip
@pytest.mark.parametrize("how", ["cont", "execute"])
def test_commands_that_go_on(kgdb, commands, how):
    read = kgdb.breakpoint("vfs_read", condition="count == 17")
    kgdb.execute(f"commands {read.number}\n{commands}\nend")
    opened = kgdb.breakpoint("proc_reg_open")
    kgdb.type("dd if=/dev/zero of=/dev/null bs=17 count=5; cat /proc/version")
    output = ""
    if how == "cont":
        assert kgdb.cont() is kgdb.stop
    else:
        output = kgdb.execute("continue")
    assert (kgdb.stop.reason, kgdb.stop.breakpoint) == ("breakpoint", opened)
    assert kgdb.stop.frame.function == "proc_reg_open"
    assert read.hits == 5
    if output and "print" in commands:
        assert re.findall(r"^\$\d+ = (\d+)$", output, re.M) == ["17"] * 5
    assert_agreed(kgdb)


def test_commands_that_run_until_the_return(kgdb):
    read = kgdb.breakpoint("vfs_read", condition="count == 17")
    kgdb.execute(f"commands {read.number}\nsilent\nfinish\nend")
    kgdb.type(READ)
    stop = kgdb.cont()
    assert (stop.reason, stop.breakpoint, stop.return_value) == ("finished", None, 17)
    assert stop.frame.function == "ksys_read"
    assert_agreed(kgdb)


def test_commands_that_always_go_on(kgdb):
    with kgdb.breakpoint("vfs_read", condition="count == 17") as read:
        kgdb.execute(f"commands {read.number}\ncontinue\nend")
        kgdb.type(READ)
        with pytest.raises(TimeoutError, match="did not stop in 1 s at vfs_read"):
            kgdb.cont(timeout=1)
        assert not kgdb.stopped
        assert kgdb.interrupt().reason == "interrupt"
    assert_agreed(kgdb)


def test_what_gdb_prints_of_a_resume(reading):
    output = reading.execute("display/i $pc")
    assert "<vfs_read>" in output
    assert "vfs_read+" in reading.execute("stepi")
    assert "=> " in reading.execute("next")
    reading.execute("undisplay 1")
    assert "Run till exit" in (output := reading.execute("finish"))
    assert "Value returned is $1 = 17" in output
    assert reading.stop.reason == "finished"
    assert reading.stop.return_value == 17
    reading.execute('dprintf ksys_read,"ksys_read of %ld\\n", count')
    reading.execute("tbreak vfs_read if count == 17")
    output = reading.execute("continue")
    assert "ksys_read of 17" in output
    assert "vfs_read" in output
    assert reading.stop.reason == "breakpoint"
    assert "vfs_read" in reading.execute("info frame")
    assert "rip" in reading.execute("info all-registers")
    assert_agreed(reading)


def test_what_a_shell_prints(kgdb):
    assert kgdb.execute("shell echo one; echo two >&2") == "one\ntwo\n"
    assert kgdb.execute("!printf unended") == "unended"
    assert kgdb.execute("shell cat") == "", "it does not read what is for gdb"
    assert kgdb.execute("pipe output 5 | sed s/5/five/") == "five"
    assert kgdb.execute("| -d @ output 6 @ cat | cat") == "6"
    assert kgdb.execute("python import os; os.system('printf 1')") == "1\n"
    assert_agreed(kgdb)


def test_a_script_that_resumes(kgdb):
    kgdb.type(READ)
    kgdb.execute("tbreak vfs_read if count == 17\ncontinue\nstepi\nstepi")
    assert kgdb.stop.frame.function == "vfs_read"
    assert kgdb.stop.frame.address > int(kgdb.evaluate("(long)vfs_read")) & (1 << 64) - 1
    assert_agreed(kgdb)


@pytest.mark.parametrize(
    "script",
    [
        "continue\nfinish", "python\ngdb.execute('continue')\ngdb.execute('finish')\nend",
        "python gdb.execute('continue'); gdb.execute('finish')", "source FILE",
    ],
)  # fmt: skip
def test_the_last_stop_of_a_script(kgdb, script, tmp_path):
    (tmp_path / "script").write_text("continue\nfinish\n")
    kgdb.breakpoint("vfs_read", condition="count == 17")
    kgdb.type(READ)
    output = kgdb.execute(script.replace("FILE", str(tmp_path / "script")))
    assert (kgdb.stop.reason, kgdb.stop.breakpoint) == ("finished", None)
    assert kgdb.stop.return_value == 17
    assert re.search(r"Breakpoint \d+, vfs_read", output)
    assert re.search(r"Value returned is \$\d+ = 17$", output, re.M)
    kgdb.execute("continue\nstepi")
    assert (kgdb.stop.reason, kgdb.stop.breakpoint) == ("step", None)
    assert_agreed(kgdb)


def test_a_script_that_fails_after_a_resume(kgdb):
    read = kgdb.breakpoint("vfs_read", condition="count == 17")
    kgdb.type(READ)
    with pytest.raises(KgdbError, match=r"^No symbol") as error:
        kgdb.execute("continue\nprint no_such_symbol\nstepi")
    assert "/" not in error.value.message, "the script is nobody's file"
    assert kgdb.stop.breakpoint is read
    assert_agreed(kgdb)


@pytest.mark.parametrize(
    "command", ["python while True: pass", "while 1\necho\nend", "shell sleep 30"]
)
@pytest.mark.kgdb(timeout=20)
def test_a_command_that_does_not_end(kgdb, command):
    begin = time.monotonic()
    first = command.splitlines()[0]
    with pytest.raises(TimeoutError, match=f"^'{first}.*' did not end in 1 s"):
        kgdb.execute(command, timeout=1)
    assert time.monotonic() - begin < 10, "nothing else waits for gdb"


def test_another_gdb_behind_one_that_does_not_end(kgdb):
    assert kgdb.execute("print 1") == "$1 = 1\n"
    assert_agreed(kgdb)


@pytest.mark.kgdb(stub="kgdb")  # of which they are the tasks
def test_another_thread(reading):
    task = reading.stop.task.pid
    other = re.search(r"^\*?\s+(\d+)\s+Thread 2 ", reading.execute("info threads"), re.M)
    reading.execute(f"thread {other[1]}")
    assert f"Current thread is {other[1]}" in reading.execute("thread")
    assert reading.stop.frame.function == "vfs_read"
    assert reading.stop.task.pid == task
    assert reading.stepi().task.pid == task
    assert f"Current thread is {other[1]}" not in reading.execute("thread")


def test_all_breakpoints_are_deleted_but_the_plugins_own(kgdb):
    own = kgdb.breakpoint("vfs_read")
    kgdb.execute("break vfs_write")
    kgdb.execute("delete")
    assert "vfs_" not in kgdb.execute("info breakpoints")
    own.delete()
    kgdb.breakpoint("vfs_read", temporary=True)
    kgdb.execute("disable")
    kgdb.execute("delete")
    assert kgdb.run("echo alive").output == "alive\n"


def test_a_register_outlives_what_writes_nothing(reading):
    register, count = reading.evaluate("$pc"), reading.evaluate("count")
    reading.execute("info breakpoints")
    reading.execute("print count + 1")
    assert int(register) > 0
    assert count == 17
    reading.execute("set var $rdx = 18")
    with pytest.raises(KgdbError, match="before a write"):
        int(register)
    assert reading.evaluate("count") == 18


def test_a_breakpoint_where_nothing_is(kgdb):
    for location in ("*0x1234", "*0xffffffffc0500000", "*0xdead000000000100"):
        with pytest.raises(KgdbError, match="mapped"):
            kgdb.breakpoint(location)
        with pytest.raises(KgdbError, match="mapped"):
            kgdb.execute(f"break {location}")
    assert "No breakpoints" in kgdb.execute("info breakpoints")
    assert kgdb.run("echo alive").output == "alive\n"


NOWHERE = "no_such_function"


@pytest.mark.parametrize(
    "command",
    [
        f"break {NOWHERE}", f"tbreak {NOWHERE}", f"hbreak {NOWHERE} if 1", "break no_such_file.c:1",
        f'dprintf {NOWHERE},"hit\\n"', f"break read_write.c:{NOWHERE}",
        f"print 1\nbreak {NOWHERE}\nprint 2", "break read_write.c:99999", f"rbreak ^{NOWHERE}$",
        f"break -function vfs_read -label {NOWHERE}",
    ],
)  # fmt: skip
def test_a_breakpoint_of_what_is_not_there(kgdb, command):
    """gdb would ask whether to wait for it, and do nothing without an answer."""
    with pytest.raises(KgdbError, match=f"{NOWHERE}|no_such_file|99999"):
        kgdb.execute(command)
    assert "No breakpoints" in kgdb.execute("info breakpoints")
    assert_agreed(kgdb)


def test_one_that_is_to_wait(kgdb):
    with pytest.raises(KgdbError, match="pending=True"):
        kgdb.execute("break demo_add")
    kgdb.execute("set breakpoint pending on")
    assert "(demo_add) pending" in kgdb.execute("break demo_add")
    kgdb.modules.begin(DEMO)
    assert kgdb.cont().frame.function == "demo_add"


def test_gdb_warns(kgdb):
    output = kgdb.execute(f"break vfs_read -force-condition if {NOWHERE}")
    assert "warning: failed to validate condition at location 1" in output


UNMAPPED = ("*0", "*0x10", "*1", "*(long)0", "*0x7ffff7ff0000", "*0xffffffffff000000")


@pytest.mark.parametrize("stopped", [False, True])
def test_a_breakpoint_where_nothing_is_with_a_module(kgdb, stopped):
    """gdb takes a low address for one in the module's file, of which it says no word."""
    (kgdb.modules.load_stopped if stopped else kgdb.modules.load)(DEMO)
    kept = kgdb.breakpoint("demo_add")
    for location in UNMAPPED:
        for more in ({}, {"temporary": True, "condition": "1"}, {"pending": True}):
            with pytest.raises(KgdbError, match=rf"no breakpoint at {re.escape(location)}.*mapped"):
                kgdb.breakpoint(location, **more)
        for command in ("break", "tbreak"):
            with pytest.raises(KgdbError, match="mapped"):
                kgdb.execute(f"{command} {location}")
    with pytest.raises(KgdbError, match="mapped"):
        kgdb.execute("break *0x20\ninfo breakpoints")
    listing = kgdb.execute("info breakpoints")
    assert "demo_add" in listing
    assert "PENDING" not in listing
    if stopped:
        assert kgdb.cont().breakpoint is kept
        kept.delete()
    assert kgdb.run("echo alive").output == "alive\n"


@pytest.mark.parametrize("command", ["break", "tbreak", "hbreak"])
def test_a_breakpoint_in_code_that_was_freed(kgdb, command):
    """The memory is somebody else's now."""
    address = int(kgdb.evaluate("&start_kernel"))
    before = kgdb.read(address, 16)
    with pytest.raises(KgdbError, match=r"\.init\.text, which the kernel has freed"):
        kgdb.execute(f"{command} start_kernel")
    assert "No breakpoints" in kgdb.execute("info breakpoints")
    assert kgdb.run("echo alive").output == "alive\n"
    assert kgdb.read(address, 16) == before


@pytest.fixture
def kzalloc(kgdb_kernel):
    """A function that is inlined in some hundred places, some of them in freed code.

    kzalloc() is a macro since 6.10 (commit 7bd230a26648 "mm/slab: enable slab allocation tagging
    for kmalloc and friends").
    """
    return "kzalloc" if kgdb_kernel.version < (6, 10) else "kzalloc_noprof"


@pytest.mark.parametrize("command", ["break {}", "tbreak {}", 'dprintf {},"hit\\n"'])
def test_a_breakpoint_whose_copies_in_freed_code_are_left_out(kgdb, command, kzalloc):
    freed = range(int(kgdb.evaluate("&_sinittext")), int(kgdb.evaluate("&_einittext")))
    before = kgdb.read(freed.start, len(freed))
    assert "are in .init.text, which the kernel has freed by now)" in kgdb.execute(
        command.format(kzalloc)
    )
    kgdb.type("cat /proc/version > /dev/null")
    if command.startswith("dprintf"):
        kgdb.breakpoint("__fput", temporary=True)
        assert "hit\n" in kgdb.execute("continue")
    else:
        stop = kgdb.cont()
        assert (stop.reason, stop.frame.function) == ("breakpoint", kzalloc)
    assert kgdb.read(freed.start, len(freed)) == before
    kgdb.execute("delete")
    assert kgdb.run("echo alive").output == "alive\n"


@pytest.mark.parametrize("command", ["break *0", "tbreak *8", 'dprintf *16,"hit\\n"'])
def test_a_breakpoint_where_nothing_is_mapped(kgdb, command):
    """gdb keeps one without a word where a module's file is loaded."""
    kgdb.modules.load(DEMO)
    with pytest.raises(KgdbError, match="not mapped"):
        kgdb.execute(command)
    assert "PENDING" not in kgdb.execute("info breakpoints")


@pytest.mark.parametrize("command", ["break", "tbreak", "hbreak", "break *vfs_read\nbreak"])
def test_a_breakpoint_within_an_instruction(kgdb, command):
    before = kgdb.breakpoint("*vfs_statfs")
    with pytest.raises(
        KgdbError, match=r"breakpoint \d+ at \*vfs_read\+1 was deleted: .* is within an instruction"
    ):
        kgdb.execute(f"{command} *vfs_read+1")
    assert "vfs_read+1" not in kgdb.execute("info breakpoints")
    assert before.enabled
    kgdb.delete_breakpoints()
    assert kgdb.run("cat /proc/version").status == 0


@pytest.mark.parametrize("at_prompt", [False, True])
def test_a_breakpoint_whose_copy_in_a_modules_init_was_freed(kgdb, at_prompt):
    """The copy has it again when the module is loaded again."""
    module = kgdb.modules.load(COPIES)
    if at_prompt:
        kgdb.execute("break copies_add")
    else:
        kgdb.breakpoint("copies_add")
    kgdb.type("echo 1 > /sys/module/copies/parameters/run")
    assert kgdb.cont().frame.up().function == "copies_set"
    kgdb.run("true")
    module.unload()
    kgdb.modules.begin(COPIES)
    stop = kgdb.cont()
    assert (stop.frame.function, stop.frame.up().function) == ("copies_add", "copies_init")


IN_INIT = next(
    f"main.c:{number}"
    for number, line in enumerate((DEMO / "main.c").read_text().splitlines(), 1)
    if "demo_total, prepared" in line
)


@pytest.mark.parametrize("location", ["demo_init", "*demo_prepare", IN_INIT])
@pytest.mark.parametrize("command", ["break", "tbreak", "hbreak"])
def test_a_breakpoint_in_a_modules_init_that_was_freed(kgdb, command, location):
    kgdb.modules.load(DEMO)
    kept = kgdb.breakpoint("demo_exit")
    with pytest.raises(KgdbError, match=r"refused: 0x\w+: it is in \.init\.text of module demo"):
        kgdb.execute(f"{command} {location}")
    listing = kgdb.execute("info breakpoints")
    assert "demo_exit" in listing
    assert "PENDING" not in listing
    assert "demo_init" not in listing
    assert "demo_prepare" not in listing
    kgdb.type("rmmod demo")
    assert kgdb.cont().breakpoint is kept
    kept.delete()


@pytest.mark.parametrize("location", ["demo_init", "*demo_prepare", IN_INIT])
@pytest.mark.parametrize("command", ["break", "tbreak", "hbreak"])
def test_a_breakpoint_in_a_modules_init_that_will_be_freed(kgdb, command, location):
    """A restore brings back what has been freed since."""
    kgdb.modules.load_stopped(DEMO)
    kgdb.snapshot("coming")
    kgdb.execute(f"{command} {location}")
    assert kgdb.cont().frame.function in ("demo_init", "demo_prepare")
    if command == "break":
        assert kgdb.run("cat /sys/module/demo/initstate").output == "live\n"
    else:
        kgdb.execute("delete")
        kgdb.run("true")
    kgdb.restore("coming")
    kgdb.execute(f"{command} {location}")
    assert kgdb.cont().frame.function in ("demo_init", "demo_prepare")


@pytest.mark.kgdb(at="kgdbwait")
def test_a_breakpoint_in_code_that_will_be_freed(kgdb):
    kgdb.execute("break console_on_rootfs")
    assert kgdb.cont().frame.function == "console_on_rootfs"


@pytest.mark.kgdb(stub="kgdb")
def test_a_breakpoint_that_kgdb_does_not_take(kgdb):
    with pytest.raises(KgdbError, match="noinstr"):
        kgdb.breakpoint("do_syscall_64")
    assert "Cannot insert breakpoint" in kgdb.execute("break do_syscall_64")
    with pytest.raises(KgdbError, match="do_syscall_64"):
        kgdb.cont(timeout=5)
    assert kgdb.stopped
    assert "No breakpoints" in kgdb.execute("info breakpoints")
    assert kgdb.run("echo alive").output == "alive\n"


@pytest.mark.slow
@pytest.mark.kgdb(stub="kgdb")
@pytest.mark.parametrize("at_prompt", [False, True])
def test_a_breakpoint_in_more_places_than_kgdb_has_room_for(kgdb, at_prompt, kgdb_kernel):
    """The first stays (include/linux/kgdb.h, KGDB_MAX_BREAKPOINTS)."""
    insert = (lambda name: kgdb.execute(f"break {name}")) if at_prompt else kgdb.breakpoint
    first, second = "kmalloc", "list_add"
    if kgdb_kernel.version >= (6, 10):
        first, second = "kzalloc_noprof", "kmalloc_noprof"
    insert(first)
    with pytest.raises(KgdbError) as caught:
        insert(second)
    assert "kgdb's table of breakpoints is full" in caught.value.message
    assert len(caught.value.message.splitlines()) < 12
    assert "--kgdb-stub=qemu" in str(caught.value)
    assert second not in kgdb.execute("info breakpoints")
    kgdb.type("cat /proc/version")
    assert kgdb.cont().frame.function == first


def test_a_script_that_ends_at_freed_code(kgdb, kzalloc):
    """gdb leaves out what comes after an error: it is none that was done in part."""
    with pytest.raises(KgdbError, match=r"\.init\.text"):
        kgdb.execute(f"break {kzalloc}\nset $after = 1")
    assert kgdb.execute("print $after") == "$1 = void\n"
    assert "No breakpoints" in kgdb.execute("info breakpoints")
    assert "locations, of which" in kgdb.execute(f"break {kzalloc}")


@pytest.mark.parametrize("command", ["advance", "until"])
def test_a_command_that_would_stop_in_freed_code(kgdb, command, kzalloc):
    """It has no place of its own that could be left out."""
    with pytest.raises(KgdbError, match=r"in \.init\.text") as caught:
        kgdb.execute(f"{command} {kzalloc}")
    assert "breakpoint() leaves out" in str(caught.value)
    assert_agreed(kgdb)
    assert kgdb.run("echo alive").output == "alive\n"


def test_a_resume_that_gdb_aborts(kgdb):
    """Where gdb is told of no refusal before: breakpoints are not inserted at once."""
    door = attachment_of(kgdb).debugger.door
    where = {"kgdb": "do_syscall_64", "qemu": "*0xdead000000000100"}[door]
    kgdb.execute("set breakpoint always-inserted off")
    kgdb.execute(f"break {where}")
    with pytest.raises(KgdbError, match=where.strip("*")):
        kgdb.cont(timeout=5)
    assert kgdb.stopped
    assert kgdb.run("echo alive").output == "alive\n"


def test_a_return_that_is_forced(reading):
    """gdb pops the frame: the caller goes on, with what the test wants returned."""
    assert reading.stop.frame.function == "vfs_read"
    reading.execute("return")
    assert reading.stop.frame.function == "ksys_read"
    reading.assign("$rax", -5)
    with reading.breakpoint("vfs_read", condition="count == 17") as read:
        assert reading.cont().breakpoint is read


def test_a_jump(reading):
    with reading.breakpoint("vfs_read") as read:
        reading.execute("jump vfs_read")
    assert reading.stop.breakpoint is read
