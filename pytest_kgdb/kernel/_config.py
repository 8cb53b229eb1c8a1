"""Kernel configurations: parsing, merging, and which requests were not fulfilled."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PosixPath
from typing import Final

from ..errors import ConfigError

_SET: Final = re.compile(r"CONFIG_(\w+)=(.*)")
_UNSET: Final = re.compile(r"# CONFIG_(\w+) is not set")
_QUOTED: Final = re.compile(r'"(.*)"', re.DOTALL)

# Since 5.18, debug information is a choice of DWARF versions (lib/Kconfig.debug); gdb and drgn can
# use these.
DWARF_CHOICES: Final = (
    "DEBUG_INFO_DWARF_TOOLCHAIN_DEFAULT",
    "DEBUG_INFO_DWARF4",
    "DEBUG_INFO_DWARF5",
)

# Set in every kernel that we build. An older or newer kernel need not have all of them; `missing`
# has the symbols that are required.
REQUIRED: Final = """\
CONFIG_DEBUG_KERNEL=y
CONFIG_DEBUG_INFO=y
# CONFIG_DEBUG_INFO_NONE is not set
# CONFIG_DEBUG_INFO_REDUCED is not set
# CONFIG_DEBUG_INFO_SPLIT is not set
CONFIG_KALLSYMS=y
CONFIG_KGDB=y
CONFIG_KGDB_SERIAL_CONSOLE=y
CONFIG_MAGIC_SYSRQ=y
CONFIG_MAGIC_SYSRQ_SERIAL=y
CONFIG_TTY=y
CONFIG_PRINTK=y
CONFIG_SERIAL_8250=y
CONFIG_SERIAL_8250_CONSOLE=y
CONFIG_BLK_DEV_INITRD=y
CONFIG_PROC_FS=y
CONFIG_SYSFS=y
CONFIG_TMPFS=y
CONFIG_DEVTMPFS=y
"""

_NEEDED: Final = {
    "SERIAL_8250_CONSOLE": "the console on ttyS0",
    "BLK_DEV_INITRD": "the initrd",
    "DEBUG_INFO": "symbols and types for gdb",
}
_NEEDED_BY_KGDB: Final = {
    "KGDB": "the debugger",
    "KGDB_SERIAL_CONSOLE": "kgdboc, the debugger on a serial port",
    "MAGIC_SYSRQ": "interrupting a running kernel",
    "MAGIC_SYSRQ_SERIAL": "interrupting it from the console",
}


class Config(PosixPath, Mapping[str, str]):
    """A kernel's `.config`: a path, and a mapping of the symbols that are set in it.

    Names may be written with or without `CONFIG_`. A value is `y`, `m`, a number or a string
    (without its quotes); a symbol that is not set is not in the mapping.
    """

    _symbols: dict[str, str] | None = None

    @property
    def symbols(self) -> Mapping[str, str]:
        """The symbols that are set, by their names without `CONFIG_`."""
        if self._symbols is None:
            self._symbols = {
                name: unquote(value)
                for name, value in parse(self.read_text(errors="replace")).items()
                if value != "n"
            }
        return self._symbols

    def __getitem__(self, name: str) -> str:
        try:
            return self.symbols[bare(name)]
        except KeyError:
            raise KeyError(f"CONFIG_{bare(name)} is not set in {self}") from None

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and bare(name) in self.symbols

    def __iter__(self) -> Iterator[str]:
        return (f"CONFIG_{name}" for name in self.symbols)

    def __len__(self) -> int:
        return len(self.symbols)

    # It compares and hashes as a path, and is true even without symbols.
    def __bool__(self) -> bool:
        return True

    def __eq__(self, other: object) -> bool:
        return PosixPath.__eq__(self, other)

    def __hash__(self) -> int:
        return PosixPath.__hash__(self)


@dataclass(frozen=True)
class Request:
    """A request for one symbol."""

    name: str
    value: str
    """As in a `.config`; `n` means "is not set"."""
    origin: str

    def __str__(self) -> str:
        return line(self.name, self.value)


@dataclass(frozen=True)
class Lost:
    """A request that `olddefconfig` did not fulfil."""

    request: Request
    result: str
    """The symbol's value in the result; `n` if it is not set."""
    reason: str = ""

    def __str__(self) -> str:
        became = f"became {self.result}" if self.result != "n" else "was dropped"
        if self.request.value == "n":
            became = f"came back as {self.result}"
        reason = f": {self.reason}" if self.reason else ""
        return f"{self.request} ({self.request.origin}) {became}{reason}"


def bare(name: str) -> str:
    """Return a symbol's name without `CONFIG_`."""
    return name.removeprefix("CONFIG_")


def line(name: str, value: str) -> str:
    """Return a symbol's line in a `.config`."""
    return f"# CONFIG_{name} is not set" if value == "n" else f"CONFIG_{name}={value}"


def unquote(value: str) -> str:
    """Return a string symbol's value without quotes and escapes."""
    match = _QUOTED.fullmatch(value)
    return re.sub(r"\\(.)", r"\1", match[1]) if match else value


def parse(text: str) -> dict[str, str]:
    """Return the symbols of a `.config`, by names without `CONFIG_`, "is not set" as `n`.

    The last line for a symbol counts, and determines its position: of a choice's members, kconfig
    takes the last one.
    """
    symbols: dict[str, str] = {}
    for text_line in text.splitlines():
        stripped = text_line.strip()
        if match := _SET.fullmatch(stripped):
            name, value = match[1], match[2]
        elif match := _UNSET.fullmatch(stripped):
            name, value = match[1], "n"
        else:
            continue
        symbols.pop(name, None)
        symbols[name] = value
    return symbols


def render(symbols: Mapping[str, str]) -> str:
    """Return the text of a `.config` with these symbols."""
    return "".join(f"{line(name, value)}\n" for name, value in symbols.items())


def merge(layers: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """Merge configurations; the later ones override the earlier ones."""
    merged: dict[str, str] = {}
    for layer in layers:
        for name, value in layer.items():
            merged.pop(name, None)
            merged[name] = value
    return merged


def read_fragment(path: Path) -> dict[str, str]:
    """Return a fragment's symbols.

    :raises ConfigError: it cannot be read, or has a line that sets no symbol.
    """
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the configuration fragment {path}: {error}") from error
    for number, text_line in enumerate(text.splitlines(), 1):
        stripped = text_line.strip()
        if stripped and not stripped.startswith("#") and not _SET.fullmatch(stripped):
            raise ConfigError(
                f"{path}:{number}: {stripped!r} does not set a symbol",
                hint="write CONFIG_X=y, or # CONFIG_X is not set",
            )
    return parse(text)


def with_required(symbols: Mapping[str, str]) -> dict[str, str]:
    """Return a base's symbols, overridden by those that every kernel needs."""
    required = parse(REQUIRED)
    if not any(symbols.get(name) == "y" for name in DWARF_CHOICES):
        required[DWARF_CHOICES[-1]] = "y"
    return merge((symbols, required))


def _same(result: str | None, request: str) -> bool:
    if result is None:
        # A symbol with unmet dependencies does not appear in a `.config`.
        return request in ("n", '""')
    if result == request:
        return True
    try:
        return int(result, 0) == int(request, 0)  # 0x1b6 and 0x01b6
    except ValueError:
        return False


def lost(requests: Iterable[Request], result: Mapping[str, str]) -> list[Lost]:
    """Return the requests that the resulting configuration does not fulfil."""
    return [
        Lost(request, result.get(request.name, "n"))
        for request in requests
        if not _same(result.get(request.name), request.value)
    ]


def stub_for(stub: str, config: Mapping[str, str]) -> str:
    """Return whose stub gdb is attached to: `kgdb` or `qemu`.

    :param stub: as the user chose: `auto` for kgdb, if the kernel can be reached by it.
    :param config: the kernel's, by names without `CONFIG_`.
    """
    if stub != "auto":
        return stub
    return "kgdb" if config.get("KGDB_SERIAL_CONSOLE") == "y" else "qemu"


def missing(config: Mapping[str, str], *, kgdb: bool) -> dict[str, str]:
    """Return the required symbols that a configuration lacks, and what each is needed for.

    :param config: by names without `CONFIG_`.
    :param kgdb: whether gdb is to talk to kgdb (and not to QEMU's stub).
    """
    needed = _NEEDED | (_NEEDED_BY_KGDB if kgdb else {})
    return {name: purpose for name, purpose in needed.items() if config.get(name) != "y"}
