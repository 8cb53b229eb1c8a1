"""The files of a Debian system, by mmdebstrap(1)."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from ..errors import BuildError, KgdbError
from ..process import Child, run, which
from ..progress import Progress, Stage
from ._root import Root
from ._sources import Source, acquire_options

TREE: Final = "tree.tar"
SOURCES: Final = "debian.sources"

_SECONDS: Final = 3600.0
_STOP_SECONDS: Final = 10.0  # for mmdebstrap to remove what it has unpacked
_REMOVE_SECONDS: Final = 120.0
_QUOTED: Final = 6  # how many error lines are shown

# In addition to the essential packages: an init, a way to log in, and the programs that the plugin
# or mkinitramfs(8) runs.
PACKAGES: Final = (
    "systemd-sysv",
    "udev",
    "openssh-server",
    "iproute2",
    "procps",
    "kmod",
    "initramfs-tools",
    "busybox",
)

# Documentation is left out; the licences stay.
DPKG_OPTIONS: Final = (
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/info/*",
    "path-exclude=/usr/share/locale/*",
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
    "force-unsafe-io",
)

# Without this hook, the package that merges /bin into /usr installs all of perl.
_HOOKS: Final = Path("/usr/share/mmdebstrap/hooks/maybe-merged-usr")

_ERROR: Final = re.compile(r"(?:E: |Err:\d+ )(?!setup failed|apt-get |mmdebstrap failed)(.+)")
_STEP: Final = re.compile(r"I: (?!using |main\(\)|success )(.+?)(?:\.\.\.)?")
_HINTS: Final = (
    (
        r"Could not (?:resolve|connect)|Temporary failure|[Cc]onnection (?:refused|failed|timed)|"
        r"unreachable|Unable to connect",
        "the network is needed to build a disk, not to use one that was built; the sources are "
        "this host's (/etc/apt): {uris}",
    ),
    (
        r"does not have a Release file|404 +Not Found",
        "is there a suite {suite} at {uris}? (this host's sources, /etc/apt)",
    ),
    (
        r"Unable to locate package|has no installation candidate|was not found",
        "--kgdb-disk-package takes names that `apt-cache show` knows in {suite}",
    ),
    (
        r"NO_PUBKEY|not signed|couldn't be verified",
        "this host has no key for {suite}: apt install debian-archive-keyring",
    ),
    (r"No space left|write error", "make room: pytest-kgdb cache prune"),
)


def bootstrap(
    target: Path,
    state_dir: Path,
    *,
    suite: str,
    architecture: str,
    sources: Sequence[Source],
    packages: Sequence[str],
    root: Root,
    progress: Progress,
) -> None:
    """Install Debian, and write its packed files and its apt sources into an empty directory.

    :param state_dir: the directory for the log and for temporary files.
    :param sources: apt sources; without any, mmdebstrap uses its own.
    :param packages: packages in addition to `PACKAGES`.
    :raises BuildError: it failed; the message has apt's errors.
    """
    program = which("mmdebstrap", package="mmdebstrap")
    listing = target / SOURCES
    listing.write_text("\n".join(source.text() for source in sources))
    argv = [program, f"--mode={root.mode}", "--variant=apt", "--format=tar", "--skip=output/dev"]
    argv += [f"--architectures={architecture}", f"--include={','.join((*PACKAGES, *packages))}"]
    argv += [f"--dpkgopt={option}" for option in DPKG_OPTIONS]
    argv += [f"--aptopt={option}" for option in acquire_options()]
    if _HOOKS.is_dir():
        argv.append(f"--hook-dir={_HOOKS}")
    argv += [suite, str(target / TREE), *([str(listing)] if sources else [])]
    log = state_dir / "mmdebstrap.log"
    log.write_text(f"{shlex.join(argv)}\n")
    errors: list[str] = []
    with (
        scratch(state_dir, root) as directory,
        progress.stage(f"installing Debian {suite}") as stage,
    ):
        environment = os.environ | {"TMPDIR": str(directory), "LC_ALL": "C.UTF-8"}
        child = Child.spawn(
            argv, name="mmdebstrap", log=log, env=environment, on_line=_listener(stage, errors)
        )
        try:
            status = child.wait(_SECONDS)
        finally:
            child.stop(_STOP_SECONDS)
        if status != 0:
            if status < 0:  # its output does not have the reason
                errors = [f"mmdebstrap was killed by {signal.Signals(-status).name}"]
            raise _failure(suite, sources, errors or child.tail(_QUOTED).splitlines(), log)


def _listener(stage: Stage, errors: list[str]) -> Callable[[str], None]:
    def read(line: str) -> None:
        if match := _STEP.fullmatch(line):
            stage.update(text=match[1])
        elif match := _ERROR.fullmatch(line):
            errors.append(match[1])
        elif errors and line.startswith("  "):
            errors.append(line.strip())  # apt has the reason on the next line

    return read


def _failure(suite: str, sources: Sequence[Source], errors: list[str], log: Path) -> BuildError:
    shown = list(dict.fromkeys(errors))[:_QUOTED]
    uris = " ".join(dict.fromkeys(uri for source in sources for uri in source.uris))
    hint = None
    for pattern, text in _HINTS:
        if re.search(pattern, "\n".join(errors)):
            hint = text.format(suite=suite, uris=uris or "mmdebstrap's own")
            break
    lines = "\n".join(f"  {line}" for line in shown)
    return BuildError(f"Debian {suite} could not be installed:\n{lines}", hint=hint, log=log)


@contextlib.contextmanager
def scratch(state_dir: Path, root: Root) -> Iterator[Path]:
    """Create a directory for files with other owners, and remove it at the end in any case."""
    if root.mode == "root":
        path = state_dir / "scratch"
        _remove(path, root)  # left by a process that was killed
        path.mkdir()
    else:
        # The root user of a namespace is another user, who may not enter our home directory.
        path = Path(tempfile.mkdtemp(prefix="pytest-kgdb-"))
        path.chmod(0o755)
    try:
        yield path
    finally:
        _remove(path, root)


def _remove(path: Path, root: Root) -> None:
    with contextlib.suppress(KgdbError):
        run([*root.prefix, "rm", "-rf", str(path)], timeout=_REMOVE_SECONDS, check=False)
