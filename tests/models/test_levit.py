"""The network: every combination of choices builds and trains, and what does not fit is refused."""

import itertools
from dataclasses import asdict, replace

import pytest
import torch
from designs import (
    CHOICES,
    DESIGNS,
    DIGITS,
    MEANINGLESS,
    NANO,
    SPREAD,
    batch_norms,
    modules_of,
    name_of,
    nano,
    pixels,
    randomize,
)
from torch import nn
from torch.nn import functional

from levit_ablate.config import Architecture, Design, Stage
from levit_ablate.errors import UserError
from levit_ablate.models import levit
from levit_ablate.models.cost import costs
from levit_ablate.models.levit import Attention, LeViT
from levit_ablate.models.parts import Residual
from levit_ablate.models.presets import preset

# Every combination.


def test_the_covering_designs_have_every_pair_of_values_but_the_meaningless_one():
    covered = {
        frozenset(pair)
        for design in DESIGNS
        for pair in itertools.combinations(asdict(design).items(), 2)
    }
    pairs = {
        frozenset(((first, a), (second, b)))
        for first, second in itertools.combinations(CHOICES, 2)
        for a in CHOICES[first]
        for b in CHOICES[second]
    }
    assert pairs - covered == {frozenset(MEANINGLESS)}


@pytest.mark.parametrize("design", DESIGNS, ids=name_of)
def test_every_pair_of_choices_builds_and_forwards_and_has_a_cost(design):
    logits = nano(design).eval()(pixels(batch=3))
    assert logits.shape == (3, 10)
    assert logits.isfinite().all()
    total = costs(NANO, design, DIGITS).total
    assert total.params > 0
    assert total.flops > 0


def test_downsampling_without_a_pyramid_is_refused_by_both_names_and_the_reason():
    with pytest.raises(UserError) as error:
        Design(pyramid=False, downsampling="convolution")
    assert str(error.value) == (
        "design.pyramid: false cannot be combined with design.downsampling: convolution, because "
        "a network without a pyramid has one stage and nothing to downsample; "
        "leave one of them at its default"
    )


FIRST = ("pyramid", "position", "attention_activation", "activation")


@pytest.mark.combinations
@pytest.mark.parametrize(FIRST, list(itertools.product(*(CHOICES[name] for name in FIRST))))
def test_all_combinations_of_all_choices_build_and_forward_and_have_a_cost(
    pyramid, position, attention_activation, activation
):
    first = (pyramid, position, attention_activation, activation)
    others = {name: values for name, values in CHOICES.items() if name not in FIRST}
    image = pixels()
    for rest in itertools.product(*others.values()):
        chosen = dict(zip((*FIRST, *others), first + rest, strict=True))
        if set(chosen.items()) >= MEANINGLESS:
            continue
        design = Design(**chosen)
        network = nano(design).eval()
        with torch.no_grad():
            logits = network(image)
        assert logits.shape == (2, 10), design
        assert logits.isfinite().all(), design
        total = costs(NANO, design, DIGITS).total
        parameters = [p for name, p in network.named_parameters() if "distilled" not in name]
        assert total.params == sum(parameter.numel() for parameter in parameters), design
        assert total.flops > 0, design


# Training.


def training_loss(network, images):
    """Cross-entropy with labels of its own for each head, so that no head hides behind another."""
    heads = network.forward_heads(images).values()
    labels = torch.arange(len(images))
    return sum(functional.cross_entropy(logits, labels + i) for i, logits in enumerate(heads))


@pytest.mark.parametrize("design", SPREAD, ids=name_of)
def test_two_steps_reach_every_parameter_and_lower_the_loss(design):
    network, images = nano(design), pixels(batch=6)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-4)
    losses = []
    for _ in range(3):
        loss = training_loss(network, images)
        optimizer.zero_grad()
        loss.backward()
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
        losses.append(loss.item())
        optimizer.step()
    assert losses[0] > losses[1] > losses[2]


@pytest.mark.parametrize("design", SPREAD, ids=name_of)
def test_every_parameter_has_a_part_in_the_loss(design):
    """Off its start, no parameter's gradient is zero.

    While training, the biases of BatchNorms are left out: where they add a constant to all tokens,
    which the next BatchNorm takes away again, they have no part by nature. With the statistics
    fixed, as in evaluation, they do.
    """
    network = randomize(nano(design).double())
    images = pixels(batch=6, dtype=torch.float64)
    for norm in batch_norms(network):
        norm.momentum = 1.0
    for training in (True, False):
        network.train(training).zero_grad()
        training_loss(network, images).backward()
        for name, parameter in network.named_parameters():
            if not (training and design.norm == "batch" and name.endswith("norm.bias")):
                assert parameter.grad.abs().max() > 1e-8, (name, training)


# Drop path.


def test_drop_path_is_in_every_residual_branch_and_only_while_training():
    network = LeViT(replace(NANO, drop_path=0.5), Design(zero_init=False), DIGITS)
    residuals = modules_of(network, Residual)
    assert len(residuals) == 2 * 4 + 2
    assert {residual.drop_path.probability for residual in residuals} == {0.5}
    residual = network.stages[0].mlp0
    tokens = torch.randn(64, 3, 32, generator=torch.Generator().manual_seed(3))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        dropped = (residual(tokens) == tokens).all(dim=2).all(dim=1)
    assert 16 < dropped.sum() < 48
    torch.testing.assert_close(residual.eval()(tokens), tokens + residual.branch(tokens))


# Architecture and geometry that do not fit.


def test_values_that_cannot_be_halved_for_the_keys_are_refused():
    odd = Architecture(stages=(Stage(depth=1, width=32, num_heads=2),), value_dim=15)
    with pytest.raises(UserError) as error:
        LeViT(odd, Design(), DIGITS)
    assert str(error.value) == (
        "architecture.value_dim: 15 must be even with design.keys: small, "
        "because keys have half the size of the values"
    )
    logits = LeViT(odd, Design(keys="as_values"), DIGITS).eval()(pixels())
    assert logits.shape == (2, 10)


def shapes(network: LeViT) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def test_a_stage_that_says_what_the_network_says_already_changes_nothing():
    plain = preset("levit_nano").architecture
    own = tuple(replace(s, value_dim=plain.value_dim, mlp_expansion=2.0) for s in plain.stages)
    told = replace(plain, stages=own, stem_width=plain.stages[0].width)
    images = preset("levit_nano").images
    networks = [LeViT(each, Design(), images).eval() for each in (plain, told)]
    image = torch.randn(2, images.channels, images.height, images.width)
    assert torch.equal(*(network(image) for network in networks))


def test_a_stage_has_heads_and_mlps_of_its_own_and_the_shrinking_block_those_of_the_stage_before():
    plain = preset("levit_nano").architecture  # widths 32, 48, 64; values of 16, keys of 8
    own = (
        plain.stages[0],
        replace(plain.stages[1], value_dim=24, mlp_expansion=3.0),
        plain.stages[2],
    )
    network = LeViT(
        replace(plain, stages=own, stem_width=20), Design(), preset("levit_nano").images
    )
    attention = {
        name: (module.num_heads, module.key_dim, module.value_dim)
        for name, module in network.named_modules()
        if isinstance(module, Attention)
    }
    heads = {name.removesuffix(".branch"): each for name, each in attention.items()}
    assert heads["stages.0.attention0"] == (2, 8, 16)
    assert heads["stages.1.downsample"] == (4, 8, 32)  # C / D of the stage before
    assert heads["stages.1.attention0"] == (3, 12, 24)
    assert heads["stages.2.downsample"] == (4, 12, 48)
    assert heads["stages.2.attention0"] == (4, 8, 16)
    hidden = {
        name.split(".branch")[0]: shape[0]
        for name, shape in shapes(network).items()
        if "mlp" in name and name.endswith("branch.1.layer.weight")
    }
    assert hidden["stages.0.mlp0"] == 64
    assert hidden["stages.1.mlp0"] == hidden["stages.1.downsample_mlp"] == 144
    assert hidden["stages.2.mlp0"] == 128
    stem = [
        shape[:2]
        for name, shape in shapes(network).items()
        if name.startswith("stem") and len(shape) == 4
    ]
    assert stem == [(10, 1), (32, 10)]


@pytest.mark.parametrize("part", ["Attention", "DropPath", "LeViT", "Residual", "ToTokens"])
def test_a_model_that_was_recorded_as_a_pickle_finds_its_parts(part):
    """They stood in this module."""
    assert issubclass(getattr(levit, part), nn.Module)
