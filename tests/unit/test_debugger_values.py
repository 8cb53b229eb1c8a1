"""Values, variables and frames: typed, compared, refreshed, refused when they are stale."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from fake_gdb import FakeGdb, Parts, Refused

from pytest_kgdb.debugger import (
    Frame,
    GdbError,
    Task,
    Value,
    Variables,
    difference,
    evaluate,
    number_of,
    per_cpu,
)
from pytest_kgdb.errors import KgdbError, StaleError


class Memory:
    """What the agent inside gdb knows: values by expression, some of them in memory."""

    def __init__(self, gdb: FakeGdb) -> None:
        self.records: dict[str, dict[str, Any]] = {}
        self._known: dict[int, str] = {}
        self.strings: dict[str, str] = {}
        self.gdb = gdb
        gdb.agent.update(
            evaluate=self.evaluate,
            refresh=lambda id: self.evaluate(self._known[id]),
            child=self.child,
            string=lambda id, length=None: {"string": self.strings[self._known[id]][:length]},
            text=lambda id, whole=False: {"text": f"{{text of {self._known[id]}}}"},
        )

    def add(self, expression: str, code: str = "int", **fields: Any) -> None:
        self.records[expression] = {"code": code, "type": code, **fields}

    def evaluate(self, expression: str, frame: int | None = None) -> dict[str, Any]:
        if expression not in self.records:
            raise Refused(f'No symbol "{expression}" in current context.')
        number = len(self._known) + 1
        self._known[number] = expression
        return {"id": number, **self.records[expression]}

    def child(self, id: int, how: str, argument: Any = None) -> dict[str, Any]:
        parent = self._known[id]
        if how == "cast":
            return self.evaluate(f"({argument})({parent})")
        if how == "dereference":
            return self.evaluate(f"*({parent})")
        if how == "index":
            return self.evaluate(f"{parent}[{argument}]")
        arrow = "->" if self.records[parent]["code"] == "ptr" else "."
        return self.evaluate(f"{parent}{arrow}{argument}")


@pytest.fixture
def memory(gdb: FakeGdb) -> Memory:
    return Memory(gdb)


@pytest.fixture
def value(parts: Parts, memory: Memory) -> Callable[..., Value]:
    def value(expression: str = "x", code: str = "int", **fields: Any) -> Value:
        memory.add(expression, code, **fields)
        return evaluate(parts.debugger, expression)

    return value


Make = Callable[..., Value]


# Scalars


def test_a_number(value: Make) -> None:
    x = value("x", int=42, text="42", type="int", address=0x1000)
    assert (x.expression, x.type, x.address, x.number) == ("x", "int", 0x1000, 42)
    assert (int(x), float(x), str(x), hex(x)) == (42, 42.0, "42", "0x2a")
    assert repr(x) == "<Value x = (int) 42>"
    assert len([0] * (x + 1)) == 43
    assert range(50)[x] == 42


def test_comparisons_and_arithmetic(value: Make) -> None:
    x, y = value("x", int=6, text="6"), value("y", int=7, text="7")
    assert x == 6
    assert x != 7
    assert x != y
    assert x < y <= 7 < x + 2
    assert y > x >= 6
    assert (x + 1, 1 + x, x - 1, 7 - x) == (7, 7, 5, 1)
    assert (x & 2, 2 & x, x | 1, 1 | x) == (2, 2, 7, 7)
    assert x != "7"
    assert x == value("z", int=6, text="six")
    assert x != object()
    with pytest.raises(TypeError):
        hash(x)


@pytest.mark.parametrize(("number", "truth"), [(0, False), (1, True), (-1, True)])
def test_truth(value: Make, number: int, truth: bool) -> None:
    assert bool(value("x", int=number)) is truth
    assert (value("x", int=number) == True) is (number == 1)  # noqa: E712 # as in C


def test_floating_point(value: Make) -> None:
    x = value("x", "flt", float=0.5, text="0.5")
    assert x == 0.5
    assert (int(x), float(x), bool(x)) == (0, 0.5, True)


def test_nothing_is_cut_off(value: Make) -> None:
    x, one = value("x", "flt", float=1.5, text="1.5"), value("one", int=1, text="1")
    assert 1 < x < 1.75
    assert one < 1.5 != one < x != one
    assert x == value("y", "flt", float=1.5, text="1.50")
    assert value("z", "flt", float=2.0, text="2") == 2
    assert (x + 1, one - 0.5, 2 - x) == (2.5, 0.5, 0.5)
    with pytest.raises(TypeError, match="x is a flt, not an integer"):
        range(x)
    assert [number_of(each) for each in (x, one, 2, True, 0.5, Fraction(4, 2))] == [
        1.5, 1, 2, 1, 0.5, 2,
    ]  # fmt: skip
    assert (number_of(Fraction(1, 2)), number_of(Decimal("0.5"))) == (0.5, 0.5)
    assert number_of("1") is None
    with pytest.raises(TypeError, match="s is a struct, not a number"):
        number_of(value("s", "struct", members=["a"]))


def test_an_enumerator_is_its_name_and_its_number(value: Make) -> None:
    state = value("system_state", "enum", int=3, text="SYSTEM_RUNNING")
    assert state == "SYSTEM_RUNNING"
    assert state == 3


def test_a_bit_field_is_read_again_from_its_structure(value: Make, parts: Parts) -> None:
    lies, lies_not = (
        value(name, int=5, text="5", bits=3, container=container)
        for name, container in (("s.level", 0x1000), ("result.level", None))
    )
    assert (lies.address, lies_not.address) == (None, None)
    parts.debugger.generation.wrote()
    assert lies == 5
    with pytest.raises(StaleError, match="has no address"):
        int(lies_not)


def test_what_is_no_number_is_compared_in_gdb(value: Make, gdb: FakeGdb) -> None:
    one, other = (value(name, "struct", members=["a"]) for name in ("one", "other"))
    for path in (None, [], ["a", 3]):
        gdb.agent["difference"] = lambda id, other, path=path: {"path": path}
        assert difference(one, other) == path
        assert (one == other) is (path is None)
    assert difference(one, value("row", "array", length=3)) == []
    assert difference(one, value("x", int=1, text="1")) == []


def test_a_part_is_not_all_of_it(value: Make, gdb: FakeGdb) -> None:
    row = value("row", "array", length=3)
    gdb.agent["text"] = lambda id, whole=False: {"text": "{1, 2, 3}" if whole else "{1, 2...}"}
    assert row == "{1, 2, 3}"
    assert row != "{1, 2, 4}"
    with pytest.raises(KgdbError, match="the first elements of row, which has more"):
        assert row == "{1, 2...}"


# Pointers and strings


def test_a_text(value: Make, memory: Memory) -> None:
    memory.strings["name"] = "ext4"
    name = value("name", "ptr", int=0x1000, target="char", text='0x1000 "ext4"')
    assert name == "ext4"
    assert name == b"ext4"
    assert name != "ext"
    assert name == 0x1000
    assert (name.string(), name.string(2), name.text_of_string) == ("ext4", "ex", "'ext4'")
    comm = value("comm", "array", target="char", length=16)
    memory.strings["comm"] = "swapper"
    assert comm == "swapper"
    assert value("nothing", "ptr", int=0, target="char").text_of_string is None
    assert value("number", int=1).text_of_string is None


def test_a_pointer_to_a_function_is_its_name(value: Make, gdb: FakeGdb) -> None:
    gdb.agent["symbol_at"] = lambda address: {"symbol": "vfs_read" if address == 0x1000 else None}
    read = value("file.read", "ptr", int=0x1000, target="func", text="0x1000 <vfs_read>")
    assert read == "vfs_read"
    assert read.symbol == "vfs_read"
    other = value("file.write", "ptr", int=0x2000, target="func", text="0x2000")
    assert other == "0x2000"
    assert other.symbol is None
    with pytest.raises(TypeError, match="x is a int, not a pointer"):
        _ = value("x", int=1).symbol


def test_what_a_pointer_points_at(value: Make, memory: Memory) -> None:
    task = value("task", "ptr", int=0x1000, target="struct")
    memory.add("*(task)", "struct", members=["pid"])
    memory.add("task->pid", int=7)
    memory.add("(struct x *)(task)", "ptr", int=0x1000)
    assert task.dereference().members == ["pid"]
    assert task["pid"] == 7
    assert task.cast("struct x *").expression == "(struct x *)(task)"


@pytest.mark.parametrize(
    ("expression", "member"),
    [
        ("task", "task->pid"),
        ("(struct task_struct *)arg", "((struct task_struct *)arg)->pid"),
        ("&init_task", "(&init_task)->pid"),
        ("tasks + 1", "(tasks + 1)->pid"),
        ("tasks[1].self", "tasks[1].self->pid"),
        ("per_cpu(tasks, 0)", "per_cpu(tasks, 0)->pid"),
        ("'main.c'::task", "'main.c'::task->pid"),
        ("(*tasks)", "(*tasks)->pid"),
        ("(*(task)).self", "(*(task)).self->pid"),
        ("(task) + (one)", "((task) + (one))->pid"),
        ("$", "$->pid"),
    ],
)
def test_a_member_is_of_the_whole_expression(
    value: Make, memory: Memory, expression: str, member: str
) -> None:
    task = value(expression, "ptr", int=0x1000, target="struct")
    memory.add(f"{expression}->pid", int=7)
    memory.add(f"{expression}[2]", int=8)
    assert (task["pid"].expression, task["pid"]) == (member, 7)
    assert task[2].expression == member.replace("->pid", "[2]")


# Structures and arrays


def test_members(value: Make, memory: Memory) -> None:
    place = value("place", "struct", members=["x", "y"])
    memory.add("place.x", int=1)
    memory.add("place.y", int=2)
    assert place.members == ["x", "y"]
    assert (place["x"], place["x"].expression) == (1, "place.x")
    assert place == {"x": 1, "y": 2}
    assert place == {"x": 1}
    assert place != {"x": 2}
    assert value("n", int=1) != {"x": 1}
    assert str(place) == "{text of place}"
    assert place.number is None
    with pytest.raises(TypeError, match="place is a struct, not a number"):
        int(place)
    with pytest.raises(GdbError):
        place["z"]
    assert bool(place)


def test_elements(value: Make, memory: Memory) -> None:
    numbers = value("numbers", "array", length=3, target="int")
    for index in range(3):
        memory.add(f"numbers[{index}]", int=10 * index)
    assert len(numbers) == 3
    assert [int(one) for one in numbers] == [0, 10, 20]
    assert numbers[-1] == 20
    for index in (3, -4):
        with pytest.raises(IndexError, match=f"numbers has 3 elements, not an index {index}"):
            numbers[index]
    assert numbers[value("one", int=1)] == 10  # type: ignore[index]  # as __index__


def test_formats(value: Make) -> None:
    number = value("n", int=255, text="255")
    assert f"{number} {number:#x} {number:>5} {number:05d}" == "255 0xff   255 00255"
    assert f"{value('f', 'flt', float=1.5):.2f}" == "1.50"
    with pytest.raises(TypeError, match="not a number"):
        f"{value('s', 'struct', members=['a']):x}"


def test_an_array_compares_with_a_list(value: Make, memory: Memory) -> None:
    numbers = value("numbers", "array", length=2, target="int")
    for index in range(2):
        memory.add(f"numbers[{index}]", int=10 * index)
    assert numbers == [0, 10]
    assert numbers == (0, 10)
    for other in ([0], [0, 10, 20], [0, 11], []):
        assert numbers != other
    assert value("n", int=1) != [1]


@pytest.mark.parametrize("length", [0, 1])
def test_a_flexible_array_has_as_many_as_only_the_kernel_knows(
    value: Make, memory: Memory, length: int
) -> None:
    memory.add("flexible[7]", int=70)
    assert value("flexible", "array", length=length, target="int")[7] == 70


def test_an_index_of_a_pointer(value: Make, memory: Memory) -> None:
    memory.add("pointer[-1]", int=5)
    pointer = value("pointer", "ptr", int=0x1000, target="int")
    assert pointer[-1] == 5
    with pytest.raises(TypeError, match="not an array"):
        len(pointer)


# What changes


def test_a_write_refreshes_what_is_in_memory(value: Make, memory: Memory, parts: Parts) -> None:
    x = value("x", int=1, text="1", address=0x1000)
    in_register = value("$rax", int=1, text="1")
    memory.add("x", int=2, text="2", address=0x1000)
    assert x == 1, "until something was written"
    parts.generation.wrote()
    assert (int(x), str(x)) == (2, "2")
    assert len(memory.gdb.requests("refresh")) == 1
    with pytest.raises(StaleError, match=r"read before a write and has no address"):
        int(in_register)
    assert "read before a write" in repr(in_register)


def test_a_resume_ends_a_value(value: Make, parts: Parts) -> None:
    x = value("x", int=1, text="1", address=0x1000)
    parts.generation.advance()
    for stale in (lambda: int(x), lambda: x.type, lambda: x["y"], lambda: str(x), lambda: x == 1):
        with pytest.raises(StaleError, match="value of x is of an earlier stop"):
            stale()
    assert repr(x) == "<Value x: stale>"


# What cannot be told


def test_what_was_optimised_out(value: Make) -> None:
    x = value("x", optimized_out=True, type="int")
    assert x.is_optimized_out
    assert (str(x), x.type) == ("<optimized out>", "int")
    for refused in (lambda: int(x), lambda: x == 1, lambda: x["y"], lambda: x.string()):
        with pytest.raises(KgdbError, match="x was optimised out here by the compiler") as error:
            refused()
        assert error.value.hint is not None
    assert x.text_of_string is None


def test_an_expression_with_something_optimised_out(parts: Parts, gdb: FakeGdb) -> None:
    def refuse(**_: object) -> None:
        raise Refused("value has been optimized out")

    gdb.agent["evaluate"] = refuse
    with pytest.raises(GdbError, match=r"x \+ 1: part of it was optimised out here"):
        evaluate(parts.debugger, "x + 1")


def test_a_macro(parts: Parts, memory: Memory) -> None:
    with pytest.raises(GdbError) as error:
        evaluate(parts.debugger, "GFP_KERNEL")
    assert error.value.message == 'No symbol "GFP_KERNEL" in current context.'
    assert "GFP_KERNEL looks like a macro" in (error.value.hint or "")
    with pytest.raises(GdbError) as error:
        evaluate(parts.debugger, "gfp_flags")
    assert error.value.hint is None


def test_a_frame_may_be_named(parts: Parts, gdb: FakeGdb, memory: Memory) -> None:
    memory.add("fd", int=3)
    evaluate(parts.debugger, "fd", frame=2)
    assert gdb.requests("evaluate") == [{"op": "evaluate", "expression": "fd", "frame": 2}]


# Tasks, CPUs


def test_a_task(parts: Parts, memory: Memory) -> None:
    memory.add("current", "ptr", int=0x1000, target="struct")
    memory.add("current->pid", int=47)
    memory.add("current->tgid", int=40)
    memory.add("current->comm", "array", target="char", length=16)
    memory.strings["current->comm"] = "sh"
    task = Task(parts.debugger, memory.evaluate("current"), "current")
    assert (task.pid, task.tgid, task.comm) == (47, 40, "sh")


def test_a_cpus_own_copy(parts: Parts, memory: Memory) -> None:
    memory.add("per_cpu(runqueues, 1)", "struct", members=["nr_running"])
    assert per_cpu(parts.debugger, "runqueues", 1).members == ["nr_running"]


# Frames and their variables


class Text:
    """The source in a directory."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.lines: dict[tuple[str, int], int] = {}

    def name(self, file: str) -> str:
        return file.removeprefix(f"{self.top}/")

    def read(self, file: str, address: int) -> bytes:
        assert address
        path = self.top / self.name(file)
        if not path.exists():
            raise KgdbError(f"the source {self.name(file)} is not available")
        return path.read_bytes()

    def line(self, file: str, address: int) -> int | None:
        return self.lines.get((file, address))


@pytest.fixture
def frame(parts: Parts, gdb: FakeGdb, tmp_path: Path) -> Frame:
    (tmp_path / "fs").mkdir()
    (tmp_path / "fs" / "open.c").write_text("one\ntwo\n\tthree\nfour\nfive\n")
    record = {
        "level": 1,
        "function": "do_sys_openat2",
        "address": 0xFFFFFFFF811B09C0,
        "file": f"{tmp_path}/fs/open.c",
        "fullname": f"{tmp_path}/fs/open.c",
        "line": 3,
    }
    gdb.agent["frames"] = lambda limit, behind=False: {"frames": [{"level": 0}, record][:limit]}
    return Frame(parts.debugger, record, Text(tmp_path))


def test_a_frame(frame: Frame) -> None:
    assert (frame.level, frame.function, frame.line) == (1, "do_sys_openat2", 3)
    assert (frame.file, frame.address) == ("fs/open.c", 0xFFFFFFFF811B09C0)
    assert str(frame) == "#1 do_sys_openat2 at fs/open.c:3"
    assert frame.source(1).splitlines() == ["      2  two", ">     3  \tthree", "      4  four"]


def test_a_frame_in_another_functions_line(parts: Parts, tmp_path: Path) -> None:
    """gdb has the line of what is inlined further down."""
    (tmp_path / "fs.c").write_text("one\ntwo\n")
    paths = {"file": f"{tmp_path}/fs.c", "fullname": f"{tmp_path}/fs.c"}
    theirs = {"file": "./include/fs.h", "fullname": "/src/include/fs.h", "line": 9}
    record = {"level": 1, "function": "f", "address": 8, **theirs}
    text = Text(tmp_path)

    def frame(**own: int) -> Frame:
        return Frame(parts.debugger, {**record, "own": {**paths, **own}}, text)

    entry = frame(line=1)
    assert (entry.file, entry.path, entry.line) == ("fs.c", f"{tmp_path}/fs.c", 1)
    assert str(entry) == "#1 f at fs.c:1"
    assert entry.source(0) == ">     1  one"
    unknown = frame(address=7)
    assert (unknown.file, unknown.line) == ("include/fs.h", 9)
    text.lines[paths["file"], 7] = 2
    assert frame(address=7).source(0) == ">     2  two"
    without = Frame(parts.debugger, {**record, "own": {**paths, "address": 7}}, None)
    assert (without.file, without.path, without.line) == ("include/fs.h", "/src/include/fs.h", 9)


def test_a_frame_without_symbols(parts: Parts) -> None:
    frame = Frame(parts.debugger, {"level": 0, "function": None, "address": 0x10}, None)
    assert (frame.function, frame.file, frame.line) == (None, None, None)
    assert str(frame) == "#0 0x10"
    with pytest.raises(KgdbError, match="has no source line"):
        frame.source()


def test_a_source_that_is_not_there(parts: Parts) -> None:
    record = {"level": 0, "function": "f", "address": 1, "file": "./fs/gone.c", "line": 3}
    for source in (None, Text(Path("/gone"))):
        frame = Frame(parts.debugger, {**record, "fullname": "/gone/fs/gone.c"}, source)
        assert frame.file == "fs/gone.c"
        with pytest.raises(KgdbError, match=r"fs/gone\.c is not available"):
            frame.source()


def test_the_callers_frame(parts: Parts, gdb: FakeGdb, frame: Frame) -> None:
    inner = Frame(parts.debugger, {"level": 0, "function": "getname", "address": 1}, None)
    assert inner.up().function == "do_sys_openat2"
    with pytest.raises(KgdbError, match=r"frame 1 \(do_sys_openat2\) is the outermost"):
        frame.up()


def test_a_frame_evaluates_in_itself(gdb: FakeGdb, memory: Memory, frame: Frame) -> None:
    memory.add("fd", int=3)
    assert frame.evaluate("fd") == 3
    assert gdb.requests("evaluate")[0]["frame"] == 1


def test_variables(gdb: FakeGdb, frame: Frame) -> None:
    gdb.agent["variables"] = lambda frame, arguments: (
        {"fd": {"id": 1, "code": "int", "type": "int", "int": 3, "text": "3"},
         "gone": {"error": "Cannot access memory at address 0x0", "code": "int", "type": "int"},
         "split": {"error": "each CPU has its own", "hint": "say whose", "code": "struct",
                   "type": "struct two", "members": ["first"]}}
        if arguments
        else {}
    )  # fmt: skip
    arguments = frame.args
    assert isinstance(arguments, Variables)
    assert gdb.requests("variables") == [], "they are read when they are asked for"
    assert arguments["fd"] == 3
    assert list(arguments) == ["fd", "gone", "split"]
    assert len(gdb.requests("variables")) == 1
    assert repr(arguments) == (
        "{fd=3, gone=Cannot access memory at address 0x0, split=each CPU has its own}"
    )
    with pytest.raises(KeyError, match="the arguments of frame 1 have no 'fb'; they have fd, gone"):
        arguments["fb"]
    with pytest.raises(KeyError, match="the locals of frame 1 have no 'x'; they have none"):
        frame.locals["x"]


def test_variables_that_cannot_be_read(gdb: FakeGdb, frame: Frame) -> None:
    gdb.agent["variables"] = lambda frame, arguments: {
        "gone": {"error": "Cannot access memory at address 0x0", "code": "ptr", "target": "char",
                 "type": "char *"},
        "split": {"error": "each CPU has its own", "hint": "say whose", "code": "struct",
                  "type": "struct two", "members": ["first"]},
    }  # fmt: skip
    variables = dict(frame.locals.items())
    gone, split = variables["gone"], variables["split"]
    assert (gone.type, split.type, split.members) == ("char *", "struct two", ["first"])
    assert str(gone) == "<cannot be read here: Cannot access memory at address 0x0>"
    uses = (lambda: int(gone), lambda: gone == 0, lambda: gone == "a", gone.string)
    for use in (*uses, gone.dereference):
        with pytest.raises(KgdbError, match=r"^gone cannot be read here: Cannot access memory"):
            use()
    with pytest.raises(KgdbError, match=r"(?s)^split cannot be read here: each CPU.*say whose"):
        split["first"]
    assert gone.text_of_string is None
    assert frame.locals.summaries() == {}
    assert gdb.requests("string") == gdb.requests("child") == []


def test_variables_end_with_their_stop(parts: Parts, gdb: FakeGdb, frame: Frame) -> None:
    gdb.agent["variables"] = lambda frame, arguments: {}
    variables = frame.locals
    parts.generation.advance()
    with pytest.raises(StaleError):
        list(variables)
    assert repr(variables) == "<the locals of frame 1: stale>"
