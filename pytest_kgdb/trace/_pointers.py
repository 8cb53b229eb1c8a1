"""Pointers and texts, as they were at a call."""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable
from typing import Final, NamedTuple

from ..debugger import MAX_ERRNO, errno_name, errno_of
from ..errors import KgdbError

__all__ = ["Pointer", "ReadMemory", "String", "Text", "read_string", "text_at"]

_ERROR: Final = re.compile(r"-E[A-Z0-9_]+|ERR_PTR\(\s*-E[A-Z0-9_]+\s*\)")

# Of a `char *` that much is read: it may point at a buffer that holds no string. A path has no more
# (include/uapi/linux/limits.h, PATH_MAX). The first read has most strings, which are short, whole.
STRING: Final = 4096
_FIRST: Final = 256
_PAGE: Final = 4096
# Characters that `repr()` shows, as gdb does (gdb manual, "Print Settings", print elements).
_SHOWN: Final = 200

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


class String(NamedTuple):
    """What was read of a text in the kernel."""

    data: bytes
    """Up to the NUL, or what there is before the gap."""
    gap: str = ""
    """Why the end of the text is not known; empty if it is."""

    @property
    def text(self) -> str:
        """It as text; of a character whose end was not read, nothing."""
        if not self.gap:
            return self.data.decode("utf-8", "replace")
        return codecs.getincrementaldecoder("utf-8")("replace").decode(self.data)


class Text(Pointer):
    """A `char *` as it was at a call: its address, and what was there then.

    It compares with a text by what it pointed at, and with a number by its address.
    """

    _string: String | None

    def __new__(cls, address: int, string: String | None) -> Text:
        self = super().__new__(cls, address)
        self._string = string
        return self

    def string(self) -> str:
        """Return what it pointed at, up to the NUL.

        :raises KgdbError: nothing was mapped there, or not up to the NUL; or the text is longer
            than the 4096 bytes that are read at a call.
        """
        string = self._string
        if string is None:
            raise self._unmapped()
        if string.gap:
            raise KgdbError(
                f"the text at {int(self):#x} {string.gap}; it begins with {string.text[:32]!r}",
                hint="str() has all that was read",
            )
        return string.text

    def _unmapped(self) -> KgdbError:
        return KgdbError(
            f"{int(self):#x} pointed at nothing that was mapped at the call",
            hint="a program's page that it has not touched yet is not there: spy on a function "
            "that the kernel calls later",
        )

    def __eq__(self, other: object) -> bool:
        """:raises KgdbError: what was read does not tell whether the text is another one."""
        if not isinstance(other, str | bytes):
            return super().__eq__(other)
        string = self._string
        if string is None:
            if _is_nowhere(int(self)) or (isinstance(other, str) and _ERROR.fullmatch(other)):
                return super().__eq__(other)
            raise self._unmapped()
        text = other if isinstance(other, str) else other.decode("utf-8", "replace")
        if not string.gap:
            return string.text == text
        if not text.startswith(string.text):
            return False
        raise KgdbError(
            f"whether the text at {int(self):#x} is {_cut(text)} is not known: it {string.gap}",
            hint="str() has all that was read",
        )

    __hash__ = int.__hash__

    def __str__(self) -> str:
        if self._string is None:
            return hex(self)
        return self._string.text + ("..." if self._string.gap else "")

    def __repr__(self) -> str:
        if self._string is None:
            return hex(self)
        return f"{int(self):#x} {_cut(self._string.text, bool(self._string.gap))}"


def _cut(text: str, is_cut: bool = False) -> str:
    return repr(text[:_SHOWN]) + ("..." if is_cut or len(text) > _SHOWN else "")


def _is_nowhere(address: int) -> bool:
    """Whether a pointer is NULL or an error (include/linux/err.h), and points at no text."""
    return address == 0 or (1 << 64) - address <= MAX_ERRNO


def text_at(read: ReadMemory, address: int) -> Text:
    """Return a `char *` with what it points at."""
    return Text(address, None if _is_nowhere(address) else read_string(read, address))


def read_string(read: ReadMemory, address: int, limit: int = STRING) -> String | None:
    """Read a text up to a NUL; None where not even its beginning is memory."""
    data = b""
    while len(data) < limit:
        start = address + len(data)
        # Up to the page's end: what comes behind it may not be mapped.
        size = min(limit - len(data) if data else _FIRST, limit, _PAGE - start % _PAGE)
        try:
            more = read(start, size)
        except KgdbError:
            if not data:
                return None
            return String(data, f"goes on at {start:#x}, where nothing was mapped at the call")
        end = more.find(b"\0")
        if end >= 0:
            return String(data + more[:end])
        data += more
    return String(data, f"is longer than the {limit} bytes that are read at a call")
