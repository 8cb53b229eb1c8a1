"""Arguments that are in no register any more: the debug info has what the caller gave."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pytest_kgdb.errors import KgdbError

GIVEN = Path(__file__).parent / "modules/given"
SOURCE = (GIVEN / "given.c").read_text().splitlines()
BEHIND = next(n for n, line in enumerate(SOURCE, 1) if "/* behind the call */" in line)


@pytest.fixture
def given(kgdb):
    kgdb.modules.load_stopped(GIVEN)
    return kgdb


def test_of_frames(given):
    given.breakpoint("used")
    firsts = []
    for _ in range(4):
        frames = given.cont().backtrace()[1:4]
        assert [frame.function for frame in frames] == ["inlined", "function", "caller"]
        assert frames[0]._record["inline"]
        pairs = {int(frame.args["pair"]) for frame in frames}
        assert pairs == {int(frame.evaluate("pair")) for frame in frames}
        assert len(pairs) == 1
        firsts += {int(frame.evaluate("pair->first")) for frame in frames}
    assert firsts == [7, 7, 9, 9]


def test_in_conditions(given):
    given.breakpoint(f"given.c:{BEHIND}", condition="pair->first == 9")
    stop = given.cont()
    assert stop.frame.evaluate("pair->second") == 10
    given.resume()


@pytest.mark.parametrize(
    "condition",
    ["n == 2 && pair->second == 10", "n == 1 ? pair->first == 1 : pair->first == 9",
     "!(n == 1 || pair->first == 7)"],
)  # fmt: skip
def test_behind_what_may_not_be_evaluated(given, condition):
    given.breakpoint(f"given.c:{BEHIND}", condition=condition)
    stop = given.cont()
    assert stop.message is None, stop
    assert stop.frame.args["n"] == 2
    assert given.evaluate("n == 1 && pair->first == 7") == 0
    assert given.evaluate("n == 2 ? pair->second : pair->first") == 10


def test_what_is_inlined_at_a_breakpoint(given):
    given.breakpoint("inlined", condition="pair->first == 9")
    assert given.cont().frame.args["pair"]["second"] == 10


def test_at_the_prompt(given):
    given.breakpoint(f"given.c:{BEHIND}", condition="pair->first == 9")
    given.cont()
    assert "= 9\n" in given.execute("print pair->first")
    assert "= 0xa\n" in given.execute("p/x pair->second")
    assert given.execute('printf "pair: %d\\n", pair->first') == "pair: 9\n"
    shown = given.execute("with print frame-arguments scalars -- bt 3")
    pointers = set(re.findall(r"pair(?:@entry)?=(0x\w+)", shown))
    assert pointers == {hex(given.evaluate("(unsigned long)pair"))}, shown


WIDE = {"wide": -5, "high": (3 << 64) + 4}


def read(use, name):
    """A value, or the reason why it cannot be read."""
    try:
        value = use(name)
        return "optimised out" if value.is_optimized_out else int(value)
    except KgdbError as error:
        return error.message


def test_of_128_bits(given):
    """What `args` has, evaluate() has: at an entry, in what is inlined, in a caller's frame."""
    tall = next(n for n, line in enumerate(SOURCE, 1) if "/* behind it */" in line)
    given.breakpoint("wide_arguments")
    frame = given.cont().frame
    assert {name: int(frame.args[name]) for name in WIDE} == WIDE
    assert {name: int(frame.evaluate(name)) for name in WIDE} == WIDE
    assert frame.evaluate("wide").type == frame.args["wide"].type
    assert given.evaluate("sizeof(wide)") == 16
    given.breakpoint("used")
    given.breakpoint(f"given.c:{tall}")
    seen = 0
    for _ in range(2):
        for frame in given.cont().backtrace()[:3]:
            for name in {*WIDE} & {*frame.args}:
                value = read(frame.args.__getitem__, name)
                assert value == read(frame.evaluate, name)
                assert value in (WIDE[name], "optimised out")
                seen += 1
    assert seen >= 6


def test_they_lie_nowhere(given):
    given.breakpoint(f"given.c:{BEHIND}")
    given.cont()
    with pytest.raises(KgdbError, match="pair lies nowhere any more: it is known from what"):
        given.assign("pair", 5)
    given.assign("pair->second", 5)
    assert given.evaluate("pair->second") == 5


def test_nothing_is_left_in_gdb(given):
    before = given.execute("show convenience")
    given.breakpoint(f"given.c:{BEHIND}", condition="pair->first == 9")
    given.cont()
    assert given.evaluate("pair->first") == 9
    after = given.execute("show convenience").replace(given.execute("output $_"), "")
    names = {line.split(" ")[0] for line in after.splitlines()}
    assert names - {line.split(" ")[0] for line in before.splitlines()} <= {
        "$_hit_bpnum", "$_hit_locno", "$_", "$__", "$bpnum"}  # fmt: skip
