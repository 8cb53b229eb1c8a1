"""`--shard I/N`: one of N parts of the tests, about equally long, each test in exactly one."""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

from ..errors import ConfigError
from ._durations import ids_of, load
from ._matrix import Matrix, test_id
from ._terminal import is_worker

__all__ = ["Shard", "Sharding", "assign", "costs_of", "parse"]

_SHARD: Final = re.compile(r"(\d+)/(\d+)")
_KEY: Final = "kgdb_shard"  # in the output of an xdist worker

# What this job's cache says chooses from the tests; in the other jobs' it says something else.
_OF_ONE_JOB: Final = {"lf": "--last-failed", "stepwise": "--stepwise"}


class Shard(NamedTuple):
    """Which part of how many."""

    part: int
    """From 1 on."""

    parts: int

    def __str__(self) -> str:
        return f"{self.part}/{self.parts}"


def parse(text: str) -> Shard:
    """Return the shard that `2/4` means.

    :raises ValueError: it means none.
    """
    match = _SHARD.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not I/N: write 2/4 for the second of four parts")
    shard = Shard(int(match[1]), int(match[2]))
    if not 1 <= shard.part <= shard.parts:
        raise ValueError(f"{text!r}: there is no part {shard.part} of {shard.parts}")
    return shard


def costs_of(
    tests: Sequence[Sequence[str]], durations: Mapping[str, float]
) -> tuple[list[float], int, float]:
    """Return what each test costs, of how many there is no duration, and what one of these costs.

    That is the median of the others. Without any durations, each costs as much as another.

    :param tests: of each test the ids that it may be known by, the more precise ones first.
    """
    costs = [next((durations[one] for one in ids if one in durations), None) for ids in tests]
    measured = [cost for cost in costs if cost is not None]
    median = statistics.median(measured) if measured else 1.0
    unknown = len(costs) - len(measured)
    return [median if cost is None else cost for cost in costs], unknown, median


def assign(costs: Mapping[str, float], count: int) -> dict[str, int]:
    """Return the shard of each unit: the longest first, each to the shortest shard so far.

    Graham's LPT rule: no shard is longer than 4/3 of what the best split has (R. L. Graham, Bounds
    on Multiprocessing Timing Anomalies, 1969). Ties are broken by name and by number, so that the
    order of the units is no matter.
    """
    loads = [0.0] * count
    numbers = [0] * count
    shards = {}
    for unit in sorted(costs, key=lambda unit: (-costs[unit], unit)):
        # Tests that take no time are shared out, too.
        index = min(range(count), key=lambda index: (loads[index], numbers[index], index))
        loads[index] += costs[unit]
        numbers[index] += 1
        shards[unit] = index + 1
    return shards


class Sharding:
    """Chooses the tests of one shard; a pytest plugin.

    :param matrix: the parameters that the options make.
    :param measured: where the cache has the durations of these tests.
    :raises ConfigError: the options cannot be, or not together.
    """

    def __init__(self, config: pytest.Config, matrix: Matrix, measured: Path) -> None:
        self._config = config
        self._matrix = matrix
        self._line = ""
        self._all = self._chosen = 0
        text, file = config.getoption("shard"), config.getoption("shard_durations")
        if text is None:
            raise ConfigError(
                "--shard-durations: without --shard=I/N, nothing is shared out",
                hint=f"what was measured on this host is in {measured}",
            )
        try:
            self._shard = parse(text)
        except ValueError as error:
            raise ConfigError(f"--shard: {error}") from None
        for option, name in _OF_ONE_JOB.items():
            if config.getoption(option, default=None):
                raise ConfigError(
                    f"--shard with {name}: the other jobs' caches choose other tests, and some "
                    "would be in no shard",
                    hint="name the tests, or leave --shard out",
                )
        self._durations: dict[str, float] | None = None
        if file is not None:
            path = config.invocation_params.dir / Path(file).expanduser()
            if not path.exists():
                hint = "leave it out for an even split"
                if measured.exists():
                    hint = f"cp {measured} {path}; or {hint}"
                raise ConfigError(f"--shard-durations: there is no {path}", hint=hint)
            self._durations = load(path)

    @classmethod
    def register(cls, config: pytest.Config, matrix: Matrix, measured: Path) -> None:
        """Choose the tests of this run.

        :raises ConfigError: the options cannot be, or not together.
        """
        config.stash[_STASH] = sharding = cls(config, matrix, measured)
        config.pluginmanager.register(sharding, "kgdb-shard")

    @classmethod
    def of(cls, config: pytest.Config) -> Sharding:
        """Return what chooses the tests of this run."""
        return config.stash[_STASH]

    def choose(self, items: list[pytest.Item]) -> None:
        """Leave only the tests of this shard in the list."""
        tests = [test_id(item) for item in items]
        ids = [ids_of(item, self._matrix) for item in items]
        costs, unknown, median = costs_of(ids, self._durations or {})
        # Tests of one group stay together.
        units = [_group(item) or test for item, test in zip(items, tests, strict=True)]
        sums: dict[str, float] = {}
        for unit, cost in zip(units, costs, strict=True):
            sums[unit] = sums.get(unit, 0.0) + cost
        shards = assign(sums, self._shard.parts)
        chosen = [shards[unit] == self._shard.part for unit in units]
        self._all, self._chosen = len(items), sum(chosen)
        self._line = f"shard {self._shard}: {self._chosen} of {self._all} tests"
        if self._durations is None:
            self._line += ", without durations: as many in each"
        else:
            seconds = sum(cost for cost, mine in zip(costs, chosen, strict=True) if mine)
            self._line += f", about {seconds:.0f} s of {sum(costs):.0f} s"
            if unknown:
                self._line += f" ({unknown} without a duration, {median:.3g} s each)"
        others = [item for item, mine in zip(items, chosen, strict=True) if not mine]
        if others:
            items[:] = [item for item, mine in zip(items, chosen, strict=True) if mine]
            self._config.hook.pytest_deselected(items=others)

    def pytest_report_collectionfinish(self) -> list[str]:
        """Say which part it is."""
        return [] if self._config.getoption("collectonly") else [f"kgdb: {self._line}"]

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Take note of what a worker of pytest-xdist chose: each chooses the same."""
        line, tests, chosen = getattr(node, "workeroutput", {}).get(_KEY, ("", 0, 0))
        if line:
            self._line, self._all, self._chosen = line, tests, chosen

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Let a shard be empty: the others have the tests."""
        if is_worker(self._config):
            output = self._config.workeroutput  # type: ignore[attr-defined]
            output[_KEY] = (self._line, self._all, self._chosen)
        elif (
            session.exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED
            and self._all
            and not self._chosen
        ):
            session.exitstatus = pytest.ExitCode.OK

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say it for the workers, which have no terminal."""
        workers = self._config.getoption("numprocesses", default=None)
        if workers and self._line and not self._config.getoption("collectonly"):
            terminalreporter.write_line(f"kgdb: {self._line}")


_STASH: Final = pytest.StashKey[Sharding]()


def _group(item: pytest.Item) -> str | None:
    """Return the groups of pytest-xdist that a test is in, as it names them."""
    names = {
        str(mark.args[0] if mark.args else mark.kwargs.get("name", "default"))
        for mark in item.iter_markers("xdist_group")
    }
    return f"@{'_'.join(sorted(names))}" if names else None
