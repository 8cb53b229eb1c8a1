"""Options, configuration file and marker, merged into one frozen `Settings`.

The model is imported when one of its names is first used: every pytest run imports this package
for its options, and only runs with kernel tests need the rest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._options import OPTIONS, add_arguments, add_options, given, ini_key

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
    from ._values import (
        CoverageTarget,
        Forward,
        LabgridTarget,
        SerialLine,
        is_shipped,
        make_variable,
    )

__all__ = [
    "MARKER_KEYS",
    "OPTIONS",
    "CoverageTarget",
    "Forward",
    "LabgridTarget",
    "MachineOptions",
    "Point",
    "SerialLine",
    "Settings",
    "TestRequest",
    "add_arguments",
    "add_options",
    "from_arguments",
    "from_pytest",
    "given",
    "ini_key",
    "is_shipped",
    "make_settings",
    "make_variable",
]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import _model, _values

    return getattr(_values if name in ("is_shipped", "make_variable") else _model, name)
