"""`gate`: the tests on a kernel without and with a change."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from ..errors import BuildError, ConfigError
from ..gate import (
    POLICIES,
    Change,
    Gate,
    GateFailed,
    Outcome,
    Runner,
    Verdict,
    as_annotations,
    as_gitlab,
    as_json,
    as_junit,
    as_ktap,
    as_markdown,
    as_sarif,
    as_table,
    from_patches,
    from_revert,
    from_revisions,
    without_commands,
)
from ..plugin._artifacts import Artifacts
from ..progress import Progress
from ..settings import Settings
from ._on_kernels import KernelBuilder, check_writable, common, logs, one_kernel, repeat

_USAGE: Final = 4  # pytest.ExitCode.USAGE_ERROR
_RANGE: Final = re.compile(r"([^\s./-][^\s]*?|)\.\.([^\s.][^\s]*|)")


def _dumped(form: Callable[[Outcome], object]) -> Callable[[Outcome], str]:
    return lambda outcome: json.dumps(form(outcome), indent=1) + "\n"


_FORMS: Final[dict[str, Callable[[Outcome], str]]] = {
    "json": _dumped(as_json),
    "markdown": as_markdown,
    "junit": as_junit,
    "sarif": _dumped(as_sarif),
    "gitlab": _dumped(as_gitlab),
    "ktap": as_ktap,
}
"""The options that name a file for the outcome, and what is written there."""


def gate(options: argparse.Namespace) -> int:
    """Run the tests on both kernels, print the verdicts, and return the exit status."""
    progress = Progress()
    try:
        return _gate(options, progress)
    except GateFailed as error:
        print(f"error: {error}", file=sys.stderr)
        return error.status
    except (BuildError, ConfigError) as error:  # a patch that is malformed
        print(f"error: {error}", file=sys.stderr)
        return _USAGE


def _gate(options: argparse.Namespace, progress: Progress) -> int:
    settings = one_kernel(options)
    expected = _policy(options.expect)
    number = repeat(options, sides=2)
    check_writable(*(getattr(options, name) for name in _FORMS))
    with tempfile.TemporaryDirectory(prefix="pytest-kgdb-gate-") as scratch:
        change, arguments = _change(options, settings, Path(scratch))
        kernels = KernelBuilder(Artifacts(settings, progress).cache, progress)
        directory = logs(options, kernels.cache)
        outcome = Gate(
            change,
            kernels,
            Runner(arguments, common(options), repeat=number, directory=directory),
            progress=progress,
        ).run(expected)
        _report(options, outcome)
    return outcome.status


def _report(options: argparse.Namespace, outcome: Outcome) -> None:
    """Print the outcome, and write it to the files that the options name."""
    table = as_table(outcome)
    if os.environ.get("GITHUB_ACTIONS") == "true":
        print("\n".join([*without_commands(table), *as_annotations(outcome)]))
    else:
        print("\n".join(table))
    for name, form in _FORMS.items():
        if path := getattr(options, name):
            Path(path).write_text(form(outcome), encoding="utf-8")
    if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
        with Path(summary).open("a", encoding="utf-8") as file:
            file.write(as_markdown(outcome))


def _change(
    options: argparse.Namespace, settings: Settings, scratch: Path
) -> tuple[Change, list[str]]:
    """Return the change, and what of the command line is pytest's."""
    arguments = list(options.rest)
    ranges = [word for word in arguments if _RANGE.fullmatch(word) and not Path(word).exists()]
    forms = [bool(options.patch), bool(options.revert), bool(ranges)]
    if sum(forms) != 1 or len(ranges) > 1:
        raise ConfigError(
            "gate tests one change: --patch FILE (repeatable), --revert FILE or REV, or A..B"
        )
    if options.patch:
        return from_patches(settings, [_existing(name) for name in options.patch]), arguments
    if options.revert:
        return from_revert(settings, options.revert, scratch), arguments
    arguments.remove(ranges[0])
    before, _, after = ranges[0].partition("..")
    return from_revisions(settings, before, after), arguments


def _existing(name: str) -> Path:
    path = Path(name).absolute()
    if not path.exists():
        raise ConfigError(f"--patch: there is no {name}")
    return path


def _policy(text: str | None) -> list[Verdict] | None:
    if text is None:
        return None
    names = [name.strip() for name in text.split(",")]
    if unknown := [name for name in names if name not in POLICIES]:
        raise ConfigError(f"--expect: {unknown[0]!r} is none of {', '.join(POLICIES)}")
    return [POLICIES[name] for name in names]
