"""`gate`: the tests on a kernel without and with a change."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from ..cache import Cache
from ..change import Change, from_patches, from_revert, from_revisions
from ..errors import BuildError, ConfigError
from ..gate import (
    POLICIES,
    Gate,
    GateFailed,
    Outcome,
    Runner,
    Series,
    Step,
    Verdict,
    as_annotations,
    as_gitlab,
    as_json,
    as_junit,
    as_ktap,
    as_markdown,
    as_sarif,
    as_table,
    each_patch,
    each_revision,
    from_module,
    run_each,
    without_commands,
)
from ..plugin._artifacts import Artifacts
from ..progress import Progress
from ..settings import Settings
from ._on_kernels import KernelBuilder, check_writable, common, logs, one_kernel, repeat

_USAGE: Final = 4  # pytest.ExitCode.USAGE_ERROR
# Behind the dots of a path, as ../test_it.py, is a slash, with which no revision begins.
_RANGE: Final = re.compile(r"([^\s./-][^\s]*?|)\.\.([^\s./][^\s]*|)")


Report: TypeAlias = Outcome | Series


def _dumped(form: Callable[[Report], object]) -> Callable[[Report], str]:
    return lambda report: json.dumps(form(report), indent=1) + "\n"


_FORMS: Final[dict[str, Callable[[Report], str]]] = {
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
    form = _form(options)
    settings = one_kernel(options, form.arguments)
    expected = _policy(options.expect)
    number = repeat(options)
    check_writable(*(getattr(options, name) for name in _FORMS))
    with tempfile.TemporaryDirectory(prefix="pytest-kgdb-gate-") as scratch:
        kernels = KernelBuilder(Artifacts(settings, progress).cache, progress)
        directory = logs(options, kernels.cache)

        def run(change: Change, directory: Path) -> Outcome:
            ours = [*common(options), *(["--kgdb-observe"] if options.compare else [])]
            runner = Runner(form.arguments, ours, repeat=number, directory=directory)
            return Gate(change, kernels, runner, progress=progress).run(expected)

        def run_step(step_number: int, step: Step) -> Outcome:
            progress.say(step.title)
            logs_of_step = directory / f"{step_number:04}"
            logs_of_step.mkdir(exist_ok=True)
            return run(step.change, logs_of_step)

        report: Report
        if options.each_commit:
            report = run_each(form.steps(settings, Path(scratch)), run_step)
        else:
            report = run(form.change(settings, Path(scratch), kernels.cache), directory)
        _report(options, report)
    return report.status


def _report(options: argparse.Namespace, report: Report) -> None:
    """Print the outcome, and write it to the files that the options name."""
    table = as_table(report)
    if os.environ.get("GITHUB_ACTIONS") == "true":
        print("\n".join([*without_commands(table), *as_annotations(report)]))
    else:
        print("\n".join(table))
    for name, form in _FORMS.items():
        if path := getattr(options, name):
            Path(path).write_text(form(report), encoding="utf-8")
    if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
        with Path(summary).open("a", encoding="utf-8") as file:
            file.write(as_markdown(report))


@dataclass(frozen=True)
class _Form:
    """What the command line says of the change."""

    patches: list[Path]
    revert: str | None
    module: str | None
    range: tuple[str, str] | None
    arguments: list[str]
    """What of the command line is pytest's."""

    def change(self, settings: Settings, scratch: Path, cache: Cache) -> Change:
        if self.patches:
            return from_patches(settings, self.patches)
        if self.revert:
            return from_revert(settings, self.revert, scratch)
        if self.module:
            return from_module(settings, self.module, cache)
        assert self.range is not None
        return from_revisions(settings, *self.range)

    def steps(self, settings: Settings, scratch: Path) -> list[Step]:
        if self.patches:
            return each_patch(settings, self.patches, scratch)
        if self.range is not None:
            return each_revision(settings, *self.range)
        raise ConfigError("--each-commit is for A..B, and for the patches of --patch")


def _form(options: argparse.Namespace) -> _Form:
    arguments = list(options.rest)
    ranges = [
        word
        for word in arguments
        if _RANGE.fullmatch(word) and not Path(word.partition("::")[0]).exists()
    ]
    forms = [options.patch, options.revert, options.module, ranges]
    if sum(map(bool, forms)) != 1 or len(ranges) > 1:
        raise ConfigError(
            "gate tests one change: --patch FILE (repeatable), --revert FILE or REV, A..B, or "
            "--module DIR@A..B"
        )
    revisions = None
    if ranges:
        arguments.remove(ranges[0])
        before, _, after = ranges[0].partition("..")
        revisions = (before, after)
    patches = [_existing(name) for name in options.patch or ()]
    return _Form(patches, options.revert, options.module, revisions, arguments)


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
