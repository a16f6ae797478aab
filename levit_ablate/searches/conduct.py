"""Runs a search: enqueues, trains trials until there are enough, and writes its report."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import timedelta

from filelock import FileLock, Timeout
from mlflow import MlflowClient
from mlflow.entities import Run
from optuna import Study

from levit_ablate.errors import RunError, UserError
from levit_ablate.runner import loop
from levit_ablate.runner.loop import Launcher
from levit_ablate.runner.progress import Display
from levit_ablate.runtime import lock_of, one_at_a_time
from levit_ablate.searches import trials
from levit_ablate.searches.jobs import SearchJobs
from levit_ablate.searches.plan import SearchPlan
from levit_ablate.searches.record import write_search
from levit_ablate.searches.report import Report, as_dict, pictures_of
from levit_ablate.searches.report_tables import as_text
from levit_ablate.searches.results import TrialResult, complete_of, counts_of, trial_results
from levit_ablate.searches.sampling import enqueue, points_of_named
from levit_ablate.searches.storage import reading_the_trials, study_of
from levit_ablate.tracking import parent_run
from levit_ablate.tracking.outbox import deliver_pending
from levit_ablate.tracking.runs import hardware, reading_the_record
from levit_ablate.tracking.uris import without_password
from levit_ablate.training.fit import report_horizon
from levit_ablate.training.train import check_conditions

MEASURED_ON = "measured_on"
"""User attribute of Optuna's study: the kind of machine that measured latency."""
SHOWN = ("complete", "pruned", "failed")
"""States of trials that a line is printed for."""


def check(planned: SearchPlan) -> None:
    """Raise UserError for a search whose networks could not be trained here."""
    points_of_named(planned)
    report_horizon(check_conditions(planned.baseline.experiment))


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


class TrialLines:
    """Prints a line for each trial that has ended, of any command, unless `found` had it."""

    def __init__(self, display: Display, found: Sequence[TrialResult]) -> None:
        self.display = display
        self.known = {each.number for each in found if each.state in SHOWN}
        self.best = max((f.accuracy or 0 for f in found if f.state == "complete"), default=0.0)

    def show(self, found: Sequence[TrialResult]) -> None:
        """Print a line for each trial that has ended since the last call."""
        for each in found:
            if each.state in SHOWN and each.number not in self.known:
                self.known.add(each.number)
                self.display.done += each.has_ended
                self.display.failed += each.has_ended and each.state == "failed"
                self.display.say(self._line(each))
        self.display.refresh()

    def _line(self, each: TrialResult) -> str:
        name = f"trial {each.number}" + (f" ({each.ablation})" if each.ablation else "")
        took = timedelta(seconds=round(each.seconds))
        start = f"[{self.display.done}/{self.display.total}] {name}: "
        if each.state == "failed":
            failed = f"FAILED: {each.error}"
            return start + (failed if each.error else "interrupted, or killed; it is tried again")
        accuracy = "–" if each.accuracy is None else f"{100 * each.accuracy:.2f} %"
        if each.state == "pruned":
            return f"{start}given up at {accuracy} ({took})"
        is_best = (each.accuracy or 0) > self.best
        self.best = max(self.best, each.accuracy or 0)
        cost = f"{(each.flops or 0) / 1e6:.4g} M multiply-adds"
        return f"{start}{accuracy}, {cost} ({took}){', the best so far' if is_best else ''}"
