"""These boot a kernel of Debian's configuration by Debian's initramfs.

pytest --kgdb-kernel=… --kgdb-config=distro --kgdb-initrd=initramfs-tools
    --kgdb-append='root=LABEL=debian rw' --kgdb-disk=debian --kgdb-forward=tcp:0:22 …
"""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_kgdb.settings import from_pytest


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave them out of a run with another configuration; None lets others decide."""
    return None if from_pytest(config).config == "distro" else True
