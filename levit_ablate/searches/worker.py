"""One worker: asks for a network, trains it, tells what it came to, until there are enough."""

from __future__ import annotations

import contextlib
import gc
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from mlflow import MlflowClient
from mlflow.entities import Run
from optuna import Study, Trial
from optuna.exceptions import TrialPruned
from optuna.trial import TrialState

from levit_ablate.analysis import speed
from levit_ablate.errors import RunError, UserError
from levit_ablate.experiment import Variant
from levit_ablate.runtime import has_gpu
from levit_ablate.searches import trials
from levit_ablate.searches.curves import Watch, check_given_up, validation_curve
from levit_ablate.searches.plan import SearchPlan
from levit_ablate.searches.sampling import NAME, InvalidError, variant_of
from levit_ablate.searches.storage import reading_the_trials, sampler_of, study_of
from levit_ablate.signals import raise_if_interrupted
from levit_ablate.studies.orders import Outcome, Station
from levit_ablate.studies.worker import seldom
from levit_ablate.tracking.record import GivenUpError
from levit_ablate.tracking.runs import reading_the_record
from levit_ablate.tracking.store import answers, open_store
from levit_ablate.training.progress import Status
from levit_ablate.training.train import train

MOST_INVALID = 20
"""Invalid samples for each trial that is wanted, after which a search ends."""
RESTS = 5.0
"""Seconds between two looks at a store that is away."""


class TwiceError(Exception):
    """A trial is another's: its network is no worse for it, so that the sampler is told nothing."""


@dataclass(frozen=True, kw_only=True)
class Worker:
    """A worker of a search, as a launcher starts it."""

    planned: SearchPlan
    storage: str
    """The URL of the trials; empty for the journal in the work folder."""
    number: int
    parent: str
    """The search's run in MLflow, below which it records."""

    @property
    def title(self) -> str:
        """As people see it."""
        return f"worker {self.number}"

    @property
    def log(self) -> str:
        """The name of its log, without .log."""
        return f"{self.planned.search.name}.{self.planned.key}.worker{self.number}"


def work(worker: Worker, station: Station, tell: Callable[[Status], None]) -> Outcome:
    """Do trials until there are as many as the search asks for; no error is raised.

    Args:
        worker: of which search.
        station: where.
        tell: is told how far a training is, a few times a second.
    """
    torch.set_num_threads(station.num_threads)
    try:
        _Trials(worker, station, seldom(tell)).run()
    except KeyboardInterrupt:
        return Outcome(error="interrupted", interrupted=True)
    except (UserError, RunError) as error:
        return Outcome(error=" ".join(str(error).split()))
    except Exception as error:
        sys.excepthook(type(error), error, error.__traceback__)  # into the worker's log
        return Outcome(error=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
    return Outcome()


class _Trials:
    """The trials of one worker, one after the other."""

    def __init__(self, worker: Worker, station: Station, tell: Callable[[Status], None]) -> None:
        self.planned = worker.planned
        self.tell = tell
        self.worker = worker
        self.study: Study = study_of(worker.planned, worker.storage)
        open_store(station.uri)
        with reading_the_record():
            self.parent: Run = MlflowClient().get_run(worker.parent)
        self.asking = trials.asking(self.planned)

    def run(self) -> None:
        with trials.holding_a_lock(self.planned.work_dir) as self.life:
            while True:
                with reading_the_trials(self.worker.storage):
                    self.asking.acquire()
                    try:
                        trials.revive(self.study)
                        if is_done(self.study, self.planned):
                            return
                        self.study.sampler = sampler_of(self.planned, self._number())
                        self.study.optimize(self._tried, n_trials=1, catch=(Exception,))
                    finally:
                        self.asking.release(force=True)
                gc.collect()  # Lightning's cycles hold network and images, on a GPU too, for long
                raise_if_interrupted()
                while not answers():  # MLflow's store; what could not be recorded is tried again
                    time.sleep(RESTS)

    def _number(self) -> int:
        """Of the next trial: its sampler's seed, whichever worker it is, or in which command."""
        return len(self.study.get_trials(deepcopy=False))

    def _tried(self, trial: Trial) -> float | Sequence[float]:
        """What a trial comes to: Optuna's objective."""
        for name, value in self.life.items():
            trial.set_user_attr(name, value)
        started = time.monotonic()
        try:
            self._check_first(trial)
            variant = variant_of(trial, self.planned)
            trials.describe(trial, variant)
            self.asking.release(force=True)
            found = self._measured(trial, variant)
        except InvalidError as error:
            trial.set_user_attr(trials.INVALID, str(error))
            trial.set_constraint("valid", 1.0)
            return trials.worst(self.study)  # GP and NSGA-II learn from complete trials alone
        except TwiceError as error:
            trial.set_user_attr(trials.INVALID, str(error))
            raise
        except TrialPruned:
            raise
        except Exception as error:
            if answers():  # else it is the record that failed, and the trial is tried again
                said = " ".join(str(error).split())[:300]
                trial.set_user_attr(trials.ERROR, f"{type(error).__name__}: {said}")
                sys.excepthook(type(error), error, error.__traceback__)
            raise
        finally:
            with contextlib.suppress(Exception):
                trial.set_user_attr(trials.SECONDS, time.monotonic() - started)
        trial.set_constraint("valid", 0.0)
        return found

    def _measured(self, trial: Trial, variant: Variant) -> float | Sequence[float]:
        latency = self._latency(trial, variant)
        check_given_up(trial, self.study, variant.key)
        seeds = self.planned.search.seeds
        accuracies = []
        for index, seed in enumerate(seeds):
            watch = Watch(trial, by_epoch=not index and self._prunes_by_epoch)
            own = variant.at_seed(seed)
            try:
                train(own, self.parent, self._told(trial), [watch])
            except GivenUpError as error:
                raise TrialPruned(str(error)) from error
            curve = validation_curve(own)
            accuracies.append(curve.best)
            if watch.by_epoch and not watch.told:  # it was recorded before
                for epoch, accuracy in enumerate(curve.accuracies, start=1):
                    trial.report(accuracy, step=epoch)
            if self.planned.search.pruner == "wilcoxon":
                trial.report(accuracies[-1], step=index)
                if seed != seeds[-1] and trial.should_prune():
                    raise TrialPruned(f"given up after seed {seed}")
        accuracy = sum(accuracies) / len(accuracies)
        costs = {"flops": variant.cost.flops, "params": variant.cost.params, "latency": latency}
        others = [float(costs[name] or 0) for name in self.planned.search.objectives[1:]]
        return (accuracy, *others) if others else accuracy

    def _check_first(self, trial: Trial) -> None:
        """Of what two machines enqueued at once, or tried again, the first counts: TwiceError."""
        marks = (NAME, trials.COMBINATION, trials.RETRY_OF)
        own = {mark: trial.user_attrs[mark] for mark in marks if mark in trial.user_attrs}
        for other in self.study.get_trials(deepcopy=False) if own else []:
            is_earlier = other.number < trial.number and other.state != TrialState.FAIL
            if is_earlier and {m: other.user_attrs.get(m) for m in own} == own:
                raise TwiceError(f"it was enqueued already, as trial {other.number}")

    @property
    def _prunes_by_epoch(self) -> bool:
        return self.planned.search.pruner in ("asha", "median")

    def _told(self, trial: Trial) -> Callable[[Status], None]:
        return lambda status: self.tell(status._replace(title=f"trial {trial.number}"))

    def _latency(self, trial: Trial, variant: Variant) -> float | None:
        """Measured where the search asks for it. Raises InvalidError where it is over the limit."""
        limit = self.planned.latency
        if not self.planned.measures_latency:
            return None
        on_gpu = variant.experiment.hardware.accelerator != "cpu" and has_gpu()
        speeds, _ = speed.measure([variant], on_gpu)
        latency = speeds[variant.name].latency
        trial.set_user_attr(trials.LATENCY, latency)
        if limit is not None and latency > limit:
            raise InvalidError("its latency is over the budget")
        return latency


def is_done(study: Study, planned: SearchPlan) -> bool:
    """Whether there are as many trials as asked for, those at work included, and none waits."""
    there = study.get_trials(deepcopy=False)
    if any(trial.state == TrialState.WAITING for trial in there):
        return False
    if planned.search.sampler == "grid":
        return bool(there)
    return trials.counted(there) >= planned.search.trials or is_hopeless(study, planned)


def is_hopeless(study: Study, planned: SearchPlan) -> bool:
    """Whether so many draws were invalid that the space has next to nothing that fits."""
    if planned.search.sampler == "grid":
        return False
    there, wanted = study.get_trials(deepcopy=False), planned.search.trials
    invalid = sum(trials.INVALID in trial.user_attrs for trial in there)
    return trials.counted(there) < wanted and invalid >= MOST_INVALID * wanted
