"""What the commands that run tests on several kernels have in common."""

from __future__ import annotations

import argparse
import fnmatch
import hashlib
import os
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from ..cache import Cache
from ..change import git, resolved, tree_of
from ..errors import ConfigError
from ..gate import BuiltSide, GateFailed, child_environment, repeats_for, same_code
from ..kernel import Kernel, file_hash, patch_files
from ..plugin._artifacts import Artifacts
from ..process import run
from ..progress import Progress
from ..settings import BUILD, OPTIONS, Settings, from_given, ini_key, read_given

__all__ = [
    "KernelBuilder",
    "check_writable",
    "common",
    "inputs_key",
    "logs",
    "one_kernel",
    "repeat",
    "source_key",
    "sure",
    "tests_key",
]

_READING_SECONDS: Final = 300.0  # for pytest, and what its plugins and conftest.py import
_USAGE: Final = 4  # pytest.ExitCode.USAGE_ERROR
_CONFIDENCE: Final = 0.99


def one_kernel(options: argparse.Namespace, arguments: Sequence[str]) -> Settings:
    """Return the settings of a command line that names one kernel.

    They are read as the tests' pytest would: its configuration file and `addopts` count, too.

    :param arguments: what of the command line is pytest's.
    :raises ConfigError: no kernel is named, or several; or a value is invalid.
    :raises GateFailed: pytest cannot read its configuration.
    """
    settings = _as_pytest_reads(options, arguments)
    if settings.target is not None:
        raise ConfigError(
            f"{settings.origin('target')}: {options.name} builds kernels, and boots them in QEMU",
            hint=f"leave it out, or -o {ini_key('target')}=",
        )
    if len(settings.kernel) != 1:
        raise ConfigError(
            f"{options.name} is about one kernel: name it with --kgdb-kernel=SPEC",
            hint="a source tree, a tarball, TREE@REV, or distro[:VERSION]",
        )
    if settings.configs:
        raise ConfigError(
            f"{options.name} is about one kernel, and --kgdb-config names several configurations: "
            f"{', '.join(settings.configs)}"
        )
    return settings


def _as_pytest_reads(options: argparse.Namespace, arguments: Sequence[str]) -> Settings:
    with tempfile.TemporaryDirectory(prefix="pytest-kgdb-settings-") as scratch:
        file = Path(scratch, "given.json")
        argv = [sys.executable, "-m", "pytest", *arguments, *_words(options)]
        argv += [
            "-p",
            "pytest_kgdb.plugin._read_settings",
            f"--kgdb-settings-to={file}",
            "-o",
            f"cache_dir={scratch}/cache",
        ]
        result = run(
            argv, name="pytest", timeout=_READING_SECONDS, env=child_environment(), check=False
        )
        if result.status != 0 or not file.exists():
            output = "\n".join(f"  {line}" for line in result.output.splitlines()[-15:])
            raise GateFailed(
                f"pytest cannot read its configuration (status {result.status}):\n{output}",
                status=_USAGE,
            )
        return from_given(read_given(file))


def check_writable(*names: str | None) -> None:
    """Check that files can be written, before the long work of which they are to have the outcome.

    :raises ConfigError: one cannot.
    """
    for name in names:
        if name is None:
            continue
        try:
            Path(name).open("a").close()
        except OSError as error:
            raise ConfigError(f"cannot write {name}: {error.strerror}") from error


def tests_key(arguments: Iterable[str]) -> str:
    """Return a hash of the test files that a command line names, and of what they import.

    That is what pytest would read: without a file or directory, those below the current one;
    `conftest.py` of the directories above; of a file, the others beside it, too.
    """
    named = [Path(argument.partition("::")[0]) for argument in arguments]
    named = [path for path in named if path.is_dir() or (path.suffix == ".py" and path.is_file())]
    files: set[Path] = set()
    for path in map(Path.resolve, named or [Path()]):
        directory = path if path.is_dir() else path.parent
        files.update(_below(directory, ("*.py",)) if path.is_dir() else directory.glob("*.py"))
        files.update(above / "conftest.py" for above in directory.parents)
    return _hash_of(files)


def inputs_key(settings: Settings) -> str:
    """Return a hash of the files that settings name, and from which kernels are made."""
    files = {Path(settings.config), *settings.fragment}
    for path in settings.patch:
        files.update(patch_files(path))
        if path.is_dir():
            files.update((path / "series", path / "patches/series"))
    for directory in settings.module:
        files.update(_below(directory, ("*.[chS]", "Makefile", "Kbuild")))
    return _hash_of(files)


def source_key(settings: Settings) -> str:
    """Return what tells the kernel's source as it is from another state of it: of a git tree."""
    spec = settings.kernel[0]
    try:
        tree = tree_of(spec)
    except ConfigError:
        return spec
    if not Path(spec).exists():
        return f"{tree}@{resolved(tree, spec.rpartition('@')[2])}"
    changes = git(tree, "--no-optional-locks", "diff", "--no-ext-diff", "--binary", "HEAD")
    return f"{spec} {resolved(tree, 'HEAD')} {changes}"


def _below(directory: Path, patterns: Sequence[str]) -> Iterator[Path]:
    """Yield the files below a directory, but for those that pytest would not look for, either."""
    for name, directories, files in os.walk(directory):
        directories[:] = [one for one in directories if not one.startswith((".", "__"))]
        for pattern in patterns:
            yield from (Path(name, file) for file in fnmatch.filter(files, pattern))


def _hash_of(files: Iterable[Path]) -> str:
    result = hashlib.sha256()
    for file in sorted(files):
        if file.is_file():
            data = file.read_bytes()
            result.update(b"%s\0%d\0" % (os.fsencode(file), len(data)) + data)
    return result.hexdigest()


def logs(options: argparse.Namespace, cache: Cache) -> Path:
    """Return the directory for what pytest prints; the last runs' are kept."""
    if options.logs:
        directory = Path(options.logs)
    else:
        directory = (
            cache.root / "logs" / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}-{options.name}"
        )
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot make {directory}: {error.strerror}") from error
    return directory


def repeat(options: argparse.Namespace, *, both: bool = False) -> int:
    """Return how often each test is run on each kernel.

    :param both: whether `--confidence` has another meaning where `--repeat` is given: see
        :func:`sure`.
    :raises ConfigError: the options contradict one another.
    """
    if options.repeat is None:
        return sure(options)
    if options.confidence is not None and not both:
        raise ConfigError("--repeat and --confidence both say how often a test is run")
    try:
        if (number := int(options.repeat)) < 1:
            raise ValueError(f"{number} is no number of runs")
    except ValueError as error:
        raise ConfigError(f"--repeat: {error}") from error
    return number


def sure(options: argparse.Namespace) -> int:
    """Return how often a test is run to be as sure as `--confidence` says.

    :raises ConfigError: it is no confidence.
    """
    try:
        return repeats_for(float(_CONFIDENCE if options.confidence is None else options.confidence))
    except ValueError as error:
        raise ConfigError(f"--confidence: {error}") from error


def common(options: argparse.Namespace) -> list[str]:
    """Return the options of ours that both sides have, as they were given.

    Those of the build are not among them: :class:`Runner` has them from the settings.
    """
    return _words(options, without=BUILD)


def _words(options: argparse.Namespace, without: Sequence[str] = ()) -> list[str]:
    words = []
    for name, kind, *_ in OPTIONS:
        value = getattr(options, ini_key(name), None)
        if value is None or name in without:
            continue
        if kind == "flag":
            words.append(f"--kgdb-{name}")
        else:
            values = value if isinstance(value, list) else [value]
            words += [f"--kgdb-{name}={item}" for item in values]
    return words


class KernelBuilder:
    """Builds kernels, or finds them in the cache."""

    def __init__(self, cache: Cache, progress: Progress) -> None:
        self.cache = cache
        self._progress = progress

    def build(self, settings: Settings) -> BuiltSide:
        """Return the kernel of these settings, and its out-of-tree modules.

        :raises BuildError: one cannot be built.
        """
        artifacts = Artifacts(settings, self._progress)
        kernel = artifacts.kernel(settings.kernel[0])
        return BuiltSide(kernel, tuple(artifacts.modules(kernel)))

    def same(self, one: BuiltSide, other: BuiltSide) -> bool:
        """Whether two kernels, their modules included, do not differ."""
        build_id = one.kernel.build_id
        if build_id != other.kernel.build_id or not build_id:
            return False
        # The code of arch/x86/boot is in the image alone. Of equal sources, images are identical.
        if file_hash(one.kernel.image, self.cache) != file_hash(other.kernel.image, self.cache):
            return False
        if self._modules(one.kernel) != self._modules(other.kernel):
            return False
        return same_code(one.modules, other.modules)

    def _modules(self, kernel: Kernel) -> dict[str, str]:
        directory = kernel.modules_dir
        if directory is None:
            return {}
        return {
            str(path.relative_to(directory)): file_hash(path, self.cache)
            for path in sorted(directory.rglob("*.ko"))
        }
