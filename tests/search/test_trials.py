"""No trial is lost, none counted twice, whoever dies."""

import platform
from pathlib import Path

import pytest
from optuna.trial import TrialState
from searching import small

from levit_ablate.errors import UserError
from levit_ablate.search import trials
from levit_ablate.search.sampling import variant_of
from levit_ablate.search.storage import storage_of, study_of
from levit_ablate.search.worker import is_done


@pytest.fixture
def study():
    planned = small(trials=3)
    return study_of(planned, storage_of("", planned))


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


def test_a_trial_at_work_is_left_alone(study):
    with trials.holding_a_lock(Path(".levit_ablate")) as life:
        # held by this process itself: `is_held` tells of others
        begun(study, life[trials.LOCK], host="another machine")
        assert trials.revive(study) == []
    assert states(study) == ["RUNNING"]


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


def test_what_was_interrupted_is_tried_again_and_what_failed_for_a_reason_is_not(study):
    study.tell(begun(study), state=TrialState.FAIL)
    reasoned = begun(study)
    reasoned.set_user_attr(trials.ERROR, "diverged")
    study.tell(reasoned, state=TrialState.FAIL)
    assert trials.revive(study) == [0]
    assert trials.counted(study.get_trials()) == 1  # that which failed


def test_invalid_trials_do_not_count(study):
    for _ in range(4):
        trial = begun(study)
        trial.set_user_attr(trials.INVALID, "beyond the budget")
        study.tell(trial, state=TrialState.PRUNED)
    assert trials.counted(study.get_trials()) == 0
    assert [each.state for each in trials.found_of(study.get_trials())] == ["invalid"] * 4


def test_a_search_is_done_with_as_many_trials_as_were_asked_for_unless_one_waits(study):
    planned = small(trials=3)
    for number in range(3):
        assert not is_done(study, planned)
        study.tell(begun(study, lock=f"{number}.lock"), 0.5)
    assert is_done(study, planned) and not is_done(study, small(trials=4))
    study.enqueue_trial({"depth.1": 1})
    assert not is_done(study, planned)


def test_a_grid_is_every_combination_that_has_a_meaning_once():
    space = {
        "geometry": "fixed",
        "design": {"pyramid": "true,false", "downsampling": "attention,convolution"},
    }
    planned = small(sampler="grid", space=space, enqueue="", trials=1)
    study = study_of(planned, storage_of("", planned))
    trials.enqueue(study, planned)
    trials.enqueue(study, planned)
    found = set()
    while not is_done(study, planned):
        trial = study.ask()
        network = variant_of(trial, planned)
        found.add((network.experiment.design.pyramid, network.experiment.design.downsampling))
        study.tell(trial, 0.5)
    assert found == {(True, "attention"), (True, "convolution"), (False, "attention")}
    assert len(study.get_trials()) == 3 == planned.num_trials


def test_a_grid_that_is_too_large_is_refused():
    with pytest.raises(UserError, match="more than 10,000 combinations"):
        small(sampler="grid")


def test_named_ablations_are_enqueued_once_and_the_baseline_only_where_it_fits(study):
    planned = small(
        enqueue="baseline,no_attention_activation",
        space={"design": {"attention_activation": "same,none"}},
    )
    assert len(trials.enqueue(study, planned)) <= 1
    trials.enqueue(study, planned)
    names = [trial.user_attrs[trials.NAME] for trial in study.get_trials()]
    assert names == ["baseline", "no_attention_activation"]
    elsewhere = small(space={"design": {"norm": "layer"}})
    (said,) = trials.enqueue(study, elsewhere)
    assert "trained for the confirmation alone" in said
    for name, why in (("no_batch_norm", "not in the space"), ("no_small_mlp", "times the budget")):
        with pytest.raises(UserError, match=why):
            trials.points_of_named(small(enqueue=f"baseline,{name}"))


def test_a_lock_is_held_while_it_is_worked_and_gone_afterwards():
    with trials.holding_a_lock(Path("work")) as life:
        assert Path(life[trials.LOCK]).is_file()
    assert not Path(life[trials.LOCK]).exists()
