"""Searches from Python are what Optuna and MLflow hold."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from quick import UNDISTILLED

import levit_ablate as la


def test_a_search_is_what_optuna_and_mlflow_hold(search, client):
    trials = search.trials
    assert list(trials["trial"]) == [0, 1] and set(trials["state"]) == {"complete"}
    for row, trial in zip(trials.itertuples(), search.study.get_trials(), strict=True):
        assert row.accuracy == trial.values[0]
        experiments = [each.experiment_id for each in client.search_experiments()]
        runs = client.search_runs(experiments, f"tags.`levit_ablate.key` = '{row.key}'")
        finished = [run.data.metrics for run in runs if run.info.status == "FINISHED"]
        assert finished and finished[0]["flops"] == row.flops
    assert any(name.startswith("width") for name in trials)
    best = search.best
    assert list(best["trial"]) == [1]  # the baseline is none
    assert best["lead"][0] == trials["accuracy"][1] - trials["accuracy"][0]
    assert best["confirmed"].isna().all()


def test_a_search_is_opened_as_it_was_made_and_as_the_command_shows_it(search, printed):
    opened = la.open_search("equal_flops")
    pd.testing.assert_frame_equal(opened.trials, search.trials)
    shown = printed("search", "equal_flops", "--report")
    assert json.loads(search.to_json()) == shown
    assert isinstance(search.plot.history(), Figure) and isinstance(search.plot.front(), Figure)


def test_the_network_of_a_trial_can_be_built_and_exported(search, folder):
    path = search.export("best", "mine")
    assert path == Path("ablations/mine.yaml")
    architecture = la.variant("mine", **UNDISTILLED).architecture
    assert architecture == search.variant("best").architecture
    assert search.network(1)(torch.zeros(2, 1, 32, 32))[0].shape[-1] == 10
    with pytest.raises(la.UserError, match="export=7: best, or a trial"):
        search.network(7)
