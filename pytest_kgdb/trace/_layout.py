"""The bytes of a value as Python has it: numbers, and structures as mappings of their members."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ._pointers import Pointer, ReadMemory, text_at

__all__ = ["decode"]


def decode(layout: Mapping[str, Any], data: bytes, read: ReadMemory) -> Any:
    """Return the value that bytes are.

    :param layout: the type as the agent inside gdb describes it: `kind`, `size`, `signed`;
        `members` of a structure or union; `count` and `element` of an array.
    :param read: reads what a `char *` points at.
    """
    if "members" in layout:
        return {name: _member(data, read, *place) for name, *place in layout["members"]}
    if layout["kind"] == "chars":
        return data[: layout["size"]].partition(b"\0")[0].decode("utf-8", "replace")
    if "element" in layout:
        size = int(layout["element"]["size"])
        return [
            decode(layout["element"], data[at : at + size], read)
            for at in range(0, size * int(layout["count"]), size or 1)
        ]
    size = int(layout["size"])
    number = int.from_bytes(data[:size], "little", signed=bool(layout["signed"]))
    if layout["kind"] == "string":
        return text_at(read, number)
    if layout["kind"] == "ptr":
        return Pointer(number)
    return bool(number) if layout["kind"] == "bool" else number


def _member(data: bytes, read: ReadMemory, bit: int, width: int, layout: Mapping[str, Any]) -> Any:
    if not width:
        return decode(layout, data[bit // 8 : bit // 8 + int(layout["size"])], read)
    number = int.from_bytes(data, "little") >> bit & ((1 << width) - 1)
    if layout["kind"] == "bool":
        return bool(number)
    return number - (1 << width) if layout["signed"] and number >> (width - 1) else number
