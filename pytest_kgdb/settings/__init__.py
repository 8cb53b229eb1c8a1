"""Options, configuration file and marker, merged into one frozen `Settings`.

The model is imported when one of its names is first used: every pytest run imports this package
for its options, and only runs with kernel tests need the rest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._options import OPTIONS, add_arguments, add_options, given

if TYPE_CHECKING:
    from ._model import (
        MARKER_KEYS,
        MachineOptions,
        Point,
        Settings,
        TestRequest,
        from_arguments,
        from_pytest,
        make_settings,
    )
    from ._values import Forward

__all__ = [
    "MARKER_KEYS",
    "OPTIONS",
    "Forward",
    "MachineOptions",
    "Point",
    "Settings",
    "TestRequest",
    "add_arguments",
    "add_options",
    "from_arguments",
    "from_pytest",
    "given",
    "make_settings",
]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import _model

    return getattr(_model, name)
