"""From a SPEC to a kernel, which is taken from the cache or built."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ..arch import X86_64, Arch
from ..cache import Cache, Entry
from ..errors import ConfigError, KgdbError
from ..progress import Progress
from ..settings import Settings, is_shipped
from . import _patch
from ._config import Config, Lost, Request, lost, missing, parse, render
from ._model import FACTS, HEADERS, Kernel, headers_name, numbers
from ._owned import CheckedOut, Unpacked
from ._recipe import Recipe, lsmod, recipe
from ._source import BuildTree, Source, UserTree, identity, with_patches
from ._sources import NoSources, SourceArchive, SourceDirectory, SourceFiles
from ._spec import BuildDir, Revision, SourceTree, Tarball
from ._spec import parse as parse_spec
from ._stop_layout import FACT, StopLayout, stop_layout
from ._toolchain import Toolchain, check_tools, toolchain

if TYPE_CHECKING:
    from ._make import Make
    from ._object_pool import ObjectPool

# Part of every key: to be increased when the same inputs are to give another kernel.
_RECIPE: Final = "2"

# About how many jobs `make` has on a 6.x kernel: the total that the first build reports.
_JOBS: Final = {"minimal": 2000, "defconfig": 4600, "distro": 4300, "distro-full": 29000}


def prepare(settings: Settings, spec: str, cache: Cache, progress: Progress) -> Kernel:
    """Return the kernel that a SPEC names, and build it first if it is not in the cache.

    :raises ConfigError: there is no such kernel, a configuration symbol was dropped, or a program
        is missing.
    :raises BuildError: it does not compile, or a patch does not apply.
    """
    arch = X86_64
    options = _build_options(settings)
    if is_shipped(spec):
        if options:
            raise ConfigError(
                f"{spec} is used as it was shipped: {', '.join(options)} cannot apply to it",
                hint="name a source to build: distro, a source tree, a tarball",
            )
        return _shipped(settings, spec, cache, progress)
    named = parse_spec(spec, arch)
    if isinstance(named, BuildDir) or (
        isinstance(named, SourceTree) and named.built and not options
    ):
        if options:
            raise ConfigError(
                f"{named.path} is a build directory, used as it is: {', '.join(options)} cannot "
                "apply to it",
                hint="name the source tree instead",
            )
        from . import _prebuilt

        origin = settings.origin("source")
        return _prebuilt.use(
            spec,
            named.path,
            arch,
            cache,
            stub=settings.stub,
            source=settings.source,
            origin=origin,
        )
    if settings.source is not None:
        raise _source_is_known(settings, spec)
    patches = [patch for path in settings.patch for patch in _patch.read(path)]
    source: Source
    if isinstance(named, Tarball):
        source = Unpacked(named.path, patches, cache, progress)
    elif isinstance(named, Revision):
        source = CheckedOut(named.tree, named.revision, patches, cache, progress)
    else:
        source = UserTree(named, patches, arch, cache, progress)
    name = with_patches(source.shown(spec), patches)
    return _Builder(settings, spec, name, source, arch, cache, progress).kernel()


def _shipped(settings: Settings, spec: str, cache: Cache, progress: Progress) -> Kernel:
    kind, _, name = spec.partition(":")
    if kind == "package":
        from . import _package

        if settings.source is not None:
            raise _source_is_known(settings, spec)
        return _package.use(name, cache, progress, stub=settings.stub)
    from . import _installed

    return _installed.use(
        name,
        cache,
        progress,
        stub=settings.stub,
        source=settings.source,
        origin=settings.origin("source"),
    )


def _source_is_known(settings: Settings, spec: str) -> ConfigError:
    return ConfigError(
        f"{settings.origin('source')} is for a build directory or release:, and the source of "
        f"{spec} is known",
        hint="leave it out",
    )


def _build_options(settings: Settings) -> list[str]:
    """Return the options that require a kernel to be built."""
    names = [
        f"--kgdb-{name}"
        for name, given in (
            ("fragment", settings.fragment),
            ("set", settings.set),
            ("patch", settings.patch),
        )
        if given
    ]
    if "config" in settings.origins:
        names.insert(0, settings.origin("config"))
    return names


class _Builder:
    """Builds one kernel, or takes it from the cache."""

    def __init__(
        self,
        settings: Settings,
        spec: str,
        name: str,
        source: Source,
        arch: Arch,
        cache: Cache,
        progress: Progress,
    ) -> None:
        self._settings, self._source = settings, source
        self._spec, self._name = spec, name
        self._arch, self._cache, self._progress = arch, cache, progress
        self._tools: Toolchain = toolchain(cache, settings.make)
        self._recipe: Recipe = recipe(settings, self._source_version())

    def kernel(self) -> Kernel:
        key = self._key()
        entry = self._cache.make(
            "kernel",
            key,
            self._build,
            label=self._label,
            about={
                "spec": self._name,
                "config": self._settings.config,
                "fragment": [path.name for path in self._settings.fragment],
                "set": list(self._settings.set),
                "make": list(self._settings.make),
            },
        )
        facts: dict[str, Any] = json.loads((entry.path / FACTS).read_text())
        inexact = tuple(facts.get("inexact", ()))
        for line in inexact:
            self._progress.say(line)
        release, top = facts["release"], Path(facts["debug_source"])
        modules = entry.path / "lib/modules" / release
        vmlinux = entry.path / "vmlinux"
        source, lock = self._source.directory, None
        if SourceArchive.is_in(entry.path):
            sources = self._archive(entry, top)
        elif (lock := self._source.find()) is not None:
            source, sources = lock.tree, self._directory(lock, top)
        else:
            sources = NoSources(top)
        if FACT in facts:
            layout = StopLayout.load(facts[FACT])
        else:  # published by an older version
            layout = stop_layout(vmlinux, key, self._cache)
        return Kernel(
            spec=self._spec,
            name=self._name,
            arch=self._arch,
            release=release,
            version=numbers(release),
            vmlinux=vmlinux,
            image=entry.path / Path(self._arch.image).name,
            config=Config(entry.path / ".config"),
            build_id=facts["build_id"],
            source=source,
            debug_source=top,
            build_dir=None,
            modules_dir=modules if modules.is_dir() else None,
            headers=entry.path / HEADERS,
            compiler=facts["compiler"],
            key=key,
            stop_layout=layout,
            sources=sources,
            source_lock=lock,
            find_source=self._find_source,
            inexact=inexact,
        )

    def _archive(self, entry: Entry, top: Path) -> SourceFiles:
        """Return the source files that are kept in an entry."""
        name = f"sources-{entry.key[:40]}"
        state_dir = self._cache.workdir_path("sources", name)
        headers = self._cache.workdir_path("kit", headers_name(entry.key)) / "headers"
        return SourceArchive(
            entry.path,
            self._name,
            state_dir / "src",
            lambda: self._sources_locked(name),
            tops=(top, headers),
        )

    def _directory(self, build_tree: BuildTree, top: Path) -> SourceFiles:
        """Return the source files of an entry that an older version has published."""
        worktree = build_tree.worktree
        if worktree is None:
            return SourceDirectory(build_tree.tree, top, compared=self._source.compared)
        has, content = worktree.has, self._source.content
        return SourceDirectory(build_tree.tree, top, unchanged=lambda: has(content))

    @contextlib.contextmanager
    def _sources_locked(self, name: str) -> Iterator[None]:
        with self._cache.lock(name, label=f"the sources of {self._name}"):
            self._cache.workdir("sources", name)
            yield

    def _find_source(self) -> tuple[Path | None, object]:
        """Return a directory with the source, and what keeps it as it is."""
        build_tree = self._source.find()
        if build_tree is None:
            with contextlib.suppress(KgdbError), self._source.open() as build_tree:
                pass
        return (None, None) if build_tree is None else (build_tree.tree, build_tree)

    @property
    def _label(self) -> str:
        base = self._recipe.base
        if base == "file":
            base = Path(self._settings.config).name
        return f"kernel {self._source.label} ({base})"

    def _source_version(self) -> str:
        if not self._settings.config.startswith("distro"):
            return ""
        if version := self._source.version:
            return version
        with self._source.open():
            return self._source.version

    def _key(self) -> str:
        parts = {
            "recipe": _RECIPE,
            "arch": self._arch.name,
            "source": self._source.content,
            "config": self._recipe.key,
            "compiler": self._tools.version,
            "commit": self._source.scm() if self._recipe.names_its_commit else "",
        }
        if self._tools.given:  # without them, the keys are those of earlier versions
            parts["make"] = "\n".join(self._tools.given)
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def _build(self, target: Path) -> None:
        # Imported lazily, as in `_check`: a warm start builds nothing.
        from ._make import Make
        from ._publish import publish
        from ._source_record import record_kernel

        check_tools()
        with contextlib.ExitStack() as stack:
            build_tree = stack.enter_context(self._source.open(self._base))
            pool = self._objects(build_tree)
            place = stack.enter_context(
                pool.open(self._cache, self._base, self._variant, self._label)
            )
            state_dir, objects = place.state_dir, place.objects
            flags = [f"{name}={place.flags}" for name in ("KCFLAGS", "KAFLAGS") if place.flags]
            make = Make(
                build_tree.tree,
                objects,
                state_dir,
                arch=self._arch,
                variables=self._tools.variables(self._cache, *flags),
                jobs=self._settings.jobs,
                progress=self._progress,
            )
            make.begin()
            self._configure_if_needed(make, build_tree.tree, state_dir / "configured")
            targets = [self._arch.image_target]
            if parse((objects / ".config").read_text()).get("MODULES") == "y":
                targets.append("modules")
            make.build(["vmlinux", *targets], self._label, _JOBS.get(self._recipe.base))
            shown = (build_tree.debug_tree, place.debug_objects)
            record_kernel(objects, build_tree.tree, shown, state_dir, target)
            self._source.check()
            facts = {
                "compiler": self._tools.version,
                "config": self._recipe.base,
                "debug_source": str(build_tree.debug_tree),
                "inexact": self._source.inexact,
            }
            publish(objects, build_tree.tree, state_dir, target, self._arch, facts)

    @property
    def _base(self) -> str:
        """The name of the base configuration, with the choice of tools."""
        base = f"{self._arch.name}-{self._recipe.base}"
        if self._tools.given:
            given = "\n".join(self._tools.given)
            base += f"-{hashlib.sha256(given.encode()).hexdigest()[:8]}"
        return base

    @property
    def _variant(self) -> str:
        """What distinguishes the configuration from others on its base."""
        if not self._recipe.requests and self._recipe.base != "file":
            return ""
        return self._recipe.key[:8]

    def _objects(self, build_tree: BuildTree) -> ObjectPool:
        """Return the build directories of a tree."""
        from ._object_pool import ObjectsApart, ObjectsInTree

        tree, state_dir = build_tree.tree, build_tree.state_dir
        if state_dir is not None:
            return ObjectsInTree(state_dir, tree, build_tree.debug_tree)
        return ObjectsApart(self._cache, f"build-{identity(tree.name, tree.resolve())}")

    def _configure_if_needed(self, make: Make, tree: Path, stamp: Path) -> None:
        """Configure, unless nothing has changed that the configuration depends on."""
        sign = f"{_RECIPE} {self._recipe.key} {self._tools.version} {self._source.kconfig()}"
        config = make.objects / ".config"
        if config.exists() and stamp.exists() and stamp.read_text() == sign:
            return
        stamp.unlink(missing_ok=True)
        self._configure(make, tree, stamp.with_name("lsmod"))
        stamp.write_text(sign)

    def _configure(self, make: Make, tree: Path, listing: Path) -> None:
        """Write the `.config`, and check that all requested symbols are in it."""
        config = make.objects / ".config"
        before = (config.read_bytes(), config.stat()) if config.exists() else None
        base: dict[str, str] = {}
        if self._recipe.target is not None:
            make.configure(self._recipe.target)
            base = parse(config.read_text())
        config.write_text(render(self._recipe.over(base)))
        make.configure("olddefconfig")
        if self._recipe.trimmed:
            listing.write_text(lsmod())
            make.configure("localmodconfig", variables=[f"LSMOD={listing}"])
            # It also drops modules that were requested by name.
            config.write_text(render(self._recipe.with_requests(parse(config.read_text()))))
            make.configure("olddefconfig")
        self._check(parse(config.read_text()), tree)
        if before is not None and before[0] == config.read_bytes():
            # With a new time on the same content, kbuild would check all symbols.
            os.utime(config, ns=(before[1].st_atime_ns, before[1].st_mtime_ns))

    def _check(self, result: dict[str, str], tree: Path) -> None:
        gone = lost(self._recipe.requests.values(), result)
        unset = [
            Lost(Request(name, "y", f"needed for {purpose}"), result.get(name, "n"))
            for name, purpose in missing(result, kgdb=True).items()
        ]
        reported = {item.request.name for item in gone}
        gone += [item for item in unset if item.request.name not in reported]
        if gone:
            from ._kconfig import explain

            explained = explain(gone, tree, self._arch.name, result)
            count = "a symbol" if len(gone) == 1 else f"{len(gone)} symbols"
            lines = "\n".join(f"  {item}" for item in explained)
            raise ConfigError(
                f"{self._label}: {count} did not survive olddefconfig:\n{lines}",
                hint="ask for what they depend on, too, by --kgdb-set or --kgdb-fragment",
            )
        if self._recipe.base == "minimal":
            overridden = self._recipe.requests
            asked = [
                Request(name, value, "minimal")
                for name, value in self._recipe.symbols.items()
                if name not in overridden
            ]
            if dropped := lost(asked, result):
                names = ", ".join(str(item.request) for item in dropped)
                self._progress.say(f"{self._label}: this kernel does not have {names}")
