"""Collects the pages for mkdocs, and makes the API reference: `python tools/pages.py DIRECTORY`.

The pages are written for readers of the repository, with links to its files. Here they are all in
one directory, with the links adjusted; mkdocs then refuses a link that leads nowhere
(`make docs`).
"""

from __future__ import annotations

import inspect
import re
import shutil
import sys
from pathlib import Path

import pytest_kgdb

ROOT = Path(__file__).parents[1]
TOP = ("README.md", "SECURITY.md", "CONTRIBUTING.md", "CHANGELOG.md")
_LINK = re.compile(r"(\]\()([^)\s]+)(\))")
_FENCE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)

# The reference, page by page: title, and the public names on it. Those that are on no page are
# errors, and stand on the last one.
REFERENCE = {
    "handle": ("The handle", ("Kgdb", "Console", "Result", "Modules", "Module", "Kernel")),
    "stops": ("Stops and values", ("Stop", "Reason", "Frame", "Task", "Value")),
    "breakpoints": ("Breakpoints", ("Breakpoint", "Watchpoint")),
    "instruments": (
        "Instruments",
        ("Spy", "Call", "Cost", "TaskAtCall", "Override", "FailEach", "Outcome", "PatchFailures",
         "PatchExit"),
    ),
    "splats": ("Splats and KUnit",
               ("Splat", "SplatFrame", "ExpectedSplat", "KunitSuite", "KunitCase")),
}  # fmt: skip


def collect(directory: Path) -> None:
    """Write the sources of the site."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    pages = [*(ROOT / name for name in TOP), *sorted((ROOT / "docs").glob("*.md"))]
    for page in pages:
        name = "index.md" if page.name == "README.md" else page.name
        (directory / name).write_text(adjusted(page, directory), encoding="utf-8")
    reference(directory / "api")


def adjusted(page: Path, directory: Path) -> str:
    """Return a page with links as they are on the site; copy the files that they lead to."""
    text = page.read_text(encoding="utf-8")

    def link(match: re.Match[str]) -> str:
        path, hash_, anchor = match[2].partition("#")
        if not path or re.match(r"[a-z]+:", path):
            return match[0]
        target = (page.parent / path).resolve()
        below = target.relative_to(ROOT)
        if target.suffix == ".md":
            new = "index.md" if below.name == "README.md" else below.name
        else:
            # A name that begins with a dot, as .pre-commit-config.yaml, would be left out.
            new = f"files/{'/'.join(part.lstrip('.') for part in below.parts)}"
            (directory / new).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(target, directory / new)
        return f"{match[1]}{new}{hash_}{anchor}{match[3]}"

    parts, at = [], 0
    for fence in _FENCE.finditer(text):
        parts += [_LINK.sub(link, text[at : fence.start()]), fence[0]]
        at = fence.end()
    return "".join([*parts, _LINK.sub(link, text[at:])])


def reference(directory: Path) -> None:
    """Write a page for each part of the public names."""
    directory.mkdir()
    names = {name for name in pytest_kgdb.__all__ if not name.startswith("__")}
    placed = {name for _, several in REFERENCE.values() for name in several}
    assert placed <= names, placed - names
    errors = sorted(names - placed)
    assert all(name.endswith(("Error", "Died", "Panic")) for name in errors), errors
    pages = {**REFERENCE, "errors": ("Errors", ("KgdbError", *errors))}
    for name, (title, members) in pages.items():
        blocks = [f"# {title}\n\n`from pytest_kgdb import …`\n"]
        for member in dict.fromkeys(members):
            blocks.append(f"::: {where(member)}\n    options:\n      heading_level: 2\n")
        (directory / f"{name}.md").write_text("\n".join(blocks), encoding="utf-8")


def where(name: str) -> str:
    """Return the path of a public name in the module that defines it."""
    kind = getattr(pytest_kgdb, name)
    if inspect.isclass(kind):
        return f"{kind.__module__}.{kind.__qualname__}"
    return f"pytest_kgdb.debugger._stop.{name}"  # an alias of a type


if __name__ == "__main__":
    collect(Path(sys.argv[1]))
