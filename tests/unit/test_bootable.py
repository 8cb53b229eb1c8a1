"""What makes a disk boot by itself."""

from __future__ import annotations

import struct

import pytest

from pytest_kgdb.disk._bootable import _first_sector, _quoted


def test_the_first_sector() -> None:
    code = bytes(range(1, 256)) * 2 + b"xy"
    sector = _first_sector(code, 4096)
    assert len(sector) == 512
    assert sector[:440] == code[:440]  # GRUB's, and no more of it
    assert sector[440:446] == bytes(6)
    assert sector[510:] == b"\x55\xaa"
    entries = [struct.unpack_from("<B3xB3xII", sector, 446 + 16 * index) for index in range(4)]
    assert entries[0] == (0x80, 0x83, 2048, 255 * 2048)  # active; from 1 MiB to 256 MiB
    assert entries[1] == (0x00, 0x83, 256 * 2048, 3840 * 2048)  # from there to the end
    assert entries[2:] == [(0, 0, 0, 0)] * 2


@pytest.mark.parametrize(
    ("parameters", "quoted"),
    [
        ("a=1  b", "'a=1' 'b'"),
        ("x=$HOME;y={z}", "'x=$HOME;y={z}'"),
        ('dyndbg="file x.c +p; file y.c +p" quiet', "'dyndbg=file x.c +p; file y.c +p' 'quiet'"),
        ('"a b" c"d e"f', "'a b' 'cd ef'"),
        ('open="a b', "'open=a b'"),
        ("it's", "'it'\\''s'"),
        ("", ""),
    ],
)
def test_parameters_for_grubs_shell(parameters: str, quoted: str) -> None:
    assert _quoted(parameters) == quoted
