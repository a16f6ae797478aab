"""Report of a search: its trials, and what fresh seeds confirm of the best.

The best of many is partly the luckiest, so its accuracy in the search is too high by construction.
The confirmation, a study of the best and the baseline with the full recipe, is the one to claim.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from optuna import Study as Trials

from levit_ablate import library
from levit_ablate.analysis.results import Results, Row, results_of
from levit_ablate.config import Architecture, Design, differences
from levit_ablate.keys import changed
from levit_ablate.models import geometry
from levit_ablate.schema import config_from
from levit_ablate.searches import trials
from levit_ablate.searches.importance import Importance, importance_of
from levit_ablate.searches.numbers import NETWORK_NUMBERS, STAGE_NUMBERS
from levit_ablate.searches.plan import SearchPlan
from levit_ablate.searches.plots import pictures
from levit_ablate.searches.results import (
    FIELDS,
    TrialResult,
    complete_of,
    counts_of,
    front_of,
    trial_results,
)
from levit_ablate.studies.plan import Plan, plan
from levit_ablate.studies.study import Study
from levit_ablate.tracking import parent_run

SHOWN = 10
"""Rows of a table: trials, or shares."""
UNTRIED = -1
"""Number of the baseline where it was no trial."""


def best_of(planned: SearchPlan, found: Sequence[TrialResult], count: int) -> list[TrialResult]:
    """Return the trials to confirm: the most accurate ones.

    In a search for a front, they are spread over the front, its two ends included.
    """
    if len(planned.search.objectives) == 1:
        return _networks(planned, complete_of(found))[:count]
    chosen = _networks(planned, front_of(found, FIELDS[planned.search.cost]))
    if count < len(chosen):  # evenly along it, both ends included
        last = (len(chosen) - 1) / max(1, count - 1)
        return [chosen[round(index * last)] for index in range(count)]
    return chosen


def _networks(planned: SearchPlan, found: Sequence[TrialResult]) -> list[TrialResult]:
    """The trials, the most accurate first; no network twice, no baseline."""
    networks: dict[str, TrialResult] = {}
    for each in sorted(found, key=_rank):
        if each.key != planned.baseline.key:
            networks.setdefault(each.key, each)
    return list(networks.values())


def _rank(each: TrialResult) -> tuple[float, int]:
    return -(each.accuracy or 0), each.number


def confirmation(planned: SearchPlan, study: Trials, best: Sequence[TrialResult]) -> Plan:
    """Return the study that trains the best and the baseline, on fresh seeds."""
    search = planned.search
    attributes = {each.number: each.user_attrs for each in study.get_trials(deepcopy=False)}
    variants = []
    for each in best:
        summary = f"Trial {each.number} of search {search.name}"
        network = planned.rebuilt(each.name, summary, attributes[each.number])
        variants.append(network.ablation)
    return plan(
        Study(
            name=f"{search.name}-{planned.key[:8]}",
            path=search.path,
            summary=f"The best of search {search.name}, on fresh seeds",
            baseline=library.read(library.BASELINE),
            variants=tuple(variants),
            seeds=search.confirm_seeds,
        ),
        planned.given,
    )


def confirmed(planned: SearchPlan, study: Trials, best: Sequence[TrialResult]) -> Results | None:
    """Return the recorded results of the confirmation, or None."""
    if not best:
        return None
    checked = confirmation(planned, study, best)
    parent = parent_run.found(checked.whole)
    return results_of(parent, checked.described()) if parent else None


@dataclass(frozen=True, kw_only=True)
class Report:
    """Results of a search as they stand."""

    planned: SearchPlan
    found: tuple[TrialResult, ...]
    stages: Mapping[int, str]
    """Trial number → its stages in a line."""
    choices: Mapping[int, str]
    """Trial number → its other differences from the baseline; empty without any."""
    best: tuple[TrialResult, ...]
    """The most accurate trials and those to be confirmed, the most accurate first."""
    confirmed: Results | None
    """Results of the study on fresh seeds; None where nothing is recorded yet."""
    importance: Importance | None

    @property
    def counts(self) -> Counter[str]:
        """Number of trials by state; those that were retried are not counted."""
        return counts_of(self.found)

    @property
    def baseline(self) -> TrialResult | None:
        """The baseline's trial, or None."""
        key = self.planned.baseline.key
        return next((f for f in self.found if f.key == key and f.state == "complete"), None)

    @property
    def winner(self) -> TrialResult | None:
        """The best as confirmed on every seed, or as the search saw it where none is; or None."""
        rows = [(self.confirmation_of(each), each) for each in self.best]
        confirmed = [(row.mean or 0.0, each) for row, each in rows if row and not row.errors]
        if not confirmed:
            return next(iter(self.best), None)
        return max(confirmed, key=lambda pair: pair[0])[1]

    @property
    def reference(self) -> TrialResult:
        """The baseline's trial; where there is none, as it does not fit, its cost alone."""
        base = self.planned.baseline
        return self.baseline or TrialResult(
            number=UNTRIED,
            state="waiting",
            flops=base.cost.flops,
            num_params=base.cost.params,
            ablation=base.name,
            key=base.key,
        )

    @property
    def budget(self) -> float | None:
        """Limit of the cost that the front is drawn against; None without one."""
        limits = {**asdict(self.planned.budget), "latency": self.planned.latency}
        limit: float | None = limits[self.planned.search.cost]
        return limit

    @property
    def front(self) -> list[TrialResult]:
        """Complete trials that no other beats in both accuracy and cost, the cheapest first."""
        return front_of(self.found, FIELDS[self.planned.search.cost])

    def lead_of(self, each: TrialResult) -> float | None:
        """Return a trial's accuracy over that of the baseline's trial; None without both."""
        base = self.baseline
        if base is None or base.accuracy is None or each.accuracy is None:
            return None
        return each.accuracy - base.accuracy

    def confirmation_of(self, each: TrialResult) -> Row | None:
        """Return the row of a trial, or of the baseline, on fresh seeds; None without any."""
        if self.confirmed is None:
            return None
        base, *others = self.confirmed.rows
        is_base = each.key == self.planned.baseline.key
        own = [base] if is_base else [row for row in others if row.name == each.name]
        return next((row for row in own if row.accuracies), None)


def report_of(planned: SearchPlan, study: Trials) -> Report:
    """Read the report of a search from its trials and the open store; nothing is trained."""
    there = study.get_trials(deepcopy=False)
    found = trial_results(study)
    networks = {
        trial.number: (
            config_from(Architecture, trial.user_attrs[trials.ARCHITECTURE], ""),
            config_from(Design, trial.user_attrs[trials.DESIGN], ""),
        )
        for trial in there
        if trials.DESIGN in trial.user_attrs
    }
    base = planned.baseline.experiment.design
    networks[UNTRIED] = planned.baseline.architecture, base
    chosen = best_of(planned, found, planned.search.confirm)
    most_accurate = _networks(planned, complete_of(found))[:SHOWN]
    shown = {each.number: each for each in [*chosen, *most_accurate]}
    return Report(
        planned=planned,
        found=tuple(found),
        stages={number: stages_line(*network) for number, network in networks.items()},
        choices={number: choices_line(*network, base) for number, network in networks.items()},
        best=tuple(sorted(shown.values(), key=_rank)),
        confirmed=confirmed(planned, study, chosen),
        importance=importance_of(planned.search, there),
    )


def stages_line(architecture: Architecture, design: Design) -> str:
    """Format each stage: depth, width C, heads N of keys D, expansion M of the MLPs, and so on."""
    return ", ".join(
        " ".join(n.text.format(n.of(architecture, design, stage)) for n in STAGE_NUMBERS.values())
        for stage in geometry.stages_of(architecture, design)
    )


def choices_line(architecture: Architecture, design: Design, base: Design) -> str:
    """Format what `stages_line` leaves out: numbers of the whole network, and other choices."""
    set_fields = changed(architecture).keys()
    numbers = [
        number.text.format(number.of(architecture, design, architecture.stages[0]))
        for number in NETWORK_NUMBERS.values()
        if set_fields & number.sets(None, design).keys()
    ]
    choices = differences(base, design).items()
    others = [f"{n} {str(v).lower()}" for n, (_, v) in choices if n != "mlp_expansion"]
    return ", ".join(numbers + others)


def pictures_of(report: Report) -> dict[str, bytes]:
    """Return every plot of the report as PNG, by its name."""
    column = FIELDS[report.planned.search.cost]
    return pictures(report.found, column, report.budget, report.importance)


def as_dict(report: Report) -> dict[str, Any]:
    """Return the report as plain data; accuracies and differences are shares from 0 to 1."""

    def described(each: TrialResult) -> dict[str, Any]:
        row = report.confirmation_of(each)
        difference = row.difference if row else None
        return {
            **{k: v for k, v in asdict(each).items() if k != "error"},
            "stages": report.stages.get(each.number),
            "choices": report.choices.get(each.number),
            "difference": report.lead_of(each),
            "confirmed": row
            and {
                "accuracies": {str(seed): value for seed, value in row.accuracies.items()},
                "mean": row.mean,
                "difference": difference and difference.mean,
                "interval": difference and difference.interval,
                "p_holm": row.p_holm,
            },
        }

    planned, shares, fresh = report.planned, report.importance, report.confirmed
    return {
        "search": planned.search.name,
        "key": planned.key,
        "dataset": planned.dataset,
        "objectives": list(planned.search.objectives),
        "budget": {**asdict(planned.budget), "latency": planned.latency},
        "counts": dict(report.counts),
        "epochs": planned.baseline.experiment.recipe.epochs,
        "confirmed_epochs": fresh and fresh.conditions["recipe"]["epochs"],
        "baseline": described(report.reference) if report.baseline or fresh else None,
        "best": [described(each) for each in report.best],
        "front": [described(each) for each in report.front],
        "importance": shares
        and {
            "main": dict(shares.main),
            "pairs": [[*pair, share] for pair, share in shares.pairs.items()],
            "rest": shares.rest,
            "exact": shares.is_exact,
            "at": shares.at,
        },
    }
