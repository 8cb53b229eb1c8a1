"""Which patch, and which symbols: real searches, tests whose outcome is made up for each kernel."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from pytest_kgdb.errors import BuildError, ConfigError
from pytest_kgdb.gate import ConfigSearch, PatchSearch, State
from pytest_kgdb.gate._search import reduce, search
from pytest_kgdb.gate._verdicts import Run
from pytest_kgdb.kernel import parse_config
from pytest_kgdb.progress import Silent
from pytest_kgdb.settings import Settings, make_settings

GOOD, BAD = Run("PASS"), Run("FAIL", "assert 17 == 42")


@pytest.mark.parametrize("count", [1, 2, 3, 16, 57])
def test_the_first_bad_step(count: int) -> None:
    for culprit in range(1, count + 1):
        tested: list[int] = []

        def test(step: int, culprit: int = culprit, tested: list[int] = tested) -> State:
            tested.append(step)
            return State.BAD if step >= culprit else State.GOOD

        assert search(count, test) == (culprit,)
        assert len(tested) <= count.bit_length()
        assert len(tested) == len(set(tested))


def test_steps_that_cannot_be_tested() -> None:
    """Never another one than the culprit: it, or those of which it is one."""
    chance = random.Random(1)
    for _ in range(300):
        count = chance.randint(1, 20)
        culprit = chance.randint(1, count)
        lost = {step for step in range(1, count) if chance.random() < 0.4}

        def test(step: int, lost: set[int] = lost, culprit: int = culprit) -> State:
            if step in lost:
                return State.SKIP
            return State.BAD if step >= culprit else State.GOOD

        suspects = search(count, test)
        assert culprit in suspects
        assert suspects == tuple(range(suspects[0], suspects[-1] + 1))
        assert {*suspects[:-1]} <= lost, "the last one is bad, and all before it cannot be tested"


@pytest.mark.parametrize("culprits", [{3}, {0, 9}, {1, 2, 40}, set(range(50))])
def test_a_smallest_part(culprits: set[int]) -> None:
    items = [str(number) for number in range(50)]
    bad_items = {str(number) for number in culprits}

    def test(part: Sequence[str]) -> State:
        return State.BAD if bad_items <= set(part) else State.GOOD

    assert set(reduce(items, test)) == bad_items
    assert reduce(["a"], test) == ["a"]


def test_a_part_without_what_it_depends_on() -> None:
    """What cannot be tested is not bad; what remains is so as a whole, and not without one."""
    items = list("abcdefgh")

    def test(part: Sequence[str]) -> State:
        if "c" in part and "d" not in part:
            return State.SKIP
        return State.BAD if "c" in part else State.GOOD

    assert reduce(items, test) == ["c", "d"]


class Child:
    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class World:
    """As Runner and KernelBuilder."""

    repeat = sure = 1

    def __init__(
        self, outcome: Callable[[Settings], list[Run] | dict[str, list[Run]] | Exception]
    ) -> None:
        self.outcome = outcome
        self.tested: list[Settings] = []
        self.interrupt_at: int | None = None

    def build(self, settings: Settings) -> Any:
        self.now = self.outcome(settings)
        if isinstance(self.now, Exception):
            raise self.now

    def start(self, name: str, settings: Settings, *, repeat: int) -> Any:
        if len(self.tested) == self.interrupt_at:
            self.interrupt_at = None
            raise KeyboardInterrupt
        self.tested.append(settings)
        return Child()

    def wait(self, children: object, say: object) -> None:
        pass

    def result(self, name: str, child: object) -> Any:
        return self.now if isinstance(self.now, dict) else {"test_it": self.now}

    @property
    def parts(self) -> Any:
        return {"runner": self, "builder": self, "progress": Silent()}


def patches(tmp_path: Path, world: World, count: int = 8) -> PatchSearch:
    base = make_settings(kernel=["distro:6.1"])
    names = [tmp_path / f"{number}.patch" for number in range(1, count + 1)]
    for name in names:
        name.touch()
    steps = [
        (f"{number}.patch", make_settings(kernel=["distro:6.1"], patch=names[:number]))
        for number in range(1, count + 1)
    ]
    (tmp_path / "search").mkdir(exist_ok=True)
    return PatchSearch(base, steps, tmp_path / "search", **world.parts)


@pytest.mark.parametrize("culprit", range(1, 9))
def test_the_patch(tmp_path: Path, culprit: int) -> None:
    world = World(lambda settings: [BAD if len(settings.patch) >= culprit else GOOD] * 2)
    discovery = patches(tmp_path, world).run()
    assert discovery.culprits == (f"{culprit}: {culprit}.patch",)
    assert len(world.tested) <= 5 + 2, "the last two once more"
    assert not (tmp_path / "search/tested.json").exists()


def test_a_series_that_cannot_be_tested_in_between(tmp_path: Path) -> None:
    def outcome(settings: Settings) -> list[Run] | Exception:
        number = len(settings.patch)
        if number in (3, 4):
            return BuildError("it does not compile")
        if number == 5:
            return [BAD, GOOD]
        if number == 6:
            return ConfigError("a symbol did not survive olddefconfig")
        return [BAD if number >= 4 else GOOD] * 2

    discovery = patches(tmp_path, World(outcome)).run()
    assert (discovery.culprits, discovery.wrong_end) == ((), False)
    assert discovery.suspects == tuple(f"{number}: {number}.patch" for number in range(3, 8))


def test_a_search_that_was_interrupted(tmp_path: Path) -> None:
    world = World(lambda settings: [BAD if len(settings.patch) >= 6 else GOOD])
    world.interrupt_at = 3
    with pytest.raises(KeyboardInterrupt):
        patches(tmp_path, world).run()
    assert patches(tmp_path, world).run().culprits == ("6: 6.patch",)
    numbers = [len(settings.patch) for settings in world.tested]
    assert sorted(numbers) == sorted([*set(numbers), 5, 6])


def test_a_search_that_came_to_nothing_is_over(tmp_path: Path) -> None:
    lost = Run("MISS", "MachineDied")
    world = World(lambda settings: [lost if len(settings.patch) == 8 else GOOD])
    assert "MachineDied" in patches(tmp_path, world).run().why
    world.outcome = lambda settings: [BAD if len(settings.patch) >= 6 else GOOD]
    assert patches(tmp_path, world).run().culprits == ("6: 6.patch",)


def test_a_patch_under_which_the_test_is_skipped_is_not_good(tmp_path: Path) -> None:
    skipped = Run("SKIP", "not here")

    def outcome(settings: Settings) -> dict[str, list[Run]]:
        number = len(settings.patch)
        its = skipped if number in (3, 4, 5) else BAD if number >= 3 else GOOD
        return {"test_it": [its], "test_other": [GOOD]}

    discovery = patches(tmp_path, World(outcome)).run()
    assert discovery.culprits == ()
    assert discovery.suspects == tuple(f"{number}: {number}.patch" for number in range(3, 7))


@pytest.mark.parametrize(
    ("outcome", "why", "wrong"),
    [
        ([GOOD], "the bad end, 8: 8.patch, is not bad: the tests pass there", True),
        ([BAD], "the good end, without patches, is not good: test_it: assert 17 == 42", True),
        (
            [Run("MISS", "no QEMU")],
            "the bad end, 8: 8.patch, cannot be tested: test_it: no QEMU",
            False,
        ),
    ],
)
def test_wrong_ends(tmp_path: Path, outcome: list[Run], why: str, wrong: bool) -> None:
    discovery = patches(tmp_path, World(lambda settings: outcome)).run()
    assert (discovery.culprits, discovery.wrong_end) == ((), wrong)
    assert discovery.why == why


COMMON = "".join(f"CONFIG_COMMON_{number}=y\n" for number in range(20))


def configs(tmp_path: Path, world: World, good: str, bad: str) -> ConfigSearch:
    for name, text in (("good", good), ("bad", bad)):
        (tmp_path / name).write_text(COMMON + text)
    (tmp_path / "search").mkdir(exist_ok=True)
    return ConfigSearch(
        make_settings(kernel=["distro:6.1"]), tmp_path / "good", tmp_path / "bad",
        tmp_path / "search", **world.parts,
    )  # fmt: skip


def test_the_symbols(tmp_path: Path) -> None:
    """It takes two: a debugging option, and a driver's that only exists with it."""

    def outcome(settings: Settings) -> list[Run]:
        symbols = parse_config(Path(settings.config).read_text())
        assert symbols["COMMON_7"] == "y"
        assert settings.origin("config") == "--configs"
        if symbols.get("B_11") != "y":
            symbols["B_12"] = "n"  # as olddefconfig does
        return [BAD if symbols.get("B_12") == "y" else GOOD]

    bad = "".join(f"CONFIG_B_{number}=y\n" for number in range(30))
    world = World(outcome)
    discovery = configs(tmp_path, world, "# CONFIG_B_3 is not set\nCONFIG_OLD=y\n", bad).run()
    assert discovery.culprits == ("CONFIG_B_11=y", "CONFIG_B_12=y")
    assert discovery.unsure == ()
    assert len(world.tested) < 40


def test_a_symbol_that_the_bad_one_has_not(tmp_path: Path) -> None:
    def outcome(settings: Settings) -> list[Run]:
        symbols = parse_config(Path(settings.config).read_text())
        return [GOOD if symbols.get("OLD") == "y" and symbols["SIZE"] == "12" else BAD]

    good, bad = "CONFIG_OLD=y\nCONFIG_SIZE=12\n", "CONFIG_NEW=y\nCONFIG_SIZE=12\n"
    assert configs(tmp_path, World(outcome), good, bad).run().culprits == ("CONFIG_OLD=n",)
    bad = "CONFIG_OLD=y\nCONFIG_SIZE=13\n"
    assert configs(tmp_path, World(outcome), good, bad).run().culprits == ("CONFIG_SIZE=13",)


def test_configurations_that_do_not_differ(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the two configurations do not differ"):
        configs(tmp_path, World(lambda settings: [BAD]), "", "# CONFIG_X is not set\n").run()
    empty = tmp_path / "empty"
    empty.touch()
    parts = World(lambda settings: [BAD]).parts
    settings = make_settings(kernel=["distro:6.1"])
    with pytest.raises(ConfigError, match="is not a kernel configuration"):
        ConfigSearch(settings, empty, tmp_path / "good", tmp_path / "search", **parts)


@pytest.mark.parametrize("unbuilt", [0, -1, 1])
@pytest.mark.parametrize(("culprit", "first"), [(3, GOOD), (2, GOOD), (4, BAD), (5, BAD)])
def test_a_kernel_that_varies_and_was_taken_for_good_or_bad(
    tmp_path: Path, culprit: int, first: Run, unbuilt: int
) -> None:
    """By chance, all its runs come to one thing at first."""
    flaky = 4  # the first that is tested between the ends

    def outcome(settings: Settings) -> list[Run] | Exception:
        number = len(settings.patch)
        if unbuilt and number == flaky + unbuilt:
            return BuildError("it does not compile")
        if number != flaky:
            return [BAD if number >= culprit else GOOD] * 2
        again = any(len(one.patch) == flaky for one in world.tested)
        return [GOOD, BAD] if again else [first] * 2

    world = World(outcome)
    discovery = patches(tmp_path, world).run()
    if discovery.culprits:
        assert discovery.culprits == (f"{culprit}: {culprit}.patch",)
    else:
        assert f"{culprit}: {culprit}.patch" in discovery.suspects
    (varying,) = [one for one in discovery.tested if one.revision.startswith(f"{flaky}: ")]
    assert varying.state is State.SKIP


def test_symbols_that_vary(tmp_path: Path) -> None:
    (tmp_path / "good").write_text("CONFIG_A=y\n")
    (tmp_path / "bad").write_text("CONFIG_A=y\nCONFIG_B=y\nCONFIG_C=y\n")

    def outcome(settings: Settings) -> list[Run] | Exception:
        symbols = parse_config(Path(settings.config).read_text())
        if "B" in symbols and "C" in symbols:
            return [BAD] * 2
        again = any("B" in parse_config(Path(one.config).read_text()) for one in world.tested[2:])
        return ([GOOD, BAD] if again else [BAD] * 2) if "B" in symbols else [GOOD] * 2

    world = World(outcome)
    settings = make_settings(kernel=["distro:6.1"])
    (tmp_path / "search").mkdir()
    paths = [tmp_path / name for name in ("good", "bad", "search")]
    discovery = ConfigSearch(settings, *paths, **world.parts).run()
    assert discovery.culprits == ("CONFIG_B=y", "CONFIG_C=y"), "B alone varies"
    assert discovery.unsure == ("CONFIG_C=y",)
