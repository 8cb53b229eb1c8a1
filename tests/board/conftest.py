"""Boards: machines that a script has started as somebody else's."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from boards import Open, SettingsFor, Start, Started, starting

from pytest_kgdb.cache import Cache
from pytest_kgdb.plugin._configure import settings_of
from pytest_kgdb.progress import Progress
from pytest_kgdb.session import BoardSession
from pytest_kgdb.settings import Settings, make_settings


@pytest.fixture
def start(kgdb_kernel: Any, kgdb_initrd: Any, tmp_path: Path) -> Iterator[Start]:
    """Starts a machine."""
    with contextlib.ExitStack() as stack:

        def start(*options: str) -> Started:
            directory = tmp_path / "board"
            directory.mkdir()
            return stack.enter_context(starting(directory, kgdb_kernel, kgdb_initrd, *options))

        yield start


@pytest.fixture
def settings_for(request: pytest.FixtureRequest) -> SettingsFor:
    """Returns settings for a machine's lines."""
    outer = settings_of(request.config)

    def settings(machine: Started | None = None, **values: Any) -> Settings:
        lines = {} if machine is None else machine.lines()
        return make_settings(**{"cache_dir": outer.cache_dir, **lines, **values})

    return settings


@pytest.fixture
def open_session(kgdb_kernel: Any, settings_for: SettingsFor) -> Iterator[Open]:
    """Opens a session on a machine."""
    with contextlib.ExitStack() as stack:

        def open_session(machine: Started | None = None, **values: Any) -> BoardSession:
            settings = settings_for(machine, **values)
            progress = Progress(sys.stderr, live=False)
            cache = Cache(settings.cache_dir, progress=progress)
            session = BoardSession(settings, kgdb_kernel, cache=cache, progress=progress)
            return stack.enter_context(session)

        yield open_session
