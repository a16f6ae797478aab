"""Report of a search: its trials beside what fresh seeds confirm of the best, and as JSON."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from optuna import Study

from levit_ablate.analysis.results import Results, Row
from levit_ablate.config import Architecture, Design, differences
from levit_ablate.keys import changed
from levit_ablate.models import geometry
from levit_ablate.schema import config_from
from levit_ablate.searches import trials
from levit_ablate.searches.confirm import best_of, confirmed, most_accurate, rank
from levit_ablate.searches.importance import Importance, importance_of
from levit_ablate.searches.numbers import NETWORK_NUMBERS, STAGE_NUMBERS
from levit_ablate.searches.plan import SearchPlan
from levit_ablate.searches.plots import pictures
from levit_ablate.searches.results import FIELDS, TrialResult, counts_of, front_of

SHOWN = 10
"""Rows of a table: trials, or shares."""
UNTRIED = -1
"""Number of the baseline where it was no trial."""


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
            params={},
            accuracy=None,
            flops=base.cost.flops,
            num_params=base.cost.params,
            latency=None,
            ablation=base.name,
            seconds=0.0,
            error="",
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

    def confirmation_of(self, each: TrialResult) -> Row | None:
        """Return the row of a trial, or of the baseline, on fresh seeds; None without any."""
        if self.confirmed is None:
            return None
        base, *others = self.confirmed.rows
        is_base = each.key == self.planned.baseline.key
        own = [base] if is_base else [row for row in others if row.name == each.name]
        return next((row for row in own if row.accuracies), None)


def report_of(planned: SearchPlan, study: Study) -> Report:
    """Read the report of a search from its trials and the open store; nothing is trained."""
    there = study.get_trials(deepcopy=False)
    found = trials.trial_results(there)
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
    shown = {each.number: each for each in [*chosen, *most_accurate(planned, found)[:SHOWN]]}
    best = sorted(shown.values(), key=rank)
    return Report(
        planned=planned,
        found=tuple(found),
        stages={number: stages_line(*network) for number, network in networks.items()},
        choices={number: choices_line(*network, base) for number, network in networks.items()},
        best=tuple(best),
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


def as_json(report: Report) -> str:
    """Return the report as one JSON object; accuracies and differences are shares from 0 to 1."""
    base = report.baseline

    def described(each: TrialResult) -> dict[str, Any]:
        row = report.confirmation_of(each)
        return {
            **{k: v for k, v in asdict(each).items() if k != "error"},
            "stages": report.stages.get(each.number),
            "choices": report.choices.get(each.number),
            "difference": each.accuracy - base.accuracy
            if base and base.accuracy is not None and each.accuracy is not None
            else None,
            "confirmed": row
            and {
                "accuracies": {str(seed): value for seed, value in row.accuracies.items()},
                "mean": row.mean,
                "difference": row.difference.mean if row.difference else None,
                "interval": row.difference.interval if row.difference else None,
                "p_holm": row.p_holm,
            },
        }

    shares = report.importance
    return json.dumps(
        {
            "search": report.planned.search.name,
            "key": report.planned.key,
            "dataset": report.planned.dataset,
            "objectives": list(report.planned.search.objectives),
            "budget": {**asdict(report.planned.budget), "latency": report.planned.latency},
            "counts": dict(report.counts),
            "epochs": report.planned.baseline.experiment.recipe.epochs,
            "confirmed_epochs": report.confirmed
            and report.confirmed.conditions["recipe"]["epochs"],
            "baseline": described(report.reference) if base or report.confirmed else None,
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
    )
