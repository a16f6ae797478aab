"""What the driver of a search asks and tells Optuna; the trainings are made up here."""

from __future__ import annotations

import itertools
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from optuna import Study, Trial
from optuna.storages import JournalStorage, RDBStorage
from optuna.trial import TrialState
from searching import GIVEN, small

from levit_ablate.errors import DamagedError, RunError, UserError
from levit_ablate.runner.job import Job, Outcome, Question
from levit_ablate.runner.loop import Event
from levit_ablate.searches import conduct, jobs, results, trials
from levit_ablate.searches.plan import plan
from levit_ablate.searches.sampling import NAME, InvalidError, variant_of
from levit_ablate.searches.search import changed, read
from levit_ablate.searches.storage import study_of
from levit_ablate.searches.trials import DEATHS, ERROR, INVALID, RETRY_OF
from levit_ablate.tracking.store import open_store
from levit_ablate.training.train import Result

INVALID_FROM = 5
"""Depth, of all stages together, from which on networks are taken to be invalid."""


def depth(variant) -> int:
    return sum(stage.depth for stage in variant.architecture.stages)


def curve_of(job: Job) -> list[float]:
    """Accuracy after each epoch: the deeper the network, the better."""
    epochs = job.variant.experiment.recipe.epochs
    return [depth(job.variant) / 10 * (epoch + 1) / epochs for epoch in range(epochs)]


def ended(job: Job) -> Outcome:
    """The outcome of a job that was trained to its end."""
    curve = curve_of(job)
    result = Result(
        variant=job.variant,
        run_id="",
        trained=True,
        accuracy=0.0,
        loss=1.0,
        seconds=1.0,
        curve=tuple(curve),
        best_epoch=len(curve) - 1,
    )
    return Outcome(seconds=1.0, result=result)


class MadeUp:
    """A launcher whose jobs end as `outcome` says, after asking about every epoch."""

    def __init__(self, outcome: Callable[[Job], Outcome] = ended, places: int = 1) -> None:
        self.outcome = outcome
        self.places = places
        self.running: list[Job] = []
        self.started: list[Job] = []
        self.answers: dict[int, list[bool]] = {}

    def start(self, job: Job) -> None:
        self.running.append(job)
        self.started.append(job)
        self.answers[job.number] = []

    def events(self, timeout: float) -> list[Event]:
        events = []
        for job in list(self.running):
            answers = self.answers[job.number]
            curve = curve_of(job)[: len(answers) + 1]
            if not all(answers):
                outcome = Outcome(error="given up", given_up=True)
            elif job.may_be_given_up and len(curve) < job.variant.experiment.recipe.epochs:
                events.append(Event(job, Question(tuple(curve))))
                continue
            else:
                outcome = self.outcome(job)
            self.running.remove(job)
            events.append(Event(job, outcome))
        return events

    def answer(self, job: Job, go_on: bool) -> None:
        self.answers[job.number].append(go_on)

    def stop(self, at_once: bool) -> None: ...

    def close(self) -> None: ...


def pruning_search():
    """A search of eight trials of four epochs each, which ASHA looks at after the first and third."""
    search = changed(read("equal_flops"), {"trials": 8, "pruner": "asha", "sampler": "random"})
    return plan(search, GIVEN | {"recipe": {**GIVEN["recipe"], "epochs": 4}})


def done(planned, launcher=None, url=""):
    """The trials of a search after this command has done them."""
    conduct.conduct(planned, url, launcher or MadeUp())
    return study_of(planned, url).get_trials()


@pytest.fixture(scope="module", autouse=True)
def _store(tmp_path_factory):
    """One store for all: nothing is trained, and each test has its trials in its own folder."""
    open_store(f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}")


def test_a_teacher_that_only_some_networks_ask_is_checked_before_anything_is_trained():
    varied = {"space": {"design": {"distillation": ["none", "hard"]}}}
    teacher = {"model": "test_resnet", "weights": "pretrained"}
    planned = plan(changed(read("equal_flops"), varied), {**GIVEN, "teacher": teacher})
    with pytest.raises(UserError, match=r"tell 1,000 classes apart, these images have 10"):
        conduct.check(planned)


@pytest.fixture
def some_invalid(monkeypatch):
    """The deepest networks are invalid."""

    def limited(trial, planned):
        variant = variant_of(trial, planned)
        if depth(variant) >= INVALID_FROM:
            raise InvalidError("too deep")
        return variant

    monkeypatch.setattr(jobs, "variant_of", limited)


@pytest.mark.parametrize("sampler", ["gp", "nsga2"])
def test_the_sampler_learns_from_what_was_invalid(some_invalid, sampler):
    found = done(small(trials=20, sampler=sampler, budget={}, enqueue=""))
    invalid = [trial for trial in found if INVALID in trial.user_attrs]
    assert 0 < len(invalid) < len(found) / 2 and len(found) - len(invalid) == 20
    assert {trial.state for trial in found} == {TrialState.COMPLETE}
    assert all(trial.constraints["valid"] > 0 for trial in invalid)
    accurate = [trial.values[0] for trial in found if trial not in invalid]
    assert all(trial.values[0] <= max(accurate) for trial in invalid)


def test_what_was_enqueued_twice_is_done_once_and_no_fault_of_its_network():
    planned = small(trials=3, sampler="random", enqueue="")
    for _ in range(2):
        study_of(planned, "").enqueue_trial(
            {"depth.1": 1, "depth.2": 1}, user_attrs={NAME: "baseline"}
        )
    found = done(planned)
    assert [trial.state.name for trial in found[:2]] == ["COMPLETE", "FAIL"]
    assert found[1].user_attrs[INVALID] == "it was enqueued already, as trial 0"
    assert not found[1].constraints


def test_a_search_that_goes_on_draws_what_it_would_have_drawn(tmp_path, monkeypatch):
    whole = [trial.params for trial in done(small(trials=4, sampler="tpe"))]
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    done(small(trials=2, sampler="tpe"))
    assert [trial.params for trial in done(small(trials=4, sampler="tpe"))] == whole


def test_a_trial_reports_every_epoch_and_is_given_up_by_the_driver():
    planned = pruning_search()
    launcher = MadeUp()
    found = done(planned, launcher)
    pruned = [trial for trial in found if trial.state == TrialState.PRUNED]
    complete = [t for t in found if t.state == TrialState.COMPLETE and INVALID not in t.user_attrs]
    assert pruned and complete and len(pruned) + len(complete) == 8
    for trial in complete:
        assert list(trial.intermediate_values) == [1, 2, 3, 4]
        assert trial.values == [trial.intermediate_values[4]]
    for trial in pruned:
        assert launcher.answers[trial.number][-1] is False
        assert len(trial.intermediate_values) == len(launcher.answers[trial.number]) < 4


@pytest.mark.parametrize(
    ("sampler", "pruner", "seeds"), [("gp", "median", "0"), ("nsga2", "wilcoxon", "0,1,2,3,4")]
)
def test_a_search_with_other_samplers_and_pruners_does_its_trials(sampler, pruner, seeds):
    planned = small(trials=8, sampler=sampler, pruner=pruner, seeds=seeds)
    found = done(planned, MadeUp(places=2))
    ends = (TrialState.COMPLETE, TrialState.PRUNED)
    valid = [trial for trial in found if INVALID not in trial.user_attrs]
    assert len(valid) == 8 and all(trial.state in ends for trial in valid)
    assert all(len(trial.intermediate_values) >= 1 for trial in valid)


def test_a_network_that_was_given_up_is_not_trained_again():
    planned = pruning_search()
    pruned = next(each for each in done(planned) if each.state == TrialState.PRUNED)
    study_of(planned, "").enqueue_trial(pruned.params)
    launcher = MadeUp()
    again = done(planned, launcher)[-1]
    assert not launcher.started and again.state == TrialState.PRUNED
    assert again.intermediate_values == pruned.intermediate_values


def test_a_line_is_said_for_every_trial_that_has_ended(capsys):
    done(small(trials=3, sampler="random"))
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("equal_flops on digits: 0 of 3 trials done")
    assert [line.split(":")[0].split(" (")[0] for line in lines[1:]] == [
        f"[{number + 1}/3] trial {number}" for number in range(3)
    ]


def test_a_trial_is_told_after_its_last_seed():
    launcher = MadeUp()
    (trial,) = done(small(trials=1, seeds="3,4"), launcher)
    assert [job.variant.experiment.seed for job in launcher.started] == [3, 4]
    assert [job.title for job in launcher.started] == ["trial 0 seed 3", "trial 0 seed 4"]
    assert trial.values == [pytest.approx(curve_of(launcher.started[0])[-1])]


def test_a_trial_that_was_left_between_two_seeds_is_tried_again():
    planned = small(trials=1, seeds="3,4")

    def interrupted(job: Job) -> Outcome:
        if job.variant.experiment.seed == 4 and job.number == 0:
            return Outcome(error="interrupted", interrupted=True)
        return ended(job)

    first, second = done(planned, MadeUp(interrupted))
    assert (first.state, second.state) == (TrialState.FAIL, TrialState.COMPLETE)
    assert ERROR not in first.user_attrs and second.user_attrs[RETRY_OF] == 0
    assert second.user_attrs[DEATHS] == 0 and second.params == first.params


def test_a_network_of_which_workers_die_has_failed_and_the_search_goes_on():
    def dies(job: Job) -> Outcome:
        return Outcome(error="killed", died=True) if job.number < 3 else ended(job)

    launcher = MadeUp(dies)
    found = done(small(trials=2), launcher)
    assert [trial.state.name for trial in found] == ["FAIL"] * 4 + ["COMPLETE"]
    assert len({job.variant.key for job in launcher.started[:3]}) == 1
    assert found[3].user_attrs[ERROR] == "the process that trained it was killed 3 times"


def test_workers_that_die_again_and_again_end_the_search():
    launcher = MadeUp(lambda job: Outcome(error="killed", died=True))
    with pytest.raises(RunError, match="workers die again and again; the last one: killed"):
        done(small(trials=8), launcher)
    assert len(launcher.started) == jobs.MOST_DEATHS + 1


def test_a_training_that_failed_is_a_failed_trial_unless_the_store_is_away(monkeypatch):
    there = iter([True, False, True])
    monkeypatch.setattr(jobs, "answers", lambda: next(there, True))

    def fails(job: Job) -> Outcome:
        return Outcome(error="diverged", kind="RunError") if job.number < 2 else ended(job)

    found = done(small(trials=2), MadeUp(fails))
    assert [trial.state.name for trial in found] == ["FAIL", "FAIL", "COMPLETE"]
    assert ERROR not in found[0].user_attrs and found[1].user_attrs[RETRY_OF] == 0
    assert found[1].user_attrs[ERROR] == "RunError: diverged"


@pytest.fixture
def beaten(monkeypatch):
    """Ids of the trials whose heartbeats were given, in order."""
    ids: list[int] = []
    record = RDBStorage.record_heartbeat
    monkeypatch.setattr(
        RDBStorage, "record_heartbeat", lambda *args: (ids.append(args[1]), record(*args))[1]
    )
    return ids


def test_a_trial_in_a_database_has_heartbeats_while_it_is_at_work(tmp_path, beaten):
    before = threading.active_count()
    found = done(small(trials=2), url=f"sqlite:///{tmp_path}/trials.db")
    assert sorted(beaten) == [trial._trial_id for trial in found]
    assert threading.active_count() == before


def test_a_trial_has_a_heartbeat_before_others_see_who_is_at_work_on_it(
    beaten, monkeypatch, tmp_path
):
    """Else one whose machine is lost while it is prepared would be waited for without end."""
    named: list[bool] = []
    name = Trial.set_user_attr

    def set_user_attr(trial, key, value):
        if key == trials.LOCK:
            named.append(trial._trial_id in beaten)
        name(trial, key, value)

    monkeypatch.setattr(Trial, "set_user_attr", set_user_attr)
    done(small(trials=2), url=f"sqlite:///{tmp_path}/trials.db")
    assert named == [True, True]


def test_trials_have_heartbeats_while_many_others_are_asked_for(beaten, monkeypatch, tmp_path):
    before: list[list[int]] = []

    def prepared(trial, planned):
        before.append(list(beaten))
        return variant_of(trial, planned)

    monkeypatch.setattr(jobs, "variant_of", prepared)
    minutes = itertools.count(step=2 * trials.HEARTBEAT)
    monkeypatch.setattr(jobs, "time", SimpleNamespace(monotonic=lambda: float(next(minutes))))
    done(small(trials=3, sampler="random"), MadeUp(places=3), f"sqlite:///{tmp_path}/trials.db")
    first = before[0][0]
    assert [ids.count(first) for ids in before] == [1, 2, 3]


def test_a_trial_has_heartbeats_while_it_is_being_stopped(beaten, monkeypatch, tmp_path):
    """It may be within a validation, which it ends first; another machine is not to retry it."""
    minutes = itertools.count(step=2 * trials.HEARTBEAT)
    monkeypatch.setattr(jobs, "time", SimpleNamespace(monotonic=lambda: float(next(minutes))))
    as_it_stopped: list[int] = []
    looks: list[float] = []

    class Stops(MadeUp):
        def events(self, timeout: float) -> list[Event]:
            if not as_it_stopped:
                as_it_stopped.append(len(beaten))
                signal.raise_signal(signal.SIGINT)
            looks.append(timeout)
            return super().events(timeout) if len(looks) > 9 else []

    with pytest.raises(KeyboardInterrupt):
        done(small(trials=2), Stops(), f"sqlite:///{tmp_path}/trials.db")
    assert len(beaten) > as_it_stopped[0] + 2


def test_latency_is_measured_by_one_command_on_one_kind_of_machine(monkeypatch):
    planned = small("accuracy_and_flops", objectives="accuracy,latency")
    study = study_of(planned, "")
    refused = []

    def other():
        with pytest.raises(UserError) as caught, conduct.measuring_alone(planned, study, 1):
            pass
        refused.append(str(caught.value))

    with conduct.measuring_alone(planned, study, 1):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    monkeypatch.setattr(conduct, "hardware", lambda: "another machine")
    other()
    assert "another search measures latency" in refused[0]
    assert "this is another machine; go on there" in refused[1]
    with pytest.raises(UserError, match="--workers 1"), conduct.measuring_alone(planned, study, 2):
        pass


def test_a_trial_that_another_driver_took_for_dead_disturbs_no_other():
    """As after a night in which the machine slept: its heartbeats were missing."""
    planned = pruning_search()

    class Sleeps(MadeUp):
        def events(self, timeout: float) -> list[Event]:
            events = super().events(timeout)
            if self.running and self.running[0].number == 1 and len(self.answers[1]) == 1:
                study = study_of(planned, "")
                study.tell(1, state=TrialState.FAIL)
                trials.again(study, study.get_trials()[1])
            return events

    found = done(planned, Sleeps())
    ends = [trial.state.name for trial in found if INVALID not in trial.user_attrs]
    assert ends.count("FAIL") == 1 and ends[1] == "FAIL" and len(ends) == 9
    assert 1 in [trial.user_attrs.get(RETRY_OF) for trial in found]


def test_a_hiccup_of_the_trials_between_two_reports_stops_no_training(monkeypatch, capsys):
    raised = []

    def trial_results(study):
        if not raised and trials.running_anywhere(study):
            raised.append(True)
            raise OSError("the database is being started")
        return results.trial_results(study)

    monkeypatch.setattr(jobs, "trial_results", trial_results)
    monkeypatch.setattr(jobs, "POLL", 0.0)
    found = done(small(trials=2))
    assert raised and [trial.state.name for trial in found] == ["COMPLETE"] * 2
    assert "the database is being started" in capsys.readouterr().err


def test_a_job_that_asks_again_as_its_machine_was_lost_is_still_given_up():
    lost: dict[int, int] = {}

    class Lost(MadeUp):
        def answer(self, job: Job, go_on: bool) -> None:
            if not go_on and job.number not in lost:
                lost[job.number] = len(self.answers[job.number]) + 1  # the answer did not arrive
            else:
                super().answer(job, go_on)

    found = done(pruning_search(), Lost())
    assert lost and {number: found[number].last_step for number in lost} == lost
    assert {found[number].state for number in lost} == {TrialState.PRUNED}


def test_ctrl_c_ends_a_search_that_waits_for_another_process_to_ask(monkeypatch):
    """As where that one was stopped by Ctrl-Z while it held the lock."""
    planned = small(trials=1)
    monkeypatch.setattr(jobs, "POLL", 0.1)
    held, ended, lines = threading.Event(), threading.Event(), conduct.TrialLines

    def hold() -> None:
        with trials.asking(planned):
            held.set()
            ended.wait(20)

    holder = threading.Thread(target=hold)

    def begin(*arguments):
        holder.start()
        held.wait()
        threading.Timer(1.0, os.kill, [os.getpid(), signal.SIGINT]).start()
        return lines(*arguments)

    monkeypatch.setattr(conduct, "TrialLines", begin)
    launcher = MadeUp()
    try:
        with pytest.raises(KeyboardInterrupt):
            conduct.conduct(planned, "", launcher)
        assert not ended.is_set() and holder.is_alive() and not launcher.started
    finally:
        ended.set()
        holder.join()


@pytest.mark.parametrize(
    "method",
    [
        "create_new_trial",
        "set_trial_param",
        "set_trial_user_attr",
        "set_trial_intermediate_value",
        "set_trial_state_values",
        "get_all_trials",
    ],
)
def test_a_storage_that_is_away_for_a_moment_now_and_then_loses_no_trial(
    method, monkeypatch, capsys
):
    call, loop, count = getattr(JournalStorage, method), conduct.loop.run, itertools.count()

    def flaky(*arguments, **options):
        if next(count) % 11 == 5:
            raise OSError("the database is starting up")
        return call(*arguments, **options)

    def run(*arguments):
        with monkeypatch.context() as patches:
            patches.setattr(JournalStorage, method, flaky)
            return loop(*arguments)

    monkeypatch.setattr(conduct.loop, "run", run)
    monkeypatch.setattr(jobs, "POLL", 0.0)
    found = done(pruning_search(), MadeUp(places=2))
    valid = [trial for trial in found if INVALID not in trial.user_attrs]
    assert len(valid) == 8
    assert {trial.state for trial in valid} == {TrialState.COMPLETE, TrialState.PRUNED}
    for trial in valid:
        steps = list(trial.intermediate_values)
        assert steps == list(range(1, len(steps) + 1))
        if trial.state == TrialState.COMPLETE:
            assert trial.values == [trial.intermediate_values[4]]
    said = "the database is starting up; what was written is kept; trying again"
    assert capsys.readouterr().err.count(said) == 1


def test_seeds_are_counted_once_where_the_storage_was_away(monkeypatch):
    planned = small(trials=4, sampler="random", pruner="wilcoxon", seeds="0,1,2,3,4")
    whole = [(trial.state, trial.values) for trial in done(planned)]
    Path("other").mkdir()
    monkeypatch.chdir("other")
    tell, count = Study.tell, itertools.count()

    def flaky(*arguments, **options):
        if next(count) % 2 == 0:
            raise OSError("the database is starting up")
        return tell(*arguments, **options)

    monkeypatch.setattr(Study, "tell", flaky)
    monkeypatch.setattr(jobs, "POLL", 0.0)
    assert [(trial.state, trial.values) for trial in done(planned)] == whole


def test_a_storage_that_stays_away_stops_the_search_which_goes_on_when_it_is_back(monkeypatch):
    planned = small(trials=1)
    seconds, tries = itertools.count(1), []
    monkeypatch.setattr(jobs, "time", SimpleNamespace(monotonic=lambda: float(next(seconds))))

    def away(*arguments, **options):
        tries.append(arguments)
        raise OSError("the database is away")

    launcher = MadeUp()
    with monkeypatch.context() as patches:
        patches.setattr(Study, "tell", away)
        with pytest.raises(RunError, match="the database is away; what was written is kept"):
            done(planned, launcher)
    assert len(tries) > 2 and len(launcher.started) == 1
    first, again = done(planned)
    assert (first.state, again.state) == (TrialState.FAIL, TrialState.COMPLETE)
    assert ERROR not in first.user_attrs and again.user_attrs[RETRY_OF] == 0


def test_damaged_trials_stop_a_search_at_once(monkeypatch):
    seconds, tries = itertools.count(1), []
    monkeypatch.setattr(jobs, "time", SimpleNamespace(monotonic=lambda: float(next(seconds))))

    def damaged(*arguments, **options):
        tries.append(arguments)
        raise DamagedError("trials.journal:7: the line is damaged")

    monkeypatch.setattr(Study, "ask", damaged)
    with pytest.raises(DamagedError, match="journal:7"):
        done(small(trials=1))
    assert len(tries) == 1


def test_a_trial_that_was_asked_for_as_the_storage_went_away_is_no_death(monkeypatch):
    planned = small(trials=1)
    seconds = itertools.count(1)

    def away(*arguments, **options):
        raise OSError("the database is away")

    with monkeypatch.context() as patches:
        patches.setattr(jobs, "time", SimpleNamespace(monotonic=lambda: float(next(seconds))))
        patches.setattr(Trial, "set_user_attr", away)
        with pytest.raises(RunError, match="the database is away"):
            done(planned)
    first, again = done(planned)
    assert (first.state, again.state) == (TrialState.FAIL, TrialState.COMPLETE)
    assert again.user_attrs[RETRY_OF] == 0 and again.user_attrs[DEATHS] == 0


def test_a_worker_that_died_waits_for_no_process_that_asks_for_a_trial(monkeypatch, capsys):
    planned = small(trials=1)
    monkeypatch.setattr(jobs, "POLL", 0.1)
    held, ended_with = threading.Event(), threading.Event()
    was_released: list[bool] = []

    def hold() -> None:
        with trials.asking(planned):
            held.set()
            was_released.append(ended_with.wait(20))

    holder = threading.Thread(target=hold)

    class Dies(MadeUp):
        def events(self, timeout: float) -> list[Event]:
            if held.is_set():  # its end was taken
                ended_with.set()
            return super().events(timeout)

    def dies(job: Job) -> Outcome:
        if job.number:
            return ended(job)
        holder.start()
        held.wait()
        return Outcome(error="killed", died=True)

    first, again = done(planned, Dies(dies))
    assert was_released == [True]
    assert (first.state, again.state) == (TrialState.FAIL, TrialState.COMPLETE)
    assert again.user_attrs[RETRY_OF] == 0 and again.user_attrs[DEATHS] == 1
    assert "trial 0: killed" in capsys.readouterr().err
