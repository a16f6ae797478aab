"""Studies from Python are what MLflow holds."""

from __future__ import annotations

import json

import pandas as pd
from matplotlib.figure import Figure
from quick import SWEEP, UNDISTILLED

import levit_ablate as la


def test_a_sweep_is_what_mlflow_holds(study, alone, client):
    assert (study.name, study.dataset, study.seeds, study.failed) == ("paper", "digits", (0,), ())
    runs = study.runs
    assert list(runs["variant"]) == ["baseline", "no_patch_conv"] and list(runs["seed"]) == [0, 0]
    for row in runs.itertuples():
        run = client.get_run(row.run_id)
        assert run.data.metrics["test_accuracy"] == row.accuracy and row.error == ""
        history = client.get_metric_history(row.run_id, "val_accuracy")
        curve = study.curves.query("variant == @row.variant")
        assert list(curve["val_accuracy"]) == [point.value for point in history]
        assert list(curve["epoch"]) == [point.step + 1 for point in history]
    assert list(runs["difference"]) == [0.0, runs["accuracy"][1] - runs["accuracy"][0]]
    assert runs["accuracy"][0] == alone.accuracy  # found: the same experiment
    experiment = client.get_run(study.run_id).info.experiment_id
    children = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{study.run_id}'")
    assert {run.info.run_id for run in children} >= {runs["run_id"][1]}


def test_the_frames_and_plots_of_a_study(study):
    variants = study.variants.set_index("variant")
    assert variants.loc["no_patch_conv", "difference"] == study.runs["difference"][1]
    assert pd.isna(variants.loc["no_patch_conv", "low"])  # one seed
    assert variants["params"].gt(0).all() and variants["n"].eq(1).all()
    assert list(study.table()["ablation"]) == ["baseline", "no_patch_conv"]
    assert any("One seed" in note for note in study.notes)
    for draw in (study.plot.forest, study.plot.curves, study.plot.cost, study.plot.latency):
        assert isinstance(draw(), Figure)
    assert "| A2 |" in study.to("markdown")


def test_a_study_is_opened_as_it_was_swept_and_as_the_command_shows_it(study, printed):
    for opened in (la.open_study("paper"), la.open_study("paper", **SWEEP, **UNDISTILLED)):
        pd.testing.assert_frame_equal(opened.runs, study.runs)
        assert opened.run_id == study.run_id
    shown = printed("table", "paper")
    assert [row["name"] for row in shown["rows"]] == list(study.variants["variant"])
    assert json.loads(study.to("json")) == shown


def test_a_plan_says_what_is_recorded(study):
    plan = la.plan("paper", variants=["no_patch_conv"], seeds=2, probe_time=False, **UNDISTILLED)
    states = plan.runs.set_index(["variant", "seed"])["state"]
    assert dict(states) == {
        ("baseline", 0): "recorded",
        ("baseline", 1): "missing",
        ("no_patch_conv", 0): "recorded",
        ("no_patch_conv", 1): "missing",
    }
    assert list(plan.variants["name"]) == ["baseline", "no_patch_conv"]
