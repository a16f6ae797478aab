"""Designs to test with, and small helpers to look into a network: shared by the tests here."""

import itertools
import random
from dataclasses import replace
from typing import get_args, get_type_hints

import pytest
import torch
from torch import nn

from levit_ablate.config import Design, differences
from levit_ablate.models.levit import LeViT
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
    Design(**{name: value})
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
SPREAD = SINGLE_FLIPS + random_designs(24)


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
