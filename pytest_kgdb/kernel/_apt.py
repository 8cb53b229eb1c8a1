"""Debian packages by apt as an ordinary user: nothing is installed, nothing on the host changes."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final, NamedTuple

from ..errors import BuildError, ConfigError
from ..process import CommandFailed, run, which
from ..progress import Progress, Stage

__all__ = ["Apt", "NoSuchPackage", "Package", "Replaced"]

_SHOW_SECONDS: Final = 120.0
_UPDATE_SECONDS: Final = 600.0
_DOWNLOAD_SECONDS: Final = 3600.0

_HOST_LISTS: Final = Path("/var/lib/apt/lists")
_STATUS_FILE: Final = Path("/var/lib/dpkg/status")
_CONFIGURED: Final = tuple(
    Path("/etc/apt") / name
    for name in ("sources.list", "sources.list.d", "preferences", "preferences.d")
)

_OUTDATED: Final = re.compile(
    r"\b404\b|File not found|Failed to stat|Hash Sum mismatch|unexpected size"
    r"|Unable to locate package|Version '.*' for '.*' was not found"
)
_DAMAGED: Final = re.compile(r"^E: .*(?:Hash Sum mismatch|unexpected size).*$", re.MULTILINE)

# apt.conf(5), "Status-Fd" of the README in apt's doc: dlstatus:FILE:PERCENT:TEXT.
_STATUS: Final = re.compile(r"dlstatus:\d+:([\d.]+):")

# What acts on the host, in a configuration that is copied: commands behind an update, and dpkg's.
_HOOKS: Final = re.compile(
    r"(?:APT::Update::|DPkg::|Dir::State|Dir::Cache|Dir::Etc::(?:main|parts) )"
)


class NoSuchPackage(ConfigError):
    """apt knows no package of that name, or not in that version."""


class Replaced(ConfigError):
    """The archive does not have that version any more."""


class Package(NamedTuple):
    """One version of a Debian package, as apt's lists have it."""

    name: str
    version: str
    depends: str
    """The field Depends."""
    size: int
    """Bytes of the `.deb`."""
    sha256: str

    @property
    def label(self) -> str:
        """Its name and version as people write them."""
        return f"{self.name} {self.version}"

    def dependencies(self) -> Iterator[tuple[str, str]]:
        """Yield the name of each package that it needs, and the exact version if one is named."""
        for group in self.depends.split(","):
            # Of alternatives, the first is the one that is preferred (Debian policy, 7.1).
            match = re.match(r"\s*([^\s(|:]+)(?::\w+)?\s*(?:\(\s*=\s*([^)]+?)\s*\))?", group)
            if match:
                yield match[1], match[2] or ""


def mib(size: int) -> str:
    """Return a size for messages."""
    return f"{max(1, round(size / 1e6))} MB"


class Apt:
    """Asks apt about packages, and downloads them; apt checks signatures and hashes.

    The host's package lists are used as they are. Where they lack a package, or name one that the
    archive has replaced, lists of our own are downloaded.

    :param directory: for those lists; it is created if need be.
    :param options: further settings of apt's, as `Dir::Etc::sourcelist=FILE`.
    :param host_lists: where the host has its lists.
    :param lock: held while the lists of our own change.
    """

    def __init__(
        self,
        directory: Path,
        progress: Progress,
        *,
        options: Sequence[str] = (),
        host_lists: Path = _HOST_LISTS,
        lock: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext,
    ) -> None:
        self._directory = directory
        self._options = options
        self._host_lists = host_lists
        self._lock = lock
        self.progress = progress
        # Once ours are newer than the host's, they are the ones to use.
        self._private = _modified(self._own_lists) > _modified(host_lists)

    @property
    def _own_lists(self) -> Path:
        return self._directory / "state/lists"

    def sign(self) -> str:
        """Return what changes when the answers may change: the lists' times, and the sources'."""
        places = (self._host_lists, self._own_lists, *_CONFIGURED)
        return " ".join(str(_modified(place)) for place in places)

    def show(self, name: str, version: str = "") -> Package:
        """Return a package: the version that apt would install, or a given one.

        :raises NoSuchPackage: there is none.
        """
        package = self._show(name, version)
        if package is None and not self._private:
            self.update()
            package = self._show(name, version)
        if package is None:
            what = f"{name} {version}".strip()
            raise NoSuchPackage(f"apt has no package {what}")
        return package

    def names(self, prefix: str) -> list[str]:
        """Return the names of all packages that begin so."""
        output = self._cache("pkgnames", prefix)
        return sorted(output.split())

    def update(self) -> None:
        """Download package lists of our own, and use them from now on.

        :raises ConfigError: the archive cannot be reached.
        """
        before = _modified(self._own_lists)
        with self._lock():
            self._private = True
            if _modified(self._own_lists) == before:  # otherwise another process has done it
                self._update()

    def _update(self) -> None:
        for name in ("state/lists/partial", "cache/archives/partial"):
            (self._directory / name).mkdir(parents=True, exist_ok=True)
        try:
            self._private = False
            (self._directory / "apt.conf").write_text(_without_hooks(self._apt("config", "dump")))
            self._private = True
            with self.progress.stage("downloading the lists of Debian's packages"):
                self._apt("get", "update", "--error-on=any", timeout=_UPDATE_SECONDS)
        except CommandFailed as error:
            self._private = False
            raise ConfigError(
                f"the lists of Debian's packages could not be downloaded: {_reason(error.output)}",
                hint="is there a network, and are apt's sources right (apt-get update)?",
            ) from error

    def download(self, packages: Sequence[Package], target: Path) -> list[Path]:
        """Download packages into an empty directory, and return their files in that order.

        :raises ConfigError: they cannot be had; it names them.
        :raises Replaced: the archive has other versions by now.
        :raises BuildError: one is damaged.
        """
        names = ", ".join(package.label for package in packages)
        size = mib(sum(package.size for package in packages))
        self.progress.say(f"to be downloaded: {names} ({size})")
        with self.progress.stage(f"downloading {size} of Debian packages") as stage:
            try:
                self._download(packages, target, stage)
            except CommandFailed as error:
                if self._private or not _OUTDATED.search(error.output):
                    raise _not_downloaded(names, error.output) from error
                self.update()
                try:
                    self._download(packages, target, stage)
                except CommandFailed as again:
                    raise _not_downloaded(names, again.output) from again
        return [_file(target, package) for package in packages]

    def _download(self, packages: Sequence[Package], target: Path, stage: Stage) -> None:
        def report(line: str) -> None:
            if match := _STATUS.match(line):
                stage.update(text=f"{float(match[1]):.0f} %")

        asked = [f"{package.name}={package.version}" for package in packages]
        options = ["-o", "APT::Status-Fd=1", "-o", "Acquire::Retries=3"]
        run(
            [*self._argv("get"), *options, "download", *asked],
            name="apt-get",
            timeout=_DOWNLOAD_SECONDS,
            cwd=target,
            env=self._environment(),
            on_line=report,
        )

    def _show(self, name: str, version: str) -> Package | None:
        asked = f"{name}={version}" if version else name
        try:
            output = self._cache("show", "--no-all-versions", asked)
        except CommandFailed:
            return None
        fields = dict(
            line.split(": ", 1) for line in output.split("\n\n")[0].splitlines() if ": " in line
        )
        # apt shows another package that provides the name; of an installed one, no file.
        if fields.get("Package") != name or "SHA256" not in fields:
            return None
        return Package(
            name,
            fields["Version"],
            fields.get("Depends", ""),
            int(fields["Size"]),
            fields["SHA256"],
        )

    def _cache(self, *words: str) -> str:
        return self._apt("cache", *words)

    def _apt(self, program: str, *words: str, timeout: float = _SHOW_SECONDS) -> str:
        argv = [*self._argv(program), *words]
        return run(argv, name=f"apt-{program}", timeout=timeout, env=self._environment()).output

    def _argv(self, program: str) -> list[str]:
        argv = [which(f"apt-{program}", package="apt"), "-q"]
        if os.geteuid() == 0:
            # The user that root's apt downloads as cannot write to the cache: apt would warn.
            argv += ["-o", "APT::Sandbox::User=root"]
        if self._private:
            argv += [
                *("-o", f"Dir::State={self._directory}/state"),
                *("-o", f"Dir::State::status={_STATUS_FILE}"),
                *("-o", f"Dir::Cache={self._directory}/cache"),
                *("-o", "Acquire::Languages=none"),
            ]
        else:
            argv += ["-o", f"Dir::State::lists={self._host_lists}"]
        for option in self._options:
            argv += ["-o", option]
        return argv

    def _environment(self) -> dict[str, str]:
        environment = os.environ | {"LC_ALL": "C"}
        if self._private:
            environment["APT_CONFIG"] = str(self._directory / "apt.conf")
        return environment


def _without_hooks(dump: str) -> str:
    """Return a whole configuration without the commands that apt would run on the host.

    apt reads the host's files after the one that APT_CONFIG names (apt.conf(5)): there must be
    nothing in them that is run behind an update.
    """
    kept = [line for line in dump.splitlines() if not _HOOKS.match(line)]
    return "\n".join([*kept, 'Dir::Etc::main "/dev/null";', 'Dir::Etc::parts "/dev/null";', ""])


def _file(directory: Path, package: Package) -> Path:
    version = package.version.replace(":", "%3a")
    files = sorted(directory.glob(f"{package.name}_{version}_*.deb"))
    if len(files) != 1:
        raise BuildError(f"apt-get download {package.label}: there are {len(files)} files of it")
    return files[0]


def _not_downloaded(names: str, output: str) -> ConfigError | BuildError:
    if damaged := _DAMAGED.search(output):
        return BuildError(
            f"{names}: a downloaded file is damaged, and is not used: {damaged[0][3:]}",
            hint="try again: it is downloaded anew",
        )
    kind = Replaced if _OUTDATED.search(output) else ConfigError
    return kind(
        f"{names} could not be downloaded: {_reason(output)}",
        hint="is there a network, and are apt's sources right (apt-get update)?",
    )


def _reason(output: str) -> str:
    """Return what apt says is wrong, in a line."""
    errors = [line[3:] for line in output.splitlines() if line.startswith("E: ")]
    return errors[0] if errors else (output.strip().splitlines() or ["apt says nothing"])[-1]


def _modified(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
