"""ASHA decides as Optuna's, and is not led astray by the dead, nor by what was recorded before."""

from __future__ import annotations

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.pruners import NopPruner, SuccessiveHalvingPruner
from optuna.trial import TrialState

from levit_ablate.searches.sampling import Asha, pruner_of

CURVES = st.lists(
    st.lists(st.integers(0, 20).map(lambda n: n / 20), min_size=9, max_size=9),
    min_size=1,
    max_size=12,
)


def study_with(pruner: optuna.pruners.BasePruner) -> optuna.Study:
    return optuna.create_study(direction="maximize", pruner=pruner)


def trained(study: optuna.Study, curve: list[float]) -> int:
    """The epoch after which a training with this curve ends."""
    trial = study.ask()
    for epoch, accuracy in enumerate(curve, start=1):
        trial.report(accuracy, epoch)
        if epoch < len(curve) and trial.should_prune():
            study.tell(trial, state=TrialState.PRUNED)
            return epoch
    study.tell(trial, curve[-1])
    return len(curve)


@given(curves=CURVES)
def test_it_decides_as_optunas_where_nothing_is_killed_or_recorded_before(curves):
    own = study_with(Asha(1))
    reference = study_with(SuccessiveHalvingPruner(min_resource=1, reduction_factor=3))
    assert [trained(own, c) for c in curves] == [trained(reference, c) for c in curves]


@pytest.mark.parametrize(
    ("epochs", "rungs"),
    [(1, []), (3, [1]), (5, [1, 3]), (9, [1, 3]), (100, [12, 36]), (300, [34, 102])],
)
def test_the_first_rung_is_a_ninth_of_the_epochs_and_none_is_just_before_the_end(epochs, rungs):
    asked = study_with(pruner_of("asha", epochs))
    good = asked.ask()
    for epoch in range(1, epochs + 1):
        good.report(0.9, epoch)
    asked.tell(good, 0.9)
    bad = asked.ask()
    found = []
    for epoch in range(1, epochs):
        bad.report(0.1, epoch)
        if bad.should_prune():
            found.append(epoch)
    assert found == rungs


def test_a_network_that_was_recorded_before_competes():
    study = study_with(Asha(1))
    recorded = study.ask()
    for epoch, accuracy in enumerate([0.5, 0.6, 0.7], start=1):
        recorded.report(accuracy, epoch)  # and is not asked whether to give it up
    study.tell(recorded, 0.7)
    assert trained(study, [0.1, 0.2, 0.3]) == 1


def test_a_trial_that_died_does_not_compete_with_its_own_retry():
    study = study_with(Asha(1))
    for accuracy in (0.1, 0.2, 0.3, 0.4):
        trained(study, [accuracy] * 3)
    dead = study.ask()
    dead.report(0.9, 1)
    study.tell(dead, state=TrialState.FAIL)
    assert trained(study, [0.9] * 3) == trained(study, [0.8] * 3) == 3  # the best two of six


def test_none_gives_nothing_up():
    assert isinstance(pruner_of("none", 9), NopPruner)
    assert [trained(study_with(pruner_of("none", 9)), [0.0] * 9)] == [9]
