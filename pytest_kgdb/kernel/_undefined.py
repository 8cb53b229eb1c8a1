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

_GREP_SECONDS: Final = 60.0
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
    files = _exporters(name, tree)
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
    """Return the files that export a symbol, those of the kernel proper before samples."""
    pattern = rf"EXPORT_SYMBOL[A-Z_]*\({name}[,)]"
    argv = ["grep", "-rlE", *(f"--include={glob}" for glob in _SOURCES), pattern, "."]
    try:
        result = run(argv, name="grep", timeout=_GREP_SECONDS, cwd=tree, check=False)
    except KgdbError:
        return []
    files = [Path(line[2:]) for line in result.output.splitlines() if line.startswith("./")]
    return sorted(file for file in files if file.parts[0] not in ("samples", "tools"))
