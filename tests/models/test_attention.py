"""Attention, its bias and the ways between grids, against plain loops."""

import itertools
from dataclasses import replace

import pytest
import torch
from designs import (
    CHOICES,
    DIGITS,
    nano,
    outputs_of,
    pixels,
    randomize,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from levit_ablate.config import Design, Images
from levit_ablate.models.norms import (
    NORM_KITS,
    torch_default,
)
from levit_ablate.models.parts import AttentionBias, PatchConvolution, Subsample


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
    module = randomize(PatchConvolution(grid, 6, 4, NORM_KITS["batch"](torch_default))).eval()
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
