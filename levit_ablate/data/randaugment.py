"""RandAugment (Cubuk et al. 2020) of a whole batch, as timm does it image by image."""

from __future__ import annotations

import re

import torch
from torch import Tensor

from levit_ablate.data.operations import OPERATIONS, Strength
from levit_ablate.errors import UserError

HIGHEST = 10.0
"""The highest magnitude."""
DRAWS = 4
"""Of a layer: which operation, whether it is applied, how strongly, and in which direction."""
SETTINGS = re.compile(r"(m|n|p|mstd|inc)(\d+(?:\.\d+)?)")


class RandAugment:
    """Applies some of fifteen operations to every image, by the image's own draws.

    timm's `rand_augment_transform`, except that what is rotated, sheared and moved is interpolated
    bilinearly.

    Args:
        config: timm's notation, rand-m9-mstd0.5-inc1: magnitude, the deviation of its noise, and
            operations that grow with it; also n, how many in a row, and p, the probability of each.
        fill: colour of what comes from outside an image, a value for each channel.

    Raises UserError where the notation is another one.
    """

    def __init__(self, config: str, fill: tuple[int, ...]) -> None:
        kind, *sections = config.split("-")
        settings = {"m": HIGHEST, "n": 2.0, "p": 0.5, "mstd": 0.0, "inc": 0.0}
        for section in sections:
            if not (found := SETTINGS.fullmatch(section)):
                raise UserError(f"recipe.rand_augment: {config}: {section!r} is not known; {USAGE}")
            settings[found[1]] = float(found[2])
        if kind != "rand" or settings["inc"] != 1 or settings["m"] > HIGHEST or settings["p"] > 1:
            raise UserError(f"recipe.rand_augment: {config!r} is not supported; {USAGE}")
        if settings["n"] < 1 or settings["n"] % 1:
            raise UserError(f"recipe.rand_augment: {config!r}: n must be 1, 2, 3 …; {USAGE}")
        self.magnitude = settings["m"]
        self.deviation = settings["mstd"]
        self.probability = settings["p"]
        self.num_layers = int(settings["n"])
        self.fill = torch.tensor(fill, dtype=torch.float32)[:, None, None]

    @property
    def num_draws(self) -> int:
        """Uniform numbers that an image needs."""
        return DRAWS * self.num_layers

    def __call__(self, images: Tensor, draws: Tensor) -> Tensor:
        """(B, C, H, W) uint8, (B, num_draws) in [0, 1) → (B, C, H, W) uint8."""
        for layer in draws.split(DRAWS, dim=1):
            images = self._layer(images, layer)
        return images

    def _layer(self, images: Tensor, draws: Tensor) -> Tensor:
        noise = torch.special.ndtri(draws[:, 2].clamp(min=1e-7))  # uniform → normal
        level = (self.magnitude + self.deviation * noise).clamp(0, HIGHEST) / HIGHEST
        sign = torch.where(draws[:, 3] > 0.5, -1.0, 1.0)
        which = (draws[:, 0] * len(OPERATIONS)).long()
        which = torch.where(draws[:, 1] < self.probability, which, -1)
        changed = images.clone(memory_format=torch.contiguous_format)
        for number, operation in enumerate(OPERATIONS.values()):
            rows = (which == number).nonzero().squeeze(1)
            if len(rows):
                strength = Strength(level[rows], sign[rows], self.fill.to(images.device))
                changed[rows] = operation(images[rows], strength)
        return changed


USAGE = "write it as rand-m9-mstd0.5-inc1: m up to 10, inc1; n and p are optional"
