"""What a type of gdb's or drgn's consists of: several files may have one of a name."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ._values import Value, request_of

if TYPE_CHECKING:
    import drgn

__all__ = ["Shape", "core_of", "digest", "shape_of", "type_files"]

_MASK: Final = (1 << 64) - 1


class Shape(NamedTuple):
    """What the type of a value of gdb's consists of."""

    digest: str | None
    """None of what is only declared."""
    size: int
    """Bytes: of what a pointer points at, of an array's element."""


def shape_of(value: Value) -> Shape:
    """Return what a value's type consists of, as gdb has it."""
    answer = request_of(value, "shape")
    return Shape(answer["digest"], int(answer["size"]))


def type_files(value: Value) -> list[str]:
    """Return the files in which a value's type may be declared."""
    return list(request_of(value, "type_files", expression=value.expression)["files"])


def core_of(kind: drgn.Type) -> drgn.Type:
    """Return what a pointer, an array and a typedef are of in the end."""
    from drgn import TypeKind

    while kind.kind in (TypeKind.POINTER, TypeKind.ARRAY, TypeKind.TYPEDEF):
        kind = kind.type
    return kind


def digest(kind: drgn.Type) -> str | None:
    """Return what a type consists of, as data/gdb_shapes.py has it; None if it is only declared."""
    from drgn import TypeKind

    kind = core_of(kind)
    if kind.kind in (TypeKind.STRUCT, TypeKind.UNION) and kind.members is None:
        return None
    return hashlib.sha256(json.dumps(_shape(kind)).encode()).hexdigest()


def _shape(kind: drgn.Type) -> list[Any]:
    from drgn import TypeKind

    while kind.kind == TypeKind.TYPEDEF:
        kind = kind.type
    if kind.kind in (TypeKind.STRUCT, TypeKind.UNION):
        members = [
            [one.name or "", one.bit_offset, one.bit_field_size or 0, _shape(one.type)]
            for one in kind.members or ()
        ]
        # gdb leaves out what pads a structure behind a flexible array.
        is_open = any(its[0] in ("array", "compound") and its[1] == 0 for *_, its in members)
        return ["compound", 0 if is_open else kind.size or 0, members]
    if kind.kind == TypeKind.ARRAY:
        return ["array", _size(kind), _shape(kind.type)]
    if kind.kind == TypeKind.POINTER:
        target = kind.type
        while target.kind == TypeKind.TYPEDEF:
            target = target.type
        compound = target.kind in (TypeKind.STRUCT, TypeKind.UNION)
        return ["pointer", (target.tag or "") if compound else ""]
    if kind.kind == TypeKind.ENUM:
        enumerators = [[one.name, one.value & _MASK] for one in kind.enumerators or ()]
        return ["enum", _size(kind), enumerators]
    if kind.kind in (TypeKind.INT, TypeKind.BOOL, TypeKind.FLOAT):
        signed = kind.kind == TypeKind.INT and kind.is_signed
        return [kind.kind.name.lower(), kind.size, signed]
    return ["other"]


def _size(kind: drgn.Type) -> int:
    from drgn import TypeKind, sizeof

    if kind.kind == TypeKind.ARRAY:
        return int(kind.length or 0) * _size(kind.type)
    try:
        return int(sizeof(kind))
    except TypeError:  # it is only declared
        return 0
