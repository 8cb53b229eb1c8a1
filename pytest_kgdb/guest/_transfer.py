"""Files into the guest, and out of it."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import stat
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

from ..deadline import Deadline, WaitLimit
from ..debugger import RunControl
from ..errors import ConfigError, GuestCommandError, TimeoutError
from ._bounce_buffer import BLOCK, MAX_BLOCKS, BounceBuffer, GuestMemory
from ._shell import Shell

__all__ = ["FileTransfer"]

_SIZE: Final = BLOCK * MAX_BLOCKS
_HINT: Final = "a larger timeout=, if there is only much to be copied"
_COPYING: Final = "copying"


class _TransferDeadline:
    """What is left of the seconds that a whole transfer may take.

    :param hint: what can be done if they are not enough.
    """

    def __init__(self, seconds: float, hint: str) -> None:
        self._deadline = Deadline(seconds)
        self.hint = hint

    @property
    def left(self) -> float:
        """Seconds that are left.

        :raises TimeoutError: nothing is left.
        """
        if self._deadline.expired:
            raise TimeoutError(f"it was not done in {self._deadline.seconds:g} s", hint=self.hint)
        return self._deadline.left


@contextlib.contextmanager
def _named(what: str) -> Iterator[None]:
    """Name in errors what was tried."""
    try:
        yield
    except (GuestCommandError, TimeoutError) as error:
        raise type(error)(f"{what}: {error.message}", log=error.log, hint=error.hint) from error
    except OSError as error:
        raise ConfigError(f"{what}: on the host: {error}") from error


class FileTransfer:
    """Copies files between the host and the guest, through the guest's memory."""

    def __init__(
        self, shell: Shell, run_control: RunControl, memory: GuestMemory, waits: WaitLimit
    ) -> None:
        self._shell = shell
        self._run_control = run_control
        self._memory = memory
        self._waits = waits

    def _buffer(self, prepare: str, then: str, deadline: _TransferDeadline) -> BounceBuffer:
        return BounceBuffer(
            self._shell,
            self._run_control,
            self._memory,
            prepare,
            then,
            timeout=deadline.left,
            hint=deadline.hint,
        )

    def put(
        self, local: Path, remote: str, timeout: float | None = None, *, hint: str = _HINT
    ) -> None:
        """Copy a file or a directory into the guest; see :meth:`Kgdb.put`.

        :param hint: what can be done if there was not enough time.
        """
        what = f"put({str(local)!r}, {remote!r})"
        if not local.exists():
            raise ConfigError(f"{what}: there is no such file or directory on the host")
        if local.is_fifo() or local.is_socket():  # whose other end may never come
            raise ConfigError(f"{what}: on the host that is no file, but a pipe or a socket")
        deadline = _TransferDeadline(self._waits.of(timeout), hint)
        with _named(what), self._run_control.kept_stopped(_COPYING):
            if local.is_dir():
                with tempfile.TemporaryFile() as packed:
                    _pack(local, packed)
                    self._put_tree(packed, local.resolve().name, remote, deadline)
            else:
                with local.open("rb") as source:
                    self._put_file(source, local.name, remote, deadline)

    def _put_file(
        self, source: IO[bytes], name: str, remote: str, deadline: _TransferDeadline
    ) -> None:
        status = os.fstat(source.fileno())
        target = _target(remote, name)
        # The target is opened at once: why it cannot be is known before anything is copied.
        shell = f'{target}; : >"$t" || exit 1; n={_blocks(status.st_size)}'
        with self._buffer(shell, ":", deadline) as buffer:
            data = source.read(_SIZE)
            while True:
                buffer.write(data)
                command = f'{target}; dd if={buffer.directory}/data {_bytes(len(data))} >>"$t"'
                data = source.read(_SIZE)
                if not data:
                    break
                self._check(command, deadline)
            # Not of a device; and what is in /proc can be written to, and refuses a mode.
            mode = f"{stat.S_IMODE(status.st_mode):o}"
            command += f' && {{ [ ! -f "$t" ] || chmod {mode} "$t" 2>/dev/null; :; }}'
            self._check(f"{command}; s=$?; {buffer.end()}; exit $s", deadline)

    def _put_tree(
        self, packed: IO[bytes], name: str, remote: str, deadline: _TransferDeadline
    ) -> None:
        size = packed.seek(0, os.SEEK_END)
        packed.seek(0)
        shell = f'{_target(remote, name)}; [ -d "$t" ] || mkdir "$t" || exit 1; n={_blocks(size)}'
        # Feeds tar part by part; what ends with tar, or by a 0, says so by its end.
        feed = (
            "mkfifo $w/go $w/reply; "
            '({ while read go <$w/go && [ "$go" != 0 ] && '
            f"dd if=$w/data {_bytes('$go')}; do echo more >$w/reply; done | "
            'tar -xf - -C "$t" 2>$w/errors; echo "end $?" >$w/reply; }) >/dev/null 2>&1 &'
        )
        with self._buffer(shell, feed, deadline) as buffer:
            w = buffer.directory
            while True:
                data = packed.read(_SIZE)
                buffer.write(data)
                output = self._check(
                    f"echo {len(data)} >{w}/go; cat {w}/reply {w}/errors", deadline
                )
                word, _, reason = output.partition("\n")
                if word == "end 0" and not data:
                    break
                if word != "more":
                    raise GuestCommandError(
                        reason.strip() or f"tar: {word}", log=self._shell.console.log
                    )
            self._check(buffer.end(), deadline)

    def get(self, remote: str, local: Path, timeout: float | None = None) -> Path:
        """Copy a file or a directory out of the guest; see :meth:`Kgdb.get`."""
        what = f"get({remote!r}, {str(local)!r})"
        target = (
            local / (remote.rstrip("/").rpartition("/")[2] or "root") if local.is_dir() else local
        )
        if not target.parent.is_dir():
            raise ConfigError(f"{what}: there is no directory {target.parent} on the host")
        if target.is_dir():
            raise ConfigError(f"{what}: the host has a directory {target} already")
        deadline = _TransferDeadline(self._waits.of(timeout), _HINT)
        # Beside the target, to be renamed: a copy that fails half way is not taken for a whole one.
        with (
            _named(what),
            tempfile.TemporaryDirectory(prefix=".kgdb-get-", dir=target.parent) as scratch,
        ):
            unpacked = Path(scratch, "made")
            with (
                self._run_control.kept_stopped(_COPYING),
                Path(scratch, "came").open("w+b") as received,
            ):
                mode = self._fetch(remote, received, deadline)
                received.seek(0)
                if mode is None:
                    _unpack(received, unpacked)
            if mode is not None:
                unpacked = Path(scratch, "came")
                unpacked.chmod(mode)
            unpacked.rename(target)
        return target

    def _fetch(self, remote: str, sink: IO[bytes], deadline: _TransferDeadline) -> int | None:
        """Write out what a file has, and return its mode; of a directory an archive, and None."""
        shell = (
            f"r={shlex.quote(_no_option(remote))}; "
            f'if [ -d "$r" ]; then n={MAX_BLOCKS}; echo directory; '
            'else s=$(stat -L -c "%s %a" "$r") || exit 1; echo ${s#* }; '
            f"n=$((${{s% *}} / {BLOCK} + 1)); [ $n -le {MAX_BLOCKS} ] || n={MAX_BLOCKS}; fi"
        )
        # A program of the guest's fills the buffer, says how far, and waits to be told to go on.
        # The end is where the buffer is not full; then there is a status, too.
        fill = (
            "mkfifo $w/go $w/reply; "
            '({ if [ -d "$r" ]; then tar -cf - -C "$r" .; else cat "$r"; fi 2>$w/errors; '
            "echo $? >$w/status; } | "
            f"while :; do dd of=$w/data bs={BLOCK} count=$n iflag=fullblock 2>/dev/null; "
            f's=$(stat -c %s $w/data); [ $s = $((n * {BLOCK})) ] || s="$s $(cat $w/status)"; '
            "echo $s >$w/reply; read go <$w/go || exit; done) >/dev/null 2>&1 & "
            "cat $w/reply $w/errors"
        )
        with self._buffer(shell, fill, deadline) as buffer:
            before, output = buffer.output
            w = buffer.directory
            while True:
                progress, _, reason = output.partition("\n")
                size, _, status = progress.partition(" ")
                if not size.isdigit():
                    raise GuestCommandError(
                        reason.strip() or f"it said {output!r}", log=self._shell.console.log
                    )
                sink.write(buffer.read(int(size)))
                if status:
                    break
                output = self._check(f"echo >{w}/go; cat {w}/reply {w}/errors", deadline)
            if status != "0":
                raise GuestCommandError(
                    reason.strip() or f"status {status}", log=self._shell.console.log
                )
            self._check(buffer.end(), deadline)
        sink.flush()
        kind = before.strip()
        return None if kind == "directory" else int(kind, 8) & 0o777

    def _check(self, command: str, deadline: _TransferDeadline) -> str:
        """Run a command that must not fail, behind another one."""
        stop = self._run_control.stop
        if stop is not None and stop.reason != "interrupt":
            raise GuestCommandError(
                f"the kernel stopped meanwhile, {stop!r}",
                log=self._shell.console.log,
                hint="kgdb.stop is where; disable the breakpoint",
            )
        result = self._shell.run(command, deadline.left, own=True, hint=deadline.hint)
        if result.status != 0:
            raise GuestCommandError(
                result.output.strip() or f"status {result.status}", log=self._shell.console.log
            )
        return result.output


def _target(remote: str, name: str) -> str:
    """Return the shell commands that leave in `t` where something goes to: as for cp(1)."""
    remote = _no_option(remote)
    into = shlex.quote(f"{remote.rstrip('/')}/{name}")
    return f't={shlex.quote(remote)}; [ ! -d "$t" ] || t={into}'


def _bytes(count: int | str) -> str:
    """Return the words that have dd copy so many bytes, and say nothing but why it cannot."""
    return f"bs={BLOCK} count={count} iflag=count_bytes status=none"


def _blocks(size: int) -> int:
    return min(max(1, -(-size // BLOCK)), MAX_BLOCKS)


def _no_option(path: str) -> str:
    """Return a path that no program takes for an option."""
    return f"./{path}" if path.startswith("-") else path


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
                elif member.issparse():
                    # A terabyte of holes, in a line of the archive, would fill the host's disk.
                    raise GuestCommandError(f"the guest's archive has holes in {member.name!r}")
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
