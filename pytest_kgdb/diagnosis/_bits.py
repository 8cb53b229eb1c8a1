"""Waits for a bit, or a variable, to change: of a page, and of any word of the kernel's."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection
from typing import Final

from ._locks import variable_name
from ._records import RecordSearch
from ._wait import Wait

__all__ = ["bit_wait", "folio_wait"]

# mm/filemap.c: of folios since 5.16, of pages before.
_FOLIO_WAITS: Final = re.compile(
    r"folio_wait_bit\w*|__folio_lock\w*|folio_put_wait_locked|"
    r"wait_on_page_bit\w*|__lock_page\w*|put_and_wait_on_page_locked"
)
# include/linux/page-flags.h, enum pageflags
_LOCKED: Final = "PG_locked"
_WRITEBACK: Final = "PG_writeback"
# kernel/sched/wait_bit.c: how those are woken that wait for a bit, and for a variable.
_BIT: Final = "wake_bit_function"
_VARIABLE: Final = "var_wake_function"


def folio_wait(search: RecordSearch, names: Collection[str]) -> Wait | None:
    """Return the wait for a bit of a folio (mm/filemap.c, struct wait_page_queue).

    :param names: of the functions on the stack.
    """
    import drgn

    if not any(map(_FOLIO_WAITS.fullmatch, names)):
        return None
    program = search.program
    with contextlib.suppress(AttributeError, LookupError, drgn.FaultError):
        kind = program.type("struct wait_page_queue")
        offset = drgn.offsetof(kind, "wait.private")
        noun = "folio" if kind.has_member("folio") else "page"
        for address in search.task_words():
            record = drgn.Object(program, kind, address=address - offset)
            with contextlib.suppress(drgn.FaultError, LookupError, ValueError):
                bit = record.bit_nr.value_()
                name = drgn.Object(program, "enum pageflags", value=bit).format_(type_name=False)
                linked = search.linked(record.wait.entry.address_of_())
                if not linked or not name.startswith("PG_"):  # another record, or none
                    continue
                named = {_LOCKED: f"the lock of a {noun}", _WRITEBACK: f"a {noun}'s writeback"}
                words = named.get(name, f"{name} of a {noun}")
                page = record.member_(noun).value_()
                return Wait(f"{words} at {page:#x}", page)
    return Wait("a folio")


def bit_wait(search: RecordSearch) -> Wait | None:
    """Return the wait for a bit or a variable (struct wait_bit_queue_entry), if it is one.

    All of them share some queues, which say nothing (kernel/sched/wait_bit.c, bit_wait_table).
    """
    import drgn

    program = search.program
    with contextlib.suppress(AttributeError, LookupError, drgn.FaultError):
        kind = program.type("struct wait_bit_queue_entry")
        offset = drgn.offsetof(kind, "wq_entry.private")
        for address in search.task_words():
            record = drgn.Object(program, kind, address=address - offset)
            with contextlib.suppress(drgn.FaultError, LookupError):
                if not search.linked(record.wq_entry.entry.address_of_()):
                    continue
                wakes = program.symbol(record.wq_entry.func.value_()).name
                word = record.key.flags.value_()
                bit = record.key.bit_nr.value_()
                if wakes == _BIT and bit >= 0:
                    return Wait(f"bit {bit} of {variable_name(program, word)}", word)
                if wakes == _VARIABLE:
                    return Wait(variable_name(program, word), word)
    return None
