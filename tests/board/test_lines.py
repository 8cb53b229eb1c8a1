"""A board's kernel on its serial lines: taken up, interrupted, left to run, taken up again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from boards import Open, Start

from pytest_kgdb.handle import Kgdb


def use(kgdb: Kgdb) -> None:
    """Do a little of everything that goes over the lines."""
    assert kgdb.run("echo hello; seq 400 | tail -1").output == "hello\n400\n"
    with kgdb.breakpoint("do_sys_openat2"):
        kgdb.type("cat /proc/version")
        stop = kgdb.cont()
        assert stop.frame.function == "do_sys_openat2"
    kgdb.resume()
    stop = kgdb.interrupt()
    assert stop.reason == "interrupt"
    assert kgdb.program["init_task"].comm.string_() == b"swapper/0"


@pytest.mark.parametrize(
    "options",
    [
        pytest.param((), id="two_lines"),
        pytest.param(("--one-line",), id="one_line", marks=pytest.mark.short),
    ],
)
def test_a_kernel_that_waits_in_kgdb(start: Start, open_session: Open, options: Any) -> None:
    machine = start("--wait", *options)
    session = open_session(machine)
    kgdb = session.handle
    use(kgdb)
    with kgdb.breakpoint("do_sys_openat2"):
        session.close()
    # It runs, without breakpoints: nobody is there.
    session = open_session(machine)
    kgdb = session.handle
    assert kgdb.stop is not None
    assert kgdb.stop.reason == "interrupt"
    use(kgdb)


@pytest.mark.parametrize("options", [(), ("--one-line",)], ids=["two_lines", "one_line"])
def test_a_kernel_that_boots(start: Start, open_session: Open, options: Any) -> None:
    session = open_session(start(*options))
    use(session.handle)
    assert any("command in its shell" in line for line in session.describe())


Lines = Callable[[dict[str, dict[str, int]]], dict[str, str]]


@pytest.mark.parametrize(
    ("options", "lines"),
    [
        pytest.param(
            (),
            lambda ports: {
                "target": f"serial:tcp:127.0.0.1:{ports['kgdb']['tcp']}",
                "console": f"tcp:127.0.0.1:{ports['console']['tcp']}",
            },
            id="tcp",
        ),
        pytest.param(
            (),
            lambda ports: {
                "target": f"serial:tcp:127.0.0.1:{ports['kgdb']['tcp']}",
                "console": f"rfc2217://127.0.0.1:{ports['console']['rfc2217']},115200",
            },
            id="rfc2217",
        ),
        pytest.param(
            ("--one-line",),
            lambda ports: {
                "target": f"serial:rfc2217://127.0.0.1:{ports['console']['rfc2217']},115200"
            },
            id="rfc2217_one_line",
        ),
    ],
)
def test_lines_of_a_server(start: Start, open_session: Open, options: Any, lines: Lines) -> None:
    machine = start(*options)
    session = open_session(**lines(machine.ports))
    kgdb = session.handle
    use(kgdb)
    (line,) = session.describe()
    by_break = "rfc2217" in str(lines(machine.ports))
    assert ("a break" if by_break else "a command in its shell") in line
    if by_break:  # which needs no shell at its prompt
        kgdb.type("sleep 1000")
        kgdb.resume()
        assert kgdb.interrupt().reason == "interrupt"
