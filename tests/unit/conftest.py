"""What the tests of the debugger, and of what stands on it, have in common."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_gdb import FakeGdb, Parts
from hypothesis import HealthCheck, settings

# The same examples each time, and none kept: a commit passes for all or for nobody. A test's
# directory is shared by its examples; a busy host takes any time.
settings.register_profile(
    "check",
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.register_profile(
    "long", settings.get_profile("check"), derandomize=False, max_examples=5000
)
settings.load_profile("check")

SYMBOLS: dict[str, int | list[int]] = {
    "_stext": 0xFFFFFFFF81000000,
    "do_init_module": 0xFFFFFFFF810B3DC0,
    "free_module": 0xFFFFFFFF810B3000,
    "trim_init_extable": 0xFFFFFFFF810B2000,
    "do_sys_openat2": 0xFFFFFFFF811B09C0,
    "vfs_read": 0xFFFFFFFF811B25A0,
    "vfs_write": 0xFFFFFFFF811B2C70,
    "_printk": 0xFFFFFFFF81500000,
    "kmalloc": [0xFFFFFFFF810032F2, 0xFFFFFFFF81015CD8],
}
"""Where Linux 6.1 has some of its functions."""


@pytest.fixture
def gdb() -> FakeGdb:
    return FakeGdb(SYMBOLS)


@pytest.fixture
def parts(gdb: FakeGdb, tmp_path: Path) -> Iterator[Parts]:
    parts = Parts(tmp_path, gdb)
    yield parts
    parts.close()
