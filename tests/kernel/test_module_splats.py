"""Splats whose frames are in a module that is gone, or in its init, keep file and line."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_kgdb.errors import GuestCommandError

FAULTY = Path(__file__).parent / "modules/faulty"
SOURCE = FAULTY / "faulty.c"
WARNING, WARNING_IN_INIT, FAILING_INIT, TIMER_STAYS = 4, 7, 8, 9


def line_of(text: str) -> int:
    (number,) = [
        number for number, line in enumerate(SOURCE.read_text().splitlines(), 1) if text in line
    ]
    return number


def places(splats, function):
    return {
        (frame.file, frame.line)
        for splat in splats
        for frame in splat.frames
        if frame.function == function
    }


def test_in_exit(kgdb):
    module = kgdb.modules.load(FAULTY, mistake=WARNING)
    with kgdb.expect_splat("faulty_exit", kind="WARN") as expected:
        module.unload()
    assert places(expected.splats, "faulty_exit") == {(str(SOURCE), line_of("/* in exit */"))}
    assert f"({SOURCE}:{line_of('/* in exit */')})" in expected.splats[0].symbolised


def test_in_init(kgdb):
    with kgdb.expect_splat("faulty_init") as expected:
        module = kgdb.modules.load(FAULTY, mistake=WARNING_IN_INIT)
    assert places(expected.splats, "faulty_init") == {(str(SOURCE), line_of("/* in init */"))}
    module.unload()
    assert places(kgdb.splats, "faulty_init") == {(str(SOURCE), line_of("/* in init */"))}


def test_in_an_init_that_fails(kgdb):
    with (
        kgdb.expect_splat("faulty_init") as expected,
        pytest.raises(GuestCommandError) as caught,
    ):
        kgdb.modules.load(FAULTY, mistake=FAILING_INIT)
    assert places(expected.splats, "faulty_init") == {(str(SOURCE), line_of("/* in init */"))}
    said = str(caught.value).partition("the kernel said:\n")[2]
    assert f"WARNING: CPU: 0 PID: {expected.splats[0].pid} at {SOURCE}" in said
    assert "RAX:" not in said


def test_that_the_guest_loads(kgdb):
    (file,) = kgdb.modules.known(FAULTY)
    kgdb.put(file, "/run/faulty.ko")
    with kgdb.expect_splat("faulty_init") as expected:
        assert kgdb.run(f"insmod /run/faulty.ko mistake={FAILING_INIT}").status != 0
    assert places(expected.splats, "faulty_init") == {(str(SOURCE), line_of("/* in init */"))}


def test_memory_of_a_module_that_is_gone(kgdb):
    kgdb.modules.load(FAULTY, mistake=TIMER_STAYS).unload()
    kgdb.resume()
    stop = kgdb.wait(timeout=30)
    assert stop.reason in ("oops", "panic"), "of an oops in an interrupt, the kernel panics"
    assert "faulty_t" in stop.message
    assert "of module faulty, unloaded" in stop.message
    assert any("of module faulty, unloaded" in str(splat) for splat in kgdb.splats)


def test_memory_that_another_module_has_now(kgdb):
    """Its addresses are that module's."""
    kgdb.modules.load(FAULTY).unload()
    module = kgdb.modules.load(FAULTY, mistake=WARNING)
    with kgdb.expect_splat("faulty_exit") as expected:
        module.unload()
    assert places(expected.splats, "faulty_exit") == {(str(SOURCE), line_of("/* in exit */"))}
