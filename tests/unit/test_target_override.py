"""What an override leaves in the return register."""

from __future__ import annotations

import pytest

from pytest_kgdb.errors import KgdbError
from pytest_kgdb.target._functions import Returns
from pytest_kgdb.target._override import errno_of, in_register

INT = Returns("int", "int", 4, True)
LONG = Returns("ssize_t", "int", 8, True)
UNSIGNED = Returns("u16", "int", 2, False)
POINTER = Returns("struct file *", "ptr", 8, False)
BOOL = Returns("bool", "bool", 1, False)
VOID = Returns("void", "void", 1, False)


@pytest.mark.parametrize(
    ("returns", "value", "register", "seen"),
    [
        (INT, -12, 0xFFFFFFF4, -12), (INT, 7, 7, 7), (LONG, -12, (1 << 64) - 12, -12),
        (UNSIGNED, -1, 0xFFFF, 0xFFFF), (POINTER, -12, (1 << 64) - 12, (1 << 64) - 12),
        (POINTER, 0, 0, 0), (BOOL, 5, 1, True), (BOOL, False, 0, False), (VOID, None, None, None),
        (INT, 0xFFFFFFFF, 0xFFFFFFFF, -1),
    ],
)  # fmt: skip
def test_values(returns: Returns, value: int | None, register: int | None, seen: object) -> None:
    assert in_register("f", returns, value) == register
    assert returns.decode(register or 0) == seen


def test_nothing_is_known_of_a_function_in_assembler() -> None:
    assert in_register("memcpy", None, -1) == (1 << 64) - 1


@pytest.mark.parametrize(
    ("returns", "value", "told"),
    [
        (INT, 1 << 32, "int of 32 bits, which cannot hold 4294967296"),
        (UNSIGNED, 65536, "u16 of 16 bits"),
        (VOID, 1, "returns nothing, not 1"),
        (INT, None, r"returns a int\n.*say which value"),
        (Returns("struct pair", "struct", 16, False), 1, "struct pair, which cannot be forced"),
    ],
)
def test_what_a_type_cannot_hold(returns: Returns, value: int | None, told: str) -> None:
    with pytest.raises(KgdbError, match=told):
        in_register("f", returns, value)


def test_errors_by_name() -> None:
    assert errno_of("-ENOMEM") == -12
    assert errno_of("ENOENT") == 2
    assert errno_of("ERR_PTR(-EIO)") == -5
    assert errno_of("-EPROBE_DEFER") == -517
    assert errno_of("&init_task") is None
    with pytest.raises(KgdbError, match="no error ENOSUCH"):
        errno_of("-ENOSUCH")
