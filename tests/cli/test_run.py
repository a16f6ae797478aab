"""`levit-ablate run` through real processes, into real SQLite stores."""

import json
import signal
import time
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient
from processes import CLI, Started, levit_ablate

from levit_ablate.cli.main import run_command

QUICK = ["--recipe", "smoke", "--teacher.recipe.epochs", "1", "--teacher.recipe.warmup_epochs", "0"]


def result_in(output: str) -> dict:
    return json.loads(output.splitlines()[-1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where an ablation was run, its baseline and a teacher before it, all of them briefly."""
    folder = tmp_path_factory.mktemp("run")
    process = levit_ablate("run", "no_patch_conv", *QUICK, "--format", "json", cwd=folder)
    for name, text in zip(("stdout", "stderr"), process.communicate(), strict=True):
        (folder / name).write_text(text)
    assert process.returncode == 0, (folder / "stderr").read_text()
    return folder


@pytest.fixture(autouse=True)
def _no_store_in_the_environment(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)  # mlflow.set_tracking_uri sets it


@pytest.fixture
def client(folder: Path) -> MlflowClient:
    mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}")
    return MlflowClient()


def test_run_trains_ablation_and_baseline_and_says_what_it_cost(folder, client):
    result = result_in((folder / "stdout").read_text())
    own, base = client.get_run(result["run_id"]), client.get_run(result["baseline_run_id"])
    assert own.info.status == base.info.status == "FINISHED"
    assert own.data.metrics["test_accuracy"] == result["accuracy"]
    assert base.data.metrics["test_accuracy"] == result["baseline_accuracy"]
    assert result["difference"] == result["accuracy"] - result["baseline_accuracy"]
    assert own.data.tags["levit_ablate.key"] == result["key"]
    for name in ("params", "flops"):
        assert own.data.metrics[name] == result[name]
    assert result["seconds"] > 0 and result["loss"] > 0 and result["trained"]


def test_a_piped_run_is_quiet_but_for_a_line_for_each_training(folder):
    lines = (folder / "stderr").read_text().splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        "baseline, seed 0",
        "no teacher for digits yet",
        "teacher test_resnet",  # how long it takes
        "teacher test_resnet",  # what it came to
        "no_patch_conv, seed 0",
    ]
    assert len((folder / "stdout").read_text().splitlines()) == 1


def test_the_same_command_again_trains_nothing_and_prints_the_result(folder, client):
    before = len(mlflow.search_runs(search_all_experiments=True, output_format="list"))
    process = levit_ablate("run", "no_patch_conv", *QUICK, "--format", "json", cwd=folder)
    stdout, stderr = process.communicate()
    assert process.returncode == 0
    assert result_in(stdout) == result_in((folder / "stdout").read_text()) | {"trained": False}
    assert stderr.count("already recorded") == 2
    after = len(mlflow.search_runs(search_all_experiments=True, output_format="list"))
    assert before == after == 2


def test_the_same_choice_as_an_option_is_the_same_run(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    code = run_command(["run", "baseline", *QUICK, "--design.stem", "patch", "--format", "json"])
    assert code == 0
    result = result_in(capsys.readouterr().out)
    assert not result["trained"]
    assert result["run_id"] == result_in((folder / "stdout").read_text())["run_id"]


def test_the_text_names_accuracies_difference_cost_time_and_store(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    assert run_command(["run", "no_patch_conv", *QUICK]) == 0
    text = capsys.readouterr().out
    result = result_in((folder / "stdout").read_text())
    for expected in (
        f"{100 * result['accuracy']:.2f} %",
        f"{100 * result['baseline_accuracy']:.2f} %",
        "points",
        f"{result['params']:,}",
        f"{result['flops']:,}",
        "training time",
        "sqlite:///mlflow.db",
        result["run_id"],
        "One seed: no interval",
    ):
        assert expected in text


def test_the_recorded_experiment_runs_again_to_the_same_numbers(tmp_path, monkeypatch, capsys):
    results = []
    for folder, arguments in (
        ("a", ["no_pyramid", *QUICK]),
        ("b", ["--config", "experiment.yaml"]),
    ):
        (tmp_path / folder).mkdir()
        monkeypatch.chdir(tmp_path / folder)
        if results:
            run_id = results[0]["run_id"]
            client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'a' / 'mlflow.db'}")
            client.download_artifacts(run_id, "experiment.yaml", str(tmp_path / folder))
        uri = f"sqlite:///{tmp_path / folder / 'mlflow.db'}"
        run = ["run", *arguments, "--no-baseline", "--format", "json", "--tracking-uri", uri]
        assert run_command(run) == 0
        results.append(result_in(capsys.readouterr().out))
    assert results[1]["trained"] and results[1]["run_id"] != results[0]["run_id"]
    for name in ("key", "name", "accuracy", "loss", "params", "flops"):
        assert results[0][name] == results[1][name]


def test_no_baseline_trains_the_ablation_alone(store, capsys):
    arguments = ["run", "no_hardswish", *QUICK, "--no-baseline", "--tracking-uri", store]
    assert run_command([*arguments, "--format", "json"]) == 0
    result = result_in(capsys.readouterr().out)
    assert result["baseline_accuracy"] is None and result["difference"] is None
    assert len(mlflow.search_runs(output_format="list")) == 1


AS_LOADED = """
from lightning.fabric.utilities.rank_zero import _get_rank, rank_zero_only
rank_zero_only.rank = _get_rank() or 0  # which lightning reads when it is loaded
"""


@pytest.mark.parametrize(
    "environment",
    [
        {"RANK": "1", "WORLD_SIZE": "2"},
        {"SLURM_PROCID": "1", "SLURM_NTASKS": "2"},
        {"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_JOB_ID": "1"},
        {"NODE_RANK": "1"},
    ],
)
def test_a_run_on_one_device_is_recorded_whatever_its_environment_says(tmp_path, environment):
    """Tasks of srun may each have a run of their own."""
    arguments = ("run", "no_distillation", "--no-baseline", "--recipe", "smoke")
    process = Started(AS_LOADED + CLI, *arguments, "--format", "json", env=environment)
    out, err = process.communicate()
    assert process.returncode == 0, err
    result = result_in(out)
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert MlflowClient().get_run(result["run_id"]).info.status == "FINISHED"


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_an_interrupted_run_is_marked_killed_and_keeps_what_it_recorded(tmp_path, signum):
    process = levit_ablate("run", "no_distillation", "--no-baseline", "--recipe.epochs", "500")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and process.poll() is None:
        if (tmp_path / "mlartifacts").is_dir():
            mlflow.set_tracking_uri(uri)
            runs = mlflow.search_runs(search_all_experiments=True, output_format="list")
            if runs and "train_loss" in runs[0].data.metrics:
                break
        time.sleep(0.3)
    process.send_signal(signum)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert stderr.splitlines()[-1].startswith("levit-ablate: interrupted")
    assert "Traceback" not in stderr and stdout == ""
    (run,) = mlflow.search_runs(search_all_experiments=True, output_format="list")
    assert run.info.status == "KILLED"
    assert run.data.metrics["train_loss"] > 0


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["no_pyramd"], "did you mean no_pyramid"),
        ([], "name of an ablation is missing"),
        (["no_patch_conv", "--design.stem", "convolution"], "changes nothing"),
        (["no_pyramid", "--design.downsampling", "convolution"], "cannot be combined"),
        (["no_pyramid", "--tracking-uri", "http://127.0.0.1:9"], "cannot be opened"),
        (["no_pyramid", "--recipe.batch_size", "5000"], "more than the 1,212 training"),
        (["no_pyramid", "--model", "levit_129"], "no preset is called"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2_and_leaves_no_run(
    arguments, expected, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert run_command(["run", *arguments]) == 2
    error = capsys.readouterr().err.splitlines()
    assert expected in error[-1] and error[-1].startswith("levit-ablate: ")
    if (tmp_path / "mlflow.db").exists():
        assert mlflow.search_runs(search_all_experiments=True, output_format="list") == []
