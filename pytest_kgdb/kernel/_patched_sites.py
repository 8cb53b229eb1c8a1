"""Where a kernel keeps the tables of the instructions that it patches while it runs."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import drgn

__all__ = ["SITE_SYMBOLS", "PatchedSites", "SiteTable"]

# The tables: the symbols around each in the image (include/asm-generic/vmlinux.lds.h), the members
# of `struct module` that hold a module's (include/linux/module.h), and an entry's type with the
# member where the instruction is, which comes first and is counted from the entry itself.
_TABLES: Final = (
    # include/linux/jump_label.h; older kernels have an address of 64 bits there
    ("__start___jump_table", "__stop___jump_table", "jump_entries", "num_jump_entries",
     "struct jump_entry", "code"),
    # include/linux/static_call_types.h
    ("__start_static_call_sites", "__stop_static_call_sites", "static_call_sites",
     "num_static_call_sites", "struct static_call_site", "addr"),
)  # fmt: skip
_RELATIVE: Final = 4  # bytes
SITE_SYMBOLS: Final = (
    *(symbol for first, last, *_ in _TABLES for symbol in (first, last)),
    *("_stext", "_etext", "modules"),
)
"""The symbols of the image that are read."""


@dataclass(frozen=True)
class SiteTable:
    """One table, of jump labels or of static calls. Addresses are as linked."""

    start: int
    """Where the image's own begins."""

    end: int
    """And where it ends."""

    stride: int
    """How far its entries are apart, in bytes."""

    module_start: int
    """Offset in `struct module` of a pointer to the module's; 0 if modules have none."""

    module_count: int
    """Offset of how many entries that has: 32 bits."""


@dataclass(frozen=True)
class PatchedSites:
    """The tables of an image and of its modules."""

    text: int
    """`_stext`, where the image's own code begins."""

    text_end: int
    """`_etext`, where it ends; other code is that of modules."""

    tables: tuple[SiteTable, ...]

    modules: int = 0
    """`modules`, a list of `struct module`; 0 if the kernel has no modules."""

    module_list: int = 0
    """Offset of `list` in `struct module`."""

    @classmethod
    def read(cls, symbols: Mapping[str, int | None], program: drgn.Program) -> PatchedSites | None:
        """Return them of an image; None if it patches no instruction that it lists.

        A table of whose entries the debug information has no type is left out.

        :param symbols: the addresses of :data:`SITE_SYMBOLS`, as far as the image has them.
        :param program: has the image's types.
        """
        import drgn

        modules = symbols["modules"]
        module = None
        if modules is not None:
            with contextlib.suppress(LookupError):
                module = program.type("struct module")
        tables = []
        for first, last, pointer, count, name, member in _TABLES:
            start, end = symbols[first], symbols[last]
            if start is None or end is None or start >= end:
                continue
            try:
                entry = program.type(name)
            except LookupError:
                continue
            if drgn.sizeof(entry.member(member).type) != _RELATIVE:
                continue
            listed = module is not None and module.has_member(pointer)
            tables.append(
                SiteTable(
                    start=start,
                    end=end,
                    stride=drgn.sizeof(entry),
                    module_start=drgn.offsetof(module, pointer) if listed else 0,
                    module_count=drgn.offsetof(module, count) if listed else 0,
                )
            )
        text, text_end = symbols["_stext"], symbols["_etext"]
        if not tables or text is None or text_end is None:
            return None
        return cls(
            text=text,
            text_end=text_end,
            tables=tuple(tables),
            modules=modules if modules is not None and module is not None else 0,
            module_list=drgn.offsetof(module, "list") if module is not None else 0,
        )
