"""Guest RAM, its page tables, and the symbols of a vmlinux."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from fake_guest import BANNER, BUILD_ID, GIB, FakeGuest, Image

from pytest_kgdb.errors import ConfigError, KgdbError
from pytest_kgdb.kernel import Vmlinux
from pytest_kgdb.memory import Ram, Segment, ram_layout
from pytest_kgdb.memory._pagetable import PageTable

MIB = 1 << 20


class TestLayout:
    """What `info mtree` says of these machines (QEMU 7.2)."""

    @pytest.mark.parametrize("machine", ["pc", "pc-i440fx-7.2", "q35", "pc-q35-7.2"])
    def test_small_guest_is_in_one_piece(self, machine: str) -> None:
        assert ram_layout(256 * MIB, machine) == (Segment(0, 256 * MIB, 0),)

    @pytest.mark.parametrize(
        ("machine", "memory", "low"),
        [
            ("pc", 3584 * MIB - 4096, None),
            ("pc", 3584 * MIB, 3 * GIB),
            ("pc", 5 * GIB, 3 * GIB),
            ("q35", 2816 * MIB - 4096, None),
            ("q35", 2816 * MIB, 2 * GIB),
        ],
    )
    def test_large_guest_leaves_room_for_pci(
        self, machine: str, memory: int, low: int | None
    ) -> None:
        expected: tuple[Segment, ...]
        if low is None:
            expected = (Segment(0, memory, 0),)
        else:
            expected = (Segment(0, low, 0), Segment(4 * GIB, memory - low, low))
        assert ram_layout(memory, machine) == expected

    def test_arm_board(self) -> None:
        assert ram_layout(GIB, "virt") == (Segment(GIB, GIB, 0),)

    def test_unknown_machine(self) -> None:
        with pytest.raises(ConfigError, match="'microvm' is not known"):
            ram_layout(GIB, "microvm")


class TestRam:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        path = tmp_path / "ram"
        with path.open("wb") as file:
            file.truncate(8 * MIB)
        return path

    @pytest.fixture
    def ram(self, path: Path) -> Ram:
        # 4 MiB at 0, the rest from 16 MiB.
        return Ram(path, (Segment(0, 4 * MIB, 0), Segment(16 * MIB, 4 * MIB, 4 * MIB)))

    def test_reads_what_others_write(self, ram: Ram, path: Path) -> None:
        with path.open("r+b") as file:
            file.seek(5 * MIB)
            file.write(b"written by the guest")
        assert ram.read(17 * MIB, 20) == b"written by the guest"
        assert ram.u64(17 * MIB) == int.from_bytes(b"written ", "little")

    def test_write(self, ram: Ram, path: Path) -> None:
        ram.write(16 * MIB - 0 + 8, b"abc")
        assert path.read_bytes()[4 * MIB + 8 : 4 * MIB + 11] == b"abc"
        assert ram.read(16 * MIB + 8, 3) == b"abc"

    @pytest.mark.parametrize(
        ("address", "size"),
        [(4 * MIB, 1), (4 * MIB - 2, 4), (16 * MIB - 2, 4), (20 * MIB, 1), (-8, 8), (1 << 70, 8)],
    )
    def test_what_is_not_ram_is_named(self, ram: Ram, address: int, size: int) -> None:
        for access in (lambda: ram.read(address, size), lambda: ram.write(address, bytes(size))):
            with pytest.raises(KgdbError, match=f"{address:#x}.* is not RAM: .*0x0-0x3fffff and"):
                access()
        assert not ram.holds(address, size)

    def test_file_too_small_is_refused(self, path: Path) -> None:
        with pytest.raises(KgdbError, match="is 8388608 bytes; the machine has 16777216"):
            Ram(path, ram_layout(16 * MIB))

    def test_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(KgdbError, match=r"cannot map guest RAM: .*No such file"):
            Ram(tmp_path / "none", ram_layout(MIB))

    def test_a_file_without_a_name(self) -> None:
        with os.fdopen(os.memfd_create("ram"), "r+b", buffering=0) as file:
            file.truncate(MIB)
            ram = Ram(file, ram_layout(MIB))
        ram.write(5, b"x")
        assert ram.read(4, 3) == b"\0x\0"
        ram.close()
        ram.close()

    def test_find_in_both_pieces(self, ram: Ram) -> None:
        for address in (0, 4 * MIB - 6, 16 * MIB, 20 * MIB - 6):
            ram.write(address, b"needle")
        assert list(ram.find(b"needle")) == [0, 4 * MIB - 6, 16 * MIB, 20 * MIB - 6]
        assert list(ram.find(b"needle", start=1)) == [4 * MIB - 6, 16 * MIB, 20 * MIB - 6]
        assert list(ram.find(b"needle", end=16 * MIB + 5)) == [0, 4 * MIB - 6]
        assert list(ram.find(b"needle", 16 * MIB, 16 * MIB + 6)) == [16 * MIB]

    def test_find_overlapping(self, ram: Ram) -> None:
        ram.write(100, b"aaaa")
        assert list(ram.find(b"aa")) == [100, 101, 102]

    @pytest.mark.parametrize("at", [0x1FFFE, 0x20000, 0x40000 - 3, 0x20FFC])
    def test_find_over_the_edges_of_what_is_read_at_once(self, ram: Ram, at: int) -> None:
        ram.write(at, b"needle")
        assert list(ram.find(b"needle")) == [at]

    def test_find_what_ends_in_a_hole(self, ram: Ram) -> None:
        page = 0x100000
        ram.write(page + 4096 - 3, b"abc")
        ram.write(page + 3 * 4096, b"xyz")
        assert list(ram.find(b"abc\0\0\0")) == [page + 4096 - 3]
        assert list(ram.find(b"\0\0xyz")) == [page + 3 * 4096 - 2]
        assert list(ram.find(b"abc" + bytes(2 * 4096) + b"xyz")) == [page + 4096 - 3]

    def test_find_zeros(self, ram: Ram) -> None:
        ram.write(3, b"x")
        matches = ram.find(bytes(2))
        assert [next(matches) for _ in range(4)] == [0, 1, 4, 5]
        assert list(ram.find(bytes(4 * MIB))) == [16 * MIB]

    def test_find_is_lazy_and_leaves_the_file_sparse(self, ram: Ram, path: Path) -> None:
        ram.write(2 * MIB, b"needle")
        before = path.stat().st_blocks
        assert list(ram.find(b"needle")) == [2 * MIB]
        assert path.stat().st_blocks == before

    def test_find_nothing(self, ram: Ram) -> None:
        assert list(ram.find(b"needle")) == []
        with pytest.raises(ValueError, match="empty"):
            list(ram.find(b""))


class TestPageTable:
    @pytest.fixture(params=[4, 5])
    def guest(self, request: pytest.FixtureRequest, tmp_path: Path) -> FakeGuest:
        return FakeGuest(tmp_path, levels=request.param)

    @pytest.fixture
    def table(self, guest: FakeGuest) -> PageTable:
        return PageTable(Ram(guest.path, ram_layout(guest.memory)), guest.root, guest.levels)

    def test_page_sizes(self, guest: FakeGuest, table: PageTable) -> None:
        base = 0xFFFFC90000000000
        guest.map(base, 0x5000)
        guest.map(base + GIB, 2 * MIB, 21)
        guest.map(base + 8 * GIB, 0, 30)
        assert table.translate(base + 0x123) == (0x5123, 0x1000 - 0x123)
        assert table.translate(base + GIB + 0x1234) == (2 * MIB + 0x1234, 2 * MIB - 0x1234)
        assert table.translate(base + 8 * GIB + 5 * MIB) == (5 * MIB, GIB - 5 * MIB)

    def test_flags_are_not_address(self, guest: FakeGuest, table: PageTable) -> None:
        guest.map(0x1000, 0x5000 | 1 << 63 | 0x800 | 0x166)
        assert table.translate(0x1008)[0] == 0x5008

    def test_read_across_pages_that_are_apart(self, guest: FakeGuest, table: PageTable) -> None:
        guest.map(0x10000, 0x7000)
        guest.map(0x11000, 0x5000)
        guest.poke(0x7FFE, b"ab")
        guest.poke(0x5000, b"cd")
        assert table.read(0x10FFE, 4) == b"abcd"
        assert table.read(0x10FFE, 0) == b""

    def test_unmapped_is_named(self, guest: FakeGuest, table: PageTable) -> None:
        guest.map(0x10000, 0x7000)
        for address in (0, 0x12000, 0xFFFFFFFFFF000000):
            with pytest.raises(KgdbError, match=f"{address:#x} is not mapped"):
                table.read(address, 8)
        with pytest.raises(KgdbError, match="0x11000 is not mapped"):
            table.read(0x10FFC, 8)
        with pytest.raises(ValueError, match="-1 bytes"):
            table.read(0x10000, -1)

    @pytest.mark.parametrize("address", [1 << 63, 1 << 57, -1, 1 << 64, 0xFEFF000000000000])
    def test_non_canonical(self, table: PageTable, address: int) -> None:
        with pytest.raises(KgdbError, match="is not an address"):
            table.translate(address)

    def test_damaged(self, guest: FakeGuest, table: PageTable) -> None:
        guest.poke_u64(table.root, (1 << 45) | 1)
        with pytest.raises(KgdbError, match=r"0x1000 cannot be translated: .* damaged"):
            table.translate(0x1000)
        assert list(table.user_mappings(0x5000)) == []

    def test_user_mappings(self, guest: FakeGuest) -> None:
        root = guest.page()
        table = PageTable(Ram(guest.path, ram_layout(guest.memory)), root, guest.levels)
        guest.map(0x400000, 0x345000, root=root)
        guest.map(0x7FFFFFFFF000, 0x345000, root=root)
        guest.map(0x500000, 0x346000, root=root)
        guest.map(0x40000000, 2 * MIB, 21, root=root)
        guest.map(0xFFFFC90000000000, 0x345000, root=root)  # the kernel's half
        assert list(table.user_mappings(0x345000)) == [0x400000, 0x40145000, 0x7FFFFFFFF000]
        assert list(table.user_mappings(0x0)) == []


class TestVmlinux:
    def test_symbols(self, tmp_path: Path) -> None:
        image = Image()
        image.symbol("init_task", 0x1000)
        image.symbol("task", 0x2000)
        image.symbol("sk", 0x3000)
        image.symbol("twice", 0x4000, binding=0)
        image.symbol("twice", 0x5000, binding=1)
        image.symbol("high", 0xFFFFFFFF81000000)
        for merge in (True, False):
            vmlinux = Vmlinux(image.write(tmp_path / f"vmlinux{merge}", merge=merge))
            assert vmlinux.symbol("init_task") == 0x1000
            assert vmlinux.symbol("task") == 0x2000
            assert vmlinux.symbol("sk") == 0x3000
            assert vmlinux.symbol("twice") == 0x5000
            assert vmlinux.symbol("high") == 0xFFFFFFFF81000000
            assert vmlinux.symbol("it_task") is None
            assert vmlinux.symbol("nothing") is None
            assert vmlinux.need("nothing", "task") == 0x2000
            with pytest.raises(ConfigError, match="no symbol nothing or nobody"):
                vmlinux.need("nothing", "nobody")
            vmlinux.close()
            assert vmlinux.symbol("task") == 0x2000

    def test_a_rebuilt_kernel_is_read_again(self, tmp_path: Path) -> None:
        for value in (1, 2):
            image = Image()
            image.symbol("moved", value)
            path = image.write(tmp_path / "vmlinux")
            os.utime(path, ns=(time.time_ns() + value, time.time_ns() + value))
            assert Vmlinux(path).symbol("moved") == value

    def test_identity(self, tmp_path: Path) -> None:
        vmlinux = Vmlinux(FakeGuest(tmp_path).vmlinux)
        assert vmlinux.banner == BANNER
        assert vmlinux.release == "6.1.192-fake"
        assert vmlinux.build_id == BUILD_ID.hex()

    def test_without_identity(self, tmp_path: Path) -> None:
        image = Image()
        image.symbol("linux_banner", 0x9000)
        vmlinux = Vmlinux(image.write(tmp_path / "vmlinux"))
        assert vmlinux.build_id == ""
        with pytest.raises(ConfigError, match="nothing is linked at 0x9000"):
            _ = vmlinux.release

    @pytest.mark.parametrize(
        ("contents", "why"),
        [
            (b"", "it is empty"),
            (b"\x7fELF\x01\x01" + bytes(100), "not a 64-bit little-endian ELF"),
            (b"MZ" + bytes(100), "it is not an ELF file"),
            (b"\x7fELF\x02\x01" + bytes(20), "not a 64-bit little-endian ELF"),
        ],
    )
    def test_not_a_vmlinux(self, tmp_path: Path, contents: bytes, why: str) -> None:
        path = tmp_path / "vmlinux"
        path.write_bytes(contents)
        with pytest.raises(ConfigError, match=why):
            Vmlinux(path).symbol("x")

    def test_missing_stripped_cut_off(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="No such file"):
            Vmlinux(tmp_path / "none").symbol("x")
        image = Image()
        image.section(".rodata", bytes(100))
        with pytest.raises(ConfigError, match="stripped"):
            Vmlinux(image.write(tmp_path / "stripped", stripped=True)).symbol("x")
        path = image.write(tmp_path / "cut")
        path.write_bytes(path.read_bytes()[:-70])
        with pytest.raises(ConfigError, match="cut off"):
            Vmlinux(path).symbol("x")
