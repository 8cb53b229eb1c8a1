"""The settings of a pytest run, checked where options were given and shown in the header."""

from __future__ import annotations

import pytest

from ..errors import ConfigError
from ..settings import Settings, from_pytest, is_shipped
from ._matrix import Matrix
from ._require import Requirement
from ._terminal import is_worker

_SETTINGS = pytest.StashKey[Settings]()
_MATRIX = pytest.StashKey[Matrix]()


def settings_of(config: pytest.Config) -> Settings:
    """Return the run's settings.

    :raises pytest.UsageError: an option's value cannot be.
    """
    settings = config.stash.get(_SETTINGS, None)
    if settings is None:
        try:
            settings = from_pytest(config)
        except ConfigError as error:
            raise pytest.UsageError(str(error)) from None
        config.stash[_SETTINGS] = settings
    return settings


def matrix_of(config: pytest.Config) -> Matrix:
    """Return the parameters that the run's options make."""
    matrix = config.stash.get(_MATRIX, None)
    if matrix is None:
        matrix = config.stash[_MATRIX] = Matrix(settings_of(config))
    return matrix


def check(config: pytest.Config, *, sharded: bool) -> None:
    """Read the settings, and register what has to watch the whole run.

    :param sharded: whether `--shard` or what goes with it is given.
    :raises pytest.UsageError: an option's value cannot be, or two cannot be together.
    """
    settings = settings_of(config)
    if settings.attach and config.getoption("numprocesses", default=None):
        raise pytest.UsageError(
            f"{settings.origin('attach')}: gdb needs the terminal, which pytest-xdist's workers "
            "do not have\nhint: run without -n"
        )
    if settings.target is not None and config.getoption("numprocesses", default=None):
        raise pytest.UsageError(
            f"{settings.origin('target')}: there is one board, and pytest-xdist's workers would "
            "each want it\nhint: run without -n"
        )
    if settings.peer is not None and settings.record is None:
        raise pytest.UsageError(f"{settings.origin('peer')}: it needs --kgdb-record=FILE")
    try:
        _choose(config, settings, sharded=sharded)
        # Without tests that run there is nothing to report, and the files of a run may be there.
        if not config.getoption("collectonly"):
            _observe(config, settings)
    except ConfigError as error:
        raise pytest.UsageError(str(error)) from None


def _choose(config: pytest.Config, settings: Settings, *, sharded: bool) -> None:
    """Register what has a say in which tests are collected.

    :raises ConfigError: an option's value cannot be, or two cannot be together.
    """
    if settings.repeat > 1:
        from ._named import NamedTests
        from ._record import Repetitions

        NamedTests.register(config)
        config.pluginmanager.register(Repetitions(), "kgdb-repetitions")
    if sharded:
        from ._durations import store
        from ._shard import Sharding

        measured = store(settings.cache_dir, config.rootpath)
        Sharding.register(config, matrix_of(config), measured)


def _observe(config: pytest.Config, settings: Settings) -> None:
    """Register what watches the tests run, and reports on them.

    :raises ConfigError: a file cannot be written, or a library is missing.
    """
    if settings.record is not None and not is_worker(config):
        from ._record import Recorder

        config.pluginmanager.register(
            Recorder(settings.record, repeats=settings.repeat > 1), "kgdb-record"
        )
    if settings.kernel and settings.record is None:  # a gate's kernels may have the bug
        from ._durations import Durations, store

        measured = store(settings.cache_dir, config.rootpath)
        Durations.register(config, matrix_of(config), measured)
    if settings.kernel and matrix_of(config).axes:
        from ._table import MatrixTable

        table = MatrixTable(matrix_of(config), repeats=settings.repeat > 1)
        config.pluginmanager.register(table, "kgdb-table")
    if settings.require and matrix_of(config).kernels > 1:
        from ._selection import Unselected

        unselected = Unselected(config, matrix_of(config))
        config.pluginmanager.register(unselected, "kgdb-unselected")
    if settings.peer is not None and settings.record is not None:
        from ._lockstep import Lockstep

        # pytest-xdist's workers take the tests in another order each time.
        lockstep = Lockstep(settings.record, settings.peer, waits=not is_worker(config))
        config.pluginmanager.register(lockstep, "kgdb-lockstep")
    if settings.prove:
        from ._prove import Proofs

        config.pluginmanager.register(Proofs(), "kgdb-proofs")
    if settings.report is not None and not is_worker(config):
        from ._html import HtmlReport

        page = HtmlReport(config, settings.report, settings.kernel)
        config.pluginmanager.register(page, "kgdb-report")
    if settings.gitlab is not None and not is_worker(config):
        from ._gitlab import GitlabReport

        config.pluginmanager.register(GitlabReport(config, settings.gitlab), "kgdb-gitlab")
    if not is_worker(config):
        from ._github import GithubAnnotations

        GithubAnnotations.register(config)
        if getattr(config.option, "xmlpath", None):
            from ._junit import JunitSections

            config.pluginmanager.register(JunitSections(config), "kgdb-junit")
    if settings.require:
        Requirement.register(config)
    if settings.cov:
        from ._coverage import CoverageReport

        CoverageReport.register(config, settings)


def header(config: pytest.Config) -> list[str]:
    """Return the lines of pytest's header about the kernels."""
    settings = settings_of(config)
    if not settings.kernel or config.getoption("collectonly"):
        return []
    matrix = matrix_of(config)
    values = {axis.option: ", ".join(map(str, axis.values)) for axis in matrix.axes}
    kernels = values.get("kernel", settings.kernel[0])
    parts = [f"kernel {' + '.join([kernels, *(path.name for path in settings.patch)])}"]
    if not all(map(is_shipped, settings.kernel)):
        parts.append(f"config {values.get('config', settings.config)}")
    if "smp" in values:
        parts.append(f"CPUs {values['smp']}")
    if settings.disk != "none":
        parts.append(f"disk {settings.disk}")
    if settings.target is not None:
        parts.append(f"board {settings.target}")
    parts.append(f"isolation {settings.isolation}")
    return [f"kgdb: {'; '.join(parts)}", *(f"kgdb: {note}" for note in matrix.repeated)]
