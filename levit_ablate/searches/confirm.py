"""Confirmation: the best of a search trained again with the full recipe, on fresh seeds.

The best of many is partly the luckiest, so its accuracy in the search is too high by construction.
The confirmation is a study like any other, with the baseline beside them, and its result is the
one to claim.
"""

from __future__ import annotations

from collections.abc import Sequence

from optuna import Study as Trials

from levit_ablate import library
from levit_ablate.analysis.results import Results, results_of
from levit_ablate.searches.plan import SearchPlan
from levit_ablate.searches.results import FIELDS, TrialResult, complete_of, front_of
from levit_ablate.studies.plan import Plan, plan
from levit_ablate.studies.study import Study
from levit_ablate.tracking import parent_run


def rank(each: TrialResult) -> tuple[float, int]:
    """Return the sort key of a trial: the most accurate first."""
    return -(each.accuracy or 0), each.number


def most_accurate(planned: SearchPlan, found: Sequence[TrialResult]) -> list[TrialResult]:
    """Return the trials trained to their end, best first; no network twice, no baseline."""
    return _networks(planned, complete_of(found))


def best_of(planned: SearchPlan, found: Sequence[TrialResult], count: int) -> list[TrialResult]:
    """Return the trials to confirm: the most accurate ones.

    In a search for a front, they are spread over the front, its two ends included.
    """
    if len(planned.search.objectives) == 1:
        return most_accurate(planned, found)[:count]
    chosen = _networks(planned, front_of(found, FIELDS[planned.search.cost]))
    if count < len(chosen):  # evenly along it, both ends included
        last = (len(chosen) - 1) / max(1, count - 1)
        return [chosen[round(index * last)] for index in range(count)]
    return chosen


def _networks(planned: SearchPlan, found: Sequence[TrialResult]) -> list[TrialResult]:
    networks: dict[str, TrialResult] = {}
    for each in sorted(found, key=rank):
        if each.key != planned.baseline.key:
            networks.setdefault(each.key, each)
    return list(networks.values())


def confirmation(planned: SearchPlan, study: Trials, best: Sequence[TrialResult]) -> Plan:
    """Return the study that trains the best and the baseline, on fresh seeds."""
    attributes = {each.number: each.user_attrs for each in study.get_trials(deepcopy=False)}
    variants = []
    for each in best:
        summary = f"Trial {each.number} of search {planned.search.name}"
        network = planned.rebuilt(each.name, summary, attributes[each.number])
        variants.append(network.ablation)
    return plan(
        Study(
            name=name_of(planned),
            path=planned.search.path,
            summary=f"The best of search {planned.search.name}, on fresh seeds",
            baseline=library.read(library.BASELINE),
            variants=tuple(variants),
            seeds=planned.search.confirm_seeds,
        ),
        planned.given,
    )


def name_of(planned: SearchPlan) -> str:
    """Return the name of the confirmation, a study that `levit-ablate table` shows."""
    return f"{planned.search.name}-{planned.key[:8]}"


def confirmed(planned: SearchPlan, study: Trials, best: Sequence[TrialResult]) -> Results | None:
    """Return the recorded results of the confirmation, or None."""
    if not best:
        return None
    checked = confirmation(planned, study, best)
    parent = parent_run.found(checked.whole)
    return results_of(parent, checked.described()) if parent else None
