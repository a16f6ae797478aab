"""RandAugment (Cubuk et al. 2020) of a batch of small images, as timm does it image by image.

An operation gives what Pillow gives for one image; most look values up in a table of 256. It takes
images (B, C, H, W) uint8 and a `Strength`, and returns uint8 images of that shape.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import conv2d, grid_sample
from torchvision.transforms.v2 import functional as torchvision_functional

from levit_ablate.errors import UserError

HIGHEST = 10.0
"""The highest magnitude."""
DRAWS = 4
"""Uniform numbers a layer: which operation, whether it is applied, strength, direction."""
SETTINGS = re.compile(r"(m|n|p|mstd|inc)(\d+(?:\.\d+)?)")
USAGE = "write it as rand-m9-mstd0.5-inc1: m up to 10, inc1; n and p are optional"
LUMA = (19595, 38470, 7471)
"""Weights of red, green and blue in Pillow's gray, in 65536ths."""


class Strength(NamedTuple):
    """Strength of an operation, an entry an image."""

    level: Tensor
    """(B,) float32 in [0, 1]: RandAugment's magnitude, as a share of the highest."""
    sign: Tensor
    """(B,) float32: −1 or 1."""
    fill: Tensor
    """(C, 1, 1) float32: the colour outside of an image, 0 to 255."""


Operation = Callable[[Tensor, Strength], Tensor]


def looked_up(images: Tensor, tables: Tensor) -> Tensor:
    """Replace values by their entries in tables (B, C or 1, 256), rounded down, 0 to 255."""
    tables = tables.clamp(0, 255).to(torch.uint8).expand(-1, images.shape[1], -1)
    return tables.gather(2, images.flatten(2).long()).view(images.shape)


def _values(images: Tensor) -> Tensor:
    return torch.arange(256, device=images.device)


def auto_contrast(images: Tensor, strength: Strength) -> Tensor:
    """Stretch every channel to 0 … 255."""
    pixels = images.flatten(2).double()
    low, high = pixels.amin(2, keepdim=True), pixels.amax(2, keepdim=True)
    scale = 255 / (high - low)
    stretched = (_values(images) * scale + -low * scale).floor()
    return looked_up(images, torch.where(high > low, stretched, _values(images)))


def equalize(images: Tensor, strength: Strength) -> Tensor:
    """Even out the histogram of every channel."""
    return torchvision_functional.equalize(images)


def invert(images: Tensor, strength: Strength) -> Tensor:
    """Subtract the values from 255."""
    return 255 - images


def posterize(images: Tensor, strength: Strength) -> Tensor:
    """Keep the 4 to 1 highest bits; at the highest level timm asks for 0, which Pillow refuses."""
    dropped = (4 + (strength.level * 4).long()).clamp(max=7)
    mask = 256 - (1 << dropped)
    return looked_up(images, _values(images)[None, None] & mask[:, None, None])


def solarize(images: Tensor, strength: Strength) -> Tensor:
    """Invert the values from a threshold on."""
    threshold = 256 - (strength.level * 256).long()[:, None, None]
    values = _values(images)
    return looked_up(images, torch.where(values < threshold, values, 255 - values))


def solarize_add(images: Tensor, strength: Strength) -> Tensor:
    """Add up to 110 to the values below 128."""
    values = _values(images)
    added = values + (strength.level * 110).long()[:, None, None]
    return looked_up(images, torch.where(values < 128, added, values))


def enhanced(degenerate: Tensor, images: Tensor, strength: Strength) -> Tensor:
    """Blend degenerate (factor 0) and images (1), or go beyond them: a factor of 0.1 to 1.9."""
    factor = (1 + strength.sign * strength.level * 0.9).clamp(min=0.1)[:, None, None, None]
    return (degenerate + factor * (images - degenerate)).clamp(0, 255).to(torch.uint8)


def gray(images: Tensor) -> Tensor:
    """Brightness of every pixel as Pillow rounds it: (B, 1, H, W) float32, whole numbers."""
    if images.shape[1] == 1:
        return images.float()
    weights = torch.tensor(LUMA, device=images.device)[:, None, None]
    return ((images * weights).sum(1, keepdim=True) + 2**15 >> 16).float()


def color(images: Tensor, strength: Strength) -> Tensor:
    """Saturation."""
    return enhanced(gray(images), images.float(), strength)


def contrast(images: Tensor, strength: Strength) -> Tensor:
    """Scale the distance from the mean gray."""
    mean = (gray(images).double().mean((2, 3), keepdim=True) + 0.5).floor().float()
    return enhanced(mean, images.float(), strength)


def brightness(images: Tensor, strength: Strength) -> Tensor:
    """Scale the distance from black."""
    return enhanced(torch.zeros((), device=images.device), images.float(), strength)


def sharpness(images: Tensor, strength: Strength) -> Tensor:
    """Scale the distance from the smoothed image, whose border is the image's own."""
    values = images.float()
    kernel = torch.ones(1, 1, 3, 3, device=images.device)
    kernel[..., 1, 1] = 5
    inner = conv2d(values.flatten(0, 1)[:, None], kernel).view(*images.shape[:2], -1)
    smooth = values.clone()
    smooth[:, :, 1:-1, 1:-1] = (inner / 13 + 0.5).floor().view_as(smooth[:, :, 1:-1, 1:-1])
    return enhanced(smooth, values, strength)


def affine(images: Tensor, strength: Strength, entries: dict[tuple[int, int], Tensor]) -> Tensor:
    """Take each pixel from where a 2 x 3 matrix sends it, in pixels; bilinear.

    `entries` are those of the matrices, (B,) each, that are not the identity's.
    """
    matrices = torch.eye(2, 3, device=images.device).repeat(len(images), 1, 1)
    for (row, column), values in entries.items():
        matrices[:, row, column] = values
    height, width = images.shape[-2:]
    rows = torch.arange(height, device=images.device) + 0.5
    columns = torch.arange(width, device=images.device) + 0.5
    x, y = columns.expand(height, width), rows[:, None].expand(height, width)
    points = torch.stack([x, y, torch.ones_like(x)], dim=-1)  # (H, W, 3)
    # (B, H, W, 2); a sum of products, not a matrix product, whose rounding depends on the batch
    origin = (points[None, :, :, None, :] * matrices[:, None, None]).sum(-1)
    size = torch.tensor([width, height], device=images.device)
    inside = ((origin >= 0) & (origin < size)).all(-1)[:, None]
    grid = origin * 2 / size - 1
    moved = grid_sample(images.float(), grid, padding_mode="border", align_corners=False)
    return torch.where(inside, moved, strength.fill).to(torch.uint8)


def rotate(images: Tensor, strength: Strength) -> Tensor:
    """Rotate by up to 30 degrees around the centre."""
    angle = -(strength.level * strength.sign * math.radians(30))
    cosine, sine = angle.cos(), angle.sin()
    x, y = images.shape[3] / 2, images.shape[2] / 2
    entries = {
        (0, 0): cosine,
        (0, 1): sine,
        (0, 2): x - cosine * x - sine * y,
        (1, 0): -sine,
        (1, 1): cosine,
        (1, 2): y + sine * x - cosine * y,
    }
    return affine(images, strength, entries)


def shear(images: Tensor, strength: Strength, entry: tuple[int, int]) -> Tensor:
    """Slide rows or columns by up to 0.3 of their distance from the edge."""
    return affine(images, strength, {entry: strength.level * strength.sign * 0.3})


def translate(images: Tensor, strength: Strength, axis: int) -> Tensor:
    """Move sideways (axis 0) or up and down (1) by up to 0.45 of the side."""
    most = 0.45 * images.shape[3 - axis]
    return affine(images, strength, {(axis, 2): strength.level * strength.sign * most})


OPERATIONS: dict[str, Operation] = {
    "AutoContrast": auto_contrast,
    "Equalize": equalize,
    "Invert": invert,
    "Rotate": rotate,
    "PosterizeIncreasing": posterize,
    "SolarizeIncreasing": solarize,
    "SolarizeAdd": solarize_add,
    "ColorIncreasing": color,
    "ContrastIncreasing": contrast,
    "BrightnessIncreasing": brightness,
    "SharpnessIncreasing": sharpness,
    "ShearX": partial(shear, entry=(0, 1)),
    "ShearY": partial(shear, entry=(1, 0)),
    "TranslateXRel": partial(translate, axis=0),
    "TranslateYRel": partial(translate, axis=1),
}
"""The operations under timm's names, in its order."""


class RandAugment:
    """timm's `rand_augment_transform` for a batch: some of fifteen operations on every image.

    An image's result depends on its own draws. Rotations, shears and moves are always bilinear.

    Args:
        config: timm's notation, rand-m9-mstd0.5-inc1: magnitude, the deviation of its noise, and
            operations that grow with it; also n, how many in a row, and p, the probability of each.
        fill: colour outside of an image, a value for each channel.

    Raises UserError where the notation is another one.
    """

    def __init__(self, config: str, fill: tuple[int, ...]) -> None:
        kind, *sections = config.split("-")
        settings = {"m": HIGHEST, "n": 2.0, "p": 0.5, "mstd": 0.0, "inc": 0.0}
        for section in sections:
            if not (match := SETTINGS.fullmatch(section)):
                raise UserError(f"recipe.rand_augment: {config}: {section!r} is not known; {USAGE}")
            settings[match[1]] = float(match[2])
        if kind != "rand" or settings["inc"] != 1 or settings["m"] > HIGHEST or settings["p"] > 1:
            raise UserError(f"recipe.rand_augment: {config!r} is not supported; {USAGE}")
        if settings["n"] < 1 or settings["n"] % 1:
            raise UserError(f"recipe.rand_augment: {config!r}: n must be 1, 2, 3 …; {USAGE}")
        self.magnitude = settings["m"]
        self.deviation = settings["mstd"]
        self.probability = settings["p"]
        self.num_draws = DRAWS * int(settings["n"])
        """Uniform numbers that an image needs."""
        self.fill = torch.tensor(fill, dtype=torch.float32)[:, None, None]

    def __call__(self, images: Tensor, draws: Tensor) -> Tensor:
        """Augment: (B, C, H, W) uint8, (B, num_draws) in [0, 1) → (B, C, H, W) uint8."""
        for layer in draws.split(DRAWS, dim=1):
            images = self._layer(images, *layer.unbind(1))
        return images

    def _layer(
        self, images: Tensor, which: Tensor, applied: Tensor, strength: Tensor, direction: Tensor
    ) -> Tensor:
        noise = torch.special.ndtri(strength.clamp(min=1e-7))  # uniform → normal
        level = (self.magnitude + self.deviation * noise).clamp(0, HIGHEST) / HIGHEST
        sign = torch.where(direction > 0.5, -1.0, 1.0)
        chosen = (which * len(OPERATIONS)).long()
        chosen = torch.where(applied < self.probability, chosen, -1)
        changed = images.clone(memory_format=torch.contiguous_format)
        for number, operation in enumerate(OPERATIONS.values()):
            rows = (chosen == number).nonzero().squeeze(1)
            if len(rows):
                of_rows = Strength(level[rows], sign[rows], self.fill.to(images.device))
                changed[rows] = operation(images[rows], of_rows)
        return changed
