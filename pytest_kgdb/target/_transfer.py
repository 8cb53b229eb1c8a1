"""Files into the guest, and out of it."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import stat
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

from ..errors import ConfigError, GuestCommandError, TimeoutError
from ._points import standing
from ._window import BLOCK, MAX_BLOCKS, Window

if TYPE_CHECKING:
    from ._handle import Kgdb

__all__ = ["get", "put"]

_SIZE: Final = BLOCK * MAX_BLOCKS


class _Bound:
    """What is left of the seconds that a whole transfer may take."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """:raises TimeoutError: nothing is left."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError(
                f"it was not done in {self._seconds:g} s",
                hint="a larger timeout=, if there is only much to be copied",
            )
        return left


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    """Put what was tried in front of what the guest said."""
    try:
        yield
    except (GuestCommandError, TimeoutError) as error:
        raise type(error)(f"{what}: {error.message}", log=error.log, hint=error.hint) from error


def put(kgdb: Kgdb, local: Path, remote: str, timeout: float) -> None:
    """Copy a file or a directory into the guest; see :meth:`Kgdb.put`."""
    what = f"put({str(local)!r}, {remote!r})"
    if not local.exists():
        raise ConfigError(f"{what}: there is no such file or directory on the host")
    bound = _Bound(timeout)
    with _told(what), standing(kgdb):
        if local.is_dir():
            with tempfile.TemporaryFile() as packed:
                _pack(local, packed)
                _put_tree(kgdb, packed, local.resolve().name, remote, bound)
        else:
            with local.open("rb") as source:
                _put_file(kgdb, source, local.name, remote, bound)


def _put_file(kgdb: Kgdb, source: IO[bytes], name: str, remote: str, bound: _Bound) -> None:
    status = os.fstat(source.fileno())
    target = _target(remote, name)
    # The target is opened at once: why it cannot be is known before anything is copied.
    shell = f'{target}; : >"$t" || exit 1; n={_blocks(status.st_size)}'
    with Window(kgdb, shell, ":", timeout=bound.left) as window:
        data = source.read(_SIZE)
        while True:
            window.write(data)
            command = f'{target}; dd if={window.directory}/data {_bytes(len(data))} >>"$t"'
            data = source.read(_SIZE)
            if not data:
                break
            _check(kgdb, command, bound)
        # Not of a device; and what is in /proc may be written to, and does not let itself be told.
        mode = f"{stat.S_IMODE(status.st_mode):o}"
        command += f' && {{ [ ! -f "$t" ] || chmod {mode} "$t" 2>/dev/null; :; }}'
        _check(kgdb, f"{command}; s=$?; {window.end()}; exit $s", bound)


def _put_tree(kgdb: Kgdb, packed: IO[bytes], name: str, remote: str, bound: _Bound) -> None:
    size = packed.seek(0, os.SEEK_END)
    packed.seek(0)
    shell = f'{_target(remote, name)}; [ -d "$t" ] || mkdir "$t" || exit 1; n={_blocks(size)}'
    # Feeds tar part by part; what ends with tar, or by a 0, says so by its end.
    feed = (
        "mkfifo $w/go $w/told; "
        '({ while read go <$w/go && [ "$go" != 0 ] && '
        f"dd if=$w/data {_bytes('$go')}; do echo more >$w/told; done | "
        'tar -xf - -C "$t" 2>$w/said; echo "end $?" >$w/told; }) >/dev/null 2>&1 &'
    )
    with Window(kgdb, shell, feed, timeout=bound.left) as window:
        w = window.directory
        while True:
            data = packed.read(_SIZE)
            window.write(data)
            told = _check(kgdb, f"echo {len(data)} >{w}/go; cat {w}/told {w}/said", bound)
            word, _, said = told.partition("\n")
            if word == "end 0" and not data:
                break
            if word != "more":
                raise GuestCommandError(said.strip() or f"tar: {word}", log=kgdb.console.log)
        _check(kgdb, window.end(), bound)


def get(kgdb: Kgdb, remote: str, local: Path, timeout: float) -> Path:
    """Copy a file or a directory out of the guest; see :meth:`Kgdb.get`."""
    what = f"get({remote!r}, {str(local)!r})"
    target = local / (remote.rstrip("/").rpartition("/")[2] or "root") if local.is_dir() else local
    if not target.parent.is_dir():
        raise ConfigError(f"{what}: there is no directory {target.parent} on the host")
    if target.is_dir():
        raise ConfigError(f"{what}: the host has a directory {target} already")
    bound = _Bound(timeout)
    # Beside the target, to be renamed: a copy that fails half way is not taken for a whole one.
    with tempfile.TemporaryDirectory(prefix=".kgdb-get-", dir=target.parent) as scratch:
        made = Path(scratch, "made")
        with _told(what), standing(kgdb), Path(scratch, "came").open("w+b") as came:
            mode = _fetch(kgdb, remote, came, bound)
            came.seek(0)
            if mode is None:
                _unpack(came, made)
        if mode is not None:
            made = Path(scratch, "came")
            made.chmod(mode)
        made.rename(target)
    return target


def _fetch(kgdb: Kgdb, remote: str, sink: IO[bytes], bound: _Bound) -> int | None:
    """Write out what a file has, and return its mode; of a directory an archive, and None."""
    shell = (
        f"r={shlex.quote(remote)}; "
        f'if [ -d "$r" ]; then n={MAX_BLOCKS}; echo directory; '
        'else s=$(stat -L -c "%s %a" "$r") || exit 1; echo ${s#* }; '
        f"n=$((${{s% *}} / {BLOCK} + 1)); [ $n -le {MAX_BLOCKS} ] || n={MAX_BLOCKS}; fi"
    )
    # A program of the guest's fills the window, says how far, and waits to be told to go on.
    # The end is where the window is not full; then there is a status, too.
    fill = (
        "mkfifo $w/go $w/told; "
        '({ if [ -d "$r" ]; then tar -cf - -C "$r" .; else cat "$r"; fi 2>$w/said; '
        "echo $? >$w/status; } | "
        f"while :; do dd of=$w/data bs={BLOCK} count=$n iflag=fullblock 2>/dev/null; "
        f's=$(stat -c %s $w/data); [ $s = $((n * {BLOCK})) ] || s="$s $(cat $w/status)"; '
        "echo $s >$w/told; read go <$w/go || exit; done) >/dev/null 2>&1 & cat $w/told $w/said"
    )
    with Window(kgdb, shell, fill, timeout=bound.left) as window:
        before, told = window.told
        w = window.directory
        while True:
            progress, _, said = told.partition("\n")
            size, _, status = progress.partition(" ")
            if not size.isdigit():
                raise GuestCommandError(said.strip() or f"it said {told!r}", log=kgdb.console.log)
            sink.write(window.read(int(size)))
            if status:
                break
            told = _check(kgdb, f"echo >{w}/go; cat {w}/told {w}/said", bound)
        if status != "0":
            raise GuestCommandError(said.strip() or f"status {status}", log=kgdb.console.log)
        _check(kgdb, window.end(), bound)
    sink.flush()
    kind = before.strip()
    return None if kind == "directory" else int(kind, 8) & 0o777


def _target(remote: str, name: str) -> str:
    """Return the shell commands that leave in `t` where something goes to: as for cp(1)."""
    into = shlex.quote(f"{remote.rstrip('/')}/{name}")
    return f't={shlex.quote(remote)}; [ ! -d "$t" ] || t={into}'


def _bytes(count: int | str) -> str:
    """Return the words that have dd copy so many bytes, and say nothing but why it cannot."""
    return f"bs={BLOCK} count={count} iflag=count_bytes status=none"


def _blocks(size: int) -> int:
    return min(max(1, -(-size // BLOCK)), MAX_BLOCKS)


def _check(kgdb: Kgdb, command: str, bound: _Bound) -> str:
    """Run a command that must not fail."""
    result = kgdb.run(command, bound.left)
    if result.status != 0:
        raise GuestCommandError(
            result.output.strip() or f"status {result.status}", log=kgdb.console.log
        )
    return result.output


# Archives


def _pack(directory: Path, sink: IO[bytes]) -> None:
    """Write an archive of a directory, all of it root's."""

    def owned(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = 0
        member.uname = member.gname = "root"
        return member

    with tarfile.open(fileobj=sink, mode="w", format=tarfile.GNU_FORMAT) as archive:
        archive.add(directory, arcname=".", filter=owned)


def _unpack(source: IO[bytes], directory: Path) -> None:
    """Unpack what the guest sent into a new directory, and nowhere else.

    The guest is what is being tested: an archive of its making is not to be trusted. Links are
    made last, so that nothing is written through one; devices and the like are left out.
    """
    directory.mkdir()
    modes: list[tuple[Path, int]] = []
    links: list[tuple[Path, str]] = []
    try:
        with tarfile.open(fileobj=source, mode="r:") as archive:
            for member in archive:
                path = directory / _inside(member.name)
                if member.isdir():
                    path.mkdir(parents=True, exist_ok=True)
                    modes.append((path, member.mode))
                elif member.issym():
                    links.append((path, member.linkname))
                elif member.islnk():
                    shutil.copyfile(directory / _inside(member.linkname), path)
                    path.chmod(member.mode & 0o777)
                elif (content := archive.extractfile(member)) is not None:
                    with content, path.open("xb") as file:
                        shutil.copyfileobj(content, file)
                    path.chmod(member.mode & 0o777)
    except (tarfile.TarError, OSError) as error:
        raise GuestCommandError(f"the guest's archive cannot be unpacked: {error}") from error
    for path, to in links:
        path.symlink_to(to)
    for path, mode in reversed(modes):  # a directory's last: it may be read-only
        path.chmod(mode & 0o777)


def _inside(name: str) -> Path:
    """:raises GuestCommandError: the name leads out of the directory that was asked for."""
    path = Path(name)
    if path.is_absolute() or ".." in path.parts:
        raise GuestCommandError(f"the guest's archive has a member {name!r}")
    return path
