"""Run control: resumes the kernel, and is the one that knows whether it is stopped."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, Protocol

from ..deadline import Deadline, WaitLimit
from ..diagnosis import Diagnosis, explained
from ..errors import GuestCommandError, KgdbError, MachineDied, TimeoutError
from ._classify import asked_by_guest, classify, select_frame, trap_name
from ._debugger import Debugger
from ._frames import Frame, SourceText
from ._mi import GdbError, Record, c_string, refusal
from ._stop import Reason, Stop
from ._stop_line import in_a_line
from ._subscribers import Restored, Resumed, StopRecord, StopSubscriber, of_the_first

__all__ = ["RunControl"]

# How often a wait checks that QEMU still lives, in seconds; stops themselves arrive at once.
_LIVENESS: Final = 0.1

_DEAF_HINT: Final = (
    "restore() brings it back, and the next test has a pristine kernel; a sysrq needs "
    "CONFIG_MAGIC_SYSRQ_SERIAL and interrupts"
)

_LATE_HINT: Final = "kgdb.stop is where; it takes a larger timeout= to be told of it"

_UNHEARD_HINT: Final = (
    "a kernel that is booting still hears it shortly before init runs: a larger timeout=, or a "
    "breakpoint on the way"
)

# How long a stop is waited for that the kernel has come to meanwhile, in seconds.
_JUST_THEN: Final = 1.0

_CONTINUE: Final = "-exec-continue"  # the other commands are steps, of one task

# The same at gdb's prompt, where gdb prints the stop.
_CONTINUE_AT_PROMPT: Final = '-interpreter-exec console "continue"'


class MiEvents(Protocol):
    """The part of :class:`Gdb` that is used here."""

    @property
    def alive(self) -> bool:
        """Whether gdb runs."""

    @property
    def target_running(self) -> bool:
        """Whether gdb has said last that its target runs."""

    @property
    def has_events(self) -> bool:
        """Whether an event waits."""

    def next_event(self, timeout: float) -> Record | None:
        """Take the oldest event, waiting for one."""

    def sync_events(self, event: Record | None = None) -> None:
        """Have events wait until gdb reads commands again; the last one counts, and no other."""

    def drop_events(self) -> None:
        """Drop those that nobody took."""

    def command(self, command: str) -> Any:
        """Run an MI command."""


class StopRelay(Protocol):
    """The part of the relay that is used here."""

    @property
    def stop_reported(self) -> bool:
        """Whether gdb has been told of a stop and has not resumed since."""

    def wait_resumed(self, timeout: float) -> bool:
        """Wait until gdb's resume has come to the relay."""

    def set_stepping(self, stepping: bool) -> None:
        """Say whether gdb is about to step one task."""


class ConsoleTail(Protocol):
    """The part of the console that is used here."""

    @property
    def log(self) -> Path:
        """The file with everything that it showed."""

    def tail(self) -> str:
        """Return its last lines."""


class Causes(Protocol):
    """Finds what is behind an error."""

    @property
    def alive(self) -> bool:
        """Whether QEMU and gdb run."""

    def check_alive(self) -> None:
        """Raise what happened, if the kernel, QEMU or gdb is gone."""

    def first(self, error: KgdbError) -> KgdbError:
        """Return the first cause of an error."""


class RunControl:
    """Resumes and stops one machine's kernel.

    :param gdb: gdb's events.
    :param interrupt: asks a running kernel to stop.
    :param source: the source that the kernel and its modules were compiled from.
    :param interrupts_in_guest: whether `interrupt` is a command in the guest, as a test's own.
    :param interrupt_is_heard: whether a running kernel would hear `interrupt` now; it is asked
        again and again where it would not.
    """

    def __init__(
        self,
        debugger: Debugger,
        gdb: MiEvents,
        relay: StopRelay,
        *,
        causes: Causes,
        console: ConsoleTail,
        interrupt: Callable[[], None],
        waits: WaitLimit,
        source: SourceText | None,
        interrupts_in_guest: Callable[[], bool] = lambda: False,
        interrupt_is_heard: Callable[[], bool] = lambda: True,
    ) -> None:
        self._debugger = debugger
        self._interrupts_in_guest = interrupts_in_guest
        self._interrupt_is_heard = interrupt_is_heard
        self._gdb = gdb
        self._relay = relay
        self._causes = causes
        self._console = console
        self._send_interrupt = interrupt
        self._waits = waits
        self._source = source
        self._subscribers: list[StopSubscriber] = []
        self._stopped = False
        self._stop: Stop | None = None
        self._before: Stop | None = None  # the stop that the kernel was resumed from
        self._refused: GdbError | None = None  # gdb's second answer to a resume
        self._interrupting = False  # asked for, and no stop has come since
        self._unsent = False  # and not sent yet: the kernel would not hear it
        self._passing = False  # what is asked for is the stop of kept_stopped()
        self._breaks = 0  # sent, and not seen to have stopped the kernel
        self._oops: tuple[int, ...] | None = None  # where the last oops was, and whose
        self._oops_signal: str | None = None  # what gdb was told of that oops
        self._stepping = False  # the relay takes what gdb inserts for what it steps by
        self._continue = _CONTINUE
        self._text = ""  # what gdb has printed of the last stop
        self._script_error: Record | None = None  # of a script that has led to it
        self.hears_interrupts = True
        """Whether the kernel did when it was last looked at: only QEMU can stop it otherwise."""

    def subscribe(self, subscriber: StopSubscriber) -> None:
        """Tell a subscriber of everything from now on, after those that are there already."""
        self._subscribers.append(subscriber)

    # Whether the kernel is stopped

    @property
    def alive(self) -> bool:
        """Whether there is a machine, and a gdb, to control."""
        return self._causes.alive

    @property
    def stopped(self) -> bool:
        """Whether the kernel is stopped; a stop that has arrived is taken note of."""
        if not self._stopped and self._gdb.alive:
            self._take_event(0)
        return self._stopped

    @property
    def is_known_stopped(self) -> bool:
        """The same, without a look for a stop that may have arrived."""
        return self._stopped

    @property
    def stop(self) -> Stop | None:
        """The present stop; None while the kernel runs."""
        return self._stop if self._stopped else None

    @property
    def generation(self) -> int:
        """The number of the present stop generation."""
        return self._debugger.generation.number

    def require_stopped(self, what: str, error: type[KgdbError] = KgdbError) -> None:
        """Check that the kernel is stopped.

        :param what: what needs it, for the message.
        :raises KgdbError: the kernel runs; of the class that is given.
        """
        if not self._stopped:
            raise error(
                f"{what} needs a stopped kernel, and this one runs",
                hint="stop it first: interrupt(), or wait() for a breakpoint",
            )

    def check_refused(self) -> None:
        """Check that gdb has not given up the last resume after it had begun.

        :raises GdbError: it has; with gdb's words, once.
        :raises MachineDied: it has because QEMU ended.
        """
        error, self._refused = self._refused, None
        if error is not None:
            raise self._causes.first(error)

    def refuse_next(self, error: GdbError) -> None:
        """Have the next resume refused, once: something that it was for is not there."""
        self._refused = error

    def gdb_is_stopped(self) -> bool:
        """Whether gdb has said that the kernel is stopped, and has not begun to resume it."""
        return not self._gdb.target_running

    # Stopping

    def wait(self, timeout: float | None = None) -> Stop:
        """Wait until the kernel stops.

        :param timeout: seconds; the limit of the running test otherwise.
        :raises GdbError: gdb gave up the resume after it had begun.
        :raises TimeoutError: the kernel did not stop, and runs on.
        :raises KgdbError: the kernel, QEMU or gdb is gone.
        """
        __tracebackhide__ = True
        deadline = self._waits.deadline(timeout)
        while not self._stopped:
            if self._take_event(min(deadline.left, _LIVENESS)):
                break
            self._causes.check_alive()
            if self._unsent:
                self._send_if_heard()
            if deadline.expired:
                raise self._timed_out(deadline)
        self.check_refused()
        assert self._stop is not None
        return self._stop

    def _timed_out(self, deadline: Deadline) -> TimeoutError:
        awaited = "".join(subscriber.awaited() for subscriber in self._subscribers)
        words = ""
        hint = "it runs on: interrupt() stops it where it is"
        if self._interrupting:
            words = "\nit did not answer a sysrq on the console: it may spin with interrupts off"
            hint = _DEAF_HINT
            if self._unsent:
                words = (
                    "\nno sysrq was sent: nobody has opened the console, and it would be dropped"
                )
                hint = _UNHEARD_HINT
        error = TimeoutError(
            f"the kernel did not stop in {deadline.seconds:g} s{awaited}\n"
            f"the console's last lines are:\n{self._console.tail()}{words}",
            log=self._console.log,
            hint=hint,
        )
        explained = self.explain(error)
        sent = self._interrupting and not self._unsent
        if sent and not self._stopped and self._debugger.door == "kgdb":
            self.hears_interrupts = False
        return explained

    def explain(self, error: TimeoutError) -> TimeoutError:
        """Return the error of a wait that ran out, with what the kernel does instead.

        :raises GdbError: gdb gave up the resume after it had begun.
        """
        was_stopped = self._stopped
        diagnoses = [subscriber.diagnose() for subscriber in self._subscribers]
        diagnosis = next(filter(None, diagnoses), None)
        other = None if diagnosis is None else diagnosis.unless_stopped
        notes = [words for subscriber in self._subscribers if (words := subscriber.slowed_by())]
        if not was_stopped and (late := self._late_stop(wait=other is not None)):
            stopped = Diagnosis(f"it stopped just then: {late}", "")
            return explained(error, stopped, hint=_LATE_HINT, notes=notes)
        if diagnosis is None:
            return explained(error, Diagnosis("", ""), notes=notes)
        diagnosis = other or diagnosis
        self.hears_interrupts = not (diagnosis.deaf and self._debugger.door == "kgdb")
        hint = None if self.hears_interrupts else _DEAF_HINT
        return explained(error, diagnosis, hint=hint, notes=notes)

    def _late_stop(self, *, wait: bool) -> str:
        """Return why and where the kernel has stopped by now, in words; empty if it has not.

        :param wait: whether it is known to have, and the word of it is on its way.
        """
        with contextlib.suppress(KgdbError):
            self._take_event(_JUST_THEN if wait else 0.0)
        self.check_refused()
        with contextlib.suppress(KgdbError):
            if self.stop is not None:
                return in_a_line(self.stop)
        return ""

    def interrupt(self, timeout: float | None = None) -> Stop:
        """Stop the running kernel where it is; a stopped one stays as it is.

        :param timeout: seconds; the limit of the running test otherwise.
        :raises TimeoutError: it did not stop.
        """
        __tracebackhide__ = True
        timeout = self._waits.of(timeout)
        if self.stopped:
            return self.wait(timeout)
        self._interrupting = True
        self._send_if_heard()
        return self.wait(timeout)

    def _send_if_heard(self) -> None:
        """Ask for a stop, unless nobody reads the console: a kernel that is booting still."""
        self._unsent = self._interrupting and not self._interrupt_is_heard()
        if self._interrupting and not self._unsent:
            self._breaks += 1
            self.request_stop()

    def request_stop(self) -> None:
        """Ask a running kernel to stop, and wait for nothing: somebody else is told of the stop.

        :raises KgdbError: it cannot be asked.
        """
        try:
            self._send_interrupt()
        except MachineDied as error:
            raise self._causes.first(error) from None

    @contextlib.contextmanager
    def kept_stopped(
        self, what: str = "", *, ends: Callable[[Stop], bool] = lambda _: False
    ) -> Iterator[None]:
        """Keep the kernel stopped meanwhile, and let it run again at the end if it ran.

        It stays at a stop that came instead of the one that is asked for, at a breakpoint say:
        that is of whoever waits for it.

        :param what: what is to be done, if the kernel must run for it.
        :param ends: whether a stop that came instead is of what is over by now.
        :raises GuestCommandError: it stopped there before what has to be done, and is not resumed.
        """
        ran = not self._stopped  # as far as anybody has been told
        if ran:
            self._passing = True
            try:
                stop = self.interrupt()
            finally:
                self._passing = False
            if what and stop.reason != "interrupt":
                raise GuestCommandError(
                    f"{what} was not begun: the kernel stopped before, {stop!r}",
                    log=self._console.log,
                    hint="kgdb.stop is where, and wait() returns it",
                )
        try:
            yield
        finally:
            stop_now = self.stop if ran and self.stopped else None
            if stop_now is not None and (stop_now.reason == "interrupt" or ends(stop_now)):
                self.resume()

    def record_stop(self, reason: Reason) -> None:
        """Note that the kernel is stopped, where no record of gdb's says so: at a snapshot."""
        self._interrupting = False
        self.hears_interrupts = True
        self._breaks = 0
        self._oops = None
        self._refused = None
        self._debugger.generation.advance()
        self._stopped = True
        self._stop = Stop(self._debugger, reason, source=self._source)

    def record_again(self, stop: Stop) -> None:
        """Note that the kernel is at an earlier stop again: its machine was restored to it."""
        self.record_stop(stop.reason)
        self._stop = stop.renewed()
        select_frame(self._debugger, stop.reason)

    def record_at_frame(self, reason: Reason, message: str | None) -> None:
        """Note the same of a stop that may be about another frame than the innermost."""
        self.record_stop(reason)
        level = select_frame(self._debugger, reason)
        self._stop = Stop(self._debugger, reason, message=message, source=self._source, level=level)

    def connected(self, reason: Reason, timeout: float | None = None) -> None:
        """Note that gdb has connected to a stopped kernel.

        :param timeout: seconds to wait for gdb's record of it.
        """
        self._gdb.next_event(self._waits.of(timeout))
        self.record_stop(reason)

    # Resuming

    def cont(self, timeout: float | None = None) -> Stop:
        """Let the kernel run until it stops.

        :param timeout: seconds; the limit of the running test otherwise.
        """
        __tracebackhide__ = True
        return self.step(self._continue, timeout)

    def resume(self) -> None:
        """Let the kernel run and return at once.

        :raises KgdbError: it runs already, gdb refused, or gave up the resume before this one.
        """
        __tracebackhide__ = True
        self._resume(self._continue)

    def step(self, command: str, timeout: float | None = None) -> Stop:
        """Resume by a command of gdb's that steps, and wait for its end.

        :param command: in MI.
        :param timeout: seconds; the limit of the running test otherwise.
        """
        __tracebackhide__ = True
        timeout = self._waits.of(timeout)  # the kernel does not run for one that is none
        self._resume(command)
        return self.wait(timeout)

    def run_at_prompt(self, command: str, *, stepping: bool, timeout: float | None = None) -> str:
        """Run a command of gdb's prompt that resumes the kernel, and wait for the stop.

        :param command: as typed.
        :param stepping: whether it steps one task.
        :param timeout: seconds; the limit of the running test otherwise.
        :return: what gdb has printed of it and of the stop.
        """
        __tracebackhide__ = True
        timeout = self._waits.of(timeout)
        with self._printing():
            words = self._resume(f"-interpreter-exec console {c_string(command)}", stepping)
            if not self._gdb.target_running and not self._gdb.has_events:
                self._stay()  # `step 0`
                for subscriber in self._subscribers:
                    subscriber.refused("")
                return words
            self.wait(timeout)
            return words + self._text

    @contextlib.contextmanager
    def _printing(self) -> Iterator[None]:
        self._continue, self._text = _CONTINUE_AT_PROMPT, ""
        try:
            yield
        finally:
            self._continue = _CONTINUE

    def _resume(self, command: str, stepping: bool | None = None, *, silent: bool = False) -> str:
        __tracebackhide__ = True
        self.require_stopped("resuming")
        self.check_refused()
        if stepping is None:
            stepping = command != self._continue
        event = Resumed(stepping=stepping, silent=silent)
        for subscriber in self._subscribers:
            subscriber.resumed(event)
        self._before = self._stop or self._before
        self._move()
        self._stepping = event.stepping
        self._relay.set_stepping(event.stepping)
        try:
            return self._debugger.command_text(command)
        except GdbError as error:
            raise self._give_up(error) from error

    def _move(self) -> None:
        self._debugger.generation.advance()
        self._stopped = False
        self._stop = None

    def _stay(self) -> None:
        """gdb refused to resume, so the kernel is where it was; what was read is read again."""
        self._stopped = True
        self._stop = self._before and self._before.renewed()

    def _give_up(self, error: GdbError) -> GdbError:
        """Take note that gdb did not resume the kernel, and return the error that says so."""
        self._stay()
        words = error.message.strip()
        why = "".join(subscriber.refused(words) for subscriber in self._subscribers)
        if not why:
            return error
        return GdbError(
            f"gdb did not let the kernel run{why}\ngdb's words: {words}",
            log=self._debugger.transcript,
            hint="the kernel is where it was, and runs when it is resumed again",
        )

    def adopt_resume(
        self, timeout: float | None = None, *, interrupted: bool = False
    ) -> str | None:
        """Take note of a resume that a script at gdb's prompt made, and wait for its stop.

        Of several stops the last counts: gdb has gone on from the others.

        :param timeout: seconds; the limit of the running test otherwise.
        :param interrupted: whether that may be of an interrupt, by :meth:`request_stop`: it is none
            that is left of an earlier one.
        :return: what gdb has printed since; None if there was no resume.
        :raises GdbError: a later command of the script failed; the kernel is stopped.
        """
        if not self._gdb.target_running and not self._gdb.has_events:
            return None
        self._before = self._stop or self._before
        self._move()
        self._interrupting |= interrupted
        with self._printing():
            self._gdb.sync_events()
            self.wait(timeout)
            if self._script_error is not None:
                raise refusal(self._script_error)
            return self._text

    @contextlib.contextmanager
    def restoring(
        self, reason: Reason, remove_breakpoints: Callable[[], None], *, keep_breakpoints: bool
    ) -> Iterator[None]:
        """Around what replaces the machine's state by a snapshot's, whether the kernel runs or not.

        gdb is made to believe that the kernel ran and stopped there, so that it drops whatever it
        knows. The relay must be detached: nothing of it reaches the stub.

        :param reason: why the kernel is stopped at the snapshot.
        :param remove_breakpoints: removes gdb's breakpoints; gdb takes the kernel for stopped.
        :param keep_breakpoints: whether a test restores; another test begins otherwise.
        :raises TimeoutError: gdb did not notice.
        """
        gdb, relay, deadline = self._gdb, self._relay, self._waits.deadline()
        # gdb may have said that it resumes, and the relay not yet have heard; or the other way.
        while gdb.target_running and relay.stop_reported and not deadline.expired:
            relay.wait_resumed(0.01)
        removed = not gdb.target_running
        if removed:
            self._move()
            remove_breakpoints()
            gdb.command(_CONTINUE)
            relay.wait_resumed(deadline.left)
        gdb.drop_events()
        yield
        self._await_restored()
        if not removed:
            remove_breakpoints()
        self._note_restored(reason, keep_breakpoints=keep_breakpoints)

    @contextlib.contextmanager
    def replacing(self, reason: Reason, connect: Callable[[], None]) -> Iterator[None]:
        """Around the same for another test, with another gdb.

        :param connect: connects a new gdb to the restored kernel, and ends the old one.
        :raises TimeoutError: it did not say that the kernel is stopped.
        """
        self._move()
        yield
        connect()
        self._await_restored()
        self._note_restored(reason, keep_breakpoints=False)

    def _await_restored(self) -> None:
        if self._gdb.next_event(self._waits.seconds) is None:
            raise TimeoutError(
                f"gdb did not notice within {self._waits.seconds:g} s that the machine was "
                "restored",
                log=self._debugger.transcript,
                hint="the next test gets a new machine",
            )

    def _note_restored(self, reason: Reason, *, keep_breakpoints: bool) -> None:
        self.record_stop(reason)
        event = Restored(keep_breakpoints)
        for subscriber in self._subscribers:
            subscriber.restored(event)

    # What gdb says of a stop

    def _take_event(self, timeout: float) -> bool:
        """Take note of a stop if there is one; True when the kernel is stopped."""
        deadline, syncing = Deadline(timeout), False
        while True:
            record = self._gdb.next_event(deadline.left)
            if record is None:
                if syncing:
                    self._interrupt_again()
                return False
            if record["type"] == "result":
                self._refused = self._give_up(refusal(record))
                return True
            if not record.get("synced") and self._may_go_on():
                record["synced"] = True
                self._gdb.sync_events(record)
                if not syncing:  # and no longer than that: gdb may go on again and again
                    deadline, syncing = Deadline(max(deadline.left, _LIVENESS)), True
                continue
            self._script_error = record.get("error")
            payload = of_the_first(record["payload"] or {})
            stop = StopRecord(payload, text=record.get("text", ""), passing=self._passing)
            if self._take_stop(stop):
                return True

    def _interrupt_again(self) -> None:
        """Ask once more for a stop, where gdb goes on from others: QEMU takes none in between."""
        if self._interrupting and self._gdb.target_running and self._debugger.door == "qemu":
            self.request_stop()

    def _may_go_on(self) -> bool:
        """Return whether gdb may go on from the stop that was taken, or has done so.

        The breakpoints that were hit are forgotten when gdb goes on, so they are looked at first.
        """
        return (
            any(subscriber.may_go_on() for subscriber in self._subscribers)
            or self._gdb.target_running
            or self._gdb.has_events
        )

    def _take_stop(self, record: StopRecord) -> bool:
        """Make a Stop of gdb's record; False for one that no test is to see."""
        if str(record.payload.get("reason", "")).startswith("exited"):
            # The relay's word for a closed port; QEMU itself may need a little longer to end.
            raise self._causes.first(MachineDied("QEMU closed kgdb's port"))
        self._stopped = True
        # Until more is known, and for good where reading the stack fails.
        self._stop = Stop(self._debugger, record.reason, source=self._source)
        for subscriber in self._subscribers:
            if subscriber.intercept(record):
                self._resume(self._continue, silent=True)
                return False
        names: list[str | None] = []

        def stack() -> list[str | None]:
            names.extend(self._debugger.request("stack_names")["names"])
            return names

        record.reason, record.signal = classify(record.payload, stack)
        if self._is_known(record, names):
            self._resume(self._continue, silent=True)
            return False
        self._interrupting = False
        self.hears_interrupts = True
        if self._stepping:
            self._stepping = False
            self._relay.set_stepping(False)
        self._text = record.text
        for subscriber in self._subscribers:
            subscriber.stopped(record)
        if record.reason in ("oops", "panic"):
            record.message = record.message or trap_name(self._debugger, record.signal)
        self._stop = stop = Stop(
            self._debugger,
            record.reason,
            breakpoint=record.breakpoint,
            signal=record.signal,
            message=record.message,
            watched=record.payload.get("value"),
            result=record.payload.get("gdb-result-var"),
            source=self._source,
            level=select_frame(self._debugger, record.reason),
        )
        for subscriber in self._subscribers:
            subscriber.recorded(stop)
        return True

    def _is_known(self, record: StopRecord, names: list[str | None]) -> bool:
        """Return whether a stop is the rest of one that a test has seen, or has not waited for."""
        if record.reason == "interrupt":
            own = asked_by_guest(names) and not self._interrupts_in_guest()
            by_sysrq = record.signal != "SIGINT"  # with which QEMU's stub answers interrupt()
            ours = self._breaks and self._debugger.door == "kgdb"
            if own or (by_sysrq and not ours):
                return False
            self._breaks = max(0, self._breaks - 1)
            # One that an earlier interrupt() sent, when a breakpoint came first.
            return not self._interrupting
        if record.reason != "oops":
            return False
        # The kernel notifies its debuggers of some exceptions twice: of the trap, and of the oops
        # (arch/x86/kernel/traps.c, do_error_trap; dumpstack.c, __die). The task is where it was,
        # and cannot come there again: the oops is its end. Of a general protection fault, both are
        # stops: only the second knows the address (traps.c, exc_general_protection).
        before, self._oops = self._oops, None
        with contextlib.suppress(GdbError):  # where even the task cannot be read
            place = self._debugger.numbers(
                "(unsigned long)$pc", "(unsigned long)$sp", "current->pid"
            )
            self._oops = (*place, self._debugger.generation.writes)
        # The second says SIGSEGV of each (dumpstack.c, __die), and of a general protection fault
        # the first does, too.
        first, self._oops_signal = self._oops_signal, record.signal
        return self._oops is not None and before == self._oops and first != "SIGSEGV"

    def frames(self) -> list[Frame]:
        """Return the stack of the stopped kernel, innermost first, while a stop is intercepted."""
        return Stop(self._debugger, "int3", source=self._source).backtrace()
