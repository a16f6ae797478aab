"""No trial is lost, none counted twice, whoever dies."""

import contextlib
import platform
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from optuna.pruners import ThresholdPruner
from optuna.trial import TrialState
from searching import small

from levit_ablate.errors import UserError
from levit_ablate.searches import sampling, trials
from levit_ablate.searches.results import trial_results
from levit_ablate.searches.sampling import variant_of
from levit_ablate.searches.storage import study_of
from levit_ablate.searches.trials import is_done, is_hopeless


@pytest.fixture
def study():
    planned = small(trials=3)
    return study_of(planned, "")


def begun(study, lock="gone.lock", host=None):
    trial = study.ask()
    trial.suggest_int("depth.1", 1, 4)
    if lock:
        trial.set_user_attr(trials.HOST, host or platform.node())
        trial.set_user_attr(trials.LOCK, lock)
    return trial


def states(study):
    return [trial.state.name for trial in study.get_trials()]


def test_a_trial_whose_process_is_gone_is_tried_again_once_with_its_values(study):
    dead = begun(study)
    assert trials.revive(study) == [0] and trials.revive(study) == []
    assert states(study) == ["FAIL", "WAITING"]
    again = begun(study, "other.lock")
    assert again.params == dead.params and again.user_attrs[trials.RETRY_OF] == 0
    assert trials.revive(study) == [1]  # and if it dies too, again


@contextlib.contextmanager
def held_by_another_process(path):
    code = "import sys, filelock; lock = filelock.FileLock(sys.argv[1]); lock.acquire(); print(flush=True); input()"
    command = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        holder.stdout.readline()
        yield
        holder.communicate(b"\n")


def test_a_trial_at_work_is_left_alone_until_its_process_is_gone(study):
    with held_by_another_process("its.lock"):
        begun(study, "its.lock")
        assert trials.revive(study) == [] and states(study) == ["RUNNING"]
        (words,) = trials.running_anywhere(study)
        assert words == f"trial 0 on {platform.node()}"
    assert trials.revive(study) == [0]
    assert not Path("its.lock").exists()


def test_a_journal_is_of_one_machine_whatever_its_name_is_now(study):
    begun(study, "gone.lock", host="the same, before it was started anew")
    assert trials.revive(study) == [0]


def test_a_trial_in_a_database_that_never_said_who_it_is_is_dead_after_a_silence(monkeypatch):
    planned = small(trials=3)
    study = study_of(planned, "sqlite:///trials.db")
    begun(study, lock="")
    begun(study, "there.lock", host="another machine")
    assert trials.revive(study) == []  # it may be about to
    monkeypatch.setattr(trials, "SILENCE", 0)
    assert trials.revive(study) == [0]
    assert states(study) == ["FAIL", "RUNNING", "WAITING"]


def test_a_trial_that_died_before_it_said_who_it_is_is_tried_again_on_one_host(study):
    begun(study, lock="")
    assert trials.revive(study) == [0]


def test_a_trial_that_died_before_it_was_sampled_keeps_what_it_was_enqueued_with(study):
    study.enqueue_trial({"depth.1": 3}, user_attrs={trials.NAME: "baseline"})
    study.ask()
    trials.revive(study)
    again = study.ask()
    assert again.suggest_int("depth.1", 1, 4) == 3
    assert again.user_attrs[trials.NAME] == "baseline"


def test_a_trial_that_died_while_it_was_sampled_keeps_what_it_had_not_been_asked(study):
    study.enqueue_trial({"depth.1": 3, "depth.2": 4}, user_attrs={trials.COMBINATION: 7})
    begun(study)
    trials.revive(study)
    again = study.ask()
    assert (again.suggest_int("depth.1", 1, 4), again.suggest_int("depth.2", 1, 4)) == (3, 4)
    assert again.user_attrs[trials.COMBINATION] == 7


def test_a_network_of_which_processes_die_again_and_again_has_failed(study):
    study.enqueue_trial({"depth.1": 2})
    for _ in range(trials.MOST_DEATHS):
        begun(study)
        trials.revive(study)
    assert states(study) == ["FAIL"] * 4 and trials.revive(study) == []
    assert trials.counted(study.get_trials()) == 1
    found = trial_results(study)
    assert found[-1].error == "the process that trained it was killed 3 times"


def test_a_network_may_be_interrupted_as_often_as_one_likes(study):
    for _ in range(5):
        study.tell(begun(study), state=TrialState.FAIL)
        assert len(trials.revive(study)) == 1
    assert states(study) == ["FAIL"] * 5 + ["WAITING"]


def test_what_was_interrupted_is_tried_again_and_what_failed_for_a_reason_is_not(study):
    study.tell(begun(study), state=TrialState.FAIL)
    reasoned = begun(study)
    reasoned.set_user_attr(trials.ERROR, "diverged")
    study.tell(reasoned, state=TrialState.FAIL)
    assert trials.revive(study) == [0]
    assert trials.counted(study.get_trials()) == 1  # that which failed


def test_invalid_trials_do_not_count(study):
    study.tell(begun(study), 0.25)
    for state in (TrialState.COMPLETE, TrialState.FAIL):  # the latter enqueued twice
        trial = begun(study)
        trial.set_user_attr(trials.INVALID, "beyond the budget")
        study.tell(trial, *([0.25] if state == TrialState.COMPLETE else []), state=state)
    assert trials.worst(study) == [0.25] and trials.revive(study) == []
    assert trials.counted(study.get_trials()) == 1
    found = trial_results(study)
    assert [each.state for each in found] == ["complete", "invalid", "invalid"]
    assert [each.accuracy for each in found] == [0.25, None, None]


def test_a_search_ends_where_next_to_nothing_is_valid_but_not_for_what_was_invalid_before(study):
    for number in range(20):
        trial = study.ask()
        trial.set_user_attr(trials.INVALID, "beyond the budget")
        study.tell(trial, 0.0)
        assert is_hopeless(study, small(trials=1)) == (number == 19)
    study.tell(begun(study), 0.5)
    assert not is_hopeless(study, small(trials=1)) and is_done(study, small(trials=1))


def test_settings_are_those_that_vary_with_the_widths_that_were_fitted(study):
    planned = small()
    trial = study.ask()
    trial.suggest_int("width.1", 8, 64, step=8)
    stages = [replace(stage, width=12) for stage in planned.baseline.architecture.stages]
    architecture = replace(planned.baseline.architecture, stages=tuple(stages))
    network = planned.variant("x", "", architecture, planned.baseline.experiment.design)
    trials.describe(trial, network)
    study.tell(trial, 0.5)
    (found,) = trial_results(study)
    assert found.params == {"width.1": 12}  # nothing of the second's, which nobody asked for


def test_a_search_is_done_with_as_many_trials_as_were_asked_for_unless_one_waits(study):
    planned = small(trials=3)
    for number in range(3):
        assert not is_done(study, planned)
        study.tell(begun(study, lock=f"{number}.lock"), 0.5)
    assert is_done(study, planned) and not is_done(study, small(trials=4))
    study.enqueue_trial({"depth.1": 1})
    assert not is_done(study, planned)


@pytest.mark.parametrize("enqueue", ["", "baseline"])
def test_a_grid_is_every_combination_that_has_a_meaning_once(enqueue):
    space = {
        "geometry": "fixed",
        "design": {"pyramid": "true,false", "downsampling": "attention,convolution"},
    }
    planned = small(sampler="grid", space=space, enqueue=enqueue, trials=1)
    study = study_of(planned, "")
    assert sampling.enqueue(study, planned)[0] == sampling.enqueue(study, planned)[0] == 3
    found = set()
    while not is_done(study, planned):
        trial = study.ask()
        network = variant_of(trial, planned)
        found.add((network.experiment.design.pyramid, network.experiment.design.downsampling))
        study.tell(trial, 0.5)
    assert found == {(True, "attention"), (True, "convolution"), (False, "attention")}
    assert len(study.get_trials()) == 3


def test_a_grid_that_is_too_large_is_refused():
    with pytest.raises(UserError, match="more than 10,000 combinations"):
        small(sampler="grid")


def test_named_ablations_are_enqueued_once_and_the_baseline_only_where_it_fits(study):
    planned = small(
        enqueue="baseline,no_attention_activation",
        space={"design": {"attention_activation": "same,none"}},
    )
    assert sampling.enqueue(study, planned) == sampling.enqueue(study, planned) == (50, [])
    names = [trial.user_attrs[trials.NAME] for trial in study.get_trials()]
    assert names == ["baseline", "no_attention_activation"]
    elsewhere = small(space={"design": {"norm": "layer"}})
    _, (said,) = sampling.enqueue(study, elsewhere)
    assert "trained for the confirmation alone" in said
    for name, why in (("no_batch_norm", "not in the space"), ("no_small_mlp", "times the budget")):
        with pytest.raises(UserError, match=why):
            sampling.points_of_named(small(enqueue=f"baseline,{name}"))


def test_a_network_that_was_given_up_is_known_by_its_key():
    study = optuna.create_study(pruner=ThresholdPruner(lower=0.5))
    first = study.ask()
    first.set_user_attr(trials.KEY, "abc")
    first.report(0.2, 1)
    study.tell(first, state=TrialState.PRUNED)
    other = study.ask()
    assert trials.given_up_before(other, "def") is None
    earlier = trials.given_up_before(other, "abc")
    assert earlier.number == 0 and earlier.intermediate_values == {1: 0.2}


def test_a_lock_is_held_while_it_is_worked_and_gone_afterwards():
    with trials.holding_a_lock(Path("work")) as life:
        assert Path(life[trials.LOCK]).is_file()
    assert not Path(life[trials.LOCK]).exists()
