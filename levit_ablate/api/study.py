"""Studies: plan them, run what is missing, read what is recorded."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Unpack

from mlflow.entities import Run

from levit_ablate.analysis.results import description_of, results_of
from levit_ablate.api.launch import Places
from levit_ablate.api.session import opened, store_uri, talking
from levit_ablate.api.settings import Settings, conditions_of
from levit_ablate.api.study_results import TO_RUN, Study, StudyPlan
from levit_ablate.errors import RunError, UserError, closest
from levit_ablate.library import SUFFIXES
from levit_ablate.runner.estimate import probe
from levit_ablate.runner.job import work
from levit_ablate.schema import seeds_from
from levit_ablate.studies import plan as plans
from levit_ablate.studies.conduct import check, conduct
from levit_ablate.studies.jobs import jobs_of
from levit_ablate.studies.record import (
    JobState,
    Stale,
    recorded_studies,
    stale_of,
    states_of,
    study_runs,
)
from levit_ablate.studies.study import Study as StudyFile
from levit_ablate.studies.study import narrowed, read
from levit_ablate.tracking.outbox import deliver_pending
from levit_ablate.tracking.runs import children, settle
from levit_ablate.tracking.store import is_empty
from levit_ablate.tracking.tags import DATASET, STUDY_KEY
from levit_ablate.tracking.uris import without_password

Seeds = int | str | Sequence[int] | None


def sweep(
    study: str | Path,
    *,
    variants: str | Sequence[str] = (),
    seeds: Seeds = None,
    baseline: str | None = None,
    jobs: int | None = None,
    jobs_per_device: int = 1,
    launcher: Literal["local", "ray"] = "local",
    address: str | None = None,
    tracking_uri: str | None = None,
    progress: bool = False,
    allow_failures: bool = False,
    **settings: Unpack[Settings],
) -> Study:
    """Run every variant of a study at every seed that is not recorded yet; return its results.

        study = la.sweep("paper", data="digits", seeds=3, jobs=2)
        study.table(), study.runs, study.plot.forest()

    Args:
        study: the study's name, or its YAML file.
        variants: only these of the study; all unless given.
        seeds: how many, from 0 on (3), or which ([0, 1, 5]); the file's unless given.
        baseline: an ablation in place of the study's baseline.
        jobs: runs at once; one, or the places of all GPUs, unless given.
        jobs_per_device: runs at once on a GPU, which they share.
        launcher: where runs go: processes of this machine, or a Ray cluster.
        address: Ray cluster: auto, or HOST:PORT; a new one unless given.
        tracking_uri: MLflow store; MLFLOW_TRACKING_URI, or ./mlflow.db, unless given.
        progress: show a bar a run, on a terminal or in Jupyter, and a line for each that ends.
        allow_failures: return although runs have no result; `failed` then says which.
        settings: as those of `run`, without seed, for all variants.

    Raises UserError for a mistake, before anything is trained; RunError where runs have no result,
    or the store is out of reach; KeyboardInterrupt on Ctrl-C, after which each run goes on from a
    checkpoint when the sweep is called again.
    """
    places = Places(jobs=jobs, jobs_per_device=jobs_per_device, launcher=launcher, address=address)
    file, given = _narrowed(study, variants, seeds, baseline), conditions_of(settings)
    uri = store_uri(tracking_uri)
    with talking(progress):
        places.prepare(work)
        planned = plans.plan(file, given)
        check(planned)
        hardware = planned.baseline.experiment.hardware
        with contextlib.closing(places.launch(work, hardware, uri)) as started, opened(uri):
            failed, results = conduct(planned, started)
            parent = _under(planned, study_runs(file.name))[0]
    if failed and not allow_failures:
        raise RunError(without_result(failed))
    return Study(results=results, run_id=parent.info.run_id, tracking_uri=uri, failed=tuple(failed))


def without_result(failed: Sequence[str]) -> str:
    """Return the line that says which jobs of a sweep have no result."""
    runs = "runs have" if len(failed) > 1 else "run has"
    return f"{len(failed)} {runs} no result: {'; '.join(failed)}; sweep again runs what is missing"


def plan(
    study: str | Path,
    *,
    variants: str | Sequence[str] = (),
    seeds: Seeds = None,
    baseline: str | None = None,
    jobs: int = 1,
    probe_time: bool = True,
    tracking_uri: str | None = None,
    progress: bool = False,
    **settings: Unpack[Settings],
) -> StudyPlan:
    """Return what `sweep` would run, what is recorded, and how long it will take.

    Nothing is recorded, and no store is made. The arguments are those of `sweep`; with
    `probe_time` every variant is trained for a few steps, to estimate the time with `jobs` at once.

    Raises UserError for a mistake; RunError where the store is out of reach.
    """
    if jobs < 1:
        raise UserError(f"jobs: {jobs} must be at least 1")
    file, given = _narrowed(study, variants, seeds, baseline), conditions_of(settings)
    uri = store_uri(tracking_uri)
    with talking(progress):
        planned = plans.plan(file, given)
        check(planned)
        states: list[JobState] = [JobState(job, "missing", "") for job in planned.jobs]
        stale: list[Stale] = []
        if not is_empty(uri):
            with opened(uri):
                states, stale = states_of(planned), stale_of(planned)
        to_run = jobs_of([each.job for each in states if each.state in TO_RUN])
        estimate = probe(planned.variants) if to_run and probe_time else None
    return StudyPlan(
        planned=planned,
        states=tuple(states),
        stale=tuple(stale),
        estimate=estimate,
        seconds=estimate.whole(to_run) / min(jobs, len(to_run)) if estimate else None,
    )


def open_study(
    study: str | Path,
    *,
    variants: str | Sequence[str] = (),
    seeds: Seeds = None,
    baseline: str | None = None,
    tracking_uri: str | None = None,
    progress: bool = False,
    **settings: Unpack[Settings],
) -> Study:
    """Return a study as it is recorded; nothing is trained.

    It is the one under the settings (and the baseline) that sweep was given; without any, the
    latest of the name. The arguments are those of `sweep`; `variants` and `seeds` are chosen among
    the recorded ones, and `progress` prints a line where there are further records of the name.

    Raises UserError where nothing is recorded, or not under these settings.
    """
    given, chosen = conditions_of(settings), _seeds(seeds)
    uri = store_uri(tracking_uri)
    with talking(progress), opened(uri, existing=True):
        asked = _narrowed(study, variants, seeds, baseline) if given or baseline else None
        parent = _recorded(str(study), asked, given, without_password(uri))
        described = description_of(parent)
        deliver_pending(Path(described["conditions"]["hardware"]["work_dir"]))
        settle([parent, *children(parent.info.run_id)])
        results = results_of(parent, _part(described, _names(variants), chosen))
    return Study(results=results, run_id=parent.info.run_id, tracking_uri=uri)


def _narrowed(
    study: str | Path, variants: str | Sequence[str], seeds: Seeds, baseline: str | None
) -> StudyFile:
    """Return a study's file, narrowed. Raises UserError where a name is not known."""
    return narrowed(read(str(study)), _names(variants), _seeds(seeds), baseline)


def _names(variants: str | Sequence[str]) -> Sequence[str]:
    """Return names from a list, or from text with commas."""
    if not isinstance(variants, str):
        return variants
    return [name.strip() for name in variants.split(",") if name]


def _seeds(seeds: Seeds) -> tuple[int, ...]:
    """Return seeds by number; none for the file's. Raises UserError."""
    return () if seeds is None else seeds_from(seeds, "seeds")


def _under(planned: plans.Plan, runs: Sequence[Run]) -> list[Run]:
    """Return those of a study's runs that are under the conditions of a plan."""
    return [run for run in runs if run.data.tags.get(STUDY_KEY) == planned.key]


def _recorded(study: str, file: StudyFile | None, given: Mapping[str, Any], at: str) -> Run:
    """Return the run of a study as it is in its file, under the settings given.

    Without a file it is the latest of the name. Raises UserError.
    """
    name = Path(study).stem if study.endswith(SUFFIXES) else study
    runs = study_runs(name)
    if not runs:
        known = sorted(recorded_studies())
        there = f"; {closest(name, known)}" if known else f"; levit-ablate sweep {name} runs it"
        raise UserError(f"{name}: nothing is recorded in {at}{there}")
    if file:
        runs = _under(plans.plan(file, given), runs)
    if not runs:
        raise UserError(
            f"{name}: nothing is recorded in {at} under these conditions; without any the "
            f"latest record is shown, and sweep with these runs it"
        )
    if len(runs) > 1:
        others = ", ".join(sorted({run.data.tags.get(DATASET, "") for run in runs[1:]}))
        print(
            f"{name}: {len(runs)} records; this is the latest. The others, on {others}, are "
            f"shown with the conditions that sweep was given",
            file=sys.stderr,
        )
    return runs[0]


def _part(
    described: Mapping[str, Any], names: Sequence[str], seeds: Sequence[int]
) -> dict[str, Any]:
    """Return what is recorded of a study, with only some variants and seeds. Raises UserError."""
    baseline, *others = described["variants"]
    by_name = {variant["name"]: variant for variant in others}
    for name in names:
        if name not in by_name:
            raise UserError(f"variants: {name!r} is not recorded; {closest(name, by_name)}")
    if missing := [seed for seed in seeds if seed not in described["seeds"]]:
        raise UserError(
            f"seeds: {', '.join(map(str, missing))} not recorded; there are "
            f"{', '.join(map(str, described['seeds']))}"
        )
    return {
        **described,
        "seeds": list(seeds or described["seeds"]),
        "variants": [baseline, *([by_name[name] for name in names] if names else others)],
    }
