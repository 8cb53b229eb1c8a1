"""The release and the build id of a bzImage, from its header and its compressed kernel."""

from __future__ import annotations

import bz2
import lzma
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Final

from ..elf import ElfFile
from ..errors import ConfigError
from ..process import PIPE, Child

_DECOMPRESS_SECONDS: Final = 120.0

# How kbuild compresses the kernel (scripts/extract-vmlinux has the same list).
_PACKED: Final[tuple[tuple[bytes, str, Callable[[], object] | None], ...]] = (
    (b"\x1f\x8b\x08", "gzip", lambda: zlib.decompressobj(wbits=31)),
    (b"\xfd7zXZ\x00", "xz", lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ)),
    (b"\x5d\x00\x00", "lzma", lambda: lzma.LZMADecompressor(lzma.FORMAT_ALONE)),
    (b"BZh", "bzip2", bz2.BZ2Decompressor),
    (b"\x28\xb5\x2f\xfd", "zstd", None),
    (b"\x02\x21\x4c\x18", "lz4", None),
    (b"\x89\x4c\x5a", "lzop", None),
)


def image_release(image: Path) -> str:
    """Return the release in a bzImage's header, "" if there is none.

    It is at `kernel_version` of the setup header (Documentation/arch/x86/boot.rst).
    """
    with image.open("rb") as file:
        head = file.read(0x10000)
    if head[0x202:0x206] != b"HdrS":
        return ""
    (offset,) = struct.unpack_from("<H", head, 0x20E)
    text = head[offset + 0x200 :].split(b"\0", 1)[0] if offset else b""
    return text.split(b" ", 1)[0].decode("ascii", "replace")


def image_build_id(image: Path) -> str:
    """Return the build id of the kernel inside a bzImage, "" if it cannot be read.

    The setup header says where the compressed kernel is: `payload_offset`, counted from the end of
    the setup sectors, and `payload_length`.
    """
    data = image.read_bytes()
    if data[0x202:0x206] != b"HdrS":
        return ""
    (protocol,) = struct.unpack_from("<H", data, 0x206)
    if protocol < 0x0208:  # no payload fields yet
        return ""
    offset, length = struct.unpack_from("<II", data, 0x248)
    begin = ((data[0x1F1] or 4) + 1) * 512 + offset
    kernel = _unpacked(data[begin : begin + length])
    if kernel is None:
        return ""
    try:
        return ElfFile(image, kernel).build_id
    except ConfigError:
        return ""


def _unpacked(payload: bytes) -> bytes | None:
    for magic, program, factory in _PACKED:
        if not payload.startswith(magic):
            continue
        if factory is not None:
            try:
                # After the stream comes its unpacked size, which a decompressor object ignores.
                return bytes(factory().decompress(payload))  # type: ignore[attr-defined]
            except (zlib.error, lzma.LZMAError, OSError):
                return None
        return _piped(program, payload)
    return payload if payload.startswith(b"\x7fELF") else None


def _piped(program: str, payload: bytes) -> bytes | None:
    """Decompress with a program; None if it is not installed."""
    if shutil.which(program) is None:
        return None
    import tempfile

    with tempfile.TemporaryFile() as packed:
        packed.write(payload)
        packed.seek(0)
        argv = [program, "-dc"]
        with Child.spawn(argv, name=program, stdin=packed.fileno(), stdout=PIPE) as child:
            assert child.stdout is not None
            parts = []
            while part := child.stdout.read(1 << 20):
                parts.append(part)
            child.wait(_DECOMPRESS_SECONDS)  # it may complain about the size after the stream
    return b"".join(parts) or None
