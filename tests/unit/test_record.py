"""`--kgdb-record`: that what it says of a run is all that took place, and what is read of it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from test_plugin import Inner, inner, records  # noqa: F401  the fixture

from pytest_kgdb.errors import ConfigError
from pytest_kgdb.gate import PytestDied, Runner
from pytest_kgdb.plugin._record import Recorder
from pytest_kgdb.plugin._status import decisive, status_of_phase
from pytest_kgdb.process import FileLock

REPEATED = ("--kgdb-repeat=4", "--kgdb-record=record")


class Child:
    """A pytest that has ended."""

    def __init__(self, status: int) -> None:
        self.status = status

    def poll(self) -> int:
        return self.status

    def tail(self, lines: int) -> str:
        return "+++ Timeout +++"


def runner(directory: Path) -> Runner:
    return Runner([], [], repeat=4, directory=directory)


def counts(lines: Sequence[dict[str, Any]]) -> dict[str, int]:
    return dict(Counter(line["test"].partition("::")[2] for line in lines))


def test_what_ends_pytest_early(inner: Inner) -> None:  # noqa: F811
    inner.pytester.makepyfile(
        """
        def test_a(kgdb): pass
        def test_b(kgdb, request): assert "repeat2" not in request.node.nodeid
        def test_c(kgdb): pass
        """
    )
    inner.run(*REPEATED, "-x")
    assert counts(records(inner.path / "record")) == {"test_a": 4, "test_b": 2}


def test_what_cannot_be_repeated(inner: Inner) -> None:  # noqa: F811
    inner.pytester.makepyfile(
        """
        import unittest
        import pytest
        @pytest.mark.usefixtures("kgdb_session")
        class TestUnit(unittest.TestCase):
            def test_unit(self): pass
        def test_a(kgdb): pass
        """
    )
    inner.run(*REPEATED)
    lines = records(inner.path / "record")
    assert counts(lines) == {"TestUnit::test_unit": 1, "test_a": 4}
    assert [line["repeated"] for line in lines] == [False, *[True] * 4]
    assert all(line["kernel"] for line in lines)


@pytest.mark.parametrize("number", [1, 3])
def test_parameters_that_are_named_as_repetitions(inner: Inner, number: int) -> None:  # noqa: F811
    inner.pytester.makepyfile(
        """
        import pytest
        def pytest_generate_tests(metafunc):  # before ours
            if "early" in metafunc.fixturenames:
                metafunc.parametrize("early", [1, 2], ids=["repeat1", "repeat2"])
        def test_early(kgdb, early): assert early == 2
        some = pytest.mark.parametrize("n", [1, 2], ids=["repeat1", "repeat2"])
        @some
        def test_a(kgdb, n): assert n == 1
        @some
        def test_plain(n): pass
        """
    )
    inner.run(f"--kgdb-repeat={number}", "--kgdb-record=record")
    lines = records(inner.path / "record")
    ids = ("[repeat1]", "[repeat2]")
    tests = {f"test_{name}{one}": number for name in ("a", "early") for one in ids}
    plain = dict.fromkeys((f"test_plain{one}" for one in ids), 1)
    assert counts(lines) == tests | plain
    statuses = {(line["test"].partition("::test_")[2], line["status"]) for line in lines}
    assert statuses == {
        *(("a[repeat1]", "PASS"), ("a[repeat2]", "FAIL")),
        *(("early[repeat1]", "FAIL"), ("early[repeat2]", "PASS")),
        *(("plain[repeat1]", "PASS"), ("plain[repeat2]", "PASS")),
    }


def test_a_kernel_that_is_asked_for_while_the_test_runs(inner: Inner) -> None:  # noqa: F811
    inner.fake("Session.splats = ['WARNING: at vfs_read']")
    inner.pytester.makepyfile(
        """
        import pytest
        @pytest.fixture
        def late(request): return request.getfixturevalue("kgdb")
        def test_body(request): request.getfixturevalue("kgdb_session")
        def test_again(request): request.getfixturevalue("kgdb_session")
        def test_fixture(late): pass
        def test_plain(request): request.getfixturevalue("tmp_path")
        def test_named(kgdb): pass
        """
    )
    inner.run(*REPEATED).assert_outcomes(passed=7, failed=1)
    lines = records(inner.path / "record")
    kernels = {line["test"].partition("::test_")[2]: line["kernel"] for line in lines}
    assert kernels == {
        **dict.fromkeys(("body", "again", "fixture", "named"), True),
        "plain": False,
    }
    # What the kernel says is the test's, also there.
    assert [line["test"].partition("::test_")[2] for line in lines if line["status"] == "FAIL"] == [
        "body"
    ]
    assert counts(lines)["test_body"] == 1


def test_a_worker_that_dies(inner: Inner) -> None:  # noqa: F811
    pytest.importorskip("xdist")
    inner.pytester.makepyfile(
        """
        import os
        def test_a(kgdb, request):
            if "repeat3" in request.node.nodeid:
                os._exit(9)
        """
    )
    inner.subprocess(*REPEATED, "-n1", "--kgdb-report=page").assert_outcomes(passed=3, failed=1)
    lines = records(inner.path / "record")
    assert sorted((line["repeat"], line["status"]) for line in lines) == [
        *((1, "PASS"), (2, "PASS"), (3, "MISS"), (4, "PASS")),
    ]
    (lost,) = (line for line in lines if line["status"] == "MISS")
    assert "crashed while running" in lost["message"]
    assert lost["kernel"]
    assert "1 error" in (inner.path / "page/index.html").read_text()


def test_a_pytest_that_dies(inner: Inner) -> None:  # noqa: F811
    inner.pytester.makepyfile(
        """
        import os
        def test_a(kgdb, request):
            if "repeat3" in request.node.nodeid:
                os._exit(1)  # as pytest-timeout's method `thread` does
        """
    )
    result = inner.subprocess("--kgdb-repeat=4", "--kgdb-record=base.jsonl")
    assert result.ret == 1
    child: Any = Child(result.ret)
    with pytest.raises(PytestDied, match=r"pytest ended on the base kernel before .* \(status 1\)"):
        runner(inner.path).result("base", child)
    assert runner(inner.path).done("base") == 2


@pytest.mark.parametrize("status", [-9, -11])
def test_a_pytest_that_is_killed(tmp_path: Path, status: int) -> None:
    child: Any = Child(status)
    with pytest.raises(PytestDied, match=rf"status {status}"):
        runner(tmp_path).result("base", child)


def test_the_runs_that_are_read(tmp_path: Path) -> None:
    line = {
        "test": "test_a",
        "repeat": 1,
        "repeated": True,
        "status": "FAIL",
        "kernel": True,
        "message": '{"finished"',
        "seconds": 0.1,
    }
    lines = [json.dumps(line), json.dumps({"finished": True})]
    record = tmp_path / "base.jsonl"
    record.write_text("".join(f"{one}\n" for one in lines))
    child: Any = Child(0)
    (runs,) = runner(tmp_path).result("base", child).values()
    assert [(run.status, run.message) for run in runs] == [("FAIL", '{"finished"')]
    assert runner(tmp_path).done("base") == 1
    record.unlink()
    with pytest.raises(PytestDied):
        runner(tmp_path).result("base", child)
    for text in ("", f"{lines[0]}\n", f'{lines[0]}\n{{"test": "te'):
        record.write_text(text)
        with pytest.raises(PytestDied):
            runner(tmp_path).result("base", child)


def phase(when: Any, outcome: Any = "passed", **attributes: object) -> pytest.TestReport:
    report = pytest.TestReport("test_a", ("", None, ""), {}, outcome, None, when)
    vars(report).update(attributes)
    return report


def test_a_record_is_locked_from_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who reads it takes one without a lock for that of a run that has ended."""
    path = tmp_path / "record"
    seen: list[bool] = []
    exclusive = FileLock.exclusive

    def lock(file: Path, *, create: bool) -> FileLock:
        seen.append(path.exists())
        return exclusive(file, create=create)

    monkeypatch.setattr(FileLock, "exclusive", lock)
    recorder = Recorder(path)
    assert seen == [False]
    with pytest.raises(BlockingIOError):
        FileLock.shared(path)
    assert list(tmp_path.iterdir()) == [path]
    recorder.pytest_unconfigure()
    FileLock.shared(path).release()


def test_a_record_behind_a_link_and_in_a_pipe(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "record")
    (tmp_path / "record").write_text("of an earlier run\n")
    Recorder(tmp_path / "link").pytest_unconfigure()
    assert (tmp_path / "record").read_text() == ""
    Recorder(Path("/dev/null")).pytest_unconfigure()
    assert Path("/dev/null").is_char_device()
    with pytest.raises(ConfigError, match=r"cannot write .*none/record: No such"):
        Recorder(tmp_path / "none" / "record")


def test_a_test_that_is_open_at_the_end(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "record")
    recorder.pytest_runtest_logreport(phase("setup", kgdb_status="PASS", kgdb_uses_kernel=True))
    recorder.pytest_sessionfinish()
    recorder.pytest_unconfigure()
    (line,) = records(tmp_path / "record")
    assert (line["status"], line["message"]) == ("MISS", "pytest ended while it ran")
    assert line["kernel"]


def test_the_status_of_a_phase() -> None:
    assert status_of_phase(phase("call", kgdb_status="ERROR")) == "ERROR"
    assert status_of_phase(phase("???", "failed")) == "MISS"
    assert status_of_phase(phase("call", "rerun")) == "FAIL"
    status, report = decisive([phase("setup"), phase("call", "failed"), phase("teardown")])
    assert (status, report.when) == ("FAIL", "call")


def test_which_tests_ran_none_of_some_lines(tmp_path: Path) -> None:
    lines = [
        {"test": test, "repeat": 1, "repeated": False, "status": status, "kernel": True}
        | {"message": "", "seconds": 0.1}
        | ({"shared": True} if test == "shares" else {})
        for test, status in (
            *(("runs", "PASS"), ("does not", "PASS"), ("fails", "FAIL"), ("shares", "PASS")),
        )
    ]
    text = "".join(f"{json.dumps(line)}\n" for line in lines)
    record = tmp_path / "covered.jsonl"
    covered = {"1": {"state": "ran", "tests": ["runs"]}, "2": {"state": "not reached"}}
    document = {"kernels": [{"lines": 2, "files": {"fs/open.c": {"lines": covered}}}]}
    (tmp_path / "covered.coverage.json").write_text(json.dumps(document))
    child: Any = Child(1)
    record.write_text(text)
    assert runner(tmp_path).covered("covered", child) is None, "it has died"
    record.write_text(f'{text}{{"finished": true}}\n')
    result = runner(tmp_path).covered("covered", child)
    assert result is not None
    assert (result.lines, result.without) == (2, {"does not"})


def test_a_machine_as_others_left_it(inner: Inner) -> None:  # noqa: F811
    inner.pytester.makepyfile(
        """
        import pytest
        def test_a(kgdb): pass
        def test_b(kgdb_session): pass
        @pytest.mark.kgdb(isolation="none")
        def test_c(kgdb): pass
        def test_d(): pass
        """
    )
    inner.run("--kgdb-record=record")
    shared = [line for line in records(inner.path / "record") if line.get("shared")]
    assert counts(shared) == {"test_b": 1, "test_c": 1}
