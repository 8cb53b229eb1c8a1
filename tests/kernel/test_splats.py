"""What a real kernel reports of itself, and what comes of it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from guest_files import built_from

from pytest_kgdb.debugger import in_a_line
from pytest_kgdb.errors import (
    GuestCommandError,
    KernelPanic,
    KgdbError,
    MachineDied,
    SplatError,
    TimeoutError,
)
from pytest_kgdb.handle import attachment_of
from pytest_kgdb.klog import console_lines, find_splats

SOURCE = r"""
#include <linux/delay.h>
#include <linux/kgdb.h>
#include <linux/kthread.h>
#include <linux/module.h>
#include <linux/proc_fs.h>
#include <linux/refcount.h>
#include <linux/uaccess.h>

static refcount_t count = REFCOUNT_INIT(0);
static struct list_head *nowhere;
static volatile int sick_after;

static noinline void sick_warn(void)
{
	WARN_ON(!list_empty_careful(&THIS_MODULE->list) | 1);
}

static noinline void sick_say(int number)
{
	WARN(1, "the module is sick: %d\n", number);
}

static noinline void sick_null(void)
{
	nowhere->next = NULL;
}

static noinline void sick_wild(void)
{
	struct list_head *wild = (void *)0x1234567890abcdefUL;

	WRITE_ONCE(wild->next, NULL);
}

static struct { long (*set)(void *); const char *what; } sick_none = { .what = "0x0 <a>" };

static noinline long sick_call(void *nothing)
{
	return READ_ONCE(sick_none.set)(nothing) + 1;
}

static inline void sick_deep(struct list_head *head)
{
	WRITE_ONCE(head->prev, NULL);
}

static inline void sick_mid(struct list_head *head)
{
	sick_deep(head); /* in sick_mid */
}

/* Its first instruction is sick_deep()'s. */
static __attribute__((noipa)) void sick_inline(struct list_head *head)
{
	sick_mid(head); /* in sick_inline */
}

static noinline void sick_list(struct list_head *head)
{
	list_del(head);
}

static noinline void sick_bug(void)
{
	BUG_ON(!nowhere);
}

static noinline void sick_int3(void)
{
	sick_after = 1;
	asm volatile("int $3");
	sick_after = 2;
}

static noinline void sick_break(void)
{
	sick_after = 3;
	kgdb_breakpoint();
	sick_after = 4;
}

static int sick_thread(void *number)
{
	int i;

	for (i = 0; i < 8; i++) {
		sick_say((long)number);
		cond_resched();
	}
	while (!kthread_should_stop())
		schedule_timeout_interruptible(1);
	return 0;
}

static void sick_everywhere(void)
{
	struct task_struct *threads[NR_CPUS];
	int cpu;

	for_each_online_cpu(cpu) {
		threads[cpu] = kthread_create(sick_thread, (void *)(long)(100 + cpu), "sick/%d", cpu);
		kthread_bind(threads[cpu], cpu);
	}
	for_each_online_cpu(cpu)
		wake_up_process(threads[cpu]);
	msleep(100);
	for_each_online_cpu(cpu)
		kthread_stop(threads[cpu]);
}

static ssize_t sick_set(struct file *file, const char __user *from, size_t size, loff_t *at)
{
	unsigned long end;
	char value[16] = "";

	if (size >= sizeof(value) || copy_from_user(value, from, size))
		return -EFAULT;
	if (sysfs_streq(value, "warn"))
		sick_warn();
	else if (sysfs_streq(value, "say"))
		sick_say(42);
	else if (sysfs_streq(value, "null"))
		sick_null();
	else if (sysfs_streq(value, "wild"))
		sick_wild();
	else if (sysfs_streq(value, "call"))
		return sick_call(NULL);
	else if (sysfs_streq(value, "inline"))
		sick_inline((void *)16);
	else if (sysfs_streq(value, "list"))
		sick_list(&(struct list_head){ (void *)0x100, (void *)0x122 });
	else if (sysfs_streq(value, "bug"))
		sick_bug();
	else if (sysfs_streq(value, "int3"))
		sick_int3();
	else if (sysfs_streq(value, "break"))
		sick_break();
	else if (sysfs_streq(value, "panic"))
		panic("sick unto death: %d", 7);
	else if (sysfs_streq(value, "everywhere"))
		sick_everywhere();
	else if (sysfs_streq(value, "refcount"))
		refcount_inc(&count);
	else if (sysfs_streq(value, "atomic")) {
		local_bh_disable();
		schedule_timeout_uninterruptible(1);
		/* No local_bh_enable(): the kernel has reset the count (schedule_debug). */
	} else if (sysfs_streq(value, "hung")) {
		set_current_state(TASK_UNINTERRUPTIBLE);
		schedule_timeout(5 * HZ);
	} else if (sysfs_streq(value, "lockup")) {
		end = jiffies + 6 * HZ;
		while (time_before(jiffies, end))
			cpu_relax();
	}
	return size;
}

static const struct proc_ops sick_ops = { .proc_write = sick_set };

static int __init sick_init(void)
{
	return proc_create("sick", 0600, NULL, &sick_ops) ? 0 : -ENOMEM;
}

module_init(sick_init);
MODULE_LICENSE("GPL");
"""


@pytest.fixture(scope="module")
def built(kgdb_kernel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built_from(SOURCE, "sick", kgdb_kernel, tmp_path_factory)


@pytest.fixture
def sick(kgdb, built: Path) -> Any:
    """The handle on a kernel with the module in it."""
    kgdb.modules.load(built)
    return kgdb


def trouble(kind: str) -> str:
    return f"(echo {kind} > /proc/sick)"


def line_of(text: str) -> int:
    return SOURCE[: SOURCE.index(text)].count("\n") + 1


def test_a_quiet_kernel_has_none(kgdb) -> None:
    kgdb.run("cat /proc/version")
    assert kgdb.splats == []


def test_a_warning(sick) -> None:
    with sick.expect_splat("sick_warn") as expected:
        assert sick.run(trouble("warn")).status == 0
    (splat,) = sick.splats
    assert expected.splats == [splat]
    assert (splat.kind, splat.comm, splat.cpu) == ("WARN", "sh", 0)
    assert splat.function == "sick_warn"
    assert splat.file.endswith("sick.c")
    assert splat.line == line_of("WARN_ON(")
    assert splat.pid > 1
    assert "O" in splat.taint
    assert splat.time > 0
    assert splat.title.startswith("WARNING: CPU: 0 PID: ")
    assert splat.text.startswith("------------[ cut here ]")
    assert splat.text.splitlines()[-1].startswith("---[ end trace")
    # Our module's own lines, and the kernel's, by our own debug info.
    (frame,) = [entry for entry in splat.frames if entry.function == "sick_set"]
    assert frame.module == "sick"
    assert frame.line == line_of("\t\tsick_warn();")
    (write,) = [entry for entry in splat.frames if entry.function == "vfs_write"]
    assert write.file == "fs/read_write.c"
    assert re.search(r"vfs_write\+0x\w+/0x\w+  \(fs/read_write\.c:\d+", str(splat))


def test_a_warning_with_words(sick) -> None:
    with sick.expect_splat("the module is sick"):
        sick.run(trouble("say"))
    (splat,) = sick.splats
    assert splat.message == "the module is sick: 42"
    assert splat.kind == "WARN"


def test_kinds(sick) -> None:
    with sick.expect_splat("addition on 0; use-after-free", kind="refcount"):
        sick.run(trouble("refcount"))
    with sick.expect_splat("scheduling while atomic", "atomic"):
        sick.run(trouble("atomic"))
    first, second = sick.splats
    assert (first.kind, first.function) == ("refcount", "sick_set")
    assert (second.kind, second.function) == ("atomic", "sick_set")


def test_one_whose_headline_names_its_reporter(sick) -> None:
    sick.run(trouble("refcount"))
    with pytest.raises(SplatError) as caught:
        attachment_of(sick).splats.check()
    assert re.fullmatch(
        r"the kernel reported what the test did not expect: WARNING: .* refcount_warn_saturate\+\S+"
        r": refcount_t: addition on 0; use-after-free, in sick_set at \S+/sick\.c:\d+",
        caught.value.message.splitlines()[0],
    )


def test_a_hung_task(sick) -> None:
    sick.run("echo 1 > /proc/sys/kernel/hung_task_timeout_secs")
    with sick.expect_splat(r"blocked for more than \d+ seconds", kind="hung task"):
        sick.run(trouble("hung"))
    splat = sick.splats[0]
    assert splat.comm == "sh"
    assert splat.function == "sick_set"
    assert {entry.kind for entry in sick.splats} == {"hung task"}


@pytest.mark.slow
def test_a_soft_lockup(sick) -> None:
    sick.run("echo 1 > /proc/sys/kernel/watchdog_thresh")
    with sick.expect_splat("soft lockup - CPU#0 stuck"):
        sick.run(trouble("lockup"))
    splat = sick.splats[0]
    assert (splat.kind, splat.cpu, splat.comm) == ("soft lockup", 0, "sh")
    assert splat.function == "sick_set"


@pytest.mark.kgdb(smp=2)
def test_lines_that_interleave(sick) -> None:
    """Two CPUs print at once: each splat has its own lines, and no other."""
    mark = sick.console.mark()
    with sick.expect_splat("the module is sick"):
        sick.run(trouble("everywhere"))
    splats = sick.splats
    assert sorted(entry.cpu for entry in splats) == [0] * 8 + [1] * 8
    for entry in splats:
        assert entry.kind == "WARN"
        assert entry.message == f"the module is sick: {100 + entry.cpu}"
        assert entry.comm == f"sick/{entry.cpu}"
        assert entry.function == "sick_say"
        assert entry.text.count("RIP: 0010:sick_say") == 1
        assert entry.text.count("---[ end trace") == 1
    # They did not simply come one after the other.
    log = [(line.seq, line.caller) for line in attachment_of(sick).splats.lines()]
    ends = [(entry.seq, entry.seq + entry.text.count("\n")) for entry in splats]
    assert any(len({who for seq, who in log if a <= seq <= b}) > 1 for a, b in ends)
    # With the console alone, which is slower than the log, none is lost but one whose headline is
    # the same as another's of the same microsecond: it is taken for the same record, shown twice.
    sick.resume()
    sick.console.wait_for(rb"(?s)(---\[ end trace.*?){16}", mark=mark, timeout=60)
    sick.interrupt()
    text = sick.console.since(mark).decode().replace("\r", "")
    lines = console_lines(sick.console.since(mark))
    assert {line.caller for line in lines} == {None}, "this kernel's console does not say who"
    seen = find_splats(lines)
    assert {entry.title for entry in seen} == {entry.title for entry in splats}
    heads = re.findall(r"\[ *\d+\.\d+\] WARNING: .*", text)
    titles = [head.partition("] ")[2] for head in heads]
    assert sorted(titles) == sorted(entry.title for entry in splats)
    once = [head.partition("] ")[2] for head in set(heads)]
    assert sorted(once) == sorted(entry.title for entry in seen)


def test_an_oops(sick) -> None:
    sick.type(trouble("null"))
    stop = sick.cont()
    assert stop.reason == "oops"
    assert stop.message == "BUG: kernel NULL pointer dereference, address: 0000000000000000"
    assert stop.registers["rip"] == stop.frame.address
    assert "O" in stop.taint
    assert "D" not in stop.taint, "the kernel notes the death only once it goes on"
    (splat,) = sick.splats
    assert splat.is_fatal
    assert (splat.kind, splat.function) == ("oops", "sick_null")
    assert splat.line == line_of("nowhere->next = NULL")
    assert sick.run("echo alive").output == "alive\n"
    assert len(sick.splats) == 1
    with sick.breakpoint("do_sys_openat2"):
        sick.type("cat /proc/version")
        assert "D" in sick.cont().taint


def test_a_general_protection_fault(sick) -> None:
    sick.type(trouble("wild"))
    stop = sick.cont()
    # The kernel asks its debugger before it says anything, and again after.
    assert (stop.reason, stop.message) == ("oops", "general protection fault")
    assert stop.frame.function == "sick_wild"
    assert sick.splats == []
    stop = sick.cont()
    assert stop.reason == "oops"
    assert re.match(r"(Oops: )?general protection fault, .* 0x1234567890abcdef", stop.message)
    assert stop.frame.function == "sick_wild"
    (splat,) = sick.splats
    assert splat.kind == "general protection"
    assert splat.function == "sick_wild"
    assert sick.run("echo alive").output == "alive\n"


def test_a_call_of_null(sick) -> None:
    """Where per-CPU variables are linked at zero, gdb has a name for NULL."""
    sick.type(trouble("call"))
    stop = sick.cont()
    assert (stop.reason, stop.frame.function, stop.frame.address) == ("oops", None, 0)
    (splat,) = sick.splats
    assert "RIP: 0010:0x0" in splat.text
    caller = stop.frame.up()
    assert (caller.function, caller.line) == ("sick_call", line_of("READ_ONCE(sick_none.set)"))
    assert f" in #0 0x0, called from sick_call at {caller.file}:{caller.line}: BUG: " in repr(stop)
    report = in_a_line(stop)
    assert report.startswith(f"oops in 0x0, called from sick_call at {caller.file}:{caller.line}:")
    assert any("oops in 0x0, sh[" in line for line in sick._actions.lines())
    assert caller.args.summaries() == {"nothing": "0x0"}


def test_an_oops_in_inlined_code(sick) -> None:
    sick.type(trouble("inline"))
    stop = sick.cont()
    assert (stop.reason, stop.frame.level) == ("oops", 0)
    innermost = stop.backtrace()[:3]
    assert [(frame.function, frame.line, frame.inlined) for frame in innermost] == [
        ("sick_deep", line_of("WRITE_ONCE(head->prev"), True),
        ("sick_mid", line_of("sick_deep(head); /*"), True),
        ("sick_inline", line_of("sick_mid(head); /*"), False),
    ]
    assert f"sick_deep at {stop.frame.file}:{stop.frame.line}" in in_a_line(stop)
    assert [frame.evaluate("head") for frame in innermost] == [16, 16, 16]
    assert stop.registers["rip"] == stop.frame.address
    assert sick.execute("frame").startswith("#0  sick_deep")
    (place,) = {line.split("oops in ")[1] for line in sick._actions.lines() if "oops in " in line}
    assert place.startswith("sick_deep (")
    (splat,) = sick.splats
    assert f":{stop.frame.line}, inlined at " in splat.symbolised
    assert sick.run("echo alive").output == "alive\n"


def test_an_oops_of_a_list(sick) -> None:
    sick.type(trouble("list"))
    stop = sick.cont()
    names = [frame.function for frame in stop.backtrace()[:4]]
    assert names == ["__list_del", "__list_del_entry", "list_del", "sick_list"]
    assert stop.frame.file == "include/linux/list.h"
    caller = stop.backtrace()[3]
    assert f", inlined into sick_list at {caller.file}:{caller.line}: " in repr(stop)
    (splat,) = sick.splats
    assert f"{stop.frame.file}:{stop.frame.line}, inlined at " in splat.symbolised


def test_a_breakpoint_at_inlined_code_is_before_it(sick) -> None:
    with sick.breakpoint("sick_inline"):
        sick.type(trouble("inline"))
        stop = sick.cont()
    assert (stop.reason, stop.frame.function) == ("breakpoint", "sick_inline")
    assert stop.frame.line == line_of("sick_mid(head); /*")


def test_null_has_no_name(sick) -> None:
    small = ("(void *)0x10", "(struct page *)0x1000", "(void *)-12L")
    for text in ("init_task.mm", "sick_none.set", *small):
        value = sick.evaluate(text)
        assert value.symbol is None
        assert str(value) == hex(int(value))
    assert sick.evaluate("init_task.mm") != "fixed_percpu_data"
    assert sick.evaluate("sick_none.set") != "fixed_percpu_data"
    assert "{set = 0x0, what = 0x" in str(sick.evaluate("sick_none"))
    assert str(sick.evaluate("sick_none")).endswith(' "0x0 <a>"}')
    assert "<sick_ops>" in str(sick.evaluate("&sick_ops"))


def test_a_bug(sick) -> None:
    sick.type(trouble("bug"))
    stop = sick.cont()
    assert stop.reason == "oops"
    assert re.fullmatch(rf"kernel BUG at .*sick\.c:{line_of('BUG_ON(')}!", stop.message), (
        stop.message
    )
    (splat,) = sick.splats
    assert (splat.kind, splat.line) == ("BUG", line_of("BUG_ON("))


def test_an_expected_oops_does_not_stop_a_command(sick) -> None:
    with sick.expect_splat("NULL pointer dereference", kind="oops"):
        assert sick.run(trouble("null")).status != 0
    assert sick.stopped
    with pytest.raises(GuestCommandError, match="the kernel stopped meanwhile"):
        sick.run(trouble("bug"))


def test_a_breakpoint_that_is_compiled_in(sick) -> None:
    sick.type(trouble("int3"))
    stop = sick.cont()
    assert stop.reason == "int3"
    assert (stop.frame.function, stop.frame.line) == ("sick_int3", line_of("asm volatile"))
    assert sick.evaluate("sick_after") == 1
    assert sick.run("true").status == 0
    assert sick.evaluate("sick_after") == 2, "it went on behind"


def test_a_call_of_the_debugger(sick) -> None:
    sick.type(trouble("break"))
    stop = sick.cont()
    assert stop.reason == "int3"
    assert stop.frame.function == "sick_break"
    assert stop.frame.line == line_of("kgdb_breakpoint();")
    assert sick.evaluate("sick_after") == 3
    assert sick.run("true").status == 0
    assert sick.evaluate("sick_after") == 4


def test_a_panic(sick) -> None:
    sick.type(trouble("panic"))
    stop = sick.cont()
    assert (stop.reason, stop.message) == ("panic", "sick unto death: 7")
    assert stop.frame.function == "sick_set"
    assert stop.frame.file.endswith("sick.c")
    assert [entry.function for entry in stop.backtrace()][stop.frame.level + 1] == "pde_write"
    assert stop.frame.evaluate("value").string() == "panic\n"
    assert sick.evaluate("value").string() == "panic\n", "it is the selected frame"
    assert stop.registers["rip"] == stop.frame.address
    assert sick.splats[0].kind == "panic"


def test_a_panic_on_a_warning(sick) -> None:
    sick.run("echo 1 > /proc/sys/kernel/panic_on_warn")
    sick.type(trouble("say"))
    stop = sick.cont()
    assert stop.reason == "panic"
    assert re.fullmatch(
        r"kernel: panic_on_warn set \.\.\., after WARNING: CPU: 0 PID: \d+ at \S+/sick\.c:\d+ "
        r"sick_say\+\S+ \[sick\]: the module is sick: 42",
        stop.message,
    )
    assert stop.frame.function not in ("kgdb_breakpoint", "kgdb_panic", "panic")
    (splat,) = sick.splats
    assert splat.function == "sick_say"
    assert splat.message == "the module is sick: 42"
    assert splat.is_fatal


def test_an_expected_panic(sick) -> None:
    with sick.expect_splat("sick unto death"):
        sick.run(trouble("panic"))
    assert sick.stop.reason == "panic"


def test_a_panic_that_only_a_command_met(kgdb) -> None:
    with pytest.raises(KernelPanic):
        kgdb.run("echo c > /proc/sysrq-trigger")


def test_one_that_does_not_come(sick) -> None:
    with (
        pytest.raises(SplatError, match="no splat came that matches 'never'"),
        sick.expect_splat("never"),
    ):
        sick.run("true")
    with (
        pytest.raises(SplatError, match=r"(?s)matches 'never'.*<Splat WARN.*sick_warn"),
        sick.expect_splat("never"),
        sick.expect_splat("sick_warn"),
    ):
        sick.run(trouble("warn"))
    with pytest.raises(KgdbError, match="no kind of splat 'woe'") as caught:
        sick.expect_splat("x", kind="woe")
    assert caught.value.by_test


def test_waits_for_it_while_the_kernel_runs(sick) -> None:
    with sick.expect_splat("sick_warn"):
        sick.type(f"sleep 1; {trouble('warn')}")
        sick.resume()
    sick.interrupt()
    with pytest.raises(SplatError), sick.expect_splat("sick_warn", timeout=0.5):
        sick.resume()


def test_that_of_another_place_is_not_it(sick) -> None:
    with sick.expect_splat("sick_warn") as first:
        sick.run(trouble("warn"))
    with pytest.raises(SplatError), sick.expect_splat("sick_warn"):
        sick.run("true")
    assert len(first.splats) == 1


def test_what_came_before_a_restore_has_happened(sick) -> None:
    sick.snapshot("before")
    with sick.expect_splat("sick_warn") as expected:
        sick.run(trouble("warn"))
        sick.restore("before")
        assert sick.splats == []
    assert expected.splats == []
    sick.run(trouble("warn"))
    sick.restore("before")
    with pytest.raises(SplatError, match="sick_warn"):
        attachment_of(sick).splats.check()
    with sick.expect_splat("sick_warn"):
        sick.run(trouble("warn"))


def test_the_log_is_read_where_the_console_is_quiet(sick) -> None:
    sick.run("dmesg -n 1; echo N > /sys/module/printk/parameters/ignore_loglevel")
    mark = sick.console.mark()
    with sick.expect_splat("sick_warn"):
        sick.run(trouble("warn"))
    assert b"sick_warn" not in sick.console.since(mark)


def test_the_console_is_read_where_the_log_has_gone_on(sick) -> None:
    with sick.expect_splat("sick_warn"):
        sick.run(trouble("warn"))
        sick.run("echo on > /proc/sys/kernel/printk_devkmsg")
        line = 200 * "x"
        sick.run(f"i=0; while [ $i -lt 1500 ]; do echo $i {line}; i=$((i+1)); done >/dev/kmsg")
    assert "sick_warn" not in sick.dmesg()
    (splat,) = sick.splats
    assert splat.function == "sick_warn"
    assert splat.text.splitlines()[-1].startswith("---[ end trace")


def test_what_a_program_shows_again_is_no_splat(sick) -> None:
    with sick.expect_splat("sick_warn"):
        sick.run(trouble("warn"))
        sick.run("dmesg")
    assert len(sick.splats) == 1


PANIC = "Kernel panic - not syncing: not at all"


@pytest.mark.parametrize("file", ["console", "kmsg"])
def test_a_panic_that_a_program_writes_is_none(kgdb, file):
    """Of an earlier kernel, say, as pstore keeps it."""
    lines = [f"[    1.000000] {words}" for words in (PANIC, f"---[ end {PANIC} ]---")]
    command = "; ".join(f"echo '{line}' > /dev/{file}" for line in lines)
    assert kgdb.run(f"{command}; sleep 0.5; echo on").output.endswith("on\n")
    with pytest.raises(TimeoutError, match=r"waiting: sleep\[\d+\] in "):
        kgdb.run(f"{command}; sleep 3", timeout=1)
    with pytest.raises(MachineDied, match="the guest has switched the machine off"):
        kgdb.run(f"{command}; poweroff -f")


def test_what_a_program_writes_to_the_log_is_no_splat(sick) -> None:
    words = ["BUG: kernel NULL pointer dereference, address: 00", "<0>WARNING: CPU: 0 PID: 1"]
    words += ["<3>Kernel panic - not syncing: not at all", "INFO: rcu_sched detected stalls"]
    for line in words:
        sick.run(f"echo '{line}' > /dev/kmsg")
    assert "not at all" in sick.dmesg()
    assert sick.splats == []
    with sick.expect_splat("sick_warn"):
        sick.run(f"{trouble('warn')}; echo 'BUG: mine' > /dev/kmsg")
    assert len(sick.splats) == 1
