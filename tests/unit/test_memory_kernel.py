"""KernelMemory on a guest that is only a file: finding the kernel, staleness, drgn's view."""

from __future__ import annotations

import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_guest import BUILD_ID, START_KERNEL_MAP, FakeGuest, Image
from test_memory_printk import VMCOREINFO, Ring

from pytest_kgdb.errors import ConfigError, DebuggerDied, KgdbError, StaleError
from pytest_kgdb.kernel import StopLayout, Vmlinux
from pytest_kgdb.memory import (
    KernelMemory,
    ModuleFiles,
    PacketMemory,
    Ram,
    RelayMemory,
    ram_layout,
)
from pytest_kgdb.memory._backing import DebuggerBacking, RamBacking
from pytest_kgdb.memory._console_log import ConsoleLog
from pytest_kgdb.memory._pagetable import PageTable
from pytest_kgdb.memory._placement import place
from pytest_kgdb.memory._vmcoreinfo import parse, vmcoreinfo

MIB = 1 << 20


class Run:
    """Whether the kernel is stopped, and how often it has run."""

    def __init__(self) -> None:
        self.stopped = True
        self.generation = 0


def make(guest: FakeGuest, run: Run | None = None) -> KernelMemory:
    run = run or Run()
    return KernelMemory(
        vmlinux=guest.vmlinux,
        ram=guest.path,
        memory_bytes=guest.memory,
        stop_state=run,
    )


class TestPlacement:
    @pytest.mark.parametrize("levels", [4, 5])
    @pytest.mark.parametrize(
        ("shift", "offset"), [(0, 0), (32 * MIB, 0), (0, 512 * MIB), (32 * MIB, 6 * MIB)]
    )
    def test_wherever_it_was_loaded(
        self, tmp_path: Path, levels: int, shift: int, offset: int
    ) -> None:
        guest = FakeGuest(tmp_path, levels=levels, shift=shift, offset=offset)
        memory = make(guest)
        assert memory.read(guest.address("some_text"), 9) == b"some text"
        assert memory.read(guest.page_offset + guest.phys("some_text"), 9) == b"some text"

    def test_it_is_looked_for_once(self, tmp_path: Path) -> None:
        guest = FakeGuest(tmp_path, shift=32 * MIB)
        vmlinux, ram = Vmlinux(guest.vmlinux), Ram(guest.path, ram_layout(guest.memory))
        placement, guess = place(vmlinux, ram)
        assert guess == 32 * MIB
        ram.find = None  # type: ignore[assignment,method-assign]
        assert place(vmlinux, ram, guess) == (placement, guess)

    def test_a_copy_of_the_banner_elsewhere(self, tmp_path: Path) -> None:
        guest = FakeGuest(tmp_path, shift=32 * MIB)
        decoy = guest.TEXT - START_KERNEL_MAP + guest.SYMBOLS["linux_banner"]
        guest.poke(decoy, Vmlinux(guest.vmlinux).banner)
        guest.poke_u64(decoy + 0x1000, 0x1234567)  # where phys_base would be
        assert make(guest).read(guest.address("some_text"), 9) == b"some text"

    def test_another_kernel(self, tmp_path: Path) -> None:
        guest = FakeGuest(tmp_path)
        guest.poke(guest.phys("linux_banner"), b"Linux version 6.1.192-other")
        with pytest.raises(
            KgdbError, match=r"does not hold the kernel of .*vmlinux(.|\n)*same build"
        ):
            make(guest).read(0, 1)

    def test_kernel_without_dynamic_layout(self, tmp_path: Path) -> None:
        guest = FakeGuest(tmp_path, levels=4)
        image = Image()
        image.section(".rodata", Vmlinux(guest.vmlinux).banner, guest.address("linux_banner"))
        for name in ("linux_banner", "phys_base", "init_top_pgt"):
            image.symbol(name, guest.address(name))
        image.write(guest.vmlinux)
        assert make(guest).physical.phys_to_virt(0x1000) == 0xFFFF888000001000


class TestVmcoreinfo:
    def info(self, guest: FakeGuest) -> dict[str, str]:
        memory = RamBacking(Vmlinux(guest.vmlinux), Ram(guest.path, ram_layout(guest.memory)))
        memory.refresh()
        return parse(vmcoreinfo(memory.vmlinux, memory.placement, memory.read))

    def give(self, guest: FakeGuest, text: str) -> None:
        page = guest.page()
        guest.poke(page, text.encode())
        guest.poke_u64(guest.phys("vmcoreinfo_data"), guest.page_offset + page)
        guest.poke_u64(guest.phys("vmcoreinfo_size"), len(text))

    def test_ours_in_early_boot(self, tmp_path: Path) -> None:
        guest = FakeGuest(tmp_path, shift=32 * MIB, offset=6 * MIB)
        assert self.info(guest) == {
            "OSRELEASE": "6.1.192-fake",
            "BUILD-ID": BUILD_ID.hex(),
            "PAGESIZE": "4096",
            "SYMBOL(swapper_pg_dir)": f"{guest.address('init_top_pgt'):x}",
            "NUMBER(SECTION_SIZE_BITS)": "27",
            "NUMBER(MAX_PHYSMEM_BITS)": "52",
            "LENGTH(mem_section)": "131072",
            "NUMBER(phys_base)": str(26 * MIB),
            "NUMBER(pgtable_l5_enabled)": "1",
            "KERNELOFFSET": f"{6 * MIB:x}",
        }

    def test_the_guests_own(self, tmp_path: Path) -> None:
        guest = FakeGuest(tmp_path)
        text = "".join(f"{name}={value}\n" for name, value in self.info(guest).items())
        self.give(guest, text + "SIZE(page)=64\n")
        assert self.info(guest)["SIZE(page)"] == "64"

    @pytest.mark.parametrize(
        "damaged", ["", "OSRELEASE=5.4.0\nPAGESIZE=4096\n", "\xff\xfe", "OSRELEASE=6.1.192-fake\n"]
    )
    def test_a_damaged_one_is_not_believed(self, tmp_path: Path, damaged: str) -> None:
        guest = FakeGuest(tmp_path)
        ours = self.info(guest)
        self.give(guest, damaged)
        assert self.info(guest) == ours

    def test_wild_pointers(self, tmp_path: Path) -> None:
        guest = FakeGuest(tmp_path)
        ours = self.info(guest)
        self.give(guest, "OSRELEASE=6.1.192-fake\n")
        guest.poke_u64(guest.phys("vmcoreinfo_size"), 1 << 60)
        assert self.info(guest) == ours
        guest.poke_u64(guest.phys("vmcoreinfo_size"), 100)
        guest.poke_u64(guest.phys("vmcoreinfo_data"), 0xDEAD)
        assert self.info(guest) == ours


class TestStaleness:
    USES: tuple[Callable[[KernelMemory], object], ...] = (
        lambda memory: memory.read(0, 1),
        lambda memory: memory.read_user(1, 0, 1),
        lambda memory: memory.dmesg(),
        lambda memory: memory.program,
        lambda memory: memory.stack_trace(1),
        lambda memory: memory.physical.read(0, 1),
        lambda memory: memory.physical.write(0, b"x"),
        lambda memory: memory.physical.find(b"x"),
        lambda memory: memory.physical.virt_to_phys(0),
        lambda memory: memory.physical.phys_to_virt(0),
        lambda memory: memory.physical.page_owners(0),
    )

    @pytest.mark.parametrize("use", USES)
    def test_a_running_kernel_is_not_read(
        self, tmp_path: Path, use: Callable[[KernelMemory], object]
    ) -> None:
        run = Run()
        memory = make(FakeGuest(tmp_path), run)
        run.stopped = False
        with pytest.raises(StaleError, match=r"the kernel is running.*\n.*interrupt\(\)"):
            use(memory)

    @pytest.mark.parametrize("use", USES)
    def test_nor_one_that_is_gone(
        self, tmp_path: Path, use: Callable[[KernelMemory], object]
    ) -> None:
        memory = make(FakeGuest(tmp_path))
        memory.close()
        memory.close()
        with pytest.raises(StaleError, match="is gone"):
            use(memory)

    def test_a_search_ends_when_the_kernel_moves(self, tmp_path: Path) -> None:
        run = Run()
        memory = make(FakeGuest(tmp_path), run)
        started, fresh = (memory.physical.find(bytes(8)) for _ in range(2))
        next(started)
        run.stopped = False
        for search in (started, fresh):
            with pytest.raises(StaleError):
                next(search)

    def test_the_next_stop_shows_new_memory(self, tmp_path: Path) -> None:
        run = Run()
        guest = FakeGuest(tmp_path)
        memory = make(guest, run)
        other = guest.page()
        guest.poke(other, b"new")
        assert memory.physical.virt_to_phys(guest.page_offset) == 0
        guest.poke_u64(guest.phys("page_offset_base"), 0xFFFF888000000000)
        assert memory.physical.phys_to_virt(0) == guest.page_offset
        run.generation += 1
        assert memory.physical.phys_to_virt(0) == 0xFFFF888000000000

    def test_invalidate(self, tmp_path: Path) -> None:
        guest = FakeGuest(tmp_path)
        memory = make(guest)
        assert memory.physical.phys_to_virt(0) == guest.page_offset
        guest.poke_u64(guest.phys("page_offset_base"), 0xFFFF888000000000)
        memory.invalidate()
        assert memory.physical.phys_to_virt(0) == 0xFFFF888000000000

    def test_a_paused_machine(self, tmp_path: Path) -> None:
        """QEMU has paused it, and the kernel has not stopped by itself."""
        run = Run()
        guest = FakeGuest(tmp_path)
        memory = make(guest, run)
        assert memory.physical.phys_to_virt(0) == guest.page_offset
        guest.poke_u64(guest.phys("page_offset_base"), 0xFFFF888000000000)
        run.stopped = False
        with memory.paused():
            assert memory.physical.phys_to_virt(0) == 0xFFFF888000000000
            with memory.paused():
                pass
            memory.read(guest.address("some_text"), 9)
        with pytest.raises(StaleError):
            memory.read(guest.address("some_text"), 9)

    def test_drgn_objects_of_a_running_kernel(self, tmp_path: Path) -> None:
        import drgn

        run = Run()
        guest = FakeGuest(tmp_path)
        kernel = make(guest, run)
        kernel.read(guest.address("some_text"), 1)
        program = drgn.Program(drgn.Platform(drgn.Architecture.X86_64))
        memory = kernel._memory
        program.set_linux_kernel_custom(
            vmcoreinfo(memory.vmlinux, memory.placement, memory.read), is_live=True
        )
        for segment in memory.segments(kernel._check):
            program.add_memory_segment(*segment)
        guest.map(0xFFFFC90000001000, guest.phys("some_text") & ~0xFFF)
        places = [
            guest.address("some_text"),
            guest.page_offset + guest.phys("some_text"),
            0xFFFFC90000001000 + guest.phys("some_text") % 4096,
        ]
        objects = [drgn.Object(program, program.int_type("u", 4, False), address=a) for a in places]
        assert [o.value_() for o in objects] == [int.from_bytes(b"some", "little")] * 3
        guest.poke(guest.phys("some_text"), b"SOME")
        assert [o.value_() for o in objects] == [int.from_bytes(b"SOME", "little")] * 3
        run.stopped = False
        for number in objects:
            with pytest.raises(StaleError, match="the kernel is running"):
                number.value_()


class TestUser:
    @pytest.fixture
    def guest(self, tmp_path: Path) -> FakeGuest:
        return FakeGuest(tmp_path)

    def test_by_page_table(self, guest: FakeGuest) -> None:
        root, page = guest.page(), guest.page()
        guest.map(0x400000, page, root=root)
        guest.poke(page + 16, b"user data")
        memory = make(guest)
        pgd = guest.page_offset + root
        assert memory.read_user(pgd, 0x400010, 9) == b"user data"
        with pytest.raises(KgdbError, match="0x500000 is not mapped in the page tables of the"):
            memory.read_user(pgd, 0x500000, 1)

    def test_physical(self, guest: FakeGuest) -> None:
        physical = make(guest).physical
        page = guest.page()
        physical.write(page, b"marker")
        assert physical.read(page, 6) == b"marker"
        assert list(physical.find(b"marker")) == [page]
        assert list(physical.find(b"marker", start=page + 1)) == []
        virtual = physical.phys_to_virt(page)
        assert virtual == guest.page_offset + page
        assert physical.virt_to_phys(virtual) == page
        with pytest.raises(KgdbError, match="is not RAM"):
            physical.phys_to_virt(guest.memory)
        with pytest.raises(ValueError, match="empty"):
            next(physical.find(b""))


def give_log(guest: FakeGuest, ring: Ring) -> None:
    """Have a guest with a log."""
    ring.finish()
    memory = bytes(ring.memory)
    start = guest.page(len(memory) >> 12)
    # The ring's own pointers are to addresses below 64 KiB: map it there.
    for at in range(0, len(memory), 0x1000):
        guest.poke(start + at, memory[at : at + 0x1000])
        guest.map(at, start + at)
    guest.poke_u64(guest.phys("prb"), 0x1000)
    info = TestVmcoreinfo()
    ours = "".join(f"{name}={value}\n" for name, value in info.info(guest).items())
    info.give(guest, ours + VMCOREINFO)


class TestDmesg:
    def test_by_vmcoreinfo(self, tmp_path: Path) -> None:
        guest = FakeGuest(tmp_path)
        ring = Ring()
        ring.say(b"hello", at=5 * 10**9)
        give_log(guest, ring)
        assert make(guest).dmesg() == "[    5.000000] hello\n"

    def test_a_vmlinux_without_debug_info_is_named(self, tmp_path: Path) -> None:
        guest = FakeGuest(tmp_path)
        with pytest.raises(KgdbError, match=r"vmlinux cannot be used.*no debug info.*\n.*DWARF"):
            make(guest).dmesg()  # early boot: no VMCOREINFO to tell the layout


class TestThroughDebugger:
    def make(
        self, guest: FakeGuest, read: Callable[[int, int], bytes], run: Run | None = None
    ) -> KernelMemory:
        run = run or Run()
        return KernelMemory.through_debugger(
            vmlinux=guest.vmlinux,
            read=read,
            stop_state=run,
            kernel_offset=guest.offset,
        )

    @pytest.mark.parametrize("offset", [0, 6 * MIB])
    def test_same_reads(self, tmp_path: Path, offset: int) -> None:
        guest = FakeGuest(tmp_path, offset=offset)
        own = make(guest)
        memory = self.make(guest, own.read)
        assert memory.read(guest.address("some_text"), 9) == b"some text"
        physical = memory.physical
        assert physical.read(guest.phys("some_text"), 9) == b"some text"
        assert physical.virt_to_phys(guest.address("some_text")) == guest.phys("some_text")
        assert physical.phys_to_virt(5) == guest.page_offset + 5
        root, page = guest.page(), guest.page()
        guest.map(0x400000, page, root=root)
        guest.poke(page, b"user")
        assert memory.read_user(guest.page_offset + root, 0x400000, 4) == b"user"
        memory.close()

    def test_what_it_cannot(self, tmp_path: Path) -> None:
        guest = FakeGuest(tmp_path)
        own = make(guest)
        memory = self.make(guest, own.read)
        physical = memory.physical
        with pytest.raises(KgdbError, match="a dump needs the file of the guest's RAM"):
            memory.require_ram()
        assert own.require_ram().holds(guest.phys("some_text"))
        with pytest.raises(KgdbError, match=r"cannot write 1 bytes at 0x5: .*kgdb only"):
            physical.write(5, b"x")
        with pytest.raises(KgdbError, match="cannot look for b'x'"):
            physical.find(b"x")

    def test_the_log_is_read_in_blocks(self, tmp_path: Path) -> None:
        guest = FakeGuest(tmp_path)
        ring = Ring()
        for number in range(20):
            ring.say(b"line %d" % number, at=number * 10**9)
        give_log(guest, ring)
        own = make(guest)
        reads: list[tuple[int, int]] = []

        def read(address: int, size: int) -> bytes:
            reads.append((address, size))
            return own.read(address, size)

        memory = self.make(guest, read)
        assert memory.dmesg() == own.dmesg()
        assert len(reads) < 40  # and not three for each line
        assert len(set(reads)) == len(reads)
        end = memory.dmesg_end()
        assert own.dmesg().endswith(end)
        assert end.count("\n") == 3

    def test_what_is_beside_a_hole(self, tmp_path: Path) -> None:
        """A block that is not mapped whole is no reason not to read what is."""
        guest = FakeGuest(tmp_path)
        own = make(guest)
        end = guest.page()
        guest.map(0xFFFFC90000001000, end)
        guest.poke(end + 0xF00, b"the end")

        def read(address: int, size: int) -> bytes:
            if address + size > 0xFFFFC90000001F80:
                raise KgdbError("not mapped")
            return own.read(address, size)

        backing = DebuggerBacking(Vmlinux(guest.vmlinux), read, 0)
        many = backing.many_reads()
        assert many(0xFFFFC90000001F00, 7) == b"the end"
        with pytest.raises(KgdbError, match="not mapped"):
            many(0xFFFFC90000001F7F, 2)

    def test_drgn_reads_through_it(self, tmp_path: Path) -> None:
        import drgn

        guest = FakeGuest(tmp_path)
        own = make(guest)
        dead = False

        def read(address: int, size: int) -> bytes:
            if dead:
                raise DebuggerDied("gdb is gone")
            return own.read(address, size)

        memory = DebuggerBacking(Vmlinux(guest.vmlinux), read, 0)
        memory.refresh()
        program = drgn.Program(drgn.Platform(drgn.Architecture.X86_64))
        for segment in memory.segments(lambda: None):
            program.add_memory_segment(*segment)
        assert program.read(guest.address("some_text"), 9) == b"some text"
        assert program.read(guest.phys("some_text"), 9, physical=True) == b"some text"
        with pytest.raises(drgn.FaultError, match="0x10 is not mapped"):
            program.read(0x10, 1)
        dead = True
        with pytest.raises(DebuggerDied):
            program.read(0x10, 1)


def test_memory_by_packets(tmp_path: Path) -> None:
    """What the relay reads and writes where the RAM is not ours."""
    guest = FakeGuest(tmp_path)
    with guest.path.open("r+b") as file:
        ours = RelayMemory(guest.vmlinux, file, guest.memory, "pc")
    memory = PacketMemory(guest.vmlinux, ours.read, ours.write, TestUserMemory.LAYOUT)
    text = guest.address("some_text")
    assert memory.read(text, 9) == b"some text"
    memory.check_mapped(text, 9)
    with pytest.raises(KgdbError, match="not mapped"):
        memory.check_mapped(0x10, 1)
    memory.write(text, b"more text")
    assert ours.read(text, 9) == b"more text"
    memory.close()
    ours.close()


def test_the_relays_mapping(tmp_path: Path) -> None:
    guest = FakeGuest(tmp_path)
    with guest.path.open("r+b") as file:
        memory = RelayMemory(guest.vmlinux, file, guest.memory, "pc")
    assert memory.read(guest.address("some_text"), 9) == b"some text"
    # Over the border of two pages that are not neighbours.
    first, second = guest.page(), guest.page(2) + 0x1000
    guest.map(0xFFFFC90000001000, first)
    guest.map(0xFFFFC90000002000, second)
    memory.write(0xFFFFC90000001FFE, b"abcd")
    assert memory.read(0xFFFFC90000001FFC, 6) == b"\0\0abcd"
    assert guest.peek_u64(second) == int.from_bytes(b"cd", "little")
    with pytest.raises(KgdbError, match="0x10 is not mapped"):
        memory.write(0x10, b"x")
    guest.poke(guest.phys("linux_banner"), bytes(8))
    with pytest.raises(KgdbError, match="does not hold the kernel"):
        memory.refresh()
    memory.close()
    memory.close()


class TestConsoleLog:
    """What the console has printed, by the number that its driver keeps."""

    def make(
        self, guest: FakeGuest, ring: Ring, printed: int, *, loglevel: int = 7, anyway: bool = False
    ) -> ConsoleLog:
        give_log(guest, ring)
        driver = guest.page()
        guest.poke_u64(driver, guest.page_offset + driver + 0x100)
        guest.poke_u64(driver + 0x108, printed)
        guest.poke(guest.phys("console_printk"), struct.pack("<I", loglevel))
        guest.poke(guest.phys("ignore_loglevel"), bytes([anyway]))
        layout = replace(
            TestUserMemory.LAYOUT, console_driver=guest.page_offset + driver, console_seq=8
        )
        with guest.path.open("r+b") as file:
            memory = RelayMemory(guest.vmlinux, file, guest.memory, "pc", layout)
        assert memory.console_log is not None
        return memory.console_log

    def make_ring(self) -> Ring:
        ring = Ring()
        for number, level in enumerate((4, 7, 4, 6, 4)):
            ring.say(b"%d\nmore" % number if number == 3 else b"%d" % number, level=level)
        return ring

    def test_what_was_printed(self, tmp_path: Path) -> None:
        log = self.make(FakeGuest(tmp_path), self.make_ring(), 4)
        assert log.position() == 4
        lines = log.printed(1)
        assert lines is not None
        # The second is not urgent enough. The last is printed now, or not yet.
        assert [line.text for line in lines] == ["2", "3", "more", "4"]

    def test_the_level(self, tmp_path: Path) -> None:
        cases: tuple[tuple[dict[str, Any], list[str]], ...] = (
            ({"loglevel": 5}, ["0", "2", "4"]),
            ({"anyway": True}, ["0", "1", "2", "3", "more", "4"]),
        )
        for number, (options, texts) in enumerate(cases):
            directory = tmp_path / str(number)
            directory.mkdir()
            log = self.make(FakeGuest(directory), self.make_ring(), 4, **options)
            assert [line.text for line in log.printed(0) or ()] == texts

    def test_what_is_not_known(self, tmp_path: Path) -> None:
        guest = FakeGuest(tmp_path)
        ring = Ring()
        for number in range(20):
            ring.say(b"%d" % number, level=4)
        log = self.make(guest, ring, 18)
        assert log.printed(5) is None, "it was overwritten"
        assert log.printed(19) is None, "the kernel is another one"
        guest.poke_u64(guest.phys("prb"), 0x123456)
        assert log.printed(17) is None
        assert ConsoleLog(log._backing, TestUserMemory.LAYOUT).position() is None
        wild = replace(TestUserMemory.LAYOUT, console_driver=0x123456, console_seq=0)
        assert ConsoleLog(log._backing, wild).position() is None


class TestUserMemory:
    """Of a task that the kernel's structures lead to."""

    LAYOUT = StopLayout(current_task=0, task_mm=0, task_pid=8, task_comm=12, mm_pgd=16)
    WRITABLE = 2

    @pytest.fixture(params=(4, 5))
    def guest(self, tmp_path: Path, request: pytest.FixtureRequest) -> FakeGuest:
        return FakeGuest(tmp_path, levels=request.param)

    @pytest.fixture(params=("mapped", "by packets"))
    def memory(
        self, guest: FakeGuest, request: pytest.FixtureRequest
    ) -> Iterator[RelayMemory | PacketMemory]:
        with guest.path.open("r+b") as file:
            memory = RelayMemory(guest.vmlinux, file, guest.memory, "pc", self.LAYOUT)
        if request.param == "mapped":
            yield memory
        else:
            yield PacketMemory(guest.vmlinux, memory.read, memory.write, self.LAYOUT)
        memory.close()

    def make_task(self, guest: FakeGuest, *, mm: bool = True) -> tuple[int, int]:
        """Return the address of a task, and the physical one of its page tables."""
        where, root = guest.page(), guest.page()
        task = guest.page_offset + where
        guest.poke_u64(where, task + 64 if mm else 0)
        guest.poke(where + 8, struct.pack("<I16s", 42, b"cat"))
        guest.poke_u64(where + 64 + 16, guest.page_offset + root)
        return task, root

    def map_writable(
        self, guest: FakeGuest, root: int, address: int, page: int, shift: int = 12
    ) -> None:
        guest.map(address, page, shift, root=root)
        table = root
        for level in (48, 39, 30, 21, 12)[5 - guest.levels :]:
            entry = table + (address >> level & 511) * 8
            guest.poke_u64(entry, guest.peek_u64(entry) | self.WRITABLE)
            if level == shift:
                return
            table = guest.peek_u64(entry) & ~0xFFF

    def test_reading(self, guest: FakeGuest, memory: RelayMemory) -> None:
        task, root = self.make_task(guest)
        first, second = guest.page(), guest.page(2) + 0x1000
        guest.map(0x400000, first, root=root)
        guest.map(0x401000, second, root=root)
        guest.poke(first + 0xFFC, b"user")
        guest.poke(second, b" data")
        assert memory.read_user(task, 0x400FFC, 9) == b"user data"
        with pytest.raises(KgdbError) as caught:
            memory.read_user(task, 0x401FFE, 4)
        assert caught.value.message == (
            "0x402000 is not mapped in the page tables of task 42 (cat)"
        )
        assert "not touched it yet" in str(caught.value.hint)

    def test_a_huge_page(self, guest: FakeGuest, memory: RelayMemory) -> None:
        task, root = self.make_task(guest)
        self.map_writable(guest, root, 0x7F0000200000, 0x2000000, 21)
        guest.poke(0x2012345, b"in the midst")
        assert memory.read_user(task, 0x7F0000212345, 12) == b"in the midst"
        assert memory.open_user(task, 0x7F0000212345, 4) == [(guest.page_offset + 0x2012345, 4)]

    def test_writing(self, guest: FakeGuest, memory: RelayMemory) -> None:
        task, root = self.make_task(guest)
        first, second, third = guest.page(), guest.page(2) + 0x1000, guest.page()
        self.map_writable(guest, root, 0x400000, first)
        self.map_writable(guest, root, 0x401000, second)
        guest.map(0x402000, third, root=root)
        assert memory.open_user(task, 0x400FFC, 8) == [
            (guest.page_offset + first + 0xFFC, 4),
            (guest.page_offset + second, 4),
        ]
        table = PageTable(Ram(guest.path, ram_layout(guest.memory)), root, guest.levels)
        for address, flags in ((0x400000, 0x63), (0x401000, 0x63), (0x402000, 1)):
            assert guest.peek_u64(table.walk(address).entry) & 0xFFF == flags
        with pytest.raises(KgdbError, match=r"0x402000 is mapped read-only in .* task 42 \(cat\)"):
            memory.open_user(task, 0x401FFE, 4)
        with pytest.raises(KgdbError, match="0x403000 is not mapped"):
            memory.open_user(task, 0x403000, 4)

    def test_a_page_that_the_kernel_does_not_map(
        self, guest: FakeGuest, memory: RelayMemory
    ) -> None:
        """memfd_secret(2)."""
        task, root = self.make_task(guest)
        self.map_writable(guest, root, 0x400000, guest.memory + 0x1000)
        with pytest.raises(KgdbError, match="is not mapped in the kernel's page tables"):
            memory.open_user(task, 0x400000, 4)

    def test_a_kernel_thread(self, guest: FakeGuest, memory: RelayMemory) -> None:
        task, _ = self.make_task(guest, mm=False)
        with pytest.raises(KgdbError, match=r"0x400000 is not mapped: task 42 \(cat\) has no"):
            memory.read_user(task, 0x400000, 1)

    def test_a_kernel_whose_layout_is_not_known(self, guest: FakeGuest) -> None:
        with guest.path.open("r+b") as file:
            memory = RelayMemory(guest.vmlinux, file, guest.memory, "pc")
        with pytest.raises(KgdbError, match="not known"):
            memory.read_user(0, 0x400000, 1)
        memory.close()

    def test_it_is_read_where_the_kernels_memory_is(self, guest: FakeGuest) -> None:
        """:meth:`KernelMemory.read` has all addresses."""
        run = Run()
        memory = KernelMemory(
            vmlinux=guest.vmlinux, ram=guest.path, memory_bytes=guest.memory, stop_state=run,
            read_user=lambda address, size: b"%x" % address * size,
        )  # fmt: skip
        assert memory.read(0x40, 2) == b"4040"
        assert memory.read(guest.address("some_text"), 9) == b"some text"
        run.stopped = False
        with pytest.raises(StaleError):
            memory.read(0x40, 2)
        memory.close()


def test_module_files(tmp_path: Path) -> None:
    (tmp_path / "kernel/deep").mkdir(parents=True)
    for name in ("kernel/deep/snd-hda.ko", "kernel/ext4.ko", "kernel/ext4.o", "other.ko"):
        (tmp_path / name).touch()
    files = ModuleFiles([tmp_path / "kernel", tmp_path / "missing"])
    assert files.candidates("snd_hda") == [tmp_path / "kernel/deep/snd-hda.ko"]
    assert files.candidates("other") == []
    mine = tmp_path / "mine" / "ext4.ko"
    mine.parent.mkdir()
    mine.touch()
    before = files.version
    files.add([mine])
    assert files.version != before
    assert files.candidates("ext4") == [mine, tmp_path / "kernel/ext4.ko"]


def test_unusable_vmlinux_is_named_at_the_first_read(tmp_path: Path) -> None:
    guest = FakeGuest(tmp_path)
    guest.vmlinux.unlink()
    with pytest.raises(ConfigError, match=r"vmlinux: .*No such file"):
        make(guest).read(0, 1)


def test_drgn_is_imported_only_when_used() -> None:
    code = "import sys, pytest_kgdb.memory; print([m for m in sys.modules if 'drgn' in m])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"
