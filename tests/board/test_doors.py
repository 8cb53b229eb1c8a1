"""What the handle can on a board: docs/doors.md, cell by cell."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from boards import Open, Started, starting

from pytest_kgdb.session import BoardSession
from tests.doors import ROWS, Row


@pytest.fixture(scope="module")
def machine(
    kgdb_kernel: Any, kgdb_initrd: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Started]:
    with starting(tmp_path_factory.mktemp("board"), kgdb_kernel, kgdb_initrd) as machine:
        yield machine


@pytest.fixture(scope="module")
def session(machine: Started, open_sessions: Open) -> BoardSession:
    return open_sessions(machine)


# The oops is the last: what it leaves is not restored.
@pytest.mark.parametrize(
    "row",
    sorted(ROWS, key=lambda row: row.use.__name__ == "oops"),
    ids=lambda row: row.use.__name__,
)
def test_a_row(session: BoardSession, row: Row, tmp_path: Path) -> None:
    handle = session.acquire(session.settings.for_marker({}, "a test"))
    row.check(handle, "board", tmp_path)
    session.check_splats()
