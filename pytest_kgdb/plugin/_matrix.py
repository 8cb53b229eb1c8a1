"""The parameters that several kernels, configurations or numbers of CPUs make of a test."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, Final, NamedTuple

import pytest

from ..arch import X86_64
from ..errors import ConfigError
from ..settings import Settings

__all__ = [
    "CONFIG",
    "KERNEL",
    "SMP",
    "Axis",
    "Cell",
    "Matrix",
    "chooses",
    "kernel_ids",
    "parameter",
    "sets_smp",
    "test_id",
]

# The fixtures that the parameters are of.
KERNEL: Final = "kgdb_kernel"
CONFIG: Final = "_kgdb_config"
SMP: Final = "_kgdb_smp"

_TARBALL: Final = re.compile(r"\.(tar(\.\w+)?|tgz|txz|tbz2?)$")


class Cell(NamedTuple):
    """Where in the matrix a test is: of each axis the id of its value, or None."""

    test: str
    """Its node id, without those of the parameters."""

    ids: tuple[str | None, ...]


@dataclass(frozen=True)
class Axis:
    """An option with several values, each a parameter."""

    option: str
    fixture: str
    values: tuple[Any, ...]
    ids: tuple[str, ...]
    repeated: tuple[str, ...]
    """Values that were given more than once."""

    def id_of(self, value: object) -> str:
        """Return the id of a value; of one that a test has chosen for itself, its text."""
        return self.ids[self.values.index(value)] if value in self.values else str(value)


class Matrix:
    """The axes of a run; those with one value are not among them."""

    def __init__(self, settings: Settings) -> None:
        kernels, same = _distinct(settings.kernel)
        axes = [
            Axis("kernel", KERNEL, kernels, tuple(kernel_ids(kernels)), same),
            _axis("config", CONFIG, settings.configs, kernel_ids),
            _axis("smp", SMP, settings.smps, lambda numbers: [f"smp{n}" for n in numbers]),
        ]
        self.repeated = [
            f"--kgdb-{axis.option}: {value} is given twice; its tests run once"
            for axis in axes
            for value in axis.repeated
        ]
        self.axes = tuple(axis for axis in axes if len(axis.values) > 1)

    @property
    def columns(self) -> list[tuple[str, ...]]:
        """The ids of all combinations, in the order in which they run."""
        return list(itertools.product(*(axis.ids for axis in self.axes)))

    @property
    def kernels(self) -> int:
        """On how many kernels the tests run, of several configurations each."""
        number = 1
        for axis in self.axes:
            number *= 1 if axis.fixture == SMP else len(axis.values)
        return number

    def parametrize(self, metafunc: pytest.Metafunc, *, chosen: Collection[str] = ()) -> None:
        """Make each combination a parameter of a test.

        :param chosen: the fixtures of which it has parameters already.
        """
        for axis in self.axes:
            if axis.fixture in metafunc.fixturenames and not (
                axis.fixture in chosen or chooses(metafunc, axis.fixture)
            ):
                metafunc.parametrize(
                    axis.fixture, axis.values, ids=axis.ids, indirect=True, scope="session"
                )

    def cell(self, item: pytest.Item) -> Cell | None:
        """Return where a test is; None for one that is not in the matrix."""
        ids: list[str | None] = []
        for axis in self.axes:
            value = parameter(item, axis.fixture)
            if value is None:
                ids.append(None)
            elif value in axis.values:
                ids.append(axis.ids[axis.values.index(value)])
            else:
                return None  # the test has chosen its kernel for itself
        if not any(ids):
            return None
        return Cell(_without(test_id(item), "-".join(filter(None, ids))), tuple(ids))

    def test_of(self, item: pytest.Item) -> str:
        """Return a test's id without its parameters here: the same in runs with other axes."""
        cell = self.cell(item)
        return test_id(item) if cell is None else cell.test

    def cell_of_id(self, nodeid: str) -> Cell | None:
        """Return the same of a node id of which there is no more, as precisely as it says."""
        for column in sorted(self.columns, key=lambda ids: -sum(map(len, ids))):
            test = _without(nodeid, "-".join(column))
            if test != nodeid:
                return Cell(test.partition("@")[0], column)
        return None

    def kernel_of(self, ids: Sequence[str | None]) -> str:
        """Return the part of a cell's ids that names its kernel."""
        named = [one for one, axis in zip(ids, self.axes, strict=True) if axis.fixture != SMP]
        return " ".join(filter(None, named))

    def overridden(self, items: Iterable[pytest.Item]) -> list[pytest.Item]:
        """Return the tests of which the marker of a parameter has them be the same as others.

        `pytest.param(…, marks=kgdb(smp=4))` is met behind the parameters: such a test would run
        with four CPUs for each `--kgdb-smp`.
        """
        axis = next((axis for axis in self.axes if axis.fixture == SMP), None)
        if axis is None:
            return []
        return [
            item
            for item in items
            if parameter(item, SMP) in axis.values[1:] and sets_smp(item.iter_markers("kgdb"))
        ]

    def notes(self, tests: Sequence[pytest.Item]) -> list[str]:
        """Return what is to be said of tests to which an axis does not apply."""
        if not any(axis.fixture == SMP for axis in self.axes):
            return []
        number = len({test_id(item) for item in tests if sets_smp(item.iter_markers("kgdb"))})
        if not number:
            return []
        which = "1 test sets its" if number == 1 else f"{number} tests set their"
        return [f"kgdb: {which} own number of CPUs (marker kgdb): --kgdb-smp does not apply there"]


def parameter(item: pytest.Item, fixture: str) -> Any:
    """Return the parameter of a fixture that a test has; None where it has none."""
    callspec = getattr(item, "callspec", None)
    return callspec.params.get(fixture) if callspec is not None else None


def sets_smp(marks: Iterable[pytest.Mark]) -> bool:
    """Whether one of these markers says how many CPUs a test has."""
    return any("smp" in mark.kwargs for mark in marks)


def kernel_ids(specs: Sequence[str]) -> list[str]:
    """Return a short name for each SPEC: as much of a path's end as tells them apart."""
    split = [_parts(spec) for spec in specs]
    ids = []
    for parts, tail in split:
        others = [other for other in split if other != (parts, tail)]
        length = 1
        while length < len(parts) and any(
            (other[-length:], other_tail) == (parts[-length:], tail) for other, other_tail in others
        ):
            length += 1
        ids.append("/".join(parts[-length:]) + tail)
    # A tarball beside the tree that it was unpacked to.
    return [one if ids.count(one) == 1 else spec for one, spec in zip(ids, specs, strict=True)]


def chooses(metafunc: pytest.Metafunc, fixture: str) -> bool:
    """Whether a test chooses an axis's value for itself."""
    if fixture == SMP:
        return sets_smp(metafunc.definition.iter_markers("kgdb"))
    for mark in metafunc.definition.iter_markers("parametrize"):
        names = mark.args[0] if mark.args else mark.kwargs.get("argnames", ())
        if fixture in (re.split(r"[,\s]+", names) if isinstance(names, str) else names):
            return True
    return False


def _axis(option: str, fixture: str, values: Sequence[Any], ids: Any) -> Axis:
    distinct, repeated = _distinct(values)
    return Axis(option, fixture, distinct, tuple(ids(distinct)), repeated)


def _distinct(values: Sequence[Any]) -> tuple[tuple[Any, ...], tuple[str, ...]]:
    """Return the values without those that are another's, and these."""
    if len(values) < 2:
        return tuple(values), ()
    distinct: dict[Hashable, Any] = {}
    repeated = []
    for value in values:
        identity = _identity(value)
        if identity in distinct:
            first = distinct[identity]
            repeated.append(str(value) if value == first else f"{value}, which is {first},")
        distinct.setdefault(identity, value)
    return tuple(distinct.values()), tuple(repeated)


def _identity(value: Hashable) -> Hashable:
    """Return what two spellings of one value have in common."""
    if not isinstance(value, str):
        return value
    if value == "distro" or value.startswith("distro:"):
        from ..kernel import named

        try:
            return named(value, X86_64)
        except ConfigError:
            return value  # what it names is not there, which its tests will say
    return os.path.realpath(value) if value.startswith("/") and Path(value).exists() else value


def _parts(spec: str) -> tuple[tuple[str, ...], str]:
    """Split a SPEC into a path's parts and what stands behind it: `@REV`."""
    if not spec.startswith("/"):
        return (spec,), ""
    tree, at, revision = (spec, "", "") if Path(spec).exists() else spec.partition("@")
    return PurePath(_TARBALL.sub("", tree)).parts[1:] or ("/",), at + revision


def test_id(item: pytest.Item) -> str:
    """Return a test's node id, without the group that pytest-xdist adds (`--dist=loadgroup`)."""
    name = item.name
    before, separator, _ = item.nodeid.rpartition(f"::{name}")
    return f"{before}{separator}" if separator else item.nodeid


def _without(nodeid: str, ids: str) -> str:
    """Return a node id without the ids of parameters, which are neighbours."""
    start = nodeid.find("[")
    for old, new in ((f"[{ids}]", ""), (f"[{ids}-", "["), (f"-{ids}-", "-"), (f"-{ids}]", "]")):
        at = nodeid.find(old, max(start, 0))
        if at >= 0:
            return nodeid[:at] + new + nodeid[at + len(old) :]
    return nodeid
