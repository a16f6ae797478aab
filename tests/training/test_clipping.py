"""Adaptive clipping is that of the official layout, in which queries, keys and values are one."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from timm.utils.agc import adaptive_clip_grad

from levit_ablate.config import Design, Recipe
from levit_ablate.models.levit import LeViT
from levit_ablate.models.weights import to_timm
from levit_ablate.training.module import LeViTModule

CLIP = 0.01


def module_with_gradients(design: Design | None = None) -> LeViTModule:
    """Every parameter and gradient drawn at random, so that norms differ from unit to unit."""
    module = LeViTModule(
        design=design, model="levit_128s", recipe=Recipe(clipping="adaptive", clip=CLIP)
    )
    generator = torch.Generator().manual_seed(0)
    for parameter in module.network.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
        parameter.grad = torch.randn(parameter.shape, generator=generator)
        parameter.grad *= 0.1 + torch.rand(1, generator=generator)
    return module


def gradients_in_timms_layout(network: LeViT) -> dict[str, torch.Tensor]:
    """The gradients under timm's names, converted as weights are."""
    twin = copy.deepcopy(network)
    for own, parameter in zip(twin.parameters(), network.parameters(), strict=True):
        own.data = parameter.grad.clone()
    return to_timm(twin)


def test_adaptive_clipping_is_that_of_the_official_layers():
    module = module_with_gradients()
    reference = timm.create_model("levit_128s")
    reference.load_state_dict(to_timm(module.network))
    gradients = gradients_in_timms_layout(module.network)
    for name, parameter in reference.named_parameters():
        parameter.grad = gradients[name].clone()
    adaptive_clip_grad(reference.parameters(), CLIP)
    module.configure_gradient_clipping(torch.optim.SGD(module.parameters()))
    clipped = gradients_in_timms_layout(module.network)
    for name, parameter in reference.named_parameters():
        assert not parameter.grad.equal(gradients[name]), name  # something was clipped
        torch.testing.assert_close(clipped[name], parameter.grad, rtol=1e-5, atol=0, msg=name)


@pytest.mark.parametrize("norm", ["batch", "layer"])
def test_every_vector_of_queries_keys_and_values_has_one_coefficient(norm):
    module = module_with_gradients(Design(norm=norm))
    before = {name: p.grad.clone() for name, p in module.network.named_parameters()}
    module.configure_gradient_clipping(torch.optim.SGD(module.parameters()))
    vector = {"batch": "norm.bias", "layer": "layer.bias"}[norm]

    def coefficient(layer: str) -> torch.Tensor:
        name = f"{layer}.{vector}"
        return (dict(module.network.named_parameters())[name].grad / before[name]).mean()

    block = "stages.0.attention0.branch"
    torch.testing.assert_close(coefficient(f"{block}.queries"), coefficient(f"{block}.keys_values"))
    block = "stages.1.downsample"
    assert coefficient(f"{block}.queries") != coefficient(f"{block}.keys_values")


def test_a_parameter_without_a_gradient_is_left_out():
    module = module_with_gradients()
    without = module.network.stages[0].attention0.branch.queries.norm.bias
    without.grad = None
    module.configure_gradient_clipping(torch.optim.SGD(module.parameters()))
    assert without.grad is None
    assert all(p.grad is not None for p in module.network.parameters() if p is not without)
