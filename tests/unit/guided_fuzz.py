"""Has atheris look for inputs that lead through lines of a reader that no other input has reached.

    python tests/unit/guided_fuzz.py [--seconds=60] [TARGET ...]

It begins with what is in corpus/TARGET. What breaks a reader is written to build/fuzz; the next
commit has it in the corpus. New inputs that break nothing stay in build/fuzz/TARGET, for the next
run.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

TOP = Path(__file__).parents[2]
NAMES = ("gdb", "packets", "kernel", "options", "patches", "guest")
TIMEOUT = 20  # seconds for one input


def run(name: str, seconds: int) -> int:
    """Fuzz one target in a process of its own: libFuzzer ends its process."""
    kept = TOP / "build/fuzz" / name
    kept.mkdir(parents=True, exist_ok=True)
    argv = [sys.executable, __file__, "--inside", name]
    argv += [str(kept), str(Path(__file__).parent / "corpus" / name)]
    argv += [f"-max_total_time={seconds}", f"-timeout={TIMEOUT}", "-rss_limit_mb=4096"]
    argv += [f"-artifact_prefix={kept.parent}/{name}-", "-print_final_stats=1"]
    print(f"fuzzing {name} for {seconds} s", flush=True)
    return subprocess.run(argv, cwd=TOP).returncode


def inside(name: str, arguments: list[str]) -> None:
    """Fuzz one target; does not return."""
    import atheris  # of the extra `fuzz`

    with atheris.instrument_imports(include=["pytest_kgdb"]):
        import fuzz_targets
    atheris.Setup([sys.argv[0], *arguments], fuzz_targets.TARGETS[name])
    atheris.Fuzz()


def main() -> int:
    """Fuzz the targets one after the other; 1 if something broke."""
    if sys.argv[1:2] == ["--inside"]:
        inside(sys.argv[2], sys.argv[3:])
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(NAMES))
    options = parser.parse_args()
    failed = [name for name in options.targets or NAMES if run(name, options.seconds) != 0]
    for name in failed:
        print(f"FAILED: {name}; its input is in build/fuzz/{name}-*", flush=True)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
