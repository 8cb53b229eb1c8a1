"""A module's parameters, as words that the kernel reads as they are meant."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ..errors import ConfigError
from ..kernel import ModuleFile

__all__ = ["arguments"]

# kernel/module/main.c, unknown_module_param_cb; async_probe since 4.2.
_OF_EVERY_MODULE: Final = ("async_probe", "dyndbg")
# lib/ctype.c, _ctype: what isspace() takes for one, a byte of some UTF-8 characters among them.
_BLANKS: Final = b" \t\n\v\f\r\xa0"
_QUOTE: Final = ord('"')


def arguments(info: ModuleFile | None, name: str, params: Mapping[str, object]) -> list[str]:
    """Return the words that set a module's parameters.

    The kernel ignores one that the module does not have, but for a line in its log.

    :raises ConfigError: there is no such parameter, or the kernel would read another value.
    """
    words = []
    for key, value in params.items():
        if info is not None and key not in (*info.parameters, *_OF_EVERY_MODULE):
            raise ConfigError(
                f"module {name} has no parameter '{key}'",
                hint=f"it has {', '.join(sorted(info.parameters)) or 'none'}",
            )
        words.append(_word(key, value))
    return words


def _word(key: str, value: object) -> str:
    """:raises ConfigError: there is no word by which the kernel sets that value."""
    text = _text(key, value)
    for word in (f"{key}={text}", f'{key}="{text}"'):
        if _as_read(_bytes(word)) == (_bytes(key), _bytes(text)):
            return word
    raise ConfigError(
        f"parameter {key} cannot be {text!r}: the kernel would read another value, for it has no "
        "way to escape a quotation mark (lib/cmdline.c, next_arg)"
    )


def _text(key: str, value: object) -> str:
    """Return a value as the kernel's functions for its types read it (kernel/params.c)."""
    if isinstance(value, bool):
        return "1" if value else "0"  # what both a bool and an int take
    if isinstance(value, list | tuple):
        items = [_text(key, item) for item in value]
        for item in items:
            if "," in item:
                raise ConfigError(
                    f"parameter {key} cannot have {item!r} as one element: the kernel takes a "
                    "comma for the end of an element (kernel/params.c, param_array)"
                )
        return ",".join(items)
    return str(value)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _as_read(word: bytes) -> tuple[bytes, bytes] | None:
    """Return name and value as the kernel reads them (lib/cmdline.c, next_arg).

    :param word: begins with a name and `=`.
    :return: None where it takes more or less than the word.
    """
    in_quotes = False
    for byte in word:
        if byte == 0 or (byte in _BLANKS and not in_quotes):
            return None
        if byte == _QUOTE:
            in_quotes = not in_quotes
    if in_quotes:
        return None  # it reads the next word, too
    key, _, value = word.partition(b"=")
    if value.startswith(b'"'):
        value = value[1:].removesuffix(b'"')
    return key, value
