"""Pointers and texts, as they were at a call."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from ..debugger import errno_name, errno_of
from ..errors import KgdbError

__all__ = ["Pointer", "ReadMemory", "Text", "read_string"]

_ERROR: Final = re.compile(r"-E[A-Z0-9_]+|ERR_PTR\(\s*-E[A-Z0-9_]+\s*\)")

# Of a `char *` that much is read: it may point at a buffer that holds no string.
STRING: Final = 256
_PAGE: Final = 4096

ReadMemory = Callable[[int, int], bytes]


class Pointer(int):
    """A pointer as it was at a call: its address, without a sign.

    One that is an error (include/linux/err.h) compares with the number and with the name, as a
    :class:`Value` does.
    """

    def __eq__(self, other: object) -> bool:
        number = int(self)
        if isinstance(other, int) and other < 0:
            number -= 1 << 64
        if isinstance(other, str) and _ERROR.fullmatch(other):
            return number - (1 << 64) == errno_of(other)
        return number == other

    def __ne__(self, other: object) -> bool:
        return not self == other  # int has a != of its own

    __hash__ = int.__hash__

    def __repr__(self) -> str:
        error = errno_name(int(self) - (1 << 64)) if int(self) >> 63 else None
        return hex(self) if error is None else f"ERR_PTR({error})"


class Text(Pointer):
    """A `char *` as it was at a call: its address, and what was there then.

    It compares with a text by what it pointed at, and with a number by its address.
    """

    _text: str | None

    def __new__(cls, address: int, text: str | None) -> Text:
        self = super().__new__(cls, address)
        self._text = text
        return self

    def string(self) -> str:
        """Return what it pointed at, up to the NUL, or at most 256 bytes.

        :raises KgdbError: nothing was mapped there.
        """
        if self._text is None:
            raise KgdbError(
                f"{int(self):#x} pointed at nothing that was mapped at the call",
                hint="a program's page that it has not touched yet is not there: spy on a function "
                "that the kernel calls later",
            )
        return self._text

    def __eq__(self, other: object) -> bool:
        if isinstance(other, str | bytes):
            text = other if isinstance(other, str) else other.decode("utf-8", "replace")
            return self._text == text or (self._text is None and super().__eq__(other))
        return super().__eq__(other)

    __hash__ = int.__hash__

    def __str__(self) -> str:
        return hex(self) if self._text is None else self._text

    def __repr__(self) -> str:
        return hex(self) if self._text is None else f"{int(self):#x} {self._text!r}"


def read_string(read: ReadMemory, address: int, limit: int = STRING) -> str | None:
    """Return the text up to a NUL; None where not even its beginning is memory."""
    data = b""
    while len(data) < limit:
        start = address + len(data)
        # Up to the page's end: what comes behind it may not be mapped.
        size = min(limit - len(data), _PAGE - start % _PAGE)
        try:
            data += read(start, size)
        except KgdbError:
            if not data:
                return None
            break
        if b"\0" in data:
            break
    return data.partition(b"\0")[0].decode("utf-8", "replace")
