"""`kgdb.fail_each`: a scenario with one call of a function failing, then another."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from os.path import expanduser  # of no user: as it is, and there is no such file
from pathlib import Path
from typing import TYPE_CHECKING, Final, Generic, Protocol, TypeVar

from ..actions import recorded
from ..errors import ConfigError, making_instrument
from ._slot import MachineSlot

if TYPE_CHECKING:
    from ..actions import ActionLog
    from ..recipes import FailEach, PatchFailures
    from ..trace import CallPlaces, Override, When

__all__ = ["FailEachMethod"]


class RunsCommands(Protocol):
    """The part of a handle that is used here."""

    def run(self, command: str) -> object:
        """Run a command in the guest's shell."""


_Handle = TypeVar("_Handle", bound=RunsCommands)

_DEFAULT: Final = object()
"""Of `returns`: how the function fails by its type."""


@recorded(__call__="fail_each", of_patch="fail_each.of_patch")
class FailEachMethod(Generic[_Handle]):
    """Runs a scenario once for each call of a function that it makes, with that call failing.

    :param handle: what a scenario is called with.
    """

    def __init__(self, slot: MachineSlot, handle: _Handle) -> None:
        self._slot = slot
        self._handle = handle

    @property
    def _actions(self) -> ActionLog:
        return self._slot.actions

    def __call__(
        self,
        function: str,
        scenario: str | Callable[[_Handle], object],
        returns: object = _DEFAULT,
        *,
        when: str | When | None = None,
        limit: int = 100,
        again: bool = True,
    ) -> FailEach:
        """Run a scenario once for each call of a function that it makes, with that call failing.

        Each run begins with the kernel as it is now, and it is so again at the end.
        After a failure that was handled it is run again, without one: nothing may have stayed
        behind.

        :param scenario: a command for the guest's shell, or a function that is called with this
            handle. What it cannot do is an error handled; what it asserts must hold.
        :param returns: how the function fails, as for :meth:`override`. By default, -ENOMEM of what
            returns a number; of what returns a pointer, NULL or ERR_PTR(-ENOMEM), by its source and
            what its callers compare it with.
        :param when: which calls are meant, as for :meth:`override`.
        :param limit: calls that are tried at the most.
        :param again: False for a scenario that cannot be run again where it was broken off.
        :raises KgdbError: the scenario does not pass by itself, or never calls the function; or how
            the function fails is not known.
        """
        __tracebackhide__ = True
        attachment = self._slot.require()
        instruments = attachment.instruments
        value = instruments.default_failure(function) if returns is _DEFAULT else returns

        def fail(skip: int, times: int | None) -> Override:
            return instruments.override(
                function, value, times=times, when=when, skip=skip, trace=True
            )

        run = self._running(scenario)
        return attachment.fail_each.run(function, run, fail, limit=limit, again=again)

    def of_patch(
        self,
        scenario: str | Callable[[_Handle], object],
        patch: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = None,
        *,
        returns: Mapping[str, object] | None = None,
        skip: Collection[str] = (),
        when: str | None = None,
        limit: int = 100,
        again: bool = True,
    ) -> PatchFailures:
        """Do so for every function that a patch's own lines call, at their calls there.

        Other callers of these functions are not disturbed. It is seen, too, which exits of the
        patch the runs come to.

        :param patch: the patches that are meant, which the kernel contains; those of
            `--kgdb-patch` otherwise.
        :param returns: how functions fail, by their names. By default, -ENOMEM of what returns a
            signed number; of what returns a pointer, ERR_PTR(-ENOMEM) if the call's result is
            compared with error pointers, and otherwise as for fail_each. Others are not made to
            fail.
        :param skip: functions that are not to fail.
        :param when: a C condition on the task, as for :meth:`override`.
        :param limit: calls of each function that are tried at the most.
        :raises KgdbError: the scenario does not pass by itself, or makes no call that can fail.
        :raises ConfigError: there is no patch, or the kernel is without it.
        """
        __tracebackhide__ = True
        attachment = self._slot.require()
        if self._slot.patch_code is None:
            raise ConfigError(
                "fail_each.of_patch() needs a guest in QEMU",
                hint="a board cannot be saved and restored",
            )
        code = self._slot.patch_code(_paths(patch))
        instruments = attachment.instruments

        def override(
            function: str, value: object, places: CallPlaces, skipped: int, times: int | None
        ) -> Override:
            with making_instrument():
                return instruments.override(
                    function, value, times=times, when=when, skip=skipped, trace=True,
                    places=places,
                )  # fmt: skip

        return attachment.fail_each_of_patch.run(
            code,
            self._running(scenario),
            override,
            returns=returns or {},
            skip=(skip,) if isinstance(skip, str) else skip,
            limit=limit,
            again=again,
        )

    def _running(self, scenario: str | Callable[[_Handle], object]) -> Callable[[], object]:
        handle = self._handle

        def run() -> object:
            return handle.run(scenario) if isinstance(scenario, str) else scenario(handle)

        return lambda: self._actions.by_test(run)

    def __repr__(self) -> str:
        return "<fail_each>"


def _paths(
    patch: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None,
) -> list[Path] | None:
    """Return absolute paths; None where the settings say which."""
    if patch is None:
        return None
    several = [patch] if isinstance(patch, (str, os.PathLike)) else patch
    return [Path(expanduser(one)).absolute() for one in several]  # noqa: PTH111
