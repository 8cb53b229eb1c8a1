"""Whether KVM is used: only where it was proved to work, once for each host and QEMU of it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_kgdb.errors import ConfigError
from pytest_kgdb.session import Accelerator, _accel

QEMU = "qemu-system-x86_64"
SPEC: Any = SimpleNamespace(arch=SimpleNamespace(qemu=QEMU))


class Memo:
    """The cache's notes."""

    def __init__(self) -> None:
        self.notes: dict[tuple[str, str], str] = {}

    def memo(self, kind: str, key: str, work: Callable[[], str]) -> str:
        if (kind, key) not in self.notes:
            self.notes[kind, key] = work()
        return self.notes[kind, key]

    def remembered(self, kind: str, key: str) -> str | None:
        return self.notes.get((kind, key))


@pytest.fixture
def cache() -> Any:
    return Memo()


@pytest.fixture
def qemu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    program = tmp_path / QEMU
    program.touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    return program


@pytest.fixture
def device(tmp_path: Path, qemu: Path) -> Path:
    path = tmp_path / "kvm"
    path.touch()
    return path


@pytest.fixture
def tries(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Each try of a guest that needs no kernel, which goes well."""
    made: list[object] = []

    def try_kvm(program: str) -> str:
        made.append(threading.current_thread().name)
        return ""

    monkeypatch.setattr(_accel, "try_kvm", try_kvm)
    return made


@pytest.fixture
def proofs(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Each try of a kernel, which goes well."""
    made: list[object] = []

    def prove(spec: object) -> str:
        made.append(spec)
        return "works"

    monkeypatch.setattr(_accel, "_prove", prove)
    return made


def test_tcg_is_asked_for(cache: Any, device: Path, tries: list[object]) -> None:
    accelerator = Accelerator("tcg", cache, device=device)
    accelerator.begin(QEMU)
    assert accelerator.choose(SPEC) == ("tcg", "asked for")
    assert not tries


def test_a_proof_is_made_once(
    cache: Any, device: Path, qemu: Path, tries: list[object], proofs: list[object]
) -> None:
    for choice in ("auto", "kvm", "auto"):
        accelerator, why = Accelerator(choice, cache, device=device).choose(SPEC)
        assert (accelerator, why) == ("kvm", "proved by running this kernel on it")
    assert (len(tries), len(proofs)) == (1, 1)
    qemu.write_text("another")
    Accelerator("auto", cache, device=device).choose(SPEC)
    assert (len(tries), len(proofs)) == (2, 2), "another QEMU is another proof"


def test_a_proof_is_made_anew_the_next_day(
    cache: Any, device: Path, monkeypatch: pytest.MonkeyPatch, proofs: list[object]
) -> None:
    results = iter(["64 million instructions take more than 10 s", ""])
    monkeypatch.setattr(_accel, "try_kvm", lambda _: next(results))
    for accelerator in ("tcg", "tcg"):
        assert Accelerator("auto", cache, device=device).choose(SPEC)[0] == accelerator
    tomorrow = Accelerator("auto", cache, device=device)
    tomorrow._day = "9999-12-31"
    assert tomorrow.choose(SPEC)[0] == "kvm"


def test_the_try_is_begun_before_it_is_asked_for(
    cache: Any, device: Path, tries: list[object], proofs: list[object]
) -> None:
    accelerator = Accelerator("auto", cache, device=device)
    accelerator.begin(QEMU)
    accelerator.begin(QEMU)
    assert accelerator.choose(SPEC)[0] == "kvm"
    assert tries == ["kgdb-kvm"]
    later = Accelerator("auto", cache, device=device)
    later.begin(QEMU)
    assert later._begun is None, "nothing is tried whose result is known"


def test_a_host_without_qemu_is_told_so_when_a_guest_is_to_run(
    cache: Any, device: Path, qemu: Path
) -> None:
    qemu.unlink()
    accelerator = Accelerator("auto", cache, device=device)
    accelerator.begin(QEMU)
    with pytest.raises(ConfigError, match=f"{QEMU} is needed, and is not installed"):
        accelerator.choose(SPEC)


@pytest.mark.parametrize("problem", ["missing", "forbidden", "hangs", "broken"])
def test_kvm_that_does_not_work(
    cache: Any,
    device: Path,
    monkeypatch: pytest.MonkeyPatch,
    tries: list[object],
    proofs: list[object],
    problem: str,
) -> None:
    if problem == "missing":
        device.unlink()
    if problem == "forbidden":
        monkeypatch.setattr("os.access", lambda path, mode: False)
    if problem == "hangs":
        monkeypatch.setattr(_accel, "try_kvm", lambda program: "it takes too long")
    if problem == "broken":
        monkeypatch.setattr(_accel, "_prove", lambda spec: "qemu: failed to set MSR 0x10a")
    words = {
        "missing": f"there is no {device}",
        "forbidden": "may not be opened by this user",
        "hangs": "no guest runs on it (it takes too long)",
        "broken": "failed to set MSR 0x10a",
    }[problem]
    accelerator, why = Accelerator("auto", cache, device=device).choose(SPEC)
    assert accelerator == "tcg"
    assert words in why
    assert not proofs, "no kernel is tried on what hangs"
    with pytest.raises(ConfigError) as caught:
        Accelerator("kvm", cache, device=device).choose(SPEC)
    assert words in caught.value.message
