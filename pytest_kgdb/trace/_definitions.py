"""Which function is meant where several of the kernel's have the name."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final

from ..errors import KgdbError

__all__ = ["Record", "of_one_definition"]

Record = Mapping[str, Any]
"""A copy of a function, as the agent inside gdb describes it."""

_Place = tuple[str, int]
"""A file and a line."""

# Definitions that a message names.
_NAMED: Final = 12


def of_one_definition(
    name: str,
    records: Sequence[Record],
    what: str,
    among: Collection[int] = (),
    *,
    named: Callable[[str], str],
) -> list[Record]:
    """Return the copies of the function that is meant, and where it is inlined.

    The copies of a header's static function are of one definition, and so are those that gcc
    specialised or split. What has no definition of its own is left: gcc may have given one address
    to functions whose code is the same, and what is in assembler has none.

    :param name: as gdb takes it: `do_open`, or `fs/open.c:do_open`.
    :param what: who wants it, for messages.
    :param among: the addresses of the copies that are meant, where they are known.
    :param named: returns the name of a file in the kernel's tree; the path of one outside of it.
    :raises KgdbError: there are several; the message has how each is named.
    """
    file, _, function = name.rpartition(":")
    # A weak function that another one replaces is still there, without a name, and is not called.
    if any(not record["inlined"] and record.get("linked", True) for record in records):
        records = [record for record in records if record.get("linked", True)]
    copies = [record for record in records if not record["inlined"]]
    if among:
        copies = [record for record in copies if record["address"] in among] or copies
    places = _places(copies)
    if file:  # gdb takes a header's name for all functions of the files that include it
        places = [place for place in places if _is_file(place[0], file)] or places
    if len(places) > 1:
        files = {file: named(file) for file, _ in places}
        names = _names(function, places, copies, files)
        shown = ", ".join(f"{file}:{line}" for file, line in _shown(places, files)[:_NAMED])
        more = f" and {len(places) - _NAMED} more" if len(places) > _NAMED else ""
        raise KgdbError(
            f"no {what} on {name}: several functions have the name: {shown}{more}",
            hint=f"say which: {' or '.join(names[:2])}",
        )
    if not places:
        return list(records)
    return [record for record in records if _may_be(record, places[0])]


def _may_be(record: Record, place: _Place) -> bool:
    """Whether a copy is of the function that is defined at a place."""
    if _place(record) is None and record["inlined"]:
        # Its own file has no such function by itself: it is another file's, or a header's.
        return not place[0].endswith(".c")
    return _place(record) in (None, place)


def _place(record: Record) -> _Place | None:
    definition = record.get("definition")
    return (str(definition[0]), int(definition[1])) if definition else None


def _places(records: Sequence[Record]) -> list[_Place]:
    return sorted({place for record in records if (place := _place(record)) is not None})


def _is_file(path: str, file: str) -> bool:
    """Whether a path ends with another, as a whole name."""
    return ("/" + path).endswith("/" + file.lstrip("/"))


def _shown(places: Sequence[_Place], files: Mapping[str, str]) -> list[_Place]:
    """Return the files as they are in the source, as short as tells them apart.

    :param files: their names in the kernel's tree.
    """
    return [(_short(files[file], files.values()), line) for file, line in places]


def _short(file: str, files: Collection[str]) -> str:
    """Return a name in the tree as it is; of a path, as much as no other file ends with."""
    if not file.startswith("/"):
        return file
    parts = file.lstrip("/").split("/")
    first = len(parts) - 1
    while first and sum(_is_file(other, "/".join(parts[first:])) for other in set(files)) > 1:
        first -= 1
    return "/".join(parts[first:])


def _names(
    function: str, places: Sequence[_Place], copies: Sequence[Record], files: Mapping[str, str]
) -> list[str]:
    """Return how each definition is named: by its file, or by an address."""
    names = []
    for place, (file, _) in zip(places, _shown(places, files), strict=True):
        alone = [other for other in places if _is_file(other[0], file)] == [place]
        address = next(record["address"] for record in copies if _place(record) == place)
        names.append(f"'{file}:{function}'" if alone else f"'*{address:#x}'")
    return names
