from __future__ import annotations

import pytest
import torch
from designs import SINGLE_FLIPS, name_of
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from levit_ablate.config import Design
from levit_ablate.models.folding import fold_batch_norms
from levit_ablate.models.levit import LeViT
from levit_ablate.models.presets import preset, shipped

TOGETHER = [
    Design(norm="layer", stem_norm="batch"),
    Design(norm="layer", stem_norm="batch", stem="patch"),
    Design(downsampling="convolution", pooling="class_token"),
]
"""Choices whose parts with a norm meet only here."""


def build(model: str, design: Design) -> tuple[LeViT, Tensor]:
    """A network in float64 whose norms are drawn at random, and images for it."""
    chosen = preset(model)
    network = LeViT(chosen.architecture, design, chosen.images).double()
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for norm in (module for module in network.modules() if isinstance(module, _BatchNorm)):
            norm.weight.uniform_(0.5, 1.5, generator=generator)
            norm.running_var.uniform_(0.5, 1.5, generator=generator)
            norm.bias.normal_(generator=generator)
            norm.running_mean.normal_(generator=generator)
    shape = (2, chosen.images.channels, chosen.images.height, chosen.images.width)
    return network, torch.randn(shape, generator=generator, dtype=torch.float64)


def assert_folded(network: LeViT, images: Tensor) -> nn.Module:
    folded = fold_batch_norms(network)
    assert not any(isinstance(module, _BatchNorm) for module in folded.modules())
    assert not any(module.training for module in folded.modules())
    with torch.no_grad():
        torch.testing.assert_close(folded(images), network.eval()(images), rtol=1e-9, atol=1e-10)
    return folded


@pytest.mark.parametrize("model", shipped())
def test_folding_keeps_the_logits_of_every_preset(model: str) -> None:
    network, images = build(model, Design())
    folded = assert_folded(network, images)
    assert isinstance(folded.get_submodule("heads.supervised"), nn.Linear)
    assert isinstance(folded.get_submodule("stem.0.0"), nn.Conv2d)


@pytest.mark.parametrize("design", [*SINGLE_FLIPS, *TOGETHER], ids=name_of)
def test_folding_keeps_the_logits_of_every_design_choice(design: Design) -> None:
    assert_folded(*build("levit_nano", design))


def test_folding_takes_the_norms_parameters_away_and_adds_biases() -> None:
    network, images = build("levit_nano", Design())
    folded = assert_folded(network, images)
    norms = sum(
        sum(parameter.numel() for parameter in module.parameters())
        for module in network.modules()
        if isinstance(module, _BatchNorm)
    )
    heads = sum(head.norm.num_features * 2 for head in network.heads.values())
    before = sum(parameter.numel() for parameter in network.parameters())
    after = sum(parameter.numel() for parameter in folded.parameters())
    # a norm's weight and bias become one bias; the heads' linear layers have theirs already
    assert after == before - (norms + heads) // 2
    assert not any(parameter.requires_grad for parameter in folded.parameters())


def test_folding_leaves_the_network_as_it_was() -> None:
    network, _ = build("levit_nano", Design())
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    fold_batch_norms(network)
    after = network.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert all(module.training for module in network.modules())
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_without_batch_norms_the_copy_has_the_same_layers() -> None:
    network, _ = build("levit_nano", Design(norm="layer"))
    folded = fold_batch_norms(network)
    ours, theirs = network.state_dict(), folded.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
    assert theirs["stem.0.0.layer.weight"].data_ptr() != ours["stem.0.0.layer.weight"].data_ptr()


def test_a_batch_norm_without_a_known_neighbour_is_refused() -> None:
    with pytest.raises(TypeError, match=r"no layer is known to fold the batch norm 1 into"):
        fold_batch_norms(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)))
