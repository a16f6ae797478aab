"""The data stream: what a model sees at position i of epoch e.

It is a pure function of the dataset, its split, the stream's seed and the recipe, and of nothing
else: not of the variant, nor of the number of devices, processes or threads, nor of where a killed
run was resumed. So variants are paired, a teacher's answers can be cached by position, and a
resumed run sees what the uninterrupted one would have seen.

An epoch is a sequence of positions, a batch of them a step. Positions i and B − 1 − i of a batch
(B positions) are partners in mixing, and never two views of one image, unless that image has more
than half of the batch. Shards, whether devices or parts of a batch that accumulate, take whole
pairs in turn, so that the views of an image go to different devices, as in the official code's
`RASampler`, and a shard mixes its images among themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy
import torch
from torch import Tensor

from levit_ablate.config import Recipe
from levit_ablate.errors import UserError
from levit_ablate.streams import stream_seed


class Mixing(NamedTuple):
    """Mixing parameters of a batch, an entry an image."""

    share: Tensor
    """(B,) float32: what an image keeps of itself, as it was drawn (lambda)."""
    is_cutmix: Tensor
    """(B,) bool: the partner gives a rectangle, or else a part of every pixel."""
    center: Tensor
    """(B, 2) float32 in [0, 1): row and column of the rectangle's centre, as parts of the sides."""

    def at(self, places: Tensor, device: torch.device) -> Mixing:
        """Select some places of the batch, on a device."""
        return Mixing(*(values[places].to(device) for values in self))


@dataclass(frozen=True, kw_only=True)
class Stream:
    """The image and the random draws at every position of every epoch, over `num_images` images.

    Raises UserError where the images do not make one batch.
    """

    num_images: int
    seed: int
    recipe: Recipe

    def __post_init__(self) -> None:
        if self.recipe.batch_size > self.num_images:
            raise UserError(
                f"recipe.batch_size: {self.recipe.batch_size} is more than the {self.num_images:,} "
                f"training images; make it smaller"
            )

    @property
    def steps(self) -> int:
        """Steps of an epoch; the rest beyond the last full batch is left out."""
        return self.num_images // self.recipe.batch_size

    @property
    def num_positions(self) -> int:
        """Positions of an epoch: steps times batch size."""
        return self.steps * self.recipe.batch_size

    def order(self, epoch: int) -> Tensor:
        """The image at every position of an epoch: (num_positions,) int64.

        A permutation of the images, each repeated `recipe.repeats` times in a row; with repeats an
        epoch keeps its length, so that it sees only a share of the images (Hoffer et al. 2020, as
        in the official code).

        Where partners in mixing, which mirror each other in a batch, would be two views of one
        image, the second half of that batch is reversed: partners then lie half a batch apart.
        """
        generator = torch.Generator().manual_seed(stream_seed(self.seed, "order", epoch))
        needed = -(-self.num_positions // self.recipe.repeats)
        shuffled = torch.randperm(self.num_images, generator=generator)[:needed]
        order = shuffled.repeat_interleave(self.recipe.repeats)[: self.num_positions]
        half = self.recipe.batch_size // 2
        batches = order.view(self.steps, -1)
        alike = (batches == batches.flip(1))[:, :half].any(dim=1)
        batches[alike, -half:] = batches[alike, -half:].flip(1)
        return order

    def draws(self, use: str, epoch: int, step: int, num_draws: int) -> Tensor:
        """Draw uniform numbers in [0, 1) for a use in a step: (B, num_draws) float32."""
        seed = stream_seed(self.seed, use, epoch, step)
        generator = torch.Generator().manual_seed(seed)
        return torch.rand(self.recipe.batch_size, num_draws, generator=generator)

    def position_seed(self, epoch: int, position: int) -> int:
        """Seed of the draws of one position, for images that come from files."""
        return stream_seed(self.seed, "transform", epoch, position)

    def mixing(self, epoch: int, step: int) -> Mixing | None:
        """Draw the mixing of a step's batch; None where the recipe has neither mixup nor cutmix.

        There is one draw for each group of `recipe.mixing_group` images, to which pairs are dealt
        in turn, as timm's `Mixup` in its batch mode draws once for the batch of a GPU.
        """
        recipe = self.recipe
        if not recipe.mixup and not recipe.cutmix:
            return None
        rng = numpy.random.default_rng(stream_seed(self.seed, "mixing", epoch, step))
        groups = max(1, recipe.batch_size // recipe.mixing_group)
        chance = rng.random(groups)
        is_cutmix = chance < recipe.cutmix_probability if recipe.mixup else numpy.full(groups, True)
        is_cutmix &= recipe.cutmix > 0
        by_mixup = rng.beta(recipe.mixup or 1.0, recipe.mixup or 1.0, groups)
        by_cutmix = rng.beta(recipe.cutmix or 1.0, recipe.cutmix or 1.0, groups)
        share = numpy.where(is_cutmix, by_cutmix, by_mixup)
        center = rng.random((groups, 2))
        places = torch.arange(recipe.batch_size)
        group = torch.minimum(places, places.flip(0)) % groups  # that of a place's pair
        return Mixing(
            share=torch.from_numpy(share).float()[group],
            is_cutmix=torch.from_numpy(is_cutmix)[group],
            center=torch.from_numpy(center).float()[group],
        )

    def shard(self, index: int, count: int) -> Tensor:
        """Places in a batch that shard `index` of `count` takes: (B / count,) int64.

        Their order makes partners mirror each other in the shard as they do in the batch. Raises
        UserError where pairs cannot be dealt out evenly.
        """
        size = self.recipe.batch_size
        if count == 1:
            return torch.arange(size)
        if size % (2 * count):
            raise UserError(
                f"recipe.batch_size: {size} cannot be dealt to {count} devices and parts "
                f"(hardware.devices x num_nodes x accumulate) in pairs; make it a multiple of "
                f"{2 * count}"
            )
        first = torch.arange(index, size // 2, count)
        return torch.cat([first, size - 1 - first.flip(0)])
