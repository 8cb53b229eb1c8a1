"""Watchpoints on a stack, which end with the function in whose frame they lie."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Literal

from ._hooks import CONTINUE, STOP, Action, Event, Hook
from ._refusal import Refusal

__all__ = ["STACK_FRAMES", "StackWatches"]

STACK_FRAMES: Final = b"qKgdbStack:"
"""How a packet begins by which the agent in gdb names the frames of the stopped task."""

_WORD: Final = 8

# arch/x86/include/asm/page_64_types.h, THREAD_SIZE without KASAN: stacks are aligned to it.
_STACK: Final = 0x4000

_READ: Final = re.compile(rb"rwatch:([0-9a-f]+);")


@dataclass(frozen=True)
class _Exit:
    address: int
    register: Literal["sp", "bp"]
    offset: int
    """What is added to the register for the new stack pointer."""


@dataclass(frozen=True)
class _Frame:
    lowest: int
    slot: int
    """Where the return address lies, which `ret` reads: the last of the frame."""
    returns_to: int
    """The return address; 0 of the entry from user space, which nothing ends."""
    made_at: int
    """The instruction before which the function has made room for it; 0 if it has."""

    exits: tuple[_Exit, ...] = ()
    """Where the function frees its stack."""

    def holds(self, address: int, stack_pointer: int) -> bool:
        """Whether an address is in use by it, for what a CPU has as its stack pointer."""
        return stack_pointer <= address < self.slot + _WORD <= stack_pointer + _STACK


class StackWatches:
    """Inserts watchpoints, and ends those whose function frees its stack.

    The memory is other functions' from then on. The first exception would have the processor write
    there, and in that QEMU fails (data/gdb_watches.py). So there are hooks where the function frees
    its stack, to return or to jump to another function. Where they are refused or not known, the
    return address is watched as well: the stop behind `ret` comes before any exception.

    Before the function has made room, an exception would come there as well: that is waited for.

    :param request: sends the target a `Z` or `z` packet for hardware, and returns its reply.
    :param add_hook: has a hook called at an address; False if that is refused.
    :param remove_hook: undoes that.
    :param request_elsewhere: does the same for what is not in a function's frame.
    :param misses_atomics: whether atomic instructions are missed where the return address, which is
        read, is watched as well (:class:`.WatchedPages`).
    """

    def __init__(
        self,
        request: Callable[[bytes], bytes],
        add_hook: Callable[[int, Hook], bool],
        remove_hook: Callable[[int, Hook], None],
        *,
        request_elsewhere: Callable[[bytes], bytes],
        misses_atomics: bool = False,
    ) -> None:
        self._request = request
        self._request_elsewhere = request_elsewhere
        self._misses_atomics = misses_atomics
        self._atomics: set[int] = set()  # the addresses of what is an atomic_t
        self._add_hook = add_hook
        self._hooked: set[tuple[_Exit, _Frame]] = set()
        self.stops: Callable[[], bool] = lambda: True
        """Whether the kernel is to stop where a function ends one: not while gdb steps."""
        self._remove_hook = remove_hook
        self._waiting: dict[int, set[bytes]] = {}  # what is inserted when there is room, likewise
        self._offered: list[_Frame] = []
        self._frames: dict[int, _Frame] = {}  # of what is watched, by its address
        self._inserted: dict[int, set[bytes]] = {}  # the same, as `Z` has it
        self._ended: set[int] = set()  # what gdb may still want watched
        self._news: dict[int, bool] = {}
        self._refusal: Refusal | None = None

    # What gdb asks

    def offer(self, payload: bytes) -> None:
        """Take note of the frames of the stopped task, for the watchpoint that gdb has made.

        The packet begins with its address, and whether an `atomic_t` is there, or one of its kin.
        """
        first, *frames = payload[len(STACK_FRAMES) :].split(b";")
        watched, is_atomic = (int(number, 16) for number in first.split(b","))
        (self._atomics.add if is_atomic else self._atomics.discard)(watched)
        self._offered = [_frame(frame) for frame in frames if frame]
        for address in list(self._frames):
            frame = self._offered_for(address)
            if frame is not None:
                before = self._frames[address]
                # One that is called from the same place may be another function's.
                if frame.exits or before.slot != frame.slot:
                    self._unhook(before)
                    self._frames[address] = frame
                self._ended.discard(address)
                self._news.pop(address, None)

    def _offered_for(self, address: int) -> _Frame | None:
        for frame in self._offered:
            if frame.lowest <= address < frame.slot + _WORD:
                return frame
        return None

    def insert(self, payload: bytes, stack_pointer: Callable[[], int | None]) -> bytes:
        """Do what a `Z2`, `Z3` or `Z4` packet asks, and return the reply.

        :param stack_pointer: that of the task that stopped; None where it is not known.
        """
        key = payload[1:]
        address = _address(payload)
        if address in self._ended:
            return b"OK"  # it does not watch any more
        frame = self._frames.get(address) or self._offered_for(address)
        if frame is None:
            pointer = stack_pointer()
            if pointer is not None and address // _STACK == pointer // _STACK:
                self._refusal = Refusal(
                    f"{address:#x} is on the stack of the task that stopped, and in no function's "
                    "frame that would end it"
                )
                return b"E0e"
            return self._request_elsewhere(payload)
        if not frame.returns_to:
            return self._request_elsewhere(payload)
        if self._misses_atomics and address in self._atomics:
            self._refusal = Refusal(
                "with several CPUs, QEMU before 8.0 misses atomic instructions (`lock incl`) on a "
                "stack, where the return address is watched as well; and what is at "
                f"{address:#x} is an atomic_t",
                "run the test on one CPU (--kgdb-smp=1), or with a newer QEMU",
            )
            return b"E0e"
        pointer = stack_pointer()
        if frame.made_at and (pointer is None or not frame.holds(address, pointer)):
            hooked = address in self._waiting
            if not hooked and not self._add_hook(frame.made_at, self._on_made):
                self._refusal = Refusal(
                    f"{address:#x} is on the stack, where the function has still to make room for "
                    f"it, and no breakpoint can be at {frame.made_at:#x}, where it has"
                )
                return b"E0e"
            self._frames[address] = frame
            self._waiting.setdefault(address, set()).add(key)
            return b"OK"
        return self._insert(address, key, frame)

    def _insert(self, address: int, key: bytes, frame: _Frame) -> bytes:
        reply = self._request(b"Z" + key)
        if reply != b"OK":
            return reply
        if not self._watched_with(frame):
            reply = self._request(b"Z" + _guard(frame))
            if reply != b"OK":
                self._request(b"z" + key)
                return reply
        for way in frame.exits:
            pair = way, frame
            if pair not in self._hooked and self._add_hook(way.address, self._on_exit):
                self._hooked.add(pair)
        self._frames[address] = frame
        self._inserted.setdefault(address, set()).add(key)
        return reply

    def _on_exit(self, event: Event) -> Action:
        """End what a function is about to free."""
        registers = event.registers
        ended = False
        for way, frame in list(self._hooked):
            if way.address != event.address:
                continue
            freed = registers[way.register] + way.offset
            addresses = [
                at
                for at, of in self._frames.items()
                if of == frame and at < freed and frame.holds(at, registers["sp"])
            ]
            keys = self._end(addresses, by_return=self.stops())
            for key in sorted(keys):
                self._request(b"z" + key)
            ended = ended or bool(keys)
        return STOP if ended and self.stops() else CONTINUE

    def make(self, stack_pointer: int) -> None:
        """Insert what there is room for, now that the stack pointer of a task is known."""
        for address, keys in list(self._waiting.items()):
            frame = self._frames[address]
            if frame.holds(address, stack_pointer):
                self._forget_waiting(address)
                for key in sorted(keys):
                    self._insert(address, key, frame)

    def _on_made(self, event: Event) -> Action:
        self.make(event.registers["sp"])
        return CONTINUE

    def _forget_waiting(self, address: int) -> None:
        del self._waiting[address]
        self._remove_hook(self._frames[address].made_at, self._on_made)

    def take_refusal(self) -> Refusal | None:
        """Return, once, why one was refused last; None if none was."""
        refusal, self._refusal = self._refusal, None
        return refusal

    def remove(self, payload: bytes) -> bytes:
        """Do what a `z2`, `z3` or `z4` packet asks, and return the reply."""
        key, address = payload[1:], _address(payload)
        if address not in self._frames:
            return self._request_elsewhere(payload)
        if key in self._waiting.get(address, ()):
            self._waiting[address].discard(key)
            if not self._waiting[address]:
                self._forget_waiting(address)
            return b"OK"
        if key not in self._inserted.get(address, ()):
            return b"OK"
        reply = self._request(payload)
        self._inserted[address].discard(key)
        frame = self._frames[address]
        if not self._watched_with(frame):
            self._request(b"z" + _guard(frame))
        return reply

    def _watched_with(self, frame: _Frame) -> bool:
        return any(self._inserted.get(at) for at, of in self._frames.items() if of == frame)

    # Stops

    @property
    def waiting(self) -> bool:
        """Whether something is to be watched for which there is no room yet."""
        return bool(self._waiting)

    @property
    def active(self) -> bool:
        """Whether something on a stack is watched."""
        return any(self._inserted.values())

    def guard_read(self, stop_reply: bytes) -> int | None:
        """Return where the return address lies that a stop reply says was read; None for none."""
        if not self._frames:
            return None
        match = _READ.search(stop_reply)
        slot = int(match[1], 16) if match is not None else None
        return slot if any(frame.slot == slot for frame in self._frames.values()) else None

    def without_guards(self, stop_reply: bytes) -> bytes:
        """Return a stop reply as gdb is to have it, which has no watchpoint there."""
        return stop_reply if self.guard_read(stop_reply) is None else _READ.sub(b"", stop_reply)

    @staticmethod
    def has_returned(slot: int, stack_pointer: int) -> bool:
        """Whether a CPU that has read a return address did so by `ret`."""
        return stack_pointer == slot + _WORD

    def returned(self, slot: int) -> set[bytes]:
        """End those of a function that has returned; return what is to be removed, as for `z`."""
        addresses = [at for at, frame in self._frames.items() if frame.slot == slot]
        return self._end(addresses, by_return=True)

    def left(self, stack_pointer: int) -> set[bytes]:
        """End those beyond the stack pointer of the task that stopped; return the same.

        A function frees its frame some instructions before it returns.
        """
        addresses = [
            at for at in self._frames if at not in self._waiting and 0 < stack_pointer - at < _STACK
        ]
        return self._end(addresses, by_return=False)

    def end_stack(self, stack_pointer: int) -> set[bytes]:
        """End those on the stack of a task that has oopsed; return the same.

        It ends without a return.
        """
        addresses = [at for at in self._frames if at // _STACK == stack_pointer // _STACK]
        return self._end(addresses, by_return=False)

    def replaced(self, read: Callable[[int, int], bytes | None]) -> None:
        """Take note of another state of the machine, in which none is inserted.

        :param read: reads memory; None for what is not there.
        """
        self._inserted.clear()
        self._offered.clear()
        for address in list(self._waiting):
            self._forget_waiting(address)
        for frame in {frame for _, frame in self._hooked}:
            self._unhook(frame)
        for address in self._ended:
            self._frames.pop(address, None)
        self._ended.clear()
        for address, frame in self._frames.items():
            data = read(frame.slot, _WORD)
            if data is None or int.from_bytes(data, "little") != frame.returns_to:
                self._ended.add(address)
                self._news[address] = False

    def take_ended(self) -> dict[int, bool]:
        """Return, once, what has ended: the addresses, and whether the stop is a `ret`'s."""
        news, self._news = self._news, {}
        return news

    def _end(self, addresses: Iterable[int], *, by_return: bool) -> set[bytes]:
        keys: set[bytes] = set()
        for address in addresses:
            if address in self._ended:
                continue
            inserted = self._inserted.pop(address, set())
            self._ended.add(address)
            self._news[address] = by_return
            keys |= inserted
            frame = self._frames[address]
            if not self._watched_with(frame):
                if inserted:
                    keys.add(_guard(frame))
                self._unhook(frame)
        return keys

    def _unhook(self, frame: _Frame) -> None:
        for way, of in list(self._hooked):
            if of == frame:
                self._hooked.discard((way, of))
                self._remove_hook(way.address, self._on_exit)


def _frame(text: bytes) -> _Frame:
    numbers, *exits = text.split(b":")
    ways = []
    for way in exits:
        address, register, offset = way.split(b",")
        ways.append(_Exit(int(address, 16), "sp" if register == b"s" else "bp", int(offset, 16)))
    lowest, slot, returns_to, made_at = (int(number, 16) for number in numbers.split(b","))
    return _Frame(lowest, slot, returns_to, made_at, tuple(ways))


def _guard(frame: _Frame) -> bytes:
    return b"3,%x,%x" % (frame.slot, _WORD)


def _address(payload: bytes) -> int:
    return int(payload.split(b",")[1], 16)
