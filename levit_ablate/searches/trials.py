"""The life of trials: dead ones are retried, and none is lost or counted twice."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

from filelock import FileLock, Timeout
from optuna import Study, Trial, create_trial
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import JournalStorage, fail_stale_trials
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from levit_ablate.experiment import Variant
from levit_ablate.runtime import is_held, lock_of
from levit_ablate.schema import plain
from levit_ablate.searches.plan import SearchPlan
from levit_ablate.searches.results import TrialResult
from levit_ablate.searches.sampling import COMBINATION, MOVED, NAME

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
DEATHS = "deaths"
"""Number of workers that died training its network."""

MOST_DEATHS = 3
"""Deaths after which a network has failed: it may be their cause."""
MOST_INVALID = 20
"""Invalid samples for each trial that is wanted, after which a search ends."""
HEARTBEAT = 60
"""Seconds between two heartbeats of a trial, in a database."""
SILENCE = 5 * HEARTBEAT
"""Seconds without a heartbeat after which a trial of another machine is retried."""


class DuplicateError(Exception):
    """A trial is another's duplicate. That is not its network's fault: the sampler is not told."""


@contextmanager
def holding_a_lock(work_dir: Path) -> Iterator[dict[str, str]]:
    """Hold a lock within the block, by which others of this machine know that we live.

    Gives the user attributes that name it.
    """
    folder = work_dir / "searches"
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
    folder = planned.work_dir / "searches"
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(lock_of(folder / planned.key))


@contextmanager
def acquired(lock: FileLock, seconds: float) -> Iterator[bool]:
    """Hold a lock, or give false after some seconds: a wait without end would ignore Ctrl-C."""
    try:
        lock.acquire(timeout=seconds)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


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
        lost = _fail(study, trial) if died else _was_left(trial)
        if lost and trial.number not in retried:
            again(study, trial, died)
            revived.append(trial.number)
    return revived


def _was_left(trial: FrozenTrial) -> bool:
    return trial.state == TrialState.FAIL and not {ERROR, INVALID} & trial.user_attrs.keys()


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

    Args:
        study: the trials.
        trial: the unfinished trial.
        died: whether its worker or driver died, rather than being told to stop.
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
            system_attrs={"fixed_params": {**_fixed(trial), **trial.params}},
            user_attrs=attributes,
        )
    )


def _fixed(trial: FrozenTrial) -> dict[str, Any]:
    """Return what a trial was enqueued with; one that died may not have asked for all of it."""
    fixed: dict[str, Any] = trial.system_attrs.get("fixed_params", {})
    return fixed


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


def at_work(trials: Sequence[FrozenTrial]) -> list[str]:
    """Return the trials at work anywhere, in words."""
    running = [trial for trial in trials if trial.state == TrialState.RUNNING]
    return [f"trial {t.number} on {t.user_attrs.get(HOST, 'a machine')}" for t in running]


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


def settings_of(trial: FrozenTrial) -> dict[str, Any]:
    """Return the settings of a sampled network, its widths as they were fitted to the budget.

    A width that the space does not vary is left out: it follows from the others.
    """
    stages = trial.user_attrs.get(ARCHITECTURE, {}).get("stages", [])
    widths = {f"width.{number}": stage["width"] for number, stage in enumerate(stages, start=1)}
    return {name: widths.get(name, value) for name, value in trial.params.items()}


def trial_results(trials: Sequence[FrozenTrial]) -> list[TrialResult]:
    """Return the trials as a report needs them, in the order of their numbers."""
    return [_trial_result(trial) for trial in sorted(trials, key=lambda trial: trial.number)]


def _trial_result(trial: FrozenTrial) -> TrialResult:
    own = trial.user_attrs
    states = {
        TrialState.COMPLETE: "complete",
        TrialState.PRUNED: "pruned",
        TrialState.FAIL: "failed",
        TrialState.RUNNING: "running",
        TrialState.WAITING: "waiting",
    }
    accuracy = trial.values[0] if trial.values and INVALID not in own else None
    if accuracy is None and trial.intermediate_values:
        accuracy = trial.intermediate_values[max(trial.intermediate_values)]
    return TrialResult(
        number=trial.number,
        state="invalid" if INVALID in own else states[trial.state],  # type: ignore[arg-type]
        params=settings_of(trial),
        accuracy=accuracy,
        flops=own.get(FLOPS),
        num_params=own.get(PARAMS),
        latency=own.get(LATENCY),
        ablation=own.get(NAME, ""),
        seconds=own.get(SECONDS, 0.0),
        error=own.get(ERROR) or own.get(INVALID, ""),
        key=own.get(KEY, ""),
    )
