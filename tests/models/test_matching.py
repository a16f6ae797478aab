"""The solver: the paper's own solutions, and a cost that is met whatever is flipped."""

import itertools
from dataclasses import replace

import pytest
from designs import SINGLE_FLIPS

from levit_ablate.config import Architecture, Design, Images, Stage, differences
from levit_ablate.errors import UserError
from levit_ablate.models import geometry
from levit_ablate.models.cost import costs
from levit_ablate.models.matching import match
from levit_ablate.models.presets import preset, shipped

LEVIT_128S = preset("levit_128s").architecture
IMAGENET = preset("levit_128s").images


def cost_of(architecture, design, images, cost):
    return getattr(costs(architecture, design, images).total, cost)


def matched_to(architecture, design, images, cost):
    """The architecture under `design` at the cost that it has by default, and that cost."""
    target = cost_of(architecture, Design(), images, cost)
    return match(architecture, design, images, cost, target), target


def error_of(architecture, design, images, cost, target):
    return cost_of(architecture, design, images, cost) / target - 1


# The paper's own solutions.


def test_without_a_pyramid_the_solution_is_the_papers_row_a1():
    matched, _ = matched_to(LEVIT_128S, Design(pyramid=False), IMAGENET, "flops")
    assert matched == Architecture(
        stages=(Stage(depth=11, width=114, num_heads=3),), value_dim=38, stem_depth=4
    )
    (stage,) = matched.stages
    assert geometry.key_dim_of(matched, Design(pyramid=False), stage) == 19


def test_with_deits_blocks_the_solution_is_the_papers_row_a6():
    design = Design(keys="as_values", mlp_expansion=4)
    matched, _ = matched_to(LEVIT_128S, design, IMAGENET, "flops")
    assert [stage.width for stage in matched.stages] == [120, 180, 240]
    assert [stage.num_heads for stage in matched.stages] == [4, 6, 8]
    assert [stage.depth for stage in matched.stages] == [2, 3, 4]
    for stage in matched.stages:
        heads = geometry.block_heads(matched, design, stage)
        assert (heads.key_dim, heads.value_dim) == (30, 30)
    shrinking = [geometry.shrinking_heads(matched, design, s) for s in matched.stages[:2]]
    assert [heads.num_heads for heads in shrinking] == [16, 24]
    assert {(heads.key_dim, heads.value_dim) for heads in shrinking} == {(30, 30)}


def test_four_heads_without_a_pyramid_would_need_keys_smaller_than_the_base_models():
    target = cost_of(LEVIT_128S, Design(), IMAGENET, "flops")
    errors = {
        key_dim: error_of(
            Architecture(
                stages=(Stage(depth=11, width=8 * key_dim, num_heads=4),), value_dim=2 * key_dim
            ),
            Design(pyramid=False),
            IMAGENET,
            "flops",
            target,
        )
        for key_dim in range(10, 20)
    }
    assert min(errors, key=lambda key_dim: abs(errors[key_dim])) == 14


# Every preset, every flip.


@pytest.mark.parametrize("model", shipped())
def test_every_flip_of_a_preset_is_matched_within_three_percent_and_then_stays(model):
    architecture, images = preset(model).architecture, preset(model).images
    missed, changed = [], []
    for design, cost in itertools.product(SINGLE_FLIPS, ("flops", "params")):
        flip = (cost, differences(Design(), design))
        matched, target = matched_to(architecture, design, images, cost)
        if abs(error_of(matched, design, images, cost, target)) > 0.03:
            missed.append(flip)
        if match(matched, design, images, cost, target) != matched:
            changed.append(flip)
    assert missed == []
    assert changed == []


@pytest.mark.parametrize(
    "design",
    [
        Design(),
        Design(position="none"),
        Design(norm="layer"),
        Design(attention_activation="none", activation="gelu", distillation="none"),
    ],
    ids=["levit", "position", "norm", "activation"],
)
def test_a_geometry_within_one_percent_is_left_alone(design):
    target = cost_of(LEVIT_128S, Design(), IMAGENET, "flops")
    assert abs(error_of(LEVIT_128S, design, IMAGENET, "flops", target)) < 0.01
    assert match(LEVIT_128S, design, IMAGENET, "flops", target) == LEVIT_128S


@pytest.mark.parametrize(
    ("share", "same"), [(0.9905, True), (1.0095, True), (0.985, False), (1.015, False)]
)
def test_the_geometry_is_left_alone_up_to_one_percent_and_no_further(share, same):
    target = round(cost_of(LEVIT_128S, Design(), IMAGENET, "flops") / share)
    matched = match(LEVIT_128S, Design(), IMAGENET, "flops", target)
    assert (matched == LEVIT_128S) is same
    assert abs(error_of(matched, Design(), IMAGENET, "flops", target)) < 0.011


# What is scaled, and what is not.


@pytest.mark.parametrize(("cost", "factor"), [("flops", 0.5), ("params", 2)])
def test_another_target_scales_widths_and_heads_size_and_keeps_depths_and_heads(cost, factor):
    target = int(factor * cost_of(LEVIT_128S, Design(), IMAGENET, cost))
    matched = match(LEVIT_128S, Design(), IMAGENET, cost, target)
    assert abs(error_of(matched, Design(), IMAGENET, cost, target)) <= 0.03
    for before, after in zip(LEVIT_128S.stages, matched.stages, strict=True):
        assert (after.depth, after.num_heads) == (before.depth, before.num_heads)
        assert after.width / before.width == pytest.approx(factor**0.5, rel=0.15)
    assert matched.value_dim / LEVIT_128S.value_dim == pytest.approx(factor**0.5, rel=0.15)
    assert matched.value_dim % 2 == 0
    assert matched.stem_depth == LEVIT_128S.stem_depth


def test_flops_are_matched_on_the_images_given_as_they_depend_on_their_size():
    design = Design(pooling="class_token")  # a token beside 16 patches weighs more than beside 196
    small = replace(IMAGENET, height=64, width=64)
    wide, narrow = (
        matched_to(LEVIT_128S, design, images, "flops")[0].stages[0].width
        for images in (IMAGENET, small)
    )
    assert narrow < wide <= 128


@pytest.mark.parametrize("flip", [{"pyramid": False}, {"keys": "as_values"}, {"mlp_expansion": 4}])
def test_drop_path_and_stem_depth_stay(flip):
    nano = preset("levit_nano")
    architecture = replace(nano.architecture, drop_path=0.25, stem_depth=3)
    matched, _ = matched_to(architecture, Design(**flip), nano.images, "flops")
    assert matched != architecture
    assert (matched.drop_path, matched.stem_depth) == (0.25, 3)


# What cannot be met.

TINY = Architecture(stages=(Stage(depth=1, width=2, num_heads=1),), value_dim=2, stem_depth=1)
DOT = Images(channels=1, height=8, width=8, num_classes=2)


@pytest.mark.parametrize(
    ("cost", "target", "error"), [("flops", "1,764", "14.5%"), ("params", "100", "24.0%")]
)
def test_a_cost_that_no_whole_numbers_meet_is_refused_with_the_nearest_one(cost, target, error):
    with pytest.raises(UserError) as refused:
        matched_to(TINY, Design(mlp_expansion=4), DOT, cost)
    assert str(refused.value) == (
        f"match: {cost}: the nearest geometry is {error} off the baseline's {target}, because "
        f"widths and heads are whole numbers and the network is small; use match: none"
    )


def test_a_target_below_the_smallest_network_is_refused():
    with pytest.raises(UserError, match=r"^match: params: the nearest geometry is .*% off .* 10, "):
        match(TINY, Design(), DOT, "params", 10)


def test_odd_values_are_matched_where_keys_are_as_large_as_they_are():
    odd = Architecture(
        stages=(Stage(depth=1, width=30, num_heads=2), Stage(depth=1, width=45, num_heads=3)),
        value_dim=15,
    )
    base, design = Design(keys="as_values"), Design(keys="as_values", pyramid=False)
    target = cost_of(odd, base, IMAGENET, "flops")
    matched = match(odd, design, IMAGENET, "flops", target)
    assert abs(error_of(matched, design, IMAGENET, "flops", target)) <= 0.03
