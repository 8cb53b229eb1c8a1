"""What can be told of a line of C by its text: whether it holds a statement, and is compiled."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

__all__ = ["left_out", "line_of_calls", "spans", "statements"]

_NOT_CODE: Final = re.compile(
    r"//[^\n]*|/\*.*?\*/|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'|^[ \t]*#(?:\\\n|[^\n])*",
    re.DOTALL | re.MULTILINE,
)
_LABEL: Final = re.compile(r"(?:case\b[^:;]*|default|[A-Za-z_]\w*)\s*:(?!:)")
_NO_STATEMENT: Final = re.compile(r"(?:[{}();,\s]|\belse\b|\bdo\b)*")
_ATTRIBUTES: Final = r"(?:\[[^\]]*\]|\s*__\w+\s*\(\(?[^()]*\)?\))*"  # behind a name
_DECLARATION: Final = re.compile(
    r"(?!(?:return|goto|else|case)\b)[A-Za-z_]\w*[\w\s*]*"
    rf"(?:[\s*]\w+{_ATTRIBUTES}(?:\s*,\s*\**\w+{_ATTRIBUTES})*"
    r"|\(\s*\*\s*\w+\s*\)\s*\([^;]*\))\s*;"  # a pointer to a function
)
_CALL: Final = re.compile(r"(?:([A-Za-z_]\w*)|[\])])\s*$")
_NO_CALL: Final = frozenset(("if", "for", "while", "switch", "return", "sizeof", "typeof"))
_CONTROL: Final = re.compile(r"\b(?:if|for|while|switch|\w*for_each\w*)\s*$")
_CONDITION: Final = re.compile(r"^\s*#\s*(if|ifdef|ifndef|elif|else|endif)\b(.*)")
_TERM: Final = re.compile(
    r"(!?)\s*(defined|IS_ENABLED|IS_BUILTIN|IS_REACHABLE|IS_MODULE)\s*\(?\s*"
    r"CONFIG_(\w+)\s*\)?"
)


def statements(text: str) -> set[int]:
    """Return the lines on which a statement of a function begins, as far as the text tells."""
    return set(spans(text))


def spans(text: str) -> dict[int, list[int]]:
    """Return the lines of each statement, itself included, by the one on which it begins."""
    begun: dict[int, list[int]] = {}
    current: list[int] = []  # the lines of the statement that goes on
    codes: dict[int, str] = {}  # what stands on each line, without labels and braces in front
    depth = parentheses = 0
    fresh = False  # whether what comes next begins a statement
    function = 0  # the depth of braces of the function around, 0 outside
    before = ""  # the code since the last statement began
    for number, line in enumerate(_plain(text).split("\n"), 1):
        inside = function > 0 and parentheses == 0
        code = codes[number] = line.strip()
        if code and function > 0 and not (inside and fresh):
            current.append(number)
        elif code and inside:
            while label := _LABEL.match(code):
                code = code[label.end() :].strip()
            code = code.lstrip("} \t").removeprefix("else").strip()
            codes[number] = code
            current = [number]
            if not _NO_STATEMENT.fullmatch(code):
                begun[number] = current
        for at, character in enumerate(line):
            if character == "{":
                if function == 0 and (before.rstrip().endswith(")") or depth == 0):
                    function = depth + 1 if before.rstrip().endswith(")") else 0
                depth += 1
            elif character == "}":
                depth -= 1
                if depth < function:
                    function = 0
            elif character == "(":
                if parentheses == 0:
                    control = bool(_CONTROL.search(line[:at]))
                parentheses += 1
            elif character == ")":
                parentheses -= 1
                if parentheses == 0 and control:
                    fresh, before = True, before + character
                    continue
            if not character.isspace():
                fresh = character in ";{}" or (character == ":" and parentheses == 0)
                before = (before + character)[-80:]
        if re.search(r"\b(?:else|do)\s*$", line):
            fresh = True
    return {
        first: lines
        for first, lines in begun.items()
        if not _DECLARATION.fullmatch(" ".join(codes[line] for line in lines))
    }


def line_of_calls(text: str) -> dict[int, list[int]]:
    """Return the lines on which the calls begin that go on on a line, for each that has such.

    A macro counts as a call, and so do the parameters of a definition.
    """
    within: dict[int, list[int]] = {}
    opened: list[int | None] = []  # the line of each parenthesis that is a call's
    for number, line in enumerate(_plain(text).split("\n"), 1):
        if line[:1] in ("{", "}"):
            opened.clear()  # a function's: #if may have left parentheses open
        if begun := [first for first in opened if first is not None]:
            within[number] = list(dict.fromkeys(begun))
        for at, character in enumerate(line):
            if character == "(":
                name = _CALL.search(line[:at])
                opened.append(number if name and name[1] not in _NO_CALL else None)
            elif character == ")" and opened:
                opened.pop()
    return within


def _plain(text: str) -> str:
    """Return a text of the same lines in which comments and strings have no characters of C's."""
    return _NOT_CODE.sub(
        lambda match: re.sub(r"[^\n]", "0" if match[0][0] in "\"'" else " ", match[0]), text
    )


def left_out(text: Sequence[str], config: Mapping[str, str]) -> dict[int, str]:
    """Return the lines that a configuration leaves out, and the symbols that decide it."""
    out: dict[int, str] = {}
    stack: list[tuple[bool | None, str]] = []
    for number, line in enumerate(text, 1):
        match = _CONDITION.match(line)
        if match is None:
            if why := next((why for on, why in stack if on is False), ""):
                out[number] = why
            continue
        word, condition = match.groups()
        if word == "endif":
            if stack:
                stack.pop()
        elif word in ("else", "elif"):
            if stack:
                on, why = stack.pop()
                stack.append((None if on is None or word == "elif" else not on, why))
        else:
            stack.append(_decide(word, condition, config))
    return out


def _decide(word: str, condition: str, config: Mapping[str, str]) -> tuple[bool | None, str]:
    """Return whether a condition holds, None if it cannot be told, and its symbols."""
    condition = condition.split("/*")[0].split("//")[0].strip()
    if word != "if":
        symbol = condition.removeprefix("CONFIG_")
        if symbol == condition:
            return None, ""
        return _holds("defined", symbol, config) == (word == "ifdef"), condition
    terms = list(_terms(condition, config))
    names = ", ".join(name for _, name in terms)
    rest = _TERM.sub("", condition).replace(" ", "")
    if terms and rest in ("", "&&" * (len(terms) - 1)):
        return all(on for on, _ in terms), names
    if terms and rest == "||" * (len(terms) - 1):
        return any(on for on, _ in terms), names
    return None, ""


def _terms(condition: str, config: Mapping[str, str]) -> Iterator[tuple[bool, str]]:
    for negated, word, symbol in _TERM.findall(condition):
        yield _holds(word, symbol, config) != bool(negated), f"CONFIG_{symbol}"


def _holds(word: str, symbol: str, config: Mapping[str, str]) -> bool:
    """Whether C sees a symbol as a condition asks (include/generated/autoconf.h, linux/kconfig.h).

    Of a symbol that is =m, CONFIG_X is not defined, and CONFIG_X_MODULE is. That a module may use
    another one (IS_REACHABLE) is taken for granted.
    """
    if word == "defined":
        if symbol not in config and symbol.endswith("_MODULE"):
            return config.get(symbol.removesuffix("_MODULE")) == "m"
        return config.get(symbol, "n") not in ("n", "m")
    values = {"IS_BUILTIN": ("y",), "IS_MODULE": ("m",)}.get(word, ("y", "m"))
    return config.get(symbol) in values
