"""QEMU or gdb killed at random moments: ten times here, 200 times by `make test-faults-random`."""

from __future__ import annotations

from pathlib import Path

import pytest
from random_kills import run_with_kills

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("seed", [1, 2])
def test_killed(tmp_path: Path, session_options: list[str], seed: int) -> None:
    run_with_kills(tmp_path, session_options, seed, kills=5)
