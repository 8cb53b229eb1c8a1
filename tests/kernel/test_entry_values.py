"""What is read at a function's entry, on a real kernel: it is right, or refused."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_kgdb.errors import KgdbError
from pytest_kgdb.kernel import Kernel

MODULES = Path(__file__).parent / "modules"
ENTRY = MODULES / "entry"
STEP = "echo {} > /sys/module/entry/parameters/step"


@pytest.fixture
def entry(kgdb: Any) -> Any:
    kgdb.modules.load(ENTRY)
    return kgdb


def step(kgdb: Any, number: int) -> int:
    kgdb.run(STEP.format(number))
    return int(re.findall(rf"entry: step {number} gives (-?\d+)", kgdb.dmesg())[-1])


# Operators

Compute = Callable[[int, int], int]

WITH_CONDITIONS: dict[str, Compute | None] = {
    "(x && y) ?: 5": lambda x, y: int(bool(x and y)) or 5,
    "x && y ?: 5": lambda x, y: int(bool(x and y)) or 5,
    "(x || y) ?: 5": lambda x, y: int(bool(x or y)) or 5,
    "(x ? y : 0) ?: 7": lambda x, y: (y if x else 0) or 7,
    "(x ?: y) ?: 9": lambda x, y: x or y or 9,
    "x ?: y ?: 9": lambda x, y: x or y or 9,
    "((x ?: y) && x) ?: -1L": lambda x, y: int(bool((x or y) and x)) or -1,
    "(u8)(x - 1) ?: 3": lambda x, y: (x - 1) % 256 or 3,
    "(x && y ? &filled : 0) ?: &fraction": None,
    "*(x && y ? &tall : &nothing) ? 1 : 2": lambda x, y: 1 if x and y else 2,
    "*talls[x && y] ? 1 : 2": lambda x, y: 2 if x and y else 1,
    "(bool)*talls[x || y]": lambda x, y: not (x or y),
    "*talls[x && y] && !*talls[x || y] ?: 4": lambda x, y: int(not (x and y) and bool(x or y)) or 4,
}


def test_what_has_a_condition_within(entry: Any) -> None:
    with entry.spy("two", collect=list(WITH_CONDITIONS)) as calls:
        step(entry, 1)
    filled, fraction = (int(entry.evaluate(f"(long)&{name}")) for name in ("filled", "fraction"))
    assert len(calls.calls) == 4
    for call in calls.calls:
        x, y = call.args["x"], call.args["y"]
        expected = {
            text: compute(x, y) if compute else (filled if x and y else fraction) % (1 << 64)
            for text, compute in WITH_CONDITIONS.items()
        }
        assert {text: call[text] for text in WITH_CONDITIONS} == expected


def some_expression(numbers: random.Random, depth: int) -> tuple[str, Compute]:
    """An expression of x and y with conditions within conditions, and what it is."""
    if not depth or numbers.random() < 0.1:
        constant = numbers.randrange(3)
        leaves: list[tuple[str, Compute]] = [
            ("x", lambda x, y: x),
            ("y", lambda x, y: y),
            (str(constant), lambda x, y: constant),
        ]
        return numbers.choice(leaves)
    (one, a), (two, b), (three, c) = (some_expression(numbers, depth - 1) for _ in range(3))
    kinds: list[tuple[str, Compute]] = [
        (f"({one} && {two})", lambda x, y: int(bool(a(x, y) and b(x, y)))),
        (f"({one} || {two})", lambda x, y: int(bool(a(x, y) or b(x, y)))),
        (f"({one} ?: {two})", lambda x, y: a(x, y) or b(x, y)),
        (f"({one} ?: {two})", lambda x, y: a(x, y) or b(x, y)),
        (f"({one} ? {two} : {three})", lambda x, y: b(x, y) if a(x, y) else c(x, y)),
        (f"({one} - {two})", lambda x, y: a(x, y) - b(x, y)),
        (f"(!{one} + {two})", lambda x, y: int(not a(x, y)) + b(x, y)),
    ]
    return numbers.choice(kinds)


def test_conditions_within_conditions(entry: Any) -> None:
    numbers = random.Random(4711)
    expected = dict(some_expression(numbers, 4) for _ in range(100))
    with entry.spy("two", collect=list(expected)) as calls:
        step(entry, 1)
    assert len(calls.calls) == 4
    for call in calls.calls:
        arguments = call.args["x"], call.args["y"]
        computed = {text: compute(*arguments) for text, compute in expected.items()}
        assert {text: call[text] for text in expected} == computed


# Fractions


@pytest.mark.parametrize(
    ("expression", "why"),
    [
        ("fraction.f", "a float, and the kernel computes without fractions"),
        ("(&fractions)->f", "a float, and"),
        ("several[1]", "a double, and"),
        ("*&large", "a double, and"),
        ("x ? fraction.f : fractions.f", "a float, and"),
        ("longest", "a long double, and"),
        ("plane", "a complex float, and"),
        ("several", "a double, and"),
        ("fractions", "a float, and"),
        ("lanes", "it is a four"),
        ("fraction.f == 1.5", "no fractions"),
        ("fraction.f == several[0]", "no number"),
        ("(int)large", "no number"),
        ("large && x", "no truth value"),
        ("talls[large]", "pointer"),
    ],
)
def test_fractions_are_refused(entry: Any, expression: str, why: str) -> None:
    with pytest.raises(KgdbError, match=why):
        entry.spy("two", collect=[expression])


@pytest.mark.parametrize("condition", ["fraction.f", "!several[1]", "x || fractions.f", "longest"])
def test_a_fraction_is_no_condition(entry: Any, condition: str) -> None:
    with pytest.raises(KgdbError, match="no truth value"):
        entry.override("two", 0, when=condition)


def test_what_has_no_fraction(entry: Any) -> None:
    expected = {"fraction.raw": 0x3FC00000, "*(u32 *)&fractions.f": 0x3FC00000, "fractions.n": 3}
    with entry.spy("two", collect=list(expected)) as calls:
        step(entry, 1)
    assert {text: calls.calls[0][text] for text in expected} == expected
    assert float(entry.evaluate("fraction.f")) == 1.5


def test_arguments_beside_fractions(entry: Any) -> None:
    calls = entry.spy("mixed", collect=["n", "last"])
    doubles = entry.spy("give_double", returns=True)
    boths = entry.spy("give_both", returns=True)
    step(entry, 7)
    (call,) = calls.calls
    assert (call["n"], call["last"], call.args["n"]) == (20, 4000, 20)
    for name in ("d", "f", "both"):
        with pytest.raises(KgdbError, match=f"'{name}' could not be read|'{name}' cannot be read"):
            call.args[name]
    for spy in (doubles, boths):
        with pytest.raises(KgdbError, match="which is not read"):
            _ = spy.calls[0].return_value


# Local variables

LOCAL = "has no value yet at the function's entry"


def line_of(text: str) -> int:
    """The line of main.c that has a text."""
    lines = (ENTRY / "main.c").read_text().splitlines()
    (line,) = [number for number, line in enumerate(lines, 1) if text in line]
    return line


@pytest.mark.parametrize(
    "expression",
    ["filled.x", "filled", "&filled", "number", "*pointer", "with_local::filled.x", "n + number"],
)
def test_a_local_variable_has_no_value_at_the_entry(entry: Any, expression: str) -> None:
    with pytest.raises(KgdbError, match=f"(?s){LOCAL}.*behind its assignment"):
        entry.spy("with_local", collect=[expression])
    with pytest.raises(KgdbError, match=LOCAL):
        entry.override("with_local", 0, when=f"{expression} == 5")
    with pytest.raises(KgdbError, match=LOCAL):
        entry.override("with_local", expression)


@pytest.mark.parametrize(
    "location",
    ["with_local", "main.c:with_local", "*with_local", f"main.c:{line_of('int with_local') + 1}"],
)
@pytest.mark.parametrize("condition", ["filled.x == 5", "with_local::number", "n == 5 && !number"])
def test_a_condition_on_a_local_variable(entry: Any, location: str, condition: str) -> None:
    with pytest.raises(KgdbError, match=f"(?s){LOCAL}.*behind its assignment"):
        entry.breakpoint(location, condition=condition)
    hit = entry.breakpoint(location, condition="n == 5")
    with pytest.raises(KgdbError, match=LOCAL):
        hit.condition = condition


def test_where_a_local_variable_lives(entry: Any) -> None:
    behind = f"main.c:{line_of('number += *pointer')}"
    hit = entry.breakpoint(behind, condition="filled.x == 5 && filled.y == 10")
    entry.type(STEP.format(2))
    assert entry.cont().breakpoint is hit
    assert entry.evaluate("filled.z") == 15
    # What another spy is told is no business of this frame.
    with pytest.raises(KgdbError, match="local variable or an argument of another function"):
        entry.spy("two", collect=["with_local::filled.x"])


def test_what_is_not_a_local_variables_value(entry: Any) -> None:
    expected = {
        "sizeof(filled)": 24,
        "sizeof(with_local::filled.x)": 8,
        "(typeof(number))n": 5,
        "counted": 0,
        "with_local::counted": 0,
        "'main.c'::filled.x": 100,
    }
    with entry.spy("with_local", collect=list(expected)) as calls:
        step(entry, 2)
    assert {text: calls.calls[0][text] for text in expected} == expected
    with entry.spy("two", collect=["filled.y", "with_local::counted"]) as calls:
        step(entry, 1)
    assert (calls.calls[0]["filled.y"], calls.calls[0]["with_local::counted"]) == (200, 5)
    condition = "counted == 5 && sizeof(filled) == 24 && 'main.c'::filled.x == 100"
    hit = entry.breakpoint("with_local", condition=condition)
    entry.type(STEP.format(2))
    assert entry.cont().breakpoint is hit


# Functions of one name


def test_several_functions_have_the_name(entry: Any) -> None:
    for make in (
        lambda: entry.spy("same"),
        lambda: entry.override("same", 7),
        lambda: entry.fail_each("same", STEP.format(3), 7),
        lambda: entry.fail_each("same", STEP.format(3)),
    ):
        with pytest.raises(KgdbError) as error:
            make()
        assert re.search(
            r"on same: several functions have the name: (\S+/)?main\.c:\d+, (\S+/)?other\.c:\d+",
            error.value.message,
        )
        hint = r"say which: '(\S+/)?main\.c:same' or '(\S+/)?other\.c:same'"
        assert re.fullmatch(hint, error.value.hint)
    assert step(entry, 3) == 2103
    # A breakpoint at a name is at all of its places (gdb manual, "Location Specifications").
    hit = entry.breakpoint("same")
    entry.type(STEP.format(3))
    assert [entry.cont().frame.file[-7:] for _ in range(2)] == ["/main.c", "other.c"]
    hit.delete()


def test_one_of_several_functions(entry: Any) -> None:
    with entry.spy("main.c:same", returns=True) as mine, entry.spy("other.c:same") as others:
        with entry.override("entry/other.c:same", 7) as forced:
            assert step(entry, 3) == 2009
        assert step(entry, 3) == 2103
    assert (mine.count, others.count, forced.forced) == (2, 2, 1)
    assert [call.return_value for call in mine.calls] == [2, 2]


def test_a_headers_function_has_one_definition(entry: Any) -> None:
    for name, counted in (
        ("copied", 3),
        ("entry.h:copied", 3),
        ("main.c:copied", 2),
        ("other.c:copied", 1),
    ):
        with entry.spy(name) as calls:
            step(entry, 3)
        assert calls.count == counted


def test_what_is_inlined_of_another_files_function(entry: Any) -> None:
    with entry.spy("inlined_elsewhere") as calls:
        step(entry, 3)
    assert (calls.count, calls.inlined_in, calls.unseen) == (1, (), "")
    with pytest.raises(KgdbError, match=r"(?s)not defined in.*inlined everywhere"):
        entry.spy("other.c:inlined_elsewhere")


def test_functions_of_two_modules(entry: Any) -> None:
    entry.modules.load(MODULES / "edges")
    with pytest.raises(KgdbError) as error:
        entry.spy("step")
    assert re.search(r"functions have the name: (\S+/)?edges/main\.c:", error.value.message)
    hint = r"say which: '(\S+/)?edges/main\.c:step' or '(\S+/)?entry/main\.c:step'"
    assert re.fullmatch(hint, error.value.hint)
    with entry.spy("entry/main.c:step") as calls, entry.spy("edges/main.c:step") as others:
        step(entry, 3)
        entry.run("echo 8 > /sys/module/edges/parameters/step")
    assert [call.args["n"] for call in (*calls.calls, *others.calls)] == [3, 8]
    # As soon as there is only one, its name is enough.
    entry.modules.unload("edges")
    with entry.spy("step") as calls:
        step(entry, 3)
    assert calls.count == 1


@pytest.mark.parametrize(
    "name",
    [
        "init_once",
        "c_start",
        "compute_score",
        "modalias_show",
    ],
)
def test_the_kernels_functions_of_one_name(kgdb: Any, kgdb_kernel: Kernel, name: str) -> None:
    with pytest.raises(KgdbError) as error:
        kgdb.spy(name)
    if name == "compute_score" and kgdb_kernel.version >= (6, 12):
        assert "gcc inlined it everywhere" in error.value.message
        return
    assert error.value.hint.startswith("say which: ")
    for one in re.findall(r"'(.*?)'", error.value.hint):
        kgdb.spy(one).delete()


def test_a_function_in_place_of_a_weak_one(kgdb: Any) -> None:
    """kernel/fork.c has a weak one, which is in the kernel, too."""
    with kgdb.spy("arch_dup_task_struct") as calls:
        kgdb.run("true | true")
    assert calls.count >= 2


# Texts and pointers


@pytest.mark.parametrize("size", [100, 255, 256, 590, 4095])
def test_a_text_of_any_length(entry: Any, size: int) -> None:
    with entry.spy("take_text", collect=["s"]) as calls:
        step(entry, size)
    (call,) = calls.calls
    for seen in (call.args["s"], call["s"]):
        assert seen == "p" * size
        assert seen != "p" * (size - 1)
        assert seen.string() == str(seen) == "p" * size


def test_a_text_that_is_cut(entry: Any) -> None:
    with entry.spy("take_text", collect=["text[0]"]) as calls:
        step(entry, 4096)
    seen = calls.calls[0].args["s"]
    why = "is longer than the 4096 bytes that are read at a call"
    with pytest.raises(KgdbError, match=why):
        seen.string()
    with pytest.raises(KgdbError, match=f"is not known: it {why}"):
        assert seen == "p" * 4096
    assert seen != "p" * 4095
    assert seen != "q" * 5000
    assert str(seen) == "p" * 4096 + "..."
    assert len(repr(calls.calls)) < 400


def test_texts_that_are_not_mapped(entry: Any) -> None:
    with entry.spy("take_text") as calls:
        step(entry, 4)
    one, end, none = (call.args["s"] for call in calls.calls)
    assert one == "one"
    assert none == 0
    assert none != "one"
    behind = (int(end) | 0xFFF) + 1
    with pytest.raises(KgdbError, match=f"goes on at {behind:#x}, where nothing was mapped"):
        end.string()
    with pytest.raises(KgdbError, match="is not known"):
        assert end == "q" * 10
    assert end != "q" * 9
    with entry.breakpoint("take_text", condition="s != names[0]") as hit:
        entry.type(STEP.format(4))
        stop = entry.cont()
        assert stop.breakpoint is hit
        with pytest.raises(KgdbError):  # gdb, too
            stop.frame.args["s"].string()


def test_a_text_that_is_returned(entry: Any) -> None:
    with entry.spy("give_text", returns=True) as calls:
        step(entry, 5)
    text, null, error = (call.return_value for call in calls.calls)
    assert text == "ppppp"
    assert text.string() == "ppppp"
    assert (null, error) == (0, -12)
    assert null != "ppppp"
    assert error == "-ENOMEM"
    assert "'ppppp'" in repr(calls.calls[0])
    with entry.override("give_text", "&names[1][0]") as forced:
        step(entry, 5)
    assert forced.last.return_value == "two"


def test_pointers_within_what_is_read(entry: Any) -> None:
    with entry.spy("take_texts") as taken, entry.spy("give_texts", returns=True) as given:
        step(entry, 6)
    texts, either = (taken.calls[0].args[name] for name in ("texts", "either"))
    assert texts["name"] == "one"
    assert texts["name"].string() == "one"
    assert texts["pointer"] == -12
    assert texts["pointer"] == "-ENOMEM"
    assert (either["name"], either["number"] % (1 << 64)) == ("two", int(either["name"]))
    assert either["pointers"] == [int(either["name"]), -5, 0]
    assert given.calls[0].return_value == {"name": "two", "pointer": -12}
