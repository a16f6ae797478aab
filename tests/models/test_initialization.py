"""Where training starts: zero branches, and layers that two variants share."""

import itertools
from dataclasses import replace

import pytest
import torch
from designs import (
    CHOICES,
    DESIGNS,
    DIGITS,
    SINGLE_FLIPS,
    every_design,
    modules_of,
    name_of,
    nano,
    outputs_of,
    pixels,
    randomize,
)

from levit_ablate.config import Design, differences
from levit_ablate.models.levit import initialize
from levit_ablate.models.norms import (
    BiasedLinear,
    LinearBatchNorm,
)
from levit_ablate.models.parts import AttentionBias, Residual

# Zero start.


@pytest.mark.parametrize("training", [True, False])
@every_design(zero_init=True)
def test_with_a_zero_start_every_block_begins_as_the_identity(design, training):
    network = nano(design).train(training)
    residuals = modules_of(network, Residual)
    branches = outputs_of(network, pixels(), [residual.branch for residual in residuals])
    assert all(branch.count_nonzero() == 0 for branch in branches)
    entering, leaving = outputs_of(network, pixels(), [network.position, network.stages[0]])
    assert torch.equal(entering, leaving)


@every_design(zero_init=False)
def test_without_a_zero_start_no_block_begins_as_the_identity(design):
    network = nano(design)
    residuals = modules_of(network, Residual)
    branches = outputs_of(network, pixels(), [residual.branch for residual in residuals])
    assert all(branch.count_nonzero() > 0 for branch in branches)


@pytest.mark.parametrize("design", DESIGNS, ids=name_of)
def test_the_zero_start_is_at_the_end_of_residual_branches_and_nowhere_else(design):
    network = nano(design)
    ends = {
        id(end)
        for residual in modules_of(network, Residual)
        for end in [list(residual.branch.children())[-1]]
    }
    zero = set()
    for module in modules_of(network, LinearBatchNorm, BiasedLinear):
        weight = (module.norm if isinstance(module, LinearBatchNorm) else module.layer).weight
        if weight.count_nonzero() == 0:
            zero.add(id(module))
        elif isinstance(module, LinearBatchNorm):
            assert torch.equal(weight, torch.ones_like(weight))
    assert zero == (ends if design.zero_init else set())
    matrices = [p for p in network.parameters() if p.ndim > 1]
    assert sum(p.count_nonzero() == 0 for p in matrices) == (
        len(zero) * (design.norm == "layer") + len(modules_of(network, AttentionBias))
    )


# Initialisation.


def shared(first, second):
    """The parameters that two networks have in common: equal names, equal shapes."""
    theirs = dict(second.named_parameters())
    return {
        name: (parameter, theirs[name])
        for name, parameter in first.named_parameters()
        if name in theirs and theirs[name].shape == parameter.shape
    }


@pytest.mark.parametrize("design", SINGLE_FLIPS, ids=name_of)
def test_layers_that_two_variants_share_start_with_equal_values(design):
    flip = {name: value for name, (value, _) in differences(design, Design()).items()}
    base = Design(zero_init="norm" not in flip)  # each norm puts the zeros somewhere else
    first, second = nano(base), nano(replace(base, **flip))
    parameters = shared(first, second)
    assert "stages.0.attention0.branch.projection.layer.weight" in parameters
    assert len(parameters) > 20
    different = {name for name, pair in parameters.items() if not torch.equal(*pair)}
    if "linear_init" in flip:
        linear = {
            f"{name}.layer.weight"
            for name, module in first.named_modules()
            if isinstance(module, LinearBatchNorm)
        }
        assert different == linear
    elif "zero_init" in flip:
        ends = ("projection.norm.weight", "branch.3.norm.weight")
        assert different
        assert all(".branch." in name and name.endswith(ends) for name in different)
    else:
        assert not different


def is_identity(parameter):
    """A start that is set, not drawn, though its entries differ."""
    return parameter.ndim == 2 and torch.equal(parameter, torch.eye(*parameter.shape))


@pytest.mark.parametrize("design", DESIGNS, ids=name_of)
def test_one_seed_gives_one_network_and_another_seed_another(design):
    first, again, other = (nano(design, seed=seed) for seed in (3, 3, 4))
    for name, (a, b) in shared(first, again).items():
        assert torch.equal(a, b), name
    starts = {name: p for name, p in first.named_parameters() if not is_identity(p)}
    drawn = [name for name, p in starts.items() if p.unique().numel() > 1]
    matrices = [
        name
        for name, p in starts.items()
        if p.ndim > 1 and not name.endswith("biases") and p.count_nonzero() > 0
    ]
    assert set(drawn) >= set(matrices)
    pairs = shared(first, other)
    assert not any(torch.equal(*pairs[name]) for name in drawn)


def test_the_start_does_not_depend_on_the_global_random_state():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        first = nano()
        torch.manual_seed(2)
        second = nano()
    assert all(torch.equal(a, b) for a, b in shared(first, second).values())


@pytest.mark.parametrize("design", DESIGNS, ids=name_of)
def test_initialising_again_restores_the_start_and_leaves_the_global_random_state(design):
    network, start = nano(design, seed=5), nano(design, seed=5)
    randomize(network)
    state = torch.get_rng_state()
    initialize(network, 5)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in shared(network, start).values())


@every_design(linear_init="truncated_normal")
def test_linear_layers_of_the_blocks_start_as_in_vit(design):
    network = nano(replace(design, zero_init=False))
    modules = modules_of(network, LinearBatchNorm, BiasedLinear)
    drawn = torch.cat([module.layer.weight.flatten() for module in modules])
    assert drawn.std().item() == pytest.approx(0.02, rel=0.02)
    biases = [module.layer.bias for module in modules if module.layer.bias is not None]
    assert not any(bias.count_nonzero() for bias in biases)


@every_design(linear_init="torch")
def test_linear_layers_of_the_blocks_start_as_torch_starts_them(design):
    network = nano(replace(design, zero_init=False))
    for module in modules_of(network, LinearBatchNorm, BiasedLinear):
        bound = module.layer.in_features**-0.5
        largest = module.layer.weight.abs().max().item()
        assert 0.9 * bound < largest <= bound


def test_no_two_layers_draw_from_one_stream():
    matrices = [
        p for name, p in nano().named_parameters() if p.ndim > 1 and not name.endswith("biases")
    ]
    same = [(a, b) for a, b in itertools.combinations(matrices, 2) if a.shape == b.shape]
    assert len(same) > 5
    assert not any(torch.equal(a, b) for a, b in same)


@pytest.mark.parametrize("norm", CHOICES["norm"])
def test_heads_tokens_and_embeddings_start_small(norm):
    design = Design(norm=norm, pooling="class_token", position="absolute")
    network = nano(design, replace(DIGITS, num_classes=1000))
    for head in network.heads.values():
        assert head.layer.weight.std().item() == pytest.approx(0.02, rel=0.02)
        assert abs(head.layer.weight.mean().item()) < 0.001
        assert head.layer.bias.count_nonzero() == 0
    assert network.position.embedding.std().item() == pytest.approx(0.02, rel=0.1)
    assert network.class_token.token.std().item() == pytest.approx(0.02, rel=0.5)
