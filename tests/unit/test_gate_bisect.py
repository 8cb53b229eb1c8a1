"""Which commit broke a test: real git, and tests whose outcome is made up for each commit."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from pytest_kgdb.errors import BuildError, ConfigError
from pytest_kgdb.gate import (
    Bisection,
    Commit,
    Conclusion,
    PytestDied,
    State,
    judge_commit,
    repeats_for,
)
from pytest_kgdb.gate._verdicts import Run
from pytest_kgdb.progress import Silent
from pytest_kgdb.settings import Settings, make_settings

GOOD, BAD = Run("PASS"), Run("FAIL", "assert 17 == 42")
SKIPPED, LOST = Run("SKIP", "not here"), Run("MISS", "MachineDied")


class Child:
    """A pytest that has ended."""

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def poll(self) -> int:
        return 0


def _data(text: str) -> list[str]:
    """Return a text for git-fast-import(1)."""
    return [f"data {len(text)}", text]


# The runs of `test_it`, or of each test; what the builder raises.
Outcome = list[Run] | dict[str, list[Run]] | str | ConfigError


class World:
    """A repository with commits, and what the tests come to on each."""

    repeat = sure = asked = 1

    def __init__(self, directory: Path, commits: int, *init: str) -> None:
        self.tree = directory / "linux"
        self.tree.mkdir()
        (self.tree / "Makefile").touch()
        (self.tree / "Kconfig").touch()
        (self.tree / "arch/x86").mkdir(parents=True)
        (self.tree / "arch/x86/Kconfig").touch()
        self.git("init", "-q", *init)
        names = [str(path) for path in ("Makefile", "Kconfig", "arch/x86/Kconfig")]
        stream = []
        for number in range(commits):
            stream += [
                "commit refs/heads/main",
                "committer A <a@example.org> 1 +0000",
                *_data(f"commit {number}"),
                *(line for name in names for line in (f"M 644 inline {name}", *_data(""))),
                "M 644 inline number",
                *_data(str(number)),
            ]
        self.git("fast-import", "--quiet", text="\n".join(stream))
        self.git("symbolic-ref", "HEAD", "refs/heads/main")
        self.git("reset", "-q", "--hard")
        self.revisions = self.git("rev-list", "--reverse", "HEAD").split()
        self.directory = directory / "search"
        self.directory.mkdir()
        self.outcome: Callable[[int], Outcome] = lambda number: [GOOD]
        self.tested: list[int] = []
        self.interrupt_at: int | None = None

    def git(self, *words: str, text: str = "") -> str:
        identity = ("-c", "user.name=A", "-c", "user.email=a@example.org")
        argv = ["git", *identity, *words]
        done = subprocess.run(
            argv, cwd=self.tree, check=True, capture_output=True, text=True, input=text
        )
        return done.stdout.strip()

    # As Runner and KernelBuilder

    def build(self, settings: Settings) -> object:
        self.now = self.revisions.index(settings.kernel[0].rpartition("@")[2])
        outcome = self.outcome(self.now)
        if isinstance(outcome, str):
            raise BuildError(outcome)
        if isinstance(outcome, ConfigError):
            raise outcome
        return None

    def start(self, name: str, settings: Settings, *, repeat: int) -> Any:
        self.asked = repeat
        if len(self.tested) == self.interrupt_at:
            self.interrupt_at = None
            raise KeyboardInterrupt
        self.tested.append(self.now)
        return Child()

    def wait(self, children: object, say: object) -> None:
        pass

    def result(self, name: str, child: object) -> dict[str, list[Run]]:
        outcome = self.outcome(self.now)
        assert isinstance(outcome, (list, dict))
        return outcome if isinstance(outcome, dict) else {"test_it": outcome}

    def search(self, good: int = 0, bad: int = -1, **options: Any) -> Conclusion:
        runner: Any = self
        return Bisection(
            self.tree,
            self.revisions[good],
            self.revisions[bad],
            settings=make_settings(kernel=[str(self.tree)]),
            directory=self.directory,
            runner=runner,
            builder=self,
            progress=Silent(),
            **options,
        ).run()


@pytest.mark.parametrize("commits", [2, 16, 64])
@pytest.mark.parametrize("place", [0.1, 0.5, 1.0])
def test_the_culprit(tmp_path: Path, commits: int, place: float) -> None:
    world = World(tmp_path, commits)
    culprit = max(1, int(place * (commits - 1)))
    world.outcome = lambda number: [BAD] if number >= culprit else [GOOD]
    conclusion = world.search()
    assert conclusion.culprit == world.revisions[culprit]
    assert f"# first bad commit: [{conclusion.culprit}]" in conclusion.log
    assert world.tested[:2] == [commits - 1, 0]
    *tested, one, two = world.tested
    assert len(tested) == len(set(tested))
    assert (one, two) == (culprit, culprit - 1), "both are tested once more"
    assert world.git("status", "--porcelain") == ""
    assert world.git("worktree", "list").count("\n") == 0


def test_a_repository_with_sha256(tmp_path: Path) -> None:
    world = World(tmp_path, 8, "--object-format=sha256")
    assert len(world.revisions[0]) == 64
    world.outcome = lambda number: [BAD] if number >= 5 else [GOOD]
    assert world.search().culprit == world.revisions[5]
    world.outcome = lambda number: (
        [BAD] if number >= 5 else "it does not compile" if number else [GOOD]
    )
    conclusion = world.search()
    assert conclusion.culprit is None
    assert set(conclusion.suspects) == set(world.revisions[1:6])


@pytest.mark.parametrize("culprit", range(1, 16))
def test_commits_that_cannot_be_tested(tmp_path: Path, culprit: int) -> None:
    """One does not build, one does not boot, and on every third the test varies."""
    world = World(tmp_path, 16)

    def outcome(number: int) -> list[Run] | str:
        if number == 5:
            return "it does not compile"
        if number == 9:
            return [Run("MISS", "BootError: the kernel panicked")]
        if number % 3 == 1 and number != 1:
            return [BAD, GOOD]
        return [BAD] * 2 if number >= culprit else [GOOD] * 2

    world.outcome = outcome
    conclusion = world.search(bad=14) if culprit < 15 else world.search(good=2, bad=14)
    if culprit == 15:
        assert conclusion.culprit is None
        assert "is not bad: the tests pass there" in conclusion.why
    elif conclusion.culprit is None:
        assert world.revisions[culprit] in conclusion.suspects
    else:
        assert conclusion.culprit == world.revisions[culprit]


def test_why_a_commit_does_not_build(tmp_path: Path) -> None:
    world = World(tmp_path, 4)
    error = "fs/open.c:7:2: error: 'x' undeclared (first use in this function)"
    what = "linux@123 (minimal) does not compile:"
    message = f"{what}\nfs/open.c: In function 'do_open':\n{error}\n    7 |  x = 1;\n"
    world.outcome = lambda number: [GOOD if number == 0 else BAD] if number in (0, 3) else message
    conclusion = world.search()
    reasons = {one.reason for one in conclusion.commits if one.state is State.SKIP}
    assert reasons == {f"{what} {error}"}


def test_ends_that_are_not_what_they_were_said_to_be(tmp_path: Path) -> None:
    world = World(tmp_path, 4)
    assert "the bad end" in world.search().why
    world.outcome = lambda number: [BAD]
    assert "the good end" in world.search().why


def test_a_commit_that_fails_for_another_reason_is_not_the_culprit(tmp_path: Path) -> None:
    world = World(tmp_path, 8)
    other = Run("FAIL", "KernelPanic: another bug")
    world.outcome = lambda number: [BAD] if number >= 6 else [other] if 2 < number < 5 else [GOOD]
    assert world.search().culprit in (world.revisions[6], None)
    world.outcome = lambda number: [BAD] if number >= 4 else [other] if number == 3 else [GOOD]
    conclusion = World.search(world)
    assert conclusion.culprit is None
    assert {world.revisions[3], world.revisions[4]} <= set(conclusion.suspects)


@pytest.mark.parametrize("at", range(8))
def test_a_search_that_was_interrupted_goes_on(tmp_path: Path, at: int) -> None:
    world = World(tmp_path, 16)
    world.outcome = lambda number: [BAD] if number >= 11 else [GOOD]
    world.interrupt_at = at
    with pytest.raises(KeyboardInterrupt):
        world.search()
    assert world.search().culprit == world.revisions[11]
    assert sorted(world.tested) == sorted([*set(world.tested), 10, 11])


def test_a_commit_on_which_the_test_is_skipped_is_not_good(tmp_path: Path) -> None:
    """Another test passes there; it also does on the bad end."""
    world = World(tmp_path, 16)

    def outcome(number: int) -> Outcome:
        its = SKIPPED if number in range(5, 10) else BAD if number >= 5 else GOOD
        return {"test_it": [its], "test_other": [GOOD], "test_elsewhere": [SKIPPED]}

    world.outcome = outcome
    conclusion = world.search()
    assert conclusion.culprit is None
    assert conclusion.suspects
    assert set(world.revisions[5:11]) >= set(conclusion.suspects) >= {world.revisions[5]}
    assert "test_it was skipped: not here" in {one.reason for one in conclusion.commits}


@pytest.mark.parametrize("lost", [15, 0, 7])
def test_what_the_machine_did_is_not_kept(tmp_path: Path, lost: int) -> None:
    """A search that has come to something is over, whatever that is."""
    world = World(tmp_path, 16)
    world.outcome = lambda number: [LOST] if number == lost else [BAD if number >= 7 else GOOD]
    conclusion = world.search()
    assert conclusion.culprit is None
    world.outcome = lambda number: [BAD if number >= 7 else GOOD]
    assert world.search().culprit == world.revisions[7]


@pytest.mark.parametrize("outcome", [[LOST], "make was killed"])
def test_what_the_machine_did_before_an_interruption_is_tested_again(
    tmp_path: Path, outcome: Outcome
) -> None:
    world = World(tmp_path, 16)
    world.outcome = lambda number: [BAD if number >= 7 else GOOD]
    world.search()
    first = world.tested[2]
    world.tested.clear()
    world.outcome = lambda number: outcome if number == first else [BAD if number >= 7 else GOOD]
    world.interrupt_at = 3 if isinstance(outcome, list) else 2
    with pytest.raises(KeyboardInterrupt):
        world.search()
    world.outcome = lambda number: [BAD if number >= 7 else GOOD]
    conclusion = world.search()
    assert conclusion.culprit == world.revisions[7]
    assert State.SKIP not in {one.state for one in conclusion.commits}
    assert world.tested.count(15) == 1


def test_a_commit_without_a_symbol_is_gone_round(tmp_path: Path) -> None:
    world = World(tmp_path, 16)
    error = ConfigError("CONFIG_NEW did not survive")
    world.outcome = lambda number: error if 2 < number < 6 else [BAD if number >= 11 else GOOD]
    assert world.search().culprit == world.revisions[11]
    for end in (15, 0):  # what was tested before the error is kept
        world.outcome = lambda number, end=end: (  # type: ignore[misc]
            error if number == end else [BAD if number >= 11 else GOOD]
        )
        with pytest.raises(ConfigError, match="CONFIG_NEW"):
            world.search()


class Chance:
    """A search in which one commit does not build, one does not boot, and one varies at a rate."""

    def __init__(self, world: World, seed: int) -> None:
        self.world = world
        self.random = random = Random(seed)
        last = len(world.revisions) - 1
        self.culprit = random.randint(1, last)
        inner = range(1, last)
        self.unbuilt, self.dead, self.flaky = random.sample(inner, 3)
        self.rate = random.choice([0.1, 0.5, 0.9])
        # As with --repeat: what chance has led astray is seen at the end.
        world.repeat = random.choice([1, 3, repeats_for(0.99)])
        world.sure = repeats_for(0.99)

    def outcome(self, number: int) -> list[Run] | str:
        if number == self.unbuilt:
            return "it does not compile"
        if number == self.dead:
            return [Run("MISS", "BootError: the kernel panicked")]
        rate = self.rate if number == self.flaky else float(number >= self.culprit)
        return [BAD if self.random.random() < rate else GOOD for _ in range(self.world.asked)]

    def check(self) -> bool:
        """Search: it is the culprit, or one of the suspects; return whether one is named."""
        conclusion = self.world.search()
        culprit = self.world.revisions[self.culprit]
        if conclusion.culprit is None:
            assert culprit in conclusion.suspects, vars(self)
        else:
            assert conclusion.culprit == culprit, vars(self)
        return conclusion.culprit is not None


@pytest.mark.parametrize(("commits", "seeds"), [(16, 12), (64, 5), (256, 2)])
def test_chance_leads_to_no_other_commit(tmp_path: Path, commits: int, seeds: int) -> None:
    world = World(tmp_path, commits)
    named = 0
    for seed in range(seeds):
        chance = Chance(world, seed)
        world.outcome = chance.outcome
        world.directory = tmp_path / f"search-{seed}"
        world.directory.mkdir()
        named += chance.check()
    assert named, "a search that names none would pass, too"


@pytest.mark.parametrize("unbuilt", [0, -1, 1])
@pytest.mark.parametrize(("distance", "first"), [(-1, GOOD), (-2, GOOD), (0, BAD), (1, BAD)])
def test_a_commit_that_varies_and_was_taken_for_good_or_bad(
    tmp_path: Path, distance: int, first: Run, unbuilt: int
) -> None:
    """By chance, all its runs come to one thing at first; and none before or behind it may build.

    In the latter case the suspects are those between one that is bad and one that is good, too.
    """
    world = World(tmp_path, 16)
    world.outcome = lambda number: [BAD if number else GOOD]
    world.search()
    flaky = world.tested[2]  # the first that is tested between the ends
    culprit = flaky + distance
    world.tested.clear()

    def outcome(number: int) -> list[Run] | str:
        if unbuilt and number == flaky + unbuilt:
            return "it does not compile"
        if number != flaky:
            return [BAD if number >= culprit else GOOD] * 2
        return [GOOD, BAD] if world.tested.count(flaky) > 1 else [first] * 2

    world.outcome = outcome
    conclusion = world.search()
    if conclusion.culprit is None:
        assert world.revisions[culprit] in conclusion.suspects
    else:
        assert conclusion.culprit == world.revisions[culprit]
    (varying,) = [one for one in conclusion.commits if one.revision == world.revisions[flaky]]
    assert varying.state is State.SKIP
    assert "it varies: " in varying.reason


def test_a_commit_on_which_pytest_dies(tmp_path: Path) -> None:
    world = World(tmp_path, 8)
    world.outcome = lambda number: [BAD] if number >= 5 else [GOOD]
    result = world.result

    def dying(name: str, child: object) -> dict[str, list[Run]]:
        if world.now == 4:
            raise PytestDied("pytest ended before the tests were over", status=2)
        return result(name, child)

    world.result = dying  # type: ignore[method-assign]
    conclusion = world.search()
    assert conclusion.culprit is None
    assert set(conclusion.suspects) == {world.revisions[number] for number in (4, 5)}


def test_an_end_that_varies(tmp_path: Path) -> None:
    world = World(tmp_path, 4)
    world.outcome = lambda number: [BAD] if number == 3 and world.tested.count(3) < 2 else [GOOD]
    conclusion = world.search()
    assert conclusion.culprit is None
    assert "the bad end" in conclusion.why
    assert "it varies: bad at first, then good" in conclusion.why


def test_an_end_on_which_a_test_is_flaky(tmp_path: Path) -> None:
    world = World(tmp_path, 4)
    world.outcome = lambda number: [BAD, GOOD] if number == 3 else [GOOD, GOOD]
    why = world.search().why
    assert "cannot be tested: test_it is flaky: it failed in 1 of 2; leave it out (--desel" in why


def test_only_commits_of_a_path(tmp_path: Path) -> None:
    world = World(tmp_path, 8)
    (world.tree / "other").write_text("")
    world.git("add", ".")
    world.git("commit", "-q", "-m", "another file")
    world.revisions.append(world.git("rev-parse", "HEAD"))
    world.outcome = lambda number: [BAD] if number >= 3 else [GOOD]
    assert world.search(paths=["number"]).culprit == world.revisions[3]


@pytest.mark.parametrize("build", [True, False])
def test_a_culprit_that_changes_nothing_of_a_path(tmp_path: Path, build: bool) -> None:
    """git names the next commit that does."""
    world = World(tmp_path, 1)
    for number, name in enumerate(["a", "b", "a", "b", "a"]):
        (world.tree / name).write_text(str(number))
        world.git("add", ".")
        world.git("commit", "-q", "-m", name)
        world.revisions.append(world.git("rev-parse", "HEAD"))

    def outcome(number: int) -> list[Run] | str:
        return "no build" if number == 4 and not build else [BAD] if number >= 4 else [GOOD]

    world.outcome = outcome
    conclusion = world.search(paths=["a"])
    assert conclusion.culprit is None
    before, after = (revision[:12] for revision in world.revisions[4:])
    if build:
        assert (
            conclusion.why
            == f"{before}, before {after}, is bad, too: --path leaves out the culprit"
        )
    else:
        assert conclusion.why == f"{before}, before {after}, cannot be tested: no build"
        assert conclusion.suspects == (world.revisions[5],)
    assert world.search(paths=["b"]).culprit == (world.revisions[4] if build else None)
    world.outcome = lambda number: [BAD] if number >= 5 else [GOOD]
    conclusion = world.search(paths=["b"])
    assert conclusion.why == "all commits that change it are good: --path leaves out the culprit"


def test_merges(tmp_path: Path) -> None:
    world = World(tmp_path, 3)
    world.git("checkout", "-q", "-b", "side", world.revisions[0])
    (world.tree / "side").write_text("")
    world.git("add", ".")
    world.git("commit", "-q", "-m", "side")
    world.revisions.append(world.git("rev-parse", "HEAD"))
    world.git("merge", "-q", "--no-edit", world.revisions[2])
    world.revisions.append(world.git("rev-parse", "HEAD"))
    world.outcome = lambda number: [BAD] if number in (3, 4) else [GOOD]
    conclusion = world.search(options=["--first-parent"])
    assert conclusion.culprit == world.revisions[3]


@pytest.mark.parametrize(
    ("runs", "state"),
    [
        ({"a": [GOOD, GOOD]}, State.GOOD),
        ({"a": [BAD, BAD]}, State.BAD),
        ({"a": [GOOD], "b": [BAD]}, State.BAD),
        ({"a": [GOOD, BAD]}, State.SKIP),
        ({"a": [Run("ERROR", "NameError")]}, State.SKIP),
        ({"a": [LOST]}, State.SKIP),
        ({"a": [SKIPPED]}, State.SKIP),
        ({"a": [SKIPPED], "b": [GOOD]}, State.SKIP),
        ({"a": [SKIPPED], "b": [BAD]}, State.BAD),
        ({"a": [replace(GOOD, subtests={"x": one}) for one in ("PASS", "SKIP")]}, State.SKIP),
        ({"a": [replace(GOOD, subtests={"x": "SKIP"})] * 2}, State.GOOD),
        ({}, State.SKIP),
    ],
)
def test_what_runs_say_of_a_commit(runs: dict[str, list[Run]], state: State) -> None:
    assert judge_commit(runs).state is state


@pytest.mark.parametrize("run", [GOOD, BAD])
def test_runs_of_a_commit_that_did_not_take_place(run: Run) -> None:
    commit = judge_commit({"a": [run] * 8, "b": [run]}, asked=8)
    assert (commit.state, commit.reason) == (
        State.SKIP,
        "b: it has 1 of 8 runs (what ends pytest early, as -x and --maxfail do, left the others "
        "out)",
    )
    plain = replace(run, kernel=False)
    assert judge_commit({"a": [run] * 8, "b": [plain]}, asked=8).state is not State.SKIP


@pytest.mark.parametrize(
    ("runs", "state"),
    [
        ({"a": [GOOD], "b": [GOOD]}, State.GOOD),
        ({"a": [GOOD], "b": [SKIPPED]}, State.GOOD),
        ({"a": [SKIPPED], "b": [GOOD]}, State.SKIP),
        ({"b": [GOOD]}, State.SKIP),
        ({"a": [SKIPPED], "b": [BAD]}, State.SKIP),
        ({"a": [Run("FAIL", "another")], "b": [GOOD]}, State.SKIP),
        ({"a": [GOOD], "b": [BAD]}, State.SKIP),
        ({"a": [BAD], "b": [BAD]}, State.SKIP),
        ({}, State.SKIP),
    ],
)
def test_what_runs_say_of_a_commit_once_the_bad_end_is_known(
    runs: dict[str, list[Run]], state: State
) -> None:
    bad = judge_commit({"a": [BAD], "b": [GOOD]})
    assert (bad.state, bad.tests) == (State.BAD, ("a",))
    commit = judge_commit(runs, bad)
    assert commit.state is state
    assert not commit.missed


def test_one_of_the_tests_that_fail_on_the_bad_end_is_enough() -> None:
    bad = judge_commit({"a": [BAD], "b": [BAD]})
    assert judge_commit({"a": [SKIPPED], "b": [BAD]}, bad).state is State.BAD
    assert judge_commit({"a": [GOOD], "b": [BAD]}, bad).state is State.BAD


def test_which_commits_are_worth_another_try() -> None:
    assert judge_commit({"a": [LOST]}).missed
    assert judge_commit({"a": [BAD], "b": [Run("ERROR", "NameError"), LOST]}).missed
    assert not judge_commit({"a": [Run("ERROR", "NameError")]}).missed
    assert not Commit("", State.BAD).missed
