"""The space of a search: the values that each number of the geometry, and any choice, may take.

Every setting is finite: a fixed value, a range with a step, or a list. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from levit_ablate.config import Architecture, Design
from levit_ablate.errors import UserError, closest
from levit_ablate.schema import check_keys, plain, read_word
from levit_ablate.searches.numbers import (
    NETWORK_NUMBERS,
    NUM_STAGES,
    STAGE_NUMBERS,
    Setting,
    Value,
    setting_from,
)
from levit_ablate.searches.search import OTHERS


@dataclass(frozen=True, kw_only=True)
class Space:
    """The settings that a search chooses from."""

    num_stages: Setting
    stages: tuple[Mapping[str, Setting], ...]
    """The settings of `STAGE_NUMBERS` for each stage, as many as there may be."""
    network: Mapping[str, Setting] = field(default_factory=dict)
    """The settings of those of `NETWORK_NUMBERS` that are searched."""
    design: Mapping[str, Setting] = field(default_factory=dict)
    """The settings of the design choices that are searched."""

    def widths(self, index: int) -> tuple[int, ...]:
        """The widths that the solver may give a stage."""
        setting = self.stages[index]["width"]
        return setting.solver or setting.options

    def settings(self) -> Iterator[tuple[str, Setting]]:
        """Every setting by its name: num_stages, depth.1 (of the first stage), design.norm."""
        yield "num_stages", self.num_stages
        yield from self.network.items()
        for number, stage in enumerate(self.stages, start=1):
            for name, setting in stage.items():
                yield f"{name}.{number}", setting
        for name, setting in self.design.items():
            yield f"design.{name}", setting

    def varied(self) -> dict[str, Setting]:
        """The settings that are not fixed."""
        return {name: setting for name, setting in self.settings() if not setting.is_fixed}

    def described(self) -> dict[str, Any]:
        """All settings as plain data."""
        return {name: plain(setting) for name, setting in self.settings()}


def space_from(
    said: Mapping[str, Any], architecture: Architecture, design: Design, where: str = ""
) -> Space:
    """Return the space that a mapping describes; what it leaves out is around a network.

    A setting is a value (4), a range (2:5, or 64:256:16 with its step), or a list; of a number of
    the stages also a mapping from a stage, counted from 1, to its setting.

    Args:
        said: settings of num_stages, the numbers in the tables, and design; `geometry: fixed` keeps
            what is left out as the network has it.
        architecture: the network whose neighbourhood it is.
        design: that network's choices.
        where: the file, for errors.

    Raises UserError where a name is unknown, a range empty, or a value does not fit.
    """
    prefix = f"{where}: space." if where else "space."
    names = ("num_stages", *NETWORK_NUMBERS, *STAGE_NUMBERS, "design", "geometry")
    for key in said:
        if key not in names:
            raise UserError(f"{prefix}{key}: unknown; {closest(key, names)}")
    count = said.get("num_stages", len(architecture.stages))
    num_stages = setting_from(count, NUM_STAGES, f"{prefix}num_stages")
    most = int(num_stages.options[-1])
    if said.get("geometry", "around") not in ("around", "fixed"):
        raise UserError(f"{prefix}geometry: {said['geometry']!r}: around, or fixed")
    is_fixed = said.get("geometry") == "fixed"
    stages: list[dict[str, Setting]] = [{} for _ in range(most)]
    for name, number in STAGE_NUMBERS.items():
        settings = _by_stage(said.get(name), most, f"{prefix}{name}")
        for index, stage in enumerate(stages):
            own = _own(name, index, architecture, design)
            place = f"{prefix}{name}.{index + 1}" if most > 1 else f"{prefix}{name}"
            stage[name] = Setting(options=(own,)) if is_fixed else number.around(own)
            if index in settings:
                stage[name] = setting_from(settings[index], number, place, own)
    return Space(
        num_stages=num_stages,
        stages=tuple(stages),
        network={
            name: setting_from(said[name], number, f"{prefix}{name}")
            for name, number in NETWORK_NUMBERS.items()
            if said.get(name) is not None
        },
        design=_choices(said.get("design"), f"{prefix}design"),
    )


def _by_stage(said: Any, most: int, where: str) -> dict[int, Any]:
    """Return what is said of each stage, by its index."""
    if said is None:
        return {}
    if not isinstance(said, Mapping):
        return dict.fromkeys(range(most), said)
    known = [*map(str, range(1, most + 1)), OTHERS]
    if unknown := [stage for stage in said if str(stage) not in known]:
        raise UserError(f"{where}.{unknown[0]}: there are the stages 1 to {most}")
    found = dict.fromkeys(range(most), said[OTHERS]) if OTHERS in said else {}
    return found | {int(stage) - 1: each for stage, each in said.items() if stage != OTHERS}


def _own(name: str, index: int, architecture: Architecture, design: Design) -> Value:
    """A number that a stage has; widths beyond the last stage go on as the last two do."""
    stages, number = architecture.stages, STAGE_NUMBERS[name]
    own = number.of(architecture, design, stages[min(index, len(stages) - 1)])
    before = number.of(architecture, design, stages[-2]) if len(stages) > 1 else 0
    return own + (own - before) * max(0, index + 1 - len(stages)) if number.is_width else own


def _choices(said: Any, where: str) -> dict[str, Setting]:
    if said is None:
        return {}
    if not isinstance(said, Mapping):
        raise UserError(f"{where}: {said!r} is no mapping of design choices to values")
    found = {}
    for name, value in said.items():
        if name in STAGE_NUMBERS:
            raise UserError(f"{where}.{name}: is a number of the stages; set space.{name}")
        listed = value.split(",") if isinstance(value, str) else value
        options = tuple(map(read_word, listed if isinstance(listed, Sequence) else [listed]))
        if not options:
            raise UserError(f"{where}.{name}: an empty list; give at least one value")
        for option in options:
            check_keys({name: option}, Design, "", f"{where}.")
        found[name] = Setting(options=tuple(dict.fromkeys(options)))
    return found
