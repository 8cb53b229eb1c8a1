"""Copies of build directories and worktrees, of which make takes every file for what it is.

make compares times, and kbuild compares each object's command line with the one in the `.cmd` file
beside it. So a copy keeps all times, and has its own path in these files. A directory may be copied
while something is built in it: what was written since that began is left out, and is built again.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NoReturn

from ..process import run, which
from ._spec import OBJECTS

STARTED: Final = "started"
"""The file in a state directory that exists while something is built, or if that was killed."""

_COPY_SECONDS: Final = 600.0
_SLACK_NS: Final = 2 * 10**9  # a file system on a network has a clock of its own

# What is linked anew for every kernel is more than half of a build directory.
_LINKED: Final = re.compile(r"vmlinux|vmlinux\.(?:o|bin\S*)|bzImage|\.tmp_vmlinux\S*|piggy\.o")
# fixdep's, and those of tools/, have absolute paths.
_COMMANDS: Final = re.compile(r"\..*\.(?:cmd|d)")

# The configuration that the objects are of. If it is being changed, what they depend on (files
# below include/config) does not tell what they were compiled with.
_CONFIGURATION: Final = ("include/config/", "include/generated/autoconf.h", ".config")


class Unusable(Exception):
    """A directory cannot be copied just now."""


def copy_objects(
    source: Path, state_dir: Path, target: Path, texts: Sequence[tuple[str, str]]
) -> None:
    """Copy a build directory.

    :param state_dir: the state directory of the source.
    :param target: the copy, which does not exist.
    :param texts: what to replace in command lines: texts and their replacements.
    :raises Unusable: its configuration is being changed, or it has none.
    """
    scratch = target.with_name(f"{target.name}.seed")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    limit = _begun(state_dir, scratch)
    try:
        original = source.stat()
        for path, name, is_directory in _walk(source):
            place = scratch / name
            if is_directory:
                place.mkdir()
            elif not _copy(path, place, limit, texts) and name.startswith(_CONFIGURATION):
                raise Unusable(f"{source} is being configured")
        if not (scratch / "include/config/auto.conf").exists():
            raise Unusable(f"{source} is not configured")
        if not os.path.samestat(source.stat(), original):
            raise Unusable(f"{source} was replaced")
        scratch.rename(target)
    except FileNotFoundError as error:
        raise Unusable(f"{source} was removed") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def link_sources(source: Path, target: Path) -> None:
    """Make a worktree of the same files as another, by hard links: nothing writes into a file."""
    names = [entry.name for entry in os.scandir(source) if not entry.name.startswith(OBJECTS)]
    scratch = target.with_name(f"{target.name}.seed")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    argv = [
        which("cp", package="coreutils"),
        "--archive",
        "--link",
        f"--target-directory={scratch}",
    ]
    run([*argv, "--", *sorted(names)], name="cp", timeout=_COPY_SECONDS, cwd=source)
    scratch.rename(target)


def _begun(state_dir: Path, scratch: Path) -> int:
    """Return a time before the present build began, or before the present: in nanoseconds."""
    # By the clock of the file system.
    now = scratch.stat().st_mtime_ns
    try:
        return min(now, (state_dir / STARTED).stat().st_mtime_ns - _SLACK_NS)
    except OSError:
        return now


def _walk(top: Path) -> Iterator[tuple[Path, str, bool]]:
    for directory, names, files in os.walk(top, onerror=_refuse):
        here = os.path.relpath(directory, top)
        prefix = "" if here == "." else f"{here}/"
        for name in names:
            path = Path(directory, name)
            yield path, prefix + name, not path.is_symlink()
        for name in files:
            if not _LINKED.fullmatch(name):
                yield Path(directory, name), prefix + name, False


def _refuse(error: OSError) -> NoReturn:
    raise error  # os.walk itself would leave out what it cannot read


def _copy(path: Path, target: Path, limit: int, texts: Sequence[tuple[str, str]]) -> bool:
    """Copy a file that was last written before a time; return whether it was."""
    with contextlib.suppress(FileNotFoundError):
        before = path.lstat()
        if before.st_mtime_ns >= limit:
            return False
        if path.is_symlink():
            target.symlink_to(path.readlink())
        elif _COMMANDS.fullmatch(path.name):
            text = path.read_text(errors="surrogateescape")
            for old, new in texts:
                text = text.replace(old, new)
            target.write_text(text, errors="surrogateescape")
        else:
            shutil.copyfile(path, target)
            target.chmod(before.st_mode & 0o777)
        after = path.lstat()
        if (after.st_mtime_ns, after.st_size) != (before.st_mtime_ns, before.st_size):
            target.unlink()
            return False
        times = (before.st_atime_ns, before.st_mtime_ns)
        os.utime(target, ns=times, follow_symlinks=False)
        return True
    return False
