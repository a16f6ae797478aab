"""The jobs of a search: asks Optuna for networks, and tells it what their trainings came to."""

from __future__ import annotations

import contextlib
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from mlflow.entities import Run
from optuna import Study, Trial
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages._heartbeat import get_heartbeat_thread
from optuna.trial import TrialState

from levit_ablate.analysis import speed
from levit_ablate.errors import RunError
from levit_ablate.experiment import Variant
from levit_ablate.runner.job import Job, Outcome
from levit_ablate.runner.progress import Display
from levit_ablate.searches import trials
from levit_ablate.searches.at_work import AtWork
from levit_ablate.searches.plan import SearchPlan
from levit_ablate.searches.results import TrialResult
from levit_ablate.searches.sampling import InvalidError, sampler_of, variant_of
from levit_ablate.searches.storage import STORAGE_ERRORS, reading_the_trials
from levit_ablate.tracking.runs import of_key, settle
from levit_ablate.tracking.store import answers, the_record
from levit_ablate.training.train import Result

POLL = 2.0
"""Seconds between two looks at the trials."""
MOST_DEATHS = 3
"""Workers that may die one after the other, without another that ends."""


class SearchJobs:
    """Gives the trainings of a search to the loop (a `runner.loop.Source`).

    Args:
        planned: the search.
        url: URL of the trials; empty for the journal in the work folder.
        study: the trials.
        parent: the search's run in MLflow.
        display: shows the progress.
        show: prints a line for each trial that has ended.
        life: user attributes by which others know that this process lives.
    """

    def __init__(
        self,
        planned: SearchPlan,
        url: str,
        study: Study,
        parent: Run,
        display: Display,
        show: Callable[[Sequence[TrialResult]], None],
        life: Mapping[str, str],
    ) -> None:
        self.planned = planned
        self.search = planned.search
        self.prunes_by_epoch = planned.search.pruner in ("asha", "median")
        self.url = url
        self.study = study
        self.parent = parent
        self.display, self.show = display, show
        self.life = life
        self.asking = trials.asking(planned)
        self.at_work: dict[int, AtWork] = {}  # by the trial's number
        self.waiting: list[Job] = []  # further seeds of trials at work
        self.deaths = 0
        self.next_ask = self.next_look = 0.0

    @property
    def is_done(self) -> bool:
        if self.at_work or time.monotonic() < self.next_ask:
            return False
        with reading_the_trials(self.url), trials.acquired(self.asking, POLL) as may_ask:
            if not may_ask:
                return False
            trials.revive(self.study)
            others = trials.at_work(self.study.get_trials(deepcopy=False))
            is_enough = trials.is_done(self.study, self.planned)
        if is_enough and others:
            self.display.say_once(f"others are at work; waiting for {', '.join(others)}")
        return is_enough and not others

    def next(self) -> Job | Literal["again"] | None:
        """Return the next seed of a trial at work, or the first one of a new trial."""
        if self.waiting:
            return self.waiting.pop(0)
        if time.monotonic() < self.next_ask:
            return None
        if not answers():  # what could not be recorded is tried again
            self.display.say_once(f"{the_record()} does not answer; waiting for it")
        else:
            with reading_the_trials(self.url):
                own, is_done = None, True
                with trials.acquired(self.asking, POLL) as may_ask:
                    if may_ask:
                        trials.revive(self.study)
                        is_done = trials.is_done(self.study, self.planned)
                        own = None if is_done else self._ask()
                    else:
                        self.display.say_once("another process asks for a trial; waiting for it")
                if own:
                    return self._first_job(*own) or "again"
                if not is_done:
                    return "again"
        self.next_ask = time.monotonic() + POLL
        return None

    def _ask(self) -> tuple[Trial, Variant] | None:
        """Ask Optuna for a network; None if it is not valid, which is told."""
        number = len(self.study.get_trials(deepcopy=False))
        self.study.sampler = sampler_of(self.planned, number)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # heartbeats without `optimize`: they are given here
            trial = self.study.ask()
        for name, value in self.life.items():
            trial.set_user_attr(name, value)
        try:
            trials.check_first(trial)
            variant = variant_of(trial, self.planned)
            trials.describe(trial, variant)
        except Exception as error:
            self._refuse(trial, error)
            return None
        return trial, variant

    def _first_job(self, trial: Trial, variant: Variant) -> Job | None:
        """Return the training of a new trial at the first seed; None if there is none to be."""
        heartbeat = get_heartbeat_thread(trial._trial_id, self.study._storage)
        heartbeat.start()
        own = AtWork(trial, variant, None, heartbeat)
        self.at_work[trial.number] = own
        try:
            own.latency = self._latency(trial, variant)
        except Exception as error:
            self._refuse(trial, error)
            return None
        if not (earlier := trials.given_up_before(trial, variant.key)):
            return self._job(own)
        for step, value in earlier.intermediate_values.items():
            trial.report(value, step)
        self._tell(trial, state=TrialState.PRUNED)
        return None

    def _refuse(self, trial: Trial, error: Exception) -> None:
        """End a trial before its training: invalid, a duplicate, or failed."""
        if isinstance(error, STORAGE_ERRORS):
            raise error
        if isinstance(error, InvalidError):
            trial.set_user_attr(trials.INVALID, str(error))
            trial.set_constraint("valid", 1.0)
            # GP and NSGA-II learn from complete trials alone
            self._tell(trial, trials.worst(self.study))
            return
        if isinstance(error, trials.DuplicateError):
            trial.set_user_attr(trials.INVALID, str(error))
        else:
            sys.excepthook(type(error), error, error.__traceback__)
            message = f"{type(error).__name__}: {' '.join(str(error).split())}"
            trial.set_user_attr(trials.ERROR, message[:300])
        self._tell(trial, state=TrialState.FAIL)

    def _job(self, own: AtWork) -> Job:
        seeds = self.search.seeds
        seed = seeds[len(own.results)]
        number = own.trial.number
        return Job(
            variant=own.variant.at_seed(seed),
            parent=self.parent.info.run_id,
            name=f"trial {number}" + (f" seed {seed}" if len(seeds) > 1 else ""),
            number=number,
            may_be_given_up=not own.results and self.prunes_by_epoch,
        )

    def _latency(self, trial: Trial, variant: Variant) -> float | None:
        """Measure it where the search needs it. Raises InvalidError if it is over the limit."""
        if not self.planned.measures_latency:
            return None
        speeds, _ = speed.measure([variant])
        latency = speeds[variant.name].latency
        trial.set_user_attr(trials.LATENCY, latency)
        if self.planned.latency is not None and latency > self.planned.latency:
            raise InvalidError("its latency is over the budget")
        return latency

    def go_on(self, job: Job, curve: Sequence[float]) -> bool:
        """Report the new epochs; the trial goes on if it is not pruned at any of them."""
        own = self.at_work[job.number]
        # one that another driver took for dead goes on: its retry finds what it comes to
        with reading_the_trials(self.url), contextlib.suppress(UpdateFinishedTrialError):
            for accuracy in curve[own.num_reported :]:
                own.trial.report(accuracy, step=own.num_reported + 1)
                own.num_reported += 1
                own.is_pruned = own.trial.should_prune()
                if own.is_pruned:
                    break
        return not own.is_pruned  # also where it asks again, as its machine was lost meanwhile

    def ended(self, job: Job, outcome: Outcome, is_stopping: bool) -> None:
        own = self.at_work[job.number]
        self.next_ask = self.next_look = 0.0
        if not outcome.died:
            self.deaths = 0
        with reading_the_trials(self.url):
            self._take(job, own, outcome, is_stopping)

    def _take(self, job: Job, own: AtWork, outcome: Outcome, is_stopping: bool) -> None:
        trial = own.trial
        try:
            if outcome.result:
                self._seed_ended(own, outcome.result)
            elif outcome.given_up:
                self._tell(trial, state=TrialState.PRUNED)
            elif outcome.died and not is_stopping:
                self._died(job, own, outcome)
            else:  # without a recorded error it is retried: interrupted, or the store is away
                if not (outcome.died or outcome.interrupted) and answers():
                    message = f"{outcome.kind}: {outcome.error}".strip(": ")
                    trial.set_user_attr(trials.ERROR, message)
                self._tell(trial, state=TrialState.FAIL)
        except UpdateFinishedTrialError:  # another driver took it for dead, and has retried it
            self._tell(trial, state=TrialState.FAIL)

    def _seed_ended(self, own: AtWork, result: Result) -> None:
        trial = own.trial
        try:
            accuracy = result.validation_accuracy
        except RunError as error:
            trial.set_user_attr(trials.ERROR, f"RunError: {error}")
            self._tell(trial, state=TrialState.FAIL)
            return
        if not own.results and self.prunes_by_epoch:
            for step, value in enumerate(result.curve[own.num_reported :], own.num_reported + 1):
                trial.report(value, step)
        own.results.append(result)
        is_last = len(own.results) == len(self.search.seeds)
        if self.search.pruner == "wilcoxon":
            trial.report(accuracy, step=len(own.results) - 1)
            if not is_last and trial.should_prune():
                self._tell(trial, state=TrialState.PRUNED)
                return
        if is_last:
            trial.set_constraint("valid", 0.0)
            self._tell(trial, own.values(self.search.objectives))
        else:
            self.waiting.append(self._job(own))

    def _died(self, job: Job, own: AtWork, outcome: Outcome) -> None:
        """Try a trial again whose worker died. Raises RunError if workers die all the time."""
        with self.asking:
            frozen = self.study._storage.get_trial(own.trial._trial_id)
            self._tell(own.trial, state=TrialState.FAIL)
            trials.again(self.study, frozen)
        self.display.say(f"{job.title}: {outcome.error}")
        with contextlib.suppress(RunError):
            settle(of_key(*job.variant.keys))
        self.deaths += 1
        if self.deaths > MOST_DEATHS:
            raise RunError(f"workers die again and again; the last one: {outcome.error}")

    def _tell(
        self, trial: Trial, values: Sequence[float] | None = None, state: TrialState | None = None
    ) -> None:
        """End a trial."""
        if own := self.at_work.pop(trial.number, None):
            own.heartbeat.join()
            with contextlib.suppress(UpdateFinishedTrialError):
                trial.set_user_attr(trials.SECONDS, time.monotonic() - own.started)
        self.study.tell(trial, values, state=state, skip_if_finished=True)

    def update(self) -> None:
        """Print a line for each trial that has ended, also of other commands."""
        if time.monotonic() < self.next_look:
            return
        self.next_look = time.monotonic() + POLL
        try:
            with reading_the_trials(self.url):
                self.show(trials.trial_results(self.study.get_trials(deepcopy=False)))
        except RunError as error:  # the trainings go on, until there is something to be told
            self.display.say_once(str(error))

    def close(self) -> None:
        """Leave the trials that are not done to the next command, and print the last lines."""
        for own in list(self.at_work.values()):
            with contextlib.suppress(*STORAGE_ERRORS):
                self._tell(own.trial, state=TrialState.FAIL)
        self.next_look = 0.0
        self.update()
