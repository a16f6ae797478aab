"""Each design choice removes what it replaces, with every other choice beside it."""

import itertools
from dataclasses import replace

import pytest
import torch
from designs import (
    CHOICES,
    DESIGNS,
    NANO_WIDTHS,
    batch_norms,
    every_design,
    modules_of,
    nano,
    outputs_of,
    pixels,
    randomize,
    shrinking,
)
from torch import nn

from levit_ablate.config import Design
from levit_ablate.models.levit import Attention, LeViT
from levit_ablate.models.norms import (
    ConvolutionBatchNorm,
    Head,
    LinearBatchNorm,
)
from levit_ablate.models.parts import AbsolutePosition, AttentionBias, PatchConvolution, Subsample
from levit_ablate.models.presets import preset


@every_design(norm="layer")
def test_layer_norm_leaves_no_batch_norm(design):
    network = nano(replace(design, stem_norm="same"))
    assert not batch_norms(network)
    blocks = modules_of(network, Attention)
    assert all(isinstance(block.before, nn.LayerNorm) for block in blocks)
    assert all(isinstance(head.norm, nn.LayerNorm) for head in modules_of(network, Head))
    linear_layers = modules_of(network, nn.Linear, nn.Conv2d)
    assert all(layer.bias is not None for layer in linear_layers)


@every_design(norm="layer")
def test_layer_norm_beside_a_stem_of_batch_norm_leaves_it_there_and_nowhere_else(design):
    network = nano(replace(design, stem_norm="batch"))
    assert set(batch_norms(network)) == set(batch_norms(network.stem))
    convolutions = modules_of(network.stem, nn.Conv2d)
    assert len(batch_norms(network.stem)) == len(convolutions) > 0
    assert not modules_of(network.stem, nn.LayerNorm)
    assert all(layer.bias is None for layer in convolutions)
    blocks = modules_of(network, Attention)
    assert all(isinstance(block.before, nn.LayerNorm) for block in blocks)
    assert all(isinstance(head.norm, nn.LayerNorm) for head in modules_of(network, Head))


@every_design(norm="batch")
def test_a_stem_of_batch_norm_is_that_of_batch_norm_everywhere(design):
    same, batch = (nano(replace(design, stem_norm=norm)) for norm in CHOICES["stem_norm"])
    assert repr(same) == repr(batch)
    theirs = batch.state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in same.state_dict().items())


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
    network, biased = nano(design), nano(replace(design, position="attention_bias"))
    assert not modules_of(network, AttentionBias, AbsolutePosition)
    names = [name for name, _ in biased.named_parameters() if ".position." not in name]
    assert [name for name, _ in network.named_parameters()] == names


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
