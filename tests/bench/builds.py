"""Measurements of builds, against plain `make` on the same tree and configuration."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from pytest_kgdb.process import run
from tests.bench.kernels import session_of
from tests.bench.result import Bench, Row

ROOT = Path(__file__).resolve().parents[2]
LONG = 4 * 3600.0  # seconds: far more than a build takes
CHANGED = "fs/namei.c"

PREPARE = """
import json, sys, time
from pathlib import Path
from pytest_kgdb.plugin._artifacts import Artifacts
from pytest_kgdb.progress import Progress
from pytest_kgdb.settings import make_settings
began = time.monotonic()
chosen = {"cache_dir": Path(sys.argv[2])} if len(sys.argv) > 2 else {}
artifacts = Artifacts(make_settings(kernel=(sys.argv[1],), **chosen), Progress())
kernel = artifacts.kernel(sys.argv[1])
initrd = artifacts.initrd(kernel)
print(json.dumps({"seconds": time.monotonic() - began, "config": str(kernel.config)}))
"""


@dataclass
class Trees:
    """The same sources twice, one for each."""

    ours: Path
    theirs: Path
    cache: Path
    objects: Path

    @classmethod
    def of(cls, bench: Bench) -> Trees:
        """Unpack the sources, once for a bench."""
        trees = cls(*(bench.directory / name for name in ("ours", "theirs", "cache", "objects")))
        if not trees.objects.exists():
            version = bench.kernel.partition(":")[2] or "6.1"
            tarball = Path(f"/usr/src/linux-source-{version}.tar.xz")
            if not tarball.exists():
                raise RuntimeError(f"there is no {tarball} (apt install linux-source-{version})")
            for tree in (trees.ours, trees.theirs):
                tree.mkdir()
                run(["tar", "-xf", tarball, "-C", tree, "--strip-components=1"], timeout=LONG)
            trees.objects.mkdir()
            shutil.copyfile(session_of(bench.kernel).kernel.config, trees.objects / ".config")
            trees.make("olddefconfig")
        return trees

    def prepare(self) -> float:
        """Seconds from SPEC to artifacts."""
        return prepare(str(self.ours), str(self.cache))

    def make(self, *targets: str) -> float:
        """Seconds of plain make."""
        began = time.monotonic()
        run(
            ["make", "-s", f"-j{os.cpu_count()}", f"O={self.objects}", *targets],
            timeout=LONG,
            cwd=self.theirs,
            env=plain_environment(),
        )
        return time.monotonic() - began


def plain_environment() -> dict[str, str]:
    """No ccache on either side: it would measure what was compiled before."""
    return {**os.environ, "CCACHE_DISABLE": "1"}


def prepare(spec: str, *arguments: str) -> float:
    done = run(
        [sys.executable, "-c", PREPARE, spec, *arguments],
        timeout=LONG,
        env={**plain_environment(), "PYTHONPATH": str(ROOT)},
    )
    return float(json.loads(done.output.splitlines()[-1])["seconds"])


def full(bench: Bench) -> Row:
    """A full build."""
    trees = Trees.of(bench)
    mine, theirs = bench.alternate(trees.prepare, lambda: trees.make("bzImage", "modules"), 1)
    return Row(
        "a full build",
        "s",
        mine,
        theirs,
        "`make bzImage modules`, same tree and config",
        must="≤ 1.05 × the time",
        goal="1.0 ×",
        budget=lambda row: row.ratio >= 1 / 1.05,
        note="once each; no ccache",
    )


def one_file(bench: Bench) -> Row:
    """One file changed."""
    trees = Trees.of(bench)
    trees.prepare()
    trees.make("bzImage", "modules")
    count = iter(range(1000))

    def change(tree: Path) -> None:
        with (tree / CHANGED).open("a") as file:
            file.write(f"int kgdb_bench_{next(count)};\n")

    def ours() -> float:
        change(trees.ours)
        return trees.prepare()

    def theirs() -> float:
        change(trees.theirs)
        return trees.make("bzImage", "modules")

    mine, other = bench.alternate(ours, theirs, 3)
    return Row(
        f"one file changed ({CHANGED})",
        "s",
        mine,
        other,
        "`make bzImage modules`",
        must="≤ 1.3 × the time",
        goal="1.0 ×",
        budget=lambda row: row.ratio >= 1 / 1.3,
    )


def nothing_changed(bench: Bench) -> Row:
    """From SPEC to artifacts, all there."""
    trees = Trees.of(bench)
    trees.prepare()
    trees.make("bzImage", "modules")
    mine, theirs = bench.alternate(trees.prepare, lambda: trees.make("bzImage", "modules"))
    return Row(
        "nothing changed: from SPEC to artifacts",
        "s",
        mine,
        theirs,
        "`make bzImage modules` with nothing to do",
        must="≤ 0.3 s",
        goal="≤ 0.1 s",
        budget=lambda row: row.median <= 0.3,
        note="without the interpreter's start",
    )
