"""Values on a real kernel: each is the very one of the source, or is refused."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import drgn
import pytest

from pytest_kgdb.debugger import difference
from pytest_kgdb.errors import KgdbError, StaleError
from pytest_kgdb.plugin._compare import compare

EXACT = Path(__file__).parent / "modules" / "exact"


@pytest.fixture
def exact(kgdb: Any) -> Any:
    """The module, at a stop whose function has no variable of the names here, as `flags`."""
    kgdb.modules.load(EXACT)
    kgdb.breakpoint("hrtimer_nanosleep", temporary=True)
    kgdb.type("sleep 0")
    kgdb.cont()
    return kgdb


# Fractions


@pytest.mark.parametrize(
    "target", ["number", "truth", "colour", "address", "flags.level", "late_a[3]", "$rax"]
)
def test_an_integer_takes_no_fraction(exact: Any, target: str) -> None:
    before = int(exact.evaluate(target))
    values = [0.5, 1.5, "1.5", "precise", "fraction * 3", Fraction(3, 2), math.nan, -math.inf]
    for value in [*values, exact.evaluate("precise")]:
        with pytest.raises(KgdbError, match=r"(?s)no fractions.*round it: int\("):
            exact.assign(target, value)
        assert exact.evaluate(target) == before


def test_an_integer_takes_what_is_whole(exact: Any) -> None:
    for target, value, number in (
        ("number", 3.0, 3),
        ("number", "precise * 2", 3),
        ("number", "(long)2.75", 2),
        ("number", -7.0, -7),
        ("number", Fraction(4, 2), 2),
        ("truth", 1.0, 1),
        ("colour", 7.0, 7),
        ("flags.level", 2.0, 2),
        ("address", 4096.0, 4096),
    ):
        exact.assign(target, value)
        assert exact.evaluate(target) == number
    for target, value in (("number", 2.0**31), ("truth", 2.0), ("flags.level", 8.0)):
        with pytest.raises(KgdbError, match="cannot hold"):
            exact.assign(target, value)


def test_a_fraction_takes_any_number(exact: Any) -> None:
    for value in (2.75, -0.125, 3, "5.5 / 2", "number + 0.5", math.inf, exact.evaluate("fraction")):
        exact.assign("precise", value)
        expected = {"5.5 / 2": 2.75, "number + 0.5": 1.5}.get(str(value), value)
        assert exact.evaluate("precise") == float(expected)
    exact.assign("precise", math.nan)
    assert math.isnan(float(exact.evaluate("precise")))
    exact.assign("precise", 10**22)
    assert exact.evaluate("precise") == 10**22
    exact.assign("fraction", 0.1)
    assert float(exact.evaluate("fraction")) == pytest.approx(0.1)
    for value in (1e39, "-1e39", 10**400):
        with pytest.raises(KgdbError, match="cannot hold"):
            exact.assign("fraction", value)


def test_a_variable_of_gdbs_own_takes_any_number(exact: Any) -> None:
    for value in (1, 1.5, 2**40):
        exact.assign("$mine", value)
        assert exact.evaluate("$mine") == value


def test_an_override_returns_no_fraction(exact: Any) -> None:
    for value in (1.5, Fraction(1, 2), exact.evaluate("precise"), math.inf):
        with pytest.raises(KgdbError, match=r"cannot return .*\n.*whole number"):
            exact.override("on_cpu", value)
    with exact.override("on_cpu", 5.0):
        exact.run("echo 1 > /sys/module/exact/parameters/cpu")
    assert "on_cpu(1) gives 5, 3" in exact.dmesg()


def test_numbers_are_compared_with_their_fraction(exact: Any) -> None:
    half, one = exact.evaluate("precise"), exact.evaluate("number")
    assert (half, one) == (1.5, 1)
    assert 1 < half < 1.75
    assert half > one
    assert one < 1.5
    assert one != 1.5
    assert (half + 1, 2 - one, half - 0.5) == (2.5, 1, 1.0)
    with pytest.raises(TypeError, match="not an integer"):
        range(half)


# Bit-fields

FIELDS = {
    "level": (5, 3, 2), "rest": (77, 28, 1 << 27), "tilt": (-3, 4, 5), "slope": (-9, 6, -32),
    "no": (0, 1, 1), "yes": (1, 1, 0), "paint": (7, 4, 1), "wide": (0x123456789A, 40, 1 << 39),
    "low": (1, 2, 3), "high": (42, 6, 21),
}  # fmt: skip
"""Each member's value, its width, and another value that it holds."""


@pytest.mark.parametrize("parent", ["flags", "others[1]", "(*pointed)", "pointed", "nested.inner"])
def test_a_bit_field_is_read_again_after_a_write(exact: Any, parent: str) -> None:
    dot = "->" if parent == "pointed" else "."
    structure = exact.evaluate(parent)
    for name, (number, width, other) in FIELDS.items():
        expression = f"{parent}{dot}{name}"
        bits = [exact.evaluate(expression), exact.evaluate(f"({expression})"), structure[name]]
        assert [value.address for value in bits] == [None] * 3
        exact.assign("number", 3)
        assert list(map(int, bits)) == [number] * 3, expression
        for value in bits:
            copy = exact.drgn_object(value)
            assert (copy.value_(), copy.address_, copy.bit_field_size_) == (number, None, width)
        exact.assign(expression, other)
        assert list(map(int, bits)) == [other] * 3, expression
        exact.assign(expression, number)
        assert bits[0] == bits[2] == number
    assert structure["whole"] == exact.evaluate(f"{parent}{dot}whole") == 6
    assert structure["whole"].address == exact.evaluate(f"&({parent}{dot}whole)")


def test_what_is_made_of_a_bit_field_lies_nowhere(exact: Any) -> None:
    """Of some of these, gdb has the address of the word."""
    exact.execute("print flags.level")
    for expression, number in (
        ("(unsigned int)flags.level", 5),
        ("(int)flags.tilt", -3),
        ("number ? flags.tilt : others[0].tilt", -3),
        ("number ? flags.level : others[0].level", 5),
        ("number ?: flags.tilt", 1),
        ("flags.level + 0", 5),
        ("$", 5),
        ("$1", 5),
    ):
        try:
            value = exact.evaluate(expression)
        except KgdbError:
            assert "?:" in expression  # gdb has no such operator
            continue
        assert (value, value.address) == (number, None), expression
        assert exact.drgn_object(value).value_() == number
        exact.assign("address", 1)
        with pytest.raises(StaleError, match="evaluate it again"):
            int(value)
    cast = exact.evaluate("flags")["level"].cast("unsigned int")
    assert (cast, cast.address) == (5, None)
    comma = exact.evaluate("(1, flags.level)")
    exact.assign("address", 2)
    assert (comma, comma.address) == (5, None)
    for expression in ("&flags.level", "*&flags.level", "&(pointed->tilt)"):
        with pytest.raises(KgdbError, match="a bit-field, which has none"):
            exact.evaluate(expression)
    with pytest.raises(KgdbError, match="flags is no per-CPU variable"):
        exact.evaluate("per_cpu(flags.on, 0)")
    for expression in ("(unsigned int)flags.level", "$1"):
        with pytest.raises(KgdbError, match="is computed"):
            exact.assign(expression, 9)
    for name, (*_, width) in (("level", FIELDS["level"][:2]), ("tilt", FIELDS["tilt"][:2])):
        with pytest.raises(KgdbError, match=f"of {width} bits, which cannot hold 9"):
            exact.assign(f"flags.{name}", 9)
        with pytest.raises(KgdbError, match="is a bit-field"):
            exact.watchpoint(f"(pointed->{name})")


def test_a_bit_field_of_drgns(exact: Any) -> None:
    flags = exact.drgn_object(exact.evaluate("flags"))
    assert (flags.level.value_(), flags.tilt.value_()) == (5, -3)
    assert exact.evaluate(flags.level) == 5
    assert exact.evaluate(flags.tilt) == -3
    assert exact.evaluate(flags.whole).address == flags.whole.address_


def test_a_type_of_drgns_is_the_same(exact: Any) -> None:
    """Other files have types of these names."""
    for expression, size in (
        ("other_points[1]", 2),
        ("*other_pointer", 2),
        ("other_points", 4),
        ("other_twin", 16),
        ("twin", 16),
        ("other_pair", 32),
        ("pair", 32),
    ):
        value = exact.evaluate(expression)
        one = exact.drgn_object(value)
        assert (drgn.sizeof(one), one.address_) == (size, value.address), expression
    assert exact.drgn_object(exact.evaluate("other_points"))[1].y.value_() == 9
    assert exact.drgn_object(exact.evaluate("other_pointer")).y.value_() == 5
    assert exact.drgn_object(exact.evaluate("other_points")[1]["y"]).value_() == 9
    twins = [exact.drgn_object(exact.evaluate(name)) for name in ("twin", "other_twin")]
    assert [(one.first.value_(), one.second.value_()) for one in twins] == [(1, -2), (-1, 2)]
    pairs = [exact.drgn_object(exact.evaluate(name)) for name in ("pair", "other_pair")]
    assert [one.two.first.type_.type_name() for one in pairs] == ["u64", "s64"]
    for expression in ("init_task", "current", "per_cpu(runqueues, 0)", "init_pid_ns", "deep_a"):
        exact.drgn_object(exact.evaluate(expression))


def test_a_type_of_gdbs_is_the_same(exact: Any) -> None:
    points = exact.drgn_object(exact.evaluate("other_points"))
    twins = [exact.drgn_object(exact.evaluate(name)) for name in ("twin", "other_twin")]
    rights = 0
    refusals = []
    for one in (points[0], points[0].address_of_(), *twins):
        try:
            value = exact.evaluate(one)
        except KgdbError as error:
            refusals.append(str(error))
            continue
        rights += 1
        if not value.is_pointer:
            first = one.type_.members[0].name
            assert value[first] == one.member_(first).value_()
    assert rights + len(refusals) == 4
    assert rights >= 1
    assert all("gdb has another 'struct" in refusal for refusal in refusals)
    assert exact.evaluate(exact.program["init_task"])["comm"] == "swapper/0"


def test_addresses_that_are_known(exact: Any) -> None:
    for expression in (
        "flags.whole", "pointed->whole", "number", "*&number", "same_a[3]", "{int}&number",
        "twin.second", "init_task.pid", "current->pid", "per_cpu(exact_count, 0)", "(number)",
        "nested.n", "per_cpu(runqueues, 0).cpu", "'main.c'::number", "current->signal->nr_threads",
    ):  # fmt: skip
        value = exact.evaluate(expression)
        assert value.address == exact.evaluate(f"&({expression})"), expression


# Values as a whole


def test_values_are_compared_to_their_end(exact: Any) -> None:
    value = exact.evaluate
    for one, other in (
        ("same_a", "same_b"),
        ("text_a", "text_a"),
        ("padded_a", "padded_b"),
        ("padded_a[1]", "padded_b[1]"),
        ("deep_a", "deep_b"),
        ("deep_a.inner", "padded_a"),
        ("flags", "others[2]"),
        ("nested.inner", "*pointed"),
        ("either_a", "either_a"),
        ("set_cpu", "*set_cpu"),
        ("init_task", "*(struct task_struct *)&init_task"),
    ):
        if one == "deep_a.inner":
            assert value(one) != value(other), "of another length"
            continue
        assert value(one) == value(other), (one, other)
        assert (value(one) != value(other)) is False
        assert value(one) in [value("late_b"), value(other)]


def test_where_values_differ_first(exact: Any) -> None:
    value = exact.evaluate
    for one, other, path in (
        ("late_a", "late_b", [300]),
        ("text_a", "text_b", [580]),
        ("tail_a", "tail_b", [5]),
        ("padded_a", "other_c", [2, "number"]),
        ("deep_a", "deep_c", ["grid", 1, 299]),
        ("either_a", "either_b", ["bytes", 299]),
        ("*tailed_a", "*tailed_c", ["n"]),
        ("twin", "other_twin", []),
        ("pair", "other_pair", ["one"]),
        ("twin", "flags", []),
        ("same_a", "text_a", []),
        ("number", "flags", []),
        ("&same_a", "&same_b", []),
    ):
        assert value(one) != value(other), (one, other)
        assert (value(one) == value(other)) is False
        assert value(one) not in [value(other), value("text_b")]
        assert difference(value(one), value(other)) == path, (one, other)


def test_values_are_compared_as_they_are_now(exact: Any) -> None:
    one, other, bits = (exact.evaluate(name) for name in ("same_a", "same_b", "flags"))
    assert one == other
    exact.assign("same_b[399]", -1)
    assert one != other
    exact.assign("same_a[399]", -1)
    assert one == other
    exact.assign("flags.slope", 8)
    assert bits != exact.evaluate("others[0]")
    exact.stepi()
    for stale in (lambda: one == other, lambda: one != exact.evaluate("same_b")):
        with pytest.raises(StaleError):
            stale()


def test_values_that_cannot_be_compared(exact: Any) -> None:
    value = exact.evaluate
    with pytest.raises(KgdbError, match="rows is a flexible array"):
        assert value("*tailed_a") == value("*tailed_b")
    with pytest.raises(KgdbError, match="flexible array"):
        assert value("tailed_a->rows") != value("tailed_b->rows")
    assert value("tailed_a->n") == value("tailed_b->n")
    kept = str(value("late_a"))
    with pytest.raises(KgdbError, match=r"(?s)text is that of the first elements.*kgdb\.read"):
        assert value("late_b") == kept
    assert value("twin") == str(value("twin"))
    assert value("late_a") != kept.replace("3", "4")
    with pytest.raises(KgdbError, match="Cannot access memory"):
        assert value("*(struct padded *)16") == value("padded_a[0]")


def test_a_failed_comparison_shows_where(exact: Any) -> None:
    value = exact.evaluate
    lines = compare("==", value("late_a"), value("late_b")) or []
    assert any(line.strip().startswith("they differ first at [300]: 300 = 0x12c") for line in lines)
    lines = compare("==", value("deep_a"), value("deep_c")) or []
    assert "  .grid" in lines
    assert any("they differ first at [1][299]" in line for line in lines), lines
    assert lines[-1] == "  (3 members are the same)"


# CPUs that there are not


CPU = "echo {} > /sys/module/exact/parameters/cpu"
NO_CPU = "there is no CPU {}; the guest has 1"


def test_a_cpu_that_there_is_not(exact: Any) -> None:
    for number, cpu in (
        *((number, str(number)) for number in (1, 3, -1, 1000000)),
        *((64, "0x40"), (3, "1 + 2"), (7, "BLUE"), (1, "number")),
    ):
        expression = f"per_cpu(runqueues, {cpu}).cpu"
        for use in (
            exact.evaluate,
            exact.watchpoint,
            lambda expression: exact.assign(expression, 1),
            lambda expression: exact.assign("number", expression),
            lambda expression: exact.execute(f"print {expression}"),
        ):
            with pytest.raises(KgdbError, match=NO_CPU.format(number)):
                use(expression)
        for other in (
            f"per_cpu(exact_count, {cpu})",
            f"&per_cpu(exact_count, {cpu})",
            f"1 + per_cpu(exact_count, {cpu})",
            f"per_cpu_ptr(&exact_count, {cpu})[0]",
        ):
            with pytest.raises(KgdbError, match=NO_CPU.format(number)):
                exact.evaluate(other)
    for zero in ("0", "1 - 1", "RED", "number - 1", "kgdb_active.counter * 0"):
        assert exact.evaluate(f"per_cpu(exact_count, {zero})") == 7
    exact.assign("per_cpu(exact_count, 0)", 8)
    assert exact.per_cpu("exact_count", 0) == 8


def test_a_constant_cpu_that_there_is_not_where_a_function_is_called(exact: Any) -> None:
    for cpu in ("1", "-1", "2 * 2", "BLUE"):
        expression = f"per_cpu(exact_count, {cpu}) == 7"
        for use in (
            lambda text: exact.breakpoint("on_cpu", condition=text),
            lambda text: exact.spy("on_cpu", collect=[text]),
            lambda text: exact.spy("on_cpu", collect=[text.replace("per_cpu(", "per_cpu_ptr(&")]),
            lambda text: exact.override("on_cpu", 1, when=text),
            lambda text: exact.override("on_cpu", text),
        ):
            with pytest.raises(KgdbError, match="there is no CPU"):
                use(expression)
    exact.run(CPU.format(0))
    assert "on_cpu(0) gives 1, 3" in exact.dmesg()


def test_a_computed_cpu_that_there_is_not(exact: Any) -> None:
    one, other = "per_cpu(exact_count, cpu)", "*per_cpu_ptr(&exact_count, offline - cpu)"
    with exact.spy("on_cpu", collect=[one, other]) as calls:
        for cpu in (0, -1, 1, 3):
            exact.run(CPU.format(cpu))
    first, *others = calls.calls
    assert first[one] == 7
    unread = "could not be read at the call: there is no CPU {}"
    with pytest.raises(KgdbError, match=unread.format(3)):
        first[other]
    for call, cpu in zip(others, (-1, 1, 3), strict=True):
        with pytest.raises(KgdbError, match=unread.format(cpu)):
            call[one]
    assert others[-1][other] == 7


def test_a_computed_cpu_that_there_is_not_in_a_condition(exact: Any) -> None:
    condition = "per_cpu(exact_count, cpu) == 7"
    with exact.breakpoint("on_cpu", condition=condition) as hit:
        exact.type(CPU.format(0))
        stop = exact.cont()
        assert (stop.breakpoint, stop.message) == (hit, None)
        exact.type(CPU.format(3))
        stop = exact.cont()
        assert f"could not evaluate the condition '{condition}'" in stop.message
        assert NO_CPU.format(3) in stop.message


@pytest.mark.kgdb(smp=2)
def test_the_cpus_that_there_are(exact: Any) -> None:
    for cpu in (0, 1):
        assert exact.evaluate(f"per_cpu(runqueues, {cpu}).cpu") == cpu
        exact.assign(f"per_cpu(exact_count, {cpu})", 20 + cpu)
    with exact.spy("on_cpu", collect=["per_cpu(exact_count, cpu)"]) as calls:
        for cpu in (0, 1, 2):
            exact.run(CPU.format(cpu))
    assert [call["per_cpu(exact_count, cpu)"] for call in calls.calls[:2]] == [20, 21]
    with pytest.raises(KgdbError, match="there is no CPU 2"):
        calls.calls[2]["per_cpu(exact_count, cpu)"]
    with pytest.raises(KgdbError, match="there is no CPU 2; the guest has 2"):
        exact.evaluate("per_cpu(exact_count, 2)")


@pytest.mark.kgdb(at="kgdbwait", stub="kgdb")
def test_cpus_while_the_kernel_boots(kgdb: Any) -> None:
    assert kgdb.evaluate("per_cpu(runqueues, 0).cpu") == 0
    with pytest.raises(KgdbError, match=NO_CPU.format(1)):
        kgdb.evaluate("per_cpu(runqueues, 1).cpu")
