"""`cache`: listing, pruning, verifying and sharing the cache."""

from __future__ import annotations

import argparse
import json
import re
from datetime import datetime
from typing import Any, Final

from ..cache import Cache, EntryInfo, shown_size
from ..errors import ConfigError
from ..escape import clean
from ..progress import Progress
from ..settings import from_arguments
from ._cache_listing import listing, shown_name

_AGE: Final = re.compile(r"(\d+)([smhdw])")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}

_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([kMGT])?(i?)B?", re.IGNORECASE)
_POWER: Final = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}


def ls(options: argparse.Namespace) -> int:
    """List the items in the cache in groups, the last used of each first."""
    cache = _cache(options)
    entries = cache.entries()
    if options.json:
        print(json.dumps([_record(entry) for entry in entries], indent=2))
    else:
        print(*listing(entries, cache.bound(sum(entry.size for entry in entries))), sep="\n")
    return 0


def prune(options: argparse.Namespace) -> int:
    """Remove old items, and items beyond a size; by default, beyond the cache's bound."""
    older_than = None if options.older_than is None else _age(options.older_than)
    max_size = None if options.max_size is None else _size(options.max_size)
    removed = _cache(options).prune(older_than=older_than, max_size=max_size)
    for entry in removed.entries:
        print(f"removed {_name(entry)}, {shown_size(entry.size)}")
    print(
        f"{len(removed.entries)} removed; "
        f"{shown_size(removed.size_before)} before, {shown_size(removed.size_after)} now"
    )
    if max_size is not None and removed.size_after > max_size:
        print("the rest is in use: `pytest-kgdb cache ls` says by whom")
    return 0


def verify(options: argparse.Namespace) -> int:
    """Verify all entries; return 1 if one is broken."""
    problems = _cache(options).verify()
    for problem in problems:
        where = "" if problem.moved_to is None else f"; it was moved to {problem.moved_to}"
        print(f"broken: {problem.kind} {problem.key[:12]}: {clean(problem.reason)}{where}")
    print(f"{len(problems)} broken" if problems else "everything is as it was made")
    return int(bool(problems))


def push(options: argparse.Namespace) -> int:
    """Copy entries to the shared cache."""
    pushed = _cache(options).push()
    for entry in pushed:
        print(f"pushed {_name(entry)}, {shown_size(entry.size)}")
    print(f"{len(pushed)} pushed")
    return 0


def _cache(options: argparse.Namespace) -> Cache:
    settings = from_arguments(options)
    return Cache(settings.cache_dir, progress=Progress(), remote=settings.remote_cache)


def _age(text: str) -> float:
    match = _AGE.fullmatch(text.strip())
    if match is None:
        raise ConfigError(f"--older-than: {text!r} is not an age", hint="write 12h, 30d or 4w")
    return float(int(match[1]) * _SECONDS[match[2]])


def _size(text: str) -> int:
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ConfigError(f"--max-size: {text!r} is not a size", hint="write 500M or 20G")
    unit = 1024 if match[3] else 1000
    return int(float(match[1]) * unit ** _POWER[(match[2] or "").upper()])


def _record(entry: EntryInfo) -> dict[str, Any]:
    return {
        "state": entry.state,
        "kind": entry.kind,
        "key": entry.key,
        "about": dict(entry.about),
        "size": entry.size,
        "last_used": datetime.fromtimestamp(entry.last_used).astimezone().isoformat("T", "seconds"),
        "path": str(entry.path),
        "in_use": entry.in_use,
        "kept": entry.kept,
    }


def _name(entry: EntryInfo) -> str:
    key = f" ({entry.key[:12]})" if entry.state == "entry" else ""
    return f"{entry.kind} {shown_name(entry)}{key}"
