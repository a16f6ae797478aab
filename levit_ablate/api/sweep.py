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
from levit_ablate.api.settings import Settings, given_by
from levit_ablate.api.study_results import Study
from levit_ablate.errors import RunError, UserError, closest
from levit_ablate.library import SUFFIXES
from levit_ablate.runner.job import work
from levit_ablate.schema import seeds_from
from levit_ablate.studies.conduct import check, conduct
from levit_ablate.studies.plan import Plan
from levit_ablate.studies.plan import plan as planned_of
from levit_ablate.studies.report import recorded_studies, study_runs
from levit_ablate.studies.study import Study as StudyFile
from levit_ablate.studies.study import narrowed, read
from levit_ablate.tracking.outbox import deliver_pending
from levit_ablate.tracking.runs import DATASET, STUDY_KEY, children, settle
from levit_ablate.tracking.uris import without_password

Seeds = int | Sequence[int] | None


def sweep(
    study: str | Path,
    *,
    variants: Sequence[str] = (),
    seeds: Seeds = None,
    baseline: str | None = None,
    jobs: int = 0,
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
    file, given = study_file(study, variants, seeds, baseline), conditions_of(settings)
    uri = store_uri(tracking_uri)
    with talking(progress):
        places.prepare(work)
        planned = planned_of(file, given)
        check(planned)
        hardware = planned.baseline.experiment.hardware
        with (
            contextlib.closing(places.launch(work, hardware, uri)) as started,
            opened(uri),
        ):
            failed, results = conduct(planned, started)
            run_id = _parent(planned).info.run_id
    if failed and not allow_failures:
        raise RunError(without_result(failed))
    return Study(results=results, run_id=run_id, tracking_uri=uri, failed=tuple(failed))


def without_result(failed: Sequence[str]) -> str:
    """Return the line that says which jobs of a sweep have no result."""
    runs = "runs have" if len(failed) > 1 else "run has"
    return f"{len(failed)} {runs} no result: {'; '.join(failed)}; sweep again runs what is missing"


def open_study(
    study: str | Path,
    *,
    variants: Sequence[str] = (),
    seeds: Seeds = None,
    baseline: str | None = None,
    tracking_uri: str | None = None,
    progress: bool = False,
    **settings: Unpack[Settings],
) -> Study:
    """Return a study as it is recorded; nothing is trained.

    It is the one under the settings given; without any, the latest of the name.

    Args:
        study: the study's name, or its YAML file.
        variants: only these of the recorded ones.
        seeds: only these of the recorded ones: how many, from 0 on, or which.
        baseline: the ablation in place of the study's baseline that sweep was given.
        tracking_uri: MLflow store; MLFLOW_TRACKING_URI, or ./mlflow.db, unless given.
        progress: print a line where there are further records of the name.
        settings: what sweep was given.

    Raises UserError where nothing is recorded, or not under these settings.
    """
    given, chosen = conditions_of(settings), chosen_seeds(seeds)
    uri = store_uri(tracking_uri)
    with talking(progress), opened(uri, existing=True):
        file = study if not (given or baseline) else study_file(study, variants, seeds, baseline)
        parent = _recorded(file, given, without_password(uri))
        described = description_of(parent)
        deliver_pending(Path(described["conditions"]["hardware"]["work_dir"]))
        settle([parent, *children(parent.info.run_id)])
        results = results_of(parent, _part(described, variants, chosen))
    return Study(results=results, run_id=parent.info.run_id, tracking_uri=uri)


def study_file(
    study: str | Path, variants: Sequence[str], seeds: Seeds, baseline: str | None
) -> StudyFile:
    """Return a study's file, narrowed. Raises UserError where a name is not known."""
    names = variants.split(",") if isinstance(variants, str) else variants
    return narrowed(read(str(study)), names, chosen_seeds(seeds), baseline)


def conditions_of(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that hold for all runs of a study. Raises UserError for a seed."""
    if settings.get("seed") is not None:
        raise UserError("seed: is for run; a study has seeds")
    return given_by(settings)


def chosen_seeds(seeds: Seeds) -> tuple[int, ...]:
    """Return seeds by number; none for the file's. Raises UserError."""
    return () if seeds is None else seeds_from(seeds, "seeds")


def _parent(planned: Plan) -> Run:
    runs = study_runs(planned.study.name)
    return next(run for run in runs if run.data.tags.get(STUDY_KEY) == planned.key)


def _recorded(study: str | Path | StudyFile, given: Mapping[str, Any], at: str) -> Run:
    """Return the study's run under the settings given; without any, the latest. UserError."""
    name = study.name if isinstance(study, StudyFile) else str(study)
    name = Path(name).stem if name.endswith(SUFFIXES) else name
    found = study_runs(name)
    if not found:
        known = sorted(recorded_studies())
        there = f"; {closest(name, known)}" if known else f"; levit-ablate sweep {name} runs it"
        raise UserError(f"{name}: nothing is recorded in {at}{there}")
    if isinstance(study, StudyFile):
        key = planned_of(study, given).key
        found = [run for run in found if run.data.tags.get(STUDY_KEY) == key]
    if not found:
        raise UserError(
            f"{name}: nothing is recorded in {at} under these conditions; without any the "
            f"latest record is shown, and sweep with these runs it"
        )
    if len(found) > 1:
        others = ", ".join(sorted({run.data.tags.get(DATASET, "") for run in found[1:]}))
        print(
            f"{name}: {len(found)} records; this is the latest. The others, on {others}, are "
            f"shown with the conditions that sweep was given",
            file=sys.stderr,
        )
    return found[0]


def _part(
    described: Mapping[str, Any], names: Sequence[str], seeds: Sequence[int]
) -> dict[str, Any]:
    """Return what is recorded of a study, with only some variants and seeds. Raises UserError."""
    baseline, *others = described["variants"]
    if names:
        by_name = {variant["name"]: variant for variant in others}
        for name in names:
            if name not in by_name:
                raise UserError(f"--variants: {name!r} is not recorded; {closest(name, by_name)}")
        others = [by_name[name] for name in names]
    if missing := [seed for seed in seeds if seed not in described["seeds"]]:
        raise UserError(
            f"--seeds: {', '.join(map(str, missing))} not recorded; there are "
            f"{', '.join(map(str, described['seeds']))}"
        )
    chosen = {"seeds": list(seeds or described["seeds"]), "variants": [baseline, *others]}
    return {**described, **chosen}
