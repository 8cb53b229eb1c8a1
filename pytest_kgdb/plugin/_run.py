"""A run with kernel tests: its machines, from the first test that wants one to the end."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, Final, NoReturn, cast

import pytest

from ..errors import BootError, BuildError, ConfigError, KgdbError, StubError
from ._artifacts import KERNEL_OF, SOURCE, Artifacts, KernelSession
from ._collect import (
    REQUEST,
    boots_line,
    group,
    has_machine,
    is_kernel_test,
    kernel_of,
    machine_of,
    read_markers,
    request_of,
    uses_kernel,
)
from ._configure import matrix_of, settings_of
from ._coverage import CoverageReport
from ._durations import shared_work
from ._failures import FAILED, OBSERVED, Failures
from ._matrix import CONFIG, KERNEL, SMP, Axis, parameter, sets_smp
from ._names import NO_KERNEL
from ._record import repeated
from ._require import Requirement
from ._selection import check
from ._terminal import TerminalProgress, is_worker

if TYPE_CHECKING:
    from ..disk import Disk
    from ..handle import Kgdb
    from ..initrd import Initrd
    from ..kernel import Kernel
    from ..settings import MachineOptions, TestRequest

_STUBS: Final = {"kgdb": "kgdb", "qemu": "QEMU's stub"}

_MAX_BOOT_FAILURES: Final = 2
"""A machine that booted before and fails twice in a row is not tried again."""


class Run:
    """Everything that kernel tests share; a pytest plugin, registered when the first is met."""

    _STASH: Final = pytest.StashKey["Run"]()

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.settings = settings_of(config)
        self.progress = TerminalProgress(config)
        source = config.stash.get(SOURCE, functools.partial(Artifacts, config=config))
        self.artifacts = source(self.settings, self.progress)
        self.live: KernelSession | None = None
        """The one kernel whose machines are up."""

        self._test = ""  # the test that runs, or has run last
        self._kernel: Kernel | None = None  # that one
        self._parameter: object = None  # of the fixtures, for that one
        self._configuration = ""  # its name, where there are several
        # Of the machine that is up, if it is as `kgdb_session` left it.
        self._shared: MachineOptions | None = None
        self._moved = False  # whether the grouping changed the order of tests
        self._described = is_worker(config)  # one line for each worker would be noise
        # Of each machine: how often in a row it failed to come up, or None if it never will.
        self._boots: dict[object, int | None] = {}
        self._causes: dict[object, KgdbError] = {}

    @classmethod
    def of(cls, config: pytest.Config) -> Run:
        """Return the run of this configuration, made and registered by the first call."""
        run = config.stash.get(cls._STASH, None)
        if run is None:
            run = config.stash[cls._STASH] = cls(config)
            config.pluginmanager.register(run, "kgdb-run")
            config.pluginmanager.register(Failures(run), "kgdb-failures")
            if run.settings.prove:
                from ._prove import Inversion

                config.pluginmanager.register(Inversion(), "kgdb-inversion")
        return run

    # -- before the tests ------------------------------------------------------------------------

    def collected(self, items: list[pytest.Item]) -> None:
        """Check the markers of the kernel tests, and group the tests by machine."""
        read_markers(items, self.settings)
        if same := matrix_of(self.config).overridden(items):
            items[:] = [item for item in items if item not in same]
            self.config.hook.pytest_deselected(items=same)
        ours = [item for item in items if is_kernel_test(item)]
        if requirement := Requirement.of(self.config):
            requirement.asked = len(ours)
        if self.settings.kernel:  # otherwise nothing will boot
            # Of several machines of one kernel, one comes after another.
            self._moved = group(items, ours, kernel_of)
            ours = [item for item in items if is_kernel_test(item)]
            self._moved |= group(items, ours, machine_of)

    def pytest_report_collectionfinish(self, items: list[pytest.Item]) -> list[str]:
        """Say what the tests' machines cost, in the order that they will really have."""
        if not self.settings.kernel or self.config.getoption("collectonly"):
            return []
        # Others (--failed-first) may have moved tests, and taken some out, since they were grouped.
        ours = [item for item in items if is_kernel_test(item)]
        line = boots_line(ours, moved=self._moved)
        return [*([line] if line else []), *matrix_of(self.config).notes(ours)]

    # -- fixtures --------------------------------------------------------------------------------

    def kernel(self, request: pytest.FixtureRequest, config: str | None) -> Kernel:
        """Return the kernel for the fixture `kgdb_kernel`.

        :param config: the base of its configuration, if that is a parameter.
        """
        spec = getattr(request, "param", None)
        if spec is None and not self.settings.kernel:
            self._skip(NO_KERNEL)
        axes = {axis.fixture: axis for axis in matrix_of(self.config).axes}
        for fixture, value in ((KERNEL, spec), (CONFIG, config)):
            if value is None and (axis := axes.get(fixture)) is not None:
                raise self._by_name(axis)
        self._parameter = (spec, config)
        self._configuration = self._name_of(config)
        if spec is None or isinstance(spec, str):
            return self.artifacts.kernel(spec or self.settings.kernel[0], config)
        # The kernel without or with a fix; only --kgdb-prove makes such a parameter.
        return self.artifacts.kernel(spec.spec, config, spec.settings(self.settings))

    def _name_of(self, config: str | None) -> str:
        axes = (axis for axis in matrix_of(self.config).axes if axis.fixture == CONFIG)
        return "" if config is None else next((axis.id_of(config) for axis in axes), config)

    def _by_name(self, axis: Axis) -> ConfigError:
        what = {KERNEL: "kernels", CONFIG: "configurations", SMP: "numbers of CPUs"}[axis.fixture]
        return ConfigError(
            "the fixture was asked for by getfixturevalue(), and there are several "
            f"{what}: {', '.join(map(str, axis.values))}",
            hint="name it as an argument of the test, or in usefixtures()",
        )

    def select(self, item: pytest.Item, kernel: Kernel) -> None:
        """Skip a test that is not for this kernel."""
        one = matrix_of(self.config).kernels == 1
        check(item, kernel, one=one, require=self.settings.require)

    def machines(
        self, kernel: Kernel, initrd: Initrd | None, disk: Disk | None
    ) -> Iterator[KernelSession]:
        """Open a kernel's session for as long as its tests run."""
        self.live = self.artifacts.session(kernel, initrd, disk)
        self._kernel = kernel
        self._boots.clear()
        self._shared = None
        try:
            yield self.live
        finally:
            self._close()

    def shared(self, session: KernelSession, smp: int | None) -> Kgdb:
        """Return the handle for the fixture `kgdb_session`, on the machine of the options.

        What its tests did is there, until a test with the fixture `kgdb` came between.

        :param smp: its number of CPUs, if that is a parameter.
        """
        axes = {axis.fixture: axis for axis in matrix_of(self.config).axes}
        if smp is None and SMP in axes:
            raise self._by_name(axes[SMP])
        test_request = self.settings.for_marker({} if smp is None else {"smp": smp}, "kgdb_session")
        if self._shared == test_request.machine:
            return self._come_up(session, test_request, lambda: session.handle)
        handle = self._come_up(session, test_request, lambda: session.acquire(test_request))
        self._shared = test_request.machine
        return handle

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Replace the shared machine before a test that uses it, if the last test has ended it."""
        names = getattr(item, "fixturenames", ())
        self._test, _ = repeated(item)
        if "kgdb_session" not in names or "kgdb" in names:
            return
        # The session of another kernel is closed, and its own opened, by the fixtures.
        if self.live is not None and kernel_of(item) == self._parameter:
            assert self._kernel is not None
            self.select(item, self._kernel)
            self.shared(self.live, parameter(item, SMP))
            self.live.begin_test()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        """Fail a test whose body went well, and whose kernel did not."""
        if self._kernel is not None:
            item.stash[KERNEL_OF] = self._kernel
        try:
            result = yield
        except StubError as error:
            self._skip_for_stub(error)
            raise
        self._run_kunit(item)
        if self.live is not None and has_machine(item):
            self._observe(item)
            self.live.check_splats()
        return result

    def _observe(self, item: pytest.Item) -> None:
        """Note what the test's spies have seen, if that is asked for."""
        handle = getattr(item, "funcargs", {}).get("kgdb")
        if self.settings.observe and handle is not None:
            from ._observe import observations

            item.stash[OBSERVED] = observations(handle)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_teardown(self) -> Generator[None, object, object]:
        """Take note of what ran of the kernel for a test, its fixtures' ends included."""
        result = yield
        if self.settings.cov and self.live is not None:
            self.live.end_test(self._test)
        return result

    def _skip_for_stub(self, error: StubError) -> None:
        """Skip a test that asks for what the stub cannot do that the kernel has left to it."""
        if self.settings.stub == "auto" and self.live is not None:
            pytest.skip(f"{_STUBS[self.live.stub]} cannot do it: {error.message}")

    def _run_kunit(self, item: pytest.Item) -> None:
        """Run the suites that a test's marker `kunit` names, each case a subtest."""
        marks = list(item.iter_markers("kunit"))
        if not marks or not isinstance(item, pytest.Function):
            return
        handle = cast("Kgdb | None", item.funcargs.get("kgdb", item.funcargs.get("kgdb_session")))
        if handle is None:
            raise ConfigError(
                f"{item.nodeid}: marker kunit(…): the test asks for no kernel",
                hint="ask for the fixture kgdb",
            )
        subtests = item._request.getfixturevalue("subtests")
        for mark in marks:
            for suite in mark.args:
                handle.kunit(suite, **mark.kwargs).report(subtests)

    def pytest_assertrepr_compare(self, op: str, left: object, right: object) -> list[str] | None:
        """Explain a failed comparison with a kernel's value."""
        from ._compare import compare

        return compare(op, left, right)

    def pristine(self, request: pytest.FixtureRequest, session: KernelSession) -> Iterator[Kgdb]:
        """Lend a test the handle for the fixture `kgdb`."""
        item = request.node
        test_request = item.stash.get(REQUEST, None)
        if test_request is None:  # asked for by getfixturevalue(): not seen at collection
            test_request = request_of(item, self.settings)
            self._check_smp(item)
        if lacking := session.lacks(test_request):
            self._skip(lacking)
        if test_request.stub not in ("auto", session.stub):
            pytest.skip(
                f"the test needs {_STUBS[test_request.stub]} (marker kgdb(stub="
                f"'{test_request.stub}')), and gdb is attached to {_STUBS[session.stub]}"
            )
        self._shared = None
        handle = self._come_up(session, test_request, lambda: session.acquire(test_request))
        try:
            yield handle
            if not item.stash.get(FAILED, False):
                session.check_splats()  # of the fixtures that were torn down before this one
        finally:
            session.release()

    def _come_up(
        self, session: KernelSession, test_request: TestRequest, boot: Callable[[], Kgdb]
    ) -> Kgdb:
        """Return what `boot` returns; after failures that will come again, fail at once."""
        # A test that leaves the machine more time than others may have it.
        limit = max(test_request.timeout, self.settings.timeout)
        key = (test_request.machine, test_request.at, limit)
        if self._boots.get(key, 0) is None:
            raise self._causes[key].with_traceback(None)  # each raise adds to it
        first = key not in self._boots
        try:
            with shared_work(self.config) if first else contextlib.nullcontext():
                handle = boot()
        except (BootError, BuildError, ConfigError) as error:
            # Tried again, it would fail again, and each try is a wait to its deadline.
            failures = (self._boots[key] or 0) + 1 if key in self._boots else None
            self._boots[key] = (
                None if failures is None or failures >= _MAX_BOOT_FAILURES else failures
            )
            self._causes[key] = error
            raise
        self._boots[key] = 0
        self._describe(session)
        return handle

    def _describe(self, session: KernelSession) -> None:
        if not self._described:
            self._described = True
            for line in session.describe():
                self.progress.say(line)
            if self.settings.print_commands:
                self.progress.print(session.commands())

    def _check_smp(self, item: pytest.Item) -> None:
        """Refuse a test of which nobody has said how many CPUs it has."""
        for axis in matrix_of(self.config).axes:
            if axis.fixture == SMP and not sets_smp(item.iter_markers("kgdb")):
                raise self._by_name(axis)

    def _skip(self, reason: str) -> NoReturn:
        if self.settings.require:
            pytest.fail(f"{reason} (--kgdb-require)", pytrace=False)
        pytest.skip(reason)

    # -- the end ---------------------------------------------------------------------------------

    def pytest_exception_interact(
        self, node: pytest.Item | pytest.Collector, report: pytest.TestReport
    ) -> None:
        """Give the user gdb on the kernel that a test failed on."""
        if (
            self.live is None
            or not self.settings.attach
            or is_worker(self.config)  # it has no terminal
            or not isinstance(node, pytest.Item)
            or not uses_kernel(node)
        ):
            return
        reporter = self.config.pluginmanager.get_plugin("terminalreporter")
        manager = self.config.pluginmanager.get_plugin("capturemanager")
        if manager is not None:
            manager.suspend(in_=True)  # as pytest's own --pdb does: gdb reads the terminal
        try:
            if reporter is not None:
                reporter.ensure_newline()
                reporter.section(f"{node.nodeid} failed: gdb on its kernel", sep=">")
                report.toterminal(self.config.get_terminal_writer())
            if self.live.attach(tests=True):
                node.session.shouldstop = "ended at gdb's prompt (Ctrl-\\)"
        except KgdbError as error:
            # The test's own failure is reported below; a missing terminal is not one.
            self.progress.say(f"--kgdb-attach: {error}")
        finally:
            if manager is not None:
                manager.resume()

    def pytest_unconfigure(self) -> None:
        """Leave no machine behind, however the run ended."""
        self._close()

    def _close(self) -> None:
        session, self.live, self._kernel = self.live, None, None
        if session is None:
            return
        if self.settings.cov and session.coverage is not None:
            session.end_test(self._test)
            if report := CoverageReport.of(self.config):
                report.add(session.coverage.result(), self._configuration)
        session.close()
