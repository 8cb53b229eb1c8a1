"""Debug info and memory of modules that come and go."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest
from guest_files import built_from, put_file

from pytest_kgdb.errors import KgdbError

MODULES = Path(__file__).parent / "modules"

SOURCE = r"""
#include <linux/kthread.h>
#include <linux/module.h>
#include <linux/percpu.h>
#include <linux/slab.h>
#include <linux/vmalloc.h>

struct sample_item { int number; char name[16]; struct list_head list; };

static LIST_HEAD(samples);
static struct sample_item sample_one __used = { .number = 4242, .name = "static" };
static const char sample_text[] __used = "read-only text";
static int sample_runs __used;
static int option = 5;
static DEFINE_PER_CPU(int, sample_each) = 77;
static unsigned char *large;
static struct task_struct *sleeper;
module_param(option, int, 0644);

static noinline int sample_sleeper(void *unused)
{
	sample_runs++;
	set_current_state(TASK_INTERRUPTIBLE);
	while (!kthread_should_stop()) {
		schedule();
		set_current_state(TASK_INTERRUPTIBLE);
	}
	__set_current_state(TASK_RUNNING);
	return 0;
}

static int __init sample_init(void)
{
	int i;

	for (i = 0; i < 3; i++) {
		struct sample_item *s = kzalloc(sizeof(*s), GFP_KERNEL);

		s->number = 100 + i;
		list_add_tail(&s->list, &samples);
	}
	this_cpu_inc(sample_each);
	large = vmalloc(5 * PAGE_SIZE);
	for (i = 0; i < 5 * PAGE_SIZE; i++)
		large[i] = i / 7;
	sleeper = kthread_run(sample_sleeper, NULL, "sample_sleeper");
	while (!READ_ONCE(sample_runs))
		schedule_timeout_uninterruptible(1);
	return 0;
}

static void __exit sample_exit(void)
{
	struct sample_item *s, *next;

	kthread_stop(sleeper);
	list_for_each_entry_safe(s, next, &samples, list)
		kfree(s);
	vfree(large);
}

module_init(sample_init);
module_exit(sample_exit);
MODULE_LICENSE("GPL");
"""


@pytest.fixture(scope="module")
def built(kgdb_kernel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The module, built against the kernel under test."""
    return built_from(SOURCE, "sample", kgdb_kernel, tmp_path_factory)


@pytest.fixture
def sample(kgdb, built: Path) -> Any:
    """The handle, with the module in the guest as /tmp/sample.ko."""
    put_file(kgdb, built.read_bytes(), "/tmp/sample.ko")
    kgdb.modules.known(built)
    return kgdb


def load(kgdb: Any, *parameters: str) -> None:
    done = kgdb.run(f"insmod /tmp/sample.ko {' '.join(parameters)}")
    assert done.status == 0, done.output


def test_types_symbols_and_all_sections(sample) -> None:
    from drgn.helpers.linux.list import list_for_each_entry
    from drgn.helpers.linux.percpu import per_cpu

    load(sample, "option=9")
    program = sample.program
    one = program["sample_one"]
    assert one.number.value_() == 4242  # .data
    assert one.name.string_() == b"static"
    assert program["sample_runs"].value_() == 1  # .bss
    assert program["sample_text"].string_() == b"read-only text"  # .rodata
    assert program["option"].value_() == 9
    assert per_cpu(program["sample_each"], 0).value_() == 78
    assert [
        item.number.value_()
        for item in list_for_each_entry(
            "struct sample_item", program["samples"].address_of_(), "list"
        )
    ] == [100, 101, 102]
    (line,) = sample.run("grep ^sample /proc/modules").output.splitlines()
    (text,) = sample.run("cat /sys/module/sample/sections/.text").output.split()
    module = sample.program.module("sample")
    assert module.address == int(line.split()[5], 16)
    assert program.symbol("sample_sleeper").address == int(text, 16)
    assert sample.read(one.address_, 4) == (4242).to_bytes(4, "little")


def test_vmalloc(sample) -> None:
    load(sample)
    address = sample.program["large"].value_()
    expected = bytes(i // 7 & 0xFF for i in range(5 * 4096))
    assert sample.read(address, len(expected)) == expected
    assert sample.program.read(address, len(expected)) == expected
    pages = {sample.physical.virt_to_phys(address + i * 4096) for i in range(5)}
    assert len(pages) == 5
    with pytest.raises(KgdbError, match=f"{address + 5 * 4096:#x} is not mapped"):
        sample.read(address + 4096, 5 * 4096)  # vmalloc leaves a guard page


def test_stack_through_the_module(sample) -> None:
    load(sample)
    trace = sample.stack_trace(sample.program["sleeper"])
    names = [frame.name for frame in trace]
    assert names[names.index("sample_sleeper") + 1] == "kthread"
    frame = trace[names.index("sample_sleeper")]
    assert frame.source()[0].endswith("sample.c")


def test_unloaded_and_loaded_again(sample) -> None:
    import drgn

    before = sample.program
    with pytest.raises(LookupError):
        before["sample_one"]
    load(sample)
    first = sample.program
    assert first is before, "objects from before the module was loaded stay usable"
    task = first["init_task"]
    sample.run("rmmod sample")
    without = sample.program
    with pytest.raises(LookupError):
        without["sample_one"]
    assert task.pid.value_() == 0
    with pytest.raises(drgn.FaultError):
        first["sample_one"].number.value_()
    load(sample)
    assert sample.program["sample_one"].number.value_() == 4242


def test_known_before_its_init_runs(sample) -> None:
    sample.breakpoint("do_init_module", temporary=True)
    sample.type("insmod /tmp/sample.ko")
    sample.cont()
    program = sample.program
    assert program["sample_one"].number.value_() == 4242
    assert program["sample_runs"].value_() == 0
    init = program.symbol("sample_init").address
    assert program.source_location(init)[0].filename.endswith("sample.c")
    assert program["sample_init"].address_ == init
    assert int(sample.evaluate("mod->init")) == init
    assert sample.run("cat /sys/module/sample/initstate").output == "live\n"
    assert sample.program["sample_runs"].value_() == 1


def test_a_program_that_is_replaced_is_freed_at_once(kgdb):
    """Each is as large as the index of vmlinux, and a garbage collection may not come."""
    import drgn

    def programs() -> int:
        return sum(isinstance(one, drgn.Program) for one in gc.get_objects())

    def replace_program() -> None:
        kgdb.modules.load(MODULES / "demo")
        kgdb.program["init_task"].comm.string_()
        kgdb.run("rmmod demo")

    gc.collect()
    gc.disable()
    try:
        replace_program()
        # Other machines of the session may hold theirs: what counts is that none is added.
        before = programs()
        for _ in range(3):
            replace_program()
        after = programs()
    finally:
        gc.enable()
    assert after == before
