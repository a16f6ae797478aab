"""Draws networks from a space; settings without a meaning are not asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from levit_ablate.config import Architecture, Design
from levit_ablate.errors import UserError
from levit_ablate.experiment import Variant
from levit_ablate.searches.numbers import STAGE_NUMBERS, Setting, architecture_of
from levit_ablate.searches.space import Space

Ask = Callable[[str, Setting], Any]
"""Returns the value of a setting, by its name."""
LARGEST_GRID = 10_000


def sampled(ask: Ask, space: Space, baseline: Variant) -> tuple[Architecture, Design]:
    """Draw a network: ask for every setting that matters, those first on which others depend.

    Without a pyramid there is one stage, of all stages' depth together; the width and heads of the
    others, and downsampling, are not asked for.

    Args:
        ask: gives the value of a setting, by its name.
        space: the settings.
        baseline: has the settings that the space leaves out.
    """
    chosen: dict[str, Any] = {}
    first = sorted(space.design.items(), key=lambda item: item[0] != "pyramid")
    for name, setting in first:
        if name != "downsampling" or chosen.get("pyramid", baseline.experiment.design.pyramid):
            chosen[name] = ask(f"design.{name}", setting)
    design = replace(baseline.experiment.design, **chosen)
    count = ask("num_stages", space.num_stages)
    network = {name: ask(name, setting) for name, setting in space.network.items()}
    stages: list[dict[str, Any]] = []
    for index, settings in enumerate(space.stages[:count]):
        asked = tuple(STAGE_NUMBERS) if design.pyramid or not index else ("depth",)
        start = dict(stages[0]) if stages else {}
        for name in asked:
            start[name] = ask(f"{name}.{index + 1}", settings[name])
        stages.append(start)
    return architecture_of(baseline.architecture, design, stages, network), design


def combinations_of(space: Space, baseline: Variant) -> list[dict[str, Any]]:
    """Return every combination of settings that has a meaning, each once.

    Raises UserError if there are more than `LARGEST_GRID`.
    """
    found: list[dict[str, Any]] = []
    waiting: list[dict[str, Any]] = [{}]
    while waiting:
        begun = waiting.pop()
        drawn: dict[str, Any] = {}

        def ask(name: str, setting: Setting) -> Any:
            if setting.is_fixed:
                return setting.options[0]
            if name in begun:  # noqa: B023
                drawn[name] = begun[name]  # noqa: B023
            else:  # the first now, the others later
                others = setting.options[1:]
                waiting.extend({**drawn, name: other} for other in reversed(others))  # noqa: B023
                drawn[name] = setting.options[0]  # noqa: B023
            return drawn[name]  # noqa: B023

        sampled(ask, space, baseline)
        found.append(drawn)
        if len(found) + len(waiting) > LARGEST_GRID:
            raise UserError(
                f"sampler: grid: there are more than {LARGEST_GRID:,} combinations; fix some "
                f"settings (space.geometry fixed), or take another sampler"
            )
    return found
