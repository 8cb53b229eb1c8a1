"""From the settings to a disk."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from ..cache import Cache
from ..errors import ConfigError
from ..kernel import Kernel
from ..progress import Progress
from ..settings import Settings
from . import _qcow2
from ._debian import prepare_debian
from ._image import Disk


def prepare(
    settings: Settings,
    kernel: Kernel,
    cache: Cache,
    progress: Progress,
    *,
    modules: Sequence[Path] = (),
) -> Disk | None:
    """Return the disk that the settings name, built if need be; None if they name none.

    :param modules: external modules to include in a disk that is built.
    :raises ConfigError: the image cannot be used, or the host cannot build one.
    :raises BuildError: the build failed.
    """
    if settings.disk == "none":
        return None
    if settings.disk == "debian" or settings.disk.startswith("debian:"):
        return prepare_debian(settings, kernel, modules, cache, progress)
    return _given(settings, Path(settings.disk), cache)


def _given(settings: Settings, path: Path, cache: Cache) -> Disk:
    """Return the user's image, after a check."""
    try:
        info = _qcow2.read_info(path)
        marks = []
        for file in info.chain:
            status = file.stat()
            marks.append(
                f"{file} {status.st_dev} {status.st_ino} {status.st_size} {status.st_mtime_ns}"
            )
        key = hashlib.sha256("\n".join(marks).encode()).hexdigest()[:32]
        cache.memo("disk-check", key, lambda: _checked(path))
    except ConfigError as error:
        raise ConfigError(
            f"{settings.origin('disk')}: {error.message}", hint=error.hint, log=error.log
        ) from error
    return Disk(path, key=key, kind="file")


def _checked(path: Path) -> str:
    _qcow2.check(path)
    return "whole"
