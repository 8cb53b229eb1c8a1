"""Saving and restoring a guest's RAM."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_kgdb.errors import CacheError
from pytest_kgdb.machine._ram import RamFile, RamImage

MIB = 1 << 20
PAGE = 4096


@pytest.fixture
def ram() -> Iterator[RamFile]:
    with RamFile(8) as ram:
        yield ram


def read(ram: RamFile) -> bytes:
    return os.pread(ram.file.fileno(), ram.size, 0)


def write(ram: RamFile, address: int, data: bytes) -> None:
    """Write as QEMU does: by another mapping of the same file."""
    os.pwrite(ram.file.fileno(), data, address)


def allocated(ram: RamFile) -> int:
    return os.fstat(ram.file.fileno()).st_blocks * 512


def saved(ram: RamFile, path: Path) -> RamImage:
    ram.save(path)
    return RamImage(path)


def test_nothing_in_it(ram: RamFile, tmp_path: Path) -> None:
    image = saved(ram, tmp_path / "image")
    assert image.runs == []
    write(ram, 5 * MIB + 3, b"something")
    ram.restore(image)
    assert read(ram) == bytes(ram.size)


def test_full(ram: RamFile, tmp_path: Path) -> None:
    full = random.Random(1).randbytes(ram.size)
    write(ram, 0, full)
    image = saved(ram, tmp_path / "image")
    assert [run[:2] for run in image.runs] == [(0, ram.size)]
    write(ram, 0, bytes(ram.size))
    ram.restore(image)
    assert read(ram) == full


@pytest.mark.parametrize("seed", range(20))
def test_whatever_was_written(ram: RamFile, tmp_path: Path, seed: int) -> None:
    dice = random.Random(seed)

    def scribble() -> None:
        for _ in range(dice.randrange(40)):
            size = dice.choice([1, 8, PAGE, 3 * PAGE + 5, 200_000])
            data = bytes(size) if dice.random() < 0.3 else dice.randbytes(size)
            write(ram, dice.randrange(ram.size - size), data)

    images = []
    for number in range(3):
        scribble()
        images.append((saved(ram, tmp_path / str(number)), read(ram)))
    for _ in range(6):
        scribble()
        image, before = dice.choice(images)
        ram.restore(image)
        assert read(ram) == before


def test_the_last_and_the_first_byte(ram: RamFile, tmp_path: Path) -> None:
    write(ram, 0, b"a")
    write(ram, ram.size - 1, b"z")
    before = read(ram)
    image = saved(ram, tmp_path / "image")
    write(ram, 0, b"b" * ram.size)
    ram.restore(image)
    assert read(ram) == before


def test_what_was_filled_is_given_back_to_the_host(ram: RamFile, tmp_path: Path) -> None:
    write(ram, 0, b"a")
    image = saved(ram, tmp_path / "image")
    write(ram, 0, b"x" * ram.size)
    assert allocated(ram) == ram.size
    ram.restore(image)
    assert allocated(ram) <= MIB


def test_only_what_is_in_use_is_kept(ram: RamFile, tmp_path: Path) -> None:
    write(ram, MIB, b"a")
    write(ram, 3 * MIB, bytes(MIB))  # written to, and nothing in it
    image = saved(ram, tmp_path / "image")
    assert (tmp_path / "image").stat().st_size <= 70_000
    assert sum(length for _, length, _ in image.runs) <= 65_536


def test_an_image_stays_as_it_was(ram: RamFile, tmp_path: Path) -> None:
    write(ram, 0, b"kept")
    image = saved(ram, tmp_path / "image")
    before = (tmp_path / "image").read_bytes()
    for _ in range(2):
        ram.restore(image)
        write(ram, 0, b"test")
    assert (tmp_path / "image").read_bytes() == before


def test_of_a_machine_with_more_memory(ram: RamFile, tmp_path: Path) -> None:
    image = saved(ram, tmp_path / "image")
    with RamFile(16) as larger, pytest.raises(CacheError, match="with 8 MiB, not 16"):
        larger.restore(image)


@pytest.mark.parametrize("size", [0, 10, 24, 40, 4096, 70_000])
def test_a_truncated_one(ram: RamFile, tmp_path: Path, size: int) -> None:
    path = tmp_path / "image"
    write(ram, 0, b"a" * 100_000)
    ram.save(path)
    os.truncate(path, size)
    with pytest.raises(CacheError, match="cannot be read"):
        RamImage(path)


def test_something_else(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(b"QFI\xfb" * 10_000)
    with pytest.raises(CacheError, match="does not begin like one"):
        RamImage(path)


def test_an_absurd_count(ram: RamFile, tmp_path: Path) -> None:
    path = tmp_path / "image"
    ram.save(path)
    data = bytearray(path.read_bytes())
    data[16:24] = b"\xff" * 8
    path.write_bytes(data)
    with pytest.raises(CacheError, match="does not begin like one"):
        RamImage(path)


@pytest.mark.parametrize("at", [24, 32, 40])
def test_what_would_be_written_elsewhere(ram: RamFile, tmp_path: Path, at: int) -> None:
    path = tmp_path / "image"
    write(ram, MIB, b"a")
    write(ram, 2 * MIB, b"a")
    ram.save(path)
    data = bytearray(path.read_bytes())
    data[at : at + 8] = (ram.size - 1).to_bytes(8, "little")
    path.write_bytes(data)
    with pytest.raises(CacheError, match="there cannot be"):
        RamImage(path)


@pytest.mark.parametrize("place", ["within", "across the end", "outside", "over all"])
def test_a_patched_image(ram: RamFile, tmp_path: Path, place: str) -> None:
    write(ram, MIB, bytes(range(1, 256)) * 1024)
    image = saved(ram, tmp_path / "image")
    file = (tmp_path / "image").read_bytes()
    start, length, _ = image.runs[0]
    at, size = {
        "within": (start + 100, 5),
        "across the end": (start + length - 3, 7),
        "outside": (5 * MIB + 9, 11),
        "over all": (start - 5, length + 10),
    }[place]
    expected = bytearray(read(ram))
    expected[at : at + size] = b"\xcc" * size
    image.patch(at, b"\xcc" * size)
    for _ in range(2):
        write(ram, 3 * MIB, b"since then")
        write(ram, at, bytes(size))
        ram.restore(image)
        assert read(ram) == expected
    assert (tmp_path / "image").read_bytes() == file  # another session's is as it was
