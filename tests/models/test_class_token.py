"""The class token goes through the whole pyramid."""

from dataclasses import replace

import torch
from designs import (
    NANO_GRIDS,
    every_design,
    modules_of,
    nano,
    outputs_of,
    pixels,
    randomize,
    shrinking,
)

from levit_ablate.config import Design
from levit_ablate.models.levit import Attention
from levit_ablate.models.parts import ClassToken


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
