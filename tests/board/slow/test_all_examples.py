"""All examples on a board with a power switch: each test has a boot of its own."""

from __future__ import annotations

import pytest
from boards import Start
from examples import run_examples

FILES = ["test_first_steps.py", "test_watch_and_steer.py", "test_trouble.py", "test_drivers.py"]
# These want a device or CPUs that this board lacks, or snapshots.
LACKING = {"test_two_processors", "test_probe", "test_an_interrupt", "test_dma"}
REFUSED = {"test_each_failure_of_init"}


@pytest.mark.parametrize("options", [(), ("--one-line",)], ids=["two_lines", "one_line"])
def test_all_examples(pytestconfig: pytest.Config, start: Start, options: tuple[str, ...]) -> None:
    machine = start("--wait", *options)
    reset = f"--kgdb-reset={machine.reset_command}"
    ran = run_examples(pytestconfig, machine, FILES, reset)
    assert ran.tests("SKIPPED") == LACKING, ran.output
    assert ran.tests("FAILED") == REFUSED, ran.output
    assert ran.tests("ERROR") == set(), ran.output
    assert len(ran.tests("PASSED")) == 15, ran.output
