"""From gdb's values to drgn's objects and back; per-CPU variables."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import KgdbError
from ._debugger import Debugger
from ._shapes import core_of, digest, shape_of, type_files
from ._values import Value, width_of

if TYPE_CHECKING:
    import drgn

__all__ = ["check_type", "expression_of", "object_of", "per_cpu"]


def object_of(program: drgn.Program, value: Value) -> drgn.Object:
    """Return drgn's object for a value of gdb's.

    :raises KgdbError: it is nowhere in memory and no number, or drgn does not know its type.
    """
    import drgn

    try:
        kind = _same_type(program, value)
    except (LookupError, SyntaxError) as error:
        raise KgdbError(
            f"drgn has no type '{value.type}': {error}",
            hint="cast the value to a type that the kernel declares: value.cast(…)",
        ) from error
    address = value.address
    if address is not None:
        return drgn.Object(program, kind, address=address)
    try:
        return drgn.Object(program, kind, value=int(value), bit_field_size=width_of(value))
    except TypeError as error:
        raise KgdbError(
            f"{value!r} lies in no memory and is no number, so there is no object of it",
            hint="a member of it may be a number; what is in a register has no address",
        ) from error


def _same_type(program: drgn.Program, value: Value) -> drgn.Type:
    """Return drgn's type of a value: several files may have one of the name.

    :raises KgdbError: drgn does not find the same one.
    """
    from drgn import sizeof

    kind, its = _type_of(program, value.type), shape_of(value)
    if its.digest is None or its.digest == digest(kind):
        return kind
    for file in type_files(value):
        parts = Path(file).parts
        for first in range(len(parts)):  # drgn may know it by the end of its path alone
            name = str(Path(*parts[first:]))
            with contextlib.suppress(LookupError, SyntaxError):
                other = _type_of(program, value.type, name)
                if digest(other) == its.digest:
                    return other
    core = core_of(kind)
    raise KgdbError(
        f"drgn has another '{core.type_name()}' ({sizeof(core)} bytes) than gdb has here "
        f"({its.size} bytes), of another file",
        hint="say which: drgn.Object(kgdb.program, kgdb.program.type('struct NAME', 'FILE.c'), "
        "address=value.address)",
    )


def check_type(value: Value, obj: drgn.Object) -> None:
    """Check that gdb has given an object of drgn's its own type.

    :raises KgdbError: it is one of the same name, of another file.
    """
    its = shape_of(value)
    if its.digest is not None and digest(obj.type_) not in (its.digest, None):
        raise KgdbError(
            f"gdb has another '{obj.type_.type_name()}' than drgn has, of another file",
            hint="evaluate() it by the name of a variable, or read it with drgn",
        )


def _type_of(program: drgn.Program, name: str, file: str | None = None) -> drgn.Type:
    """Return drgn's type of a name of gdb's, which in assembler leaves out `struct`."""
    try:
        return program.type(name, file)
    except LookupError:
        for keyword in ("struct", "union", "enum"):
            with contextlib.suppress(LookupError):
                return program.type(f"{keyword} {name}", file)
        raise


def expression_of(obj: drgn.Object) -> str:
    """Return the expression by which gdb finds what a drgn object is.

    :raises KgdbError: it is a copy of someobj that is no number.
    """
    if obj.address_ is not None and obj.bit_field_size_ is None:
        pointer = obj.prog_.pointer_type(obj.type_).type_name()
        return f"*({pointer}){obj.address_:#x}"
    try:
        number = int(obj.value_())
    except TypeError as error:
        raise KgdbError(
            f"a drgn object of type {obj.type_.type_name()} that is a copy is in no memory",
            hint="take the object itself, before read_()",
        ) from error
    return f"({obj.type_.type_name()}){number:#x}"


def per_cpu(debugger: Debugger, variable: str, cpu: int) -> Value:
    """Return a CPU's own copy of a variable (include/linux/percpu-defs.h, per_cpu).

    :raises KgdbError: there is no such variable or CPU.
    """
    expression = f"per_cpu({variable}, {int(cpu)})"
    return Value(debugger, debugger.request("evaluate", expression=expression), expression)
