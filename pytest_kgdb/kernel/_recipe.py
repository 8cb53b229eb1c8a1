"""The configuration of a kernel: a base, our symbols, and those that the user requests."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Final

from ..errors import ConfigError
from ..host import Host, install
from ..settings import Settings
from ._config import Request, merge, parse, read_fragment, with_required

DISTRO_CONFIGS: Final = Path("/usr/src")
"""The directory of the configurations in Debian's `linux-config-*` packages."""

BOOT: Final = Path("/boot")
"""The directory of the configurations of installed kernels."""

_PACKAGED: Final = re.compile(r"linux-config-(\d+)\.(\d+)")
_INSTALLED: Final = re.compile(r"config-(\d+)\.(\d+)\.\d+.*-amd64")
_RELEASE: Final = re.compile(r"(\d+)\.(\d+)")


@dataclass(frozen=True)
class Recipe:
    """How a configuration is composed."""

    base: str
    """`minimal`, `defconfig`, `distro`, `distro-full` or `file`."""
    target: str | None
    """The make target that writes the base; None if `symbols` is the base."""
    symbols: Mapping[str, str]
    """The symbols that override those of the target, or the whole base."""
    requests: Mapping[str, Request]
    """The user's requests, by symbol."""
    trimmed: bool = False
    """Whether modules that a virtual machine cannot use are left out."""

    def over(self, base: Mapping[str, str]) -> dict[str, str]:
        """Return a base with everything that overrides it."""
        return self.with_requests(merge((base, self.symbols)))

    def with_requests(self, symbols: Mapping[str, str]) -> dict[str, str]:
        """Return a configuration with the symbols that we need, and the user's requests."""
        values = {name: request.value for name, request in self.requests.items()}
        return merge((with_required(symbols), values))

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
        """Whether the git commit is part of the release (CONFIG_LOCALVERSION_AUTO, a default)."""
        chosen = self.over({}).get("LOCALVERSION_AUTO")
        return chosen == "y" or (chosen is None and self.base == "file")


def recipe(settings: Settings, version: str) -> Recipe:
    """Return the recipe that the settings describe.

    :param version: the source's version, which selects Debian's configuration.
    :raises ConfigError: a file cannot be read, or Debian's configuration is not installed.
    """
    requests: dict[str, Request] = {}
    for path in settings.fragment:
        for name, value in read_fragment(path).items():
            requests.pop(name, None)
            requests[name] = Request(name, value, str(path))
    for text in settings.set:
        for name, value in parse(text).items():
            requests.pop(name, None)
            requests[name] = Request(name, value, "--kgdb-set")
    base = settings.config
    if base == "minimal":
        return Recipe(base, "tinyconfig", parse(data("minimal.config")), requests)
    if base == "defconfig":
        return Recipe(base, "defconfig", {}, requests)
    if base in ("distro", "distro-full"):
        symbols = merge((parse(distro_config(version)), parse(data("distro.config"))))
        return Recipe(base, None, symbols, requests, trimmed=base == "distro")
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
    return Recipe("file", None, symbols, requests)


def data(name: str) -> str:
    """Return the text of one of our data files."""
    return (resources.files("pytest_kgdb") / "data" / name).read_text()


def lsmod() -> str:
    """Return the modules that QEMU's devices and Debian need, in the format of lsmod(8)."""
    names = [line.split("#")[0].strip() for line in data("distro.modules").splitlines()]
    return "Module Size Used by\n" + "".join(f"{name} 1 0\n" for name in names if name)


def distro_config(version: str) -> str:
    """Return Debian's configuration for a kernel version, or for the nearest one.

    :raises ConfigError: none is installed.
    """
    match = _RELEASE.match(version)
    release = (int(match[1]), int(match[2])) if match else (0, 0)
    configs: dict[tuple[int, int], Path] = {}
    for directory, pattern in ((BOOT, _INSTALLED), (DISTRO_CONFIGS, _PACKAGED)):
        for path in sorted(directory.glob("*config-*")):
            if match := pattern.fullmatch(path.name):
                file = path / "config.amd64_none_amd64.xz" if path.is_dir() else path
                if file.is_file():
                    configs[int(match[1]), int(match[2])] = file
    if not configs:
        package = f"linux-config-{match[1]}.{match[2]}" if match else "linux-config-6.1"
        raise ConfigError(
            f"there is no Debian kernel configuration in {DISTRO_CONFIGS} or {BOOT}",
            hint=install(package)
            if Host.of().has_apt
            else "that is of Debian: give a file, as --kgdb-config=/boot/config-$(uname -r)",
        )
    # olddefconfig adapts a configuration of another version: it adds defaults to an older one, and
    # drops unknown symbols of a newer one.
    older = [version for version in configs if version <= release]
    path = configs[max(older) if older else min(configs)]
    import lzma

    try:
        raw = path.read_bytes()
        return (lzma.decompress(raw) if path.suffix == ".xz" else raw).decode(errors="replace")
    except (OSError, lzma.LZMAError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
