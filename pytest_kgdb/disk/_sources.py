"""The apt sources of this host: sources.list(5), in both formats."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from ..process import CommandFailed, run

# The archive's names for releases by their state.
_ALIASES: Final = ("stable", "oldstable", "testing", "unstable", "sid")
_ROLLING: Final = ("unstable", "sid")
# The suites that belong to a release (not backports, not proposed-updates).
_POCKETS: Final = ("", "-updates", "-security", "/updates")

_ONE_LINE: Final = re.compile(r"deb\s+(?:\[([^]]*)\]\s+)?(\S+)\s+(\S+)\s+(.+)")
# sources.list(5): the options whose names differ between the formats.
_DEB822_NAMES: Final = {"arch": "Architectures", "lang": "Languages", "target": "Targets"}
# The settings for the way to the archive, and for a wrong clock.
_ACQUIRE: Final = re.compile(
    r"Acquire::(?:https?::|ForceIPv|Retries|Check-|Max-ValidTime|Min-ValidTime)", re.IGNORECASE
)


@dataclass(frozen=True)
class Source:
    """One archive, with one or more of its suites."""

    uris: tuple[str, ...]
    suites: tuple[str, ...]
    components: tuple[str, ...]
    options: tuple[tuple[str, str], ...] = ()
    """Further fields of a deb822 file."""

    def text(self) -> str:
        """Return the stanza of a `.sources` file."""
        fields = [
            ("Types", "deb"),
            ("URIs", " ".join(self.uris)),
            ("Suites", " ".join(self.suites)),
            ("Components", " ".join(self.components)),
            *self.options,
        ]
        return "".join(f"{name}: {value}\n" for name, value in fields)


def configured(etc: Path = Path("/etc/apt")) -> list[Source]:
    """Return the archives of binary packages that apt is configured to use."""
    sources: list[Source] = []
    for path in [etc / "sources.list", *sorted((etc / "sources.list.d").glob("*"))]:
        try:
            text = path.read_text(errors="replace")
        except OSError:
            continue
        if path.suffix == ".list":
            sources += _one_line(text)
        elif path.suffix == ".sources":
            sources += _deb822(text)
    return sources


def _one_line(text: str) -> Iterator[Source]:
    for line in text.splitlines():
        match = _ONE_LINE.fullmatch(line.partition("#")[0].strip())
        if match is None:
            continue
        options = []
        for word in (match[1] or "").split():
            name, _, value = word.partition("=")
            options.append((_DEB822_NAMES.get(name, name.title()), value.replace(",", " ")))
        yield Source((match[2],), (match[3],), tuple(match[4].split()), tuple(options))


def _deb822(text: str) -> Iterator[Source]:
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    for stanza in re.split(r"\n\s*\n", "\n".join(lines)):
        fields: dict[str, str] = {}
        name = ""
        for line in stanza.splitlines():
            if line[:1].isspace() and name:
                fields[name] += "\n" + line
            elif ":" in line:
                name, _, value = line.partition(":")
                name = name.strip().title()
                fields[name] = value.strip()
        taken = {key: fields.pop(key, "").split() for key in ("Types", "Uris", "Suites")}
        components = fields.pop("Components", "").split()
        if "deb" not in taken["Types"] or fields.pop("Enabled", "yes").lower() in ("no", "false"):
            continue
        yield Source(
            tuple(taken["Uris"]), tuple(taken["Suites"]), tuple(components), tuple(fields.items())
        )


def debian(
    suite: str | None, sources: Iterable[Source], release: dict[str, str]
) -> tuple[str, list[Source]]:
    """Return a suite, and the sources from which this host would install it.

    There are none if the host is not Debian, or has no Debian among its sources: mmdebstrap then
    uses its default archive.

    :param suite: by default that of the host, or else stable.
    """
    mine = release.get("VERSION_CODENAME", "") if release.get("ID") == "debian" else ""
    bases = [name for name in (mine, *_ALIASES) if name]
    matching: list[Source] = []
    base = ""
    for source in sources:
        if "main" not in source.components:
            continue
        for name in source.suites:
            its_base = _base(name, bases)
            if its_base is None or (base and its_base != base):
                continue
            base = base or its_base
            matching.append(replace(source, suites=(name,)))
    chosen = suite or base or mine or "stable"
    if not base or not any(source.suites == (base,) for source in matching):
        return chosen, []
    moved = []
    for source in matching:
        pocket = source.suites[0].removeprefix(base)
        if pocket and chosen in _ROLLING:
            continue
        moved.append(replace(source, suites=(chosen + pocket,), components=("main",)))
    return chosen, moved


def _base(name: str, bases: Iterable[str]) -> str | None:
    for base in bases:
        if name in [base + pocket for pocket in _POCKETS]:
            return base
    return None


def acquire_options() -> list[str]:
    """Return the host's apt settings for the way to the archive, such as proxies."""
    try:
        result = run(["apt-config", "dump", "--format", '%F "%v";%n', "Acquire"], timeout=20.0)
    except CommandFailed:
        return []
    return [
        line
        for line in result.output.splitlines()
        if _ACQUIRE.match(line) and not line.endswith(' "";')
    ]
