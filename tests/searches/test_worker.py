"""What a worker tells the sampler of its trials, whose trainings are made up here."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

import pytest
from optuna.trial import TrialState
from searching import small

from levit_ablate import signals
from levit_ablate.searches import worker
from levit_ablate.searches.curves import Curve
from levit_ablate.searches.latency import measuring_alone
from levit_ablate.searches.sampling import NAME, InvalidError, variant_of
from levit_ablate.searches.storage import study_of
from levit_ablate.searches.trials import INVALID
from levit_ablate.signals import keeping_handlers
from levit_ablate.studies.orders import Station
from levit_ablate.tracking import parent_run

INVALID_FROM = 5
"""The depth, of all stages together, from which on networks are taken to be invalid."""


def depth(variant) -> int:
    return sum(stage.depth for stage in variant.architecture.stages)


@pytest.fixture
def made_up(monkeypatch):
    """Networks are the more accurate the deeper they are; the deepest are invalid."""

    def limited(trial, planned):
        variant = variant_of(trial, planned)
        if depth(variant) >= INVALID_FROM:
            raise InvalidError("too deep")
        return variant

    monkeypatch.setattr(worker, "variant_of", limited)
    monkeypatch.setattr(worker, "train", lambda *_: None)
    curve = lambda variant: Curve([depth(variant) / 10], depth(variant) / 10)  # noqa: E731
    monkeypatch.setattr(worker, "validation_curve", curve)
    monkeypatch.setattr(worker.gc, "collect", lambda: 0)  # of a test's own heap, for long


def done(planned, store, before=lambda study: None):
    """The trials of a search after one worker has done them."""
    study = study_of(planned, "")
    before(study)
    with parent_run.at_work(planned.whole, Path(), lambda *_: None, lambda _: False) as parent:
        told = worker.Worker(planned=planned, storage="", number=1, parent=parent.info.run_id)
        outcome = worker.work(told, Station(uri=store), lambda _: None)
    assert not outcome.error
    return study.get_trials()


@pytest.mark.parametrize("sampler", ["gp", "nsga2"])
def test_the_sampler_learns_from_what_was_invalid(store, made_up, sampler):
    found = done(small(trials=30, sampler=sampler, budget={}), store)
    invalid = [trial for trial in found if INVALID in trial.user_attrs]
    assert 0 < len(invalid) < len(found) / 2 and len(found) - len(invalid) == 30
    assert {trial.state for trial in found} == {TrialState.COMPLETE}
    assert all(trial.constraints["valid"] > 0 for trial in invalid)
    accurate = [trial.values[0] for trial in found if trial not in invalid]
    assert all(trial.values[0] <= max(accurate) for trial in invalid)


def test_what_was_enqueued_twice_is_done_once_and_no_fault_of_its_network(store, made_up):
    def twice(study):
        for _ in range(2):
            study.enqueue_trial({"depth.1": 1, "depth.2": 1}, user_attrs={NAME: "baseline"})

    found = done(small(trials=3, sampler="random"), store, twice)
    assert [trial.state.name for trial in found[:2]] == ["COMPLETE", "FAIL"]
    assert found[1].user_attrs[INVALID] == "it was enqueued already, as trial 0"
    assert not found[1].constraints


def test_latency_is_measured_by_one_command_on_one_kind_of_machine(monkeypatch):
    planned = small("accuracy_and_flops", objectives="accuracy,latency")
    study = study_of(planned, "")
    refused = []

    def other():
        with pytest.raises(worker.UserError) as caught, measuring_alone(planned, study, 1):
            pass
        refused.append(str(caught.value))

    with measuring_alone(planned, study, 1):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    monkeypatch.setattr("levit_ablate.searches.latency.hardware", lambda: "another machine")
    other()
    assert "another search measures latency" in refused[0]
    assert "this is another machine; go on there" in refused[1]
    with pytest.raises(worker.UserError, match="--workers 1"), measuring_alone(planned, study, 2):
        pass


def test_a_worker_that_is_told_to_end_while_garbage_is_collected_ends(store, made_up, monkeypatch):
    """Python drops what is raised in a finalizer, and finalizers run there."""

    class Dropping:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(worker.gc, "collect", lambda: Dropping() and None)
    planned = small(trials=3, sampler="random")
    with parent_run.at_work(planned.whole, Path(), lambda *_: None, lambda _: False) as parent:
        told = worker.Worker(planned=planned, storage="", number=1, parent=parent.info.run_id)
        with keeping_handlers():
            signals.listen()
            try:
                outcome = worker.work(told, Station(uri=store), lambda _: None)
            finally:
                signals.came.clear()
                sys.unraisablehook = sys.__unraisablehook__
    assert outcome.interrupted
    assert len(study_of(planned, "").get_trials()) == 1
