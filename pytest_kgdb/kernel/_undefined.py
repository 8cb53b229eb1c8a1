"""Which configuration symbol would give a module the symbols that the kernel lacks."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from ..errors import KgdbError
from ..process import run
from ._config import Lost, Request
from ._kconfig import explain
from ._makefiles import builders
from ._model import Kernel

# Of 1.1 GB, from a disk that is slow, and busy.
_GREP_SECONDS: Final = 300.0
_NO_MATCH: Final = 1  # grep's status (POSIX)
_NOT_THE_KERNEL: Final = frozenset({"Documentation", "samples", "tools"})
_SHOWN: Final = 3

# scripts/mod/modpost.c, check_exports
_UNDEFINED: Final = re.compile(r'^ERROR: modpost: "(\w+)" \[[^\]]*\] undefined!', re.MULTILINE)
_SOURCES: Final = ("*.c", "*.S", "*.rs")


def undefined_hint(log: str, kernel: Kernel) -> str | None:
    """Return which symbols to set for what modpost finds undefined; None where nothing is.

    :param log: make's output.
    """
    names = list(dict.fromkeys(_UNDEFINED.findall(log)))
    if not names:
        return None
    if kernel.source is None:
        return (
            "the kernel was built without it: --kgdb-set=CONFIG_X=y for the symbol that has it "
            "(its source is not at hand to look for that)"
        )
    lines = [_explain(name, kernel.source, kernel) for name in names[:_SHOWN]]
    if len(names) > _SHOWN:
        lines.append(f"and {len(names) - _SHOWN} more")
    return "\n".join(lines)


def _explain(name: str, tree: Path, kernel: Kernel) -> str:
    try:
        files = _exporters(name, tree)
    except KgdbError as error:
        return (
            f"{name}: whether the kernel has it in another configuration is not known, its source "
            f"could not be searched: {error.message.splitlines()[0]}"
        )
    if not files:
        return (
            f"{name}: nothing in the kernel exports it; if another module does, its Module.symvers "
            "must be in KBUILD_EXTRA_SYMBOLS; if the kernel is only to be built with more in it: "
            "--kgdb-set=CONFIG_X=y"
        )
    config = kernel.config
    for file in files:
        off = [symbol for symbol in builders(tree, file) if config.get(symbol) not in ("y", "m")]
        if off:
            requests = [Lost(Request(symbol, "y", "the module"), "n") for symbol in off]
            reasons = explain(requests, tree, kernel.arch.name, dict(config.symbols))
            options = " ".join(f"--kgdb-set=CONFIG_{symbol}=y" for symbol in off)
            return f"{name} is exported by {file}: {options}" + "".join(
                f"\n  CONFIG_{item.request.name}: {item.reason}" for item in reasons if item.reason
            )
    return (
        f"{name} is exported by {files[0]}, which is built, but not with this configuration: it "
        "may be under an #ifdef there; --kgdb-set sets its symbol"
    )


def _exporters(name: str, tree: Path) -> list[Path]:
    """Return the files of the kernel that export a symbol.

    :raises KgdbError: the tree cannot be searched, or not in time.
    """
    pattern = rf"EXPORT_SYMBOL[A-Z_]*\({name}[,)]"
    directories = sorted(
        path.name for path in tree.iterdir() if path.is_dir() and path.name not in _NOT_THE_KERNEL
    )
    if not directories:
        raise KgdbError(f"{tree} is empty")
    argv = ["grep", "-rlE", *(f"--include={glob}" for glob in _SOURCES), pattern, *directories]
    result = run(argv, name="grep", timeout=_GREP_SECONDS, cwd=tree, check=False)
    files = sorted(Path(line) for line in result.output.splitlines() if (tree / line).is_file())
    if result.status > _NO_MATCH and not files:
        raise KgdbError(result.output.strip() or f"grep ended with status {result.status}")
    return files
