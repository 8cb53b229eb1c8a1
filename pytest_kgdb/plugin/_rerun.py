"""The command that runs a failed test again, ready to paste."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from ._terminal import is_worker

__all__ = ["rerun_command"]

# pytest-xdist's: one test needs no workers. Those in the first row have a value behind them.
_VALUED = ("-n", "--numprocesses", "--maxprocesses", "--dist", "--tx")
_ALONE = ("-d", "-f", "--looponfail")


def rerun_command(config: pytest.Config, nodeid: str) -> str:
    """Return the shell command by which a user runs one test with the options of this run."""
    here = config.invocation_params.dir
    words: Sequence[str] = config.invocation_params.args
    if is_worker(config):  # its own were made by pytest-xdist
        words = config.workerinput["mainargv"][1:]  # type: ignore[attr-defined]
    path, separator, rest = nodeid.partition("::")
    test = os.path.relpath(config.rootpath / path, here) + separator + rest
    given = list(_without(words, config.option.file_or_dir or ()))
    command = shlex.join(["pytest", *given, test])
    return command if here == Path.cwd() else f"cd {shlex.quote(str(here))} && {command}"


def _without(words: Sequence[str], tests: Sequence[str]) -> Iterator[str]:
    """Yield a command line's words without the tests that it names, and without workers."""
    left = list(tests)
    skip = False
    for word in words:
        if skip or word in _ALONE:
            skip = False
        elif word in left:
            left.remove(word)
        elif word in _VALUED:
            skip = True
        elif not word.startswith(tuple(f"{name}=" for name in _VALUED)) and not (
            word.startswith("-n") and word[2:].isalnum()
        ):
            yield word
