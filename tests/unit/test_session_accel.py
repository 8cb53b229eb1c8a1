"""Whether KVM is used: only where it was proved to work, once for each host and kernel of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_kgdb.errors import ConfigError
from pytest_kgdb.session import _accel

SPEC: Any = SimpleNamespace(arch=SimpleNamespace(qemu="qemu-system-x86_64"))


class Memo:
    """The cache's notes."""

    def __init__(self) -> None:
        self.notes: dict[tuple[str, str], str] = {}

    def memo(self, kind: str, key: str, work: Callable[[], str]) -> str:
        if (kind, key) not in self.notes:
            self.notes[kind, key] = work()
        return self.notes[kind, key]


@pytest.fixture
def cache() -> Any:
    return Memo()


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "kvm"
    path.touch()
    monkeypatch.setattr(_accel, "_DEVICE", path)
    monkeypatch.setattr(_accel, "qemu_version", lambda program: "7.2.22")
    return path


def test_tcg_is_asked_for(cache: Any) -> None:
    assert _accel.choose("tcg", SPEC, cache) == ("tcg", "asked for")


def test_a_proof_is_made_once(cache: Any, device: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    proofs: list[object] = []

    def prove(spec: object) -> str:
        proofs.append(spec)
        return "works"

    monkeypatch.setattr(_accel, "_prove", prove)
    for choice in ("auto", "kvm", "auto"):
        accelerator, why = _accel.choose(choice, SPEC, cache)
        assert (accelerator, why) == ("kvm", "proved by running this kernel on it")
    assert len(proofs) == 1
    monkeypatch.setattr(_accel, "qemu_version", lambda program: "8.0")
    _accel.choose("auto", SPEC, cache)
    assert len(proofs) == 2, "another QEMU is another proof"


@pytest.mark.parametrize("problem", ["missing", "forbidden", "broken"])
def test_kvm_that_does_not_work(
    cache: Any, device: Path, monkeypatch: pytest.MonkeyPatch, problem: str
) -> None:
    if problem == "missing":
        device.unlink()
    if problem == "forbidden":
        monkeypatch.setattr("os.access", lambda path, mode: False)
    monkeypatch.setattr(_accel, "_prove", lambda spec: "qemu: failed to set MSR 0x10a")
    words = {
        "missing": f"there is no {device}",
        "forbidden": "may not be opened by this user",
        "broken": "failed to set MSR 0x10a",
    }[problem]
    accelerator, why = _accel.choose("auto", SPEC, cache)
    assert accelerator == "tcg"
    assert words in why
    with pytest.raises(ConfigError, match=words):
        _accel.choose("kvm", SPEC, cache)
