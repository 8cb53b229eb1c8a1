"""A kernel's headers, to build its modules against."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ..cache import Cache
from ..errors import ConfigError
from ..process import run, which
from ._model import Kernel, headers_name

__all__ = ["headers_of"]

_UNPACK_SECONDS: Final = 300.0


@contextlib.contextmanager
def headers_of(kernel: Kernel, cache: Cache) -> Iterator[Path]:
    """Hold the directory to build against: the user's build, or the unpacked headers package."""
    if kernel.build_dir is not None:
        yield kernel.build_dir
        return
    if kernel.make_headers is not None:
        yield kernel.make_headers()
        return
    if kernel.headers is None:
        raise ConfigError(
            f"no module can be built for {kernel.name}: its headers are not installed",
            hint="install them, so that there is a /lib/modules/RELEASE/build",
        )
    name = headers_name(kernel.key)
    with cache.lock(name, label=f"the headers of {kernel.release}"):
        state_dir = cache.workdir("kit", name)
        headers = state_dir / "headers"
        if not headers.is_dir():
            temporary = state_dir / "unpacking"
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir()
            argv = [which("tar", package="tar"), "-C", str(temporary), "-xzf", str(kernel.headers)]
            run(argv, timeout=_UNPACK_SECONDS)
            temporary.rename(headers)
        yield headers
