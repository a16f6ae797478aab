"""How far a study is: which of its runs are recorded, at work, failed, missing, or of no use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from mlflow.entities import Run

from levit_ablate.experiment import Variant
from levit_ablate.studies.plan import Plan
from levit_ablate.tracking.runs import children, is_alive, of_key, reading_the_record, search
from levit_ablate.tracking.tags import ABLATION, KEY, SEED, STUDY_KEY

State = Literal["recorded", "at work", "failed", "interrupted", "missing"]


class JobState(NamedTuple):
    """One run of a study."""

    job: Variant
    state: State
    run: str
    """MLflow's name of it; empty where there is none."""


class Stale(NamedTuple):
    """A run that a study recorded and that is none of its runs any more."""

    name: str
    seed: int
    run: str


def states_of(plan: Plan) -> list[JobState]:
    """Every run of a study. Raises RunError where the record cannot be read."""
    return [JobState(job, *_state(of_key(*job.keys))) for job in plan.jobs]


def _state(runs: Sequence[Run]) -> tuple[State, str]:
    kinds: list[tuple[State, list[Run]]] = [
        ("recorded", [run for run in runs if run.info.status == "FINISHED"]),
        ("at work", [run for run in runs if is_alive(run)]),
        ("failed", [run for run in runs if run.info.status == "FAILED"]),
        ("interrupted", list(runs)),
    ]
    for state, found in kinds:
        if found:
            return state, found[0].info.run_id
    return "missing", ""


@reading_the_record()
def stale_of(plan: Plan) -> list[Stale]:
    """Runs below this study that have a planned name and seed and another key.

    The ablation's file was changed since.
    """
    keys = {job.key for job in plan.jobs}
    planned = {(job.name, str(job.experiment.seed)) for job in plan.jobs}
    stale = []
    for parent in search(f"tags.`{STUDY_KEY}` = '{plan.key}'"):
        for run in children(parent.info.run_id):
            tags = run.data.tags
            if tags.get(KEY) not in keys and (tags.get(ABLATION), tags.get(SEED)) in planned:
                stale.append(Stale(tags[ABLATION], int(tags[SEED]), run.info.run_id))
    return stale
