"""QEMU or gdb killed at random moments, 200 times; the seed of a run that goes wrong is shown."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from random_kills import run_with_kills


@pytest.mark.parametrize("number", range(20))
def test_killed(tmp_path: Path, session_options: list[str], number: int) -> None:
    run_with_kills(tmp_path, session_options, random.SystemRandom().randrange(1 << 32), kills=10)
