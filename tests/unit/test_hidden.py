"""Breakpoints that a test does not see, without a kernel."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_kgdb.target._hidden import Hidden
from pytest_kgdb.target._link import GdbError


class Link:
    """gdb, as far as it is asked here."""

    stopped = True

    def __init__(self) -> None:
        self.said: list[str] = []

    def command(self, command: str) -> Any:
        self.said.append(command)
        if "nonesuch" in command:
            raise GdbError("No symbol")
        return {"bkpt": {"number": str(len(self.said))}}


@pytest.fixture
def link() -> Link:
    return Link()


@pytest.fixture
def hidden(link: Any) -> Hidden:
    return Hidden(link)


def test_each_is_planted_once_at_the_first_instruction(link: Link, hidden: Hidden) -> None:
    hidden.plant("do_init_module", lambda: True)
    hidden.plant("do_init_module", lambda: False)
    assert link.said == ['-break-insert "*do_init_module"']
    work = hidden.at(1)
    assert work is not None
    assert work()
    assert hidden.at(0) is None
    assert hidden.at(2) is None


def test_one_that_gdb_has_deleted_is_planted_anew(link: Link, hidden: Hidden) -> None:
    hidden.plant("free_module", lambda: False)
    hidden.deleted(7)
    assert hidden.numbers == ["1"]
    hidden.deleted(1)
    assert hidden.numbers == []
    hidden.plant("free_module", lambda: False)
    assert hidden.numbers == ["2"]
    hidden.forget()
    assert hidden.at(2) is None


def test_one_that_there_is_no_place_for(hidden: Hidden) -> None:
    with pytest.raises(GdbError):
        hidden.plant("nonesuch", lambda: False)
    assert hidden.numbers == []


def test_they_sleep_while_the_kernel_steps(link: Link, hidden: Hidden) -> None:
    with hidden.asleep():
        pass
    assert link.said == []
    hidden.plant("a", lambda: False)
    hidden.plant("b", lambda: False)
    with hidden.asleep():
        assert link.said[2:] == ["-break-disable 1 2"]
    assert link.said[3:] == ["-break-enable 1 2"]


def test_a_kernel_that_runs_on_is_not_told_of_them(link: Link, hidden: Hidden) -> None:
    hidden.plant("a", lambda: False)
    with hidden.asleep():
        link.stopped = False
    assert link.said[1:] == ["-break-disable 1"]


def test_they_are_removed(link: Link, hidden: Hidden) -> None:
    hidden.plant("a", lambda: False)
    hidden.remove("a")
    hidden.remove("a")
    assert link.said[1:] == ["-break-delete 1"]
