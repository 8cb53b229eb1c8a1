"""Which kernels a test is for: comparisons of releases, and configuration symbols.

The form is that of Python's version specifiers (PEP 440), the order is the kernel's. `packaging`
implements the former only: to it `6.1.0-56-cloud-amd64` is no version, and a release candidate
matches nothing that does not name one.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Protocol

from ..errors import ConfigError
from ._config import Config, bare

__all__ = ["Selector", "Unmet"]

_RELEASE: Final = re.compile(r"(\d+(?:\.\d+)*)(?:-rc(\d+))?")
_VERSION: Final = re.compile(r"v?(\d+(?:\.\d+)*)(?:-?rc(\d+))?(\.\*)?")
_COMPARISON: Final = re.compile(r"(~=|==|!=|<=|>=|<|>)\s*([^=].*)")
_SYMBOL: Final = re.compile(r"(!?)(?:CONFIG_)?([A-Za-z0-9_]+)(?:=(.+))?")
# The release of a distribution's kernel: the third number is 0, and the next one the ABI's. Which
# stable release it is of is not in it.
_ABI: Final = re.compile(r"\d+\.\d+\.0-\d+(?:[-.].*)?")

_NUMBERS: Final = 4  # of a release, at least: `6.6.87.2` is one of Microsoft's
_FINAL: Final = 1 << 30  # a release is later than its candidates
_ANY: Final = 1 << 20  # more than the stable releases of any kernel

_Key = tuple[tuple[int, ...], int]
_ORDER: Final[dict[str, Callable[[_Key, _Key], bool]]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


class SelectedKernel(Protocol):
    """The part of a kernel that is used here."""

    @property
    def spec(self) -> str:
        """The SPEC that names it."""

    @property
    def name(self) -> str:
        """Its name for people."""

    @property
    def release(self) -> str:
        """What `uname -r` prints."""

    @property
    def config(self) -> Config:
        """Its configuration."""

    @property
    def headers(self) -> object:
        """Not None for a kernel that was built here."""


@dataclass(frozen=True)
class Unmet:
    """Why a test is not for a kernel."""

    reason: str
    by_version: bool
    """Whether the version is a reason, and not the configuration alone."""


@dataclass(frozen=True)
class _Comparison:
    operator: str
    numbers: tuple[int, ...]
    candidate: int
    prefix: bool  # `.*`

    def holds(self, release: _Key) -> bool:
        if self.operator == "~=":
            least = release >= (_padded(self.numbers), self.candidate)
            return least and release[0][: len(self.numbers) - 1] == self.numbers[:-1]
        if self.operator in _ORDER:
            return _ORDER[self.operator](release, (_padded(self.numbers), self.candidate))
        if self.prefix:
            same = release[0][: len(self.numbers)] == self.numbers
        else:
            same = release == (_padded(self.numbers), self.candidate)
        return same == (self.operator == "==")


@dataclass(frozen=True)
class _Symbol:
    name: str
    value: str | None  # None for `y` or `m`

    def unmet(self, kernel: SelectedKernel) -> str | None:
        """Return what is amiss, and how it could be set; None where nothing is."""
        actual = kernel.config.get(self.name, "n")
        met = actual in ("y", "m") if self.value is None else actual == self.value
        if met:
            return None
        name = f"CONFIG_{self.name}"
        if self.value is None:
            reason = f"needs {name}, which {_name(kernel)} has not"
        elif self.value == "n":
            reason = f"needs a kernel without {name}, which {_name(kernel)} has as {actual}"
        else:
            state = f"as {actual}" if actual != "n" else "not set"
            reason = f"needs {name}={self.value}, which {_name(kernel)} has {state}"
        if kernel.headers is None:  # it is used as it is
            return reason
        value = "y" if self.value is None else self.value
        return f"{reason} (set it by --kgdb-set={name}={value})"


@dataclass(frozen=True)
class Selector:
    """Which kernels a test is for."""

    version: str
    _comparisons: tuple[_Comparison, ...]
    _symbols: tuple[_Symbol, ...]

    @classmethod
    def parse(cls, version: object = "", config: object = ()) -> Selector:
        """Return what the marker's arguments mean.

        :raises ValueError: they mean nothing.
        """
        if not isinstance(version, str):
            raise ValueError(f'{version!r} is not a text: write ">=5.15"')
        if isinstance(config, str):
            config = (config,)
        if not isinstance(config, Iterable):
            raise ValueError(f'config={config!r} is not a list: write config=["CONFIG_KASAN"]')
        parts = [part.strip() for part in version.split(",")] if version.strip() else []
        symbols = tuple(_symbol(item) for item in config)
        if not parts and not symbols:
            raise ValueError("it names neither a version nor a symbol")
        return cls(", ".join(parts), tuple(map(_comparison, parts)), symbols)

    def unmet(self, kernel: SelectedKernel) -> Unmet | None:
        """Return why a kernel is not one of these; None for one that is.

        :raises ConfigError: the kernel's release does not say.
        """
        reasons = []
        by_version = not self._holds(kernel)
        if by_version:
            reason = f"needs a kernel {self.version}, and {_name(kernel)} is {kernel.release}"
            reasons.append(f"{reason}{self._advice(kernel.release)}")
        reasons += filter(None, (one.unmet(kernel) for one in self._symbols))
        return Unmet("; ".join(reasons), by_version) if reasons else None

    def _holds(self, kernel: SelectedKernel) -> bool:
        if not self._comparisons:
            return True
        numbers, candidate = release = _release(kernel.release)
        holds = self._all_hold(release)
        if kernel.headers is None and _ABI.fullmatch(kernel.release):
            bounds = [
                one.numbers[2]
                for one in self._comparisons
                if len(one.numbers) > 2 and one.numbers[:2] == numbers[:2]
            ]
            stable = [_ANY, *(n + by for n in bounds for by in (-1, 0, 1))]
            if any(self._all_hold(((*numbers[:2], n, 0), candidate)) != holds for n in stable):
                raise ConfigError(
                    f"cannot tell whether {_name(kernel)} is {self.version}: its release "
                    f"{kernel.release} does not say which stable release it is of",
                    hint='compare the first two numbers only: ">=6.1", "<6.2", "==6.1.*"',
                )
        return holds

    def _all_hold(self, release: _Key) -> bool:
        return all(one.holds(release) for one in self._comparisons)

    def _advice(self, release: str) -> str:
        """Return what is to be known where `6.1` was taken for all stable releases of it."""
        numbers, _ = _release(release)
        for one in self._comparisons:
            short = ".".join(map(str, one.numbers))
            if (
                len(one.numbers) == 2
                and one.numbers == numbers[:2]
                and not one.prefix
                and one.operator in ("==", "<=")
                and any(numbers[2:])
            ):
                instead = f"=={short}.*" if one.operator == "==" else f"<{_next(one.numbers)}"
                return f' ({short} is {short}.0; all of it is "{instead}")'
        return ""


def _release(text: str) -> _Key:
    match = _RELEASE.match(text)
    if match is None:
        raise ConfigError(f"{text!r} is not the release of a kernel that could be compared")
    numbers = tuple(map(int, match[1].split(".")))
    return _padded(numbers), int(match[2]) if match[2] else _FINAL


def _comparison(text: str) -> _Comparison:
    match = _COMPARISON.fullmatch(text)
    if match is None:
        raise ValueError(f'{text!r} is not a comparison: write ">=5.15", "<6.2", "==6.1.*"')
    sign, version = match[1], match[2].strip()
    parsed = _VERSION.fullmatch(version)
    if parsed is None:
        raise ValueError(f"{text!r}: {version!r} is not a version: write 6.1, 6.1.5 or 6.1-rc3")
    numbers = tuple(map(int, parsed[1].split(".")))
    if len(numbers) > _NUMBERS:
        raise ValueError(f"{text!r}: {version!r} has more than {_NUMBERS} numbers")
    prefix = parsed[3] is not None
    if prefix and (sign not in ("==", "!=") or parsed[2]):
        raise ValueError(f'{text!r}: ".*" is for == and !=, behind numbers')
    if sign == "~=" and len(numbers) < 2:
        raise ValueError(f"{text!r}: ~= needs two numbers at least")
    return _Comparison(sign, numbers, int(parsed[2]) if parsed[2] else _FINAL, prefix)


def _symbol(item: object) -> _Symbol:
    if not isinstance(item, str):
        raise ValueError(f"config: {item!r} is not the name of a symbol")
    match = _SYMBOL.fullmatch(item.strip())
    if match is None or (match[1] and match[3]):
        raise ValueError(f"config: {item!r}: write CONFIG_X, CONFIG_X=y, CONFIG_X=m or !CONFIG_X")
    value = match[3]
    if value is not None and len(value) > 1 and value[0] == value[-1] == '"':
        value = value[1:-1]
    return _Symbol(bare(match[2]), "n" if match[1] else value)


def _padded(numbers: tuple[int, ...]) -> tuple[int, ...]:
    return numbers + (0,) * (_NUMBERS - len(numbers))


def _next(numbers: tuple[int, ...]) -> str:
    return ".".join(map(str, (*numbers[:-1], numbers[-1] + 1)))


def _name(kernel: SelectedKernel) -> str:
    return kernel.name or kernel.spec
