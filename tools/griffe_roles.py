"""For the API reference: Sphinx's roles in docstrings are shown as code."""

from __future__ import annotations

import re
from typing import Any

import griffe

_ROLE = re.compile(r":(?:py:)?[a-z]+:`[~!]?([^`]+)`")


class Roles(griffe.Extension):
    """Replaces the roles when an object has been read."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:  # noqa: ARG002 # as griffe calls it
        """See :class:`griffe.Extension`."""
        if obj.docstring is not None:
            obj.docstring.value = _ROLE.sub(r"`\1`", obj.docstring.value)
