"""The examples whose needs a board without a power switch meets, on one serial line."""

from __future__ import annotations

import pytest
from boards import Start
from examples import run_examples


def test_examples_on_one_line(pytestconfig: pytest.Config, start: Start) -> None:
    files = ["test_first_steps.py", "test_watch_and_steer.py"]
    ran = run_examples(pytestconfig, start("--one-line"), files, "--kgdb-require")
    assert ran.status == 0, ran.output
    assert len(ran.tests("PASSED")) == 10
    assert "on the board on" in ran.output


def test_what_a_board_lacks_is_named(pytestconfig: pytest.Config, start: Start) -> None:
    tests = ["test_trouble.py::test_early_boot", "test_trouble.py::test_two_processors",
             "test_drivers.py::test_probe"]  # fmt: skip
    machine = start()
    ran = run_examples(pytestconfig, machine, tests)
    assert ran.status == 0, ran.output
    assert ran.tests("SKIPPED") == {"test_early_boot", "test_two_processors", "test_probe"}
    for reason in (
        "at='kgdbwait': a board is there only after --kgdb-reset",
        "smp=2: the board is as it is",
        "qemu_arg=('-device', 'edu'): the board is as it is",
    ):
        assert reason in ran.output
    ran = run_examples(pytestconfig, machine, tests[:1], "--kgdb-require")
    assert ran.status == 1
    assert "skipped, and --kgdb-require allows no skip" in ran.output or (
        "(--kgdb-require)" in ran.output
    )


def test_a_power_switch(pytestconfig: pytest.Config, start: Start) -> None:
    """A panic ends nothing, and early boot is there."""
    machine = start("--wait")
    reset = f"--kgdb-reset={machine.reset_command}"
    ran = run_examples(pytestconfig, machine, ["test_trouble.py"], reset)
    assert ran.status == 0, ran.output
    assert ran.tests("SKIPPED") == {"test_two_processors"}
    assert len(ran.tests("PASSED")) == 3
    assert "isolation reboot" in ran.output
