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
from levit_ablate.search import trials
from levit_ablate.search.confirm import best_of, confirmed
from levit_ablate.search.found import Found
from levit_ablate.search.front import FIELDS, front_of
from levit_ablate.search.importance import Importance, importance
from levit_ablate.search.plan import SearchPlan
from levit_ablate.search.plots import pictures
from levit_ablate.serialization import config_from

SHOWN = 10
"""Trials in the table."""


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
    """The most accurate, none twice."""
    confirmed: Results | None
    importance: Importance | None

    @property
    def counts(self) -> Counter[str]:
        """How many trials ended how; those that were tried again are not counted."""
        return Counter(f.state for f in self.found if f.state != "failed" or f.error)

    @property
    def baseline(self) -> Found | None:
        """The trial of the baseline."""
        key = self.planned.baseline.key
        return next((f for f in self.found if f.key == key and f.state == "complete"), None)

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
        """What fresh seeds say of a trial."""
        name = each.ablation or f"trial {each.number}"
        rows = self.confirmed.rows[1:] if self.confirmed else ()
        return next((row for row in rows if row.name == name and row.accuracies), None)


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
    best = best_of(planned, found, SHOWN)
    return Report(
        planned=planned,
        found=tuple(found),
        stages={number: stages_line(*network) for number, network in networks.items()},
        choices={number: choices_line(*network, base) for number, network in networks.items()},
        best=tuple(best),
        confirmed=confirmed(planned, study, best[: planned.search.confirm]),
        importance=_importance(there),
    )


def _importance(there: Sequence[FrozenTrial]) -> Importance | None:
    """Of the settings of the networks that were trained, widths as they were fitted.

    Each network once; not those that were enqueued from outside the space.
    """
    networks: dict[str, tuple[dict[str, Any], float]] = {}
    for trial in there:
        own = trial.user_attrs
        if trial.state == TrialState.COMPLETE and trial.values and not own.get(trials.MOVED):
            stages = own[trials.ARCHITECTURE]["stages"]
            widths = {f"width.{n}": stage["width"] for n, stage in enumerate(stages, start=1)}
            networks[own[trials.KEY]] = ({**trial.params, **widths}, trial.values[0])
    if not networks:
        return None
    params, values = zip(*networks.values(), strict=True)
    return importance(params, values)


def stages_line(architecture: Architecture, design: Design) -> str:
    """Of each stage depth, width C, heads N of keys D, and expansion M of the MLPs."""

    def line(stage: Stage) -> str:
        key_dim = geometry.key_dim_of(architecture, design, stage)
        own = stage.mlp_expansion
        expansion = design.mlp_expansion if own is None else own
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
            "baseline": base and described(base),
            "best": [described(each) for each in report.best],
            "front": [described(each) for each in report.front],
            "importance": shares
            and {
                "main": dict(shares.main),
                "pairs": [[*pair, share] for pair, share in shares.pairs.items()],
                "explained": shares.explained,
                "reliable": shares.reliable,
            },
        }
    )
