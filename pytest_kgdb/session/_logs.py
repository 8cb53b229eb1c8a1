"""The directory of a run's logs."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Final

__all__ = ["make_log_directory"]

# Runs whose logs are kept, so that the path that an error names is there when it is read.
_KEEP_RUNS: Final = 20


def make_log_directory(base: Path) -> Path:
    """Make the directory of this run's logs; the last runs' are kept beside it."""
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    directory = base / name
    number = 1
    while directory.exists():
        number += 1
        directory = base / f"{name}-{number}"
    base.mkdir(parents=True, exist_ok=True)
    directory.mkdir(mode=0o700)  # with all in it: what a guest prints may be confidential
    for old in sorted(path for path in base.iterdir() if path.is_dir())[:-_KEEP_RUNS]:
        if not _in_use(old):
            shutil.rmtree(old, ignore_errors=True)
    return directory


def _in_use(directory: Path) -> bool:
    """Whether the process that a log directory is named after still runs."""
    pid = directory.name.split("-")[2] if directory.name.count("-") >= 2 else ""
    return pid.isdigit() and Path(f"/proc/{pid}").exists()
