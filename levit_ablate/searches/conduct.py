"""A search from its plan to its trials: workers that ask, train and tell until there are enough."""

from __future__ import annotations

import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Run
from optuna import Study

from levit_ablate.errors import RunError
from levit_ablate.searches import enqueued, trials
from levit_ablate.searches.display import SearchDisplay
from levit_ablate.searches.latency import measuring_alone
from levit_ablate.searches.plan import SearchPlan
from levit_ablate.searches.recorded import write_asked
from levit_ablate.searches.report import Report, as_json, pictures_of
from levit_ablate.searches.report_tables import as_text
from levit_ablate.searches.results import Found, complete_of, counts_of
from levit_ablate.searches.storage import reading_the_trials, study_of
from levit_ablate.searches.worker import Worker, is_done, is_hopeless
from levit_ablate.studies.orders import Event, Launcher, Outcome
from levit_ablate.studies.sweep import Signals, counting_signals
from levit_ablate.tracking import parents
from levit_ablate.tracking.afterwards import deliver_pending
from levit_ablate.tracking.runs import reading_the_record, search, settle
from levit_ablate.tracking.store import experiment_id
from levit_ablate.tracking.uris import without_password
from levit_ablate.training.conditions import check_conditions, report_horizon

TICK = 0.5
"""Seconds between two looks at the workers."""
LOOKS = 2.0
"""Seconds between two looks at the trials."""
MOST_DEATHS = 3
"""Workers that may die one after the other without a trial that ends."""


def check(planned: SearchPlan) -> None:
    """Refuse a search whose networks could not be trained here. Raises UserError."""
    enqueued.points_of_named(planned)
    experiment = planned.baseline.experiment
    report_horizon(experiment, check_conditions(experiment))


def conduct(planned: SearchPlan, storage: str, launcher: Launcher[Worker]) -> list[Found]:
    """Do the trials that a search lacks, recorded in the open store; all its trials.

    Args:
        planned: the search, checked.
        storage: the URL of the trials; empty for a journal in the work folder.
        launcher: starts the workers.

    Raises UserError where latency would be measured beside others, or elsewhere; RunError where
    record or trials are out of reach, or workers die again and again; KeyboardInterrupt where it
    was interrupted.
    """
    deliver_pending(planned.work_dir)
    study = study_of(planned, storage)
    with reading_the_record():
        experiment = experiment_id(planned.whole.experiment)
    settle(search("attributes.status = 'RUNNING'", [experiment]))

    def describe(parent: Run, was_there: bool) -> None:
        write_asked(planned, without_password(storage), parent)
        MlflowClient().log_dict(parent.info.run_id, planned.space.described(), "space.json")

    def is_complete(parent: Run) -> bool:
        there = study.get_trials(deepcopy=False)
        is_over = is_done(study, planned) and not trials.at_work(there)
        return is_over and not failure_of(planned, study)

    with (
        measuring_alone(planned, study, launcher.places),
        parents.at_work(planned.whole, planned.work_dir, describe, is_complete) as parent,
    ):
        with reading_the_trials(storage), trials.asking(planned):
            number, said = enqueued.enqueue(study, planned)
            found = trials.found_of(study.get_trials(deepcopy=False))
        title = f"{planned.search.name} on {planned.dataset}"
        with SearchDisplay(title, number, found) as display:
            display.say(f"{title}: {_plan_of(planned, number, display.done, launcher.places)}")
            for line in said:
                display.say(line)
            _Searching(planned, storage, study, parent, launcher, display).run()
        found = trials.found_of(study.get_trials(deepcopy=False))
        link(planned, study, parent)
    return found


def failure_of(planned: SearchPlan, study: Study) -> str:
    """Why a search has failed, in a line; empty where it has not.

    It ended before its time, as next to nothing that it draws is valid; or no network was trained
    to its end.
    """
    found = trials.found_of(study.get_trials(deepcopy=False))
    if is_hopeless(study, planned):
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
    """Put the runs of trials that were recorded elsewhere below the search too."""
    there = study.get_trials(deepcopy=False)
    names = {each.number: each.name for each in trials.found_of(there)}
    networks = [
        planned.rebuilt(names[each.number], "", each.user_attrs)
        for each in there
        if each.values and trials.INVALID not in each.user_attrs
    ]
    jobs = {v.key: v for n in networks for v in map(n.at_seed, planned.search.seeds)}
    parents.link_recorded(planned.whole, list(jobs.values()), parent, planned.work_dir)


def _plan_of(planned: SearchPlan, number: int, done: int, places: int) -> str:
    settings = len(planned.space.varied())
    budget = planned.budget
    said = [f"{done} of {number} trials done", f"{settings} settings"]
    said += [f"at most {budget.flops:,} multiply-adds"] if budget.flops else []
    said += [f"at most {budget.params:,} parameters"] if budget.params else []
    return ", ".join(said) + (f", {places} at once" if places > 1 else "")


@reading_the_record()
def keep(planned: SearchPlan, report: Report) -> None:
    """Write what a search has come to into its run: report, figures, plots."""
    parent = parents.found(planned.whole)
    assert parent is not None  # it was searched
    client, run_id = MlflowClient(), parent.info.run_id
    for state, count in report.counts.items():
        client.log_metric(run_id, f"trials/{state}", count)
    if report.best:
        client.log_metric(run_id, "best_accuracy", report.best[0].accuracy or 0.0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "report.json").write_text(as_json(report), encoding="utf-8")
        (folder / "report.txt").write_text(as_text(report), encoding="utf-8")
        for title, picture in pictures_of(report).items():
            (folder / f"{title}.png").write_bytes(picture)
        client.log_artifacts(run_id, name)


@dataclass
class _Searching:
    """The workers of this command, as they stand."""

    planned: SearchPlan
    storage: str
    study: Study
    parent: Run
    launcher: Launcher[Worker]
    display: SearchDisplay
    signals: Signals = field(default_factory=Signals)
    deaths: int = 0
    given_up: str = ""
    """Of what workers die again and again; the others are told to end."""
    looked_at: float = 0.0

    def run(self) -> None:
        """Until there are enough trials that have ended, on whichever machine."""
        while True:
            with reading_the_trials(self.storage), trials.asking(self.planned):
                trials.revive(self.study)
            if not is_done(self.study, self.planned):
                self._work()
            elif others := trials.at_work(self.study.get_trials(deepcopy=False)):
                self.display.say_once(f"others are at work; waiting for {', '.join(others)}")
                time.sleep(LOOKS)
                self._look()
            else:
                return

    def _work(self) -> None:
        """Keep workers at work until they find nothing more to ask for."""
        with counting_signals(self.signals):
            for number in range(self.launcher.places):
                self._start(number + 1)
            while self.launcher.running:
                self.signals.pass_on(self.launcher, self.display)
                for event in self.launcher.events(TICK):
                    self._take(event)
                if time.monotonic() > self.looked_at + LOOKS:
                    self._look()
            self._look()
        if self.signals.came:
            raise KeyboardInterrupt
        if self.given_up:
            raise RunError(f"workers die again and again; the last one: {self.given_up}")

    def _start(self, number: int) -> None:
        worker = Worker(
            planned=self.planned,
            storage=self.storage,
            number=number,
            parent=self.parent.info.run_id,
        )
        self.display.started(worker)
        self.launcher.start(worker)

    def _take(self, event: Event[Worker]) -> None:
        if not isinstance(event.news, Outcome):
            self.display.show(event.order, event.news)
            return
        error = event.news.error
        is_ending = bool(self.signals.came or self.given_up)
        self.display.ended(event.order, "" if is_ending else error)
        if not error or is_ending:
            return
        self.deaths += 1
        if self.deaths > MOST_DEATHS:
            self.given_up = error
            self.launcher.stop(at_once=False)  # the others leave a checkpoint
        else:
            self._start(event.order.number)  # it tries again what the dead one was at

    def _look(self) -> None:
        self.looked_at = time.monotonic()
        before = self.display.done
        try:
            with reading_the_trials(self.storage):
                self.display.found(trials.found_of(self.study.get_trials(deepcopy=False)))
        except RunError as error:
            print(error, file=sys.stderr)
        if self.display.done > before:
            self.deaths = 0
