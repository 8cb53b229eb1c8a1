"""A kernel that is installed on this host: `release:VERSION`, or `release:` for the running one."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from ..cache import Cache
from ..errors import ConfigError
from ..host import Host
from ..process import run, which
from ..progress import Progress
from ._elsewhere import checked_source, source_files
from ._fingerprint import state_of
from ._image import image_build_id, image_release
from ._model import Kernel
from ._shipped import Facts, Parts, as_kernel, load_facts, read_facts

__all__ = ["installed_releases", "use"]

_FIND_SECONDS: Final = 1800.0

# Where distributions put them, as paths below the root; {release} is what `uname -r` prints.
# Debian; Fedora and openSUSE Tumbleweed; openSUSE Leap.
_IMAGES: Final = (
    "boot/vmlinuz-{release}",
    "lib/modules/{release}/vmlinuz",
    "usr/lib/modules/{release}/vmlinuz",
    "lib/modules/{release}/bzImage",
)
_CONFIGS: Final = (
    "boot/config-{release}",
    "lib/modules/{release}/config",
    "usr/lib/modules/{release}/config",
    "lib/modules/{release}/build/.config",  # Arch: linux-headers
)
# Debian; Fedora; Arch (linux-debug); openSUSE.
_VMLINUXES: Final = (
    "usr/lib/debug/boot/vmlinux-{release}",
    "usr/lib/debug/lib/modules/{release}/vmlinux",
    "usr/lib/debug/usr/lib/modules/{release}/vmlinux",
    "usr/lib/debug/usr/lib/modules/{release}/vmlinux.debug",
    "usr/lib/debug/lib/modules/{release}/vmlinux.debug",
    "usr/lib/debug/boot/vmlinux-{release}.debug",
    "lib/modules/{release}/build/vmlinux",
    "lib/modules/{release}/vmlinux",
)
_UNPACKERS: Final = {"gz": ("gzip", "gzip"), "xz": ("xz", "xz-utils"), "zst": ("zstd", "zstd")}
_BATCH: Final = 500  # files on one command line

_MODULES: Final = ("lib/modules/{release}", "usr/lib/modules/{release}")
_DEBUG_MODULES: Final = (
    "usr/lib/debug/lib/modules/{release}",
    "usr/lib/debug/usr/lib/modules/{release}",
)


def use(
    release: str,
    cache: Cache,
    progress: Progress,
    *,
    stub: str,
    source: Path | None = None,
    origin: str = "",
    root: Path = Path("/"),
    running: str | None = None,
) -> Kernel:
    """Return an installed kernel.

    :param release: what `uname -r` prints on it; "" for the running one's.
    :param stub: whose stub gdb is to be attached to; `kgdb` must be in the kernel.
    :param source: the directory that has its source here.
    :param origin: the option that says so.
    :param root: the directory in which a system is installed.
    :param running: the running kernel's release; by default this host's.
    :raises ConfigError: a part of it is missing, or is of another build; or the source is of
        another version.
    """
    spec = f"release:{release}"
    release = release or running or platform.release()
    name = f"release:{release}"
    image = _first(root, _IMAGES, release)
    if image is None:
        raise _not_installed(name, release, root)
    if not os.access(image, os.R_OK):
        raise ConfigError(
            f"{name}: {image} cannot be read",  # Ubuntu's is for root only
            hint=f"sudo chmod a+r {image}",
        )
    if (shown := image_release(image)) and shown != release:
        raise ConfigError(f"{name}: {image} is an image of {shown}")
    config = _first(root, _CONFIGS, release)
    if config is None:
        raise ConfigError(
            f"{name}: there is no configuration: neither {_all(root, _CONFIGS, release)}",
            hint="install the kernel's headers (Arch: linux-headers)",
        )
    vmlinux = _first(root, _VMLINUXES, release) or _by_debuginfod(image, name, progress)
    if vmlinux is None:
        raise ConfigError(
            f"{name}: there are no debug symbols: neither {_all(root, _VMLINUXES, release)}",
            hint=_debug_package(release, root),
        )
    facts, key = _facts(image, vmlinux, config, name, cache)
    build = root / "lib/modules" / release / "build"
    if source is not None:
        checked_source(source, ".".join(map(str, facts.version)), name, origin)
    tops = facts.source_prefixes
    likely = Path(tops[0]) if tops and tops[0].startswith("/") and Path(tops[0]).is_dir() else None
    return as_kernel(
        spec,
        name,
        key,
        Parts(
            image,
            vmlinux,
            config,
            _modules(root, release, key, cache),
            _first(root, _DEBUG_MODULES, release, directory=True),
        ),
        facts,
        cache,
        stub=stub,
        sources=source_files(source, likely, *tops, built=vmlinux.stat().st_mtime),
        source=source or likely,
        build_dir=build.resolve() if (build / "Makefile").is_file() else None,
    )


def installed_releases(root: Path = Path("/")) -> list[str]:
    """Return the releases of the kernels that are installed."""
    releases = set()
    for path in root.glob("boot/vmlinuz-*"):
        releases.add(path.name.removeprefix("vmlinuz-"))
    for top in ("lib/modules", "usr/lib/modules"):
        for path in (root / top).glob("*/vmlinuz"):
            releases.add(path.parent.name)
    return sorted(releases)


def _first(
    root: Path, places: tuple[str, ...], release: str, *, directory: bool = False
) -> Path | None:
    for path in _below(root, places, release):
        if path.is_dir() if directory else path.is_file():
            return path
    return None


def _below(root: Path, places: tuple[str, ...], release: str) -> Iterator[Path]:
    for place in places:
        yield root / place.format(release=release)


def _all(root: Path, places: tuple[str, ...], release: str) -> str:
    return " nor ".join(str(path) for path in _below(root, places, release))


def _modules(root: Path, release: str, key: str, cache: Cache) -> Path | None:
    """Return the directory of the modules; of compressed ones, of unpacked copies."""
    modules = _first(root, _MODULES, release, directory=True)
    if modules is None or not any(modules.rglob("*.ko.*z*")):
        return modules
    order = modules / "modules.order"
    status = (order if order.exists() else modules).stat()
    sign = hashlib.sha256(f"{modules} {status.st_size} {status.st_mtime_ns}".encode()).hexdigest()
    entry = cache.make(
        "modules",
        f"{key[:40]}-{sign[:16]}",
        lambda target: _unpack_modules(modules, target / "lib/modules" / release),
        label=f"the modules of {release}",
        about={"kernel": str(modules), "release": release},
    )
    return entry.path / "lib/modules" / release


def _unpack_modules(source: Path, target: Path) -> None:
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("build", "source", "vmlinuz*"))
    packed = {kind: sorted(target.rglob(f"*.ko.{kind}")) for kind in _UNPACKERS}
    for kind, (program, package) in _UNPACKERS.items():
        for first in range(0, len(packed[kind]), _BATCH):
            files = map(str, packed[kind][first : first + _BATCH])
            argv = [which(program, package=package), "-dqf", *files]
            run(argv, name=program, timeout=_FIND_SECONDS)
        for path in packed[kind]:
            path.unlink(missing_ok=True)  # zstd leaves it


def _not_installed(name: str, release: str, root: Path) -> ConfigError:
    import difflib  # needed for this message only

    releases = installed_releases(root)
    close = difflib.get_close_matches(release, releases, 1)
    if close:
        hint = f"did you mean release:{close[0]}?"
    elif releases:
        hint = f"installed are {', '.join(releases)}"
    else:
        hint = "no kernel is installed here; package:NAME downloads one (Debian)"
    return ConfigError(
        f"{name}: there is no image: neither {_all(root, _IMAGES, release)}", hint=hint
    )


def _debug_package(release: str, root: Path) -> str:
    """Return a hint: how the debug symbols are installed here."""
    command = Host.of(root).install_debug_symbols(release)
    command = command or "install the distribution's package of them"
    return f"{command}; or set DEBUGINFOD_URLS"


def _by_debuginfod(image: Path, name: str, progress: Progress) -> Path | None:
    """Return the vmlinux of an image's build id from a debuginfod server, if one is named.

    It is kept in the cache of debuginfod-find(1) itself.
    """
    program = shutil.which("debuginfod-find")
    if not os.environ.get("DEBUGINFOD_URLS", "").strip():
        return None
    build_id = image_build_id(image)
    if program is None or not build_id:
        progress.say(
            f"{name}: DEBUGINFOD_URLS is set, but "
            + ("debuginfod-find is not installed" if program is None else "the build id is unknown")
        )
        return None
    with progress.stage(f"asking debuginfod for the debug symbols of {name}"):
        result = run(
            [program, "debuginfo", build_id],
            name="debuginfod-find",
            timeout=_FIND_SECONDS,
            env=dict(os.environ),
            check=False,
        )
    path = Path((result.output.strip().splitlines() or [""])[-1])
    if result.status == 0 and path.is_file():
        return path
    progress.say(f"{name}: debuginfod has no debug symbols of build id {build_id}")
    return None


def _facts(image: Path, vmlinux: Path, config: Path, name: str, cache: Cache) -> tuple[Facts, str]:
    """Return the facts, which are cached until a file changes, and the kernel's key."""
    signs = []
    for file in (image, vmlinux, config):
        status = file.stat()
        signs.append(f"{file} {status.st_ino} {status.st_size} {status.st_mtime_ns}")

    def look() -> str:
        digest = hashlib.sha256()
        for file in (image, vmlinux, config):
            digest.update(state_of(file).digest.encode())
        facts = read_facts(image, vmlinux, name)
        return json.dumps({"facts": facts._asdict(), "key": digest.hexdigest()})

    loaded: dict[str, Any] = json.loads(cache.memo("installed", "\n".join(signs), look))
    return load_facts(loaded["facts"]), loaded["key"]
