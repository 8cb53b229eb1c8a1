"""qcow2 images, as qemu-img sees them."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ..errors import ConfigError, KgdbError
from ..process import CommandFailed, run, which

_SECONDS: Final = 60.0
_CHECK_SECONDS: Final = 600.0
_LOCKED: Final = re.compile(r'Failed to get (?:shared )?"(?:write|consistent read)" lock')
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,127}")

# qemu-img(1), "check": 2 is corruption; 3 is leaked clusters, which cost room and nothing else.
_CORRUPT: Final = 2
_LEAKS: Final = 3


@dataclass(frozen=True)
class Info:
    """What an image says of itself."""

    size: int
    """Bytes that the guest sees."""
    chain: tuple[Path, ...]
    """The image's file, its backing file, the backing file's, and so on."""
    snapshots: tuple[str, ...]
    """The names of the snapshots in it, oldest first."""


def qemu_img(*words: str | Path, timeout: float = _SECONDS, cwd: Path | None = None) -> str:
    """Run qemu-img and return its output.

    :raises ConfigError: an image is in use by another process.
    :raises CommandFailed: anything else.
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


def look_at(path: Path) -> Info:
    """Return what a qcow2 image says of itself.

    :raises ConfigError: it is none, cannot be read, or is in use.
    """
    try:
        told = qemu_img("info", "--output=json", "--backing-chain", path)
        layers: list[dict[str, Any]] = json.loads(told)
    except (CommandFailed, ValueError) as error:
        said = error.output.strip() if isinstance(error, CommandFailed) else str(error)
        raise ConfigError(
            f"the disk image {path} cannot be read:\n{said}",
            hint="is it a qcow2 image, and are its backing files where it says?",
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
        size=top["virtual-size"],
        chain=tuple(Path(layer["filename"]).absolute() for layer in layers),
        snapshots=tuple(each["name"] for each in top.get("snapshots", ())),
    )


def check(path: Path) -> None:
    """Have qemu-img go through an image's tables.

    :raises ConfigError: they contradict each other.
    """
    try:
        qemu_img("check", "--output=human", path, timeout=_CHECK_SECONDS)
    except CommandFailed as error:
        if error.status == _LEAKS:
            return
        said = "\n".join(error.output.strip().splitlines()[:8])
        if error.status == _CORRUPT:
            raise _corrupt(path, said) from error
        raise ConfigError(f"the disk image {path} cannot be checked:\n{said}") from error


def _corrupt(path: Path, said: str) -> ConfigError:
    return ConfigError(
        f"the disk image {path} is corrupt: {said}",
        hint=f"`qemu-img check -r all` mends what can be mended, on a copy: cp {path} …",
    )


def create_overlay(path: Path, base: Path, size: int | None = None) -> None:
    """Make an image that holds what is written to it, and for the rest shows another one.

    :param size: bytes that the guest sees; the base's if None.
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
    """Make, apply or delete a snapshot in an image.

    :param verb: `-c`, `-a` or `-d`, as for `qemu-img snapshot`.
    :raises ConfigError: the image is in use, or the name cannot be.
    :raises KgdbError: it could not be done.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r} cannot name a snapshot", hint="letters, digits and _ . + - it may have"
        )
    try:
        qemu_img("snapshot", verb, name, path)
    except CommandFailed as error:
        raise KgdbError(
            f"qemu-img snapshot {verb} {name} {path} failed: {error.output.strip()}"
        ) from error
