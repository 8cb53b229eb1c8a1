"""How a function fails that returns a pointer: by NULL, or by a pointer that is an error."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Final

from ..debugger import SourceText
from ..errors import KgdbError
from ._functions import Function

__all__ = ["Code", "PointerFailures"]

Code = tuple[int, bytes]
"""An address, and the instructions that are there."""

# include/linux/err.h
_ERROR_POINTER: Final = re.compile(r"\b(?:ERR_PTR|ERR_CAST)\b")
_IS_ERR: Final = re.compile(r"\bIS_ERR\b")
_NULL: Final = re.compile(r"\breturn\s+NULL\b")
_COMMENT: Final = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)

_CALL: Final = re.compile(rb"\xe8")
_CALL_BYTES: Final = 5
_BEHIND: Final = 64  # bytes in which a caller's look is sought, no further than to its next call
_MASK: Final = (1 << 64) - 1

_JUMPS: Final = 2  # that are followed

# What may be between a call and a jump to where the result is looked at: mov %rax, R.
_JUMP: Final = re.compile(
    rb"(?P<moves>(?:[\x48\x49]\x89[\xc0-\xc7])*)(?:\xeb(?P<near>.)|\xe9(?P<far>.{4}))", re.DOTALL
)

# As gcc and clang have them: mov %rax, R; cmp $-4096, R (IS_ERR); test R, R. In each, a bit of the
# REX prefix and three of ModRM say which register (Intel SDM 2, "REX Prefixes").
_LOOK: Final = re.compile(
    rb"(?P<copy>[\x48\x49]\x89[\xc0-\xc7])"
    rb"|(?P<short>\x48\x3d\x00\xf0\xff\xff)"
    rb"|(?P<error>[\x48\x49]\x81[\xf8-\xff]\x00\xf0\xff\xff)"
    rb"|(?P<null>[\x48\x4d]\x85(?:\xc0|\xc9|\xd2|\xdb|\xe4|\xed|\xf6|\xff))"
)


class PointerFailures:
    """Tells how functions fail that return a pointer.

    :param source: the source of the functions.
    :param code: returns the kernel's code, with that of the modules that are loaded.
    """

    def __init__(self, source: SourceText, code: Callable[[], Iterable[Code]]) -> None:
        self._source = source
        self._code = code

    def of(self, target: Function) -> int | None:
        """Return what a function returns for want of memory: -ENOMEM, or 0; None if unknown.

        Its own source decides if it makes error pointers, then what its callers compare the result
        with, and then what else its source says.
        """
        body = self._body(target)
        if _ERROR_POINTER.search(body):
            return -errno.ENOMEM
        looks = list(self._looks([entry.address for entry in target.entries]))
        errors = sum(looks)
        if looks:
            return -errno.ENOMEM if 2 * errors >= len(looks) else 0
        if _NULL.search(body):
            return 0
        return -errno.ENOMEM if _IS_ERR.search(body) else None

    def _body(self, target: Function) -> str:
        """Return the text of a function; nothing if it cannot be read."""
        from ..kernel import last_line  # imported lazily: few tests need it

        file, line = target.definition
        try:
            text = self._source.read(file, target.entries[0].address).decode(errors="replace")
        except KgdbError:
            return ""
        lines = text.split("\n")[max(line - 1, 0) : last_line(text, line)]
        return _COMMENT.sub(" ", "\n".join(lines))

    def _looks(self, targets: Collection[int]) -> Iterator[bool]:
        """Yield for each call behind which the result is compared if that is with an error."""
        for start, code in self._code():
            for match in _CALL.finditer(code):
                at = match.start()
                if _callee(start, code, at) in targets:
                    after = at + _CALL_BYTES
                    look = _first_look(_behind(start, code, after))
                    if look is not None:
                        yield look


def _callee(start: int, code: bytes, at: int) -> int:
    """Return where a call leads that may be at some place of a code (SDM 2, "CALL": rel32)."""
    operand = code[at + 1 : at + _CALL_BYTES]
    return (start + at + _CALL_BYTES + int.from_bytes(operand, "little", signed=True)) & _MASK


def _behind(start: int, code: bytes, after: int) -> bytes:
    """Return the code that runs from a place on, as far as it is looked at."""
    moves = b""
    for _ in range(_JUMPS):
        jump = _JUMP.match(code, after)
        if jump is None:
            break
        moves += jump["moves"]
        after = jump.end() + int.from_bytes(jump["near"] or jump["far"], "little", signed=True)
        if not 0 <= after < len(code):
            return moves
    return moves + _until_call(start, code, after)


def _until_call(start: int, code: bytes, after: int) -> bytes:
    """Return the code from a place to the next call in the same code, as far as it is looked at."""
    behind = code[after : after + _BEHIND]
    for match in _CALL.finditer(behind):
        if 0 <= _callee(start, code, after + match.start()) - start < len(code):
            return behind[: match.start()]
    return behind


def _first_look(code: bytes) -> bool | None:
    """Return whether a result is compared with the error pointers; False if with NULL alone.

    None if it is not compared.
    """
    holding = {0}  # the registers that hold it, by their numbers
    is_compared = False
    for match in _LOOK.finditer(code):
        prefix, modrm = match[0][0], match[0][2]
        register = (modrm & 7) | (prefix & 1) << 3
        if match["copy"]:
            holding.add(register)
        elif match["short"] or (match["error"] and register in holding):
            return True
        elif match["null"] and register in holding:
            is_compared = True
    return False if is_compared else None
