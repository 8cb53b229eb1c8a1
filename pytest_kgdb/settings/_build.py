"""What settings say of the build, to be handed to another process."""

from __future__ import annotations

from pathlib import Path

from ._given import BUILD, Given
from ._model import Settings
from ._options import field as field_of

__all__ = ["of_build"]


def of_build(settings: Settings) -> dict[str, Given]:
    """Return what settings say of the build, by field."""
    here = Path.cwd()
    given = {}
    for name in BUILD:
        field = field_of(name)
        value = getattr(settings, field)
        if field in settings.origins or (value and value != "minimal"):
            words = [str(one) for one in value] if isinstance(value, tuple) else str(value)
            given[field] = Given(words, settings.origins.get(field, f"--kgdb-{name}"), here)
    return given
