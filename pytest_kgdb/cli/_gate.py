"""`gate`: the tests on a kernel without and with a change."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from ..cache import Cache
from ..errors import BuildError, ConfigError
from ..gate import (
    POLICIES,
    Change,
    Gate,
    GateFailed,
    Side,
    Verdict,
    as_json,
    as_markdown,
    as_table,
    from_patches,
    from_revert,
    from_revisions,
    repeats_for,
)
from ..kernel import Kernel, file_hash
from ..plugin._artifacts import Artifacts
from ..progress import Progress
from ..settings import OPTIONS, Settings, from_arguments, ini_key

_USAGE: Final = 4  # pytest.ExitCode.USAGE_ERROR
_RANGE: Final = re.compile(r"([^\s./-][^\s]*?|)\.\.([^\s.][^\s]*|)")
_OF_A_SIDE: Final = ("kernel", "patch")


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
    settings = from_arguments(options)
    if len(settings.kernel) != 1:
        raise ConfigError(
            "gate tests a change of one kernel: name it with --kgdb-kernel=SPEC",
            hint="one SPEC: a source tree, a tarball, TREE@REV, or distro[:VERSION]",
        )
    expected = _policy(options.expect)
    repeat = _repeat(options)
    with tempfile.TemporaryDirectory(prefix="pytest-kgdb-gate-") as scratch:
        change, arguments = _change(options, settings, Path(scratch))
        kernels = _Kernels(Artifacts(settings, progress).cache, progress)
        directory = _logs(options, kernels.cache)
        outcome = Gate(
            change,
            kernels,
            arguments=arguments,
            options=_common(options),
            repeat=repeat,
            directory=directory,
            progress=progress,
        ).run(expected)
    print("\n".join(as_table(outcome)))
    if options.json:
        Path(options.json).write_text(json.dumps(as_json(outcome), indent=1) + "\n")
    if options.markdown:
        Path(options.markdown).write_text(as_markdown(outcome))
    if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
        with Path(summary).open("a") as file:
            file.write(as_markdown(outcome))
    return outcome.status


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


def _logs(options: argparse.Namespace, cache: Cache) -> Path:
    """Return the directory for what pytest prints; the last runs' are kept."""
    if options.logs:
        directory = Path(options.logs)
    else:
        directory = cache.root / "logs" / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}-gate"
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot make {directory}: {error.strerror}") from error
    return directory


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


def _repeat(options: argparse.Namespace) -> int:
    if options.repeat is not None and options.confidence is not None:
        raise ConfigError("--repeat and --confidence both say how often a test is run")
    try:
        if options.repeat is not None:
            if (repeat := int(options.repeat)) < 1:
                raise ValueError(f"{repeat} is no number of runs")
            return repeat
        return repeats_for(float(options.confidence or 0.99))
    except ValueError as error:
        raise ConfigError(f"--repeat, --confidence: {error}") from error


def _common(options: argparse.Namespace) -> list[str]:
    """Return the options of ours that both sides have, as they were given."""
    words = []
    for name, kind, *_ in OPTIONS:
        value = getattr(options, ini_key(name), None)
        if value is None or name in _OF_A_SIDE:
            continue
        if kind == "flag":
            words.append(f"--kgdb-{name}")
        else:
            values = value if isinstance(value, list) else [value]
            words += [f"--kgdb-{name}={item}" for item in values]
    return words


class _Kernels:
    """A :class:`pytest_kgdb.gate.Kernels` on the cache."""

    def __init__(self, cache: Cache, progress: Progress) -> None:
        self.cache = cache
        self._progress = progress

    def build(self, side: Side) -> Kernel:
        return Artifacts(side.settings, self._progress).kernel(side.spec)

    def same(self, one: Kernel, other: Kernel) -> bool:
        if one.build_id != other.build_id or not one.build_id:
            return False
        return self._modules(one) == self._modules(other)

    def _modules(self, kernel: Kernel) -> dict[str, str]:
        directory = kernel.modules_dir
        if directory is None:
            return {}
        return {
            str(path.relative_to(directory)): file_hash(path, self.cache)
            for path in sorted(directory.rglob("*.ko"))
        }
