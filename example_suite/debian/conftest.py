"""These tests need a Debian on the disk, and one of them a browser in it.

pytest --kgdb-kernel=distro:6.1 --kgdb-disk=debian --kgdb-disk-package=firefox-esr
    --kgdb-forward=tcp:0:22 example_suite/debian
"""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_kgdb.settings import from_pytest


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Ignore tests that cannot run with these options; None leaves the decision to others."""
    settings = from_pytest(config)
    if not settings.disk.startswith("debian"):
        return True
    if collection_path.name == "test_browser.py" and "firefox-esr" not in settings.disk_package:
        return True
    return None
