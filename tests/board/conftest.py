"""Boards: machines that a script has started as somebody else's."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from boards import Open, Start, Started, starting

from pytest_kgdb.board import BoardAccess
from pytest_kgdb.cache import Cache
from pytest_kgdb.plugin._configure import settings_of
from pytest_kgdb.progress import Progress
from pytest_kgdb.session import BoardSession
from pytest_kgdb.settings import make_settings

# `make test-labgrid` has them in an environment with labgrid.
collect_ignore = [] if importlib.util.find_spec("labgrid") else ["with_labgrid"]


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker of what `make test` runs of these tests."""
    config.addinivalue_line("markers", "short: a test on a board that does not take long")


@pytest.fixture
def start(kgdb_kernel: Any, kgdb_initrd: Any, tmp_path: Path) -> Iterator[Start]:
    """Starts a machine."""
    with contextlib.ExitStack() as stack:

        def start(*options: str) -> Started:
            directory = tmp_path / "board"
            directory.mkdir()
            return stack.enter_context(starting(directory, kgdb_kernel, kgdb_initrd, *options))

        yield start


@contextlib.contextmanager
def _opening(request: pytest.FixtureRequest, kernel: Any) -> Iterator[Open]:
    outer = settings_of(request.config)
    with contextlib.ExitStack() as stack:

        def open_session(machine: Started | None = None, **values: Any) -> BoardSession:
            lines = {} if machine is None else machine.lines()
            settings = make_settings(**{"cache_dir": outer.cache_dir, **lines, **values})
            progress = Progress(sys.stderr, live=False)
            cache = Cache(settings.cache_dir, progress=progress)
            session = BoardSession(
                settings, BoardAccess.of(settings), kernel, cache=cache, progress=progress
            )
            return stack.enter_context(session)

        yield open_session


@pytest.fixture
def open_session(request: pytest.FixtureRequest, kgdb_kernel: Any) -> Iterator[Open]:
    """Opens a session on a machine, until the test ends."""
    with _opening(request, kgdb_kernel) as open_session:
        yield open_session


@pytest.fixture(scope="module")
def open_sessions(request: pytest.FixtureRequest, kgdb_kernel: Any) -> Iterator[Open]:
    """Opens a session on a machine, until the tests of a file end."""
    with _opening(request, kgdb_kernel) as open_session:
        yield open_session
