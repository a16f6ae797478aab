"""The life of trials: dead ones are retried, and none is lost or counted twice."""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from statistics import fmean
from uuid import uuid4

from filelock import FileLock
from optuna import Study, Trial, create_trial
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import JournalStorage, fail_stale_trials
from optuna.storages._heartbeat import BaseHeartbeat
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from levit_ablate.analysis import speed
from levit_ablate.experiment import Variant
from levit_ablate.runtime import is_held, lock_of
from levit_ablate.schema import plain
from levit_ablate.searches.plan import SearchPlan
from levit_ablate.searches.sampling import COMBINATION, MOVED, NAME, InvalidError
from levit_ablate.training.train import Result

# user attributes of a trial
HOST, LOCK = "host", "lock"
"""Machine of the driver at work on it, and the lock that the driver holds."""
INVALID, ERROR = "invalid", "error"
"""Reason why it was not trained; why its training failed."""
KEY, FLOPS, PARAMS, LATENCY, SECONDS = "key", "flops", "params", "latency", "seconds"
ARCHITECTURE, DESIGN = "architecture", "design"
"""Its network, as it was fitted to the budget."""
RETRY_OF = "retry_of"
"""Number of the trial that it retries, which died or was interrupted."""
DIED = "died"
"""Its worker died, and it is to be retried."""
DEATHS = "deaths"
"""Number of workers that died training its network, before this trial."""

MOST_DEATHS = 3
"""Deaths after which a network has failed: it may be their cause."""
MOST_INVALID = 20
"""Invalid samples for each trial that is wanted, after which a search ends."""
HEARTBEAT = 60
"""Seconds between two heartbeats of a trial, in a database."""
SILENCE = 5 * HEARTBEAT
"""Seconds without a heartbeat after which a trial of another machine is retried."""


@dataclass
class RunningTrial:
    """A trial whose network this process trains, a seed at a time."""

    trial: Trial
    variant: Variant
    started: float = field(default_factory=time.monotonic)
    latency: float | None = None
    num_reported: int = 0
    """Epochs that were reported to Optuna, and after which it was not pruned."""
    is_pruned: bool = False
    results: dict[int, Result] = field(default_factory=dict)
    """Seed → result, of the seeds that are done."""

    def values(self, objectives: Sequence[str]) -> list[float]:
        """Return what the trial came to: its accuracy over all seeds, then its costs."""
        accuracies = [each.validation_accuracy for each in self.results.values()]
        cost = self.variant.cost
        costs = {"flops": cost.flops, "params": cost.params, "latency": self.latency}
        return [fmean(accuracies), *(float(costs[name] or 0) for name in objectives[1:])]


class DuplicateError(Exception):
    """A trial is another's duplicate. That is not its network's fault: the sampler is not told."""


@contextmanager
def holding_a_lock(folder: Path) -> Iterator[dict[str, str]]:
    """Hold a lock within the block, by which others of this machine know that we live.

    Gives the user attributes that name it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = lock_of(folder / f"driver.{uuid4().hex}")  # process IDs are used again
    try:
        with FileLock(path):
            yield {HOST: platform.node(), LOCK: str(path.absolute())}
    finally:
        path.unlink(missing_ok=True)


def asking(planned: SearchPlan) -> FileLock:
    """Return the lock of the one process of this machine that may ask for a trial now.

    It keeps the number of trials exact, and a trial that has just begun from seeming dead.
    """
    planned.folder.mkdir(parents=True, exist_ok=True)
    return FileLock(lock_of(planned.folder / planned.key))


def revive(study: Study) -> list[int]:
    """Retry unfinished trials: interrupted ones, and those of drivers that are gone.

    Drivers of this machine are known by their locks, others by heartbeats in the database, for
    which Optuna calls `again`. Call it with the lock of `asking`. Returns the trials' numbers.
    """
    fail_stale_trials(study)
    trials = study.get_trials(deepcopy=False)
    retried = {trial.user_attrs.get(RETRY_OF) for trial in trials}
    on_one_host = isinstance(study._storage, JournalStorage)
    revived = []
    for trial in trials:
        died = trial.state == TrialState.RUNNING and _is_dead(trial, on_one_host)
        was_left = trial.state == TrialState.FAIL and not {ERROR, INVALID} & trial.user_attrs.keys()
        is_lost = _fail(study, trial) if died else was_left
        if is_lost and trial.number not in retried:
            again(study, trial, died or DIED in trial.user_attrs)
            revived.append(trial.number)
    return revived


def _is_dead(trial: FrozenTrial, on_one_host: bool) -> bool:
    """Return whether the driver of a trial is gone, as far as this machine can tell."""
    lock = trial.user_attrs.get(LOCK)
    if lock is None:  # it died before it said who it is, or is about to, on another machine
        begun = trial.datetime_start or datetime.now()
        return on_one_host or datetime.now() - begun > timedelta(seconds=SILENCE)
    if not on_one_host and trial.user_attrs.get(HOST) != platform.node():
        return False
    if is_held(Path(lock)):
        return False
    Path(lock).unlink(missing_ok=True)
    return True


def _fail(study: Study, trial: FrozenTrial) -> bool:
    """End a trial as failed; return whether it was this process that did."""
    try:
        study.tell(trial.number, state=TrialState.FAIL)
    except (ValueError, UpdateFinishedTrialError):  # another was faster
        return False
    return True


def again(study: Study, trial: FrozenTrial, died: bool = True) -> None:
    """Enqueue the network of an unfinished trial again, or end it as failed after `MOST_DEATHS`.

    It `died` unless its process was told to stop.
    """
    kept = (NAME, MOVED, COMBINATION)
    attributes = {key: value for key, value in trial.user_attrs.items() if key in kept}
    deaths = trial.user_attrs.get(DEATHS, 0) + died
    attributes |= {RETRY_OF: trial.number, DEATHS: deaths}
    if deaths >= MOST_DEATHS:
        described = (KEY, FLOPS, PARAMS, ARCHITECTURE, DESIGN)
        attributes |= {key: trial.user_attrs[key] for key in described if key in trial.user_attrs}
        error = f"the process that trained it was killed {deaths} times"
        study.add_trial(
            create_trial(state=TrialState.FAIL, user_attrs={**attributes, ERROR: error})
        )
        return
    study.add_trial(
        create_trial(
            state=TrialState.WAITING,
            # one that died may not have asked for all that it was enqueued with
            system_attrs={
                "fixed_params": {**trial.system_attrs.get("fixed_params", {}), **trial.params}
            },
            user_attrs=attributes,
        )
    )


def counted(trials: Sequence[FrozenTrial]) -> int:
    """Return how many trials count: not the invalid ones, nor those that are retried."""
    return sum(
        INVALID not in trial.user_attrs
        and (
            trial.state in (TrialState.RUNNING, TrialState.COMPLETE, TrialState.PRUNED)
            or (trial.state == TrialState.FAIL and ERROR in trial.user_attrs)
        )
        for trial in trials
    )


def worst(study: Study) -> list[float]:
    """Return the values of an invalid trial: no better than any that was trained."""
    there = study.get_trials(deepcopy=False)
    valid = [t.values for t in there if t.values and INVALID not in t.user_attrs]
    return [
        (min if direction == StudyDirection.MAXIMIZE else max)(
            (values[index] for values in valid), default=0.0
        )
        for index, direction in enumerate(study.directions)
    ]


def beat(study: Study, trials: Sequence[Trial]) -> None:
    """Give heartbeats of running trials, where the storage takes them."""
    storage = study._storage
    if isinstance(storage, BaseHeartbeat):
        for trial in trials:
            storage.record_heartbeat(trial._trial_id)


def describe(trial: Trial, variant: Variant) -> None:
    """Record the network of a trial in its attributes."""
    cost = variant.cost
    attributes = {
        KEY: variant.key,
        FLOPS: cost.flops,
        PARAMS: cost.params,
        ARCHITECTURE: plain(variant.architecture),
        DESIGN: plain(variant.experiment.design),
    }
    for name, value in attributes.items():
        trial.set_user_attr(name, value)


def running_anywhere(study: Study) -> list[str]:
    """Return the trials that a process trains, in words."""
    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    return [f"trial {t.number} on {t.user_attrs.get(HOST, 'a machine')}" for t in running]


def measured_latency(trial: Trial, variant: Variant, planned: SearchPlan) -> float | None:
    """Measure and record the latency, in seconds, if the search needs it.

    Raises InvalidError if it is over the budget.
    """
    if not planned.measures_latency:
        return None
    speeds, _ = speed.measure([variant])
    latency = speeds[variant.name].latency
    trial.set_user_attr(LATENCY, latency)
    if planned.latency is not None and latency > planned.latency:
        raise InvalidError("its latency is over the budget")
    return latency


def refuse(study: Study, trial: Trial, error: Exception) -> None:
    """End a trial before its training: invalid, a duplicate, or failed."""
    values: list[float] | None = None
    state = TrialState.FAIL
    if isinstance(error, InvalidError | DuplicateError):
        trial.set_user_attr(INVALID, str(error))
    else:
        sys.excepthook(type(error), error, error.__traceback__)
        message = f"{type(error).__name__}: {' '.join(str(error).split())}"
        trial.set_user_attr(ERROR, message[:300])
    if isinstance(error, InvalidError):  # GP and NSGA-II learn from complete trials alone
        trial.set_constraint("valid", 1.0)
        values, state = worst(study), TrialState.COMPLETE
    study.tell(trial, values, state, skip_if_finished=True)


def check_first(trial: Trial) -> None:
    """Raise DuplicateError if another machine enqueued or retried the same trial before."""
    marks = (NAME, COMBINATION, RETRY_OF)
    own = {mark: trial.user_attrs[mark] for mark in marks if mark in trial.user_attrs}
    for other in trial.study.get_trials(deepcopy=False) if own else []:
        is_earlier = other.number < trial.number and other.state != TrialState.FAIL
        if is_earlier and {m: other.user_attrs.get(m) for m in own} == own:
            raise DuplicateError(f"it was enqueued already, as trial {other.number}")


def given_up_before(trial: Trial, key: str) -> FrozenTrial | None:
    """Return an earlier trial whose network, of this key, was given up; it is not trained again."""
    pruned = trial.study.get_trials(deepcopy=False, states=(TrialState.PRUNED,))
    same = (each for each in pruned if each.user_attrs.get(KEY) == key)
    return next((each for each in same if each.number != trial.number), None)


def is_done(study: Study, planned: SearchPlan) -> bool:
    """Return whether as many trials as asked for have begun or ended, and none is enqueued."""
    trials = study.get_trials(deepcopy=False)
    if any(trial.state == TrialState.WAITING for trial in trials):
        return False
    if planned.search.sampler == "grid":
        return bool(trials)
    return counted(trials) >= planned.search.trials or is_hopeless(study, planned)


def is_hopeless(study: Study, planned: SearchPlan) -> bool:
    """Return whether so many samples were invalid that next to nothing in the space fits."""
    if planned.search.sampler == "grid":
        return False
    trials, wanted = study.get_trials(deepcopy=False), planned.search.trials
    invalid = sum(INVALID in trial.user_attrs for trial in trials)
    return counted(trials) < wanted and invalid >= MOST_INVALID * wanted
