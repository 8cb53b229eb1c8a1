"""Every argument of every function of a kernel: what is read at the entry is that argument.

gdb has the kernel's vmlinux and a target of registers alone, so that this takes a minute or two and
no machine. What the agent compiles is compared with what gdb's own frame of the function has, and
for functions that gcc did not specialise with where the psABI has it.

    python -m pytest --kgdb-kernel=distro:6.1 tests/stress/test_entry_names.py -s
"""

from __future__ import annotations

import collections
import json
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest
from register_stub import RegisterStub

from pytest_kgdb.debugger import agent_paths
from pytest_kgdb.errors import KgdbError
from pytest_kgdb.rsp import parse_agent_expression

_SCRIPT: Final = Path(__file__).with_name("entry_names_gdb.py")
_SECONDS: Final = 1800

# gdb's numbers of the registers of arguments (System V psABI, figure 3.4).
_ORDER: Final = (5, 4, 3, 2, 8, 9)
_STACK: Final = 7
_LEGACY: Final = ("ax", "bx", "cx", "dx", "si", "di", "bp", "sp")
_NAMES: Final = (*_LEGACY, *(f"r{number}" for number in range(8, 16)))


@pytest.fixture(scope="module")
def rows(kgdb_kernel: Any, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    directory = tmp_path_factory.mktemp("entries")
    symbols = subprocess.run(
        ["nm", kgdb_kernel.vmlinux], check=True, capture_output=True, text=True
    ).stdout.splitlines()
    addresses = {line.split()[0] for line in symbols if line.split()[-2] in "tTwW"}
    (directory / "in").write_text("".join(f"{address}\n" for address in sorted(addresses)))
    with RegisterStub(directory / "stub"):
        argv = ["gdb", "-nx", "-q", "-batch", "-iex", "set auto-load off", kgdb_kernel.vmlinux]
        commands = [
            f"target remote {directory / 'stub'}",
            f'set $entry_names_in = "{directory / "in"}"',
            f'set $entry_names_out = "{directory / "out"}"',
            f"python import sys; sys.path.insert(0, {str(Path(agent_paths()[0]).parent)!r})",
            f"source {_SCRIPT}",
        ]
        for command in commands:
            argv += ["-ex", command]
        subprocess.run(argv, check=True, timeout=_SECONDS, stdin=subprocess.DEVNULL)
    return [json.loads(line) for line in (directory / "out").read_text().splitlines()]


def registers() -> dict[str, int]:
    stub = [0xC000000000000000 | (number << 32) | 0xAA55 for number in range(16)]
    return dict(zip(_NAMES, stub, strict=True))


def no_memory(address: int, size: int) -> bytes:
    raise KgdbError(f"reads {size} bytes at {address:#x}")


class Memory:
    """Notes the one place that is read."""

    def __init__(self) -> None:
        self.address: int | None = None

    def __call__(self, address: int, size: int) -> bytes:
        self.address = address
        return bytes(size)


def place(record: dict[str, Any]) -> tuple[str, int]:
    """Return what a compiled argument reads: a number in registers, or an address."""
    memory = Memory()
    value = parse_agent_expression(record["code"]).run(registers(), memory)
    return ("number", value) if memory.address is None else ("address", memory.address)


_REASONS: Final = {
    "no place for it": "gcc removed it from a copy, or it has no place at the entry",
    "removed": "gcc removed it from a copy that it specialised",
    "twice": "the debug info of a specialised copy has it twice",
    "optimi": "it was optimised out",
    "entry_value": "it is computed from what it was at the entry",
    "a caller does not put it": "the debug info has only where it is later on",
    "this copy": "gdb does not find this copy of the function by its name",
    "iece": "part of it was optimised out",
    "parameter_ref": "gcc removed it, and the copy is not recognised",
}


def reason_of(error: str) -> str:
    return next((reason for mark, reason in _REASONS.items() if mark in error), error)


def psabi(row: dict[str, Any]) -> list[tuple[str, int]]:
    """Return where each argument is: ("register", its number) or ("stack", bytes from %rsp)."""
    free = list(_ORDER)
    if row["returns"] > 16:
        free.pop(0)  # where the caller wants it
    offset, places = 8, []
    for argument in row["arguments"]:
        words = -(-argument["size"] // 8)
        if 1 <= words <= 2 and words <= len(free):
            places.append(("register", free[0]))
            del free[:words]
        else:
            if argument["scalar"] and words == 2:
                offset += -offset % 16
            places.append(("stack", offset))
            offset += 8 * words
    return places


def test_no_argument_reads_as_something_else(rows: list[dict[str, Any]]) -> None:
    refused: collections.Counter[str] = collections.Counter()
    wrong, right, inlined = [], 0, 0
    for row in rows:
        inlined += bool(row["inlined"])
        specialised = "." in row["linkage"]
        expected = psabi(row)
        for argument, (where, number) in zip(row["arguments"], expected, strict=True):
            record, frame = argument["record"], argument["frame"]
            label = f"{row['linkage']}({argument['name']})"
            if "error" in record:
                refused[reason_of(record["error"])] += 1
                continue
            if not argument["scalar"] or argument["size"] > 8:
                right += 1
                continue
            kind, value = place(record)
            mask = (1 << 8 * argument["size"]) - 1
            if kind in frame and (frame[kind] ^ value) & (mask if kind == "number" else -1):
                wrong.append(f"{label}: {value:#x}, and gdb's frame has {frame}")
            elif kind not in frame:
                wrong.append(f"{label}: {kind} {value:#x}, and gdb's frame has {frame}")
            elif not specialised:
                have = registers()[_NAMES[number]] if where == "register" else 0
                if where == "register" and (kind != "number" or (have ^ value) & mask):
                    wrong.append(f"{label}: {kind} {value:#x}, and the psABI has {_NAMES[number]}")
                elif where == "stack" and (kind, value) != (
                    "address",
                    registers()["sp"] + number,
                ):
                    wrong.append(f"{label}: {kind} {value:#x}, and the psABI has {number}(%rsp)")
                else:
                    right += 1
            else:
                right += 1
    print(
        f"\n{len(rows)} functions, {inlined} of which begin with something inlined; "
        f"{right} arguments are read, {sum(refused.values())} are refused:"
    )
    for reason, count in refused.most_common():
        print(f"  {count:6d}  {reason}")
    assert not wrong, f"{len(wrong)} arguments:\n" + "\n".join(wrong[:50])
    assert right > 10_000
