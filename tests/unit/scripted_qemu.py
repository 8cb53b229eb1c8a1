"""QEMU's gdb stub, as far as its packets go (gdbstub.c of QEMU 7.2)."""

from __future__ import annotations

from scripted_stub import BASE, CALLER, ENTRY, NAMES, PATH, STACK, ScriptedStub, pack_registers

SELF_JUMP = b"\xeb\xfe"


class ScriptedQemu(ScriptedStub):
    """A machine of two CPUs, both about to enter the function."""

    def __init__(self) -> None:
        super().__init__()
        self.cpus = {
            cpu: dict.fromkeys(NAMES, 0) | {"ip": ENTRY, "sp": STACK, "flags": 0x202}
            for cpu in (1, 2)
        }
        self.cpu = 1
        """The one that stopped."""
        self.running = False
        self.holds_steps = False
        """Whether a single step waits until a test calls :meth:`end_step`."""
        self.cut_short = 0
        """How many of the next single steps end before the instruction."""
        self.fails_to_write = False
        """Whether a disk's file has no room: the machine stops as soon as it runs."""
        self.single_steps: set[int] = set()
        """The CPUs that stop after their next instruction, whatever they are to do."""
        self.watchpoints: set[bytes] = set()
        self.hits: dict[int, int] = {}
        """What CPUs have hit, and QEMU has not reported: addresses of watchpoints."""
        self.physical = False
        """Whether addresses in packets are physical: the memory begins at 0 there."""
        self._selected = 1
        self._to_continue = 1  # which is reported at a stop that is no hit
        self._unlisted: list[bytes] = []

    @property
    def stop_reply(self) -> bytes:
        return b"T05thread:p01.%02x;" % self.cpu

    @property
    def registers(self) -> dict[str, int]:
        return self.cpus[self.cpu]

    def reply(self, payload: bytes) -> bytes | None:
        assert not self.running, "QEMU takes whatever comes now for an interrupt"
        kind = payload[:1]
        selected = self.cpus[self._selected]
        if payload == b"?":
            return self.stop_reply
        if payload == b"qfThreadInfo":
            self._unlisted = [b"mp01.02", b"l"]
            return b"mp01.01"
        if payload == b"qsThreadInfo":
            return self._unlisted.pop(0)
        if payload.startswith(b"Hg"):
            self._selected = int(payload.rpartition(b".")[2], 16)
            return b"OK"
        if payload.startswith(b"Hc"):
            self._to_continue = int(payload.rpartition(b".")[2], 16)
            return b"OK"
        if kind == b"g":
            return pack_registers(selected)
        if kind == b"P":
            number, _, digits = payload[1:].partition(b"=")
            value = int.from_bytes(bytes.fromhex(digits.decode()), "little")
            selected[NAMES[int(number, 16)]] = value
            return b"OK"
        if payload.startswith(b"qXfer:features:read:"):
            return b"m<"
        if payload.startswith(b"Qqemu.PhyMemMode:"):
            self.physical = payload.endswith(b"1")
            return b"OK"
        if kind in (b"m", b"M") and self.physical:
            where, _, rest = payload[1:].partition(b",")
            payload = b"%b%x,%b" % (kind, BASE + int(where, 16), rest)
        if kind in b"Zz" and payload[1:2] != b"0":
            (self.watchpoints.add if kind == b"Z" else self.watchpoints.discard)(payload[1:])
            return b"OK"
        if payload.startswith(b"vCont;"):
            actions = dict(map(_action, payload.split(b";")[1:]))
            self._resume({cpu: actions.get(cpu, actions.get(0, b"")) for cpu in self.cpus})
            return None
        if kind == b"c":
            self._resume(dict.fromkeys(self.cpus, b"c"))
            return None
        return super().reply(payload)

    def _resume(self, actions: dict[int, bytes]) -> None:
        self.running = True
        self.single_steps |= {cpu for cpu, action in actions.items() if action == b"s"}
        if self.fails_to_write:
            self.stop(self._to_continue, signal=b"17")
            return
        if self.single_steps and self.holds_steps:
            return
        moving = [cpu for cpu, action in actions.items() if action]
        while True:
            cpu = int(self.turns.popleft()) if self.turns else self.cpu
            if cpu not in moving:
                cpu = moving[0]
            if self._run(cpu):
                self.stop(cpu)
                return
            if not self.turns:
                return

    def end_step(self) -> None:
        """Have the CPU that is to execute one instruction do so, where `holds_steps` is set."""
        self._run(self.cpu)
        self.stop()

    def _run(self, cpu: int) -> bool:
        registers = self.cpus[cpu]
        while True:
            at = registers["ip"]
            if cpu in self.single_steps:  # which overrides breakpoints (accel/tcg/cpu-exec.c)
                if self.cut_short:
                    self.cut_short -= 1
                elif self.memory.read(at, 2) != SELF_JUMP:
                    registers["ip"] = PATH[at]
                return True
            if at in self.breakpoints:
                return True
            if at == CALLER:
                return False
            registers["ip"] = PATH[at]

    def stop(self, cpu: int | None = None, reason: bytes = b"", signal: bytes = b"05") -> None:
        """Stop the machine."""
        self.cpu = self._selected = self._to_continue = cpu or self.cpu
        self.running = False
        self.single_steps.discard(self.cpu)
        if signal == b"05" and self.cpu in self.hits:
            reason += b"watch:%x;" % self.hits.pop(self.cpu)
        self.send(b"T%bthread:p01.%02x;%b" % (signal, self.cpu, reason))

    def _on_interrupt(self) -> None:
        if self.running:
            self.stop(signal=b"02")


def _action(text: bytes) -> tuple[int, bytes]:
    """Return the CPU, 0 for the rest of them, and what it is to do."""
    kind, _, thread = text.partition(b":")
    cpu = thread.rpartition(b".")[2]
    return 0 if cpu in (b"", b"-1") else int(cpu, 16), kind
