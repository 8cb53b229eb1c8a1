"""What we read of a real kernel from outside, held against what it says of itself."""

from __future__ import annotations

import hashlib
import re
import time
from typing import Any

import pytest

from pytest_kgdb.errors import KgdbError, StaleError
from pytest_kgdb.handle import attachment_of

MARKER = "pytest-kgdb-marker-7f3a"


def lines(kgdb: Any, command: str) -> list[str]:
    return kgdb.run(command).output.splitlines()


def kgdb_itself(kgdb: Any, address: int, size: int) -> bytes | None:
    """What kgdb reads there; None where it cannot."""
    try:
        with attachment_of(kgdb).relay.without_guest_memory():
            kgdb.execute("maintenance flush dcache")
            reply = attachment_of(kgdb).debugger.command(
                f"-data-read-memory-bytes {address:#x} {size}"
            )
        return bytes.fromhex(reply["memory"][0]["contents"])
    except KgdbError:
        return None
    finally:
        kgdb.execute("maintenance flush dcache")


def test_an_address_may_be_a_signed_number(kgdb) -> None:
    """As a `long` of C's has it: all methods take it alike."""
    signed = int(kgdb.evaluate("(long)&init_task.comm"))
    address = int(kgdb.evaluate("&init_task.comm"))
    assert (signed, address) == (address - (1 << 64), signed & ((1 << 64) - 1))
    kgdb.write(signed, b"swipper")
    assert kgdb.read(signed, 7) == kgdb.read(address, 7) == kgdb.read_user(1, signed, 7)
    assert kgdb.evaluate("init_task.comm") == "swipper/0"
    assert kgdb.physical.virt_to_phys(signed) == kgdb.physical.virt_to_phys(address)
    assert kgdb.read_user(int(kgdb.evaluate("(long)init_mm.pgd")), address, 7) == b"swipper"
    for number in (1 << 64, -(1 << 63) - 1):
        for use in (
            lambda number: kgdb.read(number, 1),
            lambda number: kgdb.write(number, b"a"),
            lambda number: kgdb.read_user(1, number, 1),
            kgdb.physical.virt_to_phys,
        ):
            with pytest.raises(KgdbError, match="is not an address: it has more than 64 bits"):
                use(number)
    with pytest.raises(KgdbError, match="-0x1000 is not a physical address"):
        kgdb.physical.page_owners(-4096)
    with pytest.raises(KgdbError, match=r"no task with pid -\d+\n.*struct task_struct"):
        kgdb.stack_trace(int(kgdb.evaluate("(long)&init_task")))


class TestHelpers:
    """drgn's own helpers agree with the guest's /proc."""

    def test_tasks(self, kgdb) -> None:
        from drgn.helpers.linux.pid import for_each_task

        # Not ps: it would list itself, and workers that come and go.
        listing = {
            int(pid): comm
            for pid, comm in (
                line.split(" ", 1)
                for line in lines(
                    kgdb,
                    "for p in /proc/[0-9]*; do read -r c < $p/comm && echo ${p#/proc/} $c; done",
                )
            )
        }
        seen = {
            task.pid.value_(): task.comm.string_().decode() for task in for_each_task(kgdb.program)
        }
        assert seen[1] == listing[1]
        assert seen[2] == listing[2] == "kthreadd"
        missing = set(listing) ^ set(seen)
        assert len(missing) <= 2, "only a shell or a worker may have come or gone"

    def test_mounts(self, kgdb) -> None:
        from drgn.helpers.linux.fs import for_each_mount, mount_dst, mount_fstype, mount_src
        from drgn.helpers.linux.pid import find_task

        kgdb.run("mkdir -p /tmp/here; mount -t tmpfs -o size=1m from-a-test /tmp/here")
        listing = sorted(tuple(line.split()[:3]) for line in lines(kgdb, "cat /proc/mounts"))
        namespace = find_task(kgdb.program, 1).nsproxy.mnt_ns
        seen = sorted(
            tuple(part(mount).decode() for part in (mount_src, mount_dst, mount_fstype))
            for mount in for_each_mount(namespace)
        )
        assert ("from-a-test", "/tmp/here", "tmpfs") in seen
        assert seen == listing

    def test_modules(self, kgdb) -> None:
        from drgn.helpers.linux.module import for_each_module

        kgdb.run("modprobe dummy")
        listing = {
            line.split()[0]: int(line.split()[5], 16) for line in lines(kgdb, "cat /proc/modules")
        }
        program = kgdb.program
        seen = {module.name.string_().decode(): module for module in for_each_module(program)}
        assert "dummy" in seen
        assert {name: program.module(name).address for name in seen} == listing
        # The kernel's own modules are known with their types and lines, without a word.
        setup = program["dummy_setup"]
        assert program.source_location(setup.address_)[0].filename.endswith("drivers/net/dummy.c")
        assert program["numdummies"].value_() == 1

    def test_memory_map_of_a_process(self, kgdb) -> None:
        from drgn.helpers.linux.mm import for_each_vma
        from drgn.helpers.linux.pid import find_task

        listing = [
            tuple(int(bound, 16) for bound in line.split()[0].split("-"))
            for line in lines(kgdb, "cat /proc/1/maps")
            if "vsyscall" not in line
        ]
        mm = find_task(kgdb.program, 1).mm
        assert [(vma.vm_start.value_(), vma.vm_end.value_()) for vma in for_each_vma(mm)] == listing

    def test_page_cache(self, kgdb) -> None:
        """An xarray, the pages in it, and the direct map that they are read through."""
        import drgn
        from drgn.helpers.linux.fs import path_lookup
        from drgn.helpers.linux.mm import page_to_virt
        from drgn.helpers.linux.xarray import xa_for_each

        kgdb.run(f"i=0; while [ $i -lt 500 ]; do echo {MARKER} $i; i=$((i+1)); done >/tmp/file")
        program = kgdb.program
        inode = path_lookup(program, "/tmp/file").dentry.d_inode
        pages = list(xa_for_each(inode.i_mapping.i_pages.address_of_()))
        assert [index for index, _ in pages] == list(range(len(pages)))
        contents = b"".join(
            program.read(page_to_virt(drgn.cast("struct page *", page)), 4096) for _, page in pages
        )
        expected = "".join(f"{MARKER} {i}\n" for i in range(500)).encode()
        assert contents[: inode.i_size.value_()] == expected

    @pytest.mark.kgdb(smp=2)
    def test_per_cpu(self, kgdb) -> None:
        from drgn.helpers.linux.cpumask import for_each_online_cpu
        from drgn.helpers.linux.percpu import per_cpu

        queues = kgdb.program["runqueues"]
        cpus = list(for_each_online_cpu(kgdb.program))
        assert cpus == [0, 1]
        assert [per_cpu(queues, cpu).cpu.value_() for cpu in cpus] == [0, 1]

    def test_slab(self, kgdb) -> None:
        from drgn.helpers.linux.pid import find_task
        from drgn.helpers.linux.slab import slab_object_info

        task = find_task(kgdb.program, 1)
        info = slab_object_info(kgdb.program, task)
        assert info is not None
        assert info.allocated
        assert info.slab_cache.name.string_() == b"task_struct"

    def test_stacks_of_sleeping_tasks(self, kgdb) -> None:
        from drgn.helpers.linux.pid import find_task, for_each_task

        program = kgdb.program
        own = [line.split("+")[0].split()[-1] for line in lines(kgdb, "cat /proc/2/stack")]
        names = [frame.name for frame in kgdb.program.stack_trace(find_task(program, 2))]
        if own:  # CONFIG_STACKTRACE
            assert names[-len(own) + 1 :] == own[1:] or set(own) <= set(names)
        assert "kthreadd" in names
        for task in for_each_task(program):
            trace = kgdb.stack_trace(task)
            assert len(trace) > 1, f"pid {task.pid.value_()}: {trace}"

    def test_memory_size(self, kgdb) -> None:
        from drgn.helpers.linux.mm import totalram_pages

        (line,) = lines(kgdb, "grep MemTotal /proc/meminfo")
        assert totalram_pages(kgdb.program) * 4 == int(line.split()[1])


class TestReads:
    def test_all_kinds_of_addresses(self, kgdb) -> None:
        """The image, the direct map, and what has page tables of its own."""
        from drgn.helpers.linux.mm import for_each_vmap_area
        from drgn.helpers.linux.pid import find_task

        program = kgdb.program
        banner = program["linux_banner"]
        assert kgdb.read(banner.address_, 14) == b"Linux version "
        task = find_task(program, 1)
        comm = task.comm.address_
        assert kgdb.read(comm, 3).decode() == task.comm.string_().decode()[:3]
        checked = 0
        for area in for_each_vmap_area(program):
            start = area.va_start.value_()
            try:
                assert kgdb.read(start, 64) == program.read(start, 64)
            except KgdbError:
                continue  # reserved, not mapped; or a device's registers
            checked += 1
        assert checked

    @pytest.mark.parametrize(
        "levels",
        [
            pytest.param(5, id="5-levels"),
            pytest.param(4, id="4-levels", marks=pytest.mark.kgdb(append="no5lvl")),
        ],
    )
    def test_by_page_tables_of(self, kgdb, levels: int) -> None:
        """QEMU's CPU has five levels (`la57`), unless the kernel is told not to use them."""
        from drgn.helpers.linux.mm import for_each_vmap_area

        # arch/x86/include/asm/pgtable_64_types.h: PGDIR_SHIFT, __VMALLOC_BASE_L5 and _L4.
        shift, vmalloc = {5: (48, 0xFFA0000000000000), 4: (39, 0xFFFFC90000000000)}[levels]
        assert kgdb.evaluate("pgdir_shift") == shift
        assert kgdb.evaluate("vmalloc_base") == vmalloc
        kgdb.run("modprobe dummy")
        program = kgdb.program
        addresses = [item.va_start.value_() for item in for_each_vmap_area(program)]
        addresses += [program.module("dummy").address, program["jiffies"].address_]
        checked = 0
        for address in addresses:
            # kgdb reads by the CPU's own walk, not by ours.
            theirs = kgdb_itself(kgdb, address, 32)
            if theirs is None:
                continue  # reserved, and nothing is there
            try:
                ours = kgdb.read(address, 32)
            except KgdbError as error:
                if "is not RAM" not in error.message:  # it is where a device's registers are
                    raise
                continue
            assert ours == theirs, f"{address:#x}"
            checked += address >> 48 == vmalloc >> 48
        assert checked > 5
        pid = int(kgdb.run("echo $$").output)
        start = next(
            int(line.split("-")[0], 16)
            for line in lines(kgdb, f"cat /proc/{pid}/maps")
            if "busybox" in line
        )
        assert kgdb.read_user(pid, start, 4) == b"\x7fELF"
        # One with four levels has no such address, and one with five has nothing there.
        with pytest.raises(KgdbError, match={5: "is not mapped", 4: "has 4 levels"}[levels]):
            kgdb.read({5: 0xFFFFC90000000000, 4: 0xFFA0000000000000}[levels], 8)

    def test_what_gdb_writes_is_seen(self, kgdb) -> None:
        limit = kgdb.program["panic_on_oops"]
        before = limit.value_()
        kgdb.assign("panic_on_oops", before + 5)
        assert limit.value_() == before + 5
        assert int.from_bytes(kgdb.read(limit.address_, 4), "little") == before + 5
        kgdb.assign("panic_on_oops", before)
        assert limit.value_() == before

    def test_what_the_guest_writes_is_seen(self, kgdb) -> None:
        limit = kgdb.program["panic_on_oops"]
        copy = limit.read_()
        kgdb.run("echo 1 > /proc/sys/kernel/panic_on_oops")
        assert limit.value_() == 1
        assert copy.value_() == 0, "a value is what it was when it was read"

    def test_unmapped_is_named(self, kgdb) -> None:
        with pytest.raises(KgdbError, match="0x10 is not mapped"):
            kgdb.read(0x10, 4)

    def test_a_running_kernel_is_refused(self, kgdb) -> None:
        program = kgdb.program
        jiffies, matches = program["jiffies"], kgdb.physical.find(b"Linux version")
        kgdb.resume()
        for use in (jiffies.value_, lambda: next(matches)):
            with pytest.raises(StaleError, match="running"):
                use()
        for use in (
            lambda: kgdb.program,
            lambda: kgdb.physical,
            kgdb.dmesg,
            lambda: kgdb.read(jiffies.address_, 8),
            lambda: kgdb.stack_trace(2),
            lambda: kgdb.read_user(1, 0x400000, 1),
        ):
            with pytest.raises(StaleError, match="stop it first"):
                use()
        kgdb.interrupt()
        assert kgdb.program is program
        assert jiffies.value_() == program["jiffies"].value_()

    def test_typed_reads_are_fast(self, kgdb) -> None:
        """DESIGN §6: at least 100 times what gdb reads through kgdb."""
        pid = kgdb.program["init_task"].pid

        def rate(read: Any, count: int) -> float:
            start = time.perf_counter()
            for _ in range(count):
                read()
            return count / (time.perf_counter() - start)

        ratios = [
            rate(pid.value_, 5000) / rate(lambda: int(kgdb.evaluate("init_task.pid")), 50)
            for _ in range(3)
        ]
        assert sorted(ratios)[1] >= 100


class TestPhysical:
    def test_a_string_that_a_process_holds(self, kgdb) -> None:
        # busybox takes the name of its applet only when it is under way.
        named = "while read c < /proc/$!/comm && [ $c != sleep ]; do :; done"
        pid = int(kgdb.run(f"SECRET={MARKER} sleep 1000 >/dev/null & {named}; echo $!").output)
        needle = f"SECRET={MARKER}".encode()
        matches = [
            owner
            for address in kgdb.physical.find(needle)
            for owner in kgdb.physical.page_owners(address)
        ]
        (mine,) = [owner for owner in matches if owner.pid == pid]
        assert mine.comm == "sleep"
        for task in (pid, mine.task, mine.task.mm):
            assert kgdb.read_user(task, mine.address, len(needle)) == needle

    def test_translation(self, kgdb) -> None:
        from drgn.helpers.linux.mm import virt_to_phys
        from drgn.helpers.linux.pid import find_task

        physical = kgdb.physical
        task = find_task(kgdb.program, 1).value_()
        address = physical.virt_to_phys(task)
        assert address == virt_to_phys(kgdb.program, task).value_()
        assert physical.phys_to_virt(address) == task
        assert physical.read(address, 256) == kgdb.read(task, 256)

    def test_a_write_is_seen_by_the_guest(self, kgdb) -> None:
        limit = kgdb.program["panic_on_oops"]
        kgdb.physical.write(kgdb.physical.virt_to_phys(limit.address_), b"\x01")
        assert limit.value_() == 1
        assert kgdb.run("cat /proc/sys/kernel/panic_on_oops").output == "1\n"

    def test_kernel_threads_have_no_memory(self, kgdb) -> None:
        with pytest.raises(KgdbError, match="kernel thread"):
            kgdb.read_user(2, 0x400000, 1)
        with pytest.raises(KgdbError, match="no task with pid 4194000"):
            kgdb.read_user(4194000, 0x400000, 1)

    @pytest.mark.kgdb(memory=4608)
    def test_memory_above_the_pci_hole(self, kgdb) -> None:
        kgdb.run(f"echo {MARKER} > /tmp/file")
        matches = list(kgdb.physical.find(MARKER.encode()))
        assert max(matches) >= 4 << 30
        with pytest.raises(KgdbError, match="is not RAM"):
            kgdb.physical.read(0xFFFFF000, 4)


class TestDmesg:
    def test_as_the_guest_prints_it(self, kgdb) -> None:
        kgdb.run(f"echo {MARKER} > /dev/kmsg; printf 'two\\nlines' > /dev/kmsg")
        # Not the text itself: on the console, the kernel's messages mix with a command's output.
        count, digest, _ = kgdb.run(
            "dmesg > /tmp/dmesg; wc -l < /tmp/dmesg; md5sum < /tmp/dmesg"
        ).output.split()
        ours = kgdb.dmesg().splitlines(keepends=True)
        assert any(MARKER in line for line in ours)
        # What kgdb itself says of the stop comes after.
        own = "".join(ours[: int(count)]).encode()
        assert hashlib.md5(own).hexdigest() == digest

    @pytest.mark.kgdb(at="kgdbwait", stub="kgdb")
    def test_early(self, kgdb) -> None:
        text = kgdb.dmesg()
        assert re.match(r"\[ +0\.000000\] Linux version ", text)
        assert "KGDB" in text
        assert kgdb.program["system_state"].value_() < kgdb.program["SYSTEM_RUNNING"].value_()

    def test_in_a_panic(self, kgdb) -> None:
        kgdb.type("echo c > /proc/sysrq-trigger")
        stop = kgdb.cont()
        assert stop.reason == "panic"
        assert "sysrq triggered crash" in kgdb.dmesg()
        names = [frame.name for frame in kgdb.stack_trace(stop.task.pid)]
        assert "sysrq_handle_crash" in names
