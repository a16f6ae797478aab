"""The space of a search: the values that each number of the geometry, and any choice, may take.

Every setting is finite: a fixed value, a range with a step, or a list. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
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
    architecture_of,
    setting_from,
)
from levit_ablate.searches.search import OTHERS

LARGEST_GRID = 10_000
Ask = Callable[[str, Setting], Any]
"""Returns the value of a setting, by its name."""


@dataclass(frozen=True, kw_only=True)
class Space:
    """The settings that a search chooses from."""

    num_stages: Setting
    stages: tuple[Mapping[str, Setting], ...]
    """The settings of `STAGE_NUMBERS` for each stage, as many as there may be."""
    network: Mapping[str, Setting]
    """The settings of those of `NETWORK_NUMBERS` that are searched."""
    design: Mapping[str, Setting]
    """The settings of the design choices that are searched."""
    base: tuple[Architecture, Design]
    """The network that it is around, which has what the settings leave out."""

    def widths(self, index: int) -> tuple[int, ...]:
        """The widths that the solver may give a stage."""
        setting = self.stages[index]["width"]
        return setting.solver or setting.options

    def settings(self) -> dict[str, Setting]:
        """Every setting by its name: num_stages, depth.1 (of the first stage), design.norm."""
        stages = {
            f"{name}.{number}": setting
            for number, stage in enumerate(self.stages, start=1)
            for name, setting in stage.items()
        }
        design = {f"design.{name}": setting for name, setting in self.design.items()}
        return {"num_stages": self.num_stages, **self.network, **stages, **design}

    def varied(self) -> dict[str, Setting]:
        """The settings that are not fixed."""
        return {name: setting for name, setting in self.settings().items() if not setting.is_fixed}

    def described(self) -> dict[str, Any]:
        """All settings as plain data."""
        return {name: plain(setting) for name, setting in self.settings().items()}

    def network_of(self, ask: Ask) -> tuple[Architecture, Design]:
        """Return a network: ask for every setting that matters, those others depend on first.

        Without a pyramid there is one stage, of all stages' depth together; the width and heads of
        the others, and downsampling, are not asked for. Raises UserError if it has no meaning.
        """
        architecture, design = self.base
        chosen: dict[str, Any] = {}
        for name, setting in sorted(self.design.items(), key=lambda item: item[0] != "pyramid"):
            if name != "downsampling" or chosen.get("pyramid", design.pyramid):
                chosen[name] = ask(f"design.{name}", setting)
        design = replace(design, **chosen)
        count = ask("num_stages", self.num_stages)
        network = {name: ask(name, setting) for name, setting in self.network.items()}
        stages: list[dict[str, Any]] = []
        for number, settings in enumerate(self.stages[:count], start=1):
            varying = tuple(STAGE_NUMBERS) if design.pyramid or number == 1 else ("depth",)
            values = {name: ask(f"{name}.{number}", settings[name]) for name in varying}
            stages.append({**stages[0], **values} if stages else values)
        return architecture_of(architecture, design, stages, network), design

    @cached_property
    def combinations(self) -> list[dict[str, Any]]:
        """Every combination of settings that has a meaning, each once.

        Raises UserError if there are more than `LARGEST_GRID`.
        """
        combinations: list[dict[str, Any]] = []
        waiting: list[dict[str, Any]] = [{}]
        while waiting:
            begun = waiting.pop()
            drawn: dict[str, Any] = {}

            def ask(name: str, setting: Setting) -> Any:
                first, *others = setting.options
                if not others:
                    return first
                if name not in begun:  # noqa: B023
                    waiting.extend({**drawn, name: other} for other in reversed(others))  # noqa: B023
                drawn[name] = begun.get(name, first)  # noqa: B023
                return drawn[name]  # noqa: B023

            self.network_of(ask)
            combinations.append(drawn)
            if len(combinations) + len(waiting) > LARGEST_GRID:
                raise UserError(
                    f"sampler: grid: there are more than {LARGEST_GRID:,} combinations; fix some "
                    f"settings (space.geometry fixed), or take another sampler"
                )
        return combinations


def space_from(given: Mapping[str, Any], architecture: Architecture, design: Design) -> Space:
    """Return the space that a mapping describes; what it leaves out is around a network.

    A setting is a value (4), a range (2:5, or 64:256:16 with its step), or a list; of a number of
    the stages also a mapping from a stage, counted from 1, to its setting.

    Args:
        given: settings of num_stages, the numbers in the tables, and design; `geometry: fixed`
            keeps what is left out as the network has it.
        architecture: the network whose neighbourhood it is.
        design: that network's choices.

    Raises UserError where a name is unknown, a range empty, or a value does not fit.
    """
    names = ("num_stages", *NETWORK_NUMBERS, *STAGE_NUMBERS, "design", "geometry")
    for key in given:
        if key not in names:
            raise UserError(f"space.{key}: unknown; {closest(key, names)}")
    count = given.get("num_stages", len(architecture.stages))
    num_stages = setting_from(count, NUM_STAGES, "space.num_stages")
    most = int(num_stages.options[-1])
    if given.get("geometry", "around") not in ("around", "fixed"):
        raise UserError(f"space.geometry: {given['geometry']!r}: around, or fixed")
    is_fixed = given.get("geometry") == "fixed"
    stages: list[dict[str, Setting]] = [{} for _ in range(most)]
    for name, number in STAGE_NUMBERS.items():
        settings = _by_stage(given.get(name), most, f"space.{name}")
        for index, stage in enumerate(stages):
            own = _value_at(name, index, architecture, design)
            where = f"space.{name}.{index + 1}" if most > 1 else f"space.{name}"
            stage[name] = Setting(options=(own,)) if is_fixed else number.around(own)
            if index in settings:
                stage[name] = setting_from(settings[index], number, where, own)
    return Space(
        num_stages=num_stages,
        stages=tuple(stages),
        network={
            name: setting_from(given[name], number, f"space.{name}")
            for name, number in NETWORK_NUMBERS.items()
            if given.get(name) is not None
        },
        design=_choices(given.get("design")),
        base=(architecture, design),
    )


def _by_stage(given: Any, most: int, where: str) -> dict[int, Any]:
    """The setting of each stage, by its index."""
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        return dict.fromkeys(range(most), given)
    known = [*map(str, range(1, most + 1)), OTHERS]
    if unknown := [stage for stage in given if str(stage) not in known]:
        raise UserError(f"{where}.{unknown[0]}: there are the stages 1 to {most}")
    settings = dict.fromkeys(range(most), given[OTHERS]) if OTHERS in given else {}
    return settings | {int(stage) - 1: each for stage, each in given.items() if stage != OTHERS}


def _value_at(name: str, index: int, architecture: Architecture, design: Design) -> Value:
    """A number that a stage has; widths beyond the last stage go on as the last two do."""
    stages, number = architecture.stages, STAGE_NUMBERS[name]
    own = number.of(architecture, design, stages[min(index, len(stages) - 1)])
    before = number.of(architecture, design, stages[-2]) if len(stages) > 1 else 0
    return own + (own - before) * max(0, index + 1 - len(stages)) if number.is_width else own


def _choices(given: Any) -> dict[str, Setting]:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise UserError(f"space.design: {given!r} is no mapping of design choices to values")
    settings = {}
    for name, value in given.items():
        if name in STAGE_NUMBERS:
            raise UserError(f"space.design.{name}: is a number of the stages; set space.{name}")
        listed = value.split(",") if isinstance(value, str) else value
        options = tuple(map(read_word, listed if isinstance(listed, Sequence) else [listed]))
        if not options:
            raise UserError(f"space.design.{name}: an empty list; give at least one value")
        for option in options:
            check_keys({name: option}, Design, "", "space.design.")
        settings[name] = Setting(options=tuple(dict.fromkeys(options)))
    return settings
