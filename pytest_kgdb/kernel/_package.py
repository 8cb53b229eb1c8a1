"""A Debian kernel as shipped: image, debug symbols, headers and source from its packages."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from ..cache import Cache, Entry, write_atomically
from ..errors import BuildError, ConfigError
from ..process import CommandFailed, run, which
from ..progress import Progress
from ._apt import Apt, NoSuchPackage, Package, Replaced
from ._debian_source import DebianSource
from ._model import FACTS, Kernel
from ._shipped import Parts, as_kernel, load_facts, read_facts

_RECIPE: Final = "1"  # part of every key: to be increased when the same packages give other files
_UNPACK_SECONDS: Final = 900.0
_IMAGE: Final = re.compile(r"linux-image-(\d[\w.+~-]*?)(-unsigned)?")
_NEAR: Final = 3  # similar names that an error shows
_DEPTH: Final = 4  # metapackages that lead to one another


class Resolved(NamedTuple):
    """The packages of one kernel."""

    release: str
    image: Package
    debug: Package


def use(
    name: str, cache: Cache, progress: Progress, *, stub: str, apt: Apt | None = None
) -> Kernel:
    """Return the kernel in a package, which is downloaded and unpacked if need be.

    :param name: of an image's package, or of a metapackage that leads to one.
    :param stub: whose stub gdb is to be attached to; `kgdb` must be in the kernel.
    :param apt: by default, the host's.
    :raises ConfigError: there is none, it cannot be had, or it lacks something.
    :raises BuildError: a downloaded file is damaged.
    """
    directory = cache.workdir("apt", "lists")
    apt = apt or Apt(
        directory,
        progress,
        lock=lambda: cache.lock("lists", label="the lists of Debian's packages"),
    )
    resolver = _Resolver(apt, cache, directory / "resolved")
    resolved = resolver.kernel(name)
    try:
        entry = _entry(name, resolved, apt, cache)
    except Replaced:
        # The lists are newer now, and a metapackage may lead to another one.
        again = resolver.kernel(name)
        if again == resolved:
            raise
        resolved, entry = again, _entry(name, again, apt, cache)
    facts = load_facts(json.loads((entry.path / FACTS).read_text()))
    release = facts.release
    modules = entry.path / "lib/modules" / release
    debug_modules = entry.path / "debug/lib/modules" / release
    source = DebianSource(
        release, resolved.image.version, facts.source_prefixes, apt, cache, progress
    )
    return as_kernel(
        f"package:{name}",
        f"package:{resolved.image.name} ({resolved.image.version})",
        entry.key,
        Parts(
            entry.path / "vmlinuz",
            entry.path / "vmlinux",
            entry.path / "config",
            modules if modules.is_dir() else None,
            debug_modules if debug_modules.is_dir() else None,
        ),
        facts,
        cache,
        stub=stub,
        source=source.directory if source.is_local else None,
        sources=source,
        make_headers=lambda: _headers(resolved, resolver, apt, cache),
    )


class _Resolver:
    """From names to packages; what was found once is known without lists and network.

    :param apt: asked when its lists have changed.
    :param last: a directory for the last answers.
    """

    def __init__(self, apt: Apt, cache: Cache, last: Path) -> None:
        self._apt, self._cache, self._last = apt, cache, last

    def kernel(self, name: str) -> Resolved:
        """Return the packages of the kernel that a package's name stands for."""
        release, *packages = self._remembered(f"image {name}", lambda: self._find_kernel(name))
        return Resolved(str(release), *(Package(*package) for package in packages))

    def headers(self, resolved: Resolved) -> list[Package]:
        """Return the packages of a kernel's headers, those of the headers' own first."""
        key = f"headers {resolved.release} {resolved.image.version}"
        answer = self._remembered(key, lambda: self._find_headers(resolved))
        return [Package(*package) for package in answer]

    def _remembered(self, key: str, find: Callable[[], Sequence[object]]) -> list[Any]:
        path = self._last / hashlib.sha256(key.encode()).hexdigest()[:32]

        def compute() -> str:
            answer = json.dumps(find())
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, answer.encode())
            return answer

        try:
            text = self._cache.memo("packages", f"{_RECIPE} {self._apt.sign()} {key}", compute)
        except NoSuchPackage:
            raise
        except ConfigError:  # no lists, and no network
            try:
                text = path.read_text()
            except OSError:
                text = ""
            if not text:
                raise
        answer: list[Any] = json.loads(text)
        return answer

    def _find_kernel(self, name: str) -> list[object]:
        package = self._image(name)
        match = _IMAGE.fullmatch(package.name)
        assert match is not None
        debug_name = f"linux-image-{match[1]}-dbg"
        try:
            debug = self._apt.show(debug_name, package.version)
        except NoSuchPackage as error:
            raise NoSuchPackage(
                f"package:{name}: {package.label} has no debug symbols: {error.message}",
                hint="is the archive's component with debug symbols among apt's sources?",
            ) from error
        return [match[1], package, debug]

    def _image(self, name: str) -> Package:
        """Follow metapackages to the image's own package."""
        asked = name
        for _ in range(_DEPTH):
            try:
                package = self._apt.show(name)
            except NoSuchPackage as error:
                raise self._unknown(asked, name) from error
            if _IMAGE.fullmatch(name) and not name.endswith("-dbg"):
                return package
            leads_to = [
                needed
                for needed, _ in package.dependencies()
                if needed.startswith("linux-image-") and not needed.endswith("-dbg")
            ]
            if not leads_to:
                break
            name = leads_to[0]
        close = self._close(asked)
        raise ConfigError(
            f"package:{asked}: that package has no kernel image in it, nor does it lead to one",
            hint=f"name an image's package: {', '.join(close)}" if close else None,
        )

    def _unknown(self, asked: str, name: str) -> NoSuchPackage:
        close = self._close(name)
        via = "" if asked == name else f", to which {asked} leads"
        return NoSuchPackage(
            f"package:{asked}: apt knows no package {name}{via}",
            hint=f"did you mean {' or '.join(close)}?"
            if close
            else "apt-cache search --names-only linux-image",
        )

    def _close(self, name: str) -> list[str]:
        import difflib  # needed for messages only

        names = [
            other
            for other in self._apt.names("linux-image-")
            if not other.endswith(("-dbg", "-template"))
        ]
        close = difflib.get_close_matches(name, names, _NEAR, 0.5)
        if name.endswith("-dbg") and name.removesuffix("-dbg") in names:
            return [name.removesuffix("-dbg")]
        return close

    def _find_headers(self, resolved: Resolved) -> list[Package]:
        """Return the headers' package, and those that it needs, but not the compiler's."""
        packages: dict[str, Package] = {}
        queue = [(f"linux-headers-{resolved.release}", resolved.image.version)]
        for name, version in queue:
            if name not in packages:
                packages[name] = self._apt.show(name, version)
                queue += [
                    (needed, exact)
                    for needed, exact in packages[name].dependencies()
                    if needed.startswith(("linux-headers-", "linux-kbuild-"))
                ]
        return list(packages.values())


def _digest(*packages: Package) -> str:
    text = "\n".join([_RECIPE, *(f"{package.label} {package.sha256}" for package in packages)])
    return hashlib.sha256(text.encode()).hexdigest()


def _entry(name: str, resolved: Resolved, apt: Apt, cache: Cache) -> Entry:
    """Return the cache's entry with the parts of a kernel."""
    label = f"kernel {resolved.image.label}"
    key = _digest(resolved.image, resolved.debug)

    def build(target: Path) -> None:
        unpacked = target / "unpacked"
        _unpack([resolved.image, resolved.debug], key, unpacked, apt, cache)
        boot, debug = unpacked / "boot", unpacked / "usr/lib/debug"
        release = resolved.release
        try:
            (boot / f"vmlinuz-{release}").rename(target / "vmlinuz")
            (boot / f"config-{release}").rename(target / "config")
            (debug / f"boot/vmlinux-{release}").rename(target / "vmlinux")
            (debug / f"boot/System.map-{release}").rename(target / "System.map")
        except FileNotFoundError as error:
            raise ConfigError(
                f"{resolved.image.label} and {resolved.debug.name} have no {error.filename}"
            ) from error
        for source, place in ((unpacked, target), (debug, target / "debug")):
            # Since Debian 13 the modules are below /usr.
            for modules in (source / "lib/modules", source / "usr/lib/modules"):
                if (modules / release).is_dir():
                    (place / "lib/modules").mkdir(parents=True, exist_ok=True)
                    (modules / release).rename(place / "lib/modules" / release)
                    break
        shutil.rmtree(unpacked)
        for link in ("build", "source"):
            (target / "lib/modules" / release / link).unlink(missing_ok=True)
        facts = read_facts(target / "vmlinuz", target / "vmlinux", resolved.image.label)
        (target / FACTS).write_text(json.dumps(facts._asdict(), indent=1))

    about = {"package": resolved.image.label, "spec": f"package:{name}"}
    return cache.make("package", key, build, label=label, about=about)


def _headers(resolved: Resolved, resolver: _Resolver, apt: Apt, cache: Cache) -> Path:
    """Return the directory to build modules against.

    The packages expect to be in /usr/src: what names that is made relative.
    """
    try:
        packages = resolver.headers(resolved)
    except NoSuchPackage as error:
        raise NoSuchPackage(
            f"no module can be built for {resolved.image.label}: {error.message}", hint=error.hint
        ) from error
    directory = f"usr/src/linux-headers-{resolved.release}"
    key = _digest(*packages)

    def build(target: Path) -> None:
        _unpack(packages, key, target, apt, cache)
        makefile = target / directory / "Makefile"
        # make runs in that directory; what is included finds its own place by realpath.
        makefile.write_text(
            re.sub(r"^include /usr/src/", "include ../", makefile.read_text(), flags=re.MULTILINE)
        )
        shutil.rmtree(target / "usr/share", ignore_errors=True)
        shutil.rmtree(target / "lib", ignore_errors=True)  # links to /usr/src

    label = f"the headers of {resolved.image.label}"
    about = {"package": packages[0].label, "with": [package.label for package in packages[1:]]}
    return cache.make("headers", key, build, label=label, about=about).path / directory


def _unpack(packages: Sequence[Package], key: str, target: Path, apt: Apt, cache: Cache) -> None:
    """Download packages, and unpack them into a directory as this user."""
    program = which("dpkg-deb", package="dpkg")
    name = f"download-{key[:24]}"
    downloads = cache.workdir("apt", name)
    try:
        with cache.lock(name, label=packages[0].label):
            files = apt.download(packages, downloads)
            target.mkdir(exist_ok=True)
            with apt.progress.stage(f"unpacking {packages[0].label}"):
                for file in files:
                    run([program, "-x", file, target], name="dpkg-deb", timeout=_UNPACK_SECONDS)
            with contextlib.suppress(OSError):
                shutil.rmtree(downloads)
    except CommandFailed as error:
        full = "No space left" in error.output
        raise BuildError(
            f"{packages[0].label} could not be unpacked: {error.message}",
            hint="make room: pytest-kgdb cache prune" if full else None,
        ) from error
