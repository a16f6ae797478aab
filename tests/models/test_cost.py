"""The cost: the paper's figures, and every figure against a count of the full network."""

from dataclasses import replace

import pytest
import torch
from designs import CHOICES, SINGLE_FLIPS, name_of, random_designs
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from levit_ablate.config import Architecture, Design, Images, Stage
from levit_ablate.models.cost import Cost, costs
from levit_ablate.models.levit import LeViT
from levit_ablate.models.presets import preset

EVERY_DESIGN = pytest.mark.parametrize(
    "design", [Design(), *SINGLE_FLIPS, *random_designs(24, seed=1)], ids=name_of
)

# The paper's figures. Geometries are written out, so that nothing here rests on presets or solver.

IMAGENET = Images(channels=3, height=224, width=224, num_classes=1000)
LEVIT_128S = Architecture(
    stages=(
        Stage(depth=2, width=128, num_heads=4),
        Stage(depth=3, width=256, num_heads=6),
        Stage(depth=4, width=384, num_heads=8),
    ),
    value_dim=32,
)
A1 = Architecture(stages=(Stage(depth=11, width=114, num_heads=3),), value_dim=38)
A6 = Architecture(
    stages=(
        Stage(depth=2, width=120, num_heads=4),
        Stage(depth=3, width=180, num_heads=6),
        Stage(depth=4, width=240, num_heads=8),
    ),
    value_dim=30,
)


@pytest.mark.parametrize(
    ("architecture", "design", "flops", "params"),
    [
        pytest.param(LEVIT_128S, Design(), 304.7, 7.391, id="base"),
        pytest.param(A1, Design(pyramid=False), 308.3, 1.215, id="A1"),
        pytest.param(LEVIT_128S, Design(stem="patch"), 275.2, 7.392, id="A2"),
        pytest.param(A6, Design(keys="as_values", mlp_expansion=4), 312.2, 6.196, id="A6"),
    ],
)
def test_rows_of_the_papers_table_to_four_figures(architecture, design, flops, params):
    total = costs(architecture, design, IMAGENET).total
    assert round(total.flops / 1e6, 1) == flops
    assert round(total.params / 1e6, 3) == params


@pytest.mark.parametrize(
    "design",
    [
        pytest.param(Design(norm="layer", zero_init=False), id="A3"),
        pytest.param(
            Design(norm="layer", stem_norm="batch", zero_init=False), id="A3, but the stem"
        ),
        pytest.param(Design(distillation="none"), id="A4"),
        pytest.param(Design(position="absolute"), id="A5"),
        pytest.param(Design(attention_activation="none"), id="A7"),
    ],
)
def test_rows_that_change_no_multiplication_cost_what_the_base_model_does(design):
    base = costs(LEVIT_128S, Design(), IMAGENET).total
    total = costs(LEVIT_128S, design, IMAGENET).total
    assert total.flops == base.flops
    assert round(total.params / 1e6, 1) == 7.4


def test_one_head_and_no_teacher_cost_exactly_the_papers_convention():
    base = costs(LEVIT_128S, Design(), IMAGENET).total
    assert base.params == 7_391_290
    assert costs(LEVIT_128S, Design(distillation="none"), IMAGENET).total == base
    assert costs(LEVIT_128S, Design(distillation="soft"), IMAGENET).total == base
    assert costs(LEVIT_128S, Design(attention_activation="none"), IMAGENET).total == base


@pytest.mark.parametrize(
    ("model", "flops", "params"),
    [
        ("levit_128s", 305, 7.8),
        ("levit_128", 406, 9.2),
        ("levit_192", 658, 10.9),
        ("levit_256", 1120, 18.9),
        ("levit_384", 2353, 39.1),
    ],
)
def test_presets_cost_what_the_paper_says(model, flops, params):
    chosen = preset(model)
    cost = costs(chosen.architecture, Design(), chosen.images)
    assert cost.total.flops / 1e6 == pytest.approx(flops, rel=0.01)
    two_heads = cost.total.params + cost.head.params
    assert round(two_heads / 1e6, 1) == params
    with torch.device("meta"):
        network = LeViT(chosen.architecture, Design(), chosen.images)
    assert two_heads == sum(parameter.numel() for parameter in network.parameters())


# Against the full network. Depths and widths that differ in every stage, an image that is not
# square and that no stride divides: nothing comes out right by coincidence.

UNEVEN = Architecture(
    stages=(
        Stage(depth=3, width=18, num_heads=2),
        Stage(depth=1, width=30, num_heads=1, value_dim=12),
        Stage(depth=2, width=44, num_heads=5, mlp_expansion=3.5),
    ),
    value_dim=8,
    stem_depth=2,
    stem_width=26,
    drop_path=0.2,
)
RAGGED = Images(channels=2, height=25, width=54, num_classes=7)


class SoftmaxEntries(TorchDispatchMode):
    """Counts the entries of every softmax that runs."""

    def __init__(self):
        super().__init__()
        self.entries = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        output = function(*args, **(kwargs or {}))
        if function is torch.ops.aten._softmax.default:
            self.entries += output.numel()
        return output


def measured_multiply_adds(network, images):
    """What torch counts (as two for a multiply-add) and the entries of every softmax."""
    image = torch.zeros(1, images.channels, images.height, images.width)
    with torch.no_grad(), FlopCounterMode(display=False) as counter, SoftmaxEntries() as softmax:
        network.eval()(image)
    assert softmax.entries > 0
    assert counter.get_total_flops() % 2 == 0
    return counter.get_total_flops() // 2 + softmax.entries


def distilled(network):
    """The head that the paper's convention leaves out, where there is one."""
    return [head for name, head in network.heads.items() if name == "distilled"]


@EVERY_DESIGN
def test_params_are_the_sum_over_the_full_network_less_the_distilled_head(design):
    network = LeViT(UNEVEN, design, RAGGED)
    params = sum(parameter.numel() for parameter in network.parameters())
    for head in distilled(network):
        params -= sum(parameter.numel() for parameter in head.parameters())
    assert costs(UNEVEN, design, RAGGED).total.params == params


@EVERY_DESIGN
def test_flops_are_those_that_torch_counts_and_the_softmax_entries(design):
    network = LeViT(UNEVEN, design, RAGGED)
    flops = measured_multiply_adds(network, RAGGED)
    for head in distilled(network):
        flops -= head.layer.weight.numel()
    assert costs(UNEVEN, design, RAGGED).total.flops == flops


@pytest.mark.parametrize("size", [(32, 32), (8, 72), (1, 1), (33, 31)])
@pytest.mark.parametrize("pooling", CHOICES["pooling"])
@pytest.mark.parametrize("downsampling", CHOICES["downsampling"])
def test_flops_are_exact_for_any_image(size, pooling, downsampling):
    images = replace(RAGGED, height=size[0], width=size[1])
    design = Design(pooling=pooling, downsampling=downsampling, distillation="none")
    network = LeViT(UNEVEN, design, images)
    assert costs(UNEVEN, design, images).total.flops == measured_multiply_adds(network, images)


# The parts.


def test_parts_are_the_cost_of_stem_stages_and_head():
    design = Design(pooling="class_token", position="absolute")
    cost = costs(UNEVEN, design, RAGGED)
    network = LeViT(UNEVEN, design, RAGGED)

    def params(*modules):
        return sum(parameter.numel() for module in modules for parameter in module.parameters())

    assert cost.stem.params == params(network.stem, network.class_token, network.position)
    assert [stage.params for stage in cost.stages] == [params(stage) for stage in network.stages]
    assert cost.head == Cost(params=params(network.heads["supervised"]), flops=44 * 7)
    parts = (cost.stem, *cost.stages, cost.head)
    assert cost.total.params == sum(part.params for part in parts)
    assert cost.total.flops == sum(part.flops for part in parts)
    assert all(part.flops > 0 for part in parts)


def test_an_image_costs_flops_and_no_params_but_for_its_positions():
    small, large = replace(RAGGED, height=16, width=16), replace(RAGGED, height=64, width=64)
    design = Design(position="none")
    assert costs(UNEVEN, design, small).total.params == costs(UNEVEN, design, large).total.params
    assert costs(UNEVEN, design, small).total.flops < costs(UNEVEN, design, large).total.flops / 16
    # a bias for each head and offset: 4x4, 2x2, 1x1 patches against 16x16, 8x8, 4x4; the shrinking
    # blocks after widths of 18 and 30 have 4 and 5 heads
    few, many = (costs(UNEVEN, Design(), images).total.params for images in (small, large))
    assert many - few == (3 * 2 + 4) * (256 - 16) + (1 + 5) * (64 - 4) + (2 * 5) * (16 - 1)
