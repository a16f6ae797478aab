"""Networks are brought within a budget, and near to it, by their widths alone."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from levit_ablate.config import Architecture, Design, Images, Stage
from levit_ablate.models.cost import costs
from levit_ablate.models.matching import Budget, within

IMAGES = Images(channels=3, height=32, width=32, num_classes=10)
BASE = Architecture(
    stages=(Stage(depth=1, width=48, num_heads=2), Stage(depth=2, width=64, num_heads=3)),
    value_dim=16,
    stem_depth=3,
)
FREE = [range(16, 97, 2), range(16, 129, 2)]
DESIGN = Design()


def flops(architecture, design=DESIGN):
    return costs(architecture, design, IMAGES).total.flops


def widths(architecture):
    return [stage.width for stage in architecture.stages]


@settings(max_examples=15, deadline=None)
@given(share=st.floats(0.3, 3.0), widen=st.booleans())
def test_no_cost_is_beyond_the_budget_and_a_network_that_may_be_widened_is_near(share, widen):
    limit = int(share * flops(BASE))
    found = within(BASE, DESIGN, IMAGES, Budget(flops=limit), FREE, widen=widen)
    if found is None:
        assert (
            flops(
                replace(
                    BASE,
                    stages=(replace(BASE.stages[0], width=16), replace(BASE.stages[1], width=16)),
                )
            )
            > limit
        )
        return
    assert flops(found) <= limit
    assert (
        all(width in free for width, free in zip(widths(found), FREE, strict=True)) or found == BASE
    )
    if widen and found != BASE:
        at_their_widest = widths(found) == [96, 128]
        assert flops(found) > 0.95 * limit or at_their_widest
    if not widen and share >= 1:
        assert found == BASE
    assert [s.depth for s in found.stages] == [1, 2]


def test_without_a_budget_nothing_changes():
    assert within(BASE, DESIGN, IMAGES, Budget(), FREE, widen=True) == BASE


def test_a_network_near_the_budget_is_left_as_it_is():
    limit = int(1.01 * flops(BASE))
    assert within(BASE, DESIGN, IMAGES, Budget(flops=limit), FREE, widen=True) == BASE


def test_of_two_limits_both_hold():
    cost = costs(BASE, DESIGN, IMAGES).total
    tight = Budget(flops=2 * cost.flops, params=cost.params // 2)
    found = within(BASE, DESIGN, IMAGES, tight, FREE, widen=True)
    own = costs(found, DESIGN, IMAGES).total
    assert own.params <= tight.params and own.flops <= tight.flops


def test_a_fixed_width_stays():
    found = within(
        BASE, DESIGN, IMAGES, Budget(flops=flops(BASE) * 95 // 100), [[48], FREE[1]], widen=True
    )
    assert widths(found)[0] == 48 and widths(found)[1] < 64


def test_without_a_pyramid_only_the_first_width_counts():
    design = Design(pyramid=False)
    limit = flops(BASE, design) // 2
    found = within(BASE, design, IMAGES, Budget(flops=limit), FREE, widen=True)
    assert 0.9 * limit < flops(found, design) <= limit


@pytest.mark.parametrize("limit", [1, 1000])
def test_an_impossible_budget_gives_nothing(limit):
    assert within(BASE, DESIGN, IMAGES, Budget(flops=limit), FREE, widen=False) is None
