import math
from importlib.metadata import version

import mlflow
import pytest
import torch
from mlflow import MlflowClient

from levit_ablate.cli.options import experiment_options
from levit_ablate.errors import RunError, UserError
from levit_ablate.experiment import variant
from levit_ablate.models.levit import LeViT
from levit_ablate.tracking.record import Recorder
from levit_ablate.tracking.store import open_store
from levit_ablate.training.module import LeViTModule
from levit_ablate.training.train import SMALL_FLOPS, num_threads, recorded, train

TEACHER = {"model": "test_resnet", "recipe": {"epochs": 1, "warmup_epochs": 0.5}}
SMOKE = {
    "recipe": {"epochs": 2, "warmup_epochs": 0.5},
    "teacher": TEACHER,
    "hardware": {"accelerator": "cpu"},
}


def curves(run_id: str) -> dict[str, list[float]]:
    """Every metric's history, but for the clock's."""
    client = MlflowClient()
    names = [name for name in client.get_run(run_id).data.metrics if "seconds" not in name]
    return {name: [m.value for m in client.get_metric_history(run_id, name)] for name in names}


def outcome(result) -> tuple[dict, dict]:
    """All curves of a run, and its weights."""
    assert result.trained
    network = mlflow.pytorch.load_model(f"runs:/{result.run_id}/model")
    return curves(result.run_id), network.state_dict()


def assert_same(first: tuple[dict, dict], second: tuple[dict, dict]) -> None:
    assert first[0] == second[0]
    for name, value in first[1].items():
        assert value.equal(second[1][name]), name


def test_the_same_experiment_gives_the_same_numbers_to_the_last_bit(store, tmp_path):
    shown = variant("no_pyramid", SMOKE)
    torch.manual_seed(1)  # what was drawn before is not to matter
    first = outcome(train(shown))
    torch.manual_seed(2)
    torch.rand(3)
    open_store(f"sqlite:///{tmp_path / 'other.db'}")  # where it is not recorded yet
    assert_same(first, outcome(train(shown)))


def test_a_compiled_network_trains_alike_and_its_teacher_is_not_compiled(
    store, tmp_path, monkeypatch
):
    compiled = []
    compile_ = torch.nn.Module.compile

    def traced(module):
        compiled.append(module)
        compile_(module, backend="eager")  # traced, without a C++ compiler's minutes

    monkeypatch.setattr(torch.nn.Module, "compile", traced)
    plain = train(variant("baseline", SMOKE))
    assert not compiled
    open_store(f"sqlite:///{tmp_path / 'other.db'}")
    hardware = SMOKE["hardware"] | {"compile": True, "work_dir": "other"}
    result = train(variant("baseline", SMOKE | {"hardware": hardware}))
    assert len(compiled) == len(list(LeViTModule().network.children()))
    assert result.loss == pytest.approx(plain.loss, rel=1e-3)


def test_another_seed_gives_other_numbers(store):
    results = [train(variant("baseline", SMOKE | {"seed": seed})) for seed in (0, 1)]
    assert results[0].loss != results[1].loss


def test_a_run_holds_all_that_is_needed_to_understand_and_repeat_it(store, tmp_path):
    shown = variant("no_wider_blocks", SMOKE | {"seed": 3})
    assert recorded(shown) is None
    result = train(shown)
    client = MlflowClient()
    run = client.get_run(result.run_id)
    assert run.info.status == "FINISHED"

    assert run.data.params["design.keys"] == "as_values"
    assert run.data.params["recipe.epochs"] == "2"
    tags = run.data.tags
    assert tags["levit_ablate.key"] == shown.key
    assert tags["levit_ablate.seed"] == "3"
    assert tags["levit_ablate.ablation"] == "no_wider_blocks"
    assert tags["levit_ablate.paper_row"] == "A6"
    assert tags["levit_ablate.version.torch"] == version("torch")
    assert "levit_ablate.git_commit" in tags and tags["levit_ablate.hardware"]

    metrics = run.data.metrics
    assert metrics["params"] == shown.cost.params
    assert metrics["flops"] == shown.cost.flops
    assert metrics["test_accuracy"] == result.accuracy
    assert metrics["train_seconds"] == result.seconds
    for name in ("train_loss", "val_loss", "val_accuracy", "learning_rate", "epoch_seconds"):
        history = client.get_metric_history(result.run_id, name)
        assert [metric.step for metric in history] == [0, 1], name

    artifact = client.download_artifacts(result.run_id, "experiment.yaml", str(tmp_path))
    again = variant(*experiment_options({"config": [tmp_path / "experiment.yaml"]}))
    assert artifact and again.key == shown.key

    checkpoint = client.download_artifacts(result.run_id, "checkpoints/best.ckpt", str(tmp_path))
    restored = LeViTModule.load_from_checkpoint(checkpoint)
    model = mlflow.pytorch.load_model(f"runs:/{result.run_id}/model")
    assert isinstance(model, LeViT)
    images = torch.randn(2, 1, 32, 32)
    with torch.no_grad():
        assert model(images).equal(restored.eval()(images))

    found = recorded(shown)
    assert found is not None and found.run_id == result.run_id and not found.trained
    assert (found.accuracy, found.loss) == (result.accuracy, result.loss)


def test_an_epochs_metrics_are_written_in_one_batch(store, monkeypatch):
    written = []
    log_batch = MlflowClient.log_batch

    def counted(self, run_id, metrics=(), **others):
        written.append(sorted({metric.key for metric in metrics}))
        log_batch(self, run_id, metrics=metrics, **others)

    monkeypatch.setattr(MlflowClient, "log_batch", counted)
    train(variant("baseline", SMOKE))
    epochs = [names for names in written if "val_loss" in names and "params" not in names]
    assert len(epochs) == 2
    assert {"train_loss", "val_accuracy", "learning_rate"} <= set(epochs[0])


def test_a_run_that_goes_on_in_another_store_has_all_its_epochs_there(store, tmp_path, monkeypatch):
    shown = variant("no_distillation", SMOKE)
    write = Recorder.metrics

    def interrupted(self, values, epoch=None):
        if epoch == 1:
            raise KeyboardInterrupt
        write(self, values, epoch)

    monkeypatch.setattr(Recorder, "metrics", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(shown)
    monkeypatch.setattr(Recorder, "metrics", write)
    open_store(f"sqlite:///{tmp_path / 'other.db'}")
    result = train(shown)
    history = MlflowClient().get_metric_history(result.run_id, "train_loss")
    assert [metric.step for metric in history] == [0, 1]


def test_a_training_that_diverges_is_recorded_as_failed_with_its_reason(store):
    shown = variant(
        "no_distillation", {"recipe": {"epochs": 1, "warmup_epochs": 0, "learning_rate": 1e30}}
    )
    with pytest.raises(RunError, match=r"diverged.*lower recipe\.learning_rate"):
        train(shown)
    (run,) = mlflow.search_runs(output_format="list")
    assert run.info.status == "FAILED"
    assert "diverged" in run.data.tags["levit_ablate.error"]
    assert recorded(shown) is None


def test_hardware_that_is_not_there_is_refused_before_there_is_a_run(store, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"hardware\.accelerator: gpu: torch finds none"):
        train(variant("no_distillation", {"hardware": {"accelerator": "gpu"}}))
    with pytest.raises(UserError, match=r"recipe\.precision: 16-mixed needs a GPU"):
        train(variant("baseline", {"recipe": {"precision": "16-mixed"}}))
    assert mlflow.search_runs(output_format="list") == []


def test_the_loss_is_that_of_the_heads_mean(store):
    result = train(variant("baseline", SMOKE))
    assert 0 < result.loss < math.log(10) + 0.5
    assert 0 <= result.accuracy <= 1


def test_an_ablation_trains_with_the_threads_of_its_baseline(store):
    cheap = variant("baseline", SMOKE)
    costly = variant("no_small_mlp", SMOKE | {"data": {"image_size": 52}})
    assert costly.baseline.cost.flops < SMALL_FLOPS < costly.cost.flops
    assert num_threads(cheap) == num_threads(costly) == 1
    given = variant("baseline", {"hardware": {"num_threads": 2}})
    assert num_threads(given) == 2
