"""`make bench`: every figure beside its counterpart, measured in the same run, alternating.

Ends with status 1 when a figure could not be measured, with 2 when one misses its budget.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from tests.bench import builds, kernels, runs
from tests.bench.result import Bench, Row, machine, show

ROWS: list[tuple[str, Callable[[Bench], Row]]] = [
    ("warm-start", runs.warm_start),
    ("restore", kernels.restore),
    ("stops-1", lambda bench: kernels.stops(bench, smp=1)),
    ("stops-2", lambda bench: kernels.stops(bench, smp=2)),
    ("stops-qemu", lambda bench: kernels.stub_stops(bench, packets=False)),
    ("stops-qemu-packets", lambda bench: kernels.stub_stops(bench, packets=True)),
    ("reads", kernels.reads),
    ("idle", kernels.idle),
    ("unused", runs.unused),
    ("200-tests", runs.two_hundred),
    ("workers-guest", runs.workers_guest),
    ("workers-stops", runs.workers_stops),
    ("build-full", builds.full),
    ("build-nothing", builds.nothing_changed),
    ("build-one-file", builds.one_file),
]


def end(*_: object) -> None:
    """Let go of what was started, a build for one, and remove what was unpacked."""
    sys.exit(128 + signal.SIGTERM)


def main() -> int:
    signal.signal(signal.SIGTERM, end)
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--kernel", default="distro:6.1", metavar="SPEC")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--markdown", action="store_true", help="print the table for the README")
    parser.add_argument("--rounds", type=int, default=5, help="of each, alternating (default 5)")
    parser.add_argument("--only", action="append", metavar="ROW", help="glob; repeatable")
    parser.add_argument("--skip", action="append", default=[], metavar="ROW", help="the same")
    arguments = parser.parse_args()

    def chosen(name: str) -> bool:
        named = any(fnmatch.fnmatch(name, pattern) for pattern in arguments.only or ["*"])
        return named and not any(fnmatch.fnmatch(name, pattern) for pattern in arguments.skip)

    began = time.time()
    about = machine(arguments.kernel)
    print("\n".join(f"{name:8} {value}" for name, value in about.items()), flush=True)
    rows: list[Row] = []
    failed: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="pytest-bench-") as directory:
        bench = Bench(arguments.kernel, Path(directory), arguments.rounds)
        for name, measure in ROWS:
            if not chosen(name):
                continue
            print(f"measuring {name} …", file=sys.stderr, flush=True)
            try:
                row = measure(bench)
            except Exception:
                failed[name] = traceback.format_exc()
                print(failed[name], file=sys.stderr, flush=True)
                continue
            row.name = name
            rows.append(row)
            print(f"    {row.line()}", file=sys.stderr, flush=True)
    show(rows, markdown=arguments.markdown)
    if arguments.json:
        results = {
            "machine": about,
            "began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(began)),
            "seconds": round(time.time() - began),
            "rows": [row.as_dict() for row in rows],
            "failed": failed,
        }
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")
    left = [name for name, _ in ROWS if not chosen(name)]
    if left:
        print("not asked for: " + ", ".join(left))
    if failed:
        print("NOT MEASURED: " + ", ".join(failed))
        return 1
    missed = [row.name for row in rows if not row.met]
    if missed:
        print("over budget: " + ", ".join(missed))
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
