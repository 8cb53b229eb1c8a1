"""Values at their edges on a real kernel: each is what the source means there, or is refused."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pytest_kgdb.errors import KgdbError, TimeoutError

EDGES = Path(__file__).parent / "modules" / "edges"
STEP = "echo {} > /sys/module/edges/parameters/step"


@pytest.fixture
def edges(kgdb: Any) -> Any:
    kgdb.modules.load(EDGES)
    return kgdb


def step(kgdb: Any, number: int) -> int:
    kgdb.run(STEP.format(number))
    return int(re.findall(rf"edges: step {number} gives (-?\d+)", kgdb.dmesg())[-1])


# Names at a function's entry


def test_names_at_an_entry_that_is_inlined_code(edges: Any) -> None:
    with edges.spy("outer", collect=["part->y", "n * 2"]) as calls:
        step(edges, 1)
    (call,) = calls.calls
    assert (call.args["n"], call["part->y"], call["n * 2"]) == (4, 2, 8)
    with edges.override("outer", "n + part->z", when="n == 4 && part->x == 1") as forced:
        assert step(edges, 1) == 7
    assert (forced.calls, forced.forced) == (1, 1)


@pytest.mark.parametrize("location", ["outer", "*outer", "main.c:outer", "edges/main.c:outer"])
def test_a_condition_has_the_functions_own_names(edges: Any, location: str) -> None:
    with edges.breakpoint(location, condition="n == 4 && part->x == 1") as hit:
        assert hit.condition == "n == 4 && part->x == 1"
        edges.type(STEP.format(1))
        assert edges.cont().breakpoint is hit
        assert hit.condition == "n == 4 && part->x == 1"
        hit.condition = "n == 104"  # scale()'s
        edges.type(STEP.format(1))
        with pytest.raises(TimeoutError):
            edges.cont(timeout=1)
    edges.interrupt()


def test_a_condition_of_a_breakpoint_that_waited(kgdb: Any) -> None:
    hit = kgdb.breakpoint("outer", condition="n == 4", pending=True)
    kgdb.modules.load(EDGES)
    kgdb.type(STEP.format(1))
    assert kgdb.cont().breakpoint is hit
    assert hit.condition == "n == 4"


def test_names_of_the_kernels_functions(kgdb: Any) -> None:
    kgdb.breakpoint("kfree_skb_reason", condition="reason == SKB_DROP_REASON_NO_SOCKET")
    with kgdb.breakpoint("utsns_put"):
        kgdb.type("exec 3</proc/self/ns/uts; exec 3>&-; echo over")
        seen = int(kgdb.cont().frame.args["ns"])
    kgdb.resume()
    kgdb.console.expect("over")
    kgdb.interrupt()
    with kgdb.spy("utsns_put") as puts:
        kgdb.run("exec 3</proc/self/ns/uts; exec 3>&-")
    assert puts.calls[0].args["ns"] == seen


# Expressions that are compiled


def test_what_is_collected(edges: Any) -> None:
    expected = {
        "record.level": 5,
        "record.tilt": -3,
        "record.wide": 0x123456789A,
        "record.high": 2,
        "record.grade": -2,
        "record.grade == GRADE_LOW": 1,
        "record.yes": True,
        "record.yes == true && !false": 1,
        "record.tag": "WXYZ",
        "record.tag[1] == 'X'": 1,
        "record.huge": (3 << 64) + 4,
        "record.minus": -5,
        "record.bad == -12": 1,
        "record.op == irq_handler": 1,
        "record.table->rows[2].value": 0xDEADBEEF,
        "((struct row *)record.opaque)->value >> 28": 0xD,
        "record.grid[1][2]": 12,
        "&record.table->rows[2] - record.table->rows": 2,
        "sizeof(struct row)": 8,
        "(u8)record.port": 0x90,
        "(signed char)200": -56,
        "x << 31": -(1 << 31),
        "(long)x << 31": 21 << 31,
        "-7 / 2": -3,
        "-1 < 1u": 0,
        "x ? x : 1 / 0": 21,
        "x != 21 && 1 / 0": 0,
        "major": 42,
        "edge_pair.second": 55,
        "per_cpu(edge_pair, 0).second": 55,
        "'main.c'::shared": 1,
        "current->mm->map_count > 0": 1,
        "system_state": 3,
    }
    with edges.spy("give_long", collect=list(expected)) as calls:
        step(edges, 8)
    (call,) = calls.calls
    assert {name: call[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("expression", "why"),
    [
        ("record", "struct record"),
        ("record.grid", r"int \[2\]\[3\]"),
        ("record.huge + 1", "128 bits"),
        ("&record.level", "bit-field"),
        ("*record.opaque", "cast it"),
        ('record.name == "the record"', "compares text"),
        ("strlen(record.name)", r"it calls strlen\(\)"),
        ("record.op(3)", "it calls"),
        ('$_streq(record.name, "a")', "gdb does not see the call"),
        ("x = 3", "assigns"),
        ("x++", "assigns"),
        ("never", "optimised out"),
        ("'nosuch.c'::shared", "no nosuch.c has a 'shared'"),
        ("boot_command_line", "init data"),
        ("nosuch", "No symbol"),
        ("x +", "ends too early"),
        ("1.5", "no fractions"),
        ("$nosuch", r"no register \$nosuch"),
        ("x == $mine", r"\$mine is a variable of gdb's"),
    ],
)
def test_what_cannot_be_collected(edges: Any, expression: str, why: str) -> None:
    edges.execute("set $mine = 21")
    with pytest.raises(KgdbError, match=why):
        edges.spy("give_long", collect=[expression])
    assert step(edges, 8) == 21


def test_arguments_of_each_type(edges: Any) -> None:
    with edges.spy("of_each") as calls:
        step(edges, 4)
    assert dict(calls.calls[0].args) == {
        "a": ord("x"),
        "yes": True,
        "grade": -1,
        "small": 200,
        "text": "beta",
    }
    with edges.spy("by_value", collect=["a.a", "b.second", "c.z"]) as calls:
        step(edges, 3)
    (call,) = calls.calls
    assert dict(call.args) == {
        "a": {"a": 1},
        "b": {"first": 2, "second": 3},
        "c": {"x": 1, "y": 2, "z": 3},
    }
    assert [call[name] for name in ("a.a", "b.second", "c.z")] == [1, 3, 3]


@pytest.mark.parametrize(
    "when",
    ["grade == GRADE_NONE", "grade < GRADE_HIGH", "yes", "yes == true", "!!yes", "text[0] == 'b'"],
)
def test_when_an_override_forces(edges: Any, when: str) -> None:
    with edges.override("of_each", 3, when=when) as forced:
        assert step(edges, 4) == 3
    assert forced.forced == 1
    with edges.override("of_each", 3, when=f"!({when})") as forced:
        assert step(edges, 4) != 3
    assert forced.forced == 0


# What functions return


@pytest.mark.parametrize(
    ("function", "number", "value"),
    [
        ("give_one", 5, {"a": 5}),
        ("give_two", 5, {"first": 6, "second": 7}),
        ("give_three", 5, {"x": 7, "y": 8, "z": 9}),
        ("give_wide", 6, (77 << 64) + 7),
        ("give_u8", 7, 200),
        ("give_s8", 7, -100),
        ("give_bool", 7, True),
    ],
)
def test_a_spy_and_finish_agree(edges: Any, function: str, number: int, value: object) -> None:
    with edges.spy(function, returns=True) as calls:
        step(edges, number)
    assert calls.calls[0].return_value == value
    edges.breakpoint(function, temporary=True)
    edges.type(STEP.format(number))
    edges.cont()
    assert edges.finish().return_value == value


def test_a_spy_knows_error_pointers(edges: Any) -> None:
    with (
        edges.override("give_pointer", "-ENOMEM"),
        edges.spy("give_pointer", returns=True) as calls,
    ):
        step(edges, 7)
    value = calls.calls[0].return_value
    assert value == -12
    assert value == "-ENOMEM"
    assert value == (1 << 64) - 12
    assert value != -11
    assert repr(value) == "ERR_PTR(-ENOMEM)"


@pytest.mark.parametrize(
    ("function", "value"),
    [
        ("give_u8", -1),
        ("give_u8", 256),
        ("give_s8", 200),
        ("give_bool", 2),
        ("give_long", 1 << 63),
        ("give_pointer", -5000),
        ("give_wide", 5),
        ("give_two", 5),
        ("give_u8", "300"),
        ("give_long", "record"),
    ],
)
def test_what_a_type_cannot_hold_is_not_forced(edges: Any, function: str, value: object) -> None:
    with pytest.raises(KgdbError, match=function):
        edges.override(function, value)


def test_an_override_computes_at_each_call(edges: Any) -> None:
    with edges.override("give_long", "x * 2 + record.port"):
        assert step(edges, 8) == 42 + 8080
        edges.assign("record.port", 1)
        assert step(edges, 8) == 43
    with edges.override("give_u8", "x + 100"), pytest.raises(KgdbError, match="cannot hold 300"):
        step(edges, 7)


# Conditions that cannot be evaluated


@pytest.mark.parametrize(
    ("condition", "works"),
    [
        ('strcmp(text, "beta") == 0', r"\$_streq"),
        ('text == "beta"', r"\$_streq"),
        ("record.op(1) == 1", "calls nothing"),
        ("edge_count == 1", r"per_cpu\("),
        ("'nosuch.c'::shared == 1", "'main.c'::shared"),
        ("small = 200", "'==' compares: small == 200"),
        ("small==200&&(yes=1)", r"'==' compares: small==200&&\(yes==1\)"),
        ("(small += 2) == 4", r"'\+' computes: \(small \+ 2\) == 4"),
        ("scalars.word <<= 1", "'<<' computes: scalars.word << 1"),
        ("small++ == 200", "ignore_count"),
        ("--scalars.word", "ignore_count"),
        ("$rdi = 3", "'==' compares"),
        ("$edi = 3", "'==' compares"),
        ("$dil++", "ignore_count"),
        ("++*$given", "ignore_count"),
        ("record", r"(?s)record is a struct record, which is no truth value.*record\.\w+"),
        ("!record.table->rows[1]", r"(?s)rows\[1\] is a struct row, which has no '!'.*\.kind"),
        ("yes && (small ? record : record)", r"\(small \? .*\) is a struct record.* no '&&'"),
        ("*record.opaque", r"is a void, which is no truth value\nhint: say what lies there"),
        ("$nosuch == 1", r"\$nosuch is void.*\nhint: .*set \$nosuch = 0"),
        ("yes && !$nosuch", r"\$nosuch is void"),
        ("$nosuch++ == 1", r"\$nosuch is void"),
        ("$nosuch(small) == 1", r"no function \$nosuch\(\)"),
    ],
)
def test_a_condition_that_is_refused(edges: Any, condition: str, works: str) -> None:
    with pytest.raises(KgdbError, match=works):
        edges.breakpoint("of_each", condition=condition)
    hit = edges.breakpoint("of_each", condition='$_streq(text, "beta") && small == 200')
    edges.type(STEP.format(4))
    assert edges.cont().breakpoint is hit


def test_a_pending_condition_is_refused_when_it_is_known(kgdb: Any) -> None:
    hit = kgdb.breakpoint("of_each", condition="record", pending=True)
    with pytest.raises(KgdbError, match="record is a struct record, which is no truth value"):
        kgdb.modules.load(EDGES)
    hit.condition = "record.yes"
    kgdb.type(STEP.format(4))
    assert kgdb.cont().breakpoint is hit


def test_an_assignment_changes_nothing_in_a_pending_condition(kgdb: Any) -> None:
    with pytest.raises(KgdbError, match="'==' compares: small == 9"):
        kgdb.breakpoint("of_each", condition="small = 9", pending=True)
    hit = kgdb.breakpoint("of_each", pending=True)
    with pytest.raises(KgdbError, match="'==' compares: small == 9"):
        hit.condition = "small = 9"


def test_a_condition_may_count(edges: Any) -> None:
    edges.execute("set $calls = 0")
    with edges.breakpoint("give_long", condition="$calls++ == 1 && $calls >= 2 && x <= 21") as hit:
        for _ in range(2):
            edges.type(STEP.format(8))
        stop = edges.cont()
    assert (stop.breakpoint, hit.hits, stop.message) == (hit, 1, None)
    assert edges.evaluate("$calls") == 2


def test_a_condition_may_make_a_variable(edges: Any) -> None:
    with edges.breakpoint("give_long", condition="($last = x) && $last == 21") as hit:
        edges.type(STEP.format(8))
        assert edges.cont().breakpoint is hit
    assert edges.evaluate("$last") == 21


def test_a_stop_says_that_its_condition_was_not_evaluated(edges: Any) -> None:
    edges.breakpoint("of_each", condition="*(int *)16 == 1")
    edges.type(STEP.format(4))
    stop = edges.cont()
    assert "could not evaluate the condition '*(int *)16 == 1'" in stop.message
    assert "0x10" in stop.message
    assert "could not evaluate" in repr(stop)


# Values


def test_values(edges: Any) -> None:
    record = edges.evaluate("record")
    assert {"low", "high", "word", "level"} <= set(record.members)
    assert record == {"low": 1, "high": 2, "level": 5, "huge": (3 << 64) + 4, "minus": -5}
    assert len(edges.evaluate("record.grid")) == 2
    assert len(edges.evaluate("record.table->rows")) == 0
    with pytest.raises(TypeError, match="flexible array"):
        list(edges.evaluate("record.table->rows"))
    assert edges.evaluate("record.table->rows")[2]["value"] == 0xDEADBEEF
    bad = edges.evaluate("record.bad")
    assert bad == -12
    assert bad == "-ENOMEM"
    assert bad == "ERR_PTR(-ENOMEM)"
    assert (bad.is_error, bad.error) == (True, "-ENOMEM")
    assert bad != -11
    assert edges.evaluate("record.grade").error is None
    good = edges.evaluate("&record")
    assert (good.is_error, good.error) == (False, None)


AS_C_HAS_IT = {
    "-9 * sizeof(struct two)": (1 << 64) - 144,
    "grade < sizeof(long)": 0,
    "sizeof('a')": 4,
    "sizeof(small + small) + sizeof small": 5,
    "1 ? -1 : 0u": 0xFFFFFFFF,
    "(yes ? scalars.three : GREEN) - 6": -1,
    "(scalars.no ? 0 : &record)->port": 8080,
    "yes + yes": 2,
    "yes > scalars.no": 1,
    "(yes | scalars.no) + yes": 2,
    "-1 < GREEN": 1,
    "-BLUE": -7,
    "(RED - 1) / 2": 0,
    "scalars.colour - 2 < 0": 0,
    "scalars.three - 6 < 0": 1,
    "scalars.paint - 8 < 0": 1,
    "scalars.tilt * scalars.three": -15,
    "~record.level": -6,
    "scalars.all - 0xffffffff < 0": 0,
    "current->in_execve - 1 < 0": 1,
    "record.grid[GREEN][yes + yes]": 12,
    "(u8)(small + 100) == 44 && (long)&record - (long)scalars.pointer == 0": 1,
}


def test_arithmetic_is_as_c_has_it(edges: Any) -> None:
    with edges.breakpoint("of_each"):
        edges.type(STEP.format(4))
        stop = edges.cont()
    assert {text: int(edges.evaluate(text)) for text in AS_C_HAS_IT} == AS_C_HAS_IT
    assert {text: int(stop.frame.evaluate(text)) for text in AS_C_HAS_IT} == AS_C_HAS_IT
    for text, shown in {
        "GREEN": "GREEN",
        "yes": "true",
        "yes ? GREEN : BLUE": "GREEN",
        "scalars.colour": "GREEN",
    }.items():
        assert str(edges.evaluate(text)) == shown
    assert edges.evaluate("sizeof(long)").type == "unsigned long"


@pytest.mark.parametrize(
    "condition", [text for text in AS_C_HAS_IT if "<" in text or ">" in text or "==" in text]
)
def test_a_condition_computes_as_c_does(edges: Any, condition: str) -> None:
    with edges.breakpoint("of_each", condition=condition) as hit, edges.breakpoint("give_long"):
        edges.type(f"{STEP.format(4)}; {STEP.format(8)}")
        assert (edges.cont().breakpoint is hit) == bool(AS_C_HAS_IT[condition])
        assert hit.condition == condition


@pytest.mark.parametrize(
    ("target", "fits", "does_not"),
    [
        ("record.level", 7, 8),
        ("record.tilt", -8, 8),
        ("record.port", 0xFFFF, 70000),
        ("record.port", 0, -1),
        ("record.yes", True, 2),
        ("record.tag[0]", 65, 256),
        ("record.huge", 1 << 127, 1 << 128),
        ("record.minus", -(1 << 127), 1 << 127),
        ("record.bad", -12, -5000),
        ("$ecx", -(1 << 31), 1 << 32),
        ("$cx", 0x7FFF, 0x10000),
        ("$cl", -128, -129),
    ],
)
def test_assign_what_fits(edges: Any, target: str, fits: int, does_not: int) -> None:
    edges.assign(target, fits)
    assert edges.evaluate(target) == fits
    with pytest.raises(KgdbError, match="cannot hold"):
        edges.assign(target, does_not)
    assert edges.evaluate(target) == fits


def test_assign_an_error_by_its_name(edges: Any) -> None:
    for text in ("-EIO", "ERR_PTR(-EIO)"):
        edges.assign("record.bad", text)
        assert edges.evaluate("record.bad") == -5 == edges.evaluate("(long)record.bad")
        edges.assign("record.bad", -12)
    edges.assign("record.minus", "-ENOMEM")
    assert edges.evaluate("record.minus") == -12
    with pytest.raises(KgdbError, match="cannot hold"):
        edges.assign("record.port", "-ENOMEM")
    with pytest.raises(KgdbError, match="ENOSUCH"):
        edges.assign("record.minus", "-ENOSUCH")


# Names


def test_a_static_that_several_files_have(edges: Any) -> None:
    assert edges.evaluate("major") == 41, "not the kernel's, whose memory was freed"
    with pytest.raises(KgdbError, match=r"(?s)main\.c.*'main\.c'::shared|'other\.c'::shared"):
        edges.evaluate("shared")
    assert edges.evaluate("'main.c'::shared") == 0
    with edges.breakpoint("other_step"):
        edges.type(STEP.format(8))
        assert edges.cont().frame.evaluate("shared") == 0, "other.c's own"
        assert edges.evaluate("'main.c'::shared") == 1


def test_a_tag_is_that_of_the_functions_file(edges: Any) -> None:
    """Whatever structure of that name the kernel has."""
    collected = ["sizeof(struct pt)", "((struct pt *)&other_point)->y"]
    with edges.spy("other_step", collect=collected) as calls:
        step(edges, 8)
    assert [calls.calls[0][name] for name in collected] == [2, 5]
    with edges.override("other_step", 77, when="sizeof(struct pt) == 2") as forced:
        step(edges, 9)
    assert forced.forced == 1
    with edges.breakpoint("other_step"):
        edges.type(STEP.format(8))
        edges.cont()
        point = edges.evaluate("(void *)&other_point")
        assert point.cast("struct pt *")["y"] == edges.evaluate("((struct pt *)&other_point)->y")
        assert edges.evaluate("sizeof(struct pt)") == 2


@pytest.mark.parametrize("name", ["features", "id_table", "vga_lock", "format_attr_event"])
def test_every_static_of_a_name_is_met(kgdb: Any, kgdb_kernel: Any, name: str) -> None:
    """gdb 13's index cache lacks some of those that several files have."""
    readelf = ["readelf", "-sW", str(kgdb_kernel.vmlinux)]
    table = subprocess.run(readelf, check=True, capture_output=True, text=True).stdout
    rows = [row for line in table.splitlines() if len(row := line.split()) == 8]
    places = {row[7]: int(row[1], 16) for row in rows if row[7] in ("__init_begin", "__init_end")}
    freed = range(places["__init_begin"], places["__init_end"])
    statics = [
        row
        for row in rows
        if row[7] == name and row[3:5] == ["OBJECT", "LOCAL"] and int(row[1], 16) not in freed
    ]
    assert len(statics) > 1, "this kernel has one only"
    with pytest.raises(KgdbError, match=f"several files have a '{name}'") as error:
        kgdb.evaluate(name)
    files = error.value.message.partition(": ")[2].partition(" and ")[0].split(", ")
    assert len(files) == min(len(statics), 12)
    for file in files:
        assert int(kgdb.evaluate(f"(unsigned long)&'{file}'::{name}")) in {
            int(row[1], 16) for row in statics
        }


def test_freed_init_data_is_no_value(kgdb: Any) -> None:
    assert kgdb.evaluate("major").type == "int", "virtio_blk.c's, and not init/initramfs.c's"
    with pytest.raises(KgdbError, match=r"init data \(init/initramfs\.c\).*freed"):
        kgdb.evaluate("'init/initramfs.c'::major")
    with pytest.raises(KgdbError, match="init data"):
        kgdb.evaluate("boot_command_line")
    for address in ("&boot_command_line", "&boot_command_line[3]", "(long)&boot_command_line != 0"):
        kgdb.evaluate(address)
    assert kgdb.evaluate("sizeof(*&boot_command_line)") == kgdb.evaluate(
        "sizeof(boot_command_line)"
    )
    for value in ("*&boot_command_line", "*(&(boot_command_line))", "(&boot_command_line)[0]"):
        with pytest.raises(KgdbError, match="init data"):
            kgdb.evaluate(value)
        with pytest.raises(KgdbError, match="init data"):
            kgdb.spy("vfs_read", collect=[value])
    for value in ("*&runqueues", "(&runqueues)->nr_running"):
        with pytest.raises(KgdbError, match="is a per-CPU variable"):
            kgdb.evaluate(value)
    assert kgdb.evaluate("per_cpu_ptr((&runqueues), 0)->cpu") == 0


def test_what_was_optimised_out(edges: Any) -> None:
    with pytest.raises(KgdbError, match="optimised out") as caught:
        edges.evaluate("never")
    assert "one that is never read has none" in str(caught.value.hint)


@pytest.mark.kgdb(smp=2)
def test_per_cpu_variables_of_a_module(edges: Any) -> None:
    step(edges, 8)
    assert sum(int(edges.per_cpu("edge_count", cpu)) for cpu in (0, 1)) == 1
    cpu = next(cpu for cpu in (0, 1) if edges.per_cpu("edge_count", cpu) == 1)
    assert edges.per_cpu("edge_pair", cpu)["second"] == 55
    assert edges.evaluate(f"per_cpu(edge_pair, {cpu}).second") == 55
    for refused in (edges.evaluate, edges.watchpoint):
        with pytest.raises(KgdbError, match=r"per-CPU.*\n.*per_cpu\(edge_count, CPU\)"):
            refused("edge_count")
    for name in ("major", "'main.c'::shared", "init_task"):
        for refused in (
            lambda name: edges.per_cpu(name, 0),
            lambda name: edges.evaluate(f"per_cpu({name}, 1)"),
            lambda name: edges.evaluate(f"*per_cpu_ptr(&{name}, 1)"),
            lambda name: edges.spy("give_long", collect=[f"per_cpu({name}, 0) == 0"]),
            lambda name: edges.breakpoint("give_long", condition=f"per_cpu({name}, 0) == 0"),
        ):
            with pytest.raises(KgdbError, match="is no per-CPU variable: all CPUs have the same"):
                refused(name)
    assert edges.evaluate("&edge_count").type == "int *"
    edges.assign(f"per_cpu(edge_count, {cpu})", 10)
    edges.assign(f"per_cpu(edge_count, {1 - cpu})", 20)
    with edges.spy("give_long", collect=["edge_count"]) as calls:
        step(edges, 8)
    (call,) = calls.calls
    assert call["edge_count"] == (11 if call.cpu == cpu else 21)


def test_per_cpu_variables_of_the_kernel(kgdb: Any) -> None:
    for expression in ("runqueues", "runqueues.nr_running", "runqueues.curr->pid"):
        with pytest.raises(KgdbError, match="per_cpu"):
            kgdb.evaluate(expression)
        with pytest.raises(KgdbError, match="per_cpu"):
            kgdb.watchpoint(expression)
    assert kgdb.evaluate("sizeof(runqueues)") > 100
    assert kgdb.evaluate("&runqueues").type == "struct rq *"
    assert kgdb.evaluate("per_cpu(runqueues, 0).cpu") == 0
    kgdb.watchpoint("per_cpu(runqueues, 0).nr_running").delete()


def test_what_a_chain_of_tail_calls_returns(edges: Any) -> None:
    """It has one return, of which the last call is known to be."""
    for _ in range(2):
        with edges.spy("chain", returns=True) as calls:
            assert step(edges, 11) == 100
        assert [call.args["n"] for call in calls.calls] == [2, 1, 0]
        assert [call.returned for call in calls.calls] == [False, False, True]
        assert calls.calls[-1].return_value == 99
        with pytest.raises(KgdbError, match="cannot be told from that of call 2"):
            assert calls.calls[0].return_value


LINE_IN_BLOCK = next(
    number
    for number, line in enumerate((EDGES / "main.c").read_text().splitlines(), 1)
    if "/* in the inner block */" in line
)


def test_statics_of_a_function(edges: Any) -> None:
    """They are seen before the file's of the same name, and those of other files."""
    expected = {"shared": 70, "initialized": 71, "n": 3}
    with edges.spy("own_statics", collect=[*expected, "own_count", "own_pair.second"]) as calls:
        assert step(edges, 10) == 3 + 81 + 73 + 72
    (call,) = calls.calls
    assert {name: call[name] for name in expected} == expected
    assert (call["own_count"], call["own_pair.second"]) == (0, 0)
    hit = edges.breakpoint("own_statics", condition="shared == 73 && initialized == 72 && n == 3")
    edges.type(STEP.format(10))
    frame = edges.cont().frame
    assert hit.hits == 1
    assert (edges.evaluate("shared"), edges.evaluate("initialized")) == (73, 72)
    assert (frame.evaluate("shared + 1"), frame.evaluate("initialized + 1")) == (74, 73)
    hit.delete()
    edges.breakpoint(f"main.c:{LINE_IN_BLOCK}", condition="shared >= 80 && initialized == 72")
    frame = edges.cont().frame
    assert (frame.evaluate("initialized"), frame.locals["initialized"]) == (72, 72)
    assert frame.evaluate("shared") == frame.locals["shared"]
    assert int(frame.evaluate("shared")) in (81, 82)
    assert frame.evaluate("'main.c'::shared") == 2
    assert frame.locals["major"].is_optimized_out
    assert frame.evaluate("major").is_optimized_out
    with pytest.raises(KgdbError, match="optimised out"):
        frame.evaluate("major + 1")
    edges.assign("initialized", 90)
    assert frame.evaluate("initialized") == 90


@pytest.mark.kgdb(smp=2)
def test_a_per_cpu_static_of_a_function(edges: Any) -> None:
    step(edges, 10)
    edges.breakpoint("own_statics")
    edges.type(STEP.format(10))
    stop = edges.cont()
    variables = dict(stop.frame.locals.items())
    assert {"own_count", "own_pair", "shared", "initialized"} <= {*variables}
    assert variables["initialized"] == 72
    assert sum(int(edges.evaluate(f"per_cpu(own_count, {cpu})")) for cpu in (0, 1)) == 3
    assert {int(edges.evaluate(f"per_cpu(own_pair, {cpu}).second")) for cpu in (0, 1)} == {0, 56}
    assert (variables["own_count"].type, variables["own_pair"].type) == ("int", "struct two")
    assert variables["own_pair"].members == ["first", "second"]
    assert "per-CPU" in str(variables["own_count"])
    assert "own_count" in repr(stop.frame.locals)
    why = r"own_(count|pair) is a per-CPU variable.*\n.*per_cpu\(own_(count|pair), CPU\)"
    for use in (
        lambda: int(variables["own_count"]),
        lambda: variables["own_count"] == 0,
        lambda: variables["own_pair"]["second"],
        lambda: stop.frame.evaluate("own_count"),
        lambda: stop.frame.evaluate("own_pair.second"),
        lambda: edges.watchpoint("own_count"),
    ):
        with pytest.raises(KgdbError, match=why):
            use()
    assert sum(int(edges.per_cpu("own_count", cpu)) for cpu in (0, 1)) == 3


def test_a_bit_field_is_not_watched(edges: Any) -> None:
    with pytest.raises(KgdbError, match="bit-field"):
        edges.watchpoint("record.level")
    edges.watchpoint("record.port").delete()
    edges.watchpoint("*record.name").delete()


SCALARS = ["byte", "sbyte", "half", "word", "sword", "quad", "squad", "letter", "yes", "no",
           "colour", "grade", "pointer"]  # fmt: skip


@pytest.mark.parametrize("member", SCALARS)
def test_a_watchpoint_has_the_types_numbers(edges: Any, member: str) -> None:
    before = int(edges.evaluate(f"scalars.{member}"))
    with edges.watchpoint(f"scalars.{member}"):
        edges.type(STEP.format(9))
        stop = edges.cont()
    after = edges.evaluate(f"scalars.{member}")
    assert (stop.old, stop.new) == (before, after.number)
    assert stop.new == after


@pytest.mark.parametrize("name", ["irq_handler", "main.c:irq_handler"])
def test_a_function_with_the_name_of_a_variable(edges: Any, name: str) -> None:
    with edges.breakpoint(name) as hit:
        assert hit.address is not None
        edges.type(STEP.format(2))
        assert edges.cont().breakpoint is hit
    with edges.spy(name) as calls:
        step(edges, 2)
    assert calls.calls[0].args["irq"] == 7
    with edges.override(name, 3) as forced:
        assert step(edges, 2) == 3
    assert forced.forced == 1


@pytest.mark.parametrize("name", ["clear_local_APIC", "lapic_timer_shutdown"])
def test_a_function_with_a_copy_in_freed_init_text(kgdb: Any, name: str) -> None:
    with kgdb.breakpoint(name):
        assert kgdb.run("echo fine").output == "fine\n"


def test_tasks_as_stack_trace_takes_them(kgdb: Any) -> None:
    kgdb.breakpoint("vfs_read", temporary=True)
    kgdb.type("cat /proc/version")
    stop = kgdb.cont()
    for task in (stop.task["pid"], stop.task, kgdb.current, kgdb.evaluate("*current")):
        assert "vfs_read" in [frame.name for frame in kgdb.stack_trace(task)]
