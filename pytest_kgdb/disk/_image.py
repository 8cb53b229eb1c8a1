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
    """A qcow2 image that machines are started on, each with an overlay of its own.

    A disk that `prepare` made is never written to. What `snapshot`, `apply` and `delete` change
    is a copy-on-write image over it, private to this process, made when first needed and removed
    at its end; from then on `path` is that image.

    :param base: the image.
    :param key: a hash of all that it is made of.
    :param kind: `debian`, `file`, or, of one that :meth:`create` made, `overlay`.
    :param packages: the Debian packages that were asked for beyond the usual.
    :param ssh_key: the private key that root in the guest lets in.
    :param ssh_host_key: the guest's public key, as in `known_hosts` behind the name.
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
        """The image: to be used under an overlay, not to be written to."""
        return self._work or self.base

    @property
    def key(self) -> str:
        """A hash of what the disk holds; another one once a snapshot was made or applied."""
        if self._work is None:
            return self._key
        status = self._work.stat()
        return f"{self._key}-{status.st_ino:x}-{status.st_mtime_ns:x}"

    def create(self, path: Path | str, size: int | None = None) -> Disk:
        """Make a new image over this one (`qemu-img create -b`), to be written to.

        :param path: the file, which must not exist.
        :param size: bytes that the guest sees; as many as of this one if None.
        :raises ConfigError: there is such a file.
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
        return list(_qcow2.look_at(self.path).snapshots)

    def snapshot(self, name: str) -> None:
        """Keep the disk's present contents under a name (`qemu-img snapshot -c`).

        :raises ConfigError: the image is in use, or has a snapshot of that name.
        """
        path = self._writable()
        if name in _qcow2.look_at(path).snapshots:
            raise ConfigError(
                f"{path} has a snapshot {name!r} already", hint=f"delete({name!r}) removes it"
            )
        _qcow2.snapshot("-c", name, path)

    def apply(self, name: str) -> None:
        """Make the disk what it was at :meth:`snapshot` (`qemu-img snapshot -a`).

        :raises ConfigError: the image is in use, or has no such snapshot.
        """
        _qcow2.snapshot("-a", name, self._with_snapshot(name))

    def delete(self, name: str) -> None:
        """Forget a snapshot (`qemu-img snapshot -d`).

        :raises ConfigError: the image is in use, or has no such snapshot.
        """
        _qcow2.snapshot("-d", name, self._with_snapshot(name))

    def _with_snapshot(self, name: str) -> Path:
        path = self._writable()
        known = _qcow2.look_at(path).snapshots
        if name not in known:
            raise ConfigError(
                f"{path} has no snapshot {name!r}",
                hint=f"it has {', '.join(known)}" if known else "it has none",
            )
        return path

    def _writable(self) -> Path:
        """Return the image that may be written to."""
        if users := _descendants_with(self.path):
            raise ConfigError(
                f"the image {self.path} is in use by {', '.join(users)}",
                hint="the session's machine runs on it: kgdb.snapshot() and kgdb.restore() keep "
                "and put back a running machine with its disk",
            )
        if self._work is None:
            directory = Path(tempfile.mkdtemp(prefix="kgdb-disk-"))
            weakref.finalize(self, shutil.rmtree, directory, ignore_errors=True)
            work = directory / "disk.qcow2"
            if _qcow2.look_at(self.base).snapshots:
                # An overlay does not show the snapshots that are in its base.
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
    """Name the processes, of those that we started, that have a file open.

    qemu-img's own locks tell of every user of a file that is being written; of a base that many
    machines read, other sessions' included, only ours matter.
    """
    wanted = path.stat()
    users = []
    for pid in _descendants(os.getpid()):
        try:
            for descriptor in Path(f"/proc/{pid}/fd").iterdir():
                status = descriptor.stat()
                if (status.st_dev, status.st_ino) == (wanted.st_dev, wanted.st_ino):
                    name = Path(f"/proc/{pid}/comm").read_text().strip()
                    users.append(f"{name} (pid {pid})")
                    break
        except OSError:  # ended meanwhile, or a socket or pipe without a file
            continue
    return users


def _descendants(pid: int) -> list[int]:
    found: list[int] = []
    waiting = [pid]
    while waiting:
        try:
            for thread in Path(f"/proc/{waiting.pop()}/task").iterdir():
                children = [int(word) for word in (thread / "children").read_text().split()]
                found += children
                waiting += children
        except OSError:
            continue
    return found
