"""Patches: a diff, a mailbox, or a quilt series, applied to copies of the files they change."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shlex
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Final, NamedTuple

from ..errors import BuildError, ConfigError
from ..process import Completed, run, which

_NUMBER: Final = re.compile(r"\[[^\]]*?\bPATCH[^\]]*?\b(\d+)/(\d+)\]", re.IGNORECASE)
_REPLY: Final = re.compile(r"\s*(re|aw|fwd?)\s*:", re.IGNORECASE)
_STRIP: Final = re.compile(r"-p\s*(\d+)|--strip=(\d+)")
_HEADER: Final = re.compile(rb"^--- [^\n]+\n\+\+\+ [^\n]+\n@@ ", re.MULTILINE)
_GIT: Final = re.compile(rb"^diff --git ", re.MULTILINE)
# git-diff(1), "Generating patch text with -p": extended headers.
_EXTENDED: Final = re.compile(
    rb"(?:old|new|deleted file|new file) mode |(?:dis)?similarity index |index |"
    rb"(?:rename|copy) (?:from|to) "
)
_HUNK: Final = re.compile(rb"@@ -\d+(?:,(\d+))? \+\d+(?:,(\d+))? @@")
_LINES: Final = re.compile(rb"[^\n]*\n|[^\n]+\Z")
_MODE: Final = re.compile(rb"^(?:(?:new|deleted) file|old|new) mode (\d+)\r?$", re.MULTILINE)
_MOVED: Final = re.compile(rb"^(?:rename|copy) (?:from|to) ([^\r\n]+)", re.MULTILINE)
_BINARY: Final = re.compile(rb"^GIT binary patch\r?$", re.MULTILINE)
_REGULAR: Final = b"100"  # the type in a mode; 120 is a symbolic link, 160 a submodule
_CONTEXT: Final = re.compile(rb"^\*\*\* [^\n]+\n--- [^\n]+\n\*{15}", re.MULTILINE)
# patch(1), "Applying Patches with Imperfect Context".
_INEXACT: Final = re.compile(r"^(Hunk #\d+ succeeded at .*(?:fuzz|offset).*)\.$", re.MULTILINE)
_PATCH_SECONDS: Final = 60.0


class Patch(NamedTuple):
    """One diff to apply."""

    name: str
    """For messages: its file and, in a mailbox, its subject."""
    data: bytes
    strip: int = 1
    """Leading directories to remove from names (`patch -p`)."""
    reverse: bool = False

    @property
    def diffs(self) -> bytes:
        """The unified diffs in it, without all that stands before, between and behind them.

        patch(1) reads more in that than git does: diffs that a message quotes, indented, scripts
        for ed(1), which may run commands, and names for the diff that follows.

        :raises BuildError: it is malformed.
        """
        kept: list[bytes] = []
        old = new = 0  # lines of the hunk that are still to come
        header = in_file = False
        lines = _LINES.findall(self.data)
        for number, line in enumerate(lines):
            if old > 0 or new > 0:
                old -= line[:1] in b"- \r\n"
                new -= line[:1] in b"+ \r\n"
                if line[:1] not in b"-+ \\\r\n":
                    old = new = 0
            elif hunk := _HUNK.match(line):
                if not in_file:
                    if kept:
                        raise BuildError(
                            f"the patch {self.name} is malformed: line {number + 1} begins a hunk "
                            "of no file"
                        )
                    continue
                old, new = int(hunk[1] or 1), int(hunk[2] or 1)
            elif line.startswith(b"diff --git "):
                header, in_file = True, False
            elif line.startswith(b"--- "):
                if not (number + 1 < len(lines) and lines[number + 1].startswith(b"+++ ")):
                    header = in_file = False
                    continue
                header, in_file = False, True
            elif not (
                (line.startswith(b"+++ ") and lines[number - 1].startswith(b"--- "))
                or (line.startswith(b"\\ ") and in_file)
                or (header and _EXTENDED.match(line))
            ):
                header = in_file = False
                continue
            kept.append(line)
        return b"".join(kept)

    def touched(self) -> set[str]:
        """Return the names of all files that it changes, creates, renames or removes.

        :raises BuildError: it is malformed.
        :raises ConfigError: it names what is not in the tree, or holds what is not applied.
        """
        # Imported lazily: most runs have no patch.
        from unidiff.errors import UnidiffParseError
        from unidiff.patch import PatchSet

        try:
            # Names are bytes, and so is the text around them: this encoding takes any.
            files = PatchSet(self.diffs.decode("latin-1"), metadata_only=True)
        except UnidiffParseError as error:
            raise BuildError(f"the patch {self.name} is malformed: {error}") from error
        sides = {side.strip() for file in files for side in (file.source_file, file.target_file)}
        names = {"/".join(side.split("/")[self.strip :]) for side in sides - {"/dev/null"}}
        touched = {os.fsdecode(name.encode("latin-1")) for name in names if name}
        for name in (*touched, *map(os.fsdecode, _MOVED.findall(self.diffs))):
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or ".git" in path.parts:
                raise ConfigError(
                    f"the patch {self.name} wants to change {name}, outside of the kernel"
                )
        return touched

    def check_kind(self) -> None:
        """Check that it holds nothing that is applied otherwise than it says, or not at all.

        :raises ConfigError: it does.
        """
        for pattern, kind in ((_BINARY, "binary patch"), (_CONTEXT, "context diff")):
            if pattern.search(self.data):
                raise ConfigError(
                    f"{self.name} holds a {kind}, which is not applied",
                    hint="apply it in your tree, or name a revision that has it",
                )
        for mode in _MODE.findall(self.diffs):
            if not mode.startswith(_REGULAR):
                raise ConfigError(
                    f"{self.name} has a file of mode {mode.decode()}: symbolic links and "
                    "submodules are not applied",
                    hint="apply it in your tree, or name a revision that has it",
                )


def read(path: Path) -> list[Patch]:
    """Return the patches in a file or a directory, in the order in which they are applied.

    :raises ConfigError: there are none, or they cannot be read.
    """
    try:
        patches = _series(path) if path.is_dir() else _file(path, path.name)
    except OSError as error:
        raise ConfigError(f"cannot read the patch {path}: {error.strerror}") from error
    if not patches:
        raise ConfigError(f"there is no patch in {path}")
    return patches


read_patches = read
"""The name outside of this package."""


def patch_files(path: Path) -> list[Path]:
    """Return the files that hold the patches of a file or a directory, in their order."""
    if not path.is_dir():
        return [path]
    return [_series_file(path).parent / words[0] for _, words in _series_lines(path)]


def key(patches: Sequence[Patch]) -> str:
    """Return one hash for patches and their order."""
    result = hashlib.sha256()
    for patch in patches:
        result.update(f"{len(patch.data)} {patch.strip} {patch.reverse}\n".encode() + patch.data)
    return result.hexdigest()


def apply(
    patches: Sequence[Patch],
    find: Callable[[str], Path | None],
    scratch: Path,
    label: str,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Path | None]:
    """Apply patches to copies of the files that they change.

    :param find: returns the path of a file of the tree, None if it has no such file.
    :param scratch: an empty directory for the copies.
    :param label: the tree's name in messages.
    :param say: is told of patches that fit elsewhere, or not exactly.
    :returns: the patched copy of every file that is changed, by name; None if it was removed.
    :raises BuildError: a patch does not apply.
    """
    names: set[str] = set()
    for number, patch in enumerate(patches):
        result = _put(patch, names, find, scratch)
        if result.status != 0:
            raise _refusal(patches[: number + 1], find, label, result.output)
        _check_changed(scratch, names, patch)
        if inexact := _INEXACT.findall(result.output):
            say(f"the patch {patch.name} fits {label} not exactly: {'; '.join(inexact)}")
    return {name: path if (path := scratch / name).is_file() else None for name in names}


def _put(
    patch: Patch, names: set[str], find: Callable[[str], Path | None], scratch: Path
) -> Completed:
    """Have patch(1) apply a patch.

    :param names: the files that are in the directory; those of the patch are added.
    """
    touched = patch.touched()
    for name in touched - names:
        _fetch(name, find, scratch)
    names |= touched
    options = [f"-p{patch.strip}", "--no-backup-if-mismatch", "--reject-file=-"]
    options += ["--remove-empty-files", "--directory", str(scratch)]
    # With --batch, a patch that is to be taken out and is not in would be put in.
    options += ["--reverse", "--force"] if patch.reverse else ["--forward", "--batch"]
    return run(
        [which("patch", package="patch"), *options],
        name="patch",
        timeout=_PATCH_SECONDS,
        input=patch.diffs,
        check=False,
    )


def _refusal(
    patches: Sequence[Patch], find: Callable[[str], Path | None], label: str, output: str
) -> BuildError:
    """Return the error for the last one of these patches, which does not apply.

    :param output: what patch(1) says.
    """
    *before, patch = patches
    text = "\n".join(f"  {line}" for line in output.splitlines()[:20])
    # The other way round it fits where it is in already, or is not.
    turned = [*before, patch._replace(reverse=not patch.reverse)]
    if patch.reverse:
        if _applies(turned, find):
            return BuildError(
                f"the patch {patch.name} is not in {label}: there is nothing to take out",
                hint="a change that the kernel does not have is tested with it put in",
            )
        what = f"the patch {patch.name} cannot be taken out of {label}:\n{text}"
        return BuildError(what, hint="is it in there, as it is?")
    if _applies(turned, find):
        where = f"{label}, or a patch before it," if before else label
        return BuildError(
            f"the patch {patch.name} is applied already: {where} has what it changes",
            hint="leave it out; what such a fix does is tested with it taken out: "
            "gate --revert, kgdb_fix(revert=…)",
        )
    return BuildError(
        f"the patch {patch.name} does not apply to {label}:\n{text}",
        hint="rebase it on this kernel; patches before it in the list are applied first",
    )


def _applies(patches: Sequence[Patch], find: Callable[[str], Path | None]) -> bool:
    """Whether patches apply, the last one without fuzz: elsewhere may be what is like it."""
    names: set[str] = set()
    with scratch_directory() as scratch:
        for patch in patches:
            result = _put(patch, names, find, Path(scratch))
            if result.status != 0:
                return False
    return not any("fuzz" in line for line in _INEXACT.findall(result.output))


def file_of(tree: Path, name: str) -> Path | None:
    """Return the path of a file of a tree that a patch names; None if the tree has no such file.

    :raises ConfigError: a symbolic link in the tree leads out of it on the way there.
    """
    path = tree / name
    if not path.resolve().is_relative_to(tree.resolve()):
        raise ConfigError(f"{name} is outside of {tree}: a symbolic link leads there")
    return path if path.is_file() else None


def _check_changed(scratch: Path, names: set[str], patch: Patch) -> None:
    """Check that patch(1) has read the same names in a patch as we have."""
    for directory, directories, files in os.walk(scratch):
        for name in (*directories, *files):
            path = Path(directory, name)
            unnamed = name in files and str(path.relative_to(scratch)) not in names
            if unnamed or path.is_symlink():
                raise BuildError(
                    f"the patch {patch.name} is malformed: patch(1) makes of it "
                    f"{path.relative_to(scratch)}, which is a link or in none of its headers"
                )


def scratch_directory() -> tempfile.TemporaryDirectory[str]:
    """Return a directory to apply patches in."""
    return tempfile.TemporaryDirectory(prefix="pytest-kgdb-patch-")


def _fetch(name: str, find: Callable[[str], Path | None], scratch: Path) -> None:
    source, target = find(name), scratch / name
    if source is not None:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)


def _file(path: Path, name: str, strip: int = 1, *, reverse: bool = False) -> list[Patch]:
    data = path.read_bytes()
    if data.startswith(b"From ") and b"\nSubject:" in data:
        patches = list(_mails(path, name))
        if reverse:
            patches = [patch._replace(reverse=True) for patch in reversed(patches)]
    else:
        patches = [Patch(name, data, strip, reverse)] if _is_patch(data) else []
    for patch in patches:
        patch.check_kind()
    return patches


def _is_patch(data: bytes) -> bool:
    return bool(_HEADER.search(data) or _GIT.search(data))


def _mails(path: Path, name: str) -> Iterator[Patch]:
    """Yield the patches of a mailbox, ordered by `[PATCH 2/5]`, or else as in the file."""
    import mailbox  # slow to import, and rarely needed

    numbered: list[tuple[int, int, Patch]] = []
    with contextlib.closing(mailbox.mbox(path, create=False)) as box:
        for place, message in enumerate(box):
            subject = " ".join(str(message.get("Subject", "")).split())
            if _REPLY.match(subject):
                continue
            number = _NUMBER.search(subject)
            order = int(number[1]) if number else place
            for part in message.walk():
                payload = None if part.is_multipart() else part.get_payload(decode=True)
                data = payload.replace(b"\r\n", b"\n") if isinstance(payload, bytes) else b""
                if _is_patch(data):
                    numbered.append((order, place, Patch(f"{name}: {subject}", data)))
    yield from (patch for _, _, patch in sorted(numbered, key=lambda item: item[:2]))


def _series(path: Path) -> list[Patch]:
    """Return the patches of a quilt series (quilt(1)): in a line, a name, -pN, -R and comments."""
    series_patches: list[Patch] = []
    for number, words in _series_lines(path):
        file = _series_file(path).parent / words[0]
        where = f"{_series_file(path)}:{number}"
        if not file.is_file():
            raise ConfigError(f"{where}: there is no {file}")
        match = _STRIP.search(" ".join(words[1:]))
        strip = int(match[1] or match[2]) if match else 1
        patches = _file(file, words[0], strip, reverse="-R" in words[1:])
        if not patches:
            raise ConfigError(f"{where}: there is no patch in {file}")
        series_patches += patches
    return series_patches


def _series_file(path: Path) -> Path:
    files = (path / "series", path / "patches/series")
    series = next((file for file in files if file.is_file()), None)
    if series is None:
        raise ConfigError(
            f"{path} has no quilt series", hint="name a patch, or put a file `series` in there"
        )
    return series


def _series_lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the number and the words of each line of a series that names a patch."""
    for number, line in enumerate(_series_file(path).read_text().splitlines(), 1):
        if words := shlex.split(line, comments=True):
            yield number, words
