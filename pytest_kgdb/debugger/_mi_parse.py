"""Lines of gdb's output as records (gdb manual, "GDB/MI Output Syntax").

Each stop waits for this: four lines in a tenth of a millisecond.
"""

from __future__ import annotations

import re
from typing import Any, Final

__all__ = ["Record", "parse"]

Record = dict[str, Any]
"""One MI record.

`type`: `result`, `notify`, `console`, `log`, `target`; `output` for what is not MI. `token`: of the
command that it answers, or None. `message`: the result class or the async class (`done`,
`stopped`), None otherwise. `payload`: the results by name, None if there are none; the text of a
stream. Values are texts, dictionaries (MI's tuples) and lists; a name that a tuple has several
times has a list of its values, and the names within lists are left out.
"""

_STREAMS: Final = {"~": "console", "&": "log", "@": "target"}

# A breakpoint's commands before mi4, as `script={"silent","print 1"}`, which is no value of MI
# (gdb 13 NEWS, "-fix-breakpoint-script-output").
_SCRIPT: Final = re.compile(r'(?<=[{,])script=\{((?:"(?:[^"\\]|\\.)*",?)*)\}')

_TEXT: Final = r'"([^"\\]*(?:\\.[^"\\]*)*)"'
_RECORD: Final = re.compile(r"(\d*)([\^*=])([^\s,]+)")
_STREAM: Final = re.compile(rf"([~&@]){_TEXT}", re.DOTALL)
_VALUE: Final = re.compile(rf"{_TEXT}|([\[{{])")
_RESULT: Final = re.compile(rf'([^\s"\[\]{{}},=]+)=(?:{_TEXT}|([\[{{]))')

# gdb/utils.c, print_one_char_for_c_style_string: of several octal numbers, one character may be.
_ESCAPE: Final = re.compile(r"((?:\\[0-7]{3})+)|\\(.)", re.DOTALL)
_ESCAPED: Final = {
    "'": "'",
    "\\": "\\",
    "a": "\a",
    "b": "\b",
    "e": "\033",
    "f": "\f",
    "n": "\n",
    "r": "\r",
    "t": "\t",
    "v": "\v",
    '"': '"',
}


class _NotMiError(Exception):
    """The line only looks like MI."""


def parse(line: str) -> Record:
    """Parse a line of gdb's output; one that is not MI is text.

    A script that a gdb command starts writes to the same pipe, and can cut a record in two.
    """
    try:
        record = _parse(_SCRIPT.sub(r"script=[\1]", line) if "script={" in line else line)
    except (_NotMiError, RecursionError):
        record = None
    return record or {"type": "output", "message": None, "payload": line, "token": None}


def _parse(line: str) -> Record | None:
    if match := _RECORD.match(line):
        token, kind, message = match.groups()
        payload: Any = None
        if (at := match.end()) < len(line):
            if line[at] != ",":
                return None
            payload = _results(line, at + 1, "")[0]
        return {
            "type": "result" if kind == "^" else "notify",
            "message": message,
            "payload": payload,
            "token": int(token) if token else None,
        }
    if match := _STREAM.fullmatch(line):
        kind, text = match.groups()
        payload = _unescape(text) if "\\" in text else text
        return {"type": _STREAMS[kind], "message": None, "payload": payload, "token": None}
    return None


def _results(line: str, at: int, closing: str) -> tuple[dict[str, Any], int]:
    """Return `name=value,…` up to a closing brace, or to the line's end, and where it ends."""
    results: dict[str, Any] = {}
    if closing and line.startswith(closing, at):
        return results, at + 1
    while match := _RESULT.match(line, at):
        name, text, opening = match.groups()
        value, at = _value(line, match.end(), text, opening)
        if name not in results:
            results[name] = value
        elif isinstance(results[name], list):
            results[name].append(value)
        else:
            results[name] = [results[name], value]
        if (end := line[at : at + 1]) == closing:
            return results, at + 1
        if end != ",":
            break
        at += 1
    raise _NotMiError


def _list(line: str, at: int) -> tuple[list[Any], int]:
    """Return the values up to a closing bracket, without their names, and where it ends."""
    values: list[Any] = []
    if line.startswith("]", at):
        return values, at + 1
    while match := _VALUE.match(line, at) or _RESULT.match(line, at):
        text, opening = match.groups()[-2:]
        value, at = _value(line, match.end(), text, opening)
        values.append(value)
        if (end := line[at : at + 1]) == "]":
            return values, at + 1
        if end != ",":
            break
        at += 1
    raise _NotMiError


def _value(line: str, at: int, text: str, opening: str | None) -> tuple[Any, int]:
    """Return a text, or the tuple or list that is open, and where it ends."""
    if opening is not None:
        return _results(line, at, "}") if opening == "{" else _list(line, at)
    return (_unescape(text) if "\\" in text else text), at


def _unescape(text: str) -> str:
    return _ESCAPE.sub(_escaped, text)


def _escaped(match: re.Match[str]) -> str:
    octal, char = match.groups()
    if octal is None:
        if char not in _ESCAPED:
            raise _NotMiError
        return _ESCAPED[char]
    try:
        return bytes(int(number, 8) for number in octal[1:].split("\\")).decode()
    except ValueError:  # of no character, as in a kernel's own bytes
        return str(octal)
