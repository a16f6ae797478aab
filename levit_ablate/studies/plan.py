"""A study under given conditions: every variant at every seed, checked and keyed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

from mlflow.entities import Run

from levit_ablate.config import VARIANT_KEYS
from levit_ablate.errors import UserError
from levit_ablate.experiment import Variant, check_changes, comparison
from levit_ablate.keys import hashed
from levit_ablate.runner.job import Job
from levit_ablate.schema import merge, plain
from levit_ablate.studies.study import Study
from levit_ablate.tracking.parent_run import Whole
from levit_ablate.tracking.runs import (
    ABLATION,
    KEY,
    SEED,
    STUDY,
    STUDY_KEY,
    children,
    is_alive,
    of_key,
    search,
)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A study under given conditions."""

    study: Study
    variants: tuple[Variant, ...]
    """The baseline first; each at the first seed, the others are `Variant.at_seed`."""
    match: str
    """Cost that all are matched to in place of the ablations' own; empty where none was given."""

    @property
    def baseline(self) -> Variant:
        return self.variants[0]

    @property
    def seeds(self) -> tuple[int, ...]:
        return self.study.seeds

    @property
    def dataset(self) -> str:
        """Name of the dataset, or of its folder."""
        return self.whole.dataset

    @cached_property
    def key(self) -> str:
        """Key under which the study is found again, the same for all seeds."""
        return hashed(
            {
                "study": self.study.name,
                "match": self.match,
                "baseline": self.baseline.at_seed(0).key,
            }
        )

    @cached_property
    def whole(self) -> Whole:
        """Name, key and conditions of its own run in MLflow."""
        name, summary = self.study.name, self.study.summary
        return Whole(STUDY, name, self.key, summary, self.baseline.experiment)

    @cached_property
    def networks(self) -> dict[str, str]:
        """Variant name → key at seed 0, which tells its network from others of the name."""
        return {variant.name: variant.at_seed(0).key for variant in self.variants}

    @cached_property
    def jobs(self) -> tuple[Variant, ...]:
        """Every variant at every seed, in the order in which they are run.

        The baselines first: they ask the teacher, each for its own seed, and all that follow read
        its answers. Then seed by seed, so that a whole table is there early.
        """
        others = [v.at_seed(seed) for seed in self.seeds for v in self.variants[1:]]
        return (*(self.baseline.at_seed(seed) for seed in self.seeds), *others)

    def described(self, earlier: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return all that a table needs beside the runs, as plain data.

        Args:
            earlier: its description so far, whose variants and seeds stay: a sweep of some of
                them takes nothing from the table.
        """
        earlier = earlier or {"seeds": [], "variants": []}
        seeds = sorted({*self.seeds, *earlier["seeds"]})
        before = {each["name"]: each for each in earlier["variants"]}
        own = {variant.name: self._described(variant, seeds) for variant in self.variants}
        order = own if before.keys() <= own.keys() else before | own
        return {
            "study": self.study.name,
            "summary": self.study.summary,
            "dataset": self.dataset,
            "seeds": seeds,
            "match": self.match,
            "conditions": plain(self.baseline.experiment),
            "variants": [own.get(name) or before[name] for name in order],
        }

    def _described(self, variant: Variant, seeds: Sequence[int]) -> dict[str, Any]:
        return {
            **variant.ablation.header(),
            "params": variant.cost.params,
            "flops": variant.cost.flops,
            "matched": variant.matched,
            "parts": list(self.study.parts.get(variant.name, ())),
            "keys": {str(seed): variant.at_seed(seed).key for seed in seeds},
        }


def plan(study: Study, given: Mapping[str, Any]) -> Plan:
    """Make every variant of a study explicit and check that it changes something.

    Design and architecture among what is given hold for all variants, the baseline too, unless a
    variant says otherwise; match takes the place of the ablations' own. The cost that variants are
    matched to is that of the project's baseline, under the same conditions.

    Raises UserError, naming the variant, before anything is trained.
    """
    given = merge(study.given, given)
    common = {key: given[key] for key in VARIANT_KEYS if given.get(key)}
    match = {key: common[key] for key in ("match",) if key in common}
    compared = comparison(given, common, study.baseline)
    variants = [compared.baseline.at_seed(study.seeds[0])]
    for ablation in study.variants:
        try:
            own = compared.variant(ablation, match)
            check_changes(own)
        except UserError as error:
            reason = str(error).removeprefix(f"{ablation.name}: ")
            raise UserError(f"{study.name}: {ablation.name}: {reason}") from error
        variants.append(own.at_seed(study.seeds[0]))
    _check_distinct(study, variants)
    return Plan(study=study, variants=tuple(variants), match=str(match.get("match", "")))


def _check_distinct(study: Study, variants: Sequence[Variant]) -> None:
    """Refuse two names of one run: their rows would only seem to agree. Raises UserError."""
    first: dict[str, Variant] = {}
    for variant in variants:
        if (same := first.setdefault(variant.key, variant)) is not variant:
            raise UserError(
                f"{study.name}: {variant.name} and {same.name} are the same under these "
                f"conditions; leave one of them out"
            )


def jobs_of(runs: Sequence[Variant], parent: str = "") -> list[Job]:
    """Return the jobs of some runs, first the teachers that are to be trained.

    Args:
        runs: variants at their seeds.
        parent: ID of the study's run.
    """
    jobs = [Job(variant=run, parent=parent) for run in runs]
    teachers = {job.teacher: job for job in jobs if job.teacher and not job.is_ready}
    return [*(Job(variant=job.variant, only_teacher=True) for job in teachers.values()), *jobs]


State = Literal["recorded", "at work", "failed", "interrupted", "missing"]


class JobState(NamedTuple):
    """The state of one run of a study."""

    job: Variant
    state: State
    run: str
    """MLflow's ID of the run; empty if there is none."""


class Stale(NamedTuple):
    """A recorded run that is no longer part of its study: its settings have changed."""

    name: str
    seed: int
    run: str


def states_of(plan: Plan) -> list[JobState]:
    """Return the state of every run of a study. Raises RunError if the store cannot be read."""
    return [JobState(job, *_state(of_key(*job.keys))) for job in plan.jobs]


def _state(runs: Sequence[Run]) -> tuple[State, str]:
    kinds: list[tuple[State, list[Run]]] = [
        ("recorded", [run for run in runs if run.info.status == "FINISHED"]),
        ("at work", [run for run in runs if is_alive(run)]),
        ("failed", [run for run in runs if run.info.status == "FAILED"]),
        ("interrupted", list(runs)),
    ]
    matches = ((state, of_state[0].info.run_id) for state, of_state in kinds if of_state)
    return next(matches, ("missing", ""))


def stale_of(plan: Plan) -> list[Stale]:
    """Return recorded runs with a planned name and seed but another key.

    Their ablation's file has changed since. Raises RunError if the store cannot be read.
    """
    keys = {job.key for job in plan.jobs}
    planned = {(job.name, str(job.experiment.seed)) for job in plan.jobs}
    parents = search(f"tags.`{STUDY_KEY}` = '{plan.key}'")
    recorded = [
        (run.data.tags, run.info.run_id) for each in parents for run in children(each.info.run_id)
    ]
    return [
        Stale(tags[ABLATION], int(tags[SEED]), run_id)
        for tags, run_id in recorded
        if tags.get(KEY) not in keys and (tags.get(ABLATION), tags.get(SEED)) in planned
    ]
