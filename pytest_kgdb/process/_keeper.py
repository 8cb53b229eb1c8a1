"""Who starts the children, and who ends them."""

from __future__ import annotations

import atexit
import contextlib
import os
import queue
import subprocess
import threading
from collections.abc import Callable
from typing import IO, Any, Final, Generic, Protocol, TypeVar

from ..errors import KgdbError, TimeoutError

TAG: Final = "PYTEST_KGDB_OWNER"
"""In the environment of every child: which process it belongs to."""

_START_SECONDS: Final = 60.0  # for a fork and an exec: longer means a file system that hangs
_FAREWELL_SECONDS: Final = 2.0  # for the guardian to look round and go

# Reads "+GROUP" and "-GROUP" until we are gone. Signals meant for us must not take it along. The
# last part finds what left its group, and a child whose group we died too early to register.
_GUARDIAN: Final = r"""
trap '' HUP INT QUIT TERM
groups=
while read -r sign group; do
    case $sign in
    +) groups="$groups $group" ;;
    -)  left=
        for each in $groups; do [ "$each" = "$group" ] || left="$left $each"; done
        groups=$left ;;
    esac
done
for group in $groups; do kill -KILL "-$group"; done
for round in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
    found=$(grep -lszFx -e "$1" /proc/[0-9]*/environ)
    [ "$found" ] || exit 0
    for each in $found; do
        each=${each#/proc/}
        kill -KILL "${each%/environ}"
    done
    sleep 0.1
done
"""


class Kept(Protocol):
    """What the keeper has to know of a child."""

    pid: int
    pgid: int

    def kill(self) -> int:
        """End the group, and reap its leader."""


KeptT = TypeVar("KeptT", bound=Kept)


class _Start(Generic[KeptT]):
    """One child that somebody waits for."""

    def __init__(self, start: Callable[[], KeptT]) -> None:
        self.start = start
        # Taken until it is done. Not an Event: a KeyboardInterrupt inside of one can leave its
        # inner lock taken, and the starting thread stuck for good.
        self.done = threading.Lock()
        self.done.acquire()
        self.lock = threading.Lock()
        self.abandoned = False
        self.child: KeptT | None = None
        self.error: BaseException | None = None


class Keeper:
    """The thread that starts the children, the guardian that ends them, and which there are.

    All children are started by one thread that lives as long as the process does. PDEATHSIG
    comes when the *thread* that started a child dies, so that a child started by a short-lived
    one would be killed for no reason. And no KeyboardInterrupt is ever raised in it, between the
    fork and the moment at which somebody knows of the child.
    """

    def __init__(self) -> None:
        self.tag = f"{os.getpid()}-{os.urandom(8).hex()}"
        self._lock = threading.RLock()
        self._live: dict[int, Kept] = {}
        self._guardian: subprocess.Popen[bytes] | None = None
        self._starts: queue.SimpleQueue[_Start[Any]] | None = None

    def start(self, start: Callable[[], KeptT]) -> KeptT:
        """Run `start` in the starting thread and return what it returns."""
        with self._lock:
            starts = self._starts
            if starts is None:
                starts = queue.SimpleQueue()
                threading.Thread(
                    target=self._serve, args=(starts,), name="start children", daemon=True
                ).start()
                self._starts = starts  # now: an interrupted start must leave no queue unserved
        order = _Start(start)
        try:
            starts.put(order)
            if not order.done.acquire(timeout=_START_SECONDS):
                raise TimeoutError(f"a program did not start within {_START_SECONDS:g} s")
            if order.error is not None:
                raise order.error
            assert order.child is not None
            return order.child
        except BaseException:
            with order.lock:
                order.abandoned = True
                child = order.child
            if child is not None:
                child.kill()
            raise

    def _serve(self, starts: queue.SimpleQueue[_Start[Any]]) -> None:
        while True:
            order = starts.get()
            child = None
            try:
                if not order.abandoned:
                    with self._lock:
                        self._pipe()  # the guardian first: it finds also whom nobody registered
                    child = order.start()
            except BaseException as error:
                order.error = error
            with order.lock:
                order.child = child
                unwanted = order.abandoned
            if unwanted and child is not None:
                child.kill()
            order.done.release()
            del order, child  # or the last child would be held until the next is started

    def adopt(self, child: Kept) -> None:
        """Take a child on: it will not outlive us."""
        with self._lock:
            self._tell("+", child.pgid)
            self._live[child.pid] = child

    def release(self, child: Kept) -> None:
        """Forget a child, dead but not yet reaped."""
        with self._lock:
            if child.pid in self._live and self._guardian is not None:
                with contextlib.suppress(OSError):  # it must be reaped, guardian or no guardian
                    self._tell("-", child.pgid)
            self._live.pop(child.pid, None)

    def end_all(self) -> None:
        """Kill what is left when the interpreter ends, and see the guardian off."""
        if self._starts is not None:
            # Behind the children that are just being started, or killed because nobody waits.
            last: _Start[Any] = _Start(lambda: None)
            last.abandoned = True
            self._starts.put(last)
            last.done.acquire(timeout=_FAREWELL_SECONDS)
        for child in list(self._live.values()):
            with contextlib.suppress(KgdbError, OSError):
                child.kill()
        with self._lock:
            self._see_off()

    def forget(self) -> None:
        """Start afresh in a forked process: the children are its parent's, not its own."""
        guardian = self._guardian
        if guardian is not None and guardian.stdin is not None:
            # A copy of the pipe, left open here, would keep the guardian from seeing the end.
            guardian.stdin.close()
            guardian.returncode = 0
        self.__init__()  # type: ignore[misc]

    def _tell(self, sign: str, group: int) -> None:
        word = f"{sign} {group}\n".encode()
        try:
            self._pipe().write(word)
        except BrokenPipeError:  # somebody killed it: a new one, told of all
            self._see_off()
            pipe = self._pipe()
            for child in self._live.values():
                pipe.write(f"+ {child.pgid}\n".encode())
            pipe.write(word)  # last: it may take one of those back

    def _see_off(self) -> None:
        guardian, self._guardian = self._guardian, None
        if guardian is not None and guardian.stdin is not None:
            guardian.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                guardian.wait(_FAREWELL_SECONDS)

    def _pipe(self) -> IO[bytes]:
        if self._guardian is None:
            self._guardian = subprocess.Popen(
                ["/bin/sh", "-c", _GUARDIAN, "pytest-kgdb-guardian", f"{TAG}={self.tag}"],
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env={"PATH": os.defpath},  # without the tag of a pytest around this one
                start_new_session=True,
            )
        assert self._guardian.stdin is not None
        return self._guardian.stdin


KEEPER: Final = Keeper()
atexit.register(KEEPER.end_all)
os.register_at_fork(after_in_child=KEEPER.forget)
