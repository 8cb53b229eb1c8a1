"""The source of a Debian kernel, which is brought when its lines are asked for."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from ..cache import Cache
from ..errors import ConfigError, KgdbError
from ..process import run, which
from ..progress import Progress
from ._apt import Apt, NoSuchPackage
from ._sources import SourceDirectory
from ._spec import DISTRO_SOURCES

__all__ = ["DebianSource"]

_QUERY_SECONDS: Final = 30.0
_UNPACK_SECONDS: Final = 1800.0


class DebianSource(SourceDirectory):
    """The tree in a `linux-source-*` package of the very version of a kernel.

    Of another version, lines would be shown that were not compiled.

    :param release: the kernel's.
    :param version: its packages'.
    :param tops: where the debug information says that the source's top is.
    """

    def __init__(
        self,
        release: str,
        version: str,
        tops: Sequence[str],
        apt: Apt,
        cache: Cache,
        progress: Progress,
    ) -> None:
        match = re.match(r"\d+\.\d+", release)
        self._package = f"linux-source-{match[0] if match else release}"
        self._version = version
        self._apt, self._cache, self._progress = apt, cache, progress
        # A work directory: 80,000 files would take longer to check than to unpack.
        self._name = re.sub(r"[^\w.+-]", "-", f"{self._package}-{version}")
        super().__init__(cache.workdir("source", self._name) / "tree", *map(Path, tops))

    def read(self, file: str) -> bytes:
        """See :meth:`SourceFiles.read`."""
        self.unpack()
        return super().read(file)

    @property
    def is_local(self) -> bool:
        """See :attr:`SourceFiles.is_local`."""
        return self.directory.is_dir()

    def unpack(self) -> None:
        """Unpack the source, and download it first where it is not installed.

        :raises KgdbError: it cannot be had in that version.
        """
        if self.is_local:
            return
        label = f"the source {self._package} {self._version}"
        with self._cache.lock(self._name, label=label):
            if self.is_local:
                return
            directory = self._cache.workdir("source", self._name)
            for name in ("package", "unpacking"):
                shutil.rmtree(directory / name, ignore_errors=True)
                (directory / name).mkdir()
            tarball = self._installed() or self._downloaded(directory / "package")
            argv = [which("tar", package="tar"), "-C", str(directory / "unpacking")]
            with self._progress.stage(f"unpacking {label}"):
                run(
                    [*argv, "--no-same-owner", "-xf", tarball],
                    name="tar",
                    timeout=_UNPACK_SECONDS,
                )
            (top,) = (directory / "unpacking").iterdir()
            top.rename(self.directory)
            for name in ("package", "unpacking"):
                shutil.rmtree(directory / name, ignore_errors=True)

    def _installed(self) -> Path | None:
        """Return the tarball of the installed package, if that is of the same version."""
        tarballs = sorted(DISTRO_SOURCES.glob(f"{self._package}.tar*"))
        query = shutil.which("dpkg-query")
        if not tarballs or query is None:
            return None
        argv = [query, "--show", "--showformat=${Version}", self._package]
        answer = run(argv, name="dpkg-query", timeout=_QUERY_SECONDS, check=False)
        return tarballs[0] if answer.output.strip() == self._version else None

    def _downloaded(self, directory: Path) -> Path:
        try:
            package = self._apt.show(self._package, self._version)
        except NoSuchPackage as error:
            raise ConfigError(
                f"there are no source lines: {error.message}, the version of the kernel",
                hint="the archive has the source of the newest version only: a newer kernel has "
                "lines, or an installed package of that version",
            ) from error
        (file,) = self._apt.download([package], directory)
        program = which("dpkg-deb", package="dpkg")
        run([program, "-x", file, directory], name="dpkg-deb", timeout=_UNPACK_SECONDS)
        tarballs = sorted((directory / "usr/src").glob(f"{self._package}.tar*"))
        if not tarballs:
            raise KgdbError(f"there is no tarball in {package.label}")
        return tarballs[0]
