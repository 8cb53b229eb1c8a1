"""Error numbers and their names."""

from __future__ import annotations

import pytest

from pytest_kgdb.debugger import errno_name, errno_of
from pytest_kgdb.errors import KgdbError


@pytest.mark.parametrize(
    ("name", "number"), [("-ENOMEM", -12), ("-EPROBE_DEFER", -517), ("-ENOENT", -2)]
)
def test_names(name: str, number: int) -> None:
    assert errno_of(name) == number
    assert errno_of(f"ERR_PTR({name})") == number
    assert errno_name(number) == name


def test_what_is_no_error() -> None:
    assert errno_of("count") is None
    assert errno_name(-4000) is None
    with pytest.raises(KgdbError, match="no error ENOSUCH"):
        errno_of("-ENOSUCH")
