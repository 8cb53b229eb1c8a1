"""gdb/MI's records: what gdb 13 has written, anything that MI can say, and what is not MI."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_kgdb.debugger._mi_parse import Record, parse


def record(type_: str, message: str | None, payload: Any, token: int | None = None) -> Record:
    return {"type": type_, "message": message, "payload": payload, "token": token}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("12^done", record("result", "done", None, 12)),
        ("^running", record("result", "running", None)),
        (
            '7^error,msg="No symbol \\"x\\" in current context."',
            record("result", "error", {"msg": 'No symbol "x" in current context.'}, 7),
        ),
        (
            '*stopped,reason="breakpoint-hit",bkptno="1",frame={addr="0xffffffff8111e0a4",'
            'func="vfs_read",args=[]},thread-id="1",stopped-threads="all"',
            record(
                "notify",
                "stopped",
                {
                    "reason": "breakpoint-hit",
                    "bkptno": "1",
                    "frame": {"addr": "0xffffffff8111e0a4", "func": "vfs_read", "args": []},
                    "thread-id": "1",
                    "stopped-threads": "all",
                },
            ),
        ),
        ('=thread-created,id="1"', record("notify", "thread-created", {"id": "1"})),
        (
            '3^done,stack=[frame={level="0"},frame={level="1"}]',
            record("result", "done", {"stack": [{"level": "0"}, {"level": "1"}]}, 3),
        ),
        (
            '^done,thread-ids={thread-id="2",thread-id="1",thread-id="3"},names=["a",[],{}]',
            record(
                "result",
                "done",
                {"thread-ids": {"thread-id": ["2", "1", "3"]}, "names": ["a", [], {}]},
            ),
        ),
        ('~"a\\tb\\n"', record("console", None, "a\tb\n")),
        ('&"warning: \\033[1m\\\\"', record("log", None, "warning: \033[1m\\")),
        ('@"\\303\\274\\v"', record("target", None, "ü\v")),
        ('~"\\303 is half"', record("console", None, "\\303 is half")),
        ('~""', record("console", None, "")),
        (
            '^done,bkpt={number="1",script={"silent","printf \\"%d\\", x"},times="0"}',
            record(
                "result",
                "done",
                {"bkpt": {"number": "1", "script": ["silent", 'printf "%d", x'], "times": "0"}},
            ),
        ),
    ],
)
def test_records(line: str, expected: Record) -> None:
    assert parse(line) == expected


@pytest.mark.parametrize(
    "line",
    [
        *(
            "",
            "hello",
            "(gdb)",
            "12",
            "^",
            "*",
            '~"',
            '~"a',
            '~"a"b',
            '~"\\q"',
            "~a",
            "7^done,",
            "^done,x",
        ),
        *('^done,x="1', '^done,x={y="1"', '^done,x=[y="1"', '^done,x="1"}', '^done,x={"1"}'),
        *(
            '^done,x="1"hello',
            '^done,x="1",,y="2"',
            '^done,x=[,"1"]',
            '^done,x={y="1",}',
            '^done "1"',
        ),
        *('^done,="1"', "^done,x=1", '=a,b="\\q"', '*stopped,reason="a" ,b="c"'),
        "^done,x=" + 100_000 * "[",
    ],
    ids=lambda line: line[:20],
)
def test_what_is_not_mi_is_text(line: str) -> None:
    assert parse(line) == record("output", None, line)


NAMES = st.from_regex(r"[a-z][a-z0-9_-]{0,8}", fullmatch=True)
VALUES = st.recursive(
    st.text(st.characters(blacklist_categories=["Cs"]), max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=20,
)
CHARACTERS = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r", "\033": "\\033"}


def written(value: Any) -> str:
    """A value as gdb writes it: other than ASCII as octal numbers."""
    if isinstance(value, str):
        shown = (
            CHARACTERS.get(char)
            or (char if " " <= char <= "~" else "".join(f"\\{byte:03o}" for byte in char.encode()))
            for char in value
        )
        return f'"{"".join(shown)}"'
    if isinstance(value, list):
        return f"[{','.join(written(one) for one in value)}]"
    return f"{{{results(value)}}}"


def results(values: dict[str, Any]) -> str:
    return ",".join(f"{name}={written(value)}" for name, value in values.items())


@given(st.dictionaries(NAMES, VALUES, min_size=1, max_size=5), st.integers(0, 99999))
def test_what_gdb_writes_is_what_is_read(values: dict[str, Any], token: int) -> None:
    line = f"{token}^done,{results(values)}"
    assert parse(line) == record("result", "done", values, token)
    assert parse(line[:-1])["type"] == "output", "an end that is cut off"


@given(st.text())
def test_a_stream(text: str) -> None:
    if not any("\ud800" <= char <= "\udfff" for char in text):
        assert parse(f"~{written(text)}") == record("console", None, text)


@given(st.text(alphabet='=^*~&@,"{}[]\\ab1 \n') | st.text())
def test_anything(line: str) -> None:
    read = parse(line)
    assert set(read) == {"type", "message", "payload", "token"}
    if read["type"] == "output":
        assert read["payload"] == line
