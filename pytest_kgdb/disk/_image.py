"""A disk image and its snapshots."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from pathlib import Path
from typing import Final

from ..errors import ConfigError
from ..process import run
from . import _qcow2

_COPY_SECONDS: Final = 600.0


class Disk:
    """A qcow2 image on which machines are started, each with an overlay of its own.

    The image itself is never written to, unless :meth:`create` made it. `snapshot`, `apply` and
    `delete` change a copy-on-write image over it instead, which is private to this process,
    created when first needed, and removed when the process ends. From then on `path` is that
    image.

    :param base: the image.
    :param key: a hash of all that it is made from.
    :param kind: `debian`, `file`, or `overlay` for an image that :meth:`create` made.
    :param packages: the Debian packages that were requested in addition.
    :param ssh_key: the private key with which root can log in to the guest.
    :param ssh_host_key: the guest's public key, as in `known_hosts` after the name.
    """

    format: Final = "qcow2"

    def __init__(
        self,
        base: Path,
        *,
        key: str,
        kind: str,
        packages: tuple[str, ...] = (),
        ssh_key: Path | None = None,
        ssh_host_key: str | None = None,
    ) -> None:
        self.base = base
        self.kind = kind
        self.packages = packages
        self.ssh_key = ssh_key
        self.ssh_host_key = ssh_host_key
        self._key = key
        self._work: Path | None = base if kind == "overlay" else None

    def __repr__(self) -> str:
        return f"<Disk {self.kind} {str(self.path)!r}>"

    @property
    def path(self) -> Path:
        """The image, to be used under an overlay only."""
        return self._work or self.base

    @property
    def key(self) -> str:
        """A hash of the disk's content. It changes when a snapshot is made or applied."""
        if self._work is None:
            return self._key
        status = self._work.stat()
        return f"{self._key}-{status.st_ino:x}-{status.st_mtime_ns:x}"

    def create(self, path: Path | str, size: int | None = None) -> Disk:
        """Create an image over this one (`qemu-img create -b`), which may be written to.

        :param path: the file, which must not exist.
        :param size: the size in bytes that the guest sees; by default that of this one.
        :raises ConfigError: the file exists.
        """
        target = Path(path).absolute()
        _qcow2.create_overlay(target, self.path, size)
        return Disk(
            target,
            key=self.key,
            kind="overlay",
            packages=self.packages,
            ssh_key=self.ssh_key,
            ssh_host_key=self.ssh_host_key,
        )

    def snapshots(self) -> list[str]:
        """Return the names of the snapshots in the image (`qemu-img snapshot -l`).

        :raises ConfigError: the image is in use.
        """
        return list(_qcow2.read_info(self.path).snapshots)

    def snapshot(self, name: str) -> None:
        """Save the disk's present content under a name (`qemu-img snapshot -c`).

        :raises ConfigError: the image is in use, or has a snapshot of that name.
        """
        path = self._writable()
        if name in _qcow2.read_info(path).snapshots:
            raise ConfigError(
                f"{path} has a snapshot {name!r} already", hint=f"delete({name!r}) removes it"
            )
        _qcow2.snapshot("-c", name, path)

    def apply(self, name: str) -> None:
        """Restore the disk's content at :meth:`snapshot` (`qemu-img snapshot -a`).

        :raises ConfigError: the image is in use, or has no such snapshot.
        """
        _qcow2.snapshot("-a", name, self._with_snapshot(name))

    def delete(self, name: str) -> None:
        """Delete a snapshot (`qemu-img snapshot -d`).

        :raises ConfigError: the image is in use, or has no such snapshot.
        """
        _qcow2.snapshot("-d", name, self._with_snapshot(name))

    def _with_snapshot(self, name: str) -> Path:
        path = self._writable()
        names = _qcow2.read_info(path).snapshots
        if name not in names:
            raise ConfigError(
                f"{path} has no snapshot {name!r}",
                hint=f"it has {', '.join(names)}" if names else "it has none",
            )
        return path

    def _writable(self) -> Path:
        """Return the image that may be written to, created if need be."""
        if users := _descendants_with(self.path):
            raise ConfigError(
                f"the image {self.path} is in use by {', '.join(users)}",
                hint="the session's machine runs on it: kgdb.snapshot() and kgdb.restore() save "
                "and restore a running machine with its disk",
            )
        if self._work is None:
            directory = Path(tempfile.mkdtemp(prefix="kgdb-disk-"))
            weakref.finalize(self, shutil.rmtree, directory, ignore_errors=True)
            work = directory / "disk.qcow2"
            if _qcow2.read_info(self.base).snapshots:
                # An overlay does not have the snapshots of its base.
                run(
                    ["cp", "--reflink=auto", "--sparse=always", str(self.base), str(work)],
                    timeout=_COPY_SECONDS,
                )
                work.chmod(0o600)
            else:
                _qcow2.create_overlay(work, self.base)
            self._work = work
        return self._work


def _descendants_with(path: Path) -> list[str]:
    """Return the descendants of this process that have a file open, for messages.

    qemu-img's locks find every process that writes to a file. Of those that only read a base, other
    sessions' machines do not matter.
    """
    target = path.stat()
    users = []
    for pid in _descendants(os.getpid()):
        try:
            for descriptor in Path(f"/proc/{pid}/fd").iterdir():
                status = descriptor.stat()
                if (status.st_dev, status.st_ino) == (target.st_dev, target.st_ino):
                    name = Path(f"/proc/{pid}/comm").read_text().strip()
                    users.append(f"{name} (pid {pid})")
                    break
        except OSError:  # it ended meanwhile, or the descriptor is a socket or a pipe
            continue
    return users


def _descendants(pid: int) -> list[int]:
    pids: list[int] = []
    parents = [pid]
    while parents:
        try:
            for thread in Path(f"/proc/{parents.pop()}/task").iterdir():
                children = [int(word) for word in (thread / "children").read_text().split()]
                pids += children
                parents += children
        except OSError:
            continue
    return pids
