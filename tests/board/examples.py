"""The examples, unchanged, in a pytest of their own on a board."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from boards import Started

from pytest_kgdb.plugin._configure import settings_of

ROOT = Path(__file__).parents[2]
SOON = 1800.0  # seconds


@dataclass(frozen=True)
class Outcome:
    """What a run came to."""

    status: int
    output: str

    def tests(self, what: str) -> set[str]:
        """The tests of which this is said: PASSED, SKIPPED, FAILED."""
        return {
            name
            for name, word in re.findall(r"::(\w+)\S* (PASSED|SKIPPED|FAILED|ERROR)", self.output)
            if word == what
        }


def run_examples(
    config: pytest.Config, machine: Started, files: Sequence[str], *options: str
) -> Outcome:
    """Run files of the examples on a machine."""
    settings = settings_of(config)
    argv = [sys.executable, "-m", "pytest", "-v", "-rs", "-p", "no:cacheprovider"]
    argv += [f"--kgdb-kernel={settings.kernel[0]}", f"--kgdb-cache-dir={settings.cache_dir}"]
    argv += [f"--kgdb-{name}={value}" for name, value in machine.lines().items()]
    argv += [*options, *(f"example_suite/{name}" for name in files)]
    done = subprocess.run(
        argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=SOON
    )
    return Outcome(done.returncode, done.stdout)
