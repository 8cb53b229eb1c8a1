"""The parsers of the options' values.

A parser raises `ValueError` with what is wrong with the value; the caller adds the origin.
"""

from __future__ import annotations

import math
import os
import re
import shlex
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

MIN_MEMORY: Final = 32
"""MiB; with less, no kernel with kgdb and a console boots."""

MAX_SMP: Final = 255
"""The most CPUs that QEMU's `pc` machine can have (it refuses `-machine pc -smp 256`)."""

_NAME_MAX: Final = 255  # bytes of a file's name (Linux, include/uapi/linux/limits.h)

_SIZE = re.compile(r"(\d+)\s*(?:([MG])(?:i?B)?)?", re.IGNORECASE)
_SYMBOL = re.compile(r"(?:CONFIG_)?([A-Za-z0-9_]+)=(.+)", re.DOTALL)
_BARE_VALUE = re.compile(r'[ymn]|-?\d+|0[xX][0-9A-Fa-f]+|".*"', re.DOTALL)
# What says where and for what kbuild builds (Documentation/kbuild/kbuild.rst).
_NOT_THE_USERS: Final = frozenset(
    [
        *("ARCH", "SRCARCH", "M", "O", "SUBDIRS"),
        *("KBUILD_EXTMOD", "KBUILD_OUTPUT", "KBUILD_EXTRA_SYMBOLS"),
    ]
)
_SUITE = re.compile(r"[a-z0-9][a-z0-9.-]*")
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+(?:[:=/][^\s,]+)?")
_RELEASE = re.compile(r"(?:[A-Za-z0-9][\w.+~-]*)?")
_FORWARD = re.compile(r"(tcp|udp):(\d+):(\d+)")
_LINE = re.compile(r"(tcp:[^,:/]+:\d+|rfc2217://[^,]+|(?!\w+:)[^,]+?)(?:,(\d+))?")


_COVERED: Final = re.compile(r"(function|module):([\w-]+)|([^:\s]+)(?::(\d+)(?:-(\d+))?)?")


@dataclass(frozen=True)
class CoverageTarget:
    """Lines of the kernel's source that are to be covered."""

    kind: str
    """`patch`, `function`, `module` or `file`."""

    name: str = ""
    first: int = 0
    last: int = 0
    """0 for the whole file."""


@dataclass(frozen=True)
class Forward:
    """A loopback port of the host that is forwarded to a port of the guest."""

    proto: str
    """`tcp` or `udp`."""

    host: int
    """The host's port; 0 for any free port."""

    guest: int

    def __str__(self) -> str:
        return f"{self.proto}:{self.host}:{self.guest}"


@dataclass(frozen=True)
class SerialLine:
    """A serial line of this host's, or one that a server on the network has."""

    where: str
    """A device's absolute path, `tcp:HOST:PORT`, or `rfc2217://HOST:PORT`."""

    baud: int = 115200
    """Bits per second; without meaning for `tcp:`, whose server has set it."""

    @property
    def is_device(self) -> bool:
        """Whether it is a device of this host's."""
        return self.where.startswith("/")

    def __str__(self) -> str:
        return self.where if self.where.startswith("tcp:") else f"{self.where},{self.baud}"


@dataclass(frozen=True)
class LabgridTarget:
    """A board that labgrid knows."""

    name: str = "main"
    """The target's, in labgrid's environment."""

    def __str__(self) -> str:
        return f"labgrid:{self.name}"


def text(value: object) -> str:
    """Return a string of one line, without surrounding white space."""
    if not isinstance(value, (str, os.PathLike)):
        raise ValueError(f"{value!r} is not a text")
    line = os.fspath(value)
    if not isinstance(line, str):
        raise ValueError(f"{value!r} is not a text")
    line = line.strip()
    if any(ord(char) < 0x20 or ord(char) == 0x7F for char in line):
        raise ValueError(f"{line!r} has control characters")
    if not line:
        raise ValueError("the value is empty")
    return line


def whole(value: object) -> int:
    """Return a whole number of at least 1."""
    if isinstance(value, str):
        try:
            value = int(value.strip())
        except ValueError:
            raise ValueError(f"{value!r} is not a whole number") from None
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{value!r} is not a whole number")
    if value < 1:
        raise ValueError(f"{value} is less than 1")
    return value


def size(value: object) -> int:
    """Return a size in MiB from `256`, `256M` or `1G`."""
    if isinstance(value, str):
        match = _SIZE.fullmatch(value.strip())
        if match is None:
            raise ValueError(f"{value!r} is not a size: write 256 or 256M (MiB), or 1G")
        return int(match[1]) * (1024 if (match[2] or "M").upper() == "G" else 1)
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{value!r} is not a size: write 256 or '256M' (MiB), or '1G'")
    return value


def choice(*words: str) -> Callable[[object, Path], str]:
    """Return a parser that accepts these words only."""

    def parse(value: object, _base: Path) -> str:
        if value not in words:
            raise ValueError(f"{value!r} is not one of {', '.join(words)}")
        return str(value)

    return parse


def smp(value: object, _base: Path) -> int:
    """Return a number of CPUs."""
    count = whole(value)
    if count > MAX_SMP:
        raise ValueError(f"{count} CPUs are more than the {MAX_SMP} that the machine can have")
    return count


def memory(value: object, _base: Path) -> int:
    """Return the guest's memory in MiB."""
    mib = size(value)
    if mib < MIN_MEMORY:
        raise ValueError(f"{mib} MiB are less than the {MIN_MEMORY} that a kernel needs to boot")
    return mib


def disk_size(value: object, _base: Path) -> int:
    """Return the disk's virtual size in MiB. Whether a system fits is checked when it is built."""
    mib = size(value)
    if mib < 1:
        raise ValueError("the disk has no room")
    return mib


def timeout(value: object, _base: Path) -> float:
    """Return a timeout in seconds."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError(f"{value!r} is not a number of seconds")
    try:
        seconds = float(value)
    except ValueError:
        raise ValueError(f"{value!r} is not a number of seconds") from None
    if not (seconds > 0 and math.isfinite(seconds)):
        raise ValueError(f"{value} is not a bound: every wait ends after a number of seconds")
    return seconds


def jobs(value: object, _base: Path) -> int:
    """Return a number of parallel jobs, or of repetitions."""
    return whole(value)


def flag(value: object, _base: Path) -> bool:
    """Return a truth value."""
    if not isinstance(value, bool):
        raise ValueError(f"{value!r} is not true or false")
    return value


def path(value: object, base: Path) -> Path:
    """Return an absolute path; a relative one is relative to `base`."""
    return base / _expanded(text(value))


def _expanded(word: str) -> Path:
    """Return a path with `~` and `~user` replaced."""
    try:
        expanded = Path(word).expanduser()
    except RuntimeError:  # there is no such user
        raise ValueError(f"{word!r} begins with the name of no user") from None
    if any(len(os.fsencode(part)) > _NAME_MAX for part in expanded.parts):
        raise ValueError(f"{word[:60]}… has a name that is too long for a file's")
    return expanded


def existing(value: object, base: Path, kind: str = "file") -> Path:
    """Return the absolute path of something that exists."""
    target = path(value, base)
    if not target.exists():
        raise ValueError(f"no such {kind}: {target}")
    if kind == "file" and not target.is_file():
        raise ValueError(f"not a file: {target}")
    return target


def is_shipped(spec: str) -> bool:
    """Whether a SPEC names a kernel that is used as a distribution built it."""
    return spec.startswith(("package:", "release:"))


def kernel(value: object, base: Path) -> str:
    """Return a kernel's SPEC. It is resolved when the kernel is prepared."""
    spec = text(value)
    if spec == "distro" or spec.startswith("distro:"):
        return spec
    kind, _, name = spec.partition(":")
    if is_shipped(spec) and kind == "package":
        if not _PACKAGE.fullmatch(name) or ":" in name or "=" in name or "/" in name:
            raise ValueError(f"{name!r} is not the name of a Debian package")
        return spec
    if is_shipped(spec):
        if not _RELEASE.fullmatch(name):
            raise ValueError(f"{name!r} is not a kernel's release, as uname -r prints it")
        return spec
    return str(path(spec, base))


def config(value: object, base: Path) -> str:
    """Return a configuration's name, or the absolute path of its file."""
    word = text(value)
    if word in ("minimal", "defconfig", "distro", "distro-full"):
        return word
    if not (base / _expanded(word)).exists():
        raise ValueError(
            f"{word!r} is neither minimal, defconfig, distro, distro-full, nor a file that exists"
        )
    return str(existing(word, base))


def initrd(value: object, base: Path) -> str:
    """Return an initrd's kind, or the absolute path of its file."""
    word = text(value)
    if word in ("busybox", "initramfs-tools"):
        return word
    if not (base / _expanded(word)).exists():
        raise ValueError(f"{word!r} is neither busybox, initramfs-tools, nor a file that exists")
    return str(existing(word, base))


def disk(value: object, base: Path) -> str:
    """Return a disk's kind, or the absolute path of its image."""
    word = text(value)
    name, colon, suite = word.partition(":")
    if word == "none" or word == "debian":
        return word
    if name == "debian" and colon:
        if not _SUITE.fullmatch(suite):
            raise ValueError(f"{suite!r} is not the name of a Debian suite")
        return word
    if not (base / _expanded(word)).exists():
        raise ValueError(f"{word!r} is neither none, debian, debian:SUITE, nor a file that exists")
    return str(existing(word, base))


def symbol(value: object, _base: Path) -> str:
    """Return `CONFIG_X=value` as in a `.config`; strings are quoted."""
    line = text(value)
    match = _SYMBOL.fullmatch(line)
    if match is None:
        raise ValueError(f"{line!r} does not set a symbol: write CONFIG_X=y, =m, =n, or =value")
    name, setting = match[1], match[2]
    if not _BARE_VALUE.fullmatch(setting):
        # A shell removes the quotes of CONFIG_CMDLINE="quiet"; kconfig needs them.
        setting = '"' + setting.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return f"CONFIG_{name}={setting}"


def make_variable(value: object, _base: Path = Path()) -> str:
    """Return `NAME=VALUE` as on make's command line."""
    line = text(value)
    name, equals, _ = line.partition("=")
    if not equals or not re.fullmatch(r"\w+", name):
        raise ValueError(f"{line!r} does not set a variable of make's: write NAME=VALUE")
    if name in _NOT_THE_USERS:
        raise ValueError(f"{line!r}: {name} is set by the build itself")
    return line


def packages(value: object, _base: Path) -> list[str]:
    """Return names of Debian packages that are separated by commas or spaces."""
    names = text(value).replace(",", " ").split()
    for name in names:
        if not _PACKAGE.fullmatch(name):
            raise ValueError(f"{name!r} is not the name of a Debian package")
    return names


def arguments(value: object, _base: Path) -> list[str]:
    """Return the arguments into which a shell would split a line."""
    line = text(value)
    try:
        return shlex.split(line)
    except ValueError as error:
        raise ValueError(f"{line!r} cannot be split into arguments: {error}") from None


def forward(value: object, _base: Path) -> Forward:
    """Return the forwarding that `tcp:2222:22` means."""
    if isinstance(value, Forward):
        return value
    word = text(value)
    match = _FORWARD.fullmatch(word)
    if match is None:
        raise ValueError(f"{word!r} is not a forwarding: write tcp:HOSTPORT:GUESTPORT")
    forwarding = Forward(match[1], int(match[2]), int(match[3]))
    if forwarding.host > 65535 or not 1 <= forwarding.guest <= 65535:
        raise ValueError(f"{word!r} names a port outside 1..65535 (the host's may be 0, for any)")
    return forwarding


def serial_line(value: object, base: Path = Path()) -> SerialLine:
    """Return the line that `/dev/ttyUSB0,115200`, `tcp:HOST:PORT` or `rfc2217://…` means."""
    if isinstance(value, SerialLine):
        return value
    word = text(value).removeprefix("serial:")
    match = _LINE.fullmatch(word)
    if match is None:
        raise ValueError(
            f"{word!r} is not a serial line: write /dev/ttyUSB0,115200, tcp:HOST:PORT, or "
            "rfc2217://HOST:PORT,115200"
        )
    where, baud = match[1], int(match[2] or 115200)
    if where.startswith("tcp:") and match[2]:
        raise ValueError(f"{word!r}: the server of a tcp: line has set its speed")
    if baud < 1:
        raise ValueError(f"{baud} baud are no speed")
    if not where.startswith(("tcp:", "rfc2217://")):
        where = str(path(where, base))
    return SerialLine(where, baud)


def target(value: object, base: Path) -> SerialLine | LabgridTarget:
    """Return kgdb's serial line of a board, or who knows that."""
    if isinstance(value, (SerialLine, LabgridTarget)):
        return value
    word = text(value)
    kind, _, name = word.partition(":")
    if kind == "labgrid":
        return LabgridTarget(name) if name else LabgridTarget()
    if kind != "serial":
        raise ValueError(
            f"{word!r} is not a target: write serial:/dev/ttyUSB1,115200, or labgrid:TARGET"
        )
    return serial_line(word, base)


def covered(value: object, _base: Path) -> CoverageTarget:
    """Return the lines that `patch`, `FILE:LINES`, `function:NAME` or `module:NAME` stands for."""
    if isinstance(value, CoverageTarget):
        return value
    word = text(value)
    if word == "patch":
        return CoverageTarget("patch")
    match = _COVERED.fullmatch(word)
    if match is None:
        raise ValueError(
            f"{word!r} names no lines: write patch, FILE, FILE:LINE, FILE:FIRST-LAST, "
            "function:NAME or module:NAME"
        )
    kind, name, file, first, last = match.groups()
    if kind:
        return CoverageTarget(kind, name)
    low = int(first or 0)
    high = int(last or low)
    if first and not 1 <= low <= high:
        raise ValueError(f"{word!r} names no lines: {low} to {high}")
    return CoverageTarget("file", file.removeprefix("./"), low, high)


def percent(value: object, _base: Path) -> float:
    """Return a number of percent."""
    try:
        number = float(str(value).strip().removesuffix("%"))
    except ValueError:
        number = -1.0
    if isinstance(value, bool) or not 0 <= number <= 100:
        raise ValueError(f"{value!r} is not a number from 0 to 100")
    return number


def words(value: object, _base: Path) -> str:
    """Return words for the kernel's command line."""
    return text(value)


def existing_file(value: object, base: Path) -> Path:
    """Return the absolute path of a file that exists."""
    return existing(value, base)


def existing_path(value: object, base: Path) -> Path:
    """Return the absolute path of a file or directory that exists."""
    return existing(value, base, "file or directory")


def existing_directory(value: object, base: Path) -> Path:
    """Return the absolute path of a directory that exists."""
    target = existing(value, base, "directory")
    if not target.is_dir():
        raise ValueError(f"not a directory: {target}")
    return target


def remote(value: object, base: Path) -> str:
    """Return a URL; a plain directory's path is made absolute."""
    url = text(value)
    return url if "://" in url else str(path(url, base))


# The parser of each option. That of a `list` option is applied to each item, and may return
# several.
PARSERS: Final[dict[str, Callable[[object, Path], Any]]] = {
    "kernel": kernel,
    "config": config,
    "fragment": existing_file,
    "set": symbol,
    "patch": existing_path,
    "source": existing_directory,
    "make": make_variable,
    "module_make": make_variable,
    "module": existing_path,
    "initrd": initrd,
    "disk": disk,
    "disk_package": packages,
    "disk_size": disk_size,
    "boot": choice("kernel", "disk"),
    "append": words,
    "smp": smp,
    "memory": memory,
    "qemu_arg": arguments,
    "forward": forward,
    "accel": choice("auto", "kvm", "tcg"),
    "stub": choice("auto", "kgdb", "qemu"),
    "isolation": choice("snapshot", "reboot", "none"),
    "target": target,
    "console": serial_line,
    "reset": words,
    "timeout": timeout,
    "cache_dir": path,
    "remote_cache": remote,
    "jobs": jobs,
    "artifacts": path,
    "artifacts_dump": flag,
    "artifacts_machine": flag,
    "attach": flag,
    "trust_scripts": flag,
    "require": flag,
    "repeat": jobs,
    "record": path,
    "observe": flag,
    "peer": path,
    "build_settings": path,
    "prove": flag,
    "cov": covered,
    "cov_lcov": path,
    "cov_json": path,
    "cov_diff": path,
    "cov_fail_under": percent,
    "report": path,
    "gitlab": path,
    "print_commands": flag,
    # For the marker only.
    "at": choice("ready", "kgdbwait"),
}


def parse_list(name: str, value: object, base: Path) -> tuple[Any, ...]:
    """Parse every item of a repeatable option; a single string is one item."""
    items: Iterable[object]
    if isinstance(value, (str, os.PathLike, Forward, CoverageTarget)):
        items = (value,)
    elif isinstance(value, Iterable):
        items = value
    else:
        raise ValueError(f"{value!r} is not a list")
    values: list[Any] = []
    for item in items:
        parsed = PARSERS[name](item, base)
        values.extend(parsed if isinstance(parsed, list) else [parsed])
    return tuple(values)


def parse_axis(name: str, value: object, base: Path) -> tuple[Any, ...]:
    """Parse one value or several: a list, or a text with one in each line."""
    items: list[object] = [value]
    if isinstance(value, (list, tuple)):
        items = list(value)
    elif isinstance(value, str) and value.strip():
        items = [line for line in value.splitlines() if line.strip()]
    if not items:
        raise ValueError("the value is empty")
    return tuple(PARSERS[name](item, base) for item in items)
