"""One thing has one name: the words that the package has given up do not come back.

Whoever reads the code knows gdb, QEMU, the kernel and pytest, and needs no other language.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import pytest_kgdb

ROOT = Path(pytest_kgdb.__file__).parent

# Words that no name may have anywhere in it: `_planted_points`, `PlantedPoint`.
WITHIN = {
    "absorb": "detach",
    "asleep": "disabled, quiesced",
    "bury": "what is done",
    "buried": "what is done",
    "bytecode": "agent expression (gdb)",
    "grave": "what is done",
    "graves": "what is done",
    "guardian": "Reaper",
    "halt": "stop, as QEMU's monitor says",
    "halted": "stopped, paused",
    "keeper": "SnapshotStore, Reaper",
    "mend": "fix",
    "motion": "RunControl",
    "plant": "insert",
    "planted": "inserted",
    "planting": "BreakpointTable",
    "put back": "restore",
    "revive": "reattach",
    "settle": "what is done: record_stop, drain, sync, commit",
    "shelf": "StoreLayout",
    "shelves": "StoreLayout",
    "simulate": "emulate, as kprobes say",
    "simulated": "emulated",
    "stop words": "stop reply",
    "told": "request, reply, output",
    "undisturbed": "breakpoints_disabled",
    "upstream": "the backend's connection",
}

# Words that are no name by themselves; with another word they may say what is meant.
ALONE = {
    "answers": "packet handlers, stop reply",
    "beside": "QemuStub",
    "care": "GarbageCollector",
    "each": "what it is: entry, path, row",
    "follow": "stepping-thread filter",
    "followed": "stepping-thread filter",
    "found": "match, entry",
    "hidden": "internal (gdb)",
    "hold": "SharedLock",
    "held": "SharedLock",
    "home": "state directory",
    "kit": "headers package",
    "known": "what is known",
    "made": "what was made",
    "moment": "generation",
    "moments": "generation",
    "pass": "CONTINUE",
    "pause": "stop, as QEMU's monitor says",
    "points": "snapshots",
    "said": "output, reply",
    "slots": "worktree pool",
    "spot": "internal breakpoint",
    "standing": "stopped",
    "still": "quiesced",
    "tell": "STOP",
    "wanted": "TestRequest",
    "window": "BounceBuffer",
}

# What a class may not be called without saying whose it is.
CLASSES = {
    "Bound": "Attachment, Deadline",
    "Layout": "KgdbLayout, PrintkLayout, BuildTree",
    "Place": "FunctionEntry, LogCursor",
    "Power": "VcpuControl",
    "PowerSwitch": "VcpuControl",
    "Stub": "QemuStub",
}

PACKAGES = {"target": "debugger, trace, guest, modules, splats, handle", "state": "memory"}

# In messages, docstrings and comments.
TEXTS = {
    r"mend(?:s|ed|ing)?": "fix",
    r"plant(?:s|ed|ing)?": "insert",
    r"keepers?": "SnapshotStore, Reaper",
    r"shel(?:f|ves)": "StoreLayout",
    r"bur(?:y|ied)|graves?": "what is done",
    r"absorb(?:s|ed)?": "detach",
    r"reviv(?:e|es|ed)": "reattach",
    r"simulat(?:e|es|ed|ing|ion)": "emulate",
    r"bytecodes?": "agent expression",
    r"undisturbed|asleep": "disabled",
    r"guardian": "Reaper",
    r"halt(?:s|ed|ing)?": "stop, pause",
}

_TEXT = re.compile(rf"\b(?:{'|'.join(TEXTS)})\b", re.IGNORECASE)

# Names that users rely on, kept beside the new ones or for good; and words of others.
KEPT = {
    ("handle/_running.py", "moment"),  # an alias of `generation`
    ("modules/_modules.py", "known"),  # public: modules.known(PATH)
    ("plugin/_status.py", "PASS"),  # KCIDB's status
}
KEPT_TEXTS = (
    "halted with interrupts off",  # after the instruction hlt (Intel SDM, "HLT-Halt")
    "panicked and halted",  # what a kernel does after a panic (kernel/panic.c, panic)
    "any task, asleep",  # what a task is: TASK_INTERRUPTIBLE and the like
)


def files() -> list[Path]:
    return sorted(ROOT.rglob("*.py"))


def words(name: str) -> str:
    """The words of a name in lower case: `StoreLayout` and `_store_layout` are `store layout`."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name)
    return " ".join(word for word in spaced.lower().split("_") if word)


def names(tree: ast.AST) -> Iterator[tuple[int, str, bool]]:
    """The names that a file gives: line, name, whether it is a class's.

    Names that it only uses are others'.
    """
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.ClassDef):
            yield line, node.name, True
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield line, node.name, False
        elif isinstance(node, ast.arg):
            yield line, node.arg, False
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield line, node.id if isinstance(node, ast.Name) else node.attr, False
        elif isinstance(node, ast.ExceptHandler) and node.name:
            yield line, node.name, False
        elif isinstance(node, ast.alias) and node.asname:
            yield line, node.asname, False
        elif isinstance(node, ast.MatchAs | ast.MatchStar) and node.name:
            yield line, node.name, False


@cache
def given(path: Path) -> list[tuple[int, str, bool]]:
    return list(names(ast.parse(path.read_text())))


def better(name: str, is_class: bool = False) -> str | None:
    """What a name should be instead; None for one that may stay."""
    if name.startswith("__"):
        return None
    if is_class and name.lstrip("_") in CLASSES:
        return CLASSES[name.lstrip("_")]
    spaced = words(name)
    if spaced in ALONE:
        return ALONE[spaced]
    return next((new for old, new in WITHIN.items() if f" {old} " in f" {spaced} "), None)


def texts(source: str) -> Iterator[tuple[int, str]]:
    """The strings and comments of a file."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        kind = tokenize.tok_name[token.type]
        if kind in ("STRING", "COMMENT", "FSTRING_MIDDLE"):
            yield token.start[0], token.string


def better_text(text: str) -> str | None:
    """A word of a text that should be another, with that; None where there is none."""
    for kept in KEPT_TEXTS:
        text = text.replace(kept, "")
    match = _TEXT.search(text)
    if match is None:
        return None
    new = next(new for old, new in TEXTS.items() if re.fullmatch(old, match[0], re.IGNORECASE))
    return f"{match[0]!r}: {new}"


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_name_and_no_text_has_a_word_that_was_given_up(path: Path) -> None:
    source, place = path.read_text(), str(path.relative_to(ROOT))
    left = {
        f"{place}:{line}: {name} (better: {new})"
        for line, name, is_class in given(path)
        if (new := better(name, is_class)) and (place, name) not in KEPT
    }
    left |= {f"{place}:{line}: {new}" for line, text in texts(source) if (new := better_text(text))}
    for part in path.relative_to(ROOT).with_suffix("").parts:
        if new := PACKAGES.get(part) or better(part):
            left.add(f"{place}: {part} (better: {new})")
    assert not left


def test_what_is_kept_is_there() -> None:
    all_names = {
        (str(path.relative_to(ROOT)), name) for path in files() for _, name, _ in given(path)
    }
    assert all_names >= KEPT
    all_texts = "\n".join(path.read_text() for path in files())
    assert [kept for kept in KEPT_TEXTS if kept not in all_texts] == []


@pytest.mark.parametrize(
    "source",
    [
        "class _PlantedPoint: ...", "def put_back(self): ...", "def f(*, undisturbed=1): ...",
        "told = 1", "for each in []: ...", "self.keeper = 1", "import json as hidden",
        "class Layout: ...", "TELL = 1", "with f() as held: ...", "def f(moment): ...",
        "[each for each in []]", "a, (b, found) = c", "lambda known: 1",
        "match x:\n    case [*made]: ...",
    ],
)  # fmt: skip
def test_names_that_are_seen(source: str) -> None:
    assert [
        new for _, name, is_class in names(ast.parse(source)) if (new := better(name, is_class))
    ]


@pytest.mark.parametrize(
    "source",
    [
        "class KgdbLayout: ...", "Path.home()", "logging.handlers", "class A:\n    __slots__ = ()",
        "from x import found", "def is_known(): ...", "paused = 1", "layout = 1", "place = 1",
        "f(said=1)", "each_line = 1", "replant_tree: int = 1", "x.put(back)", "implant = 1",
    ],
)  # fmt: skip
def test_names_that_may_be(source: str) -> None:
    all_names = names(ast.parse(source))
    assert [name for _, name, is_class in all_names if better(name, is_class)] == []


def test_texts() -> None:
    source = '"""Plants it."""\n# a shelf\nx = "mend " + str(y)\n'
    assert [better_text(text) for _, text in texts(source)] == [
        "'Plants': insert",
        "'shelf': StoreLayout",
        "'mend': fix",
    ]
    for text in ("explanation", "implanted", "the kernel panicked and halted", "amended"):
        assert better_text(text) is None
