"""What a search found: what it saw, and what fresh seeds confirm, side by side."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from optuna import Study
from optuna.trial import FrozenTrial, TrialState

from levit_ablate.analysis.results import Results, Row
from levit_ablate.config import Architecture, Design, Stage, differences
from levit_ablate.models import geometry
from levit_ablate.schema import config_from
from levit_ablate.searches import trials
from levit_ablate.searches.confirm import best_of, confirmed, most_accurate, rank
from levit_ablate.searches.found import Found, counts_of
from levit_ablate.searches.front import FIELDS, front_of
from levit_ablate.searches.importance import Importance, importance
from levit_ablate.searches.plan import SearchPlan
from levit_ablate.searches.plots import pictures
from levit_ablate.searches.search import Search

SHOWN = 10
"""Trials in the table."""
UNTRIED = -1
"""In place of a trial's number: the baseline was none."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """A search as it stands."""

    planned: SearchPlan
    found: tuple[Found, ...]
    stages: Mapping[int, str]
    """Of each trial its geometry, in a line."""
    choices: Mapping[int, str]
    """Of each trial in which other choices it differs from the baseline; empty where in none."""
    best: tuple[Found, ...]
    """The most accurate, and those that are to be confirmed, none twice."""
    confirmed: Results | None
    importance: Importance | None

    @property
    def counts(self) -> Counter[str]:
        """How many trials ended how; those that were tried again are not counted."""
        return counts_of(self.found)

    @property
    def baseline(self) -> Found | None:
        """The trial of the baseline."""
        key = self.planned.baseline.key
        return next((f for f in self.found if f.key == key and f.state == "complete"), None)

    @property
    def winner(self) -> Found | None:
        """The best as confirmed by every seed; as the search saw it where none is yet."""
        rows = [(self.confirmation_of(each), each) for each in self.best]
        confirmed = [(row.mean or 0.0, each) for row, each in rows if row and not row.errors]
        if not confirmed:
            return next(iter(self.best), None)
        return max(confirmed, key=lambda pair: pair[0])[1]

    @property
    def reference(self) -> Found:
        """The trial of the baseline; where it was none, for it does not fit, its cost alone."""
        base = self.planned.baseline
        return self.baseline or Found(
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
        """Of the cost that the front is drawn against."""
        limits = {**asdict(self.planned.budget), "latency": self.planned.latency}
        limit: float | None = limits[self.planned.search.cost]
        return limit

    @property
    def front(self) -> list[Found]:
        """Of the trials that were trained to their end."""
        return front_of(self.found, FIELDS[self.planned.search.cost])

    def confirmation_of(self, each: Found) -> Row | None:
        """What fresh seeds say of a trial, or of the baseline."""
        if self.confirmed is None:
            return None
        base, *others = self.confirmed.rows
        is_base = each.key == self.planned.baseline.key
        own = [base] if is_base else [row for row in others if row.name == each.name]
        return next((row for row in own if row.accuracies), None)


def report_of(planned: SearchPlan, study: Study) -> Report:
    """Read from the trials and from the open store; nothing is trained."""
    there = study.get_trials(deepcopy=False)
    found = trials.found_of(there)
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


def importance_of(search: Search, there: Sequence[FrozenTrial]) -> Importance | None:
    """Of the settings of the networks that were trained, widths as they were fitted.

    Each network once; not those that were enqueued from outside the space. Where some were given
    up, for the last accuracy that all have: among those that were not given up, which were chosen
    by their accuracy, settings would seem to interact that do not.
    """
    networks: dict[str, FrozenTrial] = {}
    for trial in there:
        own = trial.user_attrs
        is_trained = trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
        if is_trained and trials.INVALID not in own and not own.get(trials.MOVED):
            networks[own[trials.KEY]] = trial
    if not networks:
        return None
    given_up = [t for t in networks.values() if t.state == TrialState.PRUNED]
    step = min((max(t.intermediate_values) for t in given_up), default=None)
    params, values = [], []
    for trial in networks.values():
        if step is not None and step not in trial.intermediate_values:
            continue
        params.append(trials.settings_of(trial))
        values.append(trial.values[0] if step is None else trial.intermediate_values[step])
    if step is None:
        return importance(params, values)
    at = f"with seed {search.seeds[step]}" if search.pruner == "wilcoxon" else f"after epoch {step}"
    return importance(params, values, at)


def stages_line(architecture: Architecture, design: Design) -> str:
    """Of each stage depth, width C, heads N of keys D, and expansion M of the MLPs."""

    def line(stage: Stage) -> str:
        key_dim = geometry.key_dim_of(architecture, design, stage)
        expansion = geometry.mlp_expansion_of(design, stage)
        return f"{stage.depth}x C{stage.width} N{stage.num_heads} D{key_dim} M{expansion:g}"

    return ", ".join(map(line, geometry.stages_of(architecture, design)))


def choices_line(architecture: Architecture, design: Design, base: Design) -> str:
    """What `stages_line` leaves out: the stem's width, and the choices that are not the base's."""
    changed = differences(base, design)
    said = [f"{n} {str(v).lower()}" for n, (_, v) in changed.items() if n != "mlp_expansion"]
    stem = [f"stem C{architecture.stem_width}"] if architecture.stem_width else []
    return ", ".join(stem + said)


def pictures_of(report: Report) -> dict[str, bytes]:
    """PNG by name."""
    column = FIELDS[report.planned.search.cost]
    return pictures(report.found, column, report.budget, report.importance)


def as_json(report: Report) -> str:
    """For machines; accuracies and differences are shares from 0 to 1."""
    base = report.baseline

    def described(each: Found) -> dict[str, Any]:
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
                "at": shares.at,
                "explained": shares.explained,
                "reliable": shares.reliable,
            },
        }
    )
