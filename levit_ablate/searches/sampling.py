"""From a trial of Optuna's to a network: only what has a meaning is asked, and a budget met."""

from __future__ import annotations

from typing import Any

from optuna import Trial

from levit_ablate.config import Design
from levit_ablate.errors import UserError
from levit_ablate.experiment import Variant
from levit_ablate.searches.drawing import Ask, sampled
from levit_ablate.searches.numbers import STAGE_NUMBERS, Setting, numbers_of
from levit_ablate.searches.plan import SearchPlan
from levit_ablate.searches.space import Space

NAME = "ablation"
"""User attribute of a trial that was enqueued: the ablation's name."""


class InvalidError(Exception):
    """What was sampled is no network of the search, and why."""


def variant_of(trial: Trial, planned: SearchPlan) -> Variant:
    """The network of a trial, at the first seed. Raises InvalidError where there is none."""
    name = trial.user_attrs.get(NAME)
    asked = _asking(trial)
    try:
        architecture, design = sampled(asked, planned.space, planned.baseline)
        if name:  # itself, as `run` trains it; the sampler learns it as the nearest of the space
            return planned.named(name)
        fitted = planned.fitted(architecture, design)
        if fitted is None:
            raise InvalidError("its narrowest widths are beyond the budget")
        title = f"trial {trial.number}"
        return planned.variant(title, f"Found by search {planned.search.name}", fitted, design)
    except UserError as error:
        raise InvalidError(" ".join(str(error).split())) from error


def point_of(variant: Variant, space: Space) -> tuple[dict[str, Any], list[str]]:
    """The values of the space that are nearest to a network, and the names of those that differ.

    Raises UserError where it makes a choice that the space does not have.
    """
    architecture, design = variant.architecture, variant.experiment.design
    base = (variant.baseline or variant).experiment.design
    for name in Design.__dataclass_fields__:
        setting = space.design.get(name) or Setting(options=(getattr(base, name),))
        if name not in STAGE_NUMBERS and getattr(design, name) not in setting.options:
            raise UserError(
                f"enqueue: {variant.name}: design.{name}: {getattr(design, name)} is not in the "
                f"space; add it there, or do not enqueue it"
            )
    own: dict[str, Any] = dict(numbers_of(architecture, design))
    own |= {f"design.{name}": getattr(design, name) for name in space.design}
    varied = space.varied()
    point = {name: varied[name].nearest(value) for name, value in own.items() if name in varied}
    settings = dict(space.settings())
    moved = [n for n, v in own.items() if n in settings and v not in settings[n].options]
    return point, moved


def _asking(trial: Trial) -> Ask:
    def ask(name: str, setting: Setting) -> Any:
        low, high, step = setting.options[0], setting.options[-1], setting.step
        if setting.is_fixed:
            return low
        if step is None:
            return trial.suggest_categorical(name, setting.options)
        if type(low) is int:
            return trial.suggest_int(name, low, high, step=int(step))
        return trial.suggest_float(name, low, high, step=step)

    return ask
