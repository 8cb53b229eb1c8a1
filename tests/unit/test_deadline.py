"""The one limit for waits, and the end of a wait."""

from __future__ import annotations

import pytest

from pytest_kgdb.deadline import Deadline, WaitLimit
from pytest_kgdb.errors import ConfigError


def test_a_limit_holds_for_waits_that_begin_after_it_was_set() -> None:
    limit = WaitLimit(30.0)
    assert limit.of(None) == 30.0
    limit.set(5.0)
    assert limit.seconds == limit.of(None) == limit.deadline().seconds == 5.0


def test_a_callers_own_timeout_goes_first() -> None:
    assert WaitLimit(30.0).of(0.0) == 0.0
    assert WaitLimit(30.0).deadline(2.0).seconds == 2.0


@pytest.mark.parametrize("seconds", ["5", -1, float("nan"), float("inf"), True, [1]])
def test_what_is_no_timeout(seconds: float) -> None:
    limit = WaitLimit(30.0)
    for use in (limit.of, limit.deadline, limit.set):
        with pytest.raises(ConfigError, match="is no timeout"):
            use(seconds)
    assert limit.seconds == 30.0


def test_a_deadline_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    deadline = Deadline(2.0)
    assert (deadline.left, deadline.expired) == (2.0, False)
    now = 102.5
    assert (deadline.left, deadline.expired) == (0.0, True)
