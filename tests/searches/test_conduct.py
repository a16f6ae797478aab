"""Searches by real processes, really killed: they go on, nothing is lost and nothing done twice."""

from __future__ import annotations

import os
import platform
import signal
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient
from processes import FORKS, Started, result_of, wait_for
from recorded import children, loaded, runs, tag, trained
from searching import LONG, WORDS, search, workers_of

SHORT = ("--trial-epochs", "1", "--recipe.epochs", "4")


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> tuple[Path, dict, str]:
    """A search that ran to its end and was confirmed, what it printed, and what it said."""
    folder = tmp_path_factory.mktemp("searched")
    words = ("--workers", "2", "--confirm", "1", "--confirm-seeds", "5,6")
    process = search(folder, *words, *SHORT, "--figures", "plots")
    printed = result_of(process)
    return folder, printed, process.said()[1]


def test_every_network_of_a_search_and_its_confirmation_can_be_loaded(done):
    below = children(done[0])
    assert {mlflow.get_experiment(run.info.experiment_id).name for run in below} > {
        "levit-ablate/equal_flops/digits"
    }
    for run in below:
        loaded(run)


def test_a_search_does_its_trials_and_confirms_the_best_on_fresh_seeds(done):
    _, printed, said = done
    assert printed["counts"] == {"complete": 4}
    assert printed["baseline"]["number"] == 0 and printed["baseline"]["ablation"] == "baseline"
    accuracies = [each["accuracy"] for each in printed["best"]]
    assert accuracies == sorted(accuracies, reverse=True) and len(accuracies) == 3
    assert all(each["flops"] <= printed["budget"]["flops"] for each in printed["best"])
    confirmed = printed["best"][0]["confirmed"]
    assert confirmed["accuracies"].keys() == {"5", "6"} and len(confirmed["interval"]) == 2
    assert printed["best"][1]["confirmed"] is None
    assert said.count("multiply-adds (") == 4  # a line a trial


def test_every_trial_is_a_run_below_the_search_with_its_key(done):
    folder, printed, _ = done
    (parent,) = [run for run in runs(folder) if tag(run, "search")]
    below = {
        tag(r, "key"): r
        for r in children(folder)
        if r.data.tags["mlflow.parentRunId"] == parent.info.run_id
    }
    trials = [printed["baseline"], *printed["best"]]
    assert below.keys() == {each["key"] for each in trials}
    assert parent.info.status == "FINISHED"
    for each in trials:
        history = MlflowClient().get_metric_history(below[each["key"]].info.run_id, "val_accuracy")
        assert each["accuracy"] in [metric.value for metric in history]
    artifacts = {artifact.path for artifact in MlflowClient().list_artifacts(parent.info.run_id)}
    assert {"report.txt", "report.json", "history.png", "front.png", "search.json"} <= artifacts
    assert (folder / "plots" / "parallel.png").read_bytes().startswith(b"\x89PNG")


def test_given_again_it_trains_nothing(done):
    folder, printed, _ = done
    before = trained(folder)
    words = ("--confirm", "1", "--confirm-seeds", "5,6", *SHORT)
    assert result_of(search(folder, *words)) == printed
    assert trained(folder) == before and set(before.values()) == {1}


def test_a_report_needs_no_word_of_how_it_was_searched(done):
    folder, printed, _ = done
    process = Started(FORKS, "search", "equal_flops", "--report", "--format", "json", cwd=folder)
    assert result_of(process) == printed
    text = Started(FORKS, "search", "equal_flops", "--report", cwd=folder)
    out, err = text.communicate(200)
    assert text.returncode == 0, err
    assert "optimistic" in out and "fresh seeds 5, 6" in out and "levit_128s" in out


def test_the_best_is_exported_as_an_ablation_that_was_trained_already(done):
    folder, printed, _ = done
    process = Started(FORKS, "search", "equal_flops", "--export", "best", "mine", cwd=folder)
    out, err = process.communicate(200)
    assert process.returncode == 0 and "ablations/mine.yaml" in out, err
    words = [word for word in WORDS if word not in ("equal_flops", "--format", "json")]
    conditions = words[words.index("--recipe") :]
    (folder / "best.yaml").write_text((folder / "ablations/mine.yaml").read_text())
    kept = [*conditions[: conditions.index("--architecture")], "--recipe.epochs", "1"]
    kept += ["--recipe.warmup_epochs", "0.25"]  # a quarter, as the epochs are
    run = Started(FORKS, "run", "mine", "--no-baseline", *kept, cwd=folder)
    out, err = run.communicate(200)
    assert run.returncode == 0, err
    assert "already recorded" in err and trained(folder)[printed["best"][0]["key"]] == 1


def test_an_export_does_not_write_over_another_file(done):
    folder, _, _ = done
    (folder / "other.yaml").write_text("summary: Mine\n")
    process = Started(
        FORKS, "search", "equal_flops", "--export", "1", folder / "other.yaml", cwd=folder
    )
    _, err = process.communicate(200)
    assert process.returncode == 2 and "other.yaml exists" in err
    hiding = Started(FORKS, "search", "equal_flops", "--export", "1", "baseline", cwd=folder)
    assert "would hide the ablation that ships" in hiding.communicate(200)[1]
    assert hiding.returncode == 2 and not (folder / "ablations" / "baseline.yaml").exists()
    assert (folder / "other.yaml").read_text() == "summary: Mine\n"
    missing = Started(FORKS, "search", "equal_flops", "--export", "77", "x", cwd=folder)
    assert "a trial that was trained to its end: 0, 1, 2, 3" in missing.communicate(200)[1]
    assert missing.returncode == 2


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_killed_or_interrupted_and_given_again_it_goes_on(tmp_path, number):
    process = search(tmp_path, *LONG, "--workers", "2")
    wait_for(lambda: len(list(tmp_path.rglob("last.ckpt"))) == 2, process)
    if number == signal.SIGKILL:
        for group in {os.getpgid(int(pid)) for pid in workers_of(process)}:
            os.killpg(group, number)
        process.kill()
    else:
        process.send_signal(number)
        _, err = process.communicate(100)
        assert process.returncode == 130, err
        assert "leaves a checkpoint" in err and "Traceback" not in err
        assert not [run for run in runs(tmp_path) if run.info.status == "RUNNING"]
    printed = result_of(search(tmp_path, *LONG, "--workers", "2"))
    assert printed["counts"] == {"complete": 3}
    assert len(trained(tmp_path)) == 3 and set(trained(tmp_path).values()) == {1}
    assert not [run for run in runs(tmp_path) if run.info.status == "RUNNING"]
    keys = [tag(run, "key") for run in children(tmp_path)]
    assert len(keys) == len(set(keys))  # each run was taken up, not begun anew


def test_a_worker_that_is_killed_is_replaced_and_its_trial_tried_again(tmp_path):
    process = search(tmp_path, *LONG, "--workers", "2")
    wait_for(lambda: list(tmp_path.rglob("last.ckpt")), process)
    os.killpg(os.getpgid(workers_of(process)[0]), signal.SIGKILL)
    printed = result_of(process)
    assert printed["counts"] == {"complete": 3}
    assert "was ended by SIGKILL" in process.said()[1]
    assert len(trained(tmp_path)) == 3 and set(trained(tmp_path).values()) == {1}


def test_a_search_in_which_every_trial_fails_says_why_and_has_failed(tmp_path):
    diverging = ("--recipe.learning_rate", "1e30", "--recipe.clipping", "none")
    process = search(tmp_path, "--trials", "2", *diverging)
    printed = result_of(process, code=1)
    assert printed["counts"] == {"failed": 2} and printed["best"] == []
    said = process.said()[1].splitlines()[-1]
    assert "no network was trained to its end (2 failed)" in said and "diverged" in said
    assert "the first error, of trial 0: RunError: " in said
    assert f"(log: {platform.node()}:{tmp_path}/" in said  # which may be read on another machine
    (parent,) = [run for run in runs(tmp_path) if tag(run, "search")]
    assert parent.info.status == "FAILED"


def test_the_last_trial_that_was_killed_is_tried_again(tmp_path):
    """As many trials as were asked for have begun; the one that is dead does not count."""
    words = (*LONG, "--trials", "1")
    process = search(tmp_path, *words)
    wait_for(lambda: list(tmp_path.rglob("last.ckpt")), process)
    for pid in workers_of(process):
        os.killpg(os.getpgid(pid), signal.SIGKILL)
    process.kill()
    assert result_of(search(tmp_path, *words))["counts"] == {"complete": 1}
    assert set(trained(tmp_path).values()) == {1}


def test_a_worker_that_is_told_to_end_alone_is_replaced(tmp_path):
    process = search(tmp_path, *LONG, "--trials", "2")
    wait_for(lambda: list(tmp_path.rglob("last.ckpt")), process)
    os.kill(workers_of(process)[0], signal.SIGTERM)
    assert result_of(process)["counts"] == {"complete": 2}
    assert len(trained(tmp_path)) == 2 and set(trained(tmp_path).values()) == {1}


def test_a_search_in_which_nothing_fits_says_so(tmp_path):
    process = search(tmp_path, "--trials", "1", "--budget.latency", "0.01us", "--enqueue=")
    _, err = process.communicate(400)
    assert process.returncode == 1
    assert "20 networks were drawn that are not valid" in err and "over the budget" in err


def test_workers_that_die_again_and_again_end_the_search_and_the_others_leave_a_checkpoint(
    tmp_path,
):
    process = search(tmp_path, "--recipe.epochs", "400", "--workers", "2")
    wait_for(lambda: len(list(tmp_path.rglob("last.ckpt"))) == 2, process)
    lasting, first = workers_of(process)
    os.killpg(first, signal.SIGKILL)
    killed = {first}
    while len(killed) < 4:
        wait_for(lambda: set(workers_of(process)) - killed - {lasting}, process)
        (replaced,) = set(workers_of(process)) - killed - {lasting}
        os.killpg(replaced, signal.SIGKILL)
        killed.add(replaced)
    _, err = process.communicate(100)
    assert process.returncode == 1 and "die again and again" in err.splitlines()[-1]
    with pytest.raises(ProcessLookupError):
        os.kill(lasting, 0)
    below = children(tmp_path)
    assert {run.info.status for run in below} == {"KILLED"}  # those of the killed workers too
    told = [run for run in below if not tag(run, "error")]
    assert len(told) == 1  # the other one was told to end


def test_a_search_gives_up_what_is_not_worth_it(tmp_path):
    words = ("--sampler", "tpe", "--pruner", "asha", "--trials", "8", "--recipe.epochs", "3")
    counts = result_of(search(tmp_path, *words, "--workers", "2"))["counts"]
    assert counts["complete"] + counts["pruned"] == 8 and counts["pruned"] > 0
    assert set(counts) <= {"complete", "pruned", "invalid"}
    assert set(trained(tmp_path).values()) == {1}
    given_up = [run for run in children(tmp_path) if tag(run, "pruned")]
    assert len(given_up) == counts["pruned"] and {r.info.status for r in given_up} == {"KILLED"}
