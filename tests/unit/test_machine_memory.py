"""What is kept of a guest's memory, and how it is put back."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_kgdb.errors import CacheError
from pytest_kgdb.machine._memory import Image, Memory

MIB = 1 << 20
PAGE = 4096


@pytest.fixture
def memory() -> Iterator[Memory]:
    with Memory(8) as memory:
        yield memory


def read(memory: Memory) -> bytes:
    return os.pread(memory.file.fileno(), memory.size, 0)


def write(memory: Memory, address: int, data: bytes) -> None:
    """Write as QEMU does: by another mapping of the same file."""
    os.pwrite(memory.file.fileno(), data, address)


def allocated(memory: Memory) -> int:
    return os.fstat(memory.file.fileno()).st_blocks * 512


def saved(memory: Memory, path: Path) -> Image:
    memory.save(path)
    return Image(path)


def test_nothing_in_it(memory: Memory, tmp_path: Path) -> None:
    image = saved(memory, tmp_path / "image")
    assert image.runs == []
    write(memory, 5 * MIB + 3, b"something")
    memory.put_back(image)
    assert read(memory) == bytes(memory.size)


def test_full(memory: Memory, tmp_path: Path) -> None:
    full = random.Random(1).randbytes(memory.size)
    write(memory, 0, full)
    image = saved(memory, tmp_path / "image")
    assert [run[:2] for run in image.runs] == [(0, memory.size)]
    write(memory, 0, bytes(memory.size))
    memory.put_back(image)
    assert read(memory) == full


@pytest.mark.parametrize("seed", range(20))
def test_whatever_was_written(memory: Memory, tmp_path: Path, seed: int) -> None:
    dice = random.Random(seed)

    def scribble() -> None:
        for _ in range(dice.randrange(40)):
            size = dice.choice([1, 8, PAGE, 3 * PAGE + 5, 200_000])
            data = bytes(size) if dice.random() < 0.3 else dice.randbytes(size)
            write(memory, dice.randrange(memory.size - size), data)

    images = []
    for number in range(3):
        scribble()
        images.append((saved(memory, tmp_path / str(number)), read(memory)))
    for _ in range(6):
        scribble()
        image, before = dice.choice(images)
        memory.put_back(image)
        assert read(memory) == before


def test_the_last_and_the_first_byte(memory: Memory, tmp_path: Path) -> None:
    write(memory, 0, b"a")
    write(memory, memory.size - 1, b"z")
    before = read(memory)
    image = saved(memory, tmp_path / "image")
    write(memory, 0, b"b" * memory.size)
    memory.put_back(image)
    assert read(memory) == before


def test_what_was_filled_is_given_back_to_the_host(memory: Memory, tmp_path: Path) -> None:
    write(memory, 0, b"a")
    image = saved(memory, tmp_path / "image")
    write(memory, 0, b"x" * memory.size)
    assert allocated(memory) == memory.size
    memory.put_back(image)
    assert allocated(memory) <= MIB


def test_only_what_is_in_use_is_kept(memory: Memory, tmp_path: Path) -> None:
    write(memory, MIB, b"a")
    write(memory, 3 * MIB, bytes(MIB))  # written to, and nothing in it
    image = saved(memory, tmp_path / "image")
    assert (tmp_path / "image").stat().st_size <= 70_000
    assert sum(length for _, length, _ in image.runs) <= 65_536


def test_an_image_stays_as_it_was(memory: Memory, tmp_path: Path) -> None:
    write(memory, 0, b"kept")
    image = saved(memory, tmp_path / "image")
    before = (tmp_path / "image").read_bytes()
    for _ in range(2):
        memory.put_back(image)
        write(memory, 0, b"test")
    assert (tmp_path / "image").read_bytes() == before


def test_of_a_machine_with_more_memory(memory: Memory, tmp_path: Path) -> None:
    image = saved(memory, tmp_path / "image")
    with Memory(16) as larger, pytest.raises(CacheError, match="with 8 MiB, not 16"):
        larger.put_back(image)


@pytest.mark.parametrize("size", [0, 10, 24, 40, 4096, 70_000])
def test_a_truncated_one(memory: Memory, tmp_path: Path, size: int) -> None:
    path = tmp_path / "image"
    write(memory, 0, b"a" * 100_000)
    memory.save(path)
    os.truncate(path, size)
    with pytest.raises(CacheError, match="cannot be read"):
        Image(path)


def test_something_else(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(b"QFI\xfb" * 10_000)
    with pytest.raises(CacheError, match="does not begin as one"):
        Image(path)


def test_an_absurd_count(memory: Memory, tmp_path: Path) -> None:
    path = tmp_path / "image"
    memory.save(path)
    data = bytearray(path.read_bytes())
    data[16:24] = b"\xff" * 8
    path.write_bytes(data)
    with pytest.raises(CacheError, match="does not begin as one"):
        Image(path)


@pytest.mark.parametrize("at", [24, 32, 40])
def test_what_would_be_written_elsewhere(memory: Memory, tmp_path: Path, at: int) -> None:
    path = tmp_path / "image"
    write(memory, MIB, b"a")
    write(memory, 2 * MIB, b"a")
    memory.save(path)
    data = bytearray(path.read_bytes())
    data[at : at + 8] = (memory.size - 1).to_bytes(8, "little")
    path.write_bytes(data)
    with pytest.raises(CacheError, match="there cannot be"):
        Image(path)
