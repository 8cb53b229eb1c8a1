"""External modules, built against a kernel (Documentation/kbuild/modules.rst)."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ..cache import Cache
from ..errors import BuildError, ConfigError
from ..process import run, which
from ..progress import Progress
from ._diagnose import first_error, fix
from ._fingerprint import FileState, content_key, is_product, state_of
from ._mirror import Mirror
from ._model import Kernel
from ._source import slug
from ._toolchain import environment, toolchain

_RECIPE: Final = "2"  # part of every key: to be increased when the same inputs give another module
_BUILD_SECONDS: Final = 3600.0
_UNPACK_SECONDS: Final = 300.0
_VERMAGIC: Final = re.compile(rb"\0vermagic=([^\0]+)")
_MAKEFILES: Final = ("Kbuild", "Makefile", "makefile")
# Documentation/kbuild/modules.rst: the assignment in a Makefile that builds a module.
_BUILDS_MODULES: Final = re.compile(r"^\s*obj-(?:m|\$[({]\w+[)}])\s*[:+]?=", re.MULTILINE)
_SUBDIRECTORIES: Final = 3  # how deep below the named directory a module is searched for


def build_module(kernel: Kernel, path: Path, cache: Cache, progress: Progress) -> list[Path]:
    """Return the modules of a directory, built for a kernel or taken from the cache.

    :param path: a directory with a Makefile or Kbuild for external modules; or a `.ko`, which is
        used as it is.
    :raises ConfigError: there is no module, or it was built for another kernel.
    :raises BuildError: it does not compile.
    """
    if "MODULES" not in kernel.config:
        raise ConfigError(
            f"{path}: the kernel {kernel.release} has no modules",
            hint="build it with CONFIG_MODULES=y",
        )
    if path.is_file():
        return [_given(kernel, path)]
    if _subdirectory(path) is None:
        raise ConfigError(
            f"{path} is not the source of a module: it has no Makefile and no Kbuild",
            hint="a Makefile with obj-m += NAME.o will do",
        )
    files = _files(path)
    tools = toolchain(cache)
    where = str(path.resolve())  # it is in the debug information
    parts = [_RECIPE, kernel.key, tools.version, content_key(files), where]
    key = hashlib.sha256("\n".join(parts).encode()).hexdigest()
    label = f"module {path.name} for {kernel.release}"

    def build(target: Path) -> None:
        _build(kernel, path, files, cache, progress, label, target)

    entry = cache.make("module", key, build, label=label, about={"source": where})
    return sorted(entry.path.rglob("*.ko"))


def vermagic(path: Path) -> str:
    """Return the release that a module was built for; "" if the file has none."""
    return _whole_vermagic(path).partition(" ")[0]


def _whole_vermagic(path: Path) -> str:
    match = _VERMAGIC.search(b"\0" + path.read_bytes())
    return match[1].decode(errors="replace").strip() if match else ""


def _given(kernel: Kernel, path: Path) -> Path:
    if path.suffix != ".ko":
        raise ConfigError(f"{path} is not a module: neither a directory nor a .ko")
    release = vermagic(path)
    if release != kernel.release:
        raise ConfigError(
            f"{path} was built for {release or 'no kernel at all'}, and this one is "
            f"{kernel.release}",
            hint=f"name its source directory instead: {path.parent}",
        )
    # The kernel compares the same string (kernel/module/main.c, check_modinfo).
    own = kernel.modules_dir and next(kernel.modules_dir.rglob("*.ko"), None)
    if own and (expected := _whole_vermagic(own)) != (actual := _whole_vermagic(path)):
        raise ConfigError(
            f"{path} was built for a kernel of another configuration: '{actual}', and this one's "
            f"is '{expected}'",
            hint=f"name its source directory instead: {path.parent}",
        )
    return path


def _subdirectory(path: Path) -> str | None:
    """Return the directory, relative to `path`, whose Makefile builds a module; None if none does.

    It is "." unless the Makefile of a project calls kbuild on a directory below.
    """
    here = [path / name for name in _MAKEFILES if (path / name).is_file()]
    if any(_BUILDS_MODULES.search(file.read_text(errors="replace")) for file in here):
        return "."
    for depth in range(1, _SUBDIRECTORIES + 1):
        below = sorted(
            file.parent
            for name in _MAKEFILES
            for file in path.glob("*/" * depth + name)
            if not any(part.startswith(".") for part in file.relative_to(path).parts)
            and _BUILDS_MODULES.search(file.read_text(errors="replace"))
        )
        if below:
            return str(below[0].relative_to(path)) if len(set(below)) == 1 else None
    return "." if here else None  # it may include one that does


def _files(path: Path) -> dict[str, FileState]:
    """Return the states of a module's source files by name."""
    states: dict[str, FileState] = {}
    for directory, names, files in os.walk(path):
        names[:] = sorted(name for name in names if not name.startswith("."))
        for name in files:
            if not name.startswith(".") and not is_product(name) and not name.endswith(".mod.c"):
                file = Path(directory) / name
                states[str(file.relative_to(path))] = state_of(file)
    return states


def _build(
    kernel: Kernel,
    path: Path,
    files: dict[str, FileState],
    cache: Cache,
    progress: Progress,
    label: str,
    target: Path,
) -> None:
    where = hashlib.sha256(f"{path.resolve()}\n{kernel.key}".encode()).hexdigest()[:16]
    name = f"module-{slug(path.name)}-{where}"
    with _headers(kernel, cache) as headers, cache.lock(name, label=label):
        state_dir = cache.workdir("module", name)
        mirror = Mirror(state_dir)
        mirror.sync(files, {name: path / name for name in files}, progress)
        log = state_dir / "make.log"
        log.unlink(missing_ok=True)
        tools = toolchain(cache)
        top = mirror.root / (_subdirectory(path) or ".")
        argv = [
            which("make", package="make"),
            f"--directory={headers}",
            f"M={top}",
            f"ARCH={kernel.arch.name}",
            f"--jobs={len(os.sched_getaffinity(0))}",
            *tools.variables(),
            # gdb and a WARN in the kernel are to name the user's file, not the copy.
            f"KCFLAGS=-ffile-prefix-map={mirror.root}={path.resolve()}",
            "modules",
        ]
        with progress.stage(f"building {label}"):
            result = run(
                argv,
                name="make",
                timeout=_BUILD_SECONDS,
                # Makefiles have -I$(PWD)/include, and expect to be run in their directory.
                cwd=top,
                env={**environment(), "PWD": str(top)},
                log=log,
                check=False,
            )
        if result.status != 0:
            error = first_error(result.output).replace(str(mirror.root), str(path))
            raise BuildError(
                f"{label} does not compile:\n{error}", log=log, hint=fix(result.output)
            )
        built = sorted(mirror.root.rglob("*.ko"))
        if not built:
            raise BuildError(
                f"{label}: make succeeded, but there is no .ko",
                log=log,
                hint="its Makefile must say obj-m += NAME.o",
            )
        for module in built:
            shutil.copy2(module, target / module.name)


@contextlib.contextmanager
def _headers(kernel: Kernel, cache: Cache) -> Iterator[Path]:
    """Hold the directory to build against: the user's build, or the unpacked headers package."""
    if kernel.build_dir is not None:
        yield kernel.build_dir
        return
    assert kernel.headers is not None
    name = f"kit-{kernel.key[:40]}"  # names in the cache stay as earlier versions wrote them
    with cache.lock(name, label=f"the headers of {kernel.release}"):
        state_dir = cache.workdir("kit", name)
        headers = state_dir / "headers"
        if not headers.is_dir():
            temporary = state_dir / "unpacking"
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir()
            argv = [which("tar", package="tar"), "-C", str(temporary), "-xzf", str(kernel.headers)]
            run(argv, timeout=_UNPACK_SECONDS)
            temporary.rename(headers)
        yield headers
