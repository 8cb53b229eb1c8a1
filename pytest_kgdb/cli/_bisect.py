"""`bisect` and `bisect-step`: which commit broke a test."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

from ..change import show_commit, subject_of, tree_of
from ..errors import BuildError, ConfigError, KgdbError
from ..gate import (
    Bisection,
    Conclusion,
    ConfigSearch,
    GateFailed,
    PatchSearch,
    PytestDied,
    Runner,
    State,
    each_patch,
    judge_commit,
)
from ..kernel import patch_files
from ..plugin._artifacts import Artifacts
from ..progress import Progress
from ..settings import Settings
from ._on_kernels import (
    KernelBuilder,
    check_writable,
    common,
    inputs_key,
    logs,
    one_kernel,
    repeat,
    source_key,
    sure,
    tests_key,
)

# git-bisect(1), "Bisect run": 125 skips a commit, 128 and more end the search.
_GOOD: Final = 0
_BAD: Final = 1
_SKIP: Final = 125
_MISUSE: Final = 128

_FORMAT: Final = "3"  # of what is kept of a search

_SUCCESS: Final = 0
_WRONG_END: Final = 1
_INCONCLUSIVE: Final = 6
_USAGE: Final = 4  # pytest.ExitCode.USAGE_ERROR


def bisect(options: argparse.Namespace) -> int:
    """Search for the first bad commit, and print it."""
    try:
        return _bisect(options, Progress())
    except GateFailed as error:
        print(f"error: {error}", file=sys.stderr)
        return error.status
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return _USAGE


def _bisect(options: argparse.Namespace, progress: Progress) -> int:
    settings = one_kernel(options, options.rest)
    forms = [options.good or options.bad, options.patches, options.configs]
    if sum(map(bool, forms)) != 1:
        raise ConfigError(
            "bisect searches between two revisions (--good REV --bad REV), in a series "
            "(--patches SERIES), or between two configurations (--configs GOOD BAD)"
        )
    builder = KernelBuilder(Artifacts(settings, progress).cache, progress)
    if options.patches or options.configs:
        return _search(options, settings, builder, progress)
    tree = tree_of(settings.kernel[0]).resolve()
    if not options.good or not options.bad:
        raise ConfigError("bisect searches between two revisions: --good REV --bad REV")
    check_writable(options.log)
    parts = [str(tree), options.good, options.bad, str(options.first_parent), *options.path]
    with _resumable(options, settings, builder, parts) as (directory, runner):
        conclusion = Bisection(
            tree,
            options.good,
            options.bad,
            settings=settings,
            directory=directory,
            runner=runner,
            builder=builder,
            progress=progress,
            options=["--first-parent"] if options.first_parent else [],
            paths=options.path,
        ).run()
    if options.log:
        Path(options.log).write_text(conclusion.log)
    return _report(tree, conclusion)


@contextlib.contextmanager
def _resumable(
    options: argparse.Namespace, settings: Settings, builder: KernelBuilder, parts: list[str]
) -> Iterator[tuple[Path, Runner]]:
    """Hold the directory of a search, which is the same for the same command and tests.

    :param parts: what else makes it another search.
    """
    number, most = repeat(options, both=True), sure(options)
    arguments, ours = list(options.rest), common(options)
    # The number of jobs changes nothing; the origins of values are those of another directory.
    values = replace(settings, kernel=(), jobs=0, origins={})
    keys = [inputs_key(settings), tests_key(arguments)]
    parts = [_FORMAT, *parts, *arguments, *ours, repr(values), f"{number} {most}", *keys]
    name = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
    directory = logs(options, builder.cache)
    with builder.cache.lock(f"bisect-{name}", label="the search"):
        yield (
            builder.cache.workdir("bisect", name),
            Runner(arguments, ours, repeat=number, directory=directory, sure=most),
        )


def _search(
    options: argparse.Namespace, settings: Settings, builder: KernelBuilder, progress: Progress
) -> int:
    """Search in a series, or between two configurations."""
    if options.log or options.first_parent or options.path:
        raise ConfigError("--log, --first-parent and --path are for a search between revisions")
    names = [Path(name).absolute() for name in options.patches or options.configs]
    for path in names:
        if not path.exists():
            raise ConfigError(f"there is no {path}")
    files = [file for path in names for file in patch_files(path)] if options.patches else names
    parts = [
        source_key(settings),
        *(hashlib.sha256(file.read_bytes()).hexdigest() for file in files),
    ]
    with (
        tempfile.TemporaryDirectory(prefix="pytest-kgdb-bisect-") as scratch,
        _resumable(options, settings, builder, parts) as (directory, runner),
    ):
        search: PatchSearch | ConfigSearch
        if options.patches:
            steps = each_patch(settings, names, Path(scratch))
            search = PatchSearch(
                steps[0].change.base.settings,
                [(step.title, step.change.patched.settings) for step in steps],
                directory,
                runner=runner,
                builder=builder,
                progress=progress,
            )
        else:
            good, bad = names
            search = ConfigSearch(
                settings, good, bad, directory, runner=runner, builder=builder, progress=progress
            )
        discovery = search.run()
    for commit in discovery.tested:
        print(f"{commit.state.value:4}  {commit.revision}  {commit.reason}".rstrip())
    if not discovery.culprits:
        print(f"inconclusive: {discovery.why}")
        for suspect in discovery.suspects:
            print(f"  it may be {suspect}")
        return _WRONG_END if discovery.wrong_end else _INCONCLUSIVE
    print("the first bad patch:" if options.patches else "these symbols together break it:")
    for culprit in discovery.culprits:
        doubt = " (or not this one: without it, it cannot be tested)"
        print(f"  {culprit}{doubt if culprit in discovery.unsure else ''}")
    return _SUCCESS


def _report(tree: Path, conclusion: Conclusion) -> int:
    for commit in conclusion.commits:
        reason = f"  {commit.reason}" if commit.reason else ""
        print(f"{commit.state.value:4}  {_named(tree, commit.revision)}{reason}")
    if conclusion.culprit is not None:
        print(f"{conclusion.culprit} is the first bad commit\n")
        print(show_commit(tree, conclusion.culprit))
        return _SUCCESS
    print(f"inconclusive: {conclusion.why}")
    for revision in conclusion.suspects:
        print(f"  it may be {_named(tree, revision)}")
    ends = len(conclusion.commits) < 3 and not conclusion.suspects
    return _WRONG_END if ends and _is_wrong(conclusion) else _INCONCLUSIVE


def _named(tree: Path, revision: str) -> str:
    return f'{revision[:12]} ("{subject_of(tree, revision)}")'


def _is_wrong(conclusion: Conclusion) -> bool:
    """Whether the tests say clearly that an end is not what it was said to be."""
    last = conclusion.commits[-1].state
    return last is (State.GOOD if len(conclusion.commits) == 1 else State.BAD)


def step(options: argparse.Namespace) -> int:
    """Test the kernel as it is checked out, for `git bisect run`."""
    progress = Progress()
    try:
        settings = one_kernel(options, options.rest)
        number = repeat(options)
        builder = KernelBuilder(Artifacts(settings, progress).cache, progress)
        try:
            builder.build(settings)
        except (BuildError, ConfigError) as error:  # an older commit may lack a symbol
            print(f"skip: {error}")
            return _SKIP
        runner = Runner(
            options.rest, common(options), repeat=number, directory=logs(options, builder.cache)
        )
        with runner.start("bisected", settings) as child:
            runner.wait({"bisected": child}, lambda _: None)
            commit = judge_commit(runner.result("bisected", child), asked=number)
    except PytestDied as error:
        print(f"skip: {error.message}")
        return _SKIP
    except KgdbError as error:
        print(f"error: {error}", file=sys.stderr)
        return _MISUSE if isinstance(error, (ConfigError, GateFailed)) else _SKIP
    print(f"{commit.state.value}{': ' if commit.reason else ''}{commit.reason}")
    return {State.GOOD: _GOOD, State.BAD: _BAD, State.SKIP: _SKIP}[commit.state]
