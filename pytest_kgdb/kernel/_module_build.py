"""Builds one directory's modules in a copy of it (Documentation/kbuild/modules.rst)."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shlex
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from ..cache import Cache, Entry
from ..errors import BuildError
from ..process import Completed, run, which
from ..progress import Progress
from ._diagnose import first_error, fix, warnings
from ._fingerprint import FileState, content_key, is_product, state_of
from ._headers import headers_of
from ._mirror import Mirror
from ._model import Kernel
from ._module_inputs import MAKEFILES, dependencies, evaluate, token
from ._source import slug
from ._source_record import Recorder
from ._surroundings import Surroundings
from ._toolchain import Toolchain, build_environment
from ._undefined import undefined_hint

_RECIPE: Final = "4"  # part of every key: to be increased when the same inputs give another module
_BUILD_SECONDS: Final = 3600.0
# Documentation/kbuild/modules.rst: the assignment in a Makefile that builds a module.
_BUILDS_MODULES: Final = re.compile(r"^\s*obj-(?:m|\$[({]\w+[)}])\s*[:+]?=", re.MULTILINE)

_INPUTS: Final = "inputs.json"  # in an entry: what was read from outside of the directory
_WARNINGS: Final = "warnings.txt"
_SYMVERS: Final = "Module.symvers"
_MOST_INPUTS: Final = 16  # sets of outside files that a build may go through

_SHOWN: Final[set[Path]] = set()
"""The entries whose warnings this process has shown: a test that loads one again shows nothing."""


def builds_modules(path: Path) -> bool:
    """Whether a directory has a Makefile of its own that builds a module."""
    return any(
        _BUILDS_MODULES.search((path / name).read_text(errors="replace"))
        for name in MAKEFILES
        if (path / name).is_file()
    )


def _files(path: Path) -> dict[str, FileState]:
    """Return the states of a module's source files by name; links are files, wherever they lead."""
    states: dict[str, FileState] = {}
    for directory, names, files in os.walk(path):
        names[:] = sorted(name for name in names if not name.startswith("."))
        links = [name for name in names if (Path(directory) / name).is_symlink()]
        for name in (*files, *links):
            if not name.startswith(".") and not is_product(name) and not name.endswith(".mod.c"):
                file = Path(directory) / name
                states[str(file.relative_to(path))] = state_of(file)
    return states


class _Inputs(NamedTuple):
    """What a module was built from, besides its own directory."""

    files: dict[str, str]
    """The states of files by path."""
    modules: dict[str, str]
    """The keys of other modules, by the directories that they are built in."""


class _Failure(NamedTuple):
    """A build that has failed."""

    error: BuildError
    inputs: _Inputs


_FAILED: Final[dict[str, _Failure]] = {}
"""What has failed in this process, by the keys of the entries: each test would build it again."""


def _read_inputs(entry: Entry) -> _Inputs:
    loaded = json.loads((entry.path / _INPUTS).read_text())
    return _Inputs(loaded["files"], loaded["modules"])


class ModuleBuilder:
    """Builds modules against one kernel, each once for the same inputs."""

    def __init__(self, kernel: Kernel, cache: Cache, progress: Progress, tools: Toolchain) -> None:
        self.kernel, self.cache, self.progress, self.tools = kernel, cache, progress, tools

    def entry(self, path: Path, on_the_way: tuple[Path, ...]) -> Entry:
        """Return the cache's entry with the modules of one directory.

        Which files outside of it are read is known once it was built: an entry says so, with their
        states. Where these are others by now, they make the key of the next entry.

        :param on_the_way: the directories that need this one's modules.
        """
        where = path.resolve()
        files = _files(path)
        # Where it is, is in the debug information.
        parts = [
            _RECIPE,
            self.kernel.key,
            self.tools.key,
            content_key(files),
            str(where),
        ]
        label = f"module {path.name} for {self.kernel.release}"
        for _ in range(_MOST_INPUTS):
            key = hashlib.sha256("\n".join(parts).encode()).hexdigest()
            failure = _FAILED.get(key)
            if failure is not None and self._now(failure.inputs, where, on_the_way) == (
                failure.inputs
            ):
                raise failure.error.with_traceback(None)
            build = _Build(self, path, files, label, on_the_way)
            try:
                entry = self.cache.make(
                    "module", key, build.run, label=label, about={"source": str(where)}
                )
            except BuildError as error:
                if build.inputs is not None:
                    _FAILED[key] = _Failure(error, build.inputs)
                raise
            inputs = _read_inputs(entry)
            now = self._now(inputs, where, on_the_way)
            if now == inputs:
                self._show_warnings(entry, label)
                return entry
            parts.append(json.dumps(now, sort_keys=True))
        raise BuildError(f"{label}: the files that it includes change while it is built")

    def _now(self, inputs: _Inputs, where: Path, on_the_way: tuple[Path, ...]) -> _Inputs:
        """Return what is there now of what a directory's modules were built from."""
        return _Inputs(
            {name: token(Path(name)) for name in inputs.files},
            _keys(self.entries(map(Path, inputs.modules), (*on_the_way, where))),
        )

    def entries(
        self, directories: Iterable[Path], on_the_way: tuple[Path, ...]
    ) -> dict[Path, Entry]:
        """Return the entries with the modules of other directories, built if need be."""
        return {
            directory: self.entry(directory, on_the_way)
            for directory in directories
            if directory not in on_the_way and builds_modules(directory)
        }

    def neighbours(self, entry: Entry) -> list[Entry]:
        """Return the entries of the modules whose symbols those of an entry use."""
        entries = (self.cache.get("module", key) for key in _read_inputs(entry).modules.values())
        return [neighbour for neighbour in entries if neighbour is not None]

    def _show_warnings(self, entry: Entry, label: str) -> None:
        if entry.path in _SHOWN:
            return
        _SHOWN.add(entry.path)
        lines = (entry.path / _WARNINGS).read_text().splitlines()
        if lines:
            self.progress.say(f"{label}: make warns:")
        for line in lines:
            self.progress.say(line)


class _Build:
    """One build of one directory's modules, in a copy of it."""

    def __init__(
        self,
        builder: ModuleBuilder,
        path: Path,
        files: dict[str, FileState],
        label: str,
        on_the_way: tuple[Path, ...],
    ) -> None:
        self._builder, self._path, self._files, self._label = builder, path, files, label
        self._kernel, self._cache = builder.kernel, builder.cache
        self._progress, self._tools = builder.progress, builder.tools
        self._on_the_way = (*on_the_way, path.resolve())
        self.inputs: _Inputs | None = None
        """What was read, as far as it is known, once make has ended; None if the host failed it."""
        named = "\n".join([_RECIPE, str(path.resolve()), self._kernel.key, *self._tools.given])
        digest = hashlib.sha256(named.encode()).hexdigest()[:16]
        self._name = f"module-{slug(path.name)}-{digest}"

    def run(self, target: Path) -> None:
        """Build, and put the modules into a directory, with what they were built from.

        :raises BuildError: it does not compile.
        """
        with self._prepared() as (state_dir, surroundings, headers):
            asked = evaluate(
                surroundings.root,
                headers,
                self._kernel.release,
                self._variables(surroundings),
                surroundings.root,
            )
            surroundings.sync(
                directory for directory in asked.objects if not self._is_own(directory)
            )
        # A link in the copy's surroundings leads to the original; a directory there is none.
        asked_symbols = [Path(surroundings.in_original(str(file))) for file in asked.symbols]
        neighbours = [symbols.parent for symbols in asked_symbols]
        modules = self._builder.entries(neighbours, self._on_the_way)
        # The user's own Module.symvers may be of another kernel; there need be none.
        symbols = [
            modules[file.parent].path / _SYMVERS if file.parent in modules else file
            for file in asked_symbols
        ]
        with self._prepared() as (state_dir, surroundings, headers):
            result = self._make(state_dir, surroundings, headers, symbols)
            failed = result.status != 0
            read = dependencies(surroundings.top, surroundings.root, headers, failed=failed)
            read |= set(asked.makefiles) | (set(symbols) & set(asked_symbols))
            outside = sorted(
                str(file) for file in read if self._is_outside(file, surroundings, headers)
            )
            inputs = _Inputs({file: token(Path(file)) for file in outside}, _keys(modules))
            # A package that is missing, a full disk: another try may succeed.
            self.inputs = inputs if not failed or fix(result.output) is None else None
            log = state_dir / "make.log"
            if failed:
                raise BuildError(
                    f"{self._label} does not compile:\n"
                    f"{surroundings.in_original(first_error(result.output))}",
                    log=log,
                    hint=fix(result.output) or undefined_hint(result.output, self._kernel),
                )
            built = _modules_in(surroundings.root)
            if not built:
                raise BuildError(
                    f"{self._label}: make succeeded, but there is no .ko",
                    log=log,
                    hint="its Makefile must say obj-m += NAME.o",
                )
            for module in built:
                shutil.copy2(module, target / module.name)
            shutil.copy2(surroundings.root / _SYMVERS, target / _SYMVERS)
            (target / _INPUTS).write_text(json.dumps(inputs._asdict(), sort_keys=True))
            self._record_sources(state_dir, surroundings, headers, target)
            warned = surroundings.in_original(warnings(result.output))
            (target / _WARNINGS).write_text(warned)

    def _record_sources(
        self, state_dir: Path, surroundings: Surroundings, headers: Path, target: Path
    ) -> None:
        """Keep what the module was compiled from, but for the kernel's headers."""
        recorder = Recorder(state_dir)
        files: dict[str, Path] = {}
        for name in recorder.compiled(surroundings.top):
            for base in (headers, surroundings.root):
                path = os.path.normpath(base / name)
                if not Path(path).is_file() or not self._is_users(Path(path), surroundings):
                    continue
                files[surroundings.in_original(path)] = Path(path)
        recorder.record(files, target)

    def _is_users(self, path: Path, surroundings: Surroundings) -> bool:
        is_copy = path.is_relative_to(surroundings.top)
        return is_copy or self._is_outside(path, surroundings, self._cache.root)

    @contextlib.contextmanager
    def _prepared(self) -> Iterator[tuple[Path, Surroundings, Path]]:
        """Hold the state directory, the copy in its surroundings, and the kernel's headers."""
        with (
            headers_of(self._kernel, self._cache) as headers,
            self._cache.lock(self._name, label=self._label),
        ):
            state_dir = self._cache.workdir("module", self._name)
            surroundings = Surroundings(state_dir / "tree", self._path, state_dir.parent)
            surroundings.sync()
            mirror = Mirror(state_dir, surroundings.root)
            mirror.sync(
                self._files, {name: self._path / name for name in self._files}, self._progress
            )
            yield state_dir, surroundings, headers

    def _make(
        self, state_dir: Path, surroundings: Surroundings, headers: Path, symbols: list[Path]
    ) -> Completed:
        """Run make."""
        log = state_dir / "make.log"
        log.unlink(missing_ok=True)
        top = surroundings.root
        argv = [
            which("make", package="make"),
            f"--directory={headers}",
            f"M={top}",
            f"ARCH={self._kernel.arch.name}",
            f"--jobs={len(os.sched_getaffinity(0))}",
            *self._variables(surroundings),
            *([f"KBUILD_EXTRA_SYMBOLS={' '.join(map(str, symbols))}"] if symbols else []),
            "modules",
        ]
        with (
            self._progress.stage(f"building {self._label}"),
            build_environment(state_dir) as env,
        ):
            return run(
                argv,
                name="make",
                timeout=_BUILD_SECONDS,
                # Makefiles have -I$(PWD)/include, and expect to be run in their directory.
                cwd=top,
                env={**env, "PWD": str(top)},
                log=log,
                check=False,
            )

    def _variables(self, surroundings: Surroundings) -> list[str]:
        # gdb and a WARN in the kernel are to name the user's file, not the copy. Of several maps
        # that fit, gcc uses the last.
        maps = " ".join(
            # The shell reads it: the user's directories may have spaces.
            shlex.quote(f"-ffile-prefix-map={copy}={str(original).rstrip('/')}")
            for copy, original in surroundings.originals()
        )
        return self._tools.variables(self._cache, f"KCFLAGS={maps}")

    def _is_own(self, path: Path) -> bool:
        return path.is_relative_to(self._path.resolve())

    def _is_outside(self, file: Path, surroundings: Surroundings, headers: Path) -> bool:
        """Whether a file is neither the module's own nor the kernel's."""
        inside = [surroundings.root, self._path, headers, self._cache.root]
        inside += [tree for tree in (self._kernel.source, self._kernel.debug_source) if tree]
        return not any(file.is_relative_to(directory.resolve()) for directory in inside)


def _keys(entries: dict[Path, Entry]) -> dict[str, str]:
    return {str(directory): entry.key for directory, entry in entries.items()}


def _modules_in(top: Path) -> list[Path]:
    """Return the modules that the last make has built (modules.order), not those of earlier ones.

    It names them by path, by their objects since 6.2, and from the directory since 6.13
    (scripts/Makefile.build).
    """
    order = top / "modules.order"
    lines = order.read_text().split() if order.is_file() else []
    files = [(top / line.removeprefix("kernel/")).with_suffix(".ko") for line in lines]
    return [file for file in files if file.is_file()]
