"""The kernel: found or built, by content, each once.

What only builds, or modules, need is imported when one of its names is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

from ._config import Config, stub_for
from ._config import parse as parse_config
from ._config import render as render_config
from ._model import Kernel, numbers
from ._patched_sites import PatchedSites, SiteTable
from ._prepare import prepare
from ._source import file_hash, git_environment, with_patches
from ._sources import NoSources, SourceArchive, SourceDirectory, SourceFiles
from ._spec import parse as named
from ._stop_layout import FREEING_INITMEM, KgdbLayout, StopLayout
from ._vmlinux import Vmlinux

if TYPE_CHECKING:
    from ._call_sites import CallSite, call_sites
    from ._change import compare_texts, lines_of
    from ._collect import collect_external, collect_modules, compress_modules
    from ._fixed_code import FixedCode
    from ._gdb_scripts import gdb_scripts
    from ._installed import installed_releases
    from ._ko import (
        ModuleFile,
        has_location,
        lines_with_code,
        read_module,
        without_addresses,
    )
    from ._makefiles import NotCompiled, not_compiled
    from ._modules import Built, build_external, build_module
    from ._patch import Patch, patch_files, read_patches
    from ._selector import Selector, Unmet
    from ._source_lines import CodeAddress, SourceFile, last_line, select_lines

__all__ = [
    "FREEING_INITMEM",
    "Built",
    "CallSite",
    "CodeAddress",
    "Config",
    "FixedCode",
    "Kernel",
    "KgdbLayout",
    "ModuleFile",
    "NoSources",
    "NotCompiled",
    "Patch",
    "PatchedSites",
    "Selector",
    "SiteTable",
    "SourceArchive",
    "SourceDirectory",
    "SourceFile",
    "SourceFiles",
    "StopLayout",
    "Unmet",
    "Vmlinux",
    "build_external",
    "build_module",
    "call_sites",
    "collect_external",
    "collect_modules",
    "compare_texts",
    "compress_modules",
    "file_hash",
    "gdb_scripts",
    "git_environment",
    "has_location",
    "installed_releases",
    "last_line",
    "lines_of",
    "lines_with_code",
    "named",
    "not_compiled",
    "numbers",
    "parse_config",
    "patch_files",
    "prepare",
    "read_module",
    "read_patches",
    "render_config",
    "select_lines",
    "stub_for",
    "with_patches",
    "without_addresses",
]

_LAZY: Final = {
    "Built": "_modules",
    "CallSite": "_call_sites",
    "CodeAddress": "_source_lines",
    "FixedCode": "_fixed_code",
    "ModuleFile": "_ko",
    "NotCompiled": "_makefiles",
    "Selector": "_selector",
    "Unmet": "_selector",
    "Patch": "_patch",
    "SourceFile": "_source_lines",
    "build_external": "_modules",
    "build_module": "_modules",
    "call_sites": "_call_sites",
    "collect_external": "_collect",
    "collect_modules": "_collect",
    "compare_texts": "_change",
    "lines_of": "_change",
    "gdb_scripts": "_gdb_scripts",
    "compress_modules": "_collect",
    "has_location": "_ko",
    "installed_releases": "_installed",
    "last_line": "_source_lines",
    "lines_with_code": "_ko",
    "not_compiled": "_makefiles",
    "patch_files": "_patch",
    "read_module": "_ko",
    "read_patches": "_patch",
    "select_lines": "_source_lines",
    "without_addresses": "_ko",
}


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_LAZY[name]}", __name__), name)
