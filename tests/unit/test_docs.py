"""The documentation is held to the code: options, handle, modules, links."""

from __future__ import annotations

import argparse
import ast
import importlib
import inspect
import re
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
from test_layers import LEVEL, TABLE

import pytest_kgdb.errors
from pytest_kgdb import (
    Breakpoint,
    Call,
    Cost,
    FailEach,
    Frame,
    Kgdb,
    Module,
    Modules,
    Outcome,
    Override,
    PatchExit,
    PatchFailures,
    Reason,
    Spy,
    Stop,
    Task,
    TaskAtCall,
    Value,
    Watchpoint,
)
from pytest_kgdb.cli._main import _parser
from pytest_kgdb.settings import MARKER_KEYS, OPTIONS, Settings
from pytest_kgdb.settings._options import field, ini_key
from pytest_kgdb.settings._values import PARSERS
from tests import doors

ROOT = Path(__file__).parents[2]
PAGES = (
    "README.md",
    "CHANGELOG.md",
    "SECURITY.md",
    "CONTRIBUTING.md",
    *(f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")),
)
NAMES = {name for name, *_ in OPTIONS}
_CODE = re.compile(r"^```.*?^```$|^(?: {4,}|\t).*?$", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


@cache
def text(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def rows(page: str) -> list[list[str]]:
    """The cells of all tables' rows."""
    return [
        [cell.strip() for cell in line.split("|")]
        for line in re.findall(r"^\|(.+)\|$", text(page), re.MULTILINE)
        if not set(line) <= set("|-")
    ]


# Options


def option_rows() -> dict[str, list[str]]:
    options: dict[str, list[str]] = {}
    for cells in rows("docs/options.md"):
        if match := re.match(r"`--kgdb-([a-z-]+)", cells[0]):
            assert match[1] not in options, f"--kgdb-{match[1]} has two rows"
            options[match[1]] = cells
    return options


def test_options_md_has_each_option_and_no_other() -> None:
    assert set(option_rows()) == NAMES


@pytest.mark.parametrize(("name", "kind", "metavar"), [option[:3] for option in OPTIONS])
def test_an_options_row_is_true(name: str, kind: str, metavar: str) -> None:
    first, key, default, meaning = option_rows()[name]
    shown = f"`--kgdb-{name}={metavar}`" if metavar else f"`--kgdb-{name}`"
    repeatable = kind in ("list", "values", "numbers")
    assert first == (f"{shown} (repeatable)" if repeatable else shown)
    assert key == f"`{ini_key(name)}`"
    assert meaning
    value = Settings.__dataclass_fields__[field(name)].default
    if quoted := re.fullmatch(r"`([^`]+)`", default):
        assert PARSERS[field(name)](quoted[1], ROOT) == value
    elif default:
        assert name in ("cache-dir", "jobs"), "the default can be written down"
    else:
        assert value in ((), "", False, None)


@pytest.mark.parametrize("page", PAGES)
def test_pages_name_only_options_that_exist(page: str) -> None:
    named = re.findall(r"--kgdb-([a-z]+(?:-[a-z]+)*)", text(page))
    assert set(named) <= NAMES
    keys = re.findall(r"^kgdb_[a-z_]+(?= *=)", text(page), re.MULTILINE)
    assert set(keys) <= {ini_key(name) for name in NAMES}


def test_the_markers_arguments() -> None:
    named = {
        match[1]
        for cells in rows("docs/writing-tests.md")
        if (match := re.fullmatch(r"`([a-z_]+)=[^`]+`", cells[0]))
    }
    assert named == set(MARKER_KEYS)


def commands() -> dict[str, argparse.ArgumentParser]:
    """The parsers of all commands, by what a user types."""
    found: dict[str, argparse.ArgumentParser] = {}

    def collect(parser: argparse.ArgumentParser, before: str) -> None:
        below = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
        if not below:
            found[before] = parser
        for action in below:
            for name, choice in action.choices.items():
                collect(choice, f"{before} {name}")

    collect(_parser(), "pytest-kgdb")
    return found


def options_of(command: str) -> set[str]:
    """The long options that a command takes, without `--help`."""
    return {
        name
        for action in commands()[command]._actions
        for name in action.option_strings
        if name.startswith("--") and name != "--help"
    }


def test_the_commands() -> None:
    named = {
        cells[0].strip("`")
        for cells in rows("docs/options.md")
        if cells[0].startswith("`pytest-kgdb")
    }
    assert named == set(commands())


def below(title: str) -> set[str]:
    """The options in the table below a title of docs/options.md."""
    section = text("docs/options.md").partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    return set(re.findall(r"^\| `(--kgdb-[a-z-]+)", section, re.MULTILINE))


@pytest.mark.parametrize(
    ("command", "titles"),
    [
        ("build", ("The kernel", "What boots", "The cache")),
        ("attach", ("The kernel", "What boots", "The machine", "A board", "The cache")),
    ],
)
def test_a_command_takes_the_options_that_the_page_says(
    command: str, titles: tuple[str, ...]
) -> None:
    named = set().union(*map(below, titles))
    assert len(named) > 15
    assert named - options_of(f"pytest-kgdb {command}") == set()


@pytest.mark.parametrize("command", commands())
def test_a_commands_own_options_are_described(command: str) -> None:
    page = text("docs/options.md") + text("docs/gate.md")
    own = {name for name in options_of(command) if not name.startswith("--kgdb-")}
    assert {name for name in own if not re.search(rf"{name}(?![\w-])", page)} == set()


# The handle


def public(kind: type) -> set[str]:
    """Names that users may use: neither private nor said to be for the session or another class."""
    names = set()
    for name, member in inspect.getmembers(kind):
        document = inspect.getdoc(member) or ""
        if not name.startswith("_") and "(for " not in document.partition("\n\n")[0]:
            names.add(name)
    ours = [base for base in kind.__mro__ if base.__module__.startswith("pytest_kgdb.")]
    source = "".join(map(inspect.getsource, ours))
    attributes = re.findall(r"^\s+self\.([a-z]\w*)(?::[^=]+)? = ", source, re.M)
    return names | set(attributes)


# Under another name in the docs: a fixture has it.
FIXTURE_HAS_IT: dict[type, set[str]] = {Kgdb: {"kernel"}}


@pytest.mark.parametrize("kind", [Kgdb, Stop, Frame, Value, Task, Breakpoint, Watchpoint])
def test_writing_tests_md_has_the_whole_handle(kind: type) -> None:
    words = set(re.findall(r"`[^`\n]+`", text("docs/writing-tests.md")))
    named = {name for word in words for name in re.findall(r"[A-Za-z_]\w*", word)}
    assert public(kind) - FIXTURE_HAS_IT.get(kind, set()) <= named


@pytest.mark.parametrize(
    "kind",
    [Spy, Call, Cost, TaskAtCall, Override, FailEach, Outcome, PatchFailures, PatchExit],
)
def test_instruments_md_has_the_whole_instruments(kind: type) -> None:
    words = set(re.findall(r"`[^`\n]+`", text("docs/instruments.md")))
    named = {name for word in words for name in re.findall(r"[A-Za-z_]\w*", word)}
    inherited = set(dir(Sequence)) if issubclass(kind, Sequence) else set()
    assert public(kind) - inherited <= named


_KINDS = (Stop, Frame, Value, Breakpoint, Module, Watchpoint, Modules)
DOORS: dict[str, type] = {"": Kgdb, **{kind.__name__: kind for kind in _KINDS}}


def test_doors_md_is_the_table_that_is_tested() -> None:
    page = [cells for cells in rows("docs/doors.md") if len(cells) == 1 + len(doors.DOORS)]
    assert page[1 : 1 + len(doors.ROWS)] == [row.cells() for row in doors.ROWS]


@pytest.mark.parametrize("kind", DOORS)
def test_doors_md_has_the_whole_handle(kind: str) -> None:
    named: dict[str, set[str]] = {}
    for row in doors.ROWS:
        of = ""
        for owner, name in re.findall(r"`([A-Z]\w*)?\.?([a-z]\w*)(?:\([^`]*)?`", row.names):
            of = owner or of
            named.setdefault(of, set()).add(name)
    inherited = public(Breakpoint) if kind == "Watchpoint" else set()
    assert public(DOORS[kind]) - FIXTURE_HAS_IT.get(DOORS[kind], set()) - inherited == named[kind]


def test_reasons_and_errors_are_described() -> None:
    page = text("docs/writing-tests.md")
    for reason in Reason.__args__:  # type: ignore[attr-defined]
        assert f'`"{reason}"`' in page
    for name in pytest_kgdb.errors.__all__:
        assert f"`{name}`" in page


def test_readme_names_only_what_the_handle_has() -> None:
    named = {
        name
        for cells in rows("README.md")
        if cells[0] in ("run control", "breakpoints", "data", "instruments", "the guest")
        for name in re.findall(r"`([a-z]+)`", cells[1])
    }
    assert named
    assert named <= public(Kgdb)


@pytest.mark.parametrize("page", PAGES)
def test_pages_name_only_what_the_handle_has(page: str) -> None:
    # Not `arch/x86/kernel/kgdb.c`, `why-kgdb.md`, `kgdb.sock`.
    named = re.findall(r"(?<![\w/-])kgdb\.([a-z_]{2,})(?!\w)", text(page))
    assert set(named) - {"sock"} <= public(Kgdb)


# The rest


def test_the_table_of_packages() -> None:
    page = [cells[0].strip("`") for cells in rows("docs/how-it-works.md") if len(cells) == 2]
    packages = [name for names in TABLE for name in names]
    start = page.index("errors")
    assert page[start : start + len(packages)] == packages


def test_the_owners_of_facts_are_there() -> None:
    owners = re.findall(r"\| `([a-z]+)\.([A-Z]\w+)` \|", text("docs/how-it-works.md"))
    assert len(owners) > 5
    for package, name in owners:
        module = importlib.import_module(f"pytest_kgdb.{package}")
        names = re.findall(r"^class (\w+)", "".join(map(Path.read_text, sources(module))), re.M)
        assert name in names, f"{package} has no {name}"


def definitions(source: str) -> set[str]:
    """The names that a file defines: of functions, classes, their members, and constants."""
    names: set[str] = set()

    def collect(body: list[ast.stmt], before: str) -> None:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                names.add(before + node.name)
                if isinstance(node, ast.ClassDef):
                    collect(node.body, f"{before}{node.name}.")
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                names.update(before + one.id for one in targets if isinstance(one, ast.Name))

    collect(ast.parse(source).body, "")
    return names


WHERE = [
    (cells[0], path[1], name)
    for cells in rows("docs/architecture.md")
    if len(cells) == 3 and (path := re.fullmatch(r"`([\w/]+\.py)`", cells[1]))
    for name in re.findall(r"`([\w.]+)`", cells[2])
]


@pytest.mark.parametrize(("question", "path", "name"), WHERE)
def test_where_it_is(question: str, path: str, name: str) -> None:
    assert question.endswith("?") or ";" in question
    assert name in definitions((ROOT / "pytest_kgdb" / path).read_text())


def test_the_steps_of_a_test_are_there() -> None:
    steps = [cells[1] for cells in rows("docs/architecture.md") if re.match(r"\d+\. ", cells[0])]
    assert len(steps) == 12
    named = [name.split(".") for step in steps for name in re.findall(r"`([\w.]+)`", step)]
    assert len(named) > 15
    for package, *names in named:
        module = importlib.import_module(f"pytest_kgdb.{package}") if names else None
        if module is None:
            assert package in (*LEVEL, "kgdb"), package
            continue
        files = sources(module)
        if names[0].startswith("_"):
            files = [path for path in files if path.stem == names[0]]
            assert files, names
            names = names[1:]
        assert not names or any(".".join(names) in definitions(path.read_text()) for path in files)


def test_the_threads_are_there() -> None:
    """Each thread that the package starts, by its file, and no other."""
    starts = {
        path.relative_to(ROOT / "pytest_kgdb")
        for path in (ROOT / "pytest_kgdb").rglob("*.py")
        if "threading.Thread(" in path.read_text()
    }
    section = text("docs/architecture.md").partition("## Threads and locks")[2]
    table = section.partition("\n## ")[0]
    cells = [Path(cell) for cell in re.findall(r"\| `([\w/]+(?:\.py|/))` \|", table)]
    assert {start for start in starts if not any(start.is_relative_to(c) for c in cells)} == set()
    assert all(any(path.is_relative_to(cell) for path in starts) for cell in cells)


def test_the_diagram_is_the_one_that_is_drawn() -> None:
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        diagram = importlib.import_module("diagram")
    finally:
        sys.path.pop(0)
    assert text("docs/images/architecture.svg") == diagram.draw(), "make diagram"
    assert {box.title for box in diagram.PACKAGES} <= set(LEVEL)
    assert "docs/images/architecture.svg" in text("README.md")


def sources(module: ModuleType) -> list[Path]:
    path = Path(str(module.__file__))
    return list(path.parent.glob("*.py")) if path.name == "__init__.py" else [path]


def test_every_public_name_can_be_imported() -> None:
    for name in pytest_kgdb.__all__:
        assert getattr(pytest_kgdb, name) is not None


def test_readme_has_the_makefiles_packages() -> None:
    makefile = text("Makefile").replace("\\\n", " ")
    wanted = re.search(r"^PACKAGES := (.+)$", makefile, re.M)
    packages = re.search(r"^ +apt install (.+)$", text("README.md").replace("\\\n", " "), re.M)
    assert wanted is not None
    assert packages is not None
    assert sorted(packages[1].split()) == sorted(wanted[1].split())


def anchors(page: str) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    without_code = re.sub(r"^```.*?^```$", "", text(page), flags=re.DOTALL | re.MULTILINE)
    titles = re.findall(r"^#+ (.+)$", without_code, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for link in _LINK.findall(_CODE.sub("", text(page))):
        if re.match(r"https?:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(str(target.resolve().relative_to(ROOT))), link


def test_readme_leads_to_every_page() -> None:
    linked = set(_LINK.findall(text("README.md")))
    assert {page for page in PAGES if page != "README.md"} <= linked


def test_the_tests_that_security_md_names_are_there() -> None:
    defended = re.findall(r"^\| .+ \| .+ \| (`.+`|tests) \|$", text("SECURITY.md"), re.MULTILINE)
    assert len(defended) > 3
    for cell in defended[1:]:
        for name in cell.split(", "):
            match = re.fullmatch(r"`((?:\w+/)+test_\w+\.py)::(test_\w+)`", name)
            assert match is not None, name
            source = (ROOT / "tests" / match[1]).read_text(encoding="utf-8")
            assert re.search(rf"^ *def {match[2]}\(", source, re.MULTILINE), name


def test_the_site_has_every_page_and_every_public_name() -> None:
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        pages = importlib.import_module("pages")
    finally:
        sys.path.pop(0)
    listed = re.findall(r"^ +- (\S+\.md)$", text("mkdocs.yml"), re.M)
    names = [Path(page).name for page in PAGES if page != "README.md"]
    reference = [f"api/{name}.md" for name in (*pages.REFERENCE, "errors")]
    assert sorted(listed) == sorted([*names, "index.md", *reference])
    placed = [name for _, members in pages.REFERENCE.values() for name in members]
    assert len(placed) == len(set(placed))
    others = set(pytest_kgdb.__all__) - set(placed) - {"__version__", "GdbError"}
    assert others <= set(pytest_kgdb.errors.__all__) | {"KgdbError"}
    for name in placed:
        module = pages.where(name).rpartition(".")[0]
        assert name in definitions(Path(str(importlib.import_module(module).__file__)).read_text())
