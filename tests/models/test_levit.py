"""The network: every design choice does what it says, with every other choice beside it."""

import itertools
import random
from dataclasses import asdict, replace
from typing import get_args, get_type_hints

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from levit_ablate.config import Architecture, Design, Images, Stage, differences
from levit_ablate.errors import UserError
from levit_ablate.models.attention import Attention, AttentionBias, Subsample
from levit_ablate.models.cost import costs
from levit_ablate.models.layers import AbsolutePosition, ClassToken, PatchConvolution, Residual
from levit_ablate.models.levit import LeViT, initialize
from levit_ablate.models.norms import (
    NORM_KITS,
    BiasedLinear,
    ConvolutionBatchNorm,
    Head,
    LinearBatchNorm,
)
from levit_ablate.models.presets import preset

NANO = preset("levit_nano").architecture
DIGITS = preset("levit_nano").images
NANO_WIDTHS = (32, 48, 64)
NANO_GRIDS = ((8, 8), (4, 4), (2, 2))

CHOICES = {
    name: {bool: (True, False), float: (2.0, 4.0, 3.5)}.get(hint) or get_args(hint)
    for name, hint in get_type_hints(Design).items()
}
SINGLE_FLIPS = [
    {name: value}
    for name, values in CHOICES.items()
    for value in values
    if value != getattr(Design(), name)
]
MEANINGLESS = {("pyramid", False), ("downsampling", "convolution")}


def covering_designs():
    """A few designs in which every pair of values of two fields occurs (a greedy covering array)."""
    pairs = itertools.combinations(
        [(name, value) for name, values in CHOICES.items() for value in values], 2
    )
    uncovered = dict.fromkeys(
        frozenset(pair) for pair in pairs if pair[0][0] != pair[1][0] and set(pair) != MEANINGLESS
    )
    designs = []
    while uncovered:
        chosen = dict(next(iter(uncovered)))
        for name in [name for name in CHOICES if name not in chosen]:
            meaningful = [
                value
                for value in CHOICES[name]
                if not {*chosen.items(), (name, value)} >= MEANINGLESS
            ]
            chosen[name] = max(
                meaningful,
                key=lambda value: sum(
                    frozenset(((name, value), item)) in uncovered for item in chosen.items()
                ),
            )
        for pair in itertools.combinations(chosen.items(), 2):
            uncovered.pop(frozenset(pair), None)
        designs.append(Design(**chosen))
    return designs


def random_designs(number, seed=0):
    draw = random.Random(seed)
    designs = []
    while len(designs) < number:
        chosen = {name: draw.choice(values) for name, values in CHOICES.items()}
        if not set(chosen.items()) >= MEANINGLESS:
            designs.append(Design(**chosen))
    return designs


def name_of(design):
    changed = [f"{name}={there}" for name, (_, there) in differences(Design(), design).items()]
    return "-".join(changed) or "levit"


DESIGNS = covering_designs()
SPREAD = [Design(**flip) for flip in SINGLE_FLIPS] + random_designs(24)


def every_design(**choices):
    """Parametrise by the covering designs that have these choices: each with every other choice."""
    chosen = [
        design
        for design in DESIGNS
        if all(getattr(design, name) == value for name, value in choices.items())
    ]
    assert len(chosen) > 2
    return pytest.mark.parametrize("design", chosen, ids=name_of)


def nano(design=None, images=DIGITS, seed=0):
    return LeViT(NANO, design or Design(), images, seed)


def pixels(batch=2, images=DIGITS, dtype=torch.float32):
    shape = (batch, images.channels, images.height, images.width)
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=dtype)


def shrinking(design):
    """The design with shrinking attention blocks: pairs are covered, not a third choice beside them."""
    return replace(design, pyramid=True, downsampling="attention")


def modules_of(network, *kinds):
    return [module for module in network.modules() if isinstance(module, kinds)]


def batch_norms(network):
    return modules_of(network, nn.modules.batchnorm._BatchNorm)


def outputs_of(network, image, modules):
    """The output of each of these modules when the network sees `image`."""
    seen = {}
    hooks = [
        module.register_forward_hook(lambda module, args, output: seen.update({module: output}))
        for module in modules
    ]
    network(image)
    for hook in hooks:
        hook.remove()
    return [seen[module] for module in modules]


def randomize(network, scale=0.5):
    """Move every parameter away from its start, where zeros hide what is connected to what."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in network.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
            parameter.add_(scale * noise)
    return network


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
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
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


# Each choice removes what it replaces, with every other choice beside it.


@every_design(norm="layer")
def test_layer_norm_leaves_no_batch_norm(design):
    network = nano(design)
    assert not batch_norms(network)
    blocks = modules_of(network, Attention)
    assert all(isinstance(block.before, nn.LayerNorm) for block in blocks)
    assert all(isinstance(head.norm, nn.LayerNorm) for head in modules_of(network, Head))
    linear_layers = modules_of(network, nn.Linear, nn.Conv2d)
    assert all(layer.bias is not None for layer in linear_layers)


@every_design(norm="batch")
def test_batch_norm_leaves_no_layer_norm_and_stands_after_every_layer_without_a_bias(design):
    network = nano(design)
    assert not modules_of(network, nn.LayerNorm)
    normed = modules_of(network, LinearBatchNorm, ConvolutionBatchNorm)
    heads = modules_of(network, Head)
    layers = modules_of(network, nn.Linear, nn.Conv2d)
    assert {id(module.layer) for module in (*normed, *heads)} == {id(layer) for layer in layers}
    assert all(module.layer.bias is None for module in normed)
    assert len(batch_norms(network)) == len(normed) + len(heads)


@every_design(position="none")
def test_without_a_position_there_is_no_positional_parameter(design):
    network = nano(design)
    assert not modules_of(network, AttentionBias, AbsolutePosition)
    ends = {name.rsplit(".", 1)[-1] for name, _ in network.named_parameters()}
    assert ends <= {"weight", "bias", "token"}


@pytest.mark.parametrize("norm", CHOICES["norm"])
def test_without_a_position_and_overlap_the_order_of_the_patches_does_not_matter(norm):
    design = Design(pyramid=False, position="none", stem="patch", norm=norm)
    image = pixels(dtype=torch.float64)
    shifted = image.roll((8, 4), dims=(2, 3))  # by two patches and by one
    network = randomize(nano(design).double()).eval()
    torch.testing.assert_close(network(image), network(shifted))
    for position in ("attention_bias", "absolute"):
        network = randomize(nano(replace(design, position=position)).double()).eval()
        # the bias sees offsets, and these change for the patches that came round the edge
        assert (network(image) - network(shifted)).abs().max() > 1e-6


@every_design(position="absolute")
def test_absolute_position_is_one_embedding_of_the_tokens_that_enter_the_transformer(design):
    network = nano(design)
    assert not modules_of(network, AttentionBias)
    (position,) = modules_of(network, AbsolutePosition)
    num_tokens = 64 + (design.pooling == "class_token")
    assert position.embedding.shape == (1, num_tokens, 32)
    entered, after = outputs_of(network, pixels(), [network.class_token, network.position])
    assert torch.equal(after, entered + position.embedding)


@every_design(position="attention_bias")
def test_attention_bias_is_in_every_attention_block_and_nowhere_else(design):
    network = nano(design)
    assert not modules_of(network, AbsolutePosition)
    blocks = modules_of(network, Attention)
    biases = modules_of(network, AttentionBias)
    assert [block.position for block in blocks] == biases
    assert [bias.biases.shape[0] for bias in biases] == [block.num_heads for block in blocks]


@every_design(attention_activation="none")
def test_no_attention_activation_leaves_none_in_attention_and_those_elsewhere(design):
    network = nano(design)
    activations = (nn.Hardswish, nn.GELU, nn.ReLU)
    blocks = modules_of(network, Attention)
    assert not any(modules_of(block, *activations) for block in blocks)
    mlps = [
        module for name, module in network.named_modules() if name.rpartition(".")[2][:3] == "mlp"
    ]
    assert all(len(modules_of(mlp, *activations)) == 1 for mlp in mlps)


@pytest.mark.parametrize(
    ("activation", "kind"), [("hardswish", nn.Hardswish), ("gelu", nn.GELU), ("relu", nn.ReLU)]
)
def test_one_activation_is_the_only_one_anywhere(activation, kind):
    for design in DESIGNS:
        design = replace(design, activation=activation)
        network = nano(design)
        stem = {"convolution": 1, "patch": 0}[design.stem]
        blocks = len(modules_of(network, Attention)) * (design.attention_activation == "same")
        mlps = sum(name.endswith("branch.3") for name, _ in network.named_modules())
        assert len(modules_of(network, kind)) == stem + blocks + mlps
        assert len(modules_of(network, nn.Hardswish, nn.GELU, nn.ReLU)) == stem + blocks + mlps


@every_design(stem="patch")
def test_a_patch_stem_is_exactly_one_convolution_of_the_whole_patch(design):
    (convolution,) = modules_of(nano(design).stem, nn.Conv2d)
    assert convolution.kernel_size == convolution.stride == (4, 4)
    assert convolution.weight.shape == (32, 1, 4, 4)


@every_design(stem="convolution")
def test_a_convolutional_stem_doubles_its_width_at_every_stride(design):
    convolutions = modules_of(nano(design).stem, nn.Conv2d)
    assert [tuple(layer.weight.shape) for layer in convolutions] == [(16, 1, 3, 3), (32, 16, 3, 3)]
    assert all(layer.stride == (2, 2) for layer in convolutions)


@every_design(distillation="none")
def test_without_distillation_there_is_one_head_whose_logits_are_the_networks(design):
    network = nano(design).eval()
    assert len(modules_of(network, Head)) == 1
    assert list(network.forward_heads(pixels())) == ["supervised"]
    assert torch.equal(network(pixels()), network.forward_heads(pixels())["supervised"])


@pytest.mark.parametrize("distillation", ["hard", "soft"])
def test_with_distillation_the_logits_are_the_mean_of_two_heads(distillation):
    network = nano(Design(distillation=distillation)).eval()
    heads = network.forward_heads(pixels())
    assert list(heads) == ["supervised", "distilled"]
    assert not torch.equal(heads["supervised"], heads["distilled"])
    torch.testing.assert_close(network(pixels()), (heads["supervised"] + heads["distilled"]) / 2)


@every_design(downsampling="convolution")
def test_downsampling_by_convolution_leaves_no_subsampling_attention(design):
    network = nano(design)
    assert not modules_of(network, Subsample)
    convolutions = modules_of(network, PatchConvolution)
    shapes = [tuple(module.convolution.layer.weight.shape) for module in convolutions]
    assert shapes == [(48, 32, 3, 3), (64, 48, 3, 3)]
    assert all(not isinstance(stage.downsample, Attention) for stage in network.stages[1:])


@every_design(downsampling="attention")
def test_downsampling_by_attention_subsamples_between_stages_without_a_residual(design):
    network = nano(shrinking(design))
    assert not modules_of(network, PatchConvolution)
    blocks = [stage.downsample for stage in network.stages[1:]]
    assert all(isinstance(block, Attention) for block in blocks)
    assert [block.subsample for block in blocks] == modules_of(network, Subsample)
    assert [block.projection.layer.out_features for block in blocks] == [48, 64]


@every_design(pyramid=False)
def test_without_a_pyramid_one_stage_has_all_blocks_and_one_for_each_shrinking_block(design):
    network = nano(design)
    (stage,) = network.stages
    blocks = itertools.chain.from_iterable((f"attention{i}", f"mlp{i}") for i in range(4 + 2))
    assert list(dict(stage.named_children())) == list(blocks)
    assert not modules_of(network, Subsample, PatchConvolution)
    (tokens,) = outputs_of(network, pixels(), [stage])
    assert tokens.shape == (2, 64 + (design.pooling == "class_token"), 32)


def test_levit_128s_without_a_pyramid_has_eleven_blocks_of_four_heads_at_fourteen_by_fourteen():
    levit_128s = preset("levit_128s")
    with torch.device("meta"):
        network = LeViT(levit_128s.architecture, Design(pyramid=False), levit_128s.images)
    blocks = modules_of(network, Attention)
    assert len(blocks) == 11
    shapes = {
        (b.num_heads, b.key_dim, b.value_dim, b.projection.layer.out_features) for b in blocks
    }
    assert shapes == {(4, 16, 32, 128)}
    assert all(block.position.biases.shape == (4, 14 * 14) for block in blocks)


@pytest.mark.parametrize("value", CHOICES["mlp_expansion"])
def test_mlp_expansion_is_the_hidden_width_of_every_mlp(value):
    for design in DESIGNS:
        network = nano(replace(design, mlp_expansion=value))
        layers = dict(network.named_modules())
        widths = {
            name: (layers[name].layer.out_features, layers[name].layer.in_features)
            for name in layers
            if name.endswith(("branch.1", "branch.3"))
        }
        assert widths
        for name, (outside, inside) in widths.items():
            width = NANO_WIDTHS[int(name.split(".")[1])]
            expected = (value * width, width) if name.endswith(".1") else (width, value * width)
            assert (outside, inside) == expected, name


@every_design(keys="as_values")
def test_keys_as_values_are_as_wide_in_every_attention_the_shrinking_ones_too(design):
    for network in (nano(design), nano(shrinking(design))):
        blocks = modules_of(network, Attention)
        assert {(block.key_dim, block.value_dim) for block in blocks} == {(16, 16)}
    heads = [stage.downsample.num_heads for stage in network.stages[1:]]
    assert heads == [4 * 32 // 16, 4 * 48 // 16]


@every_design(keys="small")
def test_small_keys_have_half_of_the_values_and_a_quarter_in_a_shrinking_block(design):
    for network in (nano(design), nano(shrinking(design))):
        for name, block in network.named_modules():
            if isinstance(block, Attention):
                value_dim = 32 if name.endswith("downsample") else 16
                assert (block.key_dim, block.value_dim) == (8, value_dim), name
    assert [stage.downsample.num_heads for stage in network.stages[1:]] == [32 // 8, 48 // 8]


# The class token.


@every_design(pooling="average")
def test_average_pooling_has_no_class_token_and_gives_the_mean_of_the_tokens(design):
    network = nano(design)
    assert not modules_of(network, ClassToken)
    assert not any("class_token" in name for name, _ in network.named_parameters())
    tokens, pooled = outputs_of(network, pixels(), [network.stages, network.pooling])
    grid = NANO_GRIDS[len(network.stages) - 1]
    assert tokens.shape[1] == grid[0] * grid[1]
    torch.testing.assert_close(pooled, tokens.mean(dim=1))


@every_design(pooling="class_token")
def test_a_class_token_goes_through_every_stage_and_is_all_that_the_heads_see(design):
    network = randomize(nano(design))
    tokens = outputs_of(network, pixels(), list(network.stages))
    for output, (height, width) in zip(tokens, NANO_GRIDS, strict=False):
        assert output.shape[1] == height * width + 1
    last = tokens[-1]
    logits = torch.cat([head(network.pooling(last)) for head in network.heads.values()])
    (gradient,) = torch.autograd.grad(logits.square().sum(), last)
    assert gradient[:, 1:].count_nonzero() == 0
    assert gradient[:, 0].count_nonzero() > 0


@every_design(pooling="class_token")
def test_a_class_token_is_a_query_of_every_block_the_shrinking_ones_too(design):
    network = randomize(nano(shrinking(design)))
    blocks = modules_of(network, Attention)
    seen = outputs_of(network, pixels(), [part for b in blocks for part in (b.before, b.subsample)])
    before, subsampled = seen[::2], seen[1::2]
    assert len(before) == len(blocks) == 4 + 2
    for tokens, queries in zip(before, subsampled, strict=True):
        assert torch.equal(queries[:, 0], tokens[:, 0])


@every_design(pooling="class_token")
def test_a_class_token_has_two_biases_of_its_own_in_every_head_of_every_block(design):
    network = nano(replace(shrinking(design), position="attention_bias"))
    for name, block in network.named_modules():
        if isinstance(block, Attention):
            stage = int(name.split(".")[1]) - name.endswith("downsample")
            height, width = NANO_GRIDS[stage]
            assert block.position.biases.shape == (block.num_heads, height * width + 2), name


def test_a_class_token_passes_a_downsampling_convolution_by_a_linear_layer_of_its_own():
    network = randomize(nano(Design(pooling="class_token", downsampling="convolution"))).eval()
    downsample = network.stages[1].downsample
    tokens = torch.randn(2, 65, 32, generator=torch.Generator().manual_seed(3))
    class_token, patches = downsample(tokens).split([1, 16], dim=1)
    other = tokens.clone()
    other[:, 0] += 1
    assert torch.equal(downsample(other)[:, 1:], patches)
    assert not torch.equal(downsample(other)[:, :1], class_token)
    other = tokens.clone()
    other[:, 1:] += 1
    assert torch.equal(downsample(other)[:, :1], class_token)


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


# The attention.


def naive_bias(biases, grid, stride, num_class_tokens):
    """B[h, |row offset|, |column offset|] in plain loops, and the class token's own two."""
    height, width = grid
    class_tokens = [None] * num_class_tokens
    queries = class_tokens + [
        (row, column) for row in range(0, height, stride) for column in range(0, width, stride)
    ]
    keys = class_tokens + [(row, column) for row in range(height) for column in range(width)]
    bias = torch.zeros(len(biases), len(queries), len(keys), dtype=biases.dtype)
    for head in range(len(biases)):
        for q, query in enumerate(queries):
            for k, key in enumerate(keys):
                if query and key:
                    rows, columns = abs(query[0] - key[0]), abs(query[1] - key[1])
                    bias[head, q, k] = biases[head, rows * width + columns]
                elif key:
                    bias[head, q, k] = biases[head, height * width]
                elif query:
                    bias[head, q, k] = biases[head, height * width + 1]
    return bias


@pytest.mark.parametrize("grid", [(3, 5), (4, 2), (1, 4), (1, 1)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("num_class_tokens", [0, 1])
def test_attention_bias_is_that_of_plain_loops(grid, stride, num_class_tokens):
    module = AttentionBias(3, grid, stride, num_class_tokens)
    assert module.biases.shape == (3, grid[0] * grid[1] + 2 * num_class_tokens)
    module.reset_parameters()
    assert module.biases.count_nonzero() == 0
    randomize(module)
    expected = naive_bias(module.biases, grid, stride, num_class_tokens)
    scores = torch.randn(2, *expected.shape, generator=torch.Generator().manual_seed(3))
    assert torch.equal(module(scores), scores + expected)


@pytest.mark.parametrize("grid", [(3, 5), (4, 2), (1, 1)])
@pytest.mark.parametrize("num_class_tokens", [0, 1])
def test_subsampling_keeps_the_class_token_and_every_second_patch(grid, num_class_tokens):
    height, width = grid
    patches = torch.arange(height * width).view(grid)
    tokens = torch.cat([torch.full((num_class_tokens,), -1), patches.flatten()]).view(1, -1, 1)
    kept = Subsample(grid, 2, num_class_tokens)(tokens).flatten().tolist()
    assert kept == [-1] * num_class_tokens + patches[::2, ::2].flatten().tolist()


@pytest.mark.parametrize("pooling", CHOICES["pooling"])
@pytest.mark.parametrize("norm", CHOICES["norm"])
@pytest.mark.parametrize("block", ["stages.2.attention0.branch", "stages.2.downsample"])
def test_attention_is_softmax_of_scaled_products_plus_bias_head_by_head(block, norm, pooling):
    network = randomize(nano(Design(norm=norm, pooling=pooling)).double()).eval()
    attention = network.get_submodule(block)
    grid, stride = ((4, 4), 2) if "downsample" in block else ((2, 2), 1)
    num_class_tokens = int(pooling == "class_token")
    width = attention.queries.layer.in_features
    num_tokens = grid[0] * grid[1] + num_class_tokens
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randn(2, num_tokens, width, generator=generator, dtype=torch.float64)

    normed = attention.before(tokens)
    queries = attention.queries(normed[:, attention.subsample.kept] if stride > 1 else normed)
    keys_values = attention.keys_values(normed)
    bias = naive_bias(attention.position.biases, grid, stride, num_class_tokens)
    key, value = attention.key_dim, attention.value_dim
    attended = []
    for head in range(attention.num_heads):
        q = queries[..., head * key : (head + 1) * key]
        start = head * (key + value)
        k = keys_values[..., start : start + key]
        v = keys_values[..., start + key : start + key + value]
        attended.append(((q @ k.mT) / key**0.5 + bias[head]).softmax(dim=-1) @ v)
    activated = functional.hardswish(torch.cat(attended, dim=-1))
    torch.testing.assert_close(attention(tokens), attention.projection(activated))


@pytest.mark.parametrize("grid", [(3, 5), (5, 2), (4, 4)])
def test_a_downsampling_convolution_sees_the_patches_where_they_are_in_the_image(grid):
    module = randomize(PatchConvolution(grid, 6, 4, NORM_KITS["batch"])).eval()
    image = torch.randn(2, 6, *grid, generator=torch.Generator().manual_seed(3))
    expected = module.convolution(image)
    assert expected.shape == (2, 4, -(-grid[0] // 2), -(-grid[1] // 2))
    tokens = module(image.flatten(2).mT)
    assert torch.equal(tokens, expected.flatten(2).mT)


@settings(max_examples=20, deadline=None, database=None, derandomize=True)
@given(
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    channels=st.integers(1, 4),
    num_classes=st.integers(2, 12),
    pooling=st.sampled_from(CHOICES["pooling"]),
)
def test_both_stems_and_both_downsamplings_give_the_same_grids_from_any_image(
    height, width, channels, num_classes, pooling
):
    images = Images(channels=channels, height=height, width=width, num_classes=num_classes)
    patches = [-(-height // side) * -(-width // side) for side in (4, 8, 16)]
    for stem, downsampling in itertools.product(CHOICES["stem"], CHOICES["downsampling"]):
        design = Design(stem=stem, downsampling=downsampling, pooling=pooling)
        network = nano(design, images).eval()
        parts = [network.stem, *network.stages, network]
        with torch.no_grad():
            stem_output, *stages, logits = outputs_of(network, pixels(images=images), parts)
        assert stem_output.shape == (2, patches[0], 32)
        num_class_tokens = int(pooling == "class_token")
        assert [stage.shape[1] - num_class_tokens for stage in stages] == patches
        assert logits.shape == (2, num_classes)
        assert logits.isfinite().all()


@pytest.mark.parametrize("stem", CHOICES["stem"])
def test_a_stem_gives_tokens_row_by_row_and_reads_every_pixel_of_a_ragged_image(stem):
    images = replace(DIGITS, height=10, width=21)
    network = randomize(nano(Design(stem=stem), images)).eval()
    image = pixels(images=images).requires_grad_()
    tokens = network.stem(image)
    assert tokens.shape == (2, 3 * 6, 32)
    second_row = tokens[:, 6].sum()
    (gradient,) = torch.autograd.grad(second_row, image, retain_graph=True)
    assert gradient[:, :, 4:8, :4].count_nonzero() > 0
    assert gradient[:, :, :, 8:].count_nonzero() == 0
    (gradient,) = torch.autograd.grad(tokens.sum(), image)
    assert (gradient != 0).any(dim=(0, 1)).all()


# Drop path.


def test_drop_path_is_in_every_residual_branch_and_only_while_training():
    network = LeViT(replace(NANO, drop_path=0.5), Design(zero_init=False), DIGITS)
    residuals = modules_of(network, Residual)
    assert len(residuals) == 2 * 4 + 2
    assert {residual.drop_path.drop_prob for residual in residuals} == {0.5}
    residual = network.stages[0].mlp0
    tokens = torch.randn(64, 3, 32, generator=torch.Generator().manual_seed(3))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        dropped = (residual(tokens) == tokens).all(dim=2).all(dim=1)
    assert 16 < dropped.sum() < 48
    torch.testing.assert_close(residual.eval()(tokens), tokens + residual.branch(tokens))


# Initialisation.


def shared(first, second):
    """The parameters that two networks have in common: equal names, equal shapes."""
    theirs = dict(second.named_parameters())
    return {
        name: (parameter, theirs[name])
        for name, parameter in first.named_parameters()
        if name in theirs and theirs[name].shape == parameter.shape
    }


@pytest.mark.parametrize("flip", SINGLE_FLIPS, ids=str)
def test_layers_that_two_variants_share_start_with_equal_values(flip):
    base = Design(zero_init="norm" not in flip)  # each norm puts the zeros somewhere else
    first, second = nano(base), nano(replace(base, **flip))
    parameters = shared(first, second)
    assert "stages.0.attention0.branch.projection.layer.weight" in parameters
    assert len(parameters) > 20
    different = {name for name, pair in parameters.items() if not torch.equal(*pair)}
    if "zero_init" in flip:
        ends = ("projection.norm.weight", "branch.3.norm.weight")
        assert different
        assert all(".branch." in name and name.endswith(ends) for name in different)
    else:
        assert not different


@pytest.mark.parametrize("design", DESIGNS, ids=name_of)
def test_one_seed_gives_one_network_and_another_seed_another(design):
    first, again, other = (nano(design, seed=seed) for seed in (3, 3, 4))
    for name, (a, b) in shared(first, again).items():
        assert torch.equal(a, b), name
    drawn = [name for name, p in first.named_parameters() if p.unique().numel() > 1]
    matrices = [
        name
        for name, p in first.named_parameters()
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
