"""Plans a sweep: the runs it would train, and an estimate of the time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

import pandas as pd

from levit_ablate.api.session import opened, store_uri, talking
from levit_ablate.api.settings import Settings
from levit_ablate.api.sweep import Seeds, conditions_of, study_file
from levit_ablate.errors import UserError
from levit_ablate.runner.estimate import Estimate, probe
from levit_ablate.schema import plain
from levit_ablate.studies.conduct import check
from levit_ablate.studies.plan import JobState, Plan, Stale, jobs_of, stale_of, states_of
from levit_ablate.studies.plan import plan as planned_of
from levit_ablate.tracking.store import is_empty

TO_RUN = ("missing", "failed", "interrupted")
"""States of a run that a sweep would train."""


@dataclass(frozen=True, kw_only=True, repr=False)
class StudyPlan:
    """A study under given conditions: its variants, the state of its runs, an estimate of time."""

    planned: Plan
    states: tuple[JobState, ...]
    stale: tuple[Stale, ...]
    """Runs that were recorded under other settings, and are not used."""
    estimate: Estimate | None
    """Seconds of each variant's run; None where no probe was asked for, or nothing is to run."""
    seconds: float | None
    """Estimated time of the whole sweep, teacher included."""

    @property
    def variants(self) -> pd.DataFrame:
        """A row for each variant: name, summary, params, flops, matched, seconds (of a run)."""
        said = self.as_dict()["variants"]
        columns = ["name", "summary", "params", "flops", "matched", "seconds"]
        return pd.DataFrame([{name: each[name] for name in columns} for each in said])

    @property
    def runs(self) -> pd.DataFrame:
        """A row for each variant and seed: variant, seed, state, key, run_id.

        States: recorded, at work, failed, interrupted, missing.
        """
        return pd.DataFrame(
            [
                {
                    "variant": each.job.name,
                    "seed": each.job.experiment.seed,
                    "state": each.state,
                    "key": each.job.key,
                    "run_id": each.run,
                }
                for each in self.states
            ]
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the plan as plain data."""
        planned = self.planned
        return {
            "study": planned.study.name,
            "dataset": planned.dataset,
            "key": planned.key,
            "seeds": list(planned.seeds),
            "variants": [
                {
                    "name": variant.name,
                    "summary": variant.ablation.summary,
                    "params": variant.cost.params,
                    "flops": variant.cost.flops,
                    "matched": variant.matched,
                    "stages": plain(variant.architecture.stages),
                    "value_dim": variant.architecture.value_dim,
                    "differs": {
                        name: plain(own) for name, (_, own) in variant.differences().items()
                    },
                    "seconds": self.estimate.run[variant.name] if self.estimate else None,
                    "runs": [_run(each) for each in self.states if each.job.name == variant.name],
                }
                for variant in planned.variants
            ],
            "runs": len(self.states),
            "to_run": sum(each.state in TO_RUN for each in self.states),
            "recorded": sum(each.state == "recorded" for each in self.states),
            "stale": [each._asdict() for each in self.stale],
            "seconds": self.seconds,
        }

    def __repr__(self) -> str:
        said = self.as_dict()
        name = f"{said['study']} on {said['dataset']}"
        return f"<StudyPlan {name}: {said['recorded']} of {said['runs']} runs are recorded>"


def _run(state: JobState) -> dict[str, Any]:
    job = state.job
    return {"seed": job.experiment.seed, "state": state.state, "key": job.key, "run": state.run}


def plan(
    study: str | Path,
    *,
    variants: Sequence[str] = (),
    seeds: Seeds = None,
    baseline: str | None = None,
    jobs: int = 1,
    probe_time: bool = True,
    tracking_uri: str | None = None,
    progress: bool = False,
    **settings: Unpack[Settings],
) -> StudyPlan:
    """Return what `sweep` would run, what is recorded, and how long it will take.

    Nothing is recorded, and no store is made.

    Args:
        study: the study's name, or its YAML file.
        variants: as in `sweep`.
        seeds: as in `sweep`.
        baseline: as in `sweep`.
        jobs: runs at once, for the estimate.
        probe_time: train every variant for a few steps, to estimate the time.
        tracking_uri: MLflow store; MLFLOW_TRACKING_URI, or ./mlflow.db, unless given.
        progress: print warnings, on standard error.
        settings: as those of `sweep`.

    Raises UserError for a mistake; RunError where the store is out of reach.
    """
    if jobs < 1:
        raise UserError(f"--jobs: {jobs} must be at least 1")
    file, given = study_file(study, variants, seeds, baseline), conditions_of(settings)
    uri = store_uri(tracking_uri)
    with talking(progress):
        planned = planned_of(file, given)
        check(planned)
        states: list[JobState] = [JobState(job, "missing", "") for job in planned.jobs]
        stale: list[Stale] = []
        if not is_empty(uri):
            with opened(uri):
                states, stale = states_of(planned), stale_of(planned)
        to_run = jobs_of([each.job for each in states if each.state in TO_RUN])
        estimate = probe(planned.variants) if to_run and probe_time else None
    at_once = min(jobs, len(to_run))
    return StudyPlan(
        planned=planned,
        states=tuple(states),
        stale=tuple(stale),
        estimate=estimate,
        seconds=estimate.whole(to_run) / at_once if estimate else None,
    )
