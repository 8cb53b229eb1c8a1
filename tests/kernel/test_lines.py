"""Files and lines of frames: a function's own, where gcc has moved another's instructions."""

from __future__ import annotations

import contextlib
import itertools
import re
from pathlib import Path

import pytest

ENTRY = Path(__file__).parent / "modules" / "entry"
STEP = "echo {} > /sys/module/entry/parameters/step"


def stop_in(kgdb, function, step):
    """Stop where a function of the module begins."""
    kgdb.modules.load(ENTRY)
    kgdb.breakpoint(function)
    kgdb.type(STEP.format(step))
    return kgdb.cont()


def text_at(frame):
    """The line that a frame is at, without its number."""
    return re.sub(r"^>\s*\d+\s*", "", frame.source(context=0))


def test_at_a_functions_first_instruction(kgdb):
    """gcc 12 has the header's line there, outside of the inlined function."""
    stop = stop_in(kgdb, "where", 8)
    moved = "preempt.h" in kgdb.execute("info line *$pc")
    assert Path(stop.frame.file).name == "main.c"
    assert Path(stop.frame.path).name == "main.c"
    first = "static noinline __attribute__((noipa)) int where(int n)" if moved else "{"
    assert text_at(stop.frame) == first
    (line,) = (line for line in kgdb._actions.lines() if "in where" in line)
    assert f"/main.c:{stop.frame.line})" in line


def test_at_a_call(kgdb):
    """call_timer_fn() loads a count, by an inlined function, directly before it calls."""
    caller = stop_in(kgdb, "timed", 9).frame.up()
    assert (caller.function, caller.file) == ("call_timer_fn", "kernel/time/timer.c")
    assert text_at(caller) == "fn(timer);"


def test_the_lines_of_callers_are_drgns(kgdb):
    """drgn takes the last row of an instruction, as addr2line does."""
    kgdb.type("sleep 0.01; ls -l / /proc > /dev/null; cat /proc/self/maps; sync")
    for name in ("update_rq_clock", "__alloc_pages", "dput"):
        kgdb.breakpoint(name)
    compared = 0
    for _ in range(40):
        stop = kgdb.cont()
        places = drgns_places(kgdb, stop)
        for inner, frame in itertools.pairwise(stop.backtrace()):
            if frame.address in places and not (frame.inlined or inner.inlined):
                file, line = places[frame.address]
                assert Path(frame.file).name == file
                # Of several statements that begin at an instruction, gdb and drgn name others.
                assert frame.line == line or inner.function.startswith("asm_")
                compared += 1
    assert compared > 100


def drgns_places(kgdb, stop):
    """Files and lines by address, of the frames that drgn knows them of."""
    places = {}
    for frame in kgdb.program.stack_trace(kgdb.drgn_object(stop.task)):
        with contextlib.suppress(LookupError):
            path, line, _ = frame.source()
            places.setdefault(frame.pc, (Path(path).name, line))
    return places


@pytest.mark.parametrize("name", ["chrdev_open", "dput", "vfs_read", "do_filp_open"])
def test_first_instructions_are_in_the_functions_file(kgdb, name):
    kgdb.type("cat /dev/null; cat /proc/version")
    kgdb.breakpoint(name)
    frame = kgdb.cont().frame
    functions = kgdb.execute(f"info functions -n ^{name}$")
    (file,) = re.findall(rf"File (\S+):\n\d+:.*\b{name}\(", functions)
    assert Path(frame.file).name == Path(file).name
