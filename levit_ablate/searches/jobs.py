"""The jobs of a search: asks Optuna for networks, and tells it what their trainings came to."""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import inf
from typing import Literal

from filelock import Timeout
from mlflow.entities import Run
from optuna import Study, Trial
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from levit_ablate.errors import DamagedError, RunError
from levit_ablate.runner.job import Job, Outcome
from levit_ablate.runner.progress import Display
from levit_ablate.searches import trials
from levit_ablate.searches.plan import SearchPlan
from levit_ablate.searches.results import TrialResult, trial_results
from levit_ablate.searches.sampling import sampler_of, variant_of
from levit_ablate.searches.storage import STORAGE_ERRORS, reading_the_trials
from levit_ablate.searches.trials import RunningTrial
from levit_ablate.tracking.runs import of_key, settle
from levit_ablate.tracking.store import answers, the_record
from levit_ablate.training.train import Result

POLL = 2.0
"""Seconds between two looks at the trials, and two tries where their storage is away."""
PATIENCE = 30.0
"""Seconds for which the storage may be away before the search stops."""
MOST_DEATHS = 3
"""Workers that die one after the other before the search stops."""


class SearchJobs:
    """Gives the trainings of a search to the loop (a `runner.loop.Source`).

    Args:
        planned: the search.
        url: URL of the trials, or empty.
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
        self.url, self.study, self.parent = url, study, parent
        self.display, self.show, self.life = display, show, life
        self.asking = trials.asking(planned)
        self.begun: Trial | None = None  # asked for, but its storage went away
        self.running: dict[int, RunningTrial] = {}  # by the trial's number
        self.waiting: list[Job] = []  # further seeds of running trials
        self.untold: list[tuple[Job, Outcome, bool]] = []  # as `ended` was called
        self.deaths = 0
        self.is_done = False
        self.patience_ends = inf
        self.next_ask = self.next_look = self.next_beat = 0.0

    @contextlib.contextmanager
    def _patiently(self, is_urgent: bool = True) -> Iterator[None]:
        """Take errors of the storage for a line; if it is urgent, for `PATIENCE` at most."""
        try:
            with reading_the_trials(self.url):
                yield
        except RunError as error:
            now = time.monotonic()
            if is_urgent:
                self.patience_ends = min(self.patience_ends, now + PATIENCE)
                if isinstance(error, DamagedError) or now > self.patience_ends:
                    raise
            self.display.say_once(f"{error}; trying again")
            self.next_ask = self.next_look = now + POLL
        else:
            if is_urgent:
                self.patience_ends = inf

    def next(self) -> Job | Literal["again"] | None:
        """Return the next seed of a running trial, or the first one of a new trial."""
        if self.waiting:
            return self.waiting.pop(0)
        if time.monotonic() < self.next_ask:
            return None
        with self._patiently():
            self._beat()  # as many trials may be asked for one after the other
            self._tell_outcomes()
            if self.waiting:
                return self.waiting.pop(0)
            if job := self._next_trial():
                return job
        self.next_ask = time.monotonic() + POLL
        return None

    def _next_trial(self) -> Job | Literal["again"] | None:
        """Return the first job of a new trial, "again" if it has none; None if it must wait."""
        can_record = answers()  # what could not be recorded is tried again
        try:
            with self.asking.acquire(timeout=POLL):  # without end it would ignore Ctrl-C
                if not self.begun:
                    trials.revive(self.study)
                    if trials.is_done(self.study, self.planned):
                        self._wait_for_others()
                        return None
                if not can_record:
                    self.display.say_once(f"{the_record()} does not answer; waiting for it")
                    return None
                self.begun = self.begun or self._asked()
                job = self._first_job(self.begun)
                self.begun = None
                return job or "again"
        except Timeout:
            self.display.say_once("another process asks for a trial; waiting for it")
            return None

    def _wait_for_others(self) -> None:
        others = trials.running_anywhere(self.study)
        self.is_done = not others
        if others and not self.running:
            self.display.say_once(f"others are at work; waiting for {', '.join(others)}")

    def _asked(self) -> Trial:
        self.study.sampler = sampler_of(self.planned, len(self.study.get_trials(deepcopy=False)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # heartbeats without `optimize`: they are given here
            return self.study.ask()

    def _first_job(self, trial: Trial) -> Job | None:
        """Return the training of a new trial at the first seed; None if there is none to be."""
        error: Exception | None = None
        try:
            trials.beat(self.study, [trial])  # before it has a lock: else none would retry it
            for name, value in self.life.items():
                trial.set_user_attr(name, value)
            trials.check_first(trial)
            running = RunningTrial(trial, variant_of(trial, self.planned))
            trials.describe(trial, running.variant)
            running.latency = trials.measured_latency(trial, running.variant, self.planned)
        except STORAGE_ERRORS:
            raise
        except UpdateFinishedTrialError:  # another driver took it for dead, and retries it
            return None
        except Exception as caught:
            error = caught
        if error:
            trials.refuse(self.study, trial, error)
            return None
        if earlier := trials.given_up_before(trial, running.variant.key):
            for step, accuracy in earlier.intermediate_values.items():
                trial.report(accuracy, step)
            self._tell(trial, state=TrialState.PRUNED)
            return None
        self.running[trial.number] = running
        return self._job(running)

    def _job(self, running: RunningTrial) -> Job:
        seeds, number = self.search.seeds, running.trial.number
        seed = seeds[len(running.results)]
        return Job(
            variant=running.variant.at_seed(seed),
            parent=self.parent.info.run_id,
            name=f"trial {number}" + (f" seed {seed}" if len(seeds) > 1 else ""),
            number=number,
            may_be_given_up=not running.results and self.prunes_by_epoch,
        )

    def go_on(self, job: Job, curve: Sequence[float]) -> bool:
        """Report the new epochs; the trial goes on if it is not pruned at any of them."""
        running = self.running[job.number]
        if running.is_pruned:  # it asks again, as its machine was lost meanwhile
            return False
        # one that another driver took for dead goes on: its retry finds what it comes to; and what
        # the storage is not told now it is told later
        with self._patiently(is_urgent=False), contextlib.suppress(UpdateFinishedTrialError):
            for accuracy in curve[running.num_reported :]:
                running.trial.report(accuracy, step=running.num_reported + 1)
                running.is_pruned = running.trial.should_prune()
                if running.is_pruned:
                    break
                running.num_reported += 1
        return not running.is_pruned

    def ended(self, job: Job, outcome: Outcome, is_stopping: bool) -> None:
        self.next_ask = self.next_look = 0.0
        self.untold.append((job, outcome, is_stopping))
        with self._patiently():
            self._tell_outcomes()
        if not outcome.died:
            self.deaths = 0
        elif not is_stopping:
            self._died(job, outcome)

    def _died(self, job: Job, outcome: Outcome) -> None:
        """Settle the run of a worker that died. Raises RunError if workers die all the time."""
        self.display.say(f"{job.title}: {outcome.error}")
        with contextlib.suppress(RunError):
            settle(of_key(*job.variant.keys))
        self.deaths += 1
        if self.deaths > MOST_DEATHS:
            raise RunError(f"workers die again and again; the last one: {outcome.error}")

    def _tell_outcomes(self) -> None:
        """Tell Optuna how trainings ended; on an error the first is kept, to be told once more."""
        while self.untold:
            self._tell_outcome(*self.untold[0])
            self.untold.pop(0)

    def _tell_outcome(self, job: Job, outcome: Outcome, is_stopping: bool) -> None:
        running = self.running[job.number]
        trial = running.trial
        try:
            if outcome.result:
                self._seed_ended(job, running, outcome.result)
            elif outcome.given_up:
                self._tell(trial, state=TrialState.PRUNED)
            else:  # without a recorded error it is retried: interrupted, killed, or the store away
                if outcome.died and not is_stopping:
                    trial.set_user_attr(trials.DIED, True)
                elif not (outcome.died or outcome.interrupted) and answers():
                    message = f"{outcome.kind}: {outcome.error}".strip(": ")
                    trial.set_user_attr(trials.ERROR, message)
                self._tell(trial, state=TrialState.FAIL)
        except UpdateFinishedTrialError:  # another driver took it for dead, and has retried it
            self._tell(trial, state=TrialState.FAIL)

    def _seed_ended(self, job: Job, running: RunningTrial, result: Result) -> None:
        trial = running.trial
        try:
            accuracy = result.validation_accuracy
        except RunError as error:
            trial.set_user_attr(trials.ERROR, f"RunError: {error}")
            self._tell(trial, state=TrialState.FAIL)
            return
        if job.may_be_given_up:
            for epoch, value in enumerate(result.curve, start=1):
                trial.report(value, epoch)
        running.results[job.variant.experiment.seed] = result
        is_last = len(running.results) == len(self.search.seeds)
        if self.search.pruner == "wilcoxon":
            trial.report(accuracy, step=len(running.results) - 1)
            if not is_last and trial.should_prune():
                self._tell(trial, state=TrialState.PRUNED)
                return
        if is_last:
            trial.set_constraint("valid", 0.0)
            self._tell(trial, running.values(self.search.objectives))
        else:
            self.waiting.append(self._job(running))

    def _tell(
        self, trial: Trial, values: Sequence[float] | None = None, state: TrialState | None = None
    ) -> None:
        """End a trial."""
        if running := self.running.get(trial.number):
            with contextlib.suppress(UpdateFinishedTrialError):
                trial.set_user_attr(trials.SECONDS, time.monotonic() - running.started)
        self.study.tell(trial, values, state=state, skip_if_finished=True)
        self.running.pop(trial.number, None)

    def _beat(self) -> None:
        if (now := time.monotonic()) >= self.next_beat:
            trials.beat(self.study, [each.trial for each in self.running.values()])
            self.next_beat = now + trials.HEARTBEAT

    def update(self) -> None:
        """Give heartbeats; print a line for each trial that has ended, also of other commands."""
        now = time.monotonic()
        if now < self.next_look:
            return
        self.next_look = now + POLL
        with self._patiently(is_urgent=False):
            self._beat()
            self.show(trial_results(self.study))

    def close(self) -> None:
        """Leave the trials that are not done to the next command, and print the last lines."""
        with contextlib.suppress(RunError, *STORAGE_ERRORS):
            self._tell_outcomes()
            for trial in [each.trial for each in self.running.values()]:
                self._tell(trial, state=TrialState.FAIL)
            if self.begun:
                self._tell(self.begun, state=TrialState.FAIL)
        self.next_look = 0.0
        self.update()
