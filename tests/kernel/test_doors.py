"""What the handle can through the stub that gdb is attached to: docs/doors.md, cell by cell."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_kgdb.handle import attachment_of
from tests.doors import ROWS, Row


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.use.__name__)
def test_a_row(kgdb, row: Row, tmp_path: Path) -> None:
    row.check(kgdb, attachment_of(kgdb).relay.door, tmp_path)
