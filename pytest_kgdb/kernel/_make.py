"""Runs `make` in a kernel's source tree, with another build directory, and reports progress."""

from __future__ import annotations

import contextlib
import os
import re
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from ..arch import Arch
from ..errors import BuildError
from ..process import Child, which
from ..progress import Progress, Stage
from ._diagnose import first_error, fix
from ._object_pool import LOG
from ._toolchain import build_environment

_BUILD_SECONDS: Final = 12 * 3600.0  # Debian's whole kernel on two cores takes hours
_CONFIG_SECONDS: Final = 900.0
_STOP_SECONDS: Final = 10.0  # for `make` to remove unfinished targets, and for its children to end
_JOB: Final = re.compile(r"^  ([A-Z][A-Z0-9_]*)(?: +\[M\])? +(\S.*)$")
_UNCOUNTED: Final = frozenset({"SYNC", "CHK", "UPD", "GEN", "CALL", "DESCEND", "WRAP", "HOSTCC"})

# A file that was written so shortly before a build was killed may be incomplete.
_DOUBT_SECONDS: Final = 120.0


class Make:
    """The build directory of a kernel, which is kept from build to build.

    :param tree: the source.
    :param objects: the build directory.
    :param state_dir: for the log, the notes and temporary files; nobody else may use it meanwhile.
    :param variables: variables for make's command line.
    """

    def __init__(
        self,
        tree: Path,
        objects: Path,
        state_dir: Path,
        *,
        arch: Arch,
        variables: Sequence[str],
        jobs: int,
        progress: Progress,
    ) -> None:
        self.tree, self.objects = tree, objects
        self.log = state_dir / LOG
        self._arch, self._variables, self._jobs, self._progress = arch, variables, jobs, progress
        self._state_dir = state_dir
        self._running = state_dir / "running"
        self._total = state_dir / "jobs"
        self._done = 0
        self.objects.mkdir(parents=True, exist_ok=True)

    def begin(self) -> None:
        """Prepare a build directory; make it usable again if the last build was killed."""
        self.log.unlink(missing_ok=True)
        if self._running.exists():
            _remove_doubtful(self.objects)
            self._running.unlink()

    def configure(self, *targets: str, variables: Sequence[str] = ()) -> None:
        """Run configuration targets.

        :raises BuildError: one failed.
        """
        with self._job(targets, variables, None) as child:
            status = child.wait(_CONFIG_SECONDS)
        self._check(status, f"make {' '.join(targets)} failed in {self.tree}")

    def build(self, targets: Sequence[str], label: str, total: int | None) -> None:
        """Build targets.

        :param label: the kernel's name in messages.
        :param total: an estimate of the number of jobs of a full build.
        :raises BuildError: it failed; the message has the first error.
        """
        fresh = not (self.objects / "init").exists()
        finished = (self.objects / "vmlinux").exists()
        with self._progress.stage(f"building {label}") as stage:
            # How much of a finished build must be built again is not known.
            stage.update(done=0, total=None if finished else self._estimate(total))
            with self._job(targets, (), stage) as child:
                status = child.wait(_BUILD_SECONDS)
        self._check(status, f"{label} does not compile")
        if fresh:
            self._total.write_text(str(self._done))

    def _estimate(self, total: int | None) -> int | None:
        with contextlib.suppress(OSError, ValueError):
            return int(self._total.read_text())
        return total

    @contextlib.contextmanager
    def _job(
        self, targets: Sequence[str], variables: Sequence[str], stage: Stage | None
    ) -> Iterator[Child]:
        argv = [
            which("make", package="make"),
            f"--directory={self.tree}",
            f"O={self.objects}",
            f"ARCH={self._arch.name}",
            f"--jobs={self._jobs}",
            *self._variables,
            *variables,
            *targets,
        ]
        self._done = 0

        def count(line: str) -> None:
            if stage is not None and (match := _JOB.match(line)) and match[1] not in _UNCOUNTED:
                self._done += 1
                stage.update(done=self._done, text=f"{match[1]} {match[2]}")

        self._running.touch()
        with build_environment(self._state_dir) as env:
            child = Child.spawn(
                argv, name="make", log=self.log, cwd=self.tree, env=env, on_line=count
            )
            try:
                yield child
            finally:
                # SIGTERM first: make then removes the targets that it was writing.
                if child.stop(_STOP_SECONDS) != -signal.SIGKILL:
                    self._running.unlink(missing_ok=True)

    def _check(self, status: int, what: str) -> None:
        if status == 0:
            return
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        raise BuildError(f"{what}:\n{first_error(text)}", log=self.log, hint=fix(text))


def _remove_doubtful(objects: Path) -> None:
    """Remove what was written in the last two minutes before a build was killed.

    `make` compares times only, and would take an incomplete object for a good one. Everything can
    be built again, most of it by ccache.
    """
    newest = 0.0
    times: list[tuple[float, str]] = []
    for directory, _, files in os.walk(objects):
        for name in files:
            path = os.path.join(directory, name)  # noqa: PTH118  (ten thousand of them)
            with contextlib.suppress(OSError):
                written = os.lstat(path).st_mtime
                newest = max(newest, written)
                times.append((written, path))
    for written, path in times:
        if written >= newest - _DOUBT_SECONDS:
            with contextlib.suppress(OSError):
                os.unlink(path)  # noqa: PTH108  (the same)
