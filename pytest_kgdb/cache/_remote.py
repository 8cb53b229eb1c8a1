"""A cache that machines share: a directory, an HTTP server or a bucket, through fsspec.

Each entry is one object, `URL/v1/KIND/KEY.tar.gz`, so that readers see all of it or nothing. The
archive's first member is the manifest; the files follow in any order. It is packed with gzip,
which every Python and every tar can read.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import os
import re
import stat
import tarfile
import zlib
from pathlib import Path, PurePosixPath
from typing import IO, Any, Final

from ..errors import ConfigError
from ..progress import Progress, Stage
from ._files import FILES, MANIFEST, Manifest, scan

_VERSION: Final = "v1"
_CHUNK_BYTES: Final = 1 << 20
_LEVEL: Final = 1  # makes a vmlinux 2.6 times smaller in a second; higher levels gain little
_MANIFEST_BYTES: Final = 64 << 20
_CONNECT_SECONDS: Final = 5.0
_READ_SECONDS: Final = 30.0
_DOWNLOAD: Final = "download"

_BAD_ARCHIVE: Final = (
    tarfile.TarError,
    gzip.BadGzipFile,
    zlib.error,
    EOFError,
    ValueError,
    # Members whose names conflict.
    FileExistsError,
    IsADirectoryError,
    NotADirectoryError,
)


class Remote:
    """The shared cache under one URL."""

    def __init__(self, url: str, progress: Progress) -> None:
        self.url = _without_password(url)
        self._url = url
        self._progress = progress
        self._down = False
        self._system: Any = None
        self._base = ""

    def fetch(self, kind: str, key: str, draft: Path, *, label: str) -> Manifest | None:
        """Download an entry's files into a draft and return its manifest; None if there is none.

        The files are verified against the hashes in the manifest. A broken entry is reported. A
        remote that cannot be read is reported, and not used again by this object.

        :param draft: the directory of the draft.
        :param label: the entry's name in messages.
        :raises ConfigError: no installed file system can read such a URL.
        """
        if self._down:
            return None
        name = f"{kind} {key[:12]}"
        archive = draft / _DOWNLOAD
        try:
            self._connect()
            if self._is_local() and not Path(self._base).is_dir():
                raise NotADirectoryError("there is no such directory")
            self._download(kind, key, archive, f"fetching {label} from {self.url}")
            return self._unpack(archive, draft / FILES, kind, key)
        except FileNotFoundError:
            return None
        except ConfigError:
            raise
        except _Broken as broken:
            self._progress.say(f"{self.url} has a broken {name} ({broken}); built here instead")
        # Each of fsspec's file systems raises errors of its own.
        except Exception as error:
            self._down = True
            self._progress.say(
                f"the remote cache {self.url} is not used: {_in_a_line(error)}; building here"
            )
        finally:
            archive.unlink(missing_ok=True)
        return None

    def has(self, kind: str, key: str) -> bool:
        """Whether the remote has the entry."""
        self._connect()
        return bool(self._system.exists(self._place(kind, key)))

    def push(self, entry: Path, manifest: Manifest, scratch: Path) -> None:
        """Upload an entry; readers see all of it or nothing.

        :param entry: the entry's directory.
        :param scratch: a path for the packed archive.
        """
        self._connect()
        pack(entry, manifest, scratch)
        place = self._place(manifest.kind, manifest.key)
        self._system.makedirs(place.rpartition("/")[0], exist_ok=True)
        if not self._is_local():
            self._system.put_file(str(scratch), place)  # object stores replace objects atomically
            return
        temporary = f"{place}.{os.getpid()}.{os.urandom(4).hex()}.new"
        try:
            self._system.put_file(str(scratch), temporary)
            Path(temporary).replace(place)
        finally:
            Path(temporary).unlink(missing_ok=True)

    def _connect(self) -> None:
        if self._system is not None:
            return
        try:
            # Imported lazily: a warm start fetches nothing.
            from fsspec.core import url_to_fs

            self._system, base = url_to_fs(self._url, **_options(self._url))
        except (ImportError, ValueError) as error:
            raise ConfigError(
                f"cannot use the remote cache {self.url}: {_in_a_line(error)}",
                hint="pip install 'pytest-kgdb[remote]' (and s3fs for s3://)",
            ) from error
        self._base = str(base).rstrip("/")

    def _is_local(self) -> bool:
        protocol = self._system.protocol
        return "file" in ((protocol,) if isinstance(protocol, str) else protocol)

    def _place(self, kind: str, key: str) -> str:
        return f"{self._base}/{_VERSION}/{kind}/{key}.tar.gz"

    def _download(self, kind: str, key: str, archive: Path, title: str) -> None:
        from fsspec.callbacks import Callback

        progress = self._progress

        with contextlib.ExitStack() as stack:

            class Report(Callback):  # type: ignore[misc]  # fsspec has no types
                stage: Stage | None = None

                def call(self, *_: object, **__: object) -> None:
                    if self.value and self.stage is None:  # the entry exists: report the download
                        self.stage = stack.enter_context(progress.stage(title))
                    if self.stage is not None:
                        size = self.size and self.size // 10**6
                        self.stage.update(self.value // 10**6, size, "MB")

            self._system.get_file(self._place(kind, key), str(archive), callback=Report())

    @staticmethod
    def _unpack(archive: Path, files: Path, kind: str, key: str) -> Manifest:
        try:
            return unpack(archive, files, kind, key)
        except _BAD_ARCHIVE as error:
            raise _Broken(_in_a_line(error)) from error


class _Broken(Exception):
    """A downloaded archive is not an entry."""


def pack(entry: Path, manifest: Manifest, archive: Path) -> None:
    """Pack an entry into an archive; the same entry gives the same bytes."""
    with tarfile.open(archive, "w:gz", compresslevel=_LEVEL) as tar:
        tar.add(entry / MANIFEST, MANIFEST, filter=_anonymous)
        for name in sorted({*manifest.files, *manifest.links, *_directories(entry / FILES)}):
            tar.add(entry / FILES / name, f"{FILES}/{name}", recursive=False, filter=_anonymous)


def unpack(archive: Path, files: Path, kind: str, key: str) -> Manifest:
    """Unpack an archive, verify every file against the manifest, and return the manifest.

    Nothing is written outside `files`, whatever the archive contains.

    :raises ValueError: it is another entry, or incomplete.
    """
    with gzip.open(archive) as stream, tarfile.open(fileobj=stream, mode="r:") as tar:
        first = tar.next()
        if first is None or first.name != MANIFEST or first.size > _MANIFEST_BYTES:
            raise ValueError("it does not begin with a manifest")
        manifest = Manifest.load(_content(tar, first).read())
        if (manifest.kind, manifest.key) != (kind, key):
            raise ValueError(f"it is {manifest.kind} {manifest.key[:12]}")
        missing = set(manifest.files)
        while (member := tar.next()) is not None:
            name = _inner_name(member.name)
            target = files / name
            if member.isdir():
                target.mkdir(parents=True, exist_ok=True)
            elif member.isreg():
                if name not in missing:
                    raise ValueError(f"{name} does not belong to it")
                missing.remove(name)
                if member.size != manifest.files[name].size:
                    raise ValueError(f"{name} has {member.size} bytes")
                target.parent.mkdir(parents=True, exist_ok=True)
                digest = _write(_content(tar, member), target)
                if digest != manifest.files[name].sha256:
                    raise ValueError(f"{name} has another content")
                target.chmod(stat.S_IMODE(member.mode) & 0o777)
            elif not member.issym():
                raise ValueError(f"{name} is neither a file nor a link")
        # tar does not read to the end of the stream, where gzip has its checksum.
        while stream.read(_CHUNK_BYTES):
            pass
    if missing:
        raise ValueError(f"{min(missing)} is missing")
    # Links come last, and from the manifest, so that no file above is written through one.
    for name, where in manifest.links.items():
        target = files / _inner_name(f"{FILES}/{name}")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(where)
    return manifest


def _inner_name(name: str) -> str:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or path.parts[:1] != (FILES,):
        raise ValueError(f"{name!r} would be outside of it")
    return str(PurePosixPath(*path.parts[1:]))


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    content = tar.extractfile(member) if member.isreg() else None
    if content is None:
        raise ValueError(f"{member.name} is not a file")
    return content


def _write(source: IO[bytes], target: Path) -> str:
    digest = hashlib.sha256()
    with target.open("xb") as file:
        while data := source.read(_CHUNK_BYTES):
            digest.update(data)
            file.write(data)
    return digest.hexdigest()


def _directories(root: Path) -> set[str]:
    return {
        str((Path(directory) / name).relative_to(root))
        for directory, names, _ in os.walk(root)
        for name in names
    } - scan(root)[1].keys()


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mtime = 0
    return member


def _options(url: str) -> dict[str, Any]:
    """Bound the waits for a host that does not answer; the defaults are minutes."""
    if url.startswith(("http://", "https://")):
        with contextlib.suppress(ImportError):  # fsspec itself reports it, with a hint
            from aiohttp import ClientTimeout

            timeout = ClientTimeout(
                total=None, sock_connect=_CONNECT_SECONDS, sock_read=_READ_SECONDS
            )
            return {"client_kwargs": {"timeout": timeout}}
    if url.startswith("s3://"):
        return {
            "config_kwargs": {
                "connect_timeout": _CONNECT_SECONDS,
                "read_timeout": _READ_SECONDS,
                "retries": {"max_attempts": 2},
            }
        }
    return {}


def _without_password(text: str) -> str:
    return re.sub(r"(?<=://)[^/@\s]*@", "", text)


def _in_a_line(error: BaseException) -> str:
    text = _without_password(" ".join(str(error).split()))
    return text or type(error).__name__
