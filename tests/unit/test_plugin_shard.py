"""Shards: parts of the tests for several jobs, and the durations that they are made by."""

from __future__ import annotations

import json
import random
import threading
from pathlib import Path

import pytest
from test_plugin import Inner, inner  # noqa: F401  the fixture
from test_plugin_matrix import AXES, ids

from pytest_kgdb.errors import ConfigError
from pytest_kgdb.plugin._durations import load, merge
from pytest_kgdb.plugin._shard import Shard, assign, costs_of, parse

# -- the split ------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "2", "2/", "/4", "0/4", "5/4", "-1/4", "1/0", "a/b", "1/2/3"])
def test_what_is_no_shard(text: str) -> None:
    with pytest.raises(ValueError, match=r"I/N|there is no part"):
        parse(text)


def test_a_shard() -> None:
    assert parse(" 2/4 ") == Shard(2, 4)
    assert str(Shard(2, 4)) == "2/4"


@pytest.mark.parametrize("seed", range(20))
def test_the_longest_go_first_to_the_shortest_shard(seed: int) -> None:
    chance = random.Random(seed)
    costs = {f"test_{n}": chance.choice([0.0, 0.1, 1.0, chance.random() * 9]) for n in range(60)}
    for count in (1, 2, 3, 7, 80):
        shards = assign(costs, count)
        assert shards.keys() == costs.keys()
        assert set(shards.values()) <= set(range(1, count + 1))
        loads = [sum(costs[t] for t in shards if shards[t] == n) for n in range(1, count + 1)]
        # LPT's bound: the best split is no shorter than the mean, nor than the longest test.
        best = max(sum(costs.values()) / count, max(costs.values()))
        assert max(loads) <= best * (4 / 3) + max(costs.values()) / 3
        mixed = list(costs.items())
        chance.shuffle(mixed)
        assert assign(dict(mixed), count) == shards


def test_without_durations_each_has_as_many() -> None:
    costs = dict.fromkeys((f"test_{n}" for n in range(11)), 1.0)
    shards = list(assign(costs, 4).values())
    assert sorted(shards.count(n) for n in (1, 2, 3, 4)) == [2, 3, 3, 3]
    # So it is of tests that take no time.
    shards = list(assign(dict.fromkeys(costs, 0.0), 4).values())
    assert sorted(shards.count(n) for n in (1, 2, 3, 4)) == [2, 3, 3, 3]


def test_what_is_not_measured_costs_the_median() -> None:
    tests = [("a",), ("b",), ("c",), ("d",)]
    assert costs_of(tests, {"a": 1, "b": 5, "c": 9, "x": 99}) == ([1, 5, 9, 5], 1, 5)
    assert costs_of(tests[:2], {"x": 99}) == ([1, 1], 2, 1)


def test_the_more_precise_id_counts() -> None:
    tests = [("a[smp2]", "a"), ("b[smp2]", "b")]
    assert costs_of(tests, {"a": 1, "a[smp2]": 2, "b": 3}) == ([2, 3], 0, 2.5)


def test_what_a_matrix_measured_is_for_other_runs(inner: Inner) -> None:  # noqa: F811
    inner.pytester.makepyfile(
        test_it="""
        import time
        def test_a(kgdb, request): time.sleep(0.3 if "smp2" in request.node.name else 0.1)
        def test_b(kgdb): pass
        """
    )
    inner.run(*AXES[1:]).assert_outcomes(passed=4)
    kept = measured(inner)
    assert set(kept) == {f"test_it.py::test_{n}{c}" for n in "ab" for c in ("", "[smp1]", "[smp2]")}
    mean = (kept["test_it.py::test_a[smp1]"] + kept["test_it.py::test_a[smp2]"]) / 2
    assert kept["test_it.py::test_a"] == pytest.approx(mean, abs=0.002)
    (path,) = (inner.path / "cache/pytest-kgdb/durations").glob("*.json")
    for words in ((), AXES[1:], AXES):
        result = inner.run("--shard=1/2", f"--shard-durations={path}", *words)
        result.stdout.no_fnmatch_line("*without a duration*")
        result.stdout.fnmatch_lines(["kgdb: shard 1/2: * tests, about * s of * s"])


# -- durations ------------------------------------------------------------------------------------


def test_durations_are_merged(tmp_path: Path) -> None:
    path = tmp_path / "some/durations.json"
    merge(path, {"b": 2.0, "a": 1.0})
    merge(path, {"b": 3.0, "c": 0.5})
    assert load(path) == {"a": 1.0, "b": 3.0, "c": 0.5}
    assert json.loads(path.read_text())["schema"] == "pytest-kgdb durations 1"
    path.write_text("damaged")
    merge(path, {"a": 1.0})
    assert load(path) == {"a": 1.0}
    assert sorted(file.name for file in path.parent.iterdir()) == [".lock", "durations.json"]


def test_runs_that_end_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "durations.json"
    threads = [threading.Thread(target=merge, args=(path, {f"t{n}": n})) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert load(path) == {f"t{n}": n for n in range(16)}


def test_the_files_of_directories_that_are_gone_do_not_stay_for_ever(tmp_path: Path) -> None:
    for number in range(60):
        merge(tmp_path / f"{number}.json", {"a": 1.0})
    assert len(list(tmp_path.glob("*.json"))) == 50
    assert (tmp_path / "59.json").exists()


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "cannot read the durations in"),
        ("[]", 'it must have "schema"'),
        ('{"tests": {}}', 'it must have "schema"'),
        ('{"schema": "pytest-kgdb durations 1", "tests": {"a": "1"}}', "a: '1' is not a number"),
        ('{"schema": "pytest-kgdb durations 1", "tests": {"a": -1}}', "a: -1 is not a number"),
        ('{"schema": "pytest-kgdb durations 1", "tests": {"a": NaN}}', "a: nan is not a number"),
    ],
)
def test_files_that_are_none(tmp_path: Path, content: str, problem: str) -> None:
    (tmp_path / "file").write_text(content)
    with pytest.raises(ConfigError, match=problem):
        load(tmp_path / "file")


TIMED = """
    import time, pytest
    from fake_session import build_time
    @pytest.fixture(scope="module")
    def shared(): time.sleep(build_time.get("fixture", 0))
    @pytest.fixture
    def own(): time.sleep(0.2); yield; time.sleep(0.1)
    def test_first(kgdb, shared): pass
    def test_own(kgdb, own): time.sleep(0.1)
    @pytest.mark.skip
    def test_never(kgdb): pass
    def test_lost(kgdb):
        from pytest_kgdb.errors import MachineDied
        kgdb.fail(MachineDied("QEMU is gone"))
    def test_fails(kgdb): assert False
    def test_plain(): pass
"""
LONG = 2.0


def measured(inner: Inner) -> dict[str, float]:  # noqa: F811
    (path,) = (inner.path / "cache/pytest-kgdb/durations").glob("*.json")
    assert path.name.startswith(f"{inner.path.name}-")
    return load(path)


@pytest.mark.parametrize("workers", [(), ("-n2", "--dist=loadgroup")], ids=["alone", "workers"])
def test_what_is_measured(inner: Inner, workers: tuple[str, ...]) -> None:  # noqa: F811
    if workers:
        pytest.importorskip("xdist")
    inner.pytester.makepyfile(test_it=TIMED)
    inner.subprocess(*workers)
    names = ("first", "own", "fails", "plain")
    assert set(measured(inner)) == {f"test_it.py::test_{name}" for name in names}
    assert measured(inner)["test_it.py::test_own"] >= 0.4


def test_repetitions_are_one_test(inner: Inner) -> None:  # noqa: F811
    inner.pytester.makepyfile(test_it=TIMED)
    inner.run("--kgdb-repeat=3", "-k", "first or own")
    assert set(measured(inner)) == {"test_it.py::test_first", "test_it.py::test_own"}
    assert 0.4 <= measured(inner)["test_it.py::test_own"] < 0.8
    (path,) = (inner.path / "cache/pytest-kgdb/durations").glob("*.json")
    result = inner.run("--kgdb-repeat=3", "-k", "own", "--shard=1/2", f"--shard-durations={path}")
    result.stdout.no_fnmatch_line("*without a duration*")


def test_what_a_gate_runs_is_not_measured(inner: Inner) -> None:  # noqa: F811
    inner.pytester.makepyfile(test_it=TIMED)
    inner.run("--kgdb-record=it.jsonl", "-k", "first")
    assert not list(inner.path.glob("cache/pytest-kgdb/durations/*.json"))


@pytest.mark.parametrize("what", ["kernel", "boot", "fixture"])
def test_what_several_tests_share_is_not_a_tests_own(inner: Inner, what: str) -> None:  # noqa: F811
    inner.fake(f"fake_session.build_time[{what!r}] = {LONG}")
    inner.pytester.makepyfile(test_it=TIMED)
    inner.run("-k", "first")
    assert measured(inner)["test_it.py::test_first"] < LONG


def test_without_kernel_tests_nothing_is_kept(inner: Inner) -> None:  # noqa: F811
    inner.pytester.makepyfile("def test_plain(): pass")
    inner.run().assert_outcomes(passed=1)
    inner.pytester.makepyfile("def test_a(kgdb): pass")
    inner.run(kernel=None).assert_outcomes(skipped=1)
    assert not (inner.path / "cache").exists()


def test_durations_that_cannot_be_kept(inner: Inner) -> None:  # noqa: F811
    (inner.path / "cache").mkdir()
    (inner.path / "cache/pytest-kgdb").write_text("a file")
    inner.pytester.makepyfile("def test_a(kgdb): pass")
    result = inner.run()
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["kgdb: the tests' durations are not kept: *"])


# -- runs -----------------------------------------------------------------------------------------

GROUPED = """
    import pytest
    @pytest.mark.parametrize("n", range(7))
    def test_one(kgdb, n): pass
    class TestIt:
        @pytest.mark.xdist_group("pair")
        def test_two(self, kgdb): pass
    @pytest.mark.xdist_group("pair")
    def test_three(kgdb_session): pass
    def test_plain(): pass
"""


def durations(inner: Inner, **seconds: float) -> str:  # noqa: F811
    tests = {f"test_it.py::{test}": value for test, value in seconds.items()}
    text = json.dumps({"schema": "pytest-kgdb durations 1", "tests": tests})
    (inner.path / "durations.json").write_text(text)
    return "--shard-durations=durations.json"


@pytest.mark.parametrize("given", ["even", "measured"])
@pytest.mark.parametrize("words", [(), AXES, ("-k", "not plain")], ids=["", "matrix", "k"])
def test_each_test_is_in_one_shard(inner: Inner, given: str, words: tuple[str, ...]) -> None:  # noqa: F811
    inner.pytester.makepyfile(test_it=GROUPED)
    options = list(words)
    if given == "measured":
        options.append(durations(inner, **{"test_one[3]": 9.0, "test_plain": 0.5, "gone": 99.0}))
    every = ids(inner.run("--collect-only", "-q", *words))
    shards = [ids(inner.run("--collect-only", "-q", f"--shard={n}/3", *options)) for n in (1, 2, 3)]
    assert sorted(test for shard in shards for test in shard) == sorted(every)
    pairs = [
        n for n, shard in enumerate(shards) for test in shard if "two" in test or "three" in test
    ]
    assert len(set(pairs)) == 1


def test_it_says_what_it_runs(inner: Inner) -> None:  # noqa: F811
    inner.pytester.makepyfile(test_it=GROUPED)
    option = durations(
        inner, **{f"test_one[{n}]": 10.0 for n in range(6)}, **{"TestIt::test_two": 30.0}
    )
    result = inner.run("--shard=2/3", option)
    result.assert_outcomes(passed=4, deselected=6)
    result.stdout.fnmatch_lines(
        ["kgdb: shard 2/3: 4 of 10 tests, about 40 s of 120 s (3 without a duration, 10 s each)"]
    )
    inner.run("--shard=2/3").stdout.fnmatch_lines(
        ["kgdb: shard 2/3: 3 of 10 tests, without durations: as many in each"]
    )


def test_shards_of_workers(inner: Inner) -> None:  # noqa: F811
    pytest.importorskip("xdist")
    inner.pytester.makepyfile(test_it=GROUPED)
    numbers = []
    for n in (1, 2, 3):
        result = inner.subprocess(f"--shard={n}/3", "-n2", "--dist=loadgroup")
        numbers.append(result.parseoutcomes()["passed"])
        result.stdout.fnmatch_lines([f"kgdb: shard {n}/3: {numbers[-1]} of 10 tests, without *"])
    assert sum(numbers) == 10


@pytest.mark.parametrize("workers", [(), ("-n1",)], ids=["alone", "workers"])
def test_an_empty_shard_is_no_failure(inner: Inner, workers: tuple[str, ...]) -> None:  # noqa: F811
    if workers:
        pytest.importorskip("xdist")
    inner.pytester.makepyfile("def test_a(kgdb): pass")
    assert inner.subprocess("--shard=1/2", "--kgdb-require", *workers).ret == pytest.ExitCode.OK
    result = inner.subprocess("--shard=2/2", "--kgdb-require", *workers)
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["kgdb: shard 2/2: 0 of 1 tests, *"])
    # Where there is no test at all, there is none in a shard.
    result = inner.subprocess("--shard=2/2", "-k", "nonesuch", *workers)
    assert result.ret == pytest.ExitCode.NO_TESTS_COLLECTED


def test_shards_of_plain_tests(inner: Inner) -> None:  # noqa: F811
    inner.pytester.makepyfile("def test_a(): pass\ndef test_b(): pass")
    for n in (1, 2):
        inner.run(f"--shard={n}/2", kernel=None).assert_outcomes(passed=1, deselected=1)


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--shard=3/2"], "--shard: '3/2': there is no part 3 of 2"),
        (["--shard=x"], "--shard: 'x' is not I/N: *"),
        (["--shard-durations=x"], "--shard-durations: without --shard=I/N, nothing is shared out"),
        (["--shard=1/2", "--shard-durations=x"], "--shard-durations: there is no */x"),
        (["--shard=1/2", "--lf"], "--shard with --last-failed: *"),
        (["--shard=1/2", "--sw"], "--shard with --stepwise: *"),
    ],
)
def test_mistakes(inner: Inner, words: list[str], problem: str) -> None:  # noqa: F811
    inner.pytester.makepyfile("def test_a(kgdb): pass")
    result = inner.run(*words)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: {problem}"])


def test_the_hint_has_the_durations_that_were_measured(inner: Inner) -> None:  # noqa: F811
    inner.pytester.makepyfile("def test_a(kgdb): pass")
    inner.run()
    (path,) = (inner.path / "cache/pytest-kgdb/durations").glob("*.json")
    result = inner.run("--shard=1/2", "--shard-durations=mine.json")
    result.stderr.fnmatch_lines([f"hint: cp {path} {inner.path}/mine.json; or leave it out *"])
    path.rename(inner.path / "mine.json")
    inner.run("--shard=1/2", "--shard-durations=mine.json").assert_outcomes(passed=1)
