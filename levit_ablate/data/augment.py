"""Augment a batch of small images at once: crop, flip, colour, normalisation, erasing.

No function draws a random number: `draws` come from the data stream, uniform in [0, 1), a row an
image. An image's result depends on its row alone.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import pad

CROP_DRAWS = 3
"""Uniform numbers an image: row, column, flip."""
JITTER_DRAWS = 3
"""Uniform numbers an image: brightness, contrast, saturation."""
ERASE_CANDIDATES = 10
"""Rectangles to try until one fits into the image, as in timm."""
ERASE_DRAWS = 2 + 4 * ERASE_CANDIDATES
"""Uniform numbers an image: whether at all, where in the noise; area, aspect, row, column of each
candidate."""
ERASE_AREA = (0.02, 1 / 3)
ERASE_ASPECT = (0.3, 1 / 0.3)
NOISE = 2**20
"""Least size of the noise that erasing takes its pixels from."""
GRAY = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in a pixel's brightness (ITU-R 601)."""


class Store:
    """Images stored so that the random crops of a batch are two gathers.

    A pixel of three channels is one 32-bit word (its fourth byte is unused), a pixel of one channel
    a byte; each image has one black pixel more, for everything outside of it. A table holds the
    pixels of every crop: (2 · padding + 1)² · 2 · H · W · 8 bytes, 1.3 MB at 32 pixels.
    """

    def __init__(self, images: Tensor, padding: int) -> None:
        """Store (N, C, H, W) uint8, C being 1 or 3: N · (H · W + 1) bytes, or four times that."""
        self.channels, self.height, self.width = images.shape[1:]
        self.padding = padding
        pixels = pad(images.flatten(2), (0, 1))  # (N, C, H·W + 1)
        if self.channels == 3:
            pixels = pad(pixels.transpose(1, 2), (0, 1)).contiguous()  # (N, H·W + 1, 4)
            self.pixels = pixels.view(torch.int32).squeeze(2)
        else:
            self.pixels = pixels.squeeze(1).contiguous()
        self.crops = self._crops().to(images.device)

    def _crops(self) -> Tensor:
        """Pixel numbers of every crop: (row offsets · column offsets · 2, H · W) int64."""
        offsets = torch.arange(-self.padding, self.padding + 1)
        rows = offsets[:, None] + torch.arange(self.height)
        columns = offsets[:, None] + torch.arange(self.width)
        columns = torch.stack([columns, columns.flip(1)], dim=1)  # (offsets, 2, W)
        rows, columns = rows[:, None, None, :, None], columns[None, :, :, None, :]
        inside = (rows >= 0) & (rows < self.height) & (columns >= 0) & (columns < self.width)
        places = torch.where(inside, rows * self.width + columns, self.height * self.width)
        return places.reshape(-1, self.height * self.width)

    def crop_and_flip(self, indices: Tensor, draws: Tensor, flip: float) -> Tensor:
        """Select images, move each by up to the padding in both directions, and mirror some.

        As torchvision's RandomCrop with zero padding, then RandomHorizontalFlip of probability
        `flip`. (B,) int64, (B, CROP_DRAWS) → (B, C, H, W) uint8, in no particular memory order.
        """
        offsets = 2 * self.padding + 1
        row, column = (draws[:, :2] * offsets).long().unbind(1)
        crop = (row * offsets + column) * 2 + (draws[:, 2] < flip)
        pixels = self.pixels[indices].gather(1, self.crops[crop])
        shape = (len(indices), self.height, self.width, -1)
        return pixels.view(torch.uint8).view(shape)[..., : self.channels].permute(0, 3, 1, 2)


def color_jitter(images: Tensor, draws: Tensor, strength: float) -> Tensor:
    """Change brightness, contrast and saturation, each by a factor uniform in 1 ± strength.

    As torchvision's ColorJitter, but always in this order. (B, C, H, W) uint8, (B, 3) →
    uint8. One channel has no saturation.
    """
    factors = (1 + strength * (2 * draws - 1)).clamp(min=0)[:, :, None, None]  # (B, 3, 1, 1)
    bright = (images.contiguous() * factors[:, :1]).clamp(0, 255).floor()
    mean = gray(bright).mean(dim=(2, 3), keepdim=True).floor()
    contrast = torch.lerp(mean, bright, factors[:, 1:2]).clamp(0, 255).floor()
    saturated = torch.lerp(gray(contrast), contrast, factors[:, 2:]).clamp(0, 255)
    return saturated.to(torch.uint8)


def gray(images: Tensor) -> Tensor:
    """Brightness of every pixel, rounded down: (B, C, H, W) → (B, 1, H, W) float."""
    if images.shape[1] == 1:
        return images.float()
    weights = torch.tensor(GRAY, device=images.device)[:, None, None]
    return (images * weights).sum(dim=1, keepdim=True).floor()


def normalize(images: Tensor, mean: tuple[float, ...], deviation: tuple[float, ...]) -> Tensor:
    """Compute (x / 255 − mean) / deviation of every channel: (B, C, H, W) uint8 → float32."""
    scale = 1 / (255 * torch.tensor(deviation, device=images.device)[:, None, None])
    shift = torch.tensor(mean, device=images.device)[:, None, None] * 255 * scale
    normal = torch.empty(images.shape, device=images.device)
    return normal.copy_(images).mul_(scale).sub_(shift)


def noise_bank(seed: int, image: int) -> Tensor:
    """Draw the standard normal noise that erasing takes its pixels from, several images' values.

    `image` is the number of values of one; the noise is float32 of one dimension.
    """
    return torch.randn(max(NOISE, 4 * image), generator=torch.Generator().manual_seed(seed))


def erase(images: Tensor, draws: Tensor, noise: Tensor, probability: float) -> Tensor:
    """Replace a random rectangle of some images by noise, in place (Zhong et al. 2020).

    As timm's RandomErasing in its mode `pixel`: an area of 2 to 33 %, an aspect log-uniform between
    0.3 and 1 / 0.3, the first of ten rectangles that fits; none where none fits.
    (B, C, H, W) float32 normalised, (B, ERASE_DRAWS), `noise_bank` → the same images.
    """
    chosen = (draws[:, 0] < probability).nonzero().squeeze(1)
    height, width = images.shape[-2:]
    # candidates: (chosen, ERASE_CANDIDATES)
    area, aspect, row, column = draws[chosen, 2:].view(len(chosen), ERASE_CANDIDATES, 4).unbind(2)
    area = (ERASE_AREA[0] + area * (ERASE_AREA[1] - ERASE_AREA[0])) * (height * width)
    low, high = map(math.log, ERASE_ASPECT)
    aspect = (low + aspect * (high - low)).exp()
    tall = (area * aspect).sqrt().round().long()
    wide = (area / aspect).sqrt().round().long()
    fits = (tall < height) & (wide < width)
    first = fits.int().argmax(dim=1, keepdim=True)  # the first that fits
    tall, wide, row, column = (each.gather(1, first) for each in (tall * fits, wide, row, column))
    top = (row * (height - tall + 1)).long()
    left = (column * (width - wide + 1)).long()
    down, across = (torch.arange(side, device=images.device) for side in (height, width))
    inside = ((down >= top) & (down < top + tall))[:, None, :, None]
    inside = inside & ((across >= left) & (across < left + wide))[:, None, None, :]
    size = images[0].numel()
    start = (draws[chosen, 1] * (len(noise) - size)).long()
    replacement = noise.unfold(0, size, 1)[start].view(-1, *images.shape[1:])
    images[chosen] = torch.where(inside, replacement, images[chosen])
    return images
