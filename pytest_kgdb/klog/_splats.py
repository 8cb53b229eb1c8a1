"""Splats, recognised in the kernel's log.

Tasks and CPUs print their lines interleaved. Where the log names the caller of each line, a splat
consists of the lines of one caller. Where it does not (a console without CONFIG_PRINTK_CALLER), a
line is assigned to the splat that has not come to the line's stage yet: all splats have their
stages in one order.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

from ._headlines import (
    CONTINUED,
    CUT_HERE,
    FATAL,
    HANDLER,
    LOOSE,
    RULE,
    WORDS,
    headline,
    stage_of,
)
from ._log import LogLine
from ._splat import Splat, frame_of, in_source

__all__ = ["find_splats"]

# Successive lines that match no pattern and are still taken for a part of a splat, if lines that
# do match follow: in kinds with free text, and in the others.
_FREE_LOOSE: Final = 40
_FREE: Final = 4
_LATE: Final = 2.0  # seconds after which a line that matches no pattern is not a part of a splat
_MAX_LINES: Final = 400

# Stages, as in _headlines.
_CUT: Final = 0
_FRAMES: Final = 5
_END: Final = 6

_COUNT: Final = re.compile(r"^kmemleak: \d+ new suspected")
_WHO: Final = (
    re.compile(
        r"\bCPU: (?P<cpu>\d+)(?: UID: \d+)? PID: (?P<pid>\d+) Comm: (?P<comm>.+?) "
        r"(?:Kdump: .*|Not t|T)ainted"
    ),
    re.compile(r"\bCPU: (?P<cpu>\d+)(?: UID: \d+)? PID: (?P<pid>\d+)"),
    re.compile(r"INFO: task (?P<comm>\S+):(?P<pid>\d+) blocked"),
    re.compile(r"lockup - CPU#(?P<cpu>\d+) stuck.*\[(?P<comm>[^\]]+):(?P<pid>\d+)\]"),
    re.compile(r"scheduling while atomic: (?P<comm>\S+)/(?P<pid>\d+)/"),
    re.compile(r"by task (?P<comm>\S+)/(?P<pid>\d+)"),
    re.compile(r"pid: (?P<pid>\d+), name: (?P<comm>\S+)"),
    re.compile(r'^(?:kmemleak: )?  comm "(?P<comm>[^"]*)", pid (?P<pid>\d+), jiffies'),
    re.compile(r"(?P<comm>\S+)/(?P<pid>\d+) is trying to (?:acquire|release) lock"),
)
# lib/bug.c and kernel/panic.c; UBSAN; KASAN and its like.
_WHERE: Final = (
    re.compile(r"\bat (?P<file>[\w./-]+\.[chS]):(?P<line>\d+)(?: (?P<function>[\w.$]+)\+0x)?"),
    re.compile(r"^UBSAN: .* in (?P<file>[\w./-]+\.[chS]):(?P<line>\d+)"),
    re.compile(r"^(?P<file>[\w./-]+\.[chS]):(?P<line>\d+) suspicious rcu"),  # lockdep
    re.compile(r"^BUG: K\w+: .* in (?P<function>[\w.$]+)"),
)
# Functions that lead to a report and are not at fault.
_REPORTERS: Final = re.compile(
    r"^(?:_?_?dump_stack\w*|show_stack|sched_show_task|print_\w+|kasan_\w+|kcsan_\w+|__kcsan_\w+"
    r"|__asan_\w+|__tsan_\w+|__kasan_\w+|ubsan_\w+|__ubsan_\w+|handle_overflow|__might_resched"
    r"|__might_sleep|__schedule_bug|debug_locks\w*|lockdep_\w+|check_\w+|panic|vpanic|die|oops_end"
    r"|(?:asm_)?(?:exc|sysvec)_\w+|__warn|report_bug|handle_bug|__schedule|schedule\w*"
    r"|refcount_warn_saturate|__list_(?:add|del_entry)_valid\w*)(?:\.\w+)*$"
)
# Functions by which others wait (kernel/sched, kernel/locking); schedule_timeout() is above.
_WAITERS: Final = re.compile(
    r"^(?:(?:__)?wait_for_co\w+|do_wait_for_common|io_schedule\w*|(?:__)?mutex_lock\w*"
    r"|down(?:_(?:read|write|interruptible|killable|timeout)\w*)?|__down\w*|rwsem_down_\w+"
    r"|(?:__)?percpu_(?:down|rwsem_wait)\w*"
    r"|(?:__)?rt_mutex_\w*lock\w*|bit_wait\w*|(?:out_of_line_|__)?wait_on_bit\w*"
    r"|(?:__)?flush_work\w*|kthread_stop)(?:\.\w+)*$"
)
# Functions that allocate for others (mm/slab_common.c, mm/util.c, mm/vmalloc.c, …).
_ALLOCATORS: Final = re.compile(
    r"^(?:_?_?k[vmz]*alloc\w*|k[mc]alloc\w*|_?_?krealloc\w*|kvrealloc\w*|_?_?kmem_cache_\w+|kmemdup\w*"
    r"|kstrdup\w*|kstrndup\w*|k?vasprintf\w*|kasprintf|devm_k\w+|_?_?do_kmalloc\w*|_?_?v[mz]alloc\w*"
    r"|slab_\w+|___slab_\w+|kmemleak_\w+|_?_?create_object\w*|_?_?alloc_pages\w*|pcpu_alloc\w*"
    r"|__alloc_percpu\w*|mempool_\w+)(?:\.\w+)*$"
)
# kernel/panic.c, print_tainted; since 6.12 the flags' names follow on a line of their own.
_TAINT: Final = re.compile(r"\bTainted: ([A-Z ]+?)(?= {1,}\S*\d|\s*$)")


def find_splats(lines: Iterable[LogLine]) -> list[Splat]:
    """Return the splats in a log's lines, in the order of their first lines.

    What a program has written to /dev/kmsg is no splat, whatever it says.
    """
    printers: dict[str | None, _Printer] = {}
    for line in lines:
        if line.by_program:
            continue
        printer = printers.setdefault(line.caller, _Printer(one_at_a_time=line.caller is not None))
        printer.take(line)
    splats = [report.splat() for printer in printers.values() for report in printer.reports]
    return sorted((splat for splat in splats if splat is not None), key=lambda splat: splat.seq)


class _Report:
    """A splat whose lines are still coming."""

    def __init__(self, line: LogLine) -> None:
        self.lines = [line]
        self.kept = 1  # lines up to the last one that matched a pattern
        self.stage = _CUT
        self.kind: str | None = None
        self.title = ""
        self.names: set[str] = set()  # of the lines that come only once
        self.ended = False
        self.fatal = False

    def named(self, kind: str, line: LogLine) -> None:
        self.kind, self.title = kind, line.text.strip()
        self.fatal = kind in FATAL

    def wants(self, line: LogLine) -> bool:
        """Whether a line that matches no pattern may be a part of it."""
        if self.kind is None:
            return len(self.lines) < _FREE  # the message of a WARN, before its headline
        if self.ended or len(self.lines) >= _MAX_LINES:
            return False
        last = self.lines[-1]
        if None not in (last.time, line.time) and line.time - last.time > _LATE:  # type: ignore[operator]
            return False
        return len(self.lines) - self.kept < (_FREE_LOOSE if self.kind in LOOSE else _FREE)

    def add(self, line: LogLine, stage: int | None, name: str | None = None) -> None:
        self.lines.append(line)
        if stage is not None:
            self.kept = len(self.lines)
            self.stage = max(self.stage, stage)
        if name is not None:
            self.names.add(name)

    def is_before_count(self, line: LogLine) -> bool:
        """Whether it is a leak in full, and the line counts the leaks (mm/kmemleak.c)."""
        return self.kind == "memory leak" and not self.ended and _COUNT.match(line.text) is not None

    def splat(self) -> Splat | None:
        if self.kind is None:
            return None  # nothing followed the `cut here`
        texts = [line.text for line in self.lines[: self.kept]]
        who = _first(_WHO, texts)
        where = _first(_WHERE, texts[: 6 if self.kind in LOOSE else None])
        frames = tuple(frame for text in texts if (frame := frame_of(text)) is not None)
        function = where.get("function")
        passed_over = _ALLOCATORS if self.kind == "memory leak" else _REPORTERS
        if function is None or _REPORTERS.match(function):
            if function is not None:
                where = {}  # file and line of the reporter
            names = [f.function for f in frames if f.reliable and not passed_over.match(f.function)]
            if self.kind == "hung task":
                names = [name for name in names if not _WAITERS.match(name)] or names
            if self.kind == "RCU stall":
                # The stack of RCU's own thread may come first, and that of a CPU has its RIP.
                names = [f.function for f in frames if not f.is_call] or names
            function = names[0] if names else None
        if self.kind == "interrupt":
            handlers = [match["handler"] for text in texts if (match := re.match(HANDLER, text))]
            function = handlers[0] if len(handlers) == 1 else None
        taint = next((match[1] for text in texts if (match := _TAINT.search(text))), "")
        return Splat(
            kind=self.kind,
            title=self.title,
            message=self._message(texts),
            text="\n".join(texts),
            time=self.lines[0].time,
            cpu=int(who["cpu"]) if "cpu" in who else None,
            pid=int(who["pid"]) if "pid" in who else None,
            comm=who.get("comm"),
            taint="".join(sorted(set(taint) - set(" G"))),
            function=in_source(function) if function is not None else None,
            file=where.get("file"),
            line=int(where["line"]) if "line" in where else None,
            frames=frames,
            seq=self.lines[0].seq,
            source=self.lines[0].source,
            is_fatal=self.fatal,
        )

    def _message(self, texts: list[str]) -> str:
        at = texts.index(self.title) if self.title in texts else 0
        words = [text for text in texts[:at] if not CUT_HERE.search(text) and not RULE.match(text)]
        if words:
            return "\n".join(words).strip()
        following = texts[at + 1] if at + 1 < len(texts) else ""
        # Before 5.10 and without `ud2`, the message of a WARN follows its headline (__warn).
        if self.kind == "WARN" and following and stage_of(following) is None:
            return following.strip()
        return self.title


class _Printer:
    """The lines of one caller, or of all where the log does not name them."""

    def __init__(self, *, one_at_a_time: bool) -> None:
        self._one = one_at_a_time
        self._open: list[_Report] = []
        self._rule: LogLine | None = None
        self._words: LogLine | None = None
        self.reports: list[_Report] = []

    def take(self, line: LogLine) -> None:
        rule, self._rule = self._rule, None
        words, self._words = self._words, None
        if CUT_HERE.search(line.text):
            report = self._begin(words or line)
            if words is not None:
                report.add(line, _CUT)
            return
        if RULE.match(line.text):
            self._take_rule(line)
            return
        kind = headline(line.text)
        if kind is not None:
            self._take_headline(kind, line, rule)
            return
        if WORDS.match(line.text):
            self._words = line
        stage, name = stage_of(line.text) or (None, None)
        owner = self._owner(line, stage, name)
        if owner is not None:
            owner.add(line, stage, name)
            owner.ended |= stage == _END

    def _begin(self, line: LogLine) -> _Report:
        # A caller prints one report at a time; others may still be printing theirs.
        self._open = [] if self._one else [other for other in self._open if not other.ended]
        report = _Report(line)
        self._open.append(report)
        self.reports.append(report)
        return report

    def _take_rule(self, line: LogLine) -> None:
        """Take a line of `=` or `-`, which begins, divides or ends a report."""
        report = self._open[-1] if self._open else None
        if report is not None and report.kind in LOOSE and not report.ended:
            report.add(line, report.stage)
            # lib/ubsan.c, mm/kasan/report.c, kernel/kcsan/report.c: one at each end.
            if line.text.startswith("=") and report.stage >= _FRAMES:
                self._open.remove(report)
            return
        self._rule = line

    def _take_headline(self, kind: str, line: LogLine, rule: LogLine | None) -> None:
        latest = self._open[-1] if self._open else None
        if latest is not None and latest.kind is None:
            # The lines after the `cut here` are its message.
            words = "\n".join(earlier.text for earlier in latest.lines)
            latest.add(line, _CUT)
            latest.named(_refined(kind, words), line)
            return
        # A panic that comes behind the last line of a WARN has another cause.
        led = latest is not None and (latest.fatal or not latest.ended)
        if latest is not None and (
            (kind == "panic" and led)
            or (kind in CONTINUED and not latest.ended and latest.kind != "WARN")
        ):
            # The second headline of an oops, or the panic that follows it.
            latest.add(line, latest.stage)
            latest.fatal = True
            return
        if kind == "memory leak" and latest is not None and latest.is_before_count(line):
            latest.add(line, _END)
            latest.ended = True
            return
        report = self._begin(rule or line)
        if rule is not None:
            report.add(line, _CUT)
        report.named(_refined(kind, line.text), line)

    def _owner(self, line: LogLine, stage: int | None, name: str | None) -> _Report | None:
        """Return the report that a line is a part of, None if there is none."""
        if stage is None:
            waiting = [report for report in self._open if report.wants(line)]
            return waiting[-1] if waiting else None
        cpu = re.match(r"CPU: (\d+)", line.text)
        if cpu is not None and not self._one:
            on_cpu = [
                report
                for report in self._open
                if f" CPU: {cpu[1]} " in report.title and "CPU" not in report.names
            ]
            if len(on_cpu) == 1:
                return on_cpu[0]
        if self._one:
            return self._open[-1] if self._open else None
        waiting = [
            report
            for report in self._open
            if report.stage <= stage
            and not report.ended
            and (name is None or name not in report.names)
        ]
        if not waiting:
            return self._open[-1] if self._open and not self._open[-1].ended else None
        return max(waiting, key=lambda report: report.stage)


def _refined(kind: str, words: str) -> str:
    """Return the kind of a WARN or BUG by its message (lib/refcount.c, lib/list_debug.c)."""
    match = re.search(WORDS.pattern, words, re.MULTILINE)
    if match is None:
        return kind
    return "refcount" if match[0].startswith("refcount") else "list corruption"


def _first(patterns: Sequence[re.Pattern[str]], texts: Sequence[str]) -> dict[str, str]:
    """Return the named groups of each pattern's first match; earlier patterns take precedence."""
    groups: dict[str, str] = {}
    for pattern in patterns:
        for text in texts:
            if match := pattern.search(text):
                new = {key: value for key, value in match.groupdict().items() if value is not None}
                groups = {**new, **groups}
                break
    return groups
