"""The modules that a guest gets."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from ..errors import ConfigError
from ..process import run, which
from ._model import Kernel
from ._publish import depmod

_NOT_MODULES: Final = shutil.ignore_patterns("build", "source")
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
    if kernel.modules_dir is not None:
        shutil.copytree(kernel.modules_dir, top, ignore=_NOT_MODULES)
    _copy_external(modules, top)
    if not modules and not any(top.rglob("*.ko")):
        return
    _strip(top)
    depmod(root, kernel.release)


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
    for path in kernel.modules_dir.iterdir() if kernel.modules_dir is not None else ():
        if path.name in _NOT_MODULES(str(kernel.modules_dir), [path.name]):
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
        (top / "extra").mkdir(parents=True, exist_ok=True)
        target = top / "extra" / path.name
        if target.exists():
            raise ConfigError(f"there are two modules named {path.name}: {path} is the second")
        shutil.copyfile(path, target)


def _strip(top: Path) -> None:
    strip = which("strip", package="binutils")
    files = sorted(str(path) for path in top.rglob("*.ko"))
    run([strip, "--strip-debug", *files], name="strip", timeout=_SECONDS)
