"""For tests on a kernel with its own detectors of bugs; `make test-sanitized` builds it."""

from __future__ import annotations

from pathlib import Path

import pytest

MODULES = Path(__file__).parent / "modules"
REQUIRED = ("KASAN", "UBSAN", "PROVE_LOCKING", "DEBUG_KMEMLEAK")


@pytest.fixture(autouse=True)
def sanitized(kgdb_kernel) -> None:
    """Skip on a kernel that lacks what the tests here are about."""
    missing = [symbol for symbol in REQUIRED if symbol not in kgdb_kernel.config]
    if missing:
        pytest.skip(f"the kernel is without {', '.join(missing)}: make test-sanitized builds one")


@pytest.fixture
def broken(kgdb):
    """The handle on a kernel with /proc/broken."""
    kgdb.modules.load(MODULES / "broken")
    return kgdb
