"""What a search tries first, before its sampler's choice: named ablations, or a grid."""

from __future__ import annotations

from typing import Any

from optuna import Study

from levit_ablate.errors import UserError
from levit_ablate.searches.plan import SearchPlan
from levit_ablate.searches.sampling import NAME, point_of
from levit_ablate.searches.trials import COMBINATION, MOVED


def points_of_named(planned: SearchPlan) -> tuple[dict[str, tuple[Any, ...]], list[str]]:
    """Where the named ablations lie in the space: name → (point, moved); and what is said of them.

    The baseline is left out, with a line, where it has no place there, or is beyond the budget.
    Raises UserError where another ablation is.
    """
    points, said = {}, []
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
            said.append(f"{error}; it is trained for the confirmation alone")
            continue
        if moved := points[name][1]:
            said.append(f"{name}: not in the space in {', '.join(moved)}; the sampler sees it near")
    return points, said


def enqueue(study: Study, planned: SearchPlan) -> tuple[int, list[str]]:
    """Put first what is not the sampler's to choose, each once.

    The named ablations, and of a grid every combination that none of them is.

    Returns how many networks are to be trained in all, and what is said of the named ones. Raises
    UserError as `points_of_named`.
    """
    there = study.get_trials(deepcopy=False)
    names = {trial.user_attrs.get(NAME) for trial in there}
    points, said = points_of_named(planned)
    for name, (point, moved) in points.items():
        if name not in names:
            study.enqueue_trial(point, user_attrs={NAME: name, MOVED: moved})
    if planned.search.sampler != "grid":
        return planned.search.trials, said
    own = [point for point, moved in points.values() if not moved]
    combinations = {
        number: combination
        for number, combination in enumerate(planned.grid)
        if not any(combination.items() <= point.items() for point in own)
    }
    tried = {trial.user_attrs.get(COMBINATION) for trial in there}
    for number, combination in combinations.items():
        if number not in tried:
            study.enqueue_trial(combination, user_attrs={COMBINATION: number})
    return len(points) + len(combinations), said
