"""The modules that a guest gets."""

from __future__ import annotations

import gzip
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from ..errors import ConfigError
from ..process import run, which
from ._model import Kernel
from ._publish import depmod

_NOT_MODULES: Final = shutil.ignore_patterns("build", "source")
_EXTERNAL: Final = "extra"
_LEVEL: Final = 4  # of gzip: with 9, four times as long for 4 % less
_SECONDS: Final = 600.0  # Debian's whole kernel has four thousand modules


def collect_modules(kernel: Kernel, modules: Sequence[Path], root: Path) -> None:
    """Copy a kernel's modules and external ones to `lib/modules`, without debug information.

    gdb reads the debug information from the files on the host.

    :param modules: the external modules.
    :param root: the directory above `lib/modules`.
    :raises ConfigError: two modules have the same name.
    """
    if kernel.modules_dir is None and not modules:
        return
    top = root / "lib/modules" / kernel.release
    own = kernel.guest_modules
    if own is not None:
        shutil.copytree(own, top, ignore=_NOT_MODULES)
        if not any(top.rglob("*.ko*")) and not modules:
            return
    _copy_external(modules, top)
    # What was shipped is stripped, and may be signed: strip would take the signature away.
    _strip(top if kernel.guest_modules_dir is None else top / _EXTERNAL)
    depmod(root, kernel.release)


def compress_modules(root: Path) -> None:
    """Compress the modules below a directory by gzip; their names stay.

    busybox's modprobe and insmod recognise the content. In a file system in memory, a
    distribution's modules would otherwise take half of a small guest's.
    """
    files = sorted(root.rglob("*.ko"))
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:  # zlib runs without the GIL
        list(pool.map(_compress, files))


def _compress(path: Path) -> None:
    path.write_bytes(gzip.compress(path.read_bytes(), compresslevel=_LEVEL, mtime=0))


def collect_external(kernel: Kernel, modules: Sequence[Path], root: Path) -> None:
    """Copy external modules alone, with indexes that are of the kernel's own modules, too.

    :param root: the directory above `lib/modules`.
    :raises ConfigError: two modules have the same name.
    """
    top = root / "lib/modules" / kernel.release
    top.mkdir(parents=True)
    _copy_external(modules, top)
    _strip(top)
    links: list[Path] = []
    own = kernel.guest_modules
    for path in own.iterdir() if own is not None else ():
        if path.name in _NOT_MODULES(str(own), [path.name]) or path.name == _EXTERNAL:
            continue
        if path.is_dir():  # for depmod to see; a thousand modules are not copied for it
            links.append(top / path.name)
            links[-1].symlink_to(path.resolve())
        else:
            shutil.copyfile(path, top / path.name)
    depmod(root, kernel.release)
    for link in links:
        link.unlink()


def _copy_external(modules: Sequence[Path], top: Path) -> None:
    for path in modules:
        (top / _EXTERNAL).mkdir(parents=True, exist_ok=True)
        target = top / _EXTERNAL / path.name
        if target.exists():
            raise ConfigError(f"there are two modules named {path.name}: {path} is the second")
        shutil.copyfile(path, target)


def _strip(top: Path) -> None:
    files = sorted(str(path) for path in top.rglob("*.ko"))
    if files:
        strip = which("strip", package="binutils")
        run([strip, "--strip-debug", *files], name="strip", timeout=_SECONDS)
