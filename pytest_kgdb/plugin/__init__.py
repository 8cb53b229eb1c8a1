"""pytest's side: the options, the fixtures, and the hooks that start the rest.

Every pytest run on a host with this plugin imports this module, so it imports the options' names
and nothing else. `_run` is imported, and registered as a plugin of its own, once a test asks for a
fixture of ours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ..settings import add_options, given
from ._names import FIXTURES, NO_KERNEL

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..disk import Disk
    from ..handle import Kgdb
    from ..initrd import Initrd
    from ..kernel import Kernel
    from ._artifacts import KernelSession


def pytest_addoption(parser: pytest.Parser) -> None:
    """Register the options."""
    add_options(parser)
    group = parser.getgroup("kgdb")
    # Not for the configuration file: each job has another.
    group.addoption(
        "--shard",
        metavar="I/N",
        dest="shard",
        help="run one of N parts of the tests, about equally long: 2/4 is the second of four",
    )
    group.addoption(
        "--shard-durations",
        metavar="FILE",
        dest="shard_durations",
        help="how long each test takes, the same file for all shards; without, each has as many "
        "tests",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker; check the options, if there are any."""
    config.addinivalue_line(
        "markers",
        "kgdb(at='ready'|'kgdbwait', smp=N, memory=SIZE, append=WORDS, qemu_arg=ARGS, "
        "isolation=HOW, timeout=SECONDS, stub='kgdb'|'qemu'): the kernel and the machine that the "
        "test's `kgdb` fixture stands for",
    )
    config.addinivalue_line(
        "markers",
        "kgdb_kernel('>=5.15', config=['CONFIG_X', 'CONFIG_Y=m', '!CONFIG_Z']): the kernels that "
        "the test is for; on others it is skipped",
    )
    config.addinivalue_line(
        "markers",
        "kunit(suite, ..., module=None): behind the test's body, run these KUnit suites on its "
        "kernel, each case a subtest",
    )
    config.addinivalue_line(
        "markers",
        "kgdb_fix(FILE | commit=REV | revert=FILE_OR_REV): the fix that the test proves, a path "
        "being relative to the test's file: with --kgdb-prove, it must fail without the fix",
    )
    sharded = any(config.getoption(name) for name in ("shard", "shard_durations"))
    if sharded or given(config):
        from ._configure import check

        check(config, sharded=sharded)


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Name the kernels."""
    if not given(config):
        return []
    from ._configure import header

    return header(config)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make each kernel a parameter, where there are several, and each repetition."""
    if "kgdb_kernel" in metafunc.fixturenames:
        from ._collect import parametrize

        parametrize(metafunc)
    if given(metafunc.config):
        from ._collect import repeat

        repeat(metafunc)


# Last: pytest's own order by scope and a plugin's shuffling come before the grouping by machine.
@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Choose those of a shard, check the markers of kernel tests, and group these by machine."""
    if config.getoption("shard"):
        from ._shard import Sharding

        Sharding.of(config).choose(items)
    # Doctest items of old versions and items of other plugins have no `fixturenames`.
    if any(
        not FIXTURES.isdisjoint(getattr(item, "fixturenames", ()))
        or any(mark.name == "kgdb_kernel" for mark in item.own_markers)
        for item in items
    ):
        from ._run import Run

        Run.of(config).collected(items)


def pytest_report_teststatus(
    report: pytest.CollectReport | pytest.TestReport,
) -> tuple[str, str, str] | None:
    """Show a test that lost its machine as an error: it says nothing about the kernel."""
    # Here and not in `_failures`: pytest-xdist asks it of the controller, which runs no tests.
    return ("error", "E", "ERROR") if getattr(report, "kgdb_lost", False) else None


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say once why kernel tests were skipped, unless `-rs` says it."""
    skipped = sum(
        isinstance(report.longrepr, tuple) and NO_KERNEL in report.longrepr[2]
        for report in terminalreporter.stats.get("skipped", ())
    )
    if skipped and not terminalreporter.hasopt("s"):
        tests = "1 test" if skipped == 1 else f"{skipped} tests"
        terminalreporter.write_line(f"kgdb: {tests} skipped: {NO_KERNEL}")


@pytest.fixture
def _kgdb_repeat(request: pytest.FixtureRequest) -> int:
    """Which repetition of a test it is."""
    return int(request.param)


@pytest.fixture(scope="session")
def _kgdb_config(request: pytest.FixtureRequest) -> str | None:
    """The base of the kernel's configuration; None where there is one for all tests."""
    return getattr(request, "param", None)


@pytest.fixture(scope="session")
def _kgdb_smp(request: pytest.FixtureRequest) -> int | None:
    """How many CPUs the machine has; None where there is one number for all tests."""
    return getattr(request, "param", None)


@pytest.fixture(scope="session")
def kgdb_kernel(request: pytest.FixtureRequest, _kgdb_config: str | None) -> Kernel:
    """The kernel under test, built if need be: release, version, vmlinux, image, config, …"""
    from ._run import Run

    return Run.of(request.config).kernel(request, _kgdb_config)


@pytest.fixture
def _kgdb_selected(request: pytest.FixtureRequest, kgdb_kernel: Kernel) -> None:
    """Skip a test whose marker says that it is not for this kernel."""
    from ._run import Run

    Run.of(request.config).select(request.node, kgdb_kernel)


@pytest.fixture(scope="session")
def kgdb_disk(request: pytest.FixtureRequest, kgdb_kernel: Kernel) -> Disk | None:
    """The disk image under the machines' overlays; None where `--kgdb-disk` names none."""
    from ._run import Run

    return Run.of(request.config).artifacts.disk(kgdb_kernel)


@pytest.fixture(scope="session")
def kgdb_initrd(request: pytest.FixtureRequest, kgdb_kernel: Kernel) -> Initrd | None:
    """The initrd that the machines boot with; None for a board, which has its own."""
    from ._run import Run

    return Run.of(request.config).artifacts.initrd(kgdb_kernel)


@pytest.fixture(scope="session")
def _kgdb_machines(
    request: pytest.FixtureRequest,
    kgdb_kernel: Kernel,
    kgdb_initrd: Initrd | None,
    kgdb_disk: Disk | None,
) -> Iterator[KernelSession]:
    """One kernel's session, with no machine booted yet: the first test says which it wants."""
    from ._run import Run

    yield from Run.of(request.config).machines(kgdb_kernel, kgdb_initrd, kgdb_disk)


@pytest.fixture(scope="session")
def kgdb_session(
    request: pytest.FixtureRequest, _kgdb_machines: KernelSession, _kgdb_smp: int | None
) -> Kgdb:
    """The booted machine and its gdb handle, shared: what one test does, the next one finds."""
    from ._run import Run

    return Run.of(request.config).shared(_kgdb_machines, _kgdb_smp)


@pytest.fixture
def kgdb(
    request: pytest.FixtureRequest, _kgdb_machines: KernelSession, _kgdb_smp: int | None
) -> Iterator[Kgdb]:
    """A gdb handle on a pristine live kernel, stopped where the marker `kgdb` says."""
    from ._run import Run

    yield from Run.of(request.config).pristine(request, _kgdb_machines)
