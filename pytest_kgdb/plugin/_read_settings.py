"""`-p pytest_kgdb.plugin._read_settings`: writes what pytest reads of our settings, no more.

The commands that run tests on several kernels start a pytest with it: the configuration file,
`addopts` and `conftest.py` have their say in which kernel the tests are to run on.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from ..errors import ConfigError
from ..settings import given_by, write_given


def pytest_addoption(parser: pytest.Parser) -> None:
    """Register the option for the file."""
    parser.addoption(
        "--kgdb-settings-to", dest="kgdb_settings_to", metavar="FILE", help="where to write them"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> int:
    """Write them, instead of running the tests."""
    try:
        write_given(Path(config.getoption("kgdb_settings_to")), given_by(config))
    except ConfigError as error:
        raise pytest.UsageError(str(error)) from None
    return 0
