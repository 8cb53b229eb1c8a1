"""Settings as they were given, and their way from one process to another: a file of JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

__all__ = ["BUILD", "Given", "read_given", "write_given"]

BUILD: Final = (
    *("kernel", "config", "fragment", "set", "patch", "source", "make", "module-make", "module"),
)
"""The options that say which kernel is built, and which out-of-tree modules."""


class Given(NamedTuple):
    """A value as the user wrote it."""

    value: object
    origin: str
    base: Path
    """What its paths are relative to."""


def write_given(path: Path, given: Mapping[str, Given]) -> None:
    """Write settings for another process."""
    values = {name: (item.value, item.origin, str(item.base)) for name, item in given.items()}
    path.write_text(json.dumps(values, indent=1))


def read_given(path: Path) -> dict[str, Given]:
    """Read what :func:`write_given` wrote.

    :raises OSError: it cannot be read.
    :raises ValueError: somebody else has written it.
    """
    values = json.loads(path.read_bytes())
    try:
        return {
            str(name): Given(value, str(origin), Path(base))
            for name, (value, origin, base) in values.items()
        }
    except (AttributeError, TypeError) as error:
        raise ValueError("it is not of pytest-kgdb") from error
