"""The life of trials: whose process is gone is tried again, and none is lost or counted twice."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

from filelock import FileLock
from optuna import Study, Trial, create_trial
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import JournalStorage, fail_stale_trials
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from levit_ablate.experiment import Variant
from levit_ablate.locks import is_held, lock_of
from levit_ablate.schema import plain
from levit_ablate.searches.plan import SearchPlan
from levit_ablate.searches.results import Found
from levit_ablate.searches.sampling import NAME

# user attributes of a trial
HOST, LOCK = "host", "lock"
"""The machine that works on it, and the lock that its process holds."""
INVALID, ERROR = "invalid", "error"
"""Why it was not trained; why its training failed."""
KEY, FLOPS, PARAMS, LATENCY, SECONDS = "key", "flops", "params", "latency", "seconds"
ARCHITECTURE, DESIGN = "architecture", "design"
"""Its network, as it was fitted to the budget."""
MOVED = "moved"
"""Of one that was enqueued: in what the sampler sees it elsewhere than it is."""
COMBINATION = "combination"
"""Of a trial of a grid: which of its combinations."""
RETRY_OF = "retry_of"
"""The number of the trial whose process was gone, or was interrupted, that it is in place of."""
DEATHS = "deaths"
"""How many processes have died of its network."""

MOST_DEATHS = 3
"""Of a network, after which it has failed: it may be what they die of."""
HEARTBEAT = 60
"""Seconds between two signs of life of a trial, in a database."""
SILENCE = 5 * HEARTBEAT
"""Seconds without one after which a trial of another machine is taken for dead, and tried again."""


@contextmanager
def holding_a_lock(work_dir: Path) -> Iterator[dict[str, str]]:
    """Within, this process holds a lock, by which others of this machine know that it lives.

    Gives the user attributes that tell it.
    """
    folder = work_dir / "searches"
    folder.mkdir(parents=True, exist_ok=True)
    path = lock_of(folder / f"worker.{uuid4().hex}")  # process numbers come again
    try:
        with FileLock(path):
            yield {HOST: platform.node(), LOCK: str(path.absolute())}
    finally:
        path.unlink(missing_ok=True)


def asking(planned: SearchPlan) -> FileLock:
    """Held by the one process of this machine that may ask for a trial of the search now.

    So that none is one too many, and none that has just begun seems to be dead.
    """
    folder = planned.work_dir / "searches"
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(lock_of(folder / planned.key))


def revive(study: Study) -> list[int]:
    """Try again what was left unfinished: interrupted, or by a process that is gone.

    Processes of this machine are known by their locks; those of others by the heartbeats of the
    database, for which Optuna calls `again`. To be called by the one process of this machine that
    may ask for a trial now. Returns the numbers of those trials.
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
    """Whether the process of a trial is gone, as far as this machine can tell."""
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
    """End a trial as failed; whether it was this process that did."""
    try:
        study.tell(trial.number, state=TrialState.FAIL)
    except (ValueError, UpdateFinishedTrialError):  # another was faster
        return False
    return True


def again(study: Study, trial: FrozenTrial, died: bool = True) -> None:
    """Put the same network before what the sampler chooses next, or end it as failed.

    Without the mark of the process that is gone, by which it would seem dead from the start.

    Args:
        study: the search's.
        trial: what was left unfinished.
        died: whether its process died, and was not told to end.
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
    """What a trial was enqueued with, of which one that died may not have asked all."""
    fixed: dict[str, Any] = trial.system_attrs.get("fixed_params", {})
    return fixed


def counted(trials: Sequence[FrozenTrial]) -> int:
    """The trials that count towards the number that was asked for.

    Not the invalid ones, which cost nothing, nor those that are tried again.
    """
    return sum(
        INVALID not in trial.user_attrs
        and (
            trial.state in (TrialState.RUNNING, TrialState.COMPLETE, TrialState.PRUNED)
            or (trial.state == TrialState.FAIL and ERROR in trial.user_attrs)
        )
        for trial in trials
    )


def worst(study: Study) -> list[float]:
    """What an invalid trial is said to have come to: no better than any that was trained."""
    there = study.get_trials(deepcopy=False)
    valid = [t.values for t in there if t.values and INVALID not in t.user_attrs]
    return [
        (min if direction == StudyDirection.MAXIMIZE else max)(
            (values[index] for values in valid), default=0.0
        )
        for index, direction in enumerate(study.directions)
    ]


def describe(trial: Trial, variant: Variant) -> None:
    """Say of a trial which network it is."""
    cost = variant.cost
    said = {
        KEY: variant.key,
        FLOPS: cost.flops,
        PARAMS: cost.params,
        ARCHITECTURE: plain(variant.architecture),
        DESIGN: plain(variant.experiment.design),
    }
    for name, value in said.items():
        trial.set_user_attr(name, value)


def at_work(trials: Sequence[FrozenTrial]) -> list[str]:
    """The trials that run, wherever, in words."""
    running = [trial for trial in trials if trial.state == TrialState.RUNNING]
    return [f"trial {t.number} on {t.user_attrs.get(HOST, 'a machine')}" for t in running]


def settings_of(trial: FrozenTrial) -> dict[str, Any]:
    """The settings of a network that was drawn; its widths as they were fitted to the budget.

    A width that the space does not vary is no setting: it follows from the others.
    """
    stages = trial.user_attrs.get(ARCHITECTURE, {}).get("stages", [])
    widths = {f"width.{number}": stage["width"] for number, stage in enumerate(stages, start=1)}
    return {name: widths.get(name, value) for name, value in trial.params.items()}


def found_of(trials: Sequence[FrozenTrial]) -> list[Found]:
    """The trials as a report needs them, in the order of their numbers."""
    return [_found(trial) for trial in sorted(trials, key=lambda trial: trial.number)]


def _found(trial: FrozenTrial) -> Found:
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
    return Found(
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
