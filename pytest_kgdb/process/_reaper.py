"""Starts children, and kills those that are left when this process ends."""

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
"""The variable in every child's environment that names the process which started it."""

_START_SECONDS: Final = 60.0  # for a fork and an exec: longer means a file system that hangs
_EXIT_SECONDS: Final = 2.0  # for the starting thread and for the reaper process to end

# Reads "+GROUP" and "-GROUP" lines until its standard input closes, which is when we are gone, and
# then kills the groups that are left. It ignores signals that are sent to our process group. The
# last loop finds processes by their environment: those that left their group, and a child whose
# group we did not live to register.
_SCRIPT: Final = r"""
trap '' HUP INT QUIT TERM
groups=
while read -r sign group; do
    case $sign in
    +) groups="$groups $group" ;;
    -)  left=
        for member in $groups; do [ "$member" = "$group" ] || left="$left $member"; done
        groups=$left ;;
    esac
done
for group in $groups; do kill -KILL "-$group"; done
for round in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
    files=$(grep -lszFx -e "$1" /proc/[0-9]*/environ)
    [ "$files" ] || exit 0
    for file in $files; do
        pid=${file#/proc/}
        kill -KILL "${pid%/environ}"
    done
    sleep 0.1
done
"""


class Reapable(Protocol):
    """The part of a child that the reaper uses."""

    pid: int
    pgid: int

    def kill(self) -> int:
        """Kill the process group and reap its leader."""


ChildT = TypeVar("ChildT", bound=Reapable)


class _StartRequest(Generic[ChildT]):
    """A child to be started by the starting thread, and the result."""

    def __init__(self, start: Callable[[], ChildT]) -> None:
        self.start = start
        # Released when the request is done. Not an Event: a KeyboardInterrupt inside one can leave
        # its inner lock taken, and then the starting thread blocks for good.
        self.done = threading.Lock()
        self.done.acquire()
        self.lock = threading.Lock()
        self.abandoned = False
        self.child: ChildT | None = None
        self.error: BaseException | None = None


class Reaper:
    """Starts all children, knows which are alive, and kills them when this process ends.

    Children are started by one thread that lives as long as the process does, for two reasons.
    PDEATHSIG (prctl(2)) comes when the *thread* that started a child ends, so a child of a
    short-lived thread would be killed for no reason. And Python never raises KeyboardInterrupt in
    it, so none comes between the fork and the registration of the child.

    A second process, a small shell script in a session of its own, does the killing when this one
    is killed itself.
    """

    def __init__(self) -> None:
        self.tag = f"{os.getpid()}-{os.urandom(8).hex()}"
        self._lock = threading.RLock()
        self._children: dict[int, Reapable] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._requests: queue.SimpleQueue[_StartRequest[Any]] | None = None

    def start(self, start: Callable[[], ChildT]) -> ChildT:
        """Run `start` in the starting thread and return its result.

        :raises TimeoutError: it took longer than 60 seconds.
        """
        with self._lock:
            requests = self._requests
            if requests is None:
                requests = queue.SimpleQueue()
                threading.Thread(
                    target=self._serve, args=(requests,), name="start children", daemon=True
                ).start()
                self._requests = requests  # last: an interrupt must leave no queue without thread
        request = _StartRequest(start)
        try:
            requests.put(request)
            if not request.done.acquire(timeout=_START_SECONDS):
                raise TimeoutError(f"a program did not start within {_START_SECONDS:g} s")
            if request.error is not None:
                raise request.error
            assert request.child is not None
            return request.child
        except BaseException:
            with request.lock:
                request.abandoned = True
                child = request.child
            if child is not None:
                child.kill()
            raise

    def _serve(self, requests: queue.SimpleQueue[_StartRequest[Any]]) -> None:
        while True:
            request = requests.get()
            child = None
            try:
                if not request.abandoned:
                    with self._lock:
                        self._pipe()  # the reaper process first: it also finds unregistered ones
                    child = request.start()
            except BaseException as error:
                request.error = error
            with request.lock:
                request.child = child
                abandoned = request.abandoned
            if abandoned and child is not None:
                child.kill()
            request.done.release()
            del request, child  # otherwise the child would be referenced until the next start

    def register(self, child: Reapable) -> None:
        """Add a child that has been started."""
        with self._lock:
            self._send("+", child.pgid)
            self._children[child.pid] = child

    def unregister(self, child: Reapable) -> None:
        """Remove a child that is dead and not yet reaped."""
        with self._lock:
            if child.pid in self._children and self._process is not None:
                with contextlib.suppress(OSError):  # the child must be reaped in any case
                    self._send("-", child.pgid)
            self._children.pop(child.pid, None)

    def kill_all(self) -> None:
        """Kill the children that are left, and end the reaper process, at interpreter exit."""
        if self._requests is not None:
            # Queued behind children that are being started, or killed because nobody waits.
            last: _StartRequest[Any] = _StartRequest(lambda: None)
            last.abandoned = True
            self._requests.put(last)
            last.done.acquire(timeout=_EXIT_SECONDS)
        for child in list(self._children.values()):
            with contextlib.suppress(KgdbError, OSError):
                child.kill()
        with self._lock:
            self._end_process()

    def reset_after_fork(self) -> None:
        """Start afresh in a forked process: the children are its parent's."""
        process = self._process
        if process is not None and process.stdin is not None:
            # An open copy of the pipe would keep the reaper process from seeing its end.
            process.stdin.close()
            process.returncode = 0
        self.__init__()  # type: ignore[misc]

    def _send(self, sign: str, group: int) -> None:
        line = f"{sign} {group}\n".encode()
        try:
            self._pipe().write(line)
        except BrokenPipeError:  # the reaper process was killed: start another with all groups
            self._end_process()
            pipe = self._pipe()
            for child in self._children.values():
                pipe.write(f"+ {child.pgid}\n".encode())
            pipe.write(line)  # last: it may remove one of those

    def _end_process(self) -> None:
        process, self._process = self._process, None
        if process is not None and process.stdin is not None:
            process.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_EXIT_SECONDS)

    def _pipe(self) -> IO[bytes]:
        if self._process is None:
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", _SCRIPT, "pytest-kgdb-reaper", f"{TAG}={self.tag}"],
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env={"PATH": os.defpath},  # without the tag of a pytest around this one
                start_new_session=True,
            )
        assert self._process.stdin is not None
        return self._process.stdin


REAPER: Final = Reaper()
atexit.register(REAPER.kill_all)
os.register_at_fork(after_in_child=REAPER.reset_after_fork)
