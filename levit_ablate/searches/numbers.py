"""The numbers of a geometry that a search may choose: one table, and the settings they may have.

Imports no torch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from levit_ablate.config import Architecture, Design, Stage
from levit_ablate.errors import UserError
from levit_ablate.models import geometry
from levit_ablate.schema import read_word

Value = int | float
FINE = 2
"""Step of the widths that the solver takes, finer than that of what is sampled."""
SOLVED = "solved"
"""Setting of a width that is not sampled: the budget leaves it."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """The values that one thing may take."""

    options: tuple[Any, ...]
    """The values; ascending where they are numbers."""
    step: Value | None = None
    """The distance between them, where they are a range."""
    solver: tuple[int, ...] = ()
    """Widths that the solver may take in place of what is sampled; empty for the options."""

    @property
    def is_fixed(self) -> bool:
        """There is one value, which nobody is asked for."""
        return len(self.options) == 1

    def nearest(self, value: Any) -> Any:
        """The option nearest to a number; of words the same. Raises ValueError where it lacks."""
        if value in self.options:
            return value
        if not all(type(each) in (int, float) for each in (value, *self.options)):
            raise ValueError
        return min(self.options, key=lambda option: abs(option - value))


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The type and range of a number, and the step of a range of it that names none."""

    type: type
    step: Value
    low: Value
    high: Value
    is_width: bool = False
    """The solver may choose it."""


@dataclass(frozen=True, kw_only=True)
class Number(Limits):
    """A number of the geometry that a search may choose. It is declared in a table below alone."""

    of: Callable[[Architecture, Design, Stage], Value]
    """Returns what a network has, in this stage."""
    sets: Callable[[Any, Design], dict[str, Any]]
    """Returns the fields of `Stage`, or `Architecture`, that a value sets. For the whole network
    the value is None where the space has none."""
    around: Callable[[Any], Setting]
    """Returns the setting where a space says nothing: the neighbourhood of what a network has."""
    text: str
    """How a report writes it."""


def near(middle: int, step: int) -> Setting:
    """Return the range from half to one and a half of a number, in steps that meet it."""
    reach = max(1, middle // 2 // step) * step
    low = middle - reach if middle > reach else middle
    return span(low, middle + reach, step)


def span(low: Value, high: Value, step: Value) -> Setting:
    """Return the range from `low` in steps as far as `high`, each rounded to ten digits."""
    count = int((high - low) / step + 1e-9) + 1
    options = tuple(round(low + index * step, 10) for index in range(count))
    return Setting(options=options, step=step if count > 1 else None)


def setting_from(given: Any, limits: Limits, where: str, own: Value = 0) -> Setting:
    """Return the setting that is given of a number, of which the network has `own`."""
    if limits.is_width and given == SOLVED:
        return Setting(options=(own,), solver=tuple(range(FINE, 4 * int(own) + 1, FINE)))
    listed = given.split(",") if isinstance(given, str) and "," in given else given
    if isinstance(listed, list | tuple):
        if not listed:
            raise UserError(f"{where}: an empty list; give at least one value")
        return Setting(options=tuple(sorted({_number(each, limits, where) for each in listed})))
    if not isinstance(given, str) or ":" not in given:
        return Setting(options=(_number(given, limits, where),))
    parts = given.split(":")
    if len(parts) > 3:
        raise UserError(f"{where}: {given!r} is no range; write LOW:HIGH or LOW:HIGH:STEP")
    low, high = (_number(part, limits, where) for part in parts[:2])
    if low > high:
        raise UserError(f"{where}: {given!r} is empty: {low:g} is above {high:g}")
    if len(parts) == 3:
        return span(low, high, _number(parts[2], limits, where))
    finer = tuple(range(int(low), int(high) + 1, FINE)) if limits.is_width else ()
    return replace(span(low, high, limits.step), solver=finer)


def _number(given: Any, limits: Limits, where: str) -> Value:
    text = str(read_word(given)).strip()
    pattern = r"[0-9]+" if limits.type is int else r"[0-9]+(\.[0-9]+)?"
    if isinstance(given, bool) or not re.fullmatch(pattern, text):
        what = "whole number" if limits.type is int else "number"
        raise UserError(
            f"{where}: {given!r} is neither a {what}, nor a range (2:5), nor a list of them"
        )
    value: Value = limits.type(text)
    if value < limits.low:
        raise UserError(f"{where}: {value:g} is too small; {limits.low:g} at least")
    if value > limits.high:
        raise UserError(f"{where}: {value:g} is too large; {limits.high:g} at most")
    return value


STAGE_NUMBERS = {
    "depth": Number(
        type=int, step=1, low=1, high=64, text="{}x",
        of=lambda architecture, design, stage: stage.depth,
        sets=lambda value, design: {"depth": value},
        around=lambda own: span(max(1, own - 1), own + 2, 1),
    ),
    "width": Number(
        type=int, step=8, low=1, high=4096, is_width=True, text="C{}",
        of=lambda architecture, design, stage: stage.width,
        sets=lambda value, design: {"width": value},
        around=lambda own: near(own, 8),
    ),
    "num_heads": Number(
        type=int, step=1, low=1, high=256, text="N{}",
        of=lambda architecture, design, stage: stage.num_heads,
        sets=lambda value, design: {"num_heads": value},
        around=lambda own: span(max(1, own - own // 2), own + max(1, own // 2), 1),
    ),
    "key_dim": Number(
        type=int, step=4, low=1, high=1024, text="D{}",
        of=geometry.key_dim_of,
        sets=lambda value, design: {"value_dim": value * geometry.values_per_key(design).block},
        around=lambda own: near(own, 4),
    ),
    "mlp_expansion": Number(
        type=float, step=0.5, low=0.05, high=32, text="M{:g}",
        of=lambda architecture, design, stage: float(geometry.mlp_expansion_of(design, stage)),
        sets=lambda value, design: {"mlp_expansion": value},
        around=lambda own: span(1.0, 4.0, 0.5),
    ),
}  # fmt: skip
"""The numbers that each stage has of its own."""
NETWORK_NUMBERS = {
    "stem_width": Number(
        type=int, step=8, low=1, high=4096, text="stem C{}",
        of=lambda architecture, design, stage: geometry.stem_width(architecture),
        sets=lambda value, design: {"stem_width": value},
        around=lambda own: near(own, 8),
    ),
}  # fmt: skip
"""The numbers of the whole network, which are searched where a space names them."""
NUM_STAGES = Limits(type=int, step=1, low=1, high=6)


def numbers_of(architecture: Architecture, design: Design) -> dict[str, Value]:
    """Return every number of a network by the name of its setting: num_stages, depth.1."""
    own: dict[str, Value] = {"num_stages": len(architecture.stages)}
    for name, number in NETWORK_NUMBERS.items():
        own[name] = number.of(architecture, design, architecture.stages[0])
    for place, stage in enumerate(architecture.stages, start=1):
        for name, number in STAGE_NUMBERS.items():
            own[f"{name}.{place}"] = number.of(architecture, design, stage)
    return own


def architecture_of(
    base: Architecture,
    design: Design,
    stages: Sequence[Mapping[str, Any]],
    network: Mapping[str, Any],
) -> Architecture:
    """Return the geometry of these numbers: those of `STAGE_NUMBERS` a stage, and the network's."""
    fields: dict[str, Any] = {}
    for name, number in NETWORK_NUMBERS.items():
        fields |= number.sets(network.get(name), design)
    made = []
    for own in stages:
        stage: dict[str, Any] = {}
        for name, number in STAGE_NUMBERS.items():
            stage |= number.sets(own[name], design)
        made.append(Stage(**stage))
    return replace(base, stages=tuple(made), **fields)
