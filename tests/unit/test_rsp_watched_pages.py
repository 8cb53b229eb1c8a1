"""Watchpoints with which QEMU before 8.0 would miss atomic instructions."""

from __future__ import annotations

import pytest

from pytest_kgdb.rsp._watched_pages import WatchedPages

PAGE = 0xFFFF_8880_0012_3000


def key(kind: int, address: int, size: int = 8) -> bytes:
    return b"%d,%x,%x" % (kind, address, size)


class Target:
    """Inserts what it is asked for."""

    def __init__(self, *, misses_atomics: bool = True) -> None:
        self.inserted: set[bytes] = set()
        self.pages = WatchedPages(
            self.request, lambda: self.inserted, misses_atomics=misses_atomics
        )

    def request(self, payload: bytes) -> bytes:
        (self.inserted.add if payload[:1] == b"Z" else self.inserted.discard)(payload[1:])
        return b"OK"


@pytest.mark.parametrize(
    ("first", "second", "allowed"),
    [
        pytest.param(key(2, PAGE), key(2, PAGE + 8), True, id="both of writes"),
        pytest.param(key(3, PAGE), key(3, PAGE + 8), True, id="both of reads"),
        pytest.param(key(2, PAGE), key(3, PAGE + 0xFF8), False, id="one of each"),
        pytest.param(key(3, PAGE), key(2, PAGE), False, id="the same memory"),
        pytest.param(key(2, PAGE), key(3, PAGE + 0x1000), True, id="other pages"),
        pytest.param(key(2, PAGE), key(3, PAGE - 4), False, id="one that begins a page before"),
        pytest.param(key(2, PAGE), key(3, PAGE - 8), True, id="one that ends a page before"),
        pytest.param(key(2, PAGE), key(4, PAGE + 0x1000), False, id="both at once"),
        pytest.param(key(1, PAGE), key(3, PAGE), True, id="a hardware breakpoint"),
    ],
)
def test_what_is_watched_on_a_page(first: bytes, second: bytes, allowed: bool) -> None:
    target = Target()
    assert target.pages.request(b"Z" + first) == b"OK"
    assert target.pages.allows(second) == allowed
    assert (target.pages.request(b"Z" + second) == b"OK") == allowed
    refusal = target.pages.take_refusal()
    assert (refusal is None) == allowed
    assert target.inserted == ({first, second} if allowed else {first})


def test_a_refusal_says_what_works_once() -> None:
    pages = Target().pages
    assert pages.request(b"Z" + key(4, PAGE + 0x10)) == b"E0e"
    refusal = pages.take_refusal()
    assert refusal is not None
    assert f"{PAGE + 0x10:#x}" in refusal.reason
    assert 'access="write"' in str(refusal.hint)
    assert pages.take_refusal() is None


def test_what_has_been_removed_is_in_nobodys_way() -> None:
    target = Target()
    for request in (b"Z" + key(2, PAGE), b"z" + key(2, PAGE), b"Z" + key(3, PAGE)):
        assert target.pages.request(request) == b"OK"


def test_another_qemu_watches_both() -> None:
    target = Target(misses_atomics=False)
    for kind in (2, 3, 4):
        assert target.pages.request(b"Z" + key(kind, PAGE)) == b"OK"
