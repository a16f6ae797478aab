"""The life of trials: whose process is gone is tried again, and none is lost or counted twice."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from filelock import FileLock
from optuna import Study, Trial, create_trial
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import JournalStorage, fail_stale_trials
from optuna.trial import FrozenTrial, TrialState

from levit_ablate.errors import UserError
from levit_ablate.experiments import Variant
from levit_ablate.locks import is_held, lock_of
from levit_ablate.search.found import Found
from levit_ablate.search.plan import SearchPlan
from levit_ablate.search.sampling import NAME, point_of
from levit_ablate.serialization import plain

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


def points_of_named(planned: SearchPlan) -> tuple[dict[str, tuple[Any, ...]], list[str]]:
    """Where the named ablations lie in the space: name → (point, moved); and what is said of them.

    The baseline is left out, with a line, where it has no place there, or is beyond the budget.
    Raises UserError where another ablation is.
    """
    points, said = {}, []
    for name in planned.search.enqueue:
        variant = planned.named(name)
        try:
            share = planned.budget.share(
                variant.architecture, variant.experiment.design, variant.images
            )
            if share > 1:
                raise UserError(f"enqueue: {name}: costs {share:.2f} times the budget")
            points[name] = point_of(variant, planned.space)
        except UserError as error:
            if name != planned.baseline.name:
                raise
            said.append(f"{error}; it is trained for the confirmation alone")
            continue
        if moved := points[name][1]:
            said.append(f"{name}: not in the space in {', '.join(moved)}; the sampler sees it near")
    return points, said


def enqueue(study: Study, planned: SearchPlan) -> list[str]:
    """Put first what is not the sampler's to choose, each once; what was said of it.

    The named ablations, and of a grid every combination. Raises UserError as `points_of_named`.
    """
    there = study.get_trials(deepcopy=False)
    names = {trial.user_attrs.get(NAME) for trial in there}
    points, said = points_of_named(planned)
    for name, (point, moved) in points.items():
        if name not in names:
            study.enqueue_trial(point, user_attrs={NAME: name, MOVED: moved})
    if planned.search.sampler == "grid":
        tried = {trial.user_attrs.get(COMBINATION) for trial in there}
        for number, combination in enumerate(planned.grid):
            if number not in tried:
                study.enqueue_trial(combination, user_attrs={COMBINATION: number})
    return said


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
        if trial.state == TrialState.RUNNING and _is_dead(trial, on_one_host):
            lost = _fail(study, trial)
        else:
            lost = trial.state == TrialState.FAIL and not _has_reason(trial)
        if lost and trial.number not in retried:
            again(study, trial)
            revived.append(trial.number)
    return revived


def _is_dead(trial: FrozenTrial, on_one_host: bool) -> bool:
    """Whether the process of a trial is gone, as far as this machine can tell."""
    lock = trial.user_attrs.get(LOCK)
    if lock is None:  # it died before it said who it is, or is about to, on another machine
        return on_one_host
    if trial.user_attrs.get(HOST) != platform.node():
        return False
    return not Path(lock).is_file() or not is_held(Path(lock))


def _fail(study: Study, trial: FrozenTrial) -> bool:
    """End a trial as failed; whether it was this process that did."""
    try:
        study.tell(trial.number, state=TrialState.FAIL)
    except (ValueError, UpdateFinishedTrialError):  # another was faster
        return False
    return True


def again(study: Study, trial: FrozenTrial) -> None:
    """Put the same network before what the sampler chooses next.

    Without the mark of the process that is gone, by which it would seem dead from the start.
    """
    kept = (NAME, MOVED, COMBINATION)
    attributes = {key: value for key, value in trial.user_attrs.items() if key in kept}
    study.add_trial(
        create_trial(
            state=TrialState.WAITING,
            system_attrs={"fixed_params": dict(trial.params or _fixed(trial))},
            user_attrs={**attributes, RETRY_OF: trial.number},
        )
    )


def _fixed(trial: FrozenTrial) -> dict[str, Any]:
    """Of a trial that died before it was sampled: what it was enqueued with."""
    fixed: dict[str, Any] = trial.system_attrs.get("fixed_params", {})
    return fixed


def _has_reason(trial: FrozenTrial) -> bool:
    return ERROR in trial.user_attrs


def counted(trials: Sequence[FrozenTrial]) -> int:
    """The trials that count towards the number that was asked for.

    Not the invalid ones, which cost nothing, nor those that are tried again.
    """
    return sum(
        INVALID not in trial.user_attrs
        and (
            trial.state in (TrialState.RUNNING, TrialState.COMPLETE, TrialState.PRUNED)
            or (trial.state == TrialState.FAIL and _has_reason(trial))
        )
        for trial in trials
    )


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


def is_at_work(trials: Sequence[FrozenTrial]) -> bool:
    """Whether any trial is, wherever."""
    return any(trial.state == TrialState.RUNNING for trial in trials)


def name_of(trial: FrozenTrial) -> str:
    """Of its network: an ablation's where it was enqueued as one."""
    return trial.user_attrs.get(NAME) or f"trial {trial.number}"


def found_of(trials: Sequence[FrozenTrial]) -> list[Found]:
    """The trials as a report needs them, in the order of their numbers."""
    return [_found(trial) for trial in sorted(trials, key=lambda trial: trial.number)]


def _found(trial: FrozenTrial) -> Found:
    own = trial.user_attrs
    states = {
        TrialState.COMPLETE: "complete",
        TrialState.PRUNED: "invalid" if INVALID in own else "pruned",
        TrialState.FAIL: "failed",
        TrialState.RUNNING: "running",
        TrialState.WAITING: "waiting",
    }
    accuracy = trial.values[0] if trial.values else None
    if accuracy is None and trial.intermediate_values:
        accuracy = trial.intermediate_values[max(trial.intermediate_values)]
    return Found(
        number=trial.number,
        state=states[trial.state],  # type: ignore[arg-type]
        params=dict(trial.params),
        accuracy=accuracy,
        flops=own.get(FLOPS),
        num_params=own.get(PARAMS),
        latency=own.get(LATENCY),
        ablation=own.get(NAME, ""),
        seconds=own.get(SECONDS, 0.0),
        error=own.get(ERROR) or own.get(INVALID, ""),
        key=own.get(KEY, ""),
    )
