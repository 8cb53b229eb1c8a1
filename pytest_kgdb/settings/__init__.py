"""Options, configuration file and marker, merged into one frozen `Settings`.

The model is imported when one of its names is first used: every pytest run imports this package
for its options, and only runs with kernel tests need the rest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._options import OPTIONS, add_arguments, add_options, given, ini_key

if TYPE_CHECKING:
    from ._build import of_build
    from ._given import BUILD, Given, read_given, write_given
    from ._model import (
        MARKER_KEYS,
        MachineOptions,
        Point,
        Settings,
        TestRequest,
        from_arguments,
        from_given,
        from_pytest,
        given_by,
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
    "BUILD",
    "MARKER_KEYS",
    "OPTIONS",
    "CoverageTarget",
    "Forward",
    "Given",
    "LabgridTarget",
    "MachineOptions",
    "Point",
    "SerialLine",
    "Settings",
    "TestRequest",
    "add_arguments",
    "add_options",
    "from_arguments",
    "from_given",
    "from_pytest",
    "given",
    "given_by",
    "ini_key",
    "is_shipped",
    "make_settings",
    "make_variable",
    "of_build",
    "read_given",
    "write_given",
]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import _build, _given, _model, _values

    modules = (_build, _given, _model, _values)
    return next(getattr(module, name) for module in modules if hasattr(module, name))
