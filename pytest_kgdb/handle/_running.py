"""The handle's chapter of run control."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..actions import recorded
from ..debugger import c_string
from ._base import Base

if TYPE_CHECKING:
    from ..debugger import Stop

__all__ = ["Running"]


@recorded(
    "resume",
    "wait",
    "cont",
    "interrupt",
    "step",
    "next",
    "stepi",
    "finish",
    "until",
)
class Running(Base):
    """Resumes and stops the kernel."""

    @property
    def stopped(self) -> bool:
        """Whether the kernel is stopped; a stop that has arrived is taken note of."""
        attachment = self._slot.attachment
        return attachment is not None and attachment.run_control.stopped

    @property
    def stop(self) -> Stop | None:
        """The present stop; None while the kernel runs."""
        control = self._run_control
        return control.stop if control.stopped else None

    @property
    def generation(self) -> int:
        """The stop generation; equal numbers mean that the kernel has not run in between."""
        return self._slot.generation.number

    @property
    def moment(self) -> int:
        """:attr:`generation`, under its old name."""
        return self.generation

    def resume(self) -> None:
        """Let the kernel run and return at once.

        :raises KgdbError: it runs already, or gdb cannot resume it.
        """
        __tracebackhide__ = True
        self._run_control.resume()

    def wait(self, timeout: float | None = None) -> Stop:
        """Wait until the kernel stops; return the stop at once if it has.

        :param timeout: seconds; the marker's or `--kgdb-timeout` otherwise.
        :raises TimeoutError: it ran on; it still does.
        :raises KernelPanic: it panicked past the debugger.
        :raises MachineDied: QEMU is gone.
        """
        __tracebackhide__ = True
        return self._run_control.wait(timeout)

    def cont(self, timeout: float | None = None) -> Stop:
        """Let the kernel run until it stops; see :meth:`wait` for what it raises.

        :param timeout: seconds; the marker's or `--kgdb-timeout` otherwise.
        """
        __tracebackhide__ = True
        return self._run_control.cont(timeout)

    def interrupt(self, timeout: float | None = None) -> Stop:
        """Stop the running kernel where it is; a stopped one stays as it is.

        :param timeout: seconds; the marker's or `--kgdb-timeout` otherwise.
        :raises TimeoutError: it did not stop; the message says what its CPUs do.
        """
        __tracebackhide__ = True
        return self._run_control.interrupt(timeout)

    def step(self, timeout: float | None = None) -> Stop:
        """Step to another source line, into functions (gdb's `step`).

        :param timeout: seconds; the marker's or `--kgdb-timeout` otherwise.
        """
        __tracebackhide__ = True
        return self._run_control.step("-exec-step", timeout)

    def next(self, timeout: float | None = None) -> Stop:
        """Step to another source line, over functions (gdb's `next`).

        :param timeout: seconds; the marker's or `--kgdb-timeout` otherwise.
        """
        __tracebackhide__ = True
        return self._run_control.step("-exec-next", timeout)

    def stepi(self, timeout: float | None = None) -> Stop:
        """Step one instruction (gdb's `stepi`).

        :param timeout: seconds; the marker's or `--kgdb-timeout` otherwise.
        """
        __tracebackhide__ = True
        return self._run_control.step("-exec-step-instruction", timeout)

    def finish(self, timeout: float | None = None) -> Stop:
        """Run until the selected function returns; the stop has its `return_value`.

        :param timeout: seconds; the marker's or `--kgdb-timeout` otherwise.
        """
        __tracebackhide__ = True
        return self._run_control.step("-exec-finish", timeout)

    def until(self, location: str, timeout: float | None = None) -> Stop:
        """Run until a location, or until the current function returns.

        The location may be in this function or in one that it calls: gdb's `advance`, whose
        `until` knows only the present frame.

        :param timeout: seconds; the marker's or `--kgdb-timeout` otherwise.
        """
        __tracebackhide__ = True
        attachment = self._slot.require()
        attachment.run_control.require_stopped("until()")
        resolved = attachment.locations.resolve(location)
        command = f"-interpreter-exec console {c_string(f'advance {resolved}')}"
        return attachment.run_control.step(command, timeout)
