"""Tests that the command line names by their parameters, of which `--kgdb-repeat` makes one more.

pytest compares such a name with the whole id, which is another one then.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from ._record import repeated

__all__ = ["NamedTests"]

_NAMED: Final = "kgdb_named"


class _Name(NamedTuple):
    path: Path
    names: tuple[str, ...]
    parameters: str
    """With its bracket; empty for all tests of a function, a class or a file."""

    def holds(self, path: Path, names: tuple[str, ...], parameters: str) -> bool:
        if self.parameters:
            return (path, names, parameters) == self
        if not self.names:
            return path == self.path or self.path in path.parents
        return path == self.path and names[: len(self.names)] == self.names


class NamedTests:
    """Has pytest collect all tests of such a function, and keeps those that were named."""

    def __init__(self, names: Iterable[str], directory: Path) -> None:
        self._names = [_parse(name, directory) for name in names]

    @classmethod
    def register(cls, config: pytest.Config) -> None:
        """Take the names from the command line, if there are any with parameters."""
        names: list[str] | None = getattr(config.option, _NAMED, None)
        if names is None and any("[" in argument for argument in config.args):
            names = list(config.args)
            config.args[:] = dict.fromkeys(name.partition("[")[0] for name in names)
            # pytest-xdist gives its workers the options, and these arguments.
            setattr(config.option, _NAMED, names)
        if names is not None:
            config.pluginmanager.register(cls(names, config.invocation_params.dir), "kgdb-named")

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        """Deselect the others.

        :raises pytest.UsageError: a name is no test's.
        """
        places = [self._place(item) for item in items]
        for name in self._names:
            if not any(name.holds(*place) for place in places):
                raise pytest.UsageError(
                    f"not found: {'::'.join([str(name.path), *name.names])}{name.parameters}"
                )
        kept = [
            item
            for item, place in zip(items, places, strict=True)
            if any(name.holds(*place) for name in self._names)
        ]
        if len(kept) < len(items):
            config.hook.pytest_deselected(items=[item for item in items if item not in set(kept)])
            items[:] = kept

    @staticmethod
    def _place(item: pytest.Item) -> tuple[Path, tuple[str, ...], str]:
        nodeid, _ = repeated(item)
        before, bracket, parameters = nodeid.partition("[")
        return item.path, tuple(before.split("::")[1:]), bracket + parameters


def _parse(name: str, directory: Path) -> _Name:
    before, bracket, parameters = name.partition("[")
    path, *names = before.split("::")
    return _Name((directory / path).resolve(), tuple(names), bracket + parameters)
