"""How Optuna chooses: networks from trials, enqueued ablations, samplers and pruners."""

from __future__ import annotations

import platform
import warnings
from collections.abc import Callable
from typing import Any

from optuna import Study, Trial
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner, MedianPruner, NopPruner, WilcoxonPruner
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from levit_ablate.config import Design
from levit_ablate.errors import UserError
from levit_ablate.experiment import Variant
from levit_ablate.keys import hashed
from levit_ablate.searches.numbers import STAGE_NUMBERS, Setting, numbers_of
from levit_ablate.searches.plan import SearchPlan
from levit_ablate.searches.space import Ask, Space

# user attributes of an enqueued trial
NAME = "ablation"
"""Name of the ablation."""
MOVED = "moved"
"""Settings that the sampler sees at another value than the ablation's."""
COMBINATION = "combination"
"""Number of the combination, in a grid."""

REDUCTION = 3
"""ASHA keeps one in so many networks at each rung; the next rung is so many times as far."""


class InvalidError(Exception):
    """The sampled settings make no valid network of the search."""


def variant_of(trial: Trial, planned: SearchPlan) -> Variant:
    """Return the network of a trial, at the first seed. Raises InvalidError if it is not valid."""
    name = trial.user_attrs.get(NAME)
    try:
        architecture, design = planned.space.network_of(_asking(trial))
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
    """Return the values of the space nearest to a network, and the names of those that differ.

    Raises UserError if the network has a design choice that the space lacks.
    """
    architecture, design = variant.architecture, variant.experiment.design
    base = space.base[1]
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
    settings = space.settings()
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


def points_of_named(planned: SearchPlan) -> tuple[dict[str, tuple[Any, ...]], list[str]]:
    """Return the points of the enqueued ablations, name → (point, moved), and lines to print.

    A baseline that is not in the space, or over the budget, is left out with a line. Raises
    UserError for any other such ablation.
    """
    points, lines = {}, []
    for name in planned.search.enqueue:
        variant = planned.named(name)
        try:
            share = planned.budget.share(
                variant.architecture, variant.experiment.design, variant.images
            )
            if share > 1:
                raise UserError(f"enqueue: {name}: costs {share:.2f} times the budget")
            points[name] = point_of(variant, planned.space)
        except UserError as error:
            if name != planned.baseline.name:
                raise
            lines.append(f"{error}; it is trained for the confirmation alone")
            continue
        if moved := points[name][1]:
            lines.append(
                f"{name}: not in the space in {', '.join(moved)}; the sampler sees it near"
            )
    return points, lines


def enqueue(study: Study, planned: SearchPlan) -> tuple[int, list[str]]:
    """Enqueue the named ablations and all other combinations of a grid, each once.

    Returns the number of networks to train in all, and lines to print. Raises UserError as
    `points_of_named`.
    """
    there = study.get_trials(deepcopy=False)
    names = {trial.user_attrs.get(NAME) for trial in there}
    points, lines = points_of_named(planned)
    for name, (point, moved) in points.items():
        if name not in names:
            study.enqueue_trial(point, user_attrs={NAME: name, MOVED: moved})
    if planned.search.sampler != "grid":
        return planned.search.trials, lines
    own = [point for point, moved in points.values() if not moved]
    combinations = {
        number: combination
        for number, combination in enumerate(planned.space.combinations)
        if not any(combination.items() <= point.items() for point in own)
    }
    tried = {trial.user_attrs.get(COMBINATION) for trial in there}
    for number, combination in combinations.items():
        if number not in tried:
            study.enqueue_trial(combination, user_attrs={COMBINATION: number})
    return len(points) + len(combinations), lines


def sampler_of(planned: SearchPlan, number: int) -> BaseSampler:
    """Return the sampler for a trial, seeded by its number and this machine's name.

    No two trials draw the same, and a search that goes on draws what it would have drawn.
    """
    seed = int(hashed({"search": planned.key, "host": platform.node()})[:7], 16) + number
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        makers: dict[str, Callable[[], BaseSampler]] = {
            # grouped: parts of the space that depend on a choice are modelled for themselves
            "tpe": lambda: TPESampler(seed=seed, multivariate=True, group=True, constant_liar=True),
            "nsga2": lambda: NSGAIISampler(seed=seed, population_size=20),
            "gp": lambda: GPSampler(seed=seed, warn_independent_sampling=False),
            "random": lambda: RandomSampler(seed=seed),
            "grid": lambda: RandomSampler(seed=seed),  # all is enqueued: `enqueue`
        }
        return makers[planned.search.sampler]()


class Asha(BasePruner):
    """Asynchronous successive halving (Li et al., MLSys 2020), with accuracies of every epoch.

    A training goes on from a rung if it is among the best third of all that reached it so far; the
    best always does. Optuna's SuccessiveHalvingPruner does the same, but stores the rungs as
    attributes when it is asked: those of a trial that died stay beside its retry's, and a network
    that was recorded before has none. Here the curves themselves are compared.

    Args:
        first: the epoch of the first rung, from 1; the others are 3, 9, … times as far.
    """

    def __init__(self, first: int) -> None:
        self.first = first

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Return whether to give the trial up at its last epoch."""
        epoch = trial.last_step
        if epoch is None or not self._is_rung(epoch):
            return False
        own = trial.intermediate_values[epoch]
        others = [
            each.intermediate_values[epoch]
            for each in study.get_trials(deepcopy=False)
            if each.number != trial.number
            and each.state != TrialState.FAIL
            and epoch in each.intermediate_values
        ]
        better = sum(value > own for value in others)
        return better >= max(1, (len(others) + 1) // REDUCTION)

    def _is_rung(self, epoch: int) -> bool:
        rung = self.first
        while rung < epoch:
            rung *= REDUCTION
        return rung == epoch


def pruner_of(name: str, epochs: int) -> BasePruner:
    """Return the pruner by name; it begins at a ninth of the epochs."""
    first = -(-epochs // REDUCTION**2)
    makers: dict[str, Callable[[], BasePruner]] = {
        "none": lambda: NopPruner(),
        "asha": lambda: Asha(first),
        "median": lambda: MedianPruner(n_startup_trials=5, n_warmup_steps=first),
        "wilcoxon": lambda: WilcoxonPruner(),
    }
    return makers[name]()
