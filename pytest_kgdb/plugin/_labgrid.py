"""labgrid's environment: that of its own pytest plugin, so that both have the same targets."""

from __future__ import annotations

import os

import pytest

from ..errors import ConfigError

__all__ = ["labgrid_environment"]


def labgrid_environment(config: pytest.Config | None, origin: str) -> object:
    """Return labgrid's `Environment`; None where none is named.

    :param config: pytest's, if it is running: labgrid's own options are there.
    :param origin: the option that needs it, for messages.
    :raises ConfigError: labgrid is not installed, or refuses what is named.
    """
    try:
        from labgrid import Environment
        from labgrid.pytestplugin.hooks import LABGRID_ENV_KEY
    except ImportError as error:
        raise ConfigError(
            f"{origin}: labgrid is not installed ({error})",
            hint="pip install 'pytest-kgdb[labgrid]'",
        ) from error
    if config is not None and config.stash.get(LABGRID_ENV_KEY, None) is not None:
        return config.stash[LABGRID_ENV_KEY]
    file = os.environ.get("LG_ENV")
    if not file:
        return None
    try:
        return Environment(config_file=file)
    except Exception as error:
        raise ConfigError(f"{origin}: labgrid refuses LG_ENV={file}: {error}") from error
