"""qcow2 images, by qemu-img(1)."""

from __future__ import annotations

import json
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ..errors import ConfigError, KgdbError
from ..process import CommandFailed, run, which

_SECONDS: Final = 60.0
_CHECK_SECONDS: Final = 600.0
_LOCKED: Final = re.compile(r'Failed to get (?:shared )?"(?:write|consistent read)" lock')
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,127}")

# qemu-img(1), "check": 2 is corruption; 3 is leaked clusters, which only waste space.
_CORRUPT: Final = 2
_LEAKS: Final = 3


@dataclass(frozen=True)
class Info:
    """The properties of an image."""

    chain: tuple[Path, ...]
    """The image's file, its backing file, the backing file of that, and so on."""
    snapshots: tuple[str, ...]
    """The names of the snapshots in it, oldest first."""


def qemu_img(*words: str | Path, timeout: float = _SECONDS, cwd: Path | None = None) -> str:
    """Run qemu-img and return its output.

    :raises ConfigError: an image is in use by another process.
    :raises CommandFailed: it failed for another reason.
    """
    program = which("qemu-img", package="qemu-utils")
    try:
        return run([program, *words], name="qemu-img", timeout=timeout, cwd=cwd).output
    except CommandFailed as error:
        if _LOCKED.search(error.output):
            raise ConfigError(
                f"the image {words[-1]} is in use by another process:\n{error.output.strip()}",
                hint="`fuser -v FILE` names it; end it, or give it an overlay of its own",
            ) from error
        raise


def read_info(path: Path) -> Info:
    """Return the properties of a qcow2 image (`qemu-img info`).

    :raises ConfigError: it is not a qcow2 image, cannot be read, or is in use.
    """
    try:
        output = qemu_img("info", "--output=json", "--backing-chain", path)
        layers: list[dict[str, Any]] = json.loads(output)
    except (CommandFailed, ValueError) as error:
        reason = error.output.strip() if isinstance(error, CommandFailed) else str(error)
        raise ConfigError(
            f"the disk image {path} cannot be read:\n{reason}",
            hint="is it a qcow2 image, and do its backing files exist?",
        ) from error
    top = layers[0]
    if top["format"] != "qcow2":
        raise ConfigError(
            f"the disk image {path} is not qcow2 (it looks like {top['format']})",
            hint=f"qemu-img convert -O qcow2 {path} {path.with_suffix('.qcow2')}",
        )
    if top.get("format-specific", {}).get("data", {}).get("corrupt"):
        raise _corrupt(path, "it is marked as corrupt")
    return Info(
        chain=tuple(Path(layer["filename"]).absolute() for layer in layers),
        snapshots=tuple(snapshot_["name"] for snapshot_ in top.get("snapshots", ())),
    )


def check(path: Path) -> None:
    """Check an image's tables (`qemu-img check`).

    :raises ConfigError: the image is corrupt, or cannot be checked.
    """
    try:
        qemu_img("check", "--output=human", path, timeout=_CHECK_SECONDS)
    except CommandFailed as error:
        if error.status == _LEAKS:
            return
        report = "\n".join(error.output.strip().splitlines()[:8])
        if error.status == _CORRUPT:
            raise _corrupt(path, report) from error
        raise ConfigError(f"the disk image {path} cannot be checked:\n{report}") from error


def _corrupt(path: Path, reason: str) -> ConfigError:
    return ConfigError(
        f"the disk image {path} is corrupt: {reason}",
        hint=f"`qemu-img check -r all` repairs what it can, on a copy: cp {path} …",
    )


def create_overlay(path: Path, base: Path, size: int | None = None) -> None:
    """Create an image over another one, which is its backing file.

    :param size: the size in bytes that the guest sees; by default that of the base.
    :raises ConfigError: the file exists.
    """
    if path.exists() or path.is_symlink():
        raise ConfigError(f"{path} exists already", hint="remove it, or name another file")
    words: list[str | Path] = ["create", "-q", "-f", "qcow2", "-F", "qcow2"]
    words += ["-b", base.absolute(), path]
    try:
        qemu_img(*words, *([] if size is None else [str(size)]))
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def snapshot(verb: str, name: str, path: Path) -> None:
    """Create, apply or delete a snapshot in an image.

    :param verb: `-c`, `-a` or `-d`, as for `qemu-img snapshot`.
    :raises ConfigError: the image is in use, or the name is invalid.
    :raises KgdbError: qemu-img failed.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r} cannot name a snapshot", hint="use letters, digits and _ . + -"
        )
    try:
        qemu_img("snapshot", verb, name, path)
    except CommandFailed as error:
        raise KgdbError(
            f"qemu-img snapshot {verb} {name} {path} failed: {error.output.strip()}"
        ) from error


# QEMU, docs/interop/qcow2.txt, "Header"
_MAGIC: Final = b"QFI\xfb"
_HEADER: Final = struct.Struct(">4sIQIIQIIQQIIQQ")


def check_untrusted(path: Path) -> None:
    """Check that an image is all in this one file: QEMU opens no other file for it.

    :raises ValueError: it is not, or is no qcow2 image.
    """
    with path.open("rb") as file:
        data = file.read(_HEADER.size)
    if len(data) < _HEADER.size or not data.startswith(_MAGIC):
        raise ValueError("it is no qcow2 image")
    _, version, backing, _, _, _, encryption, _, _, _, _, _, _, incompatible = _HEADER.unpack(data)
    if version != 3:
        raise ValueError(f"it is qcow2 of version {version}")
    # An external data file is one of the incompatible features.
    if backing or encryption or incompatible:
        raise ValueError("it needs another file, or a feature that is not used here")


def backing_of(path: Path) -> Path | None:
    """Return the backing file of an image; None if it has none."""
    chain = read_info(path).chain
    return chain[1] if len(chain) > 1 else None


def keep_snapshot(path: Path, name: str) -> None:
    """Delete an image's other snapshots, and its knowledge of a backing file.

    :raises KgdbError: qemu-img failed.
    """
    set_backing(path, None)
    for other in read_info(path).snapshots:
        if other != name:
            snapshot("-d", other, path)


def set_backing(path: Path, base: Path | None) -> None:
    """Set an image's backing file, whose content must be that of the one before.

    :raises KgdbError: qemu-img failed.
    """
    words = ["-b", ""] if base is None else ["-F", "qcow2", "-b", str(base)]
    try:
        qemu_img("rebase", "-u", "-f", "qcow2", *words, path)
    except CommandFailed as error:
        raise KgdbError(f"qemu-img rebase {path} failed: {error.output.strip()}") from error
