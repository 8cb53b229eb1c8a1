"""Releases and build ids from boot images, made up here byte by byte."""

from __future__ import annotations

import bz2
import gzip
import lzma
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_kgdb.arch import X86_64
from pytest_kgdb.errors import BuildError
from pytest_kgdb.kernel import _image
from pytest_kgdb.kernel._modules import vermagic
from pytest_kgdb.kernel._publish import check_image

BUILD_ID = bytes(range(20))


def elf(build_id: bytes = BUILD_ID) -> bytes:
    """An ELF file with nothing but a note segment (elf(5))."""
    note = struct.pack("<III", 4, len(build_id), 3) + b"GNU\0" + build_id
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\x02\x01\x01",
        *(2, 62, 1, 0, 64, 0, 0, 64, 56, 1, 0, 0, 0),
    )
    segment = struct.pack("<IIQQQQQQ", 4, 4, 120, 0, 0, len(note), len(note), 4)
    return header + segment + note


def image(payload: bytes, *, protocol: int = 0x20F, release: str = "6.1.192") -> bytes:
    """A bzImage with one setup sector (Documentation/arch/x86/boot.rst)."""
    head = bytearray(2 * 512)
    head[0x1F1] = 1
    head[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", head, 0x206, protocol)
    struct.pack_into("<H", head, 0x20E, 0x100)
    text = f"{release} (pytest@kgdb) #1 SMP".encode()
    head[0x300 : 0x300 + len(text)] = text
    struct.pack_into("<II", head, 0x248, 16, len(payload) + 4)
    return bytes(head) + bytes(16) + payload + struct.pack("<I", 4711)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file"


def test_release_of_an_image(path: Path) -> None:
    path.write_bytes(image(b""))
    assert _image.image_release(path) == "6.1.192"
    path.write_bytes(bytes(4096))
    assert _image.image_release(path) == ""


@pytest.mark.parametrize(
    "pack",
    [gzip.compress, lzma.compress, bz2.compress, bytes],
    ids=["gzip", "xz", "bzip2", "uncompressed"],
)
def test_build_id_inside_an_image(path: Path, pack: Callable[[bytes], bytes]) -> None:
    path.write_bytes(image(pack(elf())))
    assert _image.image_build_id(path) == BUILD_ID.hex()


def test_an_image_of_another_vmlinux_is_not_published(tmp_path: Path) -> None:
    boot = tmp_path / X86_64.image
    boot.parent.mkdir(parents=True)
    boot.write_bytes(image(elf()))
    check_image(tmp_path, X86_64, BUILD_ID.hex())
    boot.write_bytes(image(elf(bytes(20))))
    with pytest.raises(BuildError, match="of another vmlinux") as caught:
        check_image(tmp_path, X86_64, BUILD_ID.hex())
    assert str(boot.parent / "compressed") in (caught.value.hint or "")


def test_build_id_inside_an_lzma_image(path: Path) -> None:
    path.write_bytes(image(lzma.compress(elf(), lzma.FORMAT_ALONE)))
    assert _image.image_build_id(path) == BUILD_ID.hex()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        bytes(2048),
        image(b"\x1f\x8b\x08 but no gzip"),
        image(b"something else"),
        image(gzip.compress(b"no kernel")),
        image(gzip.compress(elf()), protocol=0x207),
    ],
)
def test_an_image_that_tells_nothing(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    assert _image.image_build_id(path) == ""


def test_vermagic(path: Path) -> None:
    path.write_bytes(b"\x7fELF...\0license=GPL\0vermagic=6.1.192 SMP mod_unload \0name=x\0")
    assert vermagic(path) == "6.1.192"
    path.write_bytes(b"\x7fELF")
    assert vermagic(path) == ""
