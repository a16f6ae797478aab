"""What is evaluated is what is recorded: the network or its average, to the last bit."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import mlflow
import pytest
import torch
from lightning import Trainer
from networks import SMALL
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from levit_ablate import library
from levit_ablate.config import Recipe
from levit_ablate.data.datamodule import ImageData
from levit_ablate.experiment import variant
from levit_ablate.models.levit import LeViT
from levit_ablate.training.fit import BEST, fit, ready_data
from levit_ablate.training.fit import tested as figures_of
from levit_ablate.training.module import LeViTModule
from levit_ablate.training.optimization import (
    averaging,
    decay_of,
    horizon_warning,
    parameter_groups,
)
from levit_ablate.training.train import train

DECAYS = (0.9, 0.95, 0.98, 0.9873, 0.998, 0.9995, 0.9999, 0.99996)
NAMES = list(library.names())


def trained(name: str, folder: Path, **recipe: object) -> tuple[Trainer, LeViTModule, ImageData]:
    """A short training of a small network, without a teacher, averaged."""
    given = {
        "design": {"distillation": "none"},
        "architecture": SMALL,
        "recipe": {"epochs": 1, "warmup_epochs": 0.5, "batch_size": 64, **recipe},
        "data": {"validation": 0.7},
        "hardware": {"accelerator": "cpu"},
    }
    made = variant(name, given)
    experiment = made.experiment
    data = ready_data(experiment)
    module = LeViTModule(
        design=experiment.design,
        architecture=made.architecture,
        images=made.images,
        recipe=experiment.recipe,
    )
    trainer = fit(module, data, folder, [])
    return trainer, module, data


def all_tensors(network: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers, those that no checkpoint holds too."""
    return dict(network.named_parameters()) | dict(network.named_buffers())


def accuracy_and_loss(network: nn.Module, data: ImageData) -> tuple[float, float]:
    """Counted without Lightning and torchmetrics."""
    batches = data.served.evaluation("test", data.normalization, torch.device("cpu"), (0, 1))
    counts: Counter[str] = Counter()
    with torch.no_grad():
        for images, labels in batches:
            logits = network.eval()(images)
            counts["right"] += int((logits.argmax(dim=1) == labels).sum())
            counts["loss"] += float(nn.functional.cross_entropy(logits, labels, reduction="sum"))
            counts["all"] += len(labels)
    return counts["right"] / counts["all"], counts["loss"] / counts["all"]


@pytest.mark.parametrize("name", NAMES)
def test_what_is_tested_is_what_a_reader_of_the_checkpoint_gets(name):
    """Every ablation, each at another decay; the decays at which integers were truncated too."""
    decay = DECAYS[NAMES.index(name) % len(DECAYS)]
    trainer, module, data = trained(name, Path("run"), ema_decay=decay, evaluate="average")
    figures = figures_of(trainer, module, data)
    read = LeViTModule.load_from_checkpoint(Path("run") / BEST).eval()
    assert read.average is not None and read.evaluated is read.average.module
    ours = all_tensors(module.evaluated)
    for key, value in all_tensors(read.evaluated).items():
        assert value.equal(ours[key]), key
    assert figures_of(trainer, read, data) == figures
    expected = accuracy_and_loss(read, data)
    assert (figures["test_accuracy"], figures["test_loss"]) == pytest.approx(expected, rel=1e-5)
    expected = accuracy_and_loss(read.network, data)
    beside = (figures["network_test_accuracy"], figures["network_test_loss"])
    assert beside == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_only_what_is_floating_is_averaged(name):
    """Every ablation at every decay: counters as in the network, constants as they were made."""
    made = variant(name, {})
    network = LeViT(made.architecture, made.experiment.design, made.images)
    constants = {k: v.clone() for k, v in all_tensors(network).items() if v.dtype == torch.int64}
    averages = [
        AveragedModel(network, multi_avg_fn=averaging(decay), use_buffers=True) for decay in DECAYS
    ]
    for step in range(7):
        for value in network.state_dict().values():
            value += 1 if value.dtype == torch.int64 else 0.01 * step
        for average in averages:
            average.update_parameters(network)
    current = all_tensors(network)
    for average in averages:
        for key, value in all_tensors(average.module).items():
            if value.dtype == torch.int64:
                counts = "num_batches_tracked" in key
                assert value.equal(current[key] if counts else constants[key]), key


def test_the_average_is_the_exponential_one_of_weights_and_statistics():
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    average = AveragedModel(network, multi_avg_fn=averaging(0.9), use_buffers=True)
    expected: dict[str, Tensor] = {}
    for step in range(5):
        network(torch.randn(8, 3, generator=torch.Generator().manual_seed(step)))  # statistics
        with torch.no_grad():
            network[0].weight.add_(1.0)
        average.update_parameters(network)
        for key, value in network.state_dict().items():
            before = expected.get(key, value).double()
            expected[key] = before * 0.9 + value.double() * 0.1
    for key, value in average.module.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value.double(), expected[key], rtol=1e-6, atol=1e-6)


def test_evaluating_the_network_leaves_the_average_beside_it(tmp_path):
    """The official protocol: the same training, other weights tested."""
    figures = {}
    for weights in ("network", "average"):
        common = {"ema_decay": 0.9, "evaluate": weights}
        figures[weights] = figures_of(*trained("baseline", tmp_path / weights, **common))
    by_network, by_average = figures["network"], figures["average"]
    for metric in ("accuracy", "loss"):
        assert by_network[f"test_{metric}"] == by_average[f"network_test_{metric}"]
        assert by_network[f"average_test_{metric}"] == by_average[f"test_{metric}"]
    assert by_network["test_loss"] != by_average["test_loss"]


def test_a_run_records_both_and_its_model_is_the_one_that_was_tested(store):
    given = {
        "recipe": {
            "epochs": 2,
            "warmup_epochs": 0.5,
            "ema_horizon": 0.2,
            "evaluate": "average",
        },
        "hardware": {"accelerator": "cpu"},
    }
    shown = variant("no_distillation", given)
    result = train(shown)
    run = mlflow.MlflowClient().get_run(result.run_id)
    assert {"network_val_accuracy", "network_test_accuracy"} <= set(run.data.metrics)
    model = mlflow.pytorch.load_model(f"runs:/{result.run_id}/model")
    assert all(parameter.requires_grad for parameter in model.parameters())  # can be trained on
    expected = accuracy_and_loss(model, ready_data(shown.experiment))
    assert (result.accuracy, result.loss) == pytest.approx(expected, rel=1e-5)


def test_a_checkpoint_of_before_there_was_an_average_beside_the_network_is_read():
    """Up to version 0.1 the average stood in the network's place."""
    module = LeViTModule(recipe=Recipe(ema_decay=0.9))
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.strategy.connect(module)
    trainer.save_checkpoint("old.ckpt")
    old = torch.load("old.ckpt", weights_only=False)
    old["state_dict"] = {k: v for k, v in old["state_dict"].items() if "average" not in k}
    torch.save(old, "old.ckpt")
    read = LeViTModule.load_from_checkpoint("old.ckpt")
    assert read.evaluated is read.network
    for key, value in module.network.state_dict().items():
        assert value.equal(read.network.state_dict()[key]), key


def test_an_average_of_no_steps_is_the_network():
    module = LeViTModule(recipe=Recipe(ema_decay=0.9, evaluate="average"), seed=1)
    image = torch.randn(1, 1, 32, 32)
    with torch.no_grad():
        for parameter in module.network.parameters():
            parameter.add_(0.1)  # as weights that are loaded
        assert module.eval()(image).equal(module.network(image))


def test_the_average_trains_nothing_and_is_not_trained():
    module = LeViTModule(recipe=Recipe(ema_decay=0.9))
    assert module.average is not None
    assert not any(p.requires_grad for p in module.average.parameters())
    own = {id(p) for p in module.average.parameters()}
    groups = parameter_groups(module.network, 0.1)
    assert not own & {id(p) for group in groups for p in group["params"]}


def test_a_decay_may_follow_the_length_of_the_training():
    recipe = Recipe(ema_horizon=0.05)
    assert decay_of(recipe, 2000) == pytest.approx(0.99)
    assert decay_of(recipe, 10) == 0  # shorter than a step: the network itself
    assert decay_of(Recipe(ema_decay=0.9, ema_horizon=0.05), 2000) == 0.9
    assert decay_of(Recipe(), 2000) == 0


@pytest.mark.parametrize(
    ("recipe", "steps", "said"),
    [
        (Recipe(ema_decay=0.99996), 61_200, "9% of the average"),
        (Recipe(ema_decay=0.99996), 612_000, None),
        (Recipe(ema_horizon=0.05), 100, None),
        (Recipe(ema_horizon=0.5), 1000, "recipe.ema_horizon: 0.5 averages over 500 steps"),
        (Recipe(ema_horizon=0.3), 1000, None),
        (Recipe(ema_horizon=0.3, evaluate="average"), 1000, "recipe.ema_horizon: 0.3 averages"),
        (Recipe(ema_decay=0.9), 31, None),
        (Recipe(), 10, None),
    ],
)
def test_an_average_that_does_not_converge_is_said(recipe, steps, said):
    warning = horizon_warning(recipe, steps)
    assert warning is None if said is None else said in (warning or "")
