"""Runs a search: enqueues, trains trials until there are enough; writes and reads its record."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout
from mlflow import MlflowClient
from mlflow.entities import Run
from optuna import Study

from levit_ablate.errors import DamagedError, RunError, UserError
from levit_ablate.runner import loop
from levit_ablate.runner.loop import Launcher
from levit_ablate.runner.progress import Display
from levit_ablate.runtime import lock_of, one_at_a_time
from levit_ablate.schema import plain
from levit_ablate.searches import trials
from levit_ablate.searches.jobs import SearchJobs
from levit_ablate.searches.plan import SearchPlan
from levit_ablate.searches.report import Report, as_dict, pictures_of
from levit_ablate.searches.report_tables import as_text
from levit_ablate.searches.results import (
    TrialLines,
    TrialResult,
    complete_of,
    counts_of,
    trial_results,
)
from levit_ablate.searches.sampling import enqueue, points_of_named
from levit_ablate.searches.search import KEYS, Search, amount_text, changed
from levit_ablate.searches.storage import journal_of, reading_the_trials, study_of
from levit_ablate.tracking import parent_run
from levit_ablate.tracking.outbox import deliver_pending
from levit_ablate.tracking.runs import (
    DATASET,
    SEARCH,
    hardware,
    read_json,
    reading_the_record,
)
from levit_ablate.tracking.runs import search as search_runs
from levit_ablate.tracking.uris import without_password
from levit_ablate.training.fit import report_horizon
from levit_ablate.training.teacher import check_teacher
from levit_ablate.training.train import check_conditions

MEASURED_ON = "measured_on"
"""User attribute of Optuna's study: the kind of machine that measured latency."""
FILE = "search.json"
"""Artifact of a search's run: how it was asked for."""


def check(planned: SearchPlan) -> None:
    """Raise UserError for a search whose networks could not be trained here."""
    points_of_named(planned)
    experiment = planned.baseline.experiment
    report_horizon(check_conditions(experiment))
    varied = planned.space.design.get("distillation")
    if varied and set(varied.options) != {"none"}:
        check_teacher(experiment)


def conduct(planned: SearchPlan, storage: str, launcher: Launcher) -> list[TrialResult]:
    """Do the trials that a search lacks, recorded in the open store; return all its trials.

    Args:
        planned: the search, checked.
        storage: URL of the trials; empty for a journal in the work folder.
        launcher: starts the trainings.

    Raises UserError where latency would be measured beside other work, or on another kind of
    machine; RunError where the store or the trials are out of reach, or workers die again and
    again; KeyboardInterrupt where it was interrupted.
    """
    deliver_pending(planned.work_dir)
    study = study_of(planned, storage)
    parent_run.settle_orphans(planned.whole)

    def describe(parent: Run, was_there: bool) -> None:
        write_search(planned, without_password(storage), parent)
        MlflowClient().log_dict(parent.info.run_id, planned.space.described(), "space.json")

    def is_complete(parent: Run) -> bool:
        is_over = trials.is_done(study, planned) and not trials.running_anywhere(study)
        return is_over and not failure_of(planned, study)

    with (
        measuring_alone(planned, study, launcher.places),
        parent_run.at_work(planned.whole, planned.work_dir, describe, is_complete) as parent,
    ):
        _run(planned, storage, study, parent, launcher)
        found = trial_results(study)
        link(planned, study, parent)
    return found


def _run(planned: SearchPlan, storage: str, study: Study, parent: Run, launcher: Launcher) -> None:
    """Train until there are enough trials that have ended, on whichever machine."""
    asking = one_at_a_time(planned.folder / planned.key, "asks for a trial")
    with reading_the_trials(storage), asking:
        number, notes = enqueue(study, planned)
        found = trial_results(study)
    title = f"{planned.search.name} on {planned.dataset}"
    done = sum(each.has_ended for each in found)
    with Display(title, number, done) as display, trials.holding_a_lock(planned.folder) as life:
        display.say(f"{title}: {_plan_of(planned, number, done, launcher.places)}")
        for note in notes:
            display.say(note)
        lines = TrialLines(display, found)
        source = SearchJobs(planned, storage, study, parent, display, lines.show, life)
        try:
            is_interrupted = loop.run(source, launcher, display)
        finally:
            source.close()
            with contextlib.suppress(RunError):
                parent_run.settle_orphans(planned.whole)
        if is_interrupted:
            raise KeyboardInterrupt


def failure_of(planned: SearchPlan, study: Study) -> str:
    """Return in a line why a search has failed; empty if it has not.

    It has failed if next to nothing that it draws is valid, or no network was trained to its end.
    """
    found = trial_results(study)
    if trials.is_hopeless(study, planned):
        reasons = Counter(each.error for each in found if each.state == "invalid")
        ((reason, _),) = reasons.most_common(1)
        return (
            f"{reasons.total()} networks were drawn that are not valid ({reason}); let the space "
            f"go lower, or raise the budget"
        )
    if complete_of(found):
        return ""
    ends = ", ".join(f"{number} {state}" for state, number in counts_of(found).items())
    errors = [
        f"trial {each.number}: {each.error.rstrip(': ')}"
        for each in found
        if each.state == "failed" and each.error
    ]
    first = f"; the first error, of {errors[0]}" if errors else ""
    return f"no network was trained to its end ({ends or 'no trials'}){first}"


def link(planned: SearchPlan, study: Study, parent: Run) -> None:
    """Put runs of trials that were recorded elsewhere below the search too."""
    there = study.get_trials(deepcopy=False)
    names = {each.number: each.name for each in trial_results(study)}
    networks = [
        planned.rebuilt(names[each.number], "", each.user_attrs)
        for each in there
        if each.values and trials.INVALID not in each.user_attrs
    ]
    jobs = {v.key: v for n in networks for v in map(n.at_seed, planned.search.seeds)}
    parent_run.link_recorded(planned.whole, list(jobs.values()), parent, planned.work_dir)


def _plan_of(planned: SearchPlan, number: int, done: int, places: int) -> str:
    settings = len(planned.space.varied())
    budget = planned.budget
    said = [f"{done} of {number} trials done", f"{settings} settings"]
    said += [f"at most {budget.flops:,} multiply-adds"] if budget.flops else []
    said += [f"at most {budget.params:,} parameters"] if budget.params else []
    return ", ".join(said) + (f", {places} at once" if places > 1 else "")


@reading_the_record()
def keep(planned: SearchPlan, report: Report) -> None:
    """Write a search's report, figures and plots into its run."""
    parent = parent_run.found(planned.whole)
    assert parent is not None  # it was searched
    client, run_id = MlflowClient(), parent.info.run_id
    for state, count in report.counts.items():
        client.log_metric(run_id, f"trials/{state}", count)
    if report.best:
        client.log_metric(run_id, "best_accuracy", report.best[0].accuracy or 0.0)
    pictures = {f"{title}.png": picture for title, picture in pictures_of(report).items()}
    texts = {"report.json": json.dumps(as_dict(report)), "report.txt": as_text(report)}
    parent_run.write_files(run_id, {**texts, **pictures})


@contextlib.contextmanager
def measuring_alone(planned: SearchPlan, study: Study, places: int) -> Iterator[None]:
    """Hold the right to measure latency in this work folder, if the search measures it.

    Raises UserError if the latencies would not be comparable: with several jobs at once, where
    others were measured on another kind of machine, or while another command measures.
    """
    if not planned.measures_latency:
        yield
        return
    if places > 1:
        raise UserError(
            "latency is measured, which others at work would disturb: --workers 1, and one GPU"
        )
    known = study.user_attrs.get(MEASURED_ON, hardware())
    if known != hardware():
        raise UserError(
            f"{planned.search.name}: its latencies were measured on {known}, and this is "
            f"{hardware()}; go on there, or begin another search"
        )
    lock = FileLock(lock_of(planned.folder / "latency"))
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise UserError(
            f"another search measures latency in {planned.work_dir}; wait for its end"
        ) from error
    with lock:
        study.set_user_attr(MEASURED_ON, hardware())
        yield


class RecordedSearch(NamedTuple):
    """A search and its conditions, as its record has them."""

    search: Search
    given: Mapping[str, Any]
    others: tuple[str, ...]
    """The datasets of earlier searches of the name, the latest first."""


def write_search(planned: SearchPlan, storage: str, parent: Run) -> None:
    """Write it into the search's run, with the URL of the trials, which holds no password."""
    content = {
        "search": search_as_mapping(planned.search),
        "given": dict(planned.given),
        "storage": storage,
    }
    MlflowClient().log_dict(parent.info.run_id, content, FILE)


def search_as_mapping(search: Search) -> dict[str, Any]:
    """Return a search as its file would have it, with its name and path."""
    mapping = {field.name: plain(getattr(search, field.name)) for field in fields(Search)}
    budget = {cost: amount_text(most, cost) for cost, most in search.budget.items()}
    return mapping | {"path": str(search.path), "budget": budget}


@reading_the_record()
def latest(name: str) -> RecordedSearch | None:
    """Return the latest search of this name in the open store, or None.

    Raises UserError if another version recorded it, with other settings.
    """
    runs = search_runs(f"tags.`{SEARCH}` = '{name}'")
    if not runs:
        return None
    content = read_json(runs[0], FILE)
    recorded = content["search"]
    kept = {key: recorded[key] for key in KEYS if key in recorded and key != "summary"}
    try:
        base = Search(
            name=recorded["name"], path=Path(recorded["path"]), summary=recorded["summary"]
        )
        search = changed(base, kept)
    except (UserError, KeyError) as error:
        raise UserError(f"{name}: its record in run {runs[0].info.run_id}: {error}") from error
    others = tuple(run.data.tags.get(DATASET, "") for run in runs[1:])
    return RecordedSearch(search=search, given=content["given"], others=others)


@reading_the_record()
def storage_recorded(planned: SearchPlan) -> str:
    """Return the recorded URL of a search's trials; empty for the journal, or if it is new.

    Raises DamagedError if it cannot be read and there is no journal.
    """
    run = parent_run.found(planned.whole)
    artifacts = MlflowClient().list_artifacts(run.info.run_id) if run else []
    if run is None or FILE not in {each.path for each in artifacts}:
        return ""  # it is new, or was killed before it wrote that
    try:
        storage: str = read_json(run, FILE).get("storage", "")
    except DamagedError:
        if journal_of(planned).exists():
            return ""
        raise
    return storage
