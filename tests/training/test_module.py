import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import timm
import torch
import yaml
from lightning import Trainer
from torch import nn

from levit_ablate import library
from levit_ablate.cli.options import add_experiment, experiment_options, parse, parser_for
from levit_ablate.config import Design, Images, Recipe
from levit_ablate.data.batches import Batch
from levit_ablate.errors import UserError
from levit_ablate.experiment import variant
from levit_ablate.models.presets import shipped
from levit_ablate.recipes import PAPER
from levit_ablate.schema import experiment_from
from levit_ablate.training.module import LeViTModule
from levit_ablate.training.optimization import parameter_groups
from levit_ablate.training.teacher_cache import Answers


def module_of(name: str) -> LeViTModule:
    shown = variant(name, {})
    return LeViTModule(
        design=shown.experiment.design, architecture=shown.architecture, images=shown.images
    )


def batch_for(images: Images, size: int = 8) -> Batch:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(size, images.channels, images.height, images.width, generator=generator)
    labels = torch.randint(images.num_classes, (size,), generator=generator)
    return Batch(pixels, labels, labels.flip(0), torch.full((size,), 0.7), torch.arange(size))


def teacher(batch: Batch) -> Answers:
    return Answers(batch.labels[:, None], torch.ones(len(batch.labels), 1))


def test_the_module_the_command_line_and_a_yaml_line_make_the_same_network():
    parser = parser_for("run", "")
    add_experiment(parser)
    _, given = experiment_options(parse(parser, ["baseline", "--design.stem", "patch"]))
    designs = [
        Design(stem="patch"),
        experiment_from(given).design,
        experiment_from(yaml.safe_load("design: {stem: patch}")).design,
    ]
    states = [LeViTModule(design=design).state_dict() for design in designs]
    assert designs[0] == designs[1] == designs[2]
    for name, value in states[0].items():
        assert value.equal(states[1][name]) and value.equal(states[2][name])


@pytest.mark.parametrize("name", library.names())
def test_every_shipped_ablation_trains_and_every_parameter_receives_a_gradient(name):
    module = module_of(name).train()
    module.log = lambda *args, **kwargs: None  # no trainer is attached
    module.teacher = teacher
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2)
    for _ in range(3):  # what lies behind a zero start has no gradient in the first step
        optimizer.zero_grad()
        loss = module.training_step(batch_for(module.images), 0)
        loss.backward()
        optimizer.step()
    assert loss.isfinite()
    without = [n for n, p in module.named_parameters() if p.grad is None or not p.grad.any()]
    assert not without


@pytest.mark.parametrize("weights_only", [True, None])
def test_a_checkpoint_restores_design_recipe_and_weights(tmp_path, weights_only):
    design = Design(stem="patch", norm="layer", distillation="none", mlp_expansion=3.0)
    module = LeViTModule(design=design, recipe=Recipe(epochs=3, learning_rate=0.5), seed=7)
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.strategy.connect(module)
    trainer.save_checkpoint(tmp_path / "some.ckpt")
    restored = LeViTModule.load_from_checkpoint(tmp_path / "some.ckpt", weights_only=weights_only)
    assert (restored.design, restored.recipe) == (design, module.recipe)
    assert repr(restored.network) == repr(module.network)
    for name, value in module.state_dict().items():
        assert value.equal(restored.state_dict()[name])


def test_only_weights_of_linear_layers_and_convolutions_are_decayed():
    design = Design(pooling="class_token", position="absolute", norm="layer")
    module = LeViTModule(design=design)
    groups = parameter_groups(module.network, 0.1)
    decayed, rest = (group["params"] for group in groups)
    layers = [m for m in module.network.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    assert {id(p) for p in decayed} == {id(layer.weight) for layer in layers}
    assert len(decayed) + len(rest) == len(list(module.network.parameters()))
    assert [group["weight_decay"] for group in groups] == [0.1, 0]


def test_attention_biases_are_not_decayed():
    module = LeViTModule()
    undecayed = {id(p) for p in parameter_groups(module.network, 0.1)[1]["params"]}
    biases = [p for name, p in module.network.named_parameters() if name.endswith("biases")]
    assert biases and all(id(p) in undecayed for p in biases)


def rates_of(recipe: Recipe, steps_of_epoch: int) -> list[float]:
    """The learning rate of every step, as Lightning drives the schedule."""
    module = LeViTModule(recipe=recipe)
    progress = type("Progress", (), {"global_step": 0, "current_epoch": 0})()
    progress.precision = "32-true"
    progress.estimated_stepping_batches = steps_of_epoch * recipe.epochs
    module._trainer = progress
    configured = module.configure_optimizers()
    schedule, optimizer = configured["lr_scheduler"]["scheduler"], configured["optimizer"]
    rates = []
    for epoch in range(recipe.epochs):
        progress.current_epoch = epoch
        for step in range(steps_of_epoch):
            rates.append(optimizer.param_groups[0]["lr"])
            progress.global_step += 1
            if recipe.schedule == "step" or step == steps_of_epoch - 1:
                module.lr_scheduler_step(schedule, None)
    return rates


def test_by_the_step_the_learning_rate_rises_linearly_then_falls_as_a_cosine():
    recipe = Recipe(epochs=10, warmup_epochs=2, learning_rate=1.0)
    rates = rates_of(recipe, steps_of_epoch=10)
    assert rates[0] == pytest.approx(1e-6)
    assert rates[10] == pytest.approx(0.5, abs=1e-3)
    expected = [1e-5 + (1 - 1e-5) * (1 + math.cos(math.pi * s / 100)) / 2 for s in range(20, 100)]
    assert rates[20:] == pytest.approx(expected)


def test_by_the_epoch_it_is_the_official_codes_with_its_lag():
    paper = replace(PAPER, epochs=20)
    rates = rates_of(paper, steps_of_epoch=2)[::2]
    highest = 5e-4 * 2048 / 512
    warmup = [1e-6 + t * (highest - 1e-6) / 5 for t in range(5)]
    cosine = [1e-5 + (highest - 1e-5) * (1 + math.cos(math.pi * t / 20)) / 2 for t in range(5, 19)]
    # the official loop calls step(epoch) when the epoch has ended
    assert rates == pytest.approx([1e-6, *warmup, *cosine])


def test_the_norm_is_clipped_or_left():
    for clipping, norm in (("norm", 0.5), ("none", None)):
        module = LeViTModule(recipe=Recipe(clipping=clipping, clip=0.5))
        for parameter in module.network.parameters():
            parameter.grad = torch.ones_like(parameter)
        module.configure_gradient_clipping(torch.optim.SGD(module.parameters()))
        found = torch.cat([p.grad.flatten() for p in module.network.parameters()]).norm().item()
        count = sum(p.numel() for p in module.network.parameters())
        assert found == pytest.approx(norm or math.sqrt(count), rel=1e-3)


def test_pretrained_starts_from_the_released_weights(monkeypatch):
    released = timm.create_model("levit_128s", pretrained=False)
    monkeypatch.setattr(timm, "create_model", lambda *args, **kwargs: released)
    module = LeViTModule(model="levit_128s", pretrained=True)
    image = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(module.eval()(image), released.eval()(image))


def test_pretrained_weights_are_refused_for_another_design():
    with pytest.raises(UserError, match="norm"):
        LeViTModule(model="levit_128s", design=Design(norm="layer"), pretrained=True)


def test_any_preset_makes_a_module():
    for name, preset in shipped().items():
        if preset.images.height <= 32:
            module = LeViTModule(model=name).eval()
            images = batch_for(preset.images, size=2).images
            assert module(images).shape == (2, preset.images.num_classes)


@pytest.mark.parametrize("precision", ["16-mixed", "32-true"])
def test_gradients_are_clipped_after_they_are_unscaled(precision):
    """Float16's loss is scaled; a fused optimizer would be given its gradients still scaled."""
    module = LeViTModule(recipe=Recipe(precision=precision))
    module.trainer = SimpleNamespace(estimated_stepping_batches=100, precision=precision)
    optimizer = module.configure_optimizers()["optimizer"]
    assert getattr(optimizer, "_step_supports_amp_scaling", False) == (precision == "32-true")
