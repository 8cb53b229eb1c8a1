"""What C passes, holds and calls back: spies, frames and expressions have what the source means."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pytest_kgdb.errors import KgdbError

FORMS = Path(__file__).parent / "modules" / "forms"
VALUES, POINTERS, RETURNS, WILD, FIB, EVEN, NAMES, CPU, THREADS, BACK, IPI, HEAP = range(1, 13)


@pytest.fixture
def forms(kgdb: Any) -> Any:
    kgdb.modules.load(FORMS)
    return kgdb


def start(kgdb: Any, step: int) -> None:
    kgdb.type(f"echo {step} > /sys/module/forms/parameters/step")


def run(kgdb: Any, step: int) -> None:
    kgdb.run(f"echo {step} > /sys/module/forms/parameters/step")


WORD = {"w": 0x80FF0201, "b": [1, 2, 255, 128], "h": [0x201, -32513]}
SMALL = dict(
    zip("abcdefghijkl", [-1, 255, -300, 60000, True, 120, -7, 200, -2, True, -2, 5], strict=True)
)
TAKEN: dict[str, dict[str, Any]] = {
    "take_p3": {"s": {"a": 1, "b": 0x203}, "n": 4},
    "take_q3": {"s": {"a": 0x102, "b": 3}, "n": 4},
    "take_a3": {"s": {"a": [1, 2, 3]}, "n": 4},
    "take_none": {"s": {}, "n": 5},
    "take_word": {"u": WORD, "n": 4},
    "take_two": {"u": {"q": [1, (1 << 64) - 1], "s": {"lo": 1, "hi": (1 << 64) - 1}}, "n": 4},
    "take_wide": {"s": {"v": -(1 << 64) + 9}, "n": 4},
    "take_bits": {"n": 4, "s": {"on": False, "m": 1, "delta": -3, "wide": 1 << 39}, "last": True},
    "take_small": SMALL,
    "take_enums": {"m": 5, "t": -2, "h": 0x123456789A},
}


def test_what_is_passed_by_value(forms: Any) -> None:
    spies = {function: forms.spy(function) for function in TAKEN}
    run(forms, VALUES)
    assert {name: [dict(call.args) for call in spy.calls] for name, spy in spies.items()} == {
        name: [arguments] for name, arguments in TAKEN.items()
    }
    forms.delete_breakpoints()
    for function in TAKEN:
        forms.breakpoint(function)
    start(forms, VALUES)
    for function, arguments in TAKEN.items():
        stop = forms.cont()
        assert stop.frame.function == function
        for name, value in arguments.items():
            if value != {}:  # gdb's value of it has no members to be compared
                assert stop.frame.args[name] == value, (function, name)


RETURNED: dict[str, Any] = {
    "give_p3": {"a": 3, "b": 4},
    "give_q3": {"a": 11, "b": 12},
    "give_a3": {"a": [4, 5, 6]},
    "give_word": {"w": 0xFFFFFFFB, "b": [251, 255, 255, 255], "h": [-5, -1]},
    "give_two": {"q": [6, 7], "s": {"lo": 6, "hi": 7}},
    "give_bits": {"on": True, "m": 1, "delta": -4, "wide": (1 << 40) - 1},
    "give_tiny": -2,
    "give_huge": 0x123456789A,
    "give_bool": True,
    "give_s8": -5,
    "give_u16": 65529,
    "give_error": -19,
}


def test_what_is_returned(forms: Any) -> None:
    spies = {name: forms.spy(name, returns=True) for name in (*RETURNED, "give_box")}
    run(forms, RETURNS)
    values = {name: spy.calls[0].return_value for name, spy in spies.items()}
    box = values.pop("give_box")
    assert values == RETURNED
    assert (box["head"] if "head" in box else box["anon"]["head"]) == 19
    assert box["out"][1] == {"in": [{"deep": 12}, {"deep": 13}]}
    assert (box["rows"], box["grid"][1]) == (["one", "two", "three"], [4, 5, -6])
    forms.delete_breakpoints()
    for function in RETURNED:
        forms.breakpoint(function)
    start(forms, RETURNS)
    for function, value in RETURNED.items():
        assert forms.cont().frame.function == function
        assert forms.finish().return_value == value, function


HELD: dict[str, Any] = {
    "b->name": "first",
    "b->tag": "tag12345",  # full, without a NUL
    "b->rows[2]": "three",
    "b->rows[1][1] == 'w'": 1,
    "b->grid[1][2]": -6,
    "**b->grid": 1,
    "b->bits.m == M_AUTO": 1,
    "b->bits.on": True,
    "b->bits.delta * b->bits.delta": 9,
    "-b->bits.delta": 3,
    "b->bits.delta < 0": 1,
    "b->bits.wide >> 4": 0x123456789,
    "b->anon.x": 2,
    "b->anon.y": 0x33,
    "b->anon.all": 0x3300000002,
    "b->anon.named.tail": 4,
    "b->bad == -5": 1,
    "(long)b->bad": -5,
    "b->huge": (5 << 64) + 6,
    "b->truth + b->truth": 2,
    "b->tiny": -2,
    "b->tiny == T_NEG": 1,
    "b->big == H_BIG": 1,
    "b->big": 0x123456789A,
    "b->pairs[2].a": -5,
    "(b->pairs + n)->b": -8,
    "*(int *)(b->pairs + 1)": 3,
    "(b->pairs + n)[-1].a": -5,
    "b->raw": [1, 2, 254, 255],
    "b->out[1].in[0].deep": 12,
    "b->go == twice": 1,
    "b->go == thrice": 0,
    "b->next == &boxes[1]": 1,
    "!b->next->next": 1,
    "b->flex": 0,
    "(u8)n << 7": 384,
    "sizeof(*b->flex)": 4,
    "sizeof b->rows": 18,
    "((struct box *)((char *)&b->anon - (unsigned long)&((struct box *)0)->anon))->anon.head": 1,
    "b->anon.x + b->grid[0][1] * 2 - ~0": 7,
    "table[1] == thrice": 1,
    "zero.after": 3,
    "secret": 11,
    "'other.c'::secret": 22,
}


def test_what_is_held(forms: Any) -> None:
    with forms.spy("take_box", collect=list(HELD)) as calls:
        run(forms, POINTERS)
    (call,) = calls.calls
    assert dict(call.collected) == HELD
    forms.breakpoint("take_box")
    start(forms, POINTERS)
    forms.cont()
    read = {expression: forms.evaluate(expression) for expression in HELD}
    assert [one for one in HELD if read[one] != HELD[one]] == []
    condition = " && ".join(
        f"{one} == {int(value)}" for one, value in HELD.items() if isinstance(value, int)
        and abs(value) < 1 << 63 and one not in ("b->huge", "sizeof b->rows")
    )  # fmt: skip
    forms.delete_breakpoints()
    hit = forms.breakpoint("take_box", condition=condition)
    start(forms, POINTERS)
    assert forms.cont().breakpoint is hit


def test_arrays_and_functions_are_passed(forms: Any) -> None:
    arrays = {
        "v[3]": 6, "m[1][2]": -6, "(*m)[1]": 2, "*(m[0] + 2)": 3, "names[1]": "beta",
        "names[0][2] == 'p'": 1, "(*pp)->a": -5, "(**pp).b": 6, "sizeof(*m)": 12, "sizeof(v)": 8,
        "&m[1][2] - &m[0][0]": 5,
    }  # fmt: skip
    with (
        forms.spy("take_array", collect=list(arrays)) as passed,
        forms.spy("take_call", collect=["call == thrice", "b->go == call"]) as called,
        forms.spy("thrice", returns=True) as thrice,
        forms.spy("*boxes[0].go", returns=True) as twice,
        forms.spy("take_any", collect=["format[0] == '%'"], returns=True) as any_number,
    ):
        run(forms, POINTERS)
    assert dict(passed.calls[0].collected) == arrays
    assert [list(call.collected.values()) for call in called.calls] == [[1, 0], [0, 1]]
    assert [call.return_value for call in (*thrice.calls, *twice.calls)] == [15, 12]
    assert [(call.args["format"], call.return_value) for call in any_number.calls] == [
        ("%d %s\n", 8),
        ("none", 4),
    ]


def test_wild_pointers(forms: Any) -> None:
    collect = ["b->name", "b->next->name", "!b", "b == 0", "(long)b < 0", "b->anon.x"]
    forced = forms.override("take_box", "n", when="n > 1")
    with forms.spy("take_box", collect=collect) as calls, forced:
        run(forms, WILD)
    null, wild, low, error = calls.calls
    assert [call["!b"] for call in calls.calls] == [1, 0, 0, 0]
    assert [call["(long)b < 0"] for call in calls.calls] == [0, 1, 0, 1]
    assert (low.args["b"], error.args["b"]) == (8, "-ENOMEM")
    for call in (null, wild, low, error):
        for expression in ("b->name", "b->next->name", "b->anon.x"):
            with pytest.raises(KgdbError, match=r"could not be read at the call: .* is not "):
                call[expression]


def test_recursion(forms: Any) -> None:
    with forms.spy("fib", returns=True) as calls:
        run(forms, FIB)
    values = [0, 1, 1, 2, 3, 5, 8, 13]
    assert len(calls.calls) > 20  # gcc makes a loop of the second call
    assert all(call.return_value == values[call.args["n"]] for call in calls.calls)
    with forms.override("is_odd", "n != 3") as forced, forms.spy("is_even", returns=True) as even:
        run(forms, EVEN)
    assert (forced.forced, [call.return_value for call in even.calls]) == (1, [True])
    forms.breakpoint("fib", condition="n == 2", temporary=True)
    start(forms, FIB)
    forms.cont()
    assert [int(forms.finish().return_value) for _ in range(2)] == [1, 2]
    assert forms.stop.frame.function == "fib"


def test_one_name_in_two_files(forms: Any) -> None:
    with pytest.raises(KgdbError, match=r"main\.c:\d+, other\.c:\d+"):
        forms.spy("of_both")
    with (
        forms.spy("main.c:of_both", collect=["secret"], returns=True) as one,
        forms.spy("other.c:of_both", collect=["secret"], returns=True) as other,
        forms.spy("of_header", collect=["p->b"], returns=True) as of_header,
    ):
        run(forms, NAMES)
    assert [(call["secret"], call.return_value) for call in one.calls] == [(11, 16)]
    assert [(call["secret"], call.return_value) for call in other.calls] == [(22, 25)]
    assert [(call["p->b"], call.return_value) for call in of_header.calls] == [(4, 9), (2, 6)]
    forms.breakpoint("of_both", condition="x == 3 && secret == 22")
    start(forms, NAMES)
    assert forms.cont().backtrace()[1].function == "in_other"


@pytest.mark.kgdb(smp=2)
def test_each_cpus_own(forms: Any) -> None:
    expressions = ["pair_of_cpu.b", *(f"per_cpu_ptr(p, {cpu})->a" for cpu in (0, 1))]
    with forms.spy("see_of_cpu", collect=expressions) as calls:
        run(forms, CPU)
    (call,) = calls.calls
    own = [600 + cpu if cpu == call.cpu else 0 for cpu in (0, 1)]
    assert list(call.collected.values()) == [500 + call.cpu, *own]
    assert [forms.evaluate(f"per_cpu_ptr(allocated, {cpu})->a") for cpu in (0, 1)] == own
    with pytest.raises(KgdbError, match=r"(?s)no per-CPU variable.*per_cpu_ptr\(allocated, CPU\)"):
        forms.per_cpu("allocated")
    with forms.spy("on_ipi", collect=["info == &ipi_cpu"]) as calls:
        run(forms, IPI)
    assert sorted((call.cpu, call["info == &ipi_cpu"]) for call in calls.calls) == [(0, 1), (1, 1)]


@pytest.mark.kgdb(smp=2)
def test_returns_of_many_tasks(forms: Any) -> None:
    with forms.spy("sleeps", returns=True) as calls:
        run(forms, THREADS)
    seen = {(call.args["id"], call.return_value, call.task.comm) for call in calls.calls}
    assert seen == {(number, 1000 + number, f"forms{number}") for number in range(8)}


CALLED_BACK = {
    "on_rcu": ("((struct late *)head)->n", "rcu_do_batch"),
    "on_timer": ("timer == &late.timer ? late.n : 0", "call_timer_fn"),
    "on_work": (
        "((struct late *)((char *)work - (unsigned long)&((struct late *)0)->work))->n",
        "process_one_work",
    ),
    "on_hrtimer": ("timer == &late.hrtimer ? late.n : 0", "hrtimer_interrupt"),
    "on_irq_work": ("work == &late.irq_work ? late.n : 0", "irq_work_run"),
}


def test_what_is_called_back(forms: Any) -> None:
    spies = {
        function: forms.spy(function, collect=[expression], returns=True)
        for function, (expression, _) in CALLED_BACK.items()
    }
    run(forms, BACK)
    for function, (expression, _) in CALLED_BACK.items():
        (call,) = spies[function].calls
        assert call[expression] == 41, function
        assert call.return_value == (0 if function == "on_hrtimer" else None)
    forms.delete_breakpoints()
    for function in CALLED_BACK:
        forms.breakpoint(function)
    start(forms, BACK)
    for function, (expression, caller) in CALLED_BACK.items():
        stop = forms.cont()
        assert stop.frame.function == function
        assert forms.evaluate(expression) == 41
        assert caller in [frame.function for frame in stop.backtrace()]


def test_a_flexible_array(forms: Any) -> None:
    collect = ["b->flex->n", "b->flex->items[b->flex->n - 1].b", "sizeof(*b->flex)"]
    with forms.spy("take_box", collect=collect) as calls:
        run(forms, HEAP)
    assert list(calls.calls[0].collected.values()) == [3, 33, 4]
    forms.breakpoint("take_box")
    start(forms, HEAP)
    forms.cont()
    items = forms.evaluate("b->flex->items")
    assert (items[2]["b"], forms.evaluate("sizeof(*b->flex)")) == (33, 4)
