"""What `cache ls` prints: the items of the cache in groups, each by a name that users know."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from ..cache import EntryInfo, shown_size
from ..escape import clean
from ..progress import duration

__all__ = ["GROUPS", "listing", "shown_name"]

# The kinds of items by what they are for, in the order in which they are listed: `kernel/…` is an
# entry, `work/…` a directory that builds use again.
GROUPS: Final[Mapping[str, tuple[str, ...]]] = {
    "kernels": ("entry/kernel", "entry/package"),
    "snapshots of machines": ("entry/snapshot",),
    "disks": ("entry/debian", "entry/disk", "entry/boot", "work/disk"),
    "initrds": ("entry/initrd", "entry/initramfs"),
    "modules": ("entry/module", "entry/modules", "work/module"),
    "sources and objects": (
        *("work/tree", "work/build", "work/source", "work/sources", "work/revision"),
        "work/index",
    ),
    "headers and tools": ("entry/headers", "work/kit", "work/tools", "work/apt", "work/bisect"),
}
_QUARANTINE: Final = "quarantine"
_OTHERS: Final = "others"
_NAME_LENGTH: Final = 90
_KEY_LENGTH: Final = 12  # as in `cache verify`


class _Row(NamedTuple):
    name: str
    size: str
    used: str
    key: str
    kept: str


def listing(items: Sequence[EntryInfo], bound: int) -> list[str]:
    """Return the lines of the listing, the last of them a summary.

    :param bound: the size in bytes to which the cache is kept.
    """
    groups: dict[str, list[EntryInfo]] = {name: [] for name in (*GROUPS, _OTHERS, _QUARANTINE)}
    for item in items:
        groups[_group(item)].append(item)
    rows = {name: [_row(item) for item in members] for name, members in groups.items()}
    widths = [
        max((len(row[column]) for members in rows.values() for row in members), default=0)
        for column in range(3)
    ]
    lines = []
    for name, members in groups.items():
        if members:
            lines.append(f"{name}: {len(members)}, {_size(members)}")
            lines += [_line(row, widths) for row in rows[name]]
    kernels = len(groups["kernels"])
    used = sum(item.in_use for item in items)
    lines.append(
        f"{len(items)} in all ({kernels} kernel{'s' * (kernels != 1)}), {used} in use: "
        f"{_size(items)} of at most {shown_size(bound)}"
    )
    return lines


def shown_name(item: EntryInfo) -> str:
    """Return what the user would call an item: a kernel's SPEC, a module's directory."""
    if item.state == "work":
        name = _work_directory(item.kind, item.key)
    else:
        name = _NAMES.get(item.kind, _plain)(item.about) or item.key
    name = clean(name)
    return name if len(name) <= _NAME_LENGTH else f"{name[: _NAME_LENGTH - 1]}…"


def _group(item: EntryInfo) -> str:
    if item.state == "broken":
        return _QUARANTINE
    kind = f"{item.state}/{item.kind}"
    return next((name for name, kinds in GROUPS.items() if kind in kinds), _OTHERS)


def _row(item: EntryInfo) -> _Row:
    ago = f"{duration(max(0.0, time.time() - item.last_used))} ago"
    # A work directory's name is its key.
    key = item.key[:_KEY_LENGTH] if item.state == "entry" else ""
    # Of all others it is the same: they are within the bound, which the summary names.
    kept = clean(item.kept) if item.in_use or item.state == "broken" else ""
    return _Row(shown_name(item), shown_size(item.size), ago, key, kept)


def _line(row: _Row, widths: Sequence[int]) -> str:
    name, size, used = widths
    cells = f"  {row.name:<{name}}  {row.size:>{size}}  {row.used:<{used}}"
    return f"{cells}  {row.key:<{_KEY_LENGTH}}  {row.kept}".rstrip()


def _size(items: Iterable[EntryInfo]) -> str:
    return shown_size(sum(item.size for item in items))


def _work_directory(kind: str, key: str) -> str:
    if kind in ("kit", "sources"):  # named after the kernel's key
        what = "headers" if kind == "kit" else kind
        return f"{what} of kernel {key.rpartition('-')[2][:_KEY_LENGTH]}"
    return key if key.startswith(kind) else f"{kind} {key}"


def _plain(about: Mapping[str, Any]) -> str:
    return ", ".join(str(value) for value in about.values() if isinstance(value, str | int))


def _kernel(about: Mapping[str, Any]) -> str:
    # Entries of earlier versions lack some of these.
    parts = [about.get("spec", ""), about.get("config", "")]
    for name in ("fragment", "set", "make"):
        parts += about.get(name, ())
    return ", ".join(filter(None, parts))


def _package(about: Mapping[str, Any]) -> str:
    return f"{about['spec']} ({about['package']})" if "spec" in about else _plain(about)


def _snapshot(about: Mapping[str, Any]) -> str:
    cpus, kernel = about.get("smp", 1), about.get("kernel")
    return (
        f"Linux {about.get('release')}{f' ({kernel})' if kernel else ''}, "
        f"{cpus} CPU{'s' * (cpus != 1)}, {about.get('memory')} MiB"
    )


def _disk(about: Mapping[str, Any]) -> str:
    parts = [f"Debian {about.get('suite')}", *about.get("packages", ())]
    if "size_mib" in about:
        parts.append(f"{about['size_mib']} MiB")
    if "modules" in about:
        parts.append(f"modules of Linux {about['modules']}")
    return ", ".join(parts)


def _boot(about: Mapping[str, Any]) -> str:
    return f"GRUB and Linux {about.get('release')}"


def _modules(about: Mapping[str, Any]) -> str:
    # A kernel's own modules, of its build directory.
    return f"those of {_below_the_cache(about.get('kernel', ''))}, Linux {about.get('release')}"


def _below_the_cache(path: str) -> str:
    """Return a path of the cache's own without what it shares with the others."""
    parts = Path(path).parts
    return "/".join(parts[parts.index("work") + 2 :]) if {"v1", "work"} <= set(parts) else path


_NAMES: Final[Mapping[str, Callable[[Mapping[str, Any]], str]]] = {
    "kernel": _kernel,
    "package": _package,
    "snapshot": _snapshot,
    "debian": _disk,
    "disk": _disk,
    "boot": _boot,
    "modules": _modules,
}
