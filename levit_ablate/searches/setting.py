"""One setting of a space: a fixed value, a range with a step, or a list. Imports no torch."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

from levit_ablate.errors import UserError
from levit_ablate.schema import read_word

Number = int | float
FINE = 2
"""The step of the solver, which comes nearer to a budget than the steps of what is sampled."""
SOLVED = "solved"
"""As a width: the one that the budget leaves, which is not sampled."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """The values that one thing may take."""

    options: tuple[Any, ...]
    """The values; ascending where they are numbers."""
    step: Number | None = None
    """The distance between them, where they are a range."""
    solver: tuple[int, ...] = ()
    """Of a width: what the solver may take in place of what is sampled; empty for the options."""

    @property
    def is_fixed(self) -> bool:
        """Whether there is one value, which nobody is asked for."""
        return len(self.options) == 1

    def nearest(self, value: Any) -> Any:
        """The option nearest to a number; of words the same. Raises ValueError where it lacks."""
        if value in self.options:
            return value
        if not all(type(each) in (int, float) for each in (value, *self.options)):
            raise ValueError
        return min(self.options, key=lambda option: abs(option - value))


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A number of the geometry: its type and limits, and how a range of it is stepped through."""

    type: type
    step: Number
    low: Number
    high: Number
    is_width: bool = False
    """Whether the solver may choose it."""


def near(middle: int, step: int) -> Setting:
    """From half to one and a half of a number, in steps in which it is."""
    reach = max(1, middle // 2 // step) * step
    low = middle - reach if middle > reach else middle
    return span(low, middle + reach, step)


def span(low: Number, high: Number, step: Number) -> Setting:
    """From `low` in steps as far as `high`; of fractions their ten digits, as they were said."""
    count = int((high - low) / step + 1e-9) + 1
    options = tuple(round(low + index * step, 10) for index in range(count))
    return Setting(options=options, step=step if count > 1 else None)


def setting_from(said: Any, kind: Kind, where: str, own: Number = 0) -> Setting:
    """A number of the geometry, from what was said of it; `own` is the network's."""
    if kind.is_width and said == SOLVED:
        return Setting(options=(own,), solver=tuple(range(FINE, 4 * int(own) + 1, FINE)))
    listed = said.split(",") if isinstance(said, str) and "," in said else said
    if isinstance(listed, list | tuple):
        if not listed:
            raise UserError(f"{where}: an empty list; give at least one value")
        return Setting(options=tuple(sorted({_number(each, kind, where) for each in listed})))
    if not isinstance(said, str) or ":" not in said:
        return Setting(options=(_number(said, kind, where),))
    parts = said.split(":")
    if len(parts) > 3:
        raise UserError(f"{where}: {said!r} is no range; write LOW:HIGH or LOW:HIGH:STEP")
    low, high = (_number(part, kind, where) for part in parts[:2])
    if low > high:
        raise UserError(f"{where}: {said!r} is empty: {low:g} is above {high:g}")
    if len(parts) == 3:
        return span(low, high, _number(parts[2], kind, where))
    finer = tuple(range(int(low), int(high) + 1, FINE)) if kind.is_width else ()
    return replace(span(low, high, kind.step), solver=finer)


def _number(said: Any, kind: Kind, where: str) -> Number:
    text = str(read_word(said)).strip()
    pattern = r"[0-9]+" if kind.type is int else r"[0-9]+(\.[0-9]+)?"
    if isinstance(said, bool) or not re.fullmatch(pattern, text):
        what = "whole number" if kind.type is int else "number"
        raise UserError(
            f"{where}: {said!r} is neither a {what}, nor a range (2:5), nor a list of them"
        )
    value: Number = kind.type(text)
    if value < kind.low:
        raise UserError(f"{where}: {value:g} is too small; {kind.low:g} at least")
    if value > kind.high:
        raise UserError(f"{where}: {value:g} is too large; {kind.high:g} at most")
    return value
