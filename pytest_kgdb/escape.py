"""Guest text made harmless: for terminals and logs of CI, for GitHub's commands, for Markdown.

A guest is not trusted, and what it prints is shown in many places. Each format has its one function
here. Three more are others' work: XML is escaped by pytest, JSON by `json`, HTML by the template.
"""

from __future__ import annotations

import re
from typing import Final, Literal

__all__ = ["clean", "clean_name", "github_command", "markdown", "markdown_block"]

_ESCAPES: Final = re.compile(
    # ECMA-48: CSI with parameter and intermediate bytes; the strings OSC, DCS, SOS, PM and APC up
    # to their terminator (or BEL, as in xterm), or to the end of the line where it never came;
    # then two- and three-byte escapes such as the choice of a character set.
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]?"
    r"|(?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x9c\n]*(?:\x07|\x1b\\|\x9c)?"
    r"|\x1b[ -/]*[0-~]?"
)
# The colours that Pygments and pytest write (ECMA-48, SGR): none of these conceals text.
_COLOURS: Final = re.compile(r"(\x1b\[(?:0?[014]|[349][0-79])(?:;(?:0?[014]|[349][0-79]))*m)")
# Of the numbers of one, the last that is 0 or 00, with nothing but default colours behind it.
_RESET: Final = re.compile(r"[\[;]0?0(?:;[34]9)*m")
# Control characters, and the marks by which Unicode turns the direction of text (Trojan Source).
_CONTROLS: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\u2028\u2029\ufffe\uffff]"
)
_SURROGATES: Final = re.compile("[\ud800-\udfff]")
# What a CI system takes for a command in the log of a job.
_COMMANDS: Final = re.compile(
    # GitHub (actions/runner, ActionCommand.cs): `::name` at the start of a line, behind blanks;
    # and, as in Azure's agent, `##[name]` and `##vso[name]` wherever they are. TeamCity's likewise.
    r"^\s*:(?=:)"
    r"|\#(?=\#(?:vso|teamcity)?\[)"
    # GitLab's and Travis's sections.
    r"|section_(?=(?:start|end):)"
    r"|travis_(?=(?:fold|time):)",
    re.MULTILINE | re.IGNORECASE,
)
# CommonMark: any ASCII punctuation may be escaped. GitHub makes links of some even so.
_MARKDOWN: Final = str.maketrans(
    {char: f"\\{char}" for char in "\\`*_{}[]()+!|~$-"}
    | {char: f"&#{ord(char)};" for char in "&<>@#:"}
)


def clean(text: str, *, colours: bool = False) -> str:
    """Return a text without terminal escapes, control characters and commands for a CI system.

    A blank parts the first characters of a command: `: :error`, `# #[error]`.

    :param colours: keep the colours that pytest itself writes, each until the end of its line.
    """
    if colours:
        # Odd places are the colours.
        pieces = _COLOURS.split(text)
        pieces[::2] = map(_plain, pieces[::2])
        text = "\n".join(map(_closed, "".join(pieces).split("\n")))
    else:
        text = _plain(text)
    return _COMMANDS.sub(r"\g<0> ", text)


def clean_name(name: str) -> str:
    """Return the name of a guest's task, which may have any bytes, without ends of lines."""
    return " ".join(clean(name).split("\n")).strip() or "?"


def _closed(line: str) -> str:
    """Return a line whose colours end with it."""
    colours = _COLOURS.findall(line)
    open_ = bool(colours) and _RESET.search(colours[-1]) is None
    return line + "\x1b[0m" * open_


def _plain(text: str) -> str:
    text = _ESCAPES.sub("", text)
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    # A lone surrogate stands for a byte that was not UTF-8; it cannot be written to a terminal.
    return _SURROGATES.sub("\ufffd", _CONTROLS.sub("", text))


def github_command(
    name: Literal["error", "warning", "notice", "group", "endgroup"],
    message: str = "",
    **properties: str | int | None,
) -> str:
    """Return a workflow command of GitHub's, in a line (actions/toolkit, command.ts).

    :param properties: `file`, `line`, `title`; those that are None are left out.
    """
    given = ",".join(
        f"{key}={_github(str(value), ',:')}"
        for key, value in properties.items()
        if value is not None
    )
    return f"::{name}{' ' * bool(given)}{given}::{_github(message)}"


def _github(text: str, further: str = "") -> str:
    return "".join(
        f"%{ord(char):02X}" if char in "%\r\n" + further else char for char in _plain(text)
    )


def markdown(text: str) -> str:
    """Return a text that stands in a line or a table's cell of Markdown as it is."""
    return " ".join(clean(text).split()).translate(_MARKDOWN)


def markdown_block(text: str) -> str:
    """Return a block of Markdown that shows a text as it is, in lines of equal width."""
    text = clean(text)
    # CommonMark, "Fenced code blocks": closed by a fence at least as long, nothing else ends it.
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"
