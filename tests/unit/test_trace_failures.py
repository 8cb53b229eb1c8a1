"""How functions fail that return a pointer: by their own source, and by their callers' code."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_kgdb.errors import KgdbError
from pytest_kgdb.trace import PointerFailures
from pytest_kgdb.trace._functions import Function, FunctionEntry

TEXT = 0xFFFFFFFF81000000
FUNCTION, OTHER = TEXT + 0x1000, TEXT + 0x80

TEST_AX = b"\x48\x85\xc0"  # test %rax,%rax
TEST_R12 = b"\x4d\x85\xe4"
MOV_BX_AX, MOV_R12_AX = b"\x48\x89\xc3", b"\x49\x89\xc4"
IS_ERR_AX = b"\x48\x3d\x00\xf0\xff\xff"  # cmp $0xfffffffffffff000,%rax
IS_ERR_BX = b"\x48\x81\xfb\x00\xf0\xff\xff"
IS_ERR_R12 = b"\x49\x81\xfc\x00\xf0\xff\xff"


def call(at: int, target: int) -> bytes:
    return b"\xe8" + (target - at - 5).to_bytes(4, "little", signed=True)


def text_of(*callers: bytes, target: int = FUNCTION) -> list[tuple[int, bytes]]:
    """The kernel's code, in which each caller has a call and what is behind it."""
    code = b""
    for behind in callers:
        code += call(TEXT + len(code), target) + behind + b"\x90" * 64
    return [(TEXT, code.ljust(0x2000, b"\xcc"))]


def function() -> Function:
    entry = FunctionEntry(FUNCTION, None, (), (), ())
    return Function("get", (entry,), (), ("lib/get.c", 3))


class Source:
    def __init__(self, body: str | None) -> None:
        self.body = body

    def name(self, file: str) -> str:
        return file

    def read(self, file: str, address: int) -> bytes:
        assert (file, address) == ("lib/get.c", FUNCTION)
        if self.body is None:
            raise KgdbError("it is not here")
        return f"#include <a.h>\n\nvoid *get(void)\n{{\n\t{self.body}\n}}\n// ERR_PTR\n".encode()


def failure(body: str | None, code: list[tuple[int, bytes]]) -> int | None:
    source: Any = Source(body)
    return PointerFailures(source, lambda: code).of(function())


@pytest.mark.parametrize(
    ("behind", "expected"),
    [
        (TEST_AX, 0),
        (IS_ERR_AX, -12),
        (MOV_BX_AX + IS_ERR_BX, -12),
        (MOV_R12_AX + IS_ERR_R12, -12),
        (MOV_R12_AX + TEST_R12, 0),
        (TEST_AX + b"\x74\x10" + IS_ERR_AX, -12),  # IS_ERR_OR_NULL()
        (TEST_AX + b"\x74\x10" + IS_ERR_BX, 0),  # of something else
        (TEST_R12, None),
        (call(TEXT + 5, OTHER) + IS_ERR_AX, None),  # of what another function returned
        (b"\xe8\x00\x00\x00\x70" + IS_ERR_AX, -12),  # no call: that leads nowhere
        (b"\x90" * 64 + IS_ERR_AX, None),
        (b"\xeb\x40" + b"\x90" * 64 + IS_ERR_AX, -12),
        (MOV_BX_AX + b"\xe9\x40\0\0\0" + b"\x90" * 64 + IS_ERR_BX, -12),
        (b"\xeb\x03" + TEST_AX + b"\xeb\xfb", 0),  # back
        (b"\xe9\0\0\0\x70" + IS_ERR_AX, None),
        (b"", None),
    ],
)
def test_what_a_caller_compares(behind: bytes, expected: int | None) -> None:
    assert failure("return g();", text_of(behind)) == expected


def test_calls_of_another_function_say_nothing() -> None:
    assert failure(None, text_of(IS_ERR_AX, target=OTHER)) is None
    assert failure(None, [(0, b"\x00" * 16), *text_of(IS_ERR_AX)]) == -12


def test_most_callers_decide() -> None:
    assert failure(None, text_of(TEST_AX, TEST_AX, IS_ERR_AX)) == 0
    assert failure(None, text_of(TEST_AX, IS_ERR_AX)) == -12


@pytest.mark.parametrize(
    ("body", "behind", "expected"),
    [
        ("return ERR_PTR(-ENOMEM);", TEST_AX, -12),
        ("return ERR_CAST(g());", b"", -12),
        ("return g(); /* no ERR_PTR */", b"", None),
        ("if (IS_ERR(p)) return p;", b"", -12),
        ("if (IS_ERR(p)) return NULL;", b"", 0),
        ("if (IS_ERR(p)) return NULL;", IS_ERR_AX, -12),
        ("return NULL;", b"", 0),
        ("return NULL;", IS_ERR_AX, -12),
        ("return g();", b"", None),
    ],
)
def test_what_its_source_says(body: str, behind: bytes, expected: int | None) -> None:
    assert failure(body, text_of(behind)) == expected
