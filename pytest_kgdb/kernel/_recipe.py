"""What kernel is wanted: a base configuration and what is laid over it, as asked for and by us."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Final

from ..errors import ConfigError
from ..settings import Settings
from ._config import Request, merge, parse, read_fragment, with_ours

DISTRO_CONFIGS: Final = Path("/usr/src")
"""Where Debian's `linux-config-*` packages put their configurations."""

BOOT: Final = Path("/boot")
"""Where an installed kernel's package puts its own."""

_PACKAGED: Final = re.compile(r"linux-config-(\d+)\.(\d+)")
_INSTALLED: Final = re.compile(r"config-(\d+)\.(\d+)\.\d+.*-amd64")
_RELEASE: Final = re.compile(r"(\d+)\.(\d+)")


@dataclass(frozen=True)
class Recipe:
    """A configuration to be made."""

    base: str
    """`minimal`, `defconfig`, `distro`, `distro-full` or `file`."""
    target: str | None
    """The make target that writes the base, if a tree has it."""
    symbols: Mapping[str, str]
    """What is laid over the target's result, or the whole base where there is none."""
    wanted: Mapping[str, Request]
    """What the user asked for, symbol by symbol."""
    trimmed: bool = False
    """Whether modules that no virtual machine can load are left out."""

    def over(self, base: Mapping[str, str]) -> dict[str, str]:
        """Return everything laid over a base, the user's wishes on top."""
        return self.wishes_over(merge((base, self.symbols)))

    def wishes_over(self, symbols: Mapping[str, str]) -> dict[str, str]:
        """Return a configuration with what we need and what the user wishes laid over it."""
        wishes = {name: request.value for name, request in self.wanted.items()}
        return merge((with_ours(symbols), wishes))

    @property
    def key(self) -> str:
        """Return one hash for all of it."""
        text = "\n".join(
            [
                self.base,
                str(self.target),
                str(self.trimmed),
                *(f"{name}={value}" for name, value in self.over({}).items()),
                lsmod() if self.trimmed else "",
            ]
        )
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def names_its_commit(self) -> bool:
        """Whether the release tells the git commit (CONFIG_LOCALVERSION_AUTO, a default)."""
        chosen = self.over({}).get("LOCALVERSION_AUTO")
        return chosen == "y" or (chosen is None and self.base == "file")


def recipe(settings: Settings, version: str) -> Recipe:
    """Return what the settings ask for.

    :param version: of the source, for Debian's configuration of it.
    :raises ConfigError: a file cannot be read, or Debian's configuration is not installed.
    """
    wanted: dict[str, Request] = {}
    for path in settings.fragment:
        for name, value in read_fragment(path).items():
            wanted.pop(name, None)
            wanted[name] = Request(name, value, str(path))
    for text in settings.set:
        for name, value in parse(text).items():
            wanted.pop(name, None)
            wanted[name] = Request(name, value, "--kgdb-set")
    base = settings.config
    if base == "minimal":
        return Recipe(base, "tinyconfig", parse(data("minimal.config")), wanted)
    if base == "defconfig":
        return Recipe(base, "defconfig", {}, wanted)
    if base in ("distro", "distro-full"):
        symbols = merge((parse(distro_config(version)), parse(data("distro.config"))))
        return Recipe(base, None, symbols, wanted, trimmed=base == "distro")
    path = Path(base)
    try:
        text = path.read_text(errors="replace")
    except OSError as error:
        raise ConfigError(f"cannot read the configuration {path}: {error.strerror}") from error
    symbols = parse(text)
    if not symbols:
        raise ConfigError(
            f"{path} is not a kernel configuration: it has no CONFIG_ line",
            hint="a .config, or what make savedefconfig writes",
        )
    return Recipe("file", None, symbols, wanted)


def data(name: str) -> str:
    """Return a file of ours."""
    return (resources.files("pytest_kgdb") / "data" / name).read_text()


def lsmod() -> str:
    """Return the modules that QEMU's devices and a Debian need, as lsmod(8) would list them."""
    names = [line.split("#")[0].strip() for line in data("distro.modules").splitlines()]
    return "Module Size Used by\n" + "".join(f"{name} 1 0\n" for name in names if name)


def distro_config(version: str) -> str:
    """Return Debian's configuration for a kernel version, the nearest there is.

    :raises ConfigError: none is installed.
    """
    match = _RELEASE.match(version)
    wanted = (int(match[1]), int(match[2])) if match else (0, 0)
    found: dict[tuple[int, int], Path] = {}
    for directory, pattern in ((BOOT, _INSTALLED), (DISTRO_CONFIGS, _PACKAGED)):
        for path in sorted(directory.glob("*config-*")):
            if known := pattern.fullmatch(path.name):
                file = path / "config.amd64_none_amd64.xz" if path.is_dir() else path
                if file.is_file():
                    found[int(known[1]), int(known[2])] = file
    if not found:
        package = f"linux-config-{match[1]}.{match[2]}" if match else "linux-config-6.1"
        raise ConfigError(
            f"there is no Debian kernel configuration in {DISTRO_CONFIGS} or {BOOT}",
            hint=f"apt install {package}",
        )
    # olddefconfig carries a configuration to another version; from an older one, it adds
    # defaults, from a newer one it drops what it does not know.
    older = [each for each in found if each <= wanted]
    path = found[max(older) if older else min(found)]
    import lzma

    try:
        raw = path.read_bytes()
        return (lzma.decompress(raw) if path.suffix == ".xz" else raw).decode(errors="replace")
    except (OSError, lzma.LZMAError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
