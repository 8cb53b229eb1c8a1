"""What is done with kernel tests before any runs: parameters, markers, order."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Sequence
from typing import Final

import pytest

from ..errors import ConfigError
from ..settings import Settings, TestRequest
from ._configure import matrix_of, settings_of
from ._matrix import CONFIG, KERNEL, SMP, chooses, kernel_ids, parameter
from ._names import FIXTURES, MACHINES
from ._record import REPEAT, repeats
from ._selection import note

REQUEST: Final = pytest.StashKey[TestRequest]()
"""What a test's marker asks for, on the test."""


def parametrize(metafunc: pytest.Metafunc) -> None:
    """Make parameters of the kernels without and with a test's fix, and of the run's matrix."""
    settings, matrix = settings_of(metafunc.config), matrix_of(metafunc.config)
    chosen = set()
    if settings.prove and not chooses(metafunc, KERNEL):
        from ._prove import parametrize_fix

        specs = list(dict.fromkeys(settings.kernel))
        if parametrize_fix(metafunc, settings, kernel_ids(specs)):
            chosen.add(KERNEL)
    matrix.parametrize(metafunc, chosen=chosen)


def repeat(metafunc: pytest.Metafunc) -> None:
    """Make each kernel test as many as `--kgdb-repeat` says."""
    number = settings_of(metafunc.config).repeat
    if number > 1 and not FIXTURES.isdisjoint(metafunc.fixturenames):
        metafunc.fixturenames.append(REPEAT)
        metafunc.parametrize(REPEAT, range(number), indirect=True, ids=repeats(number))


def is_kernel_test(item: pytest.Item) -> bool:
    """Whether a test names a fixture of ours, or one that has one: what is known before it runs."""
    return not FIXTURES.isdisjoint(getattr(item, "fixturenames", ()))


def fixtures_of(item: pytest.Item) -> Collection[str]:
    """Return the names of a test's fixtures, with those that it has got by `getfixturevalue()`."""
    request = getattr(item, "_request", None)  # while the test runs
    return getattr(request or item, "fixturenames", ())


def uses_kernel(item: pytest.Item) -> bool:
    """Whether a test that runs, or has run, has a fixture of ours, however it has got it."""
    return not FIXTURES.isdisjoint(fixtures_of(item))


def has_machine(item: pytest.Item) -> bool:
    """Whether such a test has a running kernel, and not only what one is made of."""
    return not MACHINES.isdisjoint(fixtures_of(item))


def shares_machine(item: pytest.Item) -> bool:
    """Whether a test goes on with what others left: its machine is not restored for it."""
    if "kgdb" not in fixtures_of(item):
        return "kgdb_session" in fixtures_of(item)
    request = item.stash.get(REQUEST, None)
    return request is not None and request.isolation == "none"


def kernel_of(item: pytest.Item) -> tuple[object, object]:
    """Return the kernel and the configuration that are a test's parameters; None for what is not.

    Where there is one for all, it is no parameter.
    """
    return parameter(item, KERNEL), parameter(item, CONFIG)


def request_of(item: pytest.Item, settings: Settings) -> TestRequest:
    """Return what a test asks for: the settings, its class's and module's markers, its own.

    A marker's value overrides that of a parameter.

    :raises ConfigError: a marker's argument is unknown or its value cannot be.
    """
    merged: dict[str, object] = {}
    if (smp := parameter(item, SMP)) is not None:
        merged["smp"] = smp
    # The closest is the first.
    for mark in reversed(list(item.iter_markers("kgdb"))):
        if mark.args:
            raise ConfigError(
                f"{item.nodeid}: marker kgdb({mark.args[0]!r}): it takes keyword arguments only",
                hint="write kgdb(at='kgdbwait'), kgdb(smp=2), …",
            )
        merged.update(mark.kwargs)
    return settings.for_marker(merged, item.nodeid)


def read_markers(items: list[pytest.Item], settings: Settings) -> None:
    """Note on every kernel test what its marker asks for.

    A test whose marker is wrong is taken out of the list and reported as a collection error: that
    is how it is told of by pytest-xdist's workers too, whose usage errors nobody sees.
    """
    wrong: set[int] = set()
    for item in items:
        try:
            note(item)
            if is_kernel_test(item):
                item.stash[REQUEST] = request_of(item, settings)
                _check_use(item)
        except ConfigError as error:
            wrong.add(id(item))
            report = pytest.CollectReport(item.nodeid, "failed", str(error), [])
            item.ihook.pytest_collectreport(report=report)
    if wrong:
        items[:] = [item for item in items if id(item) not in wrong]


def _check_use(item: pytest.Item) -> None:
    names = getattr(item, "fixturenames", ())
    own = any(mark.name == "kgdb" for mark in item.own_markers)
    if own and "kgdb_session" in names and "kgdb" not in names:
        raise ConfigError(
            f"{item.nodeid}: marker kgdb(…): it is for the fixture kgdb, and the test asks for "
            "kgdb_session, whose machine is the one of the options",
            hint="use the fixture kgdb, or take the marker away",
        )


def group(
    items: list[pytest.Item],
    chosen: Sequence[pytest.Item],
    key: Callable[[pytest.Item], Hashable],
) -> bool:
    """Bring together those of the chosen tests that have the same key; return whether any moved.

    The groups come in the order of their first tests, and a group's tests keep theirs. The other
    tests stay where they are.
    """
    groups: dict[Hashable, list[pytest.Item]] = {}
    for item in chosen:
        groups.setdefault(key(item), []).append(item)
    ordered = [item for members in groups.values() for item in members]
    if ordered == list(chosen):
        return False
    places = {id(item) for item in chosen}
    following = iter(ordered)
    items[:] = [next(following) if id(item) in places else item for item in items]
    return True


def machine_of(item: pytest.Item) -> Hashable:
    """Return what tests have in common that can share a machine."""
    request = item.stash[REQUEST]
    return (kernel_of(item), request.machine, _early(item, request))


def _early(item: pytest.Item, request: TestRequest) -> bool:
    """Whether a test has a machine of its own because it begins before modules can be put in."""
    return request.at == "kgdbwait" and bool(settings_of(item.config).module)


def boots_line(items: Sequence[pytest.Item], *, moved: bool) -> str | None:
    """Return the line that says what the tests' machines and isolation cost; None for one boot.

    :param items: the kernel tests in the order in which they will run.
    :param moved: whether they were reordered.
    """
    machines: dict[Hashable, str] = {}
    boots = reboots = 0
    last: Hashable = None
    for item in items:
        request, machine = item.stash[REQUEST], machine_of(item)
        machines.setdefault(machine, _machine(item, request))
        reboots += request.isolation == "reboot"
        boots += machine != last
        last = machine
    parts = []
    if len(machines) > 1:
        if boots > len(machines):
            how = f": their order costs {boots} boots"
        else:
            how = f", {'reordered so that ' if moved else ''}each boots once"
        parts.append(
            f"{len(items)} tests on {len(machines)} machines ({'; '.join(machines.values())}){how}"
        )
    if reboots:
        parts.append(f"{reboots} tests boot one of their own (isolation=reboot)")
    return f"kgdb: {'; '.join(parts)}" if parts else None


def _machine(item: pytest.Item, request: TestRequest) -> str:
    parts = [f"{request.smp} CPU{'s' if request.smp > 1 else ''}", f"{request.memory}M"]
    parts[:0] = [kernel_ids([str(one)])[0] for one in kernel_of(item) if one is not None]
    if request.append:
        parts.append(request.append)
    parts += request.qemu_arg
    if _early(item, request):
        parts.append("at kgdbwait")
    return " ".join(parts)
