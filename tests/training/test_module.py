from dataclasses import replace

import pytest
import timm
import torch
import yaml
from lightning import Trainer
from torch import nn

from levit_ablate import ablations
from levit_ablate.commands.options import add_experiment, experiment_options, parse, parser_for
from levit_ablate.config import Design, Images, Recipe
from levit_ablate.errors import UserError
from levit_ablate.experiments import variant
from levit_ablate.models.presets import PRESETS
from levit_ablate.serialization import experiment_from
from levit_ablate.training.module import LeViTModule


def module_of(name: str) -> LeViTModule:
    shown = variant(name, {})
    return LeViTModule(
        design=shown.experiment.design, architecture=shown.architecture, images=shown.images
    )


def batch_for(images: Images, size: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(size, images.channels, images.height, images.width, generator=generator)
    return pixels, torch.randint(images.num_classes, (size,), generator=generator)


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


@pytest.mark.parametrize("name", ablations.names())
def test_every_shipped_ablation_trains_and_every_parameter_receives_a_gradient(name):
    module = module_of(name).train()
    module.log = lambda *args, **kwargs: None  # no trainer is attached
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
    decayed, rest = (group["params"] for group in module._parameter_groups())
    layers = [m for m in module.network.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    assert {id(p) for p in decayed} == {id(layer.weight) for layer in layers}
    assert len(decayed) + len(rest) == len(list(module.network.parameters()))
    assert module._parameter_groups()[1]["weight_decay"] == 0


def test_attention_biases_are_not_decayed():
    module = LeViTModule()
    undecayed = {id(p) for p in module._parameter_groups()[1]["params"]}
    biases = [p for name, p in module.network.named_parameters() if name.endswith("biases")]
    assert biases and all(id(p) in undecayed for p in biases)


def test_the_learning_rate_rises_linearly_then_falls_as_a_cosine():
    recipe = Recipe(epochs=10, warmup_epochs=2, learning_rate=1.0)
    module = LeViTModule(recipe=recipe)
    module.trainer = type("Steps", (), {"estimated_stepping_batches": 100})()
    configured = module.configure_optimizers()
    factor = configured["lr_scheduler"]["scheduler"].lr_lambdas[0]
    rates = [factor(step) for step in range(101)]
    assert rates[0] == pytest.approx(0.002)
    assert rates[20] == 1.0 == max(rates)
    assert rates[10] == pytest.approx((rates[0] + rates[20]) / 2)
    assert rates[60] == pytest.approx((1 + 0.02) / 2)
    assert rates[100] == pytest.approx(0.02)
    assert rates[:21] == sorted(rates[:21]) and rates[20:] == sorted(rates[20:], reverse=True)


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
    for name, preset in PRESETS.items():
        if preset.images.height <= 32:
            module = LeViTModule(model=name).eval()
            images, _ = batch_for(replace(preset.images), size=2)
            assert module(images).shape == (2, preset.images.num_classes)
