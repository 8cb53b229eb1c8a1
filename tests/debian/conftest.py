"""These tests boot a Debian.

pytest --kgdb-kernel=… --kgdb-disk=debian --kgdb-memory=512 --kgdb-forward=tcp:0:22 …
"""

from __future__ import annotations

from pathlib import Path

import pytest


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave them out of a run without such a disk; None lets others decide."""
    disk = config.getoption("kgdb_disk", default=None) or ""
    return None if disk.startswith("debian") else True
