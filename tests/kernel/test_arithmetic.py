"""Expressions on a real kernel, computed as gcc computes them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from pytest_kgdb.errors import KgdbError

ARITH = Path(__file__).parent / "modules" / "arith"
STEP = "echo 1 > /sys/module/arith/parameters/step"


@pytest.fixture
def arith(kgdb: Any) -> Any:
    kgdb.modules.load(ARITH)
    return kgdb


def collected(kgdb: Any, expected: dict[str, int]) -> dict[str, int]:
    """What a spy collects of some expressions."""
    with kgdb.spy("probe", collect=list(expected)) as calls:
        kgdb.run(STEP)
    (call,) = calls.calls
    return {name: int(call[name]) for name in expected}


def forced(kgdb: Any, when: str) -> int:
    """How many calls, of one, an override forces under a condition."""
    with kgdb.override("probe", 0, when=when) as override:
        kgdb.run(STEP)
    assert override.calls == 1
    return override.forced


# Operands of 128 bits


def test_numbers_of_128_bits(arith: Any) -> None:
    expected = {
        "tall": 1 << 64,
        "!tall": 0,
        "!nothing": 1,
        "tall || 0": 1,
        "nothing || 0": 0,
        "tall && 1": 1,
        "tall ? 1 : 2": 1,
        "nothing ? 1 : 2": 2,
        "(u64)tall": 0,
        "(int)tall": 0,
        "(bool)tall": 1,
        "(bool)nothing": 0,
        "(void *)nothing == 0": 1,
        "1 << nothing": 1,
        "numbers[nothing]": 10,
        "*(numbers + nothing)": 10,
        "wide": -5,
        "!wide": 0,
        "(long)wide": -5,
        "(u8)wide": 251,
    }
    assert collected(arith, expected) == expected


@pytest.mark.parametrize(
    "expression", ["tall + 1", "-tall", "tall == 0", "n ? tall : 0", "tall >> 1"]
)
def test_what_is_not_computed_in_128_bits(arith: Any, expression: str) -> None:
    with pytest.raises(KgdbError, match="128 bits"):
        arith.spy("probe", collect=[expression])


@pytest.mark.parametrize(
    ("when", "forces"),
    [("!nothing", 1), ("nothing", 0), ("nothing || 0", 0), ("tall", 1), ("!tall", 0), ("wide", 1)],
)
def test_a_condition_of_128_bits(arith: Any, when: str, forces: int) -> None:
    assert forced(arith, when) == forces


# The types of operands


def test_enumerators_and_bit_fields(arith: Any, kgdb_kernel: Any) -> None:
    """The numbers are what gcc 12 computes, and where it does otherwise gcc 14."""
    (gcc,) = re.findall(r"^gcc .* (\d+)\.\d+\.\d+", kgdb_kernel.compiler)
    # An enumerator that is no int makes the others none since 13.
    alone = int(int(gcc) < 13)
    expected = {
        "-1 < Q_ONE": 1,
        "Q_ONE - 2 < 0": 1,
        "-Q_ONE": -1,
        "~Q_SEVEN": -8,
        "small < false": 1,
        "small < N_TEN": 1,
        "fields.whole > N_NEG": 0,
        "-1 < fields.whole": 0,
        "L_ONE - 2 < 0": alone,
        "L_LARGE - 1 > 0": 1,
        "W_ONE - 2 < 0": alone,
        "-W_WIDE < 0": 0,
        "n ? -1 : Q_ONE": -1,
        "Q_ONE << 31": -2147483648,
        "fields.u3 - 6 < 0": 1,
        "-fields.u3": -5,
        "~fields.u1": -2,
        "-1 < fields.u3": 1,
        "fields.s4 - 1": -4,
        "fields.s4 < Q_ONE": 1,
        "fields.u31 - 0x7ffffff1": -1,
        "-fields.u31": -2147483632,
        "fields.u32 + 2": 0,
        "-1 < fields.u32": 0,
        "fields.long32 + 2": 0,
        "-fields.long32 > 0": 1,
        "fields.w40 + 1": 0,
        "fields.w40 << 4": 1099511627760,
        "fields.w40 == -1": 1,
        "-1 < fields.w40": 0,
        "-fields.w40": 1,
        "~fields.w40": 0,
        "(fields.w40 + 1) + 1": 1,
        "fields.w40 + 1L": 1099511627776,
        "(u64)fields.w40 + 1": 1099511627776,
        "fields.w40 >> 4": 68719476735,
        "fields.w40 / -1": 1,
        "fields.sw36 - 1": -6,
        "fields.sw36 < 0": 1,
        "fields.sw36 + fields.w40": 1099511627770,
        "fields.sw36 < 1u": 1,
        "fields.yes - 2": -1,
        "-fields.yes": -1,
        "fields.q - 8 < 0": 1,
        "-fields.q": -7,
        "fields.whole - 2 > 0": 1,
        "n ? fields.w40 : -1": 1099511627775,
        "n ? fields.u3 : 1u": 5,
        "1 ? -fields.u3 : 0u": 4294967291,
        "numbers[fields.u1 + 1]": 12,
        "(fields.u3) - 6 < 0": 1,
    }
    assert collected(arith, expected) == expected


def computed_by_gcc(kgdb: Any) -> dict[str, int]:
    """Expressions of bit-fields, and what gcc computes."""
    kgdb.run(STEP)
    rows = [kgdb.evaluate(f"computed[{i}]") for i in range(int(kgdb.evaluate("n_computed")))]
    return {
        row["text"].string(): int(row["value"]) & ((1 << 64) - 1 if not row["negative"] else -1)
        for row in rows
    }


def is_wide(text: str) -> bool:
    """Whether an expression has a bit-field of a type of 128 bits: to gdb 13, none to compute."""
    return "x40" in text


def test_bit_fields_of_any_width_are_computed_as_by_gcc(arith: Any) -> None:
    expected = computed_by_gcc(arith)
    assert len(expected) > 1500
    differing = {
        text: (value, number)
        for text, value in expected.items()
        if not is_wide(text) and (number := int(arith.evaluate(text))) != value
    }
    assert differing == {}
    assert collected(arith, expected) == expected


def test_what_is_taken_from_a_pointer_is_known(arith: Any) -> None:
    """Of what has another size to gdb, a number and a pointer are not the same there."""
    arith.execute("set $number = 1")
    start = int(arith.evaluate("(long)opens"))
    assert arith.evaluate("(long)(opens + $number)") - start == 16
    assert arith.evaluate("(long)&opens[$number]") - start == 16
    with pytest.raises(KgdbError, match=r"whether \$number is a pointer or a number is not known"):
        arith.evaluate("opens - $number")
    assert arith.evaluate("(long)(opens - (long)$number)") - start == -16


def test_conditions_with_bit_fields_of_any_width(arith: Any) -> None:
    expected = [
        f"(long)({text}) == (long){value}"
        for text, value in computed_by_gcc(arith).items()
        if not is_wide(text)
    ]
    for first in range(0, len(expected), 100):
        hit = arith.breakpoint("probe", condition=" && ".join(expected[first : first + 100]))
        arith.type(STEP)
        assert arith.cont().breakpoint is hit
        hit.delete()


def test_bit_fields_of_a_type_of_128_bits(arith: Any) -> None:
    """gdb 16 computes with them, if it is told how many bits count; gdb 13 refuses to."""
    refused, wrong = 0, {}
    expected = {text: value for text, value in computed_by_gcc(arith).items() if is_wide(text)}
    assert "-broad.x40" in expected
    for text, value in expected.items():
        try:
            if (number := int(arith.evaluate(text))) != value:
                wrong[text] = value, number
        except KgdbError as error:
            if "8 bytes" not in error.message:
                raise
            refused += 1
    assert wrong == {}
    assert refused == 0 or refused > len(expected) // 2


def test_products_below_the_least_number(arith: Any) -> None:
    """gdb 16 has the sign wrong by itself."""
    expected = {
        "numbers[0] * -2000000000": -10 * 2000000000 + (5 << 32),
        "-2000000000 * 5": -10000000000 + (2 << 32),
        "(numbers[0] - 2000000010) * 5": -10000000000 + (2 << 32),
        "(numbers[0] - 2000000010) << 3": -16000000000 + (4 << 32),
        "broad.s63 * 7": 91 - (1 << 62),
        "(long)broad.s63 * 7": 91 - 7 * (1 << 62) + (2 << 64),
        "(unsigned)5 * -7": (1 << 32) - 35,
    }
    assert {text: int(arith.evaluate(text)) for text in expected} == expected
    assert collected(arith, expected) == expected


@pytest.mark.parametrize("expression", ["least / -1", "1 + least%(numbers[0] - 11)"])
def test_a_quotient_that_no_type_holds(arith: Any, expression: str) -> None:
    """gdb 13 would die of it, as a kernel does."""
    with pytest.raises(KgdbError, match="divided by -1 is more than a long holds"):
        arith.evaluate(expression)
    hit = arith.breakpoint("probe", condition=expression)
    arith.type(STEP)
    stop = arith.cont()
    assert stop.breakpoint is hit
    assert "divided by -1 is more than a long holds" in stop.message


def test_quotients(arith: Any) -> None:
    expected = {
        "(least + 1)/-1": (1 << 63) - 1,
        "least / n": -((1 << 63) // 3),
        "least%small": 0,
        "(n ? least : 1) / small / small": -(1 << 61),
        "least / (u64)-1": 0,
        "7 / (long)small % 2 * -n": 3,
        "sizeof(least / n)": 8,
    }
    assert collected(arith, expected) == expected
    hit = arith.breakpoint(
        "probe", condition=" && ".join(f"{e} == {expected[e]}" for e in expected)
    )
    arith.type(STEP)
    assert arith.cont().breakpoint is hit
    assert {text: int(arith.evaluate(text)) for text in expected} == expected
    with pytest.raises(KgdbError, match="Division by zero"):
        arith.evaluate("least / (n - 3)")


@pytest.mark.parametrize("field", ["fields.w40", "fields.u3", "(broad.u33)"])
def test_a_bit_field_has_no_sizeof(arith: Any, field: str) -> None:
    with pytest.raises(KgdbError, match="sizeof of a bit-field"):
        arith.evaluate(f"sizeof({field})")
    with pytest.raises(KgdbError, match="sizeof of a bit-field"):
        arith.breakpoint("probe", condition=f"sizeof({field}) == 8")
    for word, expression in (("sizeof", f"sizeof({field})"), ("typeof", f"(typeof({field}))n")):
        with pytest.raises(KgdbError, match=f"{word} of a bit-field"):
            arith.spy("probe", collect=[expression])


def test_what_is_assigned_to_gdbs_variables(arith: Any) -> None:
    when = "($less = -1 < fields.u3), ($sum = fields.w40 + 1), n == 3"
    hit = arith.breakpoint("probe", condition=when)
    arith.type(STEP)
    assert arith.cont().breakpoint is hit
    assert arith.evaluate("$less") == 1
    assert arith.evaluate("$sum") == 0


@pytest.mark.parametrize("when", ["-1 < Q_ONE", "small < false", "fields.u3 - 6 < 0"])
def test_a_condition_that_has_a_sign(arith: Any, when: str) -> None:
    assert forced(arith, when) == 1
    assert forced(arith, f"!({when})") == 0


# Expressions of several lines


def test_an_expression_of_several_lines(arith: Any) -> None:
    when = """
        n == 3 &&  // the first
        small == -2 /* the
        second */
        && '\\n' == 10
    """
    assert forced(arith, when) == 1
    assert collected(arith, {when: 1}) == {when: 1}
    hit = arith.breakpoint("probe", condition=when)
    arith.type(STEP)
    assert arith.cont().breakpoint is hit
    assert hit.condition == when
    assert arith.evaluate(when) == 1
    assert arith.evaluate("n\n+ 1") == 4


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n"])
def test_what_follows_a_line_is_no_command(arith: Any, end: str) -> None:
    text = f"n == 3{end}set var numbers[0] = 77"
    with pytest.raises(KgdbError, match="'set' is not understood"):
        arith.override("probe", 0, when=text)
    with pytest.raises(KgdbError):
        arith.breakpoint("probe", condition=text)
    for refused in (f'$_streq("a{end}b", "c")', f"n == '{end}'"):
        with pytest.raises(KgdbError, match="a line ends within"):
            arith.breakpoint("probe", condition=refused)
        with pytest.raises(KgdbError, match="a line ends within"):
            arith.override("probe", 0, when=refused)
        with pytest.raises(KgdbError, match="a line ends within"):
            arith.evaluate(refused)
    assert arith.evaluate("numbers[0]") == 10


# Truth values


@pytest.mark.parametrize(
    ("when", "forces"),
    [
        ("empty", 1),
        ("!empty", 0),
        ("empty[0]", 0),
        ("&empty[0]", 1),
        ("numbers", 1),
        ("probe", 1),
        ("current->comm", 1),
        ("n - 3", 0),
        ("small", 1),
    ],
)
def test_an_array_holds_as_its_address(arith: Any, when: str, forces: int) -> None:
    assert forced(arith, when) == forces


def test_a_structure_is_no_condition(arith: Any) -> None:
    with pytest.raises(KgdbError, match=r"fields is a struct fields.* no truth value"):
        arith.override("probe", 0, when="fields")


# Words of C


def test_words_of_c(arith: Any) -> None:
    expected = {
        'sizeof("abc")': 4,
        'sizeof("")': 1,
        'sizeof("a\\n\\x41\\0" "b")': 6,
        "(signed)small": -2,
        "(signed int)small": -2,
        "(signed short)70000": 4464,
        "(signed long)n": 3,
        "(signed char)255": -1,
        "sizeof(int[3])": 12,
        "sizeof(int[010])": 32,
        "(u32)$rdi": 3,
        "$pc == $rip": 1,
        "(long)$pc == (long)&probe": 1,
        "$sp == $rsp": 1,
        "$cs & 3": 0,
    }
    assert collected(arith, expected) == expected


@pytest.mark.parametrize(
    ("expression", "why"),
    [
        ("08", "08 begins with 0, so it is octal"),
        ("n == 09", "octal"),
        ("sizeof(int[n])", "'n' is no number"),
        ("$edx", r"(?s)\$edx is not read there.*\(u32\)\$rdx.*\$rip"),
        ("$sil", r"\(u32\)\$rdx"),
        ("$xmm0", r"\$xmm0 is a"),
        ("$nosuch", r"there is no register \$nosuch"),
    ],
)
def test_words_that_are_refused(arith: Any, expression: str, why: str) -> None:
    with pytest.raises(KgdbError, match=why):
        arith.spy("probe", collect=[expression])
