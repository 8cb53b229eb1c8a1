"""What is to hold of readers, whatever they are given: for test_fuzz.py and guided_fuzz.py."""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Final

from pytest_kgdb.deadline import WaitLimit
from pytest_kgdb.debugger._mi import Gdb
from pytest_kgdb.errors import BuildError, ConfigError
from pytest_kgdb.escape import clean, github_command, markdown, markdown_block
from pytest_kgdb.kernel._patch import Patch
from pytest_kgdb.klog import (
    console_lines,
    console_panic,
    find_splats,
    parse_ktap,
    without_kernel_records,
)
from pytest_kgdb.rsp._packets import Decoder
from pytest_kgdb.settings import make_settings
from pytest_kgdb.settings._values import PARSERS

CORPUS: Final = Path(__file__).parent / "corpus"
"""A directory for each target, of inputs that reach much of a reader, or once broke it."""


class _Said:
    """A transport from which comes what was said, and then the end."""

    pid = 1

    def __init__(self, chunks: list[bytes]) -> None:
        self._chunks = iter(chunks)

    def send(self, line: str) -> None:
        raise OSError("it is gone")

    def read(self) -> bytes:
        return next(self._chunks, b"")

    def fate(self) -> str:
        return "exit status 0"

    def last_words(self) -> str:
        return ""

    def close(self) -> None:
        pass


def gdb(data: bytes, size: int = 64) -> None:
    """What gdb writes, in chunks of a size."""
    chunks = [data[at : at + size] for at in range(0, len(data), size)]
    with tempfile.TemporaryDirectory() as directory:
        transcript = Path(directory, "transcript")
        gdb = Gdb(_Said(chunks), transcript=transcript, waits=WaitLimit(1))
        # Whatever it was, the reader has come to its end.
        gdb._reader.join(20)
        assert not gdb._reader.is_alive()
        assert not gdb.alive
        gdb.close()


def packets(data: bytes) -> None:
    """What comes over the serial line, at once and byte by byte."""
    decoder = Decoder()
    each = [item for at in range(len(data)) for item in decoder.feed(data[at : at + 1])]
    assert each == list(Decoder().feed(data))


def kernel(data: bytes) -> None:
    """What the kernel prints."""
    for splat in find_splats(console_lines(data)):
        assert splat.text
    parse_ktap(data.decode(errors="replace").splitlines())
    console_panic(data, whole=True)
    assert len(without_kernel_records(data)) <= len(data)


def options(data: bytes) -> None:
    """A line of an ini file: the name of an option, and its value."""
    name, _, value = data.decode(errors="replace").partition("=")
    if name.strip() in PARSERS:
        option(name.strip(), value.strip())


def option(name: str, value: object) -> None:
    """An option's value, as its own parser takes it, and as settings do."""
    with contextlib.suppress(ValueError):
        PARSERS[name](value, Path("/"))
    with contextlib.suppress(ConfigError):
        make_settings(**{name: value})


def patches(data: bytes) -> None:
    """A patch, or a mail with one."""
    patch = Patch("p", data)
    try:
        names = patch.touched()
        patch.check_kind()
    except (BuildError, ConfigError):
        return
    for name in names:
        assert not PurePosixPath(name).is_absolute()
        assert not {"..", ".git"} & set(PurePosixPath(name).parts)
    # Nothing but diffs is left, so nothing more is left out.
    assert Patch("p", patch.diffs).diffs == patch.diffs


def guest(data: bytes) -> None:
    """What is shown of the guest's text."""
    text = data.decode(errors="surrogateescape")
    shown = clean(text)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\ud800-\udfff]", shown)
    assert not re.search(r"^\s*::|##(vso|teamcity)?\[|section_(start|end):", shown, re.M | re.I)
    assert clean(shown) == shown
    coloured = clean(text, colours=True)
    assert not re.search(r"\x1b(?!\[[0-9;]*m)", coloured)
    assert not re.search(r"^\s*::|##(vso|teamcity)?\[", clean(coloured), re.M | re.I)
    assert "\n" not in github_command("error", text, title=text, file=text)
    assert not re.search(r"[<>\n]|(?<!\\)[`|]", markdown(text))
    first, *inside, last = markdown_block(text).split("\n")
    assert first == f"{last}text"
    assert last not in "\n".join(inside)


TARGETS: Final[dict[str, Callable[[bytes], None]]] = {
    each.__name__: each for each in (gdb, packets, kernel, options, patches, guest)
}
