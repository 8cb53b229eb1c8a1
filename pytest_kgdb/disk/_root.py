"""Running build commands as root: directly, or in a user namespace."""

from __future__ import annotations

import os
import pwd
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from ..errors import ConfigError
from ..process import run, which

_SECONDS: Final = 20.0


@dataclass(frozen=True)
class Root:
    """How to run programs that set the owners of files."""

    mode: str
    """The mode of mmdebstrap(1): `root` or `unshare`."""

    prefix: tuple[str, ...]
    """The words before a command."""


@cache
def root() -> Root:
    """Return how to run commands as root. It has been tried.

    :raises ConfigError: there is no way; the hint says how to enable one.
    """
    if os.geteuid() == 0:
        return Root("root", ())
    user = _user()
    # mmdebstrap and unshare map the owners of files by these.
    which("newuidmap", package="uidmap")
    for name in ("/etc/subuid", "/etc/subgid"):
        if not _has_range(Path(name), user):
            raise ConfigError(
                f"a Debian cannot be built without root: {user} has no range of ids in {name}",
                hint=f"sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user}",
            )
    prefix = (which("unshare", package="util-linux"), "--map-root-user", "--map-auto", "--")
    tried = run([*prefix, "true"], timeout=_SECONDS, check=False)
    if tried.status != 0:
        raise ConfigError(
            f"a Debian cannot be built without root: {tried.output.strip()}",
            hint="user namespaces must be allowed (sysctl kernel.unprivileged_userns_clone=1; on "
            "Ubuntu kernel.apparmor_restrict_unprivileged_userns=0), with util-linux 2.38 or "
            "newer; or build it once as root",
        )
    return Root("unshare", prefix)


def _user() -> str:
    # Not from the environment, which su(1) may not change; mmdebstrap does the same.
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def _has_range(path: Path, user: str) -> bool:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return False
    # mmdebstrap reads names only, though the file may have numbers, too.
    return any(line.split(":")[0] == user for line in lines)
