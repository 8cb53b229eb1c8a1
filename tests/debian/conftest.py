"""These tests boot a Debian.

pytest --kgdb-kernel=… --kgdb-disk=debian --kgdb-memory=512 --kgdb-forward=tcp:0:22 …
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from machines import Boot, OpenSession

from pytest_kgdb import Kgdb, disk, initrd
from pytest_kgdb.cache import Cache
from pytest_kgdb.kernel import Kernel
from pytest_kgdb.progress import Silent
from pytest_kgdb.session import Session
from pytest_kgdb.settings import Settings, from_pytest


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave them out of a run without such a disk; None lets others decide."""
    disk = config.getoption("kgdb_disk", default=None) or ""
    return None if disk.startswith("debian") else True


@pytest.fixture
def settings(pytestconfig: pytest.Config) -> Settings:
    return replace(from_pytest(pytestconfig), memory=512, timeout=600)


@pytest.fixture
def open_session(settings: Settings, kgdb_kernel: Kernel) -> OpenSession:
    """Opens a session with some settings changed."""

    @contextlib.contextmanager
    def opened(**changed: object) -> Iterator[Session]:
        origins = {**settings.origins, **dict.fromkeys(changed, "the test")}
        chosen = replace(settings, **{"origins": origins, **changed})
        progress = Silent()
        cache = Cache(chosen.cache_dir, progress=progress)
        image = disk.prepare(chosen, kgdb_kernel, cache, progress)
        ram = initrd.prepare(chosen, kgdb_kernel, [], cache, progress)
        with Session(chosen, kgdb_kernel, ram, image, cache=cache, progress=progress) as session:
            yield session

    return opened


@pytest.fixture
def boot(open_session: OpenSession) -> Boot:
    """Boots with some settings changed, and lends the handle."""

    @contextlib.contextmanager
    def boot(**changed: object) -> Iterator[Kgdb]:
        with open_session(**changed) as session:
            yield session.acquire(session.settings.for_marker({}, "the test"))

    return boot
