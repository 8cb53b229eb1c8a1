"""What a test of other machines than the session's asks for, beside its arguments."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from pytest_kgdb import Kgdb
from pytest_kgdb.session import Session

OpenSession = Callable[..., contextlib.AbstractContextManager[Session]]
Boot = Callable[..., contextlib.AbstractContextManager[Kgdb]]
