"""`make bench`, ended in the middle."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOON = 60.0  # seconds

# A make with a compiler, of which it knows nothing any more.
MAKE = """\
#!/bin/sh
sleep 600 &
echo $! > compiler
exec sleep 600
"""
BENCH = """
import sys
from pathlib import Path
from tests.bench import __main__ as bench
from tests.bench.builds import Trees

here = Path.cwd()
bench.machine = lambda kernel: {}
bench.ROWS = [("build", lambda _: Trees(here, here, here, here).make())]
sys.argv = ["bench"]
sys.exit(bench.main())
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_no_build_goes_on(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/make").write_text(MAKE)
    (tmp_path / "bin/make").chmod(0o755)
    (tmp_path / "tmp").mkdir()
    environment = os.environ | {
        "PATH": f"{tmp_path}/bin:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "TMPDIR": str(tmp_path / "tmp"),
    }
    bench = subprocess.Popen(
        [sys.executable, "-c", BENCH], cwd=tmp_path, env=environment, start_new_session=True
    )
    try:
        compiler = tmp_path / "compiler"
        deadline = time.monotonic() + SOON
        while not compiler.exists() or not compiler.read_text():
            assert bench.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        pidfd = os.pidfd_open(int(compiler.read_text()))
        with contextlib.closing(os.fdopen(pidfd)):
            bench.send_signal(number)
            status = bench.wait(SOON)
            deadline = time.monotonic() + SOON
            while Path(f"/proc/{compiler.read_text().strip()}/exe").exists():
                assert time.monotonic() < deadline, "the compiler goes on"
                time.sleep(0.02)
    finally:
        bench.kill()
        bench.wait()
    if number == signal.SIGTERM:
        assert status == 128 + signal.SIGTERM
    if number != signal.SIGKILL:
        assert list((tmp_path / "tmp").iterdir()) == []
