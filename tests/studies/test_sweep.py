"""Studies are run by real processes into real stores, and really killed."""

from __future__ import annotations

import json
import os
import signal
import time
from collections import Counter
from pathlib import Path

import mlflow
import pytest
import torch
from mlflow import MlflowClient
from networks import write_small
from processes import CLI, FORKS, Started, levit_ablate, result_of, wait_for
from recorded import children, loaded, runs, tag

SETTINGS = """
--variants no_attention_bias,no_patch_conv --recipe smoke --design.distillation none
--hardware.accelerator cpu --format json --recipe.batch_size 128 --architecture small.yaml
""".split()
SHARED = ("--recipe.epochs", "4")
"""Settings of the study that tests share: a killed one is compared with it."""
ONE_VARIANT = ("--variants", "no_patch_conv")
LONG = ("--recipe.epochs", "200")
CURVES = ("train_loss", "val_loss", "val_accuracy", "test_loss", "test_accuracy")


def sweep(folder: Path, *options: str, seeds: int = 2, code: str = FORKS) -> Started:
    write_small(folder)
    words = ("sweep", "paper", "--seeds", str(seeds), *SETTINGS, *options)
    return Started(code, *words, cwd=folder)


def curves(folder: Path) -> dict[tuple[str, str], dict]:
    """Every run's metrics, epoch by epoch."""
    below, client = children(folder), MlflowClient()
    return {
        (tag(run, "ablation"), tag(run, "seed")): {
            n: [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, n)]
            for n in CURVES
        }
        for run in below
    }


@pytest.fixture(scope="module")
def swept(tmp_path_factory) -> tuple[Path, dict, str]:
    """A study that ran to its end, what it printed, and what it said."""
    folder = tmp_path_factory.mktemp("swept")
    process = sweep(folder, *SHARED, "--jobs", "2", code=CLI)
    result = result_of(process)
    return folder, result, process.said()[1]


def test_every_variant_is_run_at_every_seed_below_the_studys_run(swept):
    folder, result, _ = swept
    (parent,) = [run for run in runs(folder) if tag(run, "study")]
    assert parent.info.status == "FINISHED"
    experiment = mlflow.get_experiment(parent.info.experiment_id)
    assert experiment.name == "levit-ablate/paper/digits"
    below = children(folder)
    names = ("baseline", "no_attention_bias", "no_patch_conv")
    expected = Counter((name, seed) for name in names for seed in "01")
    assert Counter((tag(run, "ablation"), tag(run, "seed")) for run in below) == expected
    for run in below:
        assert run.info.status == "FINISHED"
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert run.info.experiment_id == parent.info.experiment_id
        assert tag(run, "key") and tag(run, "paper_row") in ("base", "A5", "A2")
    accuracies = {
        (tag(r, "ablation"), tag(r, "seed")): r.data.metrics["test_accuracy"] for r in below
    }
    for row in result["rows"]:
        for seed, accuracy in row["accuracies"].items():
            assert accuracies[row["name"], seed] == accuracy
        assert row["n"] == 2 and row["throughput"] > 0


def test_every_network_of_a_sweep_can_be_loaded(swept):
    folder, _, _ = swept
    for run in children(folder):
        assert loaded(run)(torch.zeros(1, 1, 32, 32)).shape == (1, 10)


def test_the_studys_run_has_the_figures_the_table_and_the_plots(swept):
    folder, result, _ = swept
    (parent,) = [run for run in runs(folder) if tag(run, "study")]
    metrics = parent.data.metrics
    for row in result["rows"][1:]:
        assert metrics[f"accuracy_mean/{row['name']}"] == row["accuracy_mean"]
        assert metrics[f"difference/{row['name']}"] == row["difference"]
        low, _ = row["interval"] or (None, None)
        assert metrics.get(f"interval_low/{row['name']}") == low
    names = {artifact.path for artifact in MlflowClient().list_artifacts(parent.info.run_id)}
    assert names >= {"study.json", "table.txt", "table.md", "table.tex", "table.csv", "table.html"}
    assert names >= {"table.json", "differences.png", "learning_curves.png"}
    path = mlflow.artifacts.download_artifacts(
        run_id=parent.info.run_id, artifact_path="table.json"
    )
    assert json.loads(Path(path).read_text())["rows"] == result["rows"]


def test_a_piped_sweep_says_a_line_for_each_run_that_ended(swept):
    _, _, said = swept
    lines = said.splitlines()
    assert lines[0] == "paper on digits: 0 recorded, 6 to run, 2 at once"
    assert sorted(line.split("]")[0] for line in lines[1:]) == [f"[{n}/6" for n in range(1, 7)]
    assert len(lines) == 7


def test_the_same_sweep_again_trains_nothing(swept):
    folder, result, _ = swept
    before = [(r.info.run_id, r.info.end_time) for r in children(folder)]
    process = sweep(folder, *SHARED)
    assert result_of(process)["rows"] == result["rows"]
    assert process.said()[1] == "paper on digits: 6 recorded, 0 to run\n"
    assert [(r.info.run_id, r.info.end_time) for r in children(folder)] == before


def test_another_seed_runs_what_is_missing_below_the_same_run(swept):
    folder, _, _ = swept
    result = result_of(sweep(folder, *SHARED, seeds=3))
    assert [row["n"] for row in result["rows"]] == [3, 3, 3]
    assert len([run for run in runs(folder) if tag(run, "study")]) == 1
    assert len(children(folder)) == 9


def test_a_sweep_of_a_part_takes_nothing_from_the_table(swept):
    folder, _, _ = swept
    part = result_of(sweep(folder, *SHARED, *ONE_VARIANT, seeds=1))
    assert [row["name"] for row in part["rows"]] == [
        "baseline",
        "no_attention_bias",
        "no_patch_conv",
    ]
    assert [row["n"] for row in part["rows"]] == [3, 3, 3]
    assert len(children(folder)) == 9


def test_a_table_of_seeds_that_are_not_there_says_which(swept):
    folder, _, _ = swept
    table = levit_ablate("table", "paper", "--seeds", "0,1,7", cwd=folder)
    assert table.wait() == 2
    assert "--seeds: 7 not recorded; there are 0, 1" in table.said()[1]
    table = levit_ablate("table", "papr", cwd=folder)
    assert table.wait() == 2
    store = f"sqlite:///{folder / 'mlflow.db'}"
    assert f"papr: nothing is recorded in {store}; did you mean paper" in table.said()[1]


def test_the_table_is_read_back_from_the_record(swept, tmp_path):
    folder, result, _ = swept
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    table = levit_ablate(
        "table", "paper", "--seeds", "0,1", "--format", "json", "--tracking-uri", uri, cwd=tmp_path
    )
    assert result_of(table)["rows"] == result["rows"]
    assert not list(tmp_path.iterdir())


def test_plan_says_what_is_recorded_and_what_is_not(swept):
    folder, _, _ = swept
    options = [word for word in SETTINGS if word != "no_attention_bias,no_patch_conv"]
    options = [*options[1:], *SHARED, "--variants", "no_patch_conv,no_pyramid", "--seeds", "2"]
    planned = result_of(levit_ablate("plan", "paper", *options, cwd=folder))
    states = {v["name"]: [run["state"] for run in v["runs"]] for v in planned["variants"]}
    assert states == {
        "baseline": ["recorded"] * 2,
        "no_patch_conv": ["recorded"] * 2,
        "no_pyramid": ["missing"] * 2,
    }
    assert planned["to_run"] == 2 and planned["seconds"] > 0
    pyramid = planned["variants"][2]
    assert pyramid["matched"] == "flops" and len(pyramid["stages"]) == 1


def test_a_run_that_was_trained_elsewhere_is_not_trained_again(tmp_path):
    write_small(tmp_path)
    words = [w for w in SETTINGS if w not in ("--variants", "no_attention_bias,no_patch_conv")]
    words = [*words, "--no-baseline"]
    run = levit_ablate("run", "no_patch_conv", *words, cwd=tmp_path)
    trained = result_of(run)
    process = sweep(tmp_path, *ONE_VARIANT, seeds=1)
    result = result_of(process)
    assert "1 recorded, 1 to run" in process.said()[1]
    row = {row["name"]: row for row in result["rows"]}["no_patch_conv"]
    assert row["accuracies"]["0"] == trained["accuracy"]
    (repeated,) = [r for r in children(tmp_path) if tag(r, "original") == trained["run_id"]]
    client = MlflowClient()
    histories = [
        [(m.step, m.value) for m in client.get_metric_history(run_id, "val_loss")]
        for run_id in (repeated.info.run_id, trained["run_id"])
    ]
    assert histories[0] == histories[1] and len(histories[0]) == 2
    own, original = (
        loaded(each).state_dict() for each in (repeated, client.get_run(trained["run_id"]))
    )
    assert own.keys() == original.keys() and all(own[name].equal(original[name]) for name in own)
    again = result_of(levit_ablate("run", "no_patch_conv", *words, cwd=tmp_path))
    assert not again["trained"] and again["run_id"] == trained["run_id"]  # the original


def workers(folder: Path) -> list[int]:
    """The processes that hold a run's lock, by what they have open."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            opened = [str(link.readlink()) for link in (process / "fd").iterdir()]
        except OSError:
            continue
        if any(path.startswith(str(folder)) and "/runs/" in path for path in opened):
            found.append(int(process.name))
    return found


def test_a_job_that_is_killed_is_failed_and_the_others_go_on_and_sweep_again_completes(tmp_path):
    options = (*ONE_VARIANT, "--recipe.epochs", "6")
    process = sweep(tmp_path, *options, seeds=1)
    wait_for(lambda: list(tmp_path.rglob("last.ckpt")), process)
    (worker,) = workers(tmp_path)
    os.kill(worker, signal.SIGKILL)
    result = result_of(process, code=1)
    assert "baseline seed 0: its process was ended by SIGKILL" in process.said()[1].splitlines()[-1]
    statuses = Counter(run.info.status for run in children(tmp_path))
    assert statuses == {"FINISHED": 1, "FAILED": 1}
    (failed,) = [run for run in children(tmp_path) if run.info.status == "FAILED"]
    assert "SIGKILL" in tag(failed, "error")
    assert result["rows"][0]["errors"]["0"].startswith("failed: its process was ended by SIGKILL")
    assert not result["complete"] and any("Hole: baseline, seed 0" in n for n in result["notes"])
    (parent,) = [run for run in runs(tmp_path) if tag(run, "study")]
    assert parent.info.status == "FAILED"
    process = sweep(tmp_path, *options, seeds=1)
    assert result_of(process)["complete"]
    assert "1 recorded, 1 to run" in process.said()[1]
    assert Counter(run.info.status for run in children(tmp_path)) == {"FINISHED": 2}


def test_after_sigkill_of_everything_nothing_is_lost_but_an_epoch(swept, tmp_path):
    options = (*SHARED, "--jobs", "2")
    process = sweep(tmp_path, *options, seeds=1)
    wait_for(lambda: len(list(tmp_path.rglob("last.ckpt"))) == 2, process)
    groups = [process.pid, *workers(tmp_path)]
    for group in groups:
        os.killpg(group, signal.SIGKILL)
    process.wait()
    assert {run.info.status for run in runs(tmp_path) if run.data.tags} >= {"RUNNING"}
    levit_ablate("table", "paper", cwd=tmp_path).wait()  # settles, and says what is not there
    assert "RUNNING" not in {run.info.status for run in runs(tmp_path)}
    checkpoints = {path.parent.name for path in tmp_path.rglob("last.ckpt")}
    assert len(checkpoints) == 2  # from which they go on
    result_of(sweep(tmp_path, *options, seeds=1))
    whole = {run: each for run, each in curves(swept[0]).items() if run[1] == "0"}
    assert curves(tmp_path) == whole  # to the last bit, no epoch twice
    assert len(children(tmp_path)) == len(whole) == 3


def test_workers_end_with_a_checkpoint_when_only_the_sweep_is_killed(tmp_path):
    process = sweep(tmp_path, *LONG)
    wait_for(lambda: list(tmp_path.rglob("last.ckpt")), process)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 60
    while workers(tmp_path):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert {run.info.status for run in children(tmp_path)} == {"KILLED"}


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_ends_with_checkpoints_and_a_second_one_at_once(tmp_path, times):
    process = sweep(tmp_path, *LONG, "--jobs", "2")
    wait_for(lambda: len(list(tmp_path.rglob("last.ckpt"))) == 2, process)
    for _ in range(times):
        process.send_signal(signal.SIGINT)
        time.sleep(0.02)
    _, err = process.communicate(60)
    assert process.returncode == 130, err
    assert err.splitlines()[-1] == "levit-ablate: interrupted; what was recorded is kept"
    assert "Traceback" not in err
    statuses = {run.info.status for run in runs(tmp_path)} - {"FINISHED"}
    assert statuses <= {"KILLED", "FAILED"} if times == 2 else statuses == {"KILLED"}
    assert "RUNNING" not in statuses
    assert not workers(tmp_path)


def test_two_sweeps_at_once_on_a_fresh_store_train_every_run_once(tmp_path):
    both = [sweep(tmp_path, seeds=1), sweep(tmp_path, seeds=1)]
    results = [result_of(process) for process in both]
    assert results[0]["rows"] == results[1]["rows"] or results[0]["complete"]
    assert all(result["complete"] for result in results)
    below = children(tmp_path)
    assert Counter(tag(run, "key") for run in below).most_common(1)[0][1] == 1
    assert len(below) == 3 and {run.info.status for run in below} == {"FINISHED"}
    assert len([run for run in runs(tmp_path) if tag(run, "study")]) == 1


def test_teachers_are_trained_first_once_and_their_answers_are_shared(tmp_path):
    options = """--variants no_attention_bias,no_distillation --seeds 1 --recipe smoke --format json
    --teacher.recipe.epochs 1 --teacher.recipe.warmup_epochs 0 --hardware.accelerator cpu""".split()
    process = Started(FORKS, "sweep", "paper", *options, "--jobs", "2")
    assert result_of(process)["complete"]
    said = process.said()[1]
    assert "3 to run, 1 teacher to train" in said and "teacher test_resnet: (" in said
    assert len(list(tmp_path.rglob("teachers/*.pt"))) == 1
    assert len(list(tmp_path.rglob("epoch_*.npy"))) == 2
